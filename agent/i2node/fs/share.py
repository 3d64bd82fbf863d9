"""One directory's share of what is dirty: some of its names, ready or held back, or all of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from i2node.fs.touch import TOUCHES, Room, Touch, Waiting

_TREE = Touch.TREE.value


class Share:
    """Times are readings of one monotonic clock, in seconds."""

    __slots__ = ("held", "ready", "recursive", "since", "trees", "whole")

    def __init__(self) -> None:
        self.ready: dict[bytes, tuple[int, float]] = {}
        """name → touch, since."""
        self.held: dict[bytes, tuple[int, float, float]] = {}
        """name → touch, since, due."""
        self.whole = False
        self.recursive = False
        self.trees: set[bytes] = set()
        self.since = 0.0
        """The earliest of what is ready, or of the whole."""

    def __len__(self) -> int:
        """Names, a whole directory having none."""
        return len(self.ready) + len(self.held)

    def __contains__(self, name: bytes) -> bool:
        return name in self.ready or name in self.held

    def told(self, name: bytes) -> tuple[int, float]:
        """Of a name: touch, since; 0 and inf where it is not here."""
        touch, since, *_ = self.ready.get(name) or self.held.get(name) or (0, math.inf)
        return touch, since

    def waiting(self, name: bytes) -> Waiting | None:
        """How a name waits, by itself or with the whole."""
        if self.whole:
            touch, due = Touch(0), None
            return Waiting(Room.MEMORY, touch, self.since, due, True, self.recursive)
        if name in self.ready:
            number, since = self.ready[name]
            return Waiting(Room.MEMORY, TOUCHES[number], since)
        if name in self.held:
            number, since, due = self.held[name]
            return Waiting(Room.MEMORY, TOUCHES[number], since, due)
        return None

    def put(self, name: bytes, told: tuple[int, float]) -> None:
        """A name is ready; told: touch, since."""
        self.since = min(self.since, told[1]) if self.ready else told[1]
        self.ready[name] = told

    def pull(self, name: bytes) -> tuple[int, float]:
        """Takes a name out: touch, since."""
        if name in self.ready:
            return self.ready.pop(name)
        touch, since, _ = self.held.pop(name)
        return touch, since

    def is_due(self, name: bytes, due: float) -> bool:
        """Whether a name is held, and until then."""
        return name in self.held and self.held[name][2] == due

    def earliest(self) -> float:
        """Since when something is dirty; inf where nothing is."""
        held = min((since for _, since, _ in self.held.values()), default=math.inf)
        return min(held, self.since) if self.whole or self.ready else held

    def make_whole(self, now: float, most: int) -> None:
        """From now on it is dirty as a whole; most: see `add_trees`."""
        self.since = min(now, self.earliest())
        self.whole = True
        names = (*self.ready, *self.held)
        self.add_trees((name for name in names if self.told(name)[0] & _TREE), most)
        self.ready.clear()
        self.held.clear()

    def add_trees(self, names: Iterable[bytes], most: int) -> None:
        """Under these names directories appeared; where they are more than most, all below is to
        be looked at."""
        if self.recursive:
            return  # all directories below are armed anyway
        self.trees.update(names)
        if len(self.trees) > most:
            self.trees.clear()
            self.recursive = True
