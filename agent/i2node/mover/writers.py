"""Who can write to an open file, and who opens it (native/src/writers.c)."""

from __future__ import annotations

import os
from typing import Final

from i2node.mover._mover import ffi, lib

OPEN: Final = 0x20
CLOSE_WRITE: Final = 0x08
ATTRIB: Final = 0x04
IGNORED: Final = 0x8000
OVERFLOW: Final = 0x4000
"""What an event of a guard says, see inotify(7)."""

MOST: Final = 256
"""Writers of one file that are kept apart."""


def appenders(dev: int, ino: int) -> list[tuple[int, int]] | None:
    """(process, descriptor) of all who have the file open for writing, when none of them can do
    more than append to it; None where somebody may, or that cannot be told. Looks through all
    processes: about a millisecond for a hundred of them with few files open."""
    found = ffi.new("int32_t[][2]", MOST)
    n = lib.i2_appenders(dev, ino, found, MOST)
    return None if n < 0 else [(pair[0], pair[1]) for pair in found[0:n]]


def is_appender(dev: int, ino: int, pid: int, fd: int) -> bool:
    """Whether this descriptor of a process still is of that file, and only appends."""
    return bool(lib.i2_is_appender(dev, ino, pid, fd))


def guards() -> int:
    """A descriptor for guards, the caller's, read by `events.drain`. Raises OSError."""
    return _told(lib.i2_guards())


def guard(notify: int, fd: int) -> int:
    """Has OPEN, CLOSE_WRITE and ATTRIB told of an open file, by whatever name it is reached. Gives
    the watch; raises OSError, EOPNOTSUPP where the file system does not show all who write."""
    return _told(lib.i2_guard(notify, fd))


def unguard(notify: int, wd: int) -> None:
    """Ends that; a watch that has ended is fine."""
    lib.i2_unguard(notify, wd)


def _told(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return int(result)
