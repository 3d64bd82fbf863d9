"""Dirty names beyond what memory is to hold: when they are spilled, and how they come back.

Names are spilled while memory is full, and as long as some are: new ones line up behind them. They
come back as memory empties, the directory that waits longest first. A directory that is dirty as a
whole stays in memory: there are few.
"""

from __future__ import annotations

from typing import Protocol

from i2node.fs.touch import TOUCHES, Room, Waiting, Work

IN_MEMORY = 50_000
"""Names that memory holds where more can be spilled: 5 MB with names of usual length, 17 MB with
the longest."""

_DIR_WEIGHT = 7  # a directory takes as much memory as so many names: 730 bytes and 100, measured


class Spill(Protocol):
    """Keeps the touches that memory is not to hold. Methods may be called from any thread; only
    `take`, `find` and `pause` wait for a disk."""

    def add(self, ino: int, name: bytes, touch: int, since: float) -> bool:
        """Keeps a touch, with those of the name that are kept already. False: it cannot."""

    def discard(self, ino: int) -> None:
        """Drops all that is kept of a directory."""

    def take(self, names: int, most: int) -> list[Work]:
        """Hands back about so many names, whole directories' shares, the oldest first, and none
        twice; a directory with more than most names as a whole. They count until `taken`."""

    def taken(self) -> None:
        """What `take` handed back is counted elsewhere from now on."""

    def find(self, ino: int, name: bytes) -> tuple[int, float] | None:
        """The touch that is kept of a name, and since when; None: none is, or the disk fails."""

    def pause(self) -> None:
        """Waits, for a moment at most, where the disk does not keep up."""

    def count(self) -> int:
        """Names kept; 0 only when there are none. More than there are when some were touched or
        dropped a moment ago: that shows when they are next taken."""

    def oldest(self) -> float | None:
        """Clock reading of the earliest touch kept."""


class Spilled:
    """What of one dirty set was spilled. It relies on the lock of that; `fetch`, `find` and
    `pause`, which wait for a disk, are called without it.

    in_memory: names beyond which memory is full, once there is a place to spill to.
    """

    def __init__(self, in_memory: int) -> None:
        self.place: Spill | None = None
        self.some = False
        """Whether something was spilled, and may be there still."""
        self._in_memory = in_memory
        self._dropped: set[int] | None = None  # discarded while names come back

    def full(self, names: int, dirs: int) -> bool:
        """Whether so many names of so many directories are all that memory is to hold."""
        return names + _DIR_WEIGHT * dirs >= self._in_memory

    def roomy(self, names: int, dirs: int) -> bool:
        """Whether beside them there is room for what was spilled."""
        return not self.full(2 * names, 2 * dirs)

    def add(self, ino: int, name: bytes, touch: int, now: float, full: bool) -> bool:
        """A touch of a name that memory does not know. False: it is for memory, or for no place."""
        if not (full or self.some) or self.place is None:
            return False
        if not self.place.add(ino, name, touch, now):
            return False
        self.some = True
        return True

    def discard(self, ino: int) -> None:
        """The directory is gone, and all that was spilled of it."""
        if self.place is not None:
            self.place.discard(ino)
            self.some = self.place.count() > 0
            if self._dropped is not None:
                self._dropped.add(ino)

    def begin(self) -> None:
        """From now on it is remembered what goes while `fetch` is under way."""
        self._dropped = set()

    def fetch(self, names: int, most: int) -> list[Work]:
        """See `Spill.take`."""
        return self.place.take(names, most) if self.place is not None else []

    def end(self, works: list[Work]) -> list[Work]:
        """What `fetch` gave, without what went meanwhile; from now on it is counted by the dirty
        set."""
        dropped, self._dropped = self._dropped or set(), None
        if self.place is not None:
            self.place.taken()
            self.some = self.place.count() > 0
        return [work for work in works if work.ino not in dropped]

    def find(self, ino: int, name: bytes) -> Waiting | None:
        """How a name waits there. Not under the lock."""
        found = self.place.find(ino, name) if self.place is not None else None
        return None if found is None else Waiting(Room.DISK, TOUCHES[found[0]], found[1])

    def pause(self) -> None:
        """See `Spill`."""
        if self.place is not None:
            self.place.pause()

    def count(self) -> int:
        """See `Spill`."""
        return self.place.count() if self.some and self.place is not None else 0

    def oldest(self) -> float | None:
        """See `Spill`."""
        return self.place.oldest() if self.some and self.place is not None else None
