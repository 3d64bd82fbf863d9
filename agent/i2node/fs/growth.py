"""Whether a file only grew: what was read of it is so still, and its tail alone is to be read.

The file system does not tell an append from a write in the middle. What tells them apart is who has
the file open: whoever has it open for writing with O_APPEND, and not for reading, can neither write
elsewhere nor map it (open(2), mmap(2)). So from one look to the next

- nobody may have closed the file after writing: he is not there any more to be looked at;
- nobody may have opened it, or all who have it open are looked for again (proc(5));
- those that were found must be there still, and still append.

Opening and closing are told by a watch on the inode itself, at once and whatever name it was
reached by. Not seen are a truncate(2) by name, for which the caller compares the last block; a loop
device; a descriptor registered with an io_uring or in flight in a socket; a flag taken away and set
again; RWF_NOAPPEND. Therefore all of a file is read from time to time, whatever is said here.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from i2node.errors import SessionError
from i2node.mover import events, writers

PATIENCE_S = 60.0
"""Who was found to write anywhere is looked for again so much later, unless he closed the file."""

_ROOM = 1 << 16


class Guards:
    """The watches of the files whose growth is followed; used by one thread. Where the kernel gives
    no watch, nothing is proven."""

    def __init__(self) -> None:
        self._notify = -1
        self._growths: dict[int, Growth] = {}

    def follow(self, fd: int) -> Growth | None:
        """Follows an open file from now on; fd stays the caller's, and open until `Growth.end`."""
        try:
            if self._notify < 0:
                self._notify = writers.guards()
            wd = writers.guard(self._notify, fd)
        except OSError:
            return None
        if wd in self._growths:
            return None
        self._growths[wd] = growth = Growth(self, wd, fd)
        return growth

    def listen(self) -> None:
        """Takes in what the kernel told since."""
        while self._notify >= 0 and (told := self._drain()):
            for event in told:
                if event.mask & writers.OVERFLOW:
                    for growth in self._growths.values():
                        growth.told(~0)
                elif event.where in self._growths:
                    self._growths[event.where].told(event.mask)

    def unfollow(self, wd: int) -> None:
        if self._growths.pop(wd, None) is not None:
            writers.unguard(self._notify, wd)

    def close(self) -> None:
        """Ends all."""
        self._growths.clear()
        if self._notify >= 0:
            os.close(self._notify)
            self._notify = -1

    def _drain(self) -> list[events.Event]:
        try:
            return events.drain(self._notify, _ROOM)
        except SessionError:
            for growth in self._growths.values():
                growth.told(~0)
            return []


class Growth:
    """One file that is followed, open as fd."""

    def __init__(self, guards: Guards, wd: int, fd: int) -> None:
        self._guards = guards
        self._wd = wd
        self._fd = fd
        st = os.fstat(fd)
        self._file = (st.st_dev, st.st_ino)
        self._holders: list[tuple[int, int]] = []
        self._opened = True
        self._closed = False
        self._sound = False
        self._hopeless = 0.0
        self._attributes = False

    def begin(self) -> None:
        """The file is about to be read as a whole: what `only` says is said from here on."""
        self._guards.listen()
        if self._closed:
            self._hopeless = 0.0
        self._closed = False
        self._sound = time.monotonic() >= self._hopeless and self._appended()

    def only(self) -> bool:
        """Whether all that was written since `begin` was written behind the end."""
        if self._sound:
            self._sound = self._appended() and bool(self._holders)
            self._guards.listen()
            self._sound = self._sound and not self._closed
        return self._sound

    def gone(self) -> bool:
        """Whether the file has no name any more; costs nothing until something is told."""
        told, self._attributes = self._attributes, False
        return told and os.fstat(self._fd).st_nlink == 0

    def end(self) -> None:
        """No longer follows it."""
        with suppress(OSError):
            self._guards.unfollow(self._wd)

    def told(self, mask: int) -> None:
        self._opened |= bool(mask & writers.OPEN)
        self._closed |= bool(mask & (writers.CLOSE_WRITE | writers.IGNORED))
        self._attributes |= bool(mask & writers.ATTRIB)

    def _appended(self) -> bool:
        """Whether all who have the file open for writing can only append."""
        self._guards.listen()
        if self._opened or not all(writers.is_appender(*self._file, *h) for h in self._holders):
            self._opened = False
            found = writers.appenders(*self._file)
            self._holders = found or []
            if found is None:
                self._opened = True
                self._hopeless = time.monotonic() + PATIENCE_S
                return False
        return True
