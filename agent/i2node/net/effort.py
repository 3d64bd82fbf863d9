"""How hard to compress: as hard as the line leaves time for. Pure; the clock is the caller's."""

from __future__ import annotations

from typing import Final

LADDER: Final = (0, 1, 3, 6)
"""zstd levels; 0 compresses nothing. Beyond 6 a core gives less than a slow line takes."""
_START: Final = 1
_HOLD_S: Final = 0.25
_HOLD_MAX_S: Final = 8.0
_BOUND: Final = 0.5
_FREE: Final = 0.1


class Effort:
    """The level for the next frames of one stream, learned from where their sender's time goes.

    While frames wait for the line, a harder level costs nothing and shortens the wait; while the
    line waits for frames, every cycle spent on them is missing elsewhere. A step that is taken
    back at once is not tried again so soon.
    """

    def __init__(self) -> None:
        self._at = _START
        self._last = 0
        self._hold = _HOLD_S
        self._line = self._all = 0.0

    @property
    def level(self) -> int:
        return LADDER[self._at]

    def spent(self, line: float, other: float) -> None:
        """Seconds in which a frame waited for the line, and in which the sender waited for anything
        else: frames, or a target that is behind."""
        self._line += line
        self._all += line + other
        if self._all < self._hold:
            return
        share = self._line / self._all
        step = 1 if share > _BOUND else -1 if share < _FREE else 0
        self._line = self._all = 0.0
        to = min(max(self._at + step, 0), len(LADDER) - 1)
        if to == self._at:
            return
        self._hold = min(self._hold * 2, _HOLD_MAX_S) if step == -self._last else _HOLD_S
        self._at, self._last = to, step
