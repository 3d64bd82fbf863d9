"""The directories that could not be watched: each is looked at in its turn, round after round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

AT_ONCE = 4096
"""So many wait to be looked at; beyond, the round waits too."""
ASKED_S = 0.1  # at most so often it is asked how many do


class Unwatched:
    """every: seconds in which a round is made, and from one to the next. Clock readings are in
    seconds. Not locked: its owner does that."""

    def __init__(self, every: float, now: float) -> None:
        self._every = every
        self._began = now
        self._left: list[int] = []  # of this round, still to come
        self._count = 0  # how many there were; 0 when all were looked at
        self._waiting: set[int] = set()
        self._asked = -math.inf
        self._took = 0.0  # the last round

    def period(self, now: float) -> float:
        """Seconds that a round takes, with the pause before it."""
        return max(self._every, self._took, now - self._began if self._count else 0.0)

    def patience(self) -> float | None:
        """Seconds until `due` has something to do; None: there is no round under way."""
        if self._waiting and self._left:
            return ASKED_S
        return 0.5 if self._count else None

    def due(
        self,
        now: float,
        every_one: Callable[[], list[int]],
        still: Callable[[set[int]], set[int]],
    ) -> Iterator[int]:
        """Those whose turn has come; spread over the round, and no faster than they are looked at,
        so that what is told of others does not wait behind all of them. every_one: the directories
        that are not watched now. still: those of these that are not looked at yet."""
        elapsed = now - self._began
        if self._waiting and now >= self._asked + ASKED_S:
            self._waiting, self._asked = still(self._waiting), now
        if self._count and not self._left and not self._waiting:
            self._count, self._took = 0, elapsed
        if not self._count and elapsed >= self._every:
            self._left = every_one()
            self._count, self._began = len(self._left), now
            elapsed = 0.0
        part = elapsed / self._every if elapsed < self._every else 1.0
        left = self._count - int(self._count * part)
        while len(self._left) > left and len(self._waiting) < AT_ONCE:
            yield self._left.pop()

    def waits(self, ino: int) -> None:
        """One of them is to be looked at."""
        self._waiting.add(ino)
