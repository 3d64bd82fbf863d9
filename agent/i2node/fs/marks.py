"""Marks in the stream of what becomes dirty: what was added before one has passed, or has not."""

from __future__ import annotations

from collections import deque

MARKS = 256
"""Marks that wait; beyond it the oldest is forgotten, since a later one says more."""


class Marks:
    """Of one dirty set, whose lock it relies on. Times are readings of one monotonic clock."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, float]] = deque(maxlen=MARKS)  # (placed, stamp)

    def __bool__(self) -> bool:
        """Whether any waits."""
        return bool(self._waiting)

    def place(self, stamp: float, now: float) -> None:
        """A mark with a stamp stands behind all that was added until now."""
        self._waiting.append((now, stamp))

    def passed(self, earliest: float) -> float | None:
        """The latest stamp of those placed before the earliest change that is left, which wait no
        longer; None when there is none."""
        stamp = None
        while self._waiting and self._waiting[0][0] < earliest:
            _, stamp = self._waiting.popleft()
        return stamp

    def clear(self) -> None:
        self._waiting.clear()
