"""The length of the kernel's queues of events, which is the same for all watches that are made at a
time: one process plays with it while no other makes a watch."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOMY = 1 << 20
_ALL = [Path(f"/proc/sys/fs/{e}/max_queued_events") for e in ("inotify", "fanotify")]
_FILES = [file for file in _ALL if file.exists()]
_LOCK = Path(tempfile.gettempdir()) / "i2node-test-queues.lock"
_ours = False


@contextmanager
def short_queue(events: int) -> Iterator[None]:
    """Watches that are made meanwhile have a short queue."""
    global _ours
    with _LOCK.open("w") as lock, ExitStack() as undo:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ours = True
        for file in _FILES:
            undo.callback(file.write_text, file.read_text())
            file.write_text(str(events))
        try:
            yield
        finally:
            _ours = False


@contextmanager
def usual_queue() -> Iterator[None]:
    """Watches that are made meanwhile have one that does not run over by what other tests do on the
    same file system, unless this process wants a short one."""
    if _ours or not all(os.access(file, os.W_OK) for file in _FILES):
        yield
        return
    with short_queue(ROOMY):
        yield
