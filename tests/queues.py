"""The length of the kernel's queues of events, which is the same for all watches that are made at a
time: one process plays with it while no other makes a watch."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

FILES = [Path(f"/proc/sys/fs/{e}/max_queued_events") for e in ("inotify", "fanotify")]
_LOCK = Path(tempfile.gettempdir()) / "i2node-test-queues.lock"
_ours = False


@contextmanager
def short_queue(events: int) -> Iterator[None]:
    """Watches that are made meanwhile have a short queue."""
    global _ours
    with _LOCK.open("w") as lock, ExitStack() as undo:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ours = True
        for file in FILES:
            undo.callback(file.write_text, file.read_text())
            file.write_text(str(events))
        try:
            yield
        finally:
            _ours = False


@contextmanager
def usual_queue() -> Iterator[None]:
    """Watches that are made meanwhile have a short queue only where this process wants it."""
    with _LOCK.open("w") as lock:
        if not _ours:
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
