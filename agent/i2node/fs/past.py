"""Reading a large file past the page cache.

A file that is read once to be mirrored pushes out of memory what the server works with, and to copy
it through fresh pages of the cache costs more than all else that is done to it. So what is not
there is read around the cache (O_DIRECT, open(2)), and only what is there is taken from it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress

from i2node.mover import extents

ALIGNED = 4096
"""What every file system with O_DIRECT takes for offset, length and memory."""
SHORTEST = 4 << 20
"""Bytes of a file above which it pays to read ahead, and around the cache; shorter ones the kernel
reads ahead faster."""
UNABLE = (errno.EINVAL, errno.EOPNOTSUPP)


class Rooms:
    """Memory to read into, used in turn: what was read is good until `count` more reads. Mapped, so
    that it is aligned, and shared, so that no fork takes a page away from under a read."""

    def __init__(self, count: int) -> None:
        self._rooms = [mmap.mmap(-1, ALIGNED) for _ in range(count)]
        self._next = 0

    def take(self, size: int) -> memoryview:
        """At least size bytes, and whole pages."""
        at, self._next = self._next, (self._next + 1) % len(self._rooms)
        if len(self._rooms[at]) < size:
            self._rooms[at] = mmap.mmap(-1, -(-size // ALIGNED) * ALIGNED)
        return memoryview(self._rooms[at])

    def trim(self, size: int) -> None:
        """Gives back what is larger than size."""
        self._rooms = [mmap.mmap(-1, ALIGNED) if len(r) > size else r for r in self._rooms]


class PastCache:
    """An open file of `size` bytes, read by one thread at multiples of ALIGNED. A context; the
    descriptor is left as it was found, and may be read by others meanwhile."""

    def __init__(self, fd: int, size: int, rooms: Rooms) -> None:
        self._fd = fd
        self._size = size
        self._rooms = rooms
        self._direct = -1

    def __enter__(self) -> PastCache:
        if self._size > SHORTEST:
            silent = fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_NOATIME
            # Of a description of its own: the flag would hold for all who read by the other.
            with suppress(OSError):
                self._direct = os.open(
                    f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_DIRECT | silent
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._direct >= 0:
            os.close(self._direct)

    def read(self, at: int, span: int) -> memoryview:
        """span bytes, as long as their room is not used again; zeros where the file has meanwhile
        become shorter. Raises OSError."""
        room = self._rooms.take(span)
        got = self._around(room, at, span)
        while got < span and (n := os.preadv(self._fd, [room[got:span]], at + got)):
            got += n
        if got < span:
            room[got:span] = bytes(span - got)
        return room[:span]

    def _around(self, room: memoryview, at: int, span: int) -> int:
        """What is read around the cache; less where the file ends, nothing where that is not to
        be."""
        if self._direct < 0 or not self._is_cold(at, span):
            return 0
        try:
            return os.preadv(self._direct, [room[: -(-span // ALIGNED) * ALIGNED]], at)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
            return 0

    def _is_cold(self, at: int, span: int) -> bool:
        """Whether most of it is not in the cache: all would not do, where the kernel has read ahead
        behind what was there."""
        try:
            return extents.cached(self._fd, at, span) < span // 2
        except OSError:
            return False
