"""Where a live benchmark takes place: one directory, one run at a time, and nothing left of a run
that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from arena import Arena, arena
from hosts import must, until

_SPACE = re.compile(r"i2t(\d+)n\d+[st]")
_OWNER = "owner"


@contextlib.contextmanager
def ground(area: Path) -> Iterator[Arena]:
    """The two hosts in an empty directory, which is gone afterwards. SystemExit when another run
    is in it, or when it holds what is not of such a run."""
    area.mkdir(parents=True, exist_ok=True)
    owner = area / _OWNER
    if not owner.exists() and any(area.iterdir()):
        raise SystemExit(f"{area} is not empty, and not of a benchmark")
    with owner.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another run is in {area}; name another --area") from None
        held.seek(0)
        if pid := held.read().strip():
            _clear(area, int(pid))
        held.truncate(0)
        print(os.getpid(), file=held, flush=True)
        try:
            with arena(area / "ring") as ring:
                yield ring
        finally:
            _clear(area, os.getpid())
            shutil.rmtree(area)


def _clear(area: Path, pid: int) -> None:
    """Ends what a run started, and takes apart what it made: its programs are those in its two
    networks, its mounts those in its directory."""
    spaces = [s.name for s in Path("/run/netns").glob("i2t*") if _of(s.name, pid)]
    for space in spaces:
        until(f"{space} to be empty", partial(_emptied, space))
        subprocess.run(["ip", "-n", space, "link", "del", "eth0"], capture_output=True, check=False)
        must("ip", "netns", "del", space)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{area}/")), reverse=True):
        must("umount", "--lazy", mount)
    for image in area.glob("ring/*.img"):
        for line in must("losetup", "--associated", image).splitlines():
            must("losetup", "--detach", line.partition(":")[0])
    for path in area.iterdir():
        if path.name != _OWNER:
            shutil.rmtree(path)


def _emptied(space: str) -> bool:
    """Whether nobody is in a network any more; whoever is, is ended."""
    running = must("ip", "netns", "pids", space).split()
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not running


def _of(space: str, pid: int) -> bool:
    match = _SPACE.fullmatch(space)
    return match is not None and int(match[1]) == pid
