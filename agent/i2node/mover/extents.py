"""Where two clones of a file differ, by what they are made of (native/src/extents.c), and what of
a file is in memory."""

from __future__ import annotations

import os

from i2node.mover._mover import ffi, lib

_RANGES = 4096

_room = ffi.new_allocator(should_clear_after_alloc=False)


def changed(old: int, now: int, size: int) -> list[tuple[int, int]]:
    """The ranges of bytes (from, to) up to `size` in which two open files, which nobody writes to,
    may differ, in order. Raises OSError where the file system does not tell."""
    ranges = _room("uint64_t[][2]", _RANGES)
    at = ffi.new("uint64_t *")
    found: list[tuple[int, int]] = []
    while at[0] < size:
        n = lib.i2_changed(old, now, size, ranges, _RANGES, at)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        found += ((one[0], one[1]) for one in ranges[0:n])
    return found


def cached(fd: int, at: int, span: int) -> int:
    """How many of these bytes of a file are in the page cache, in whole pages. Raises OSError where
    nobody tells."""
    found = int(lib.i2_cached(fd, at, span))
    if found < 0:
        raise OSError(-found, os.strerror(-found))
    return found
