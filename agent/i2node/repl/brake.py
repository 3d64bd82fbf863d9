"""How much a rule may lose at its target: arithmetic on a window of time, without clock or disk.

The *level* rises by one with each name that comes, and falls by one with each that goes and with
each file that is cut to less than half. What counts is how far it has fallen below its peak within
the window: churn that creates and deletes alike never gets anywhere, the loss of everything does,
however soon after the mirror. Whoever makes as many names as it takes away is not held.

    runs → stands (held back: the window stands still, since time decides nothing) → runs
                 ↓ release
             released (all passes, until the burst is over; then the window begins anew)

A clock reading is seconds of any clock that goes on while the node sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from i2node.config import Limits

GRAIN = 64
"""Into so many parts a window is divided: earlier levels are forgotten that much late at most."""
OVER_S = 30.0
"""A released burst is over when the source has nothing more to send, and the level reached no new
low for this long: a source that takes very much away does so in many rounds, one that just works
takes something away for ever."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Until a clock reading the level was up to this, when so many entries were held."""

    until: float
    level: int
    entries: int


@dataclass(frozen=True, slots=True)
class Brake:
    """One rule's, at one moment. entries: names it holds. level: see above; only differences of it
    mean anything. marks: earlier levels, higher than all that came later, oldest first. stands:
    clock reading at which something was held back, None: nothing is. low: the lowest level of a
    burst that is released, lost_at: when that was reached."""

    entries: int
    level: int
    marks: tuple[Mark, ...] = ()
    stands: float | None = None
    released: bool = False
    low: int = 0
    lost_at: float = 0.0

    def after(self, gained: int, lost: int, shrunk: int, now: float, limits: Limits) -> Brake:
        """What it is when so much was done. What came and went in one call counts as nothing."""
        level = self.level + gained - lost - shrunk
        then, grain = self._clock(now), limits.window_s / GRAIN
        marks = [m for m in self._within(then, limits) if m.level > level]
        if level < self.level and grain:
            if marks and marks[-1].until // grain == then // grain:
                marks[-1] = replace(marks[-1], until=then)
            else:
                marks.append(Mark(then, self.level, self.entries))
        return replace(
            self,
            entries=max(0, self.entries + gained - lost),
            level=level,
            marks=tuple(marks),
            low=min(self.low, level),
            lost_at=now if level < self.low else self.lost_at,
        )

    def peak(self, now: float, limits: Limits) -> Mark:
        """The highest level of the window."""
        marks = self._within(self._clock(now), limits)
        return marks[0] if marks else Mark(now, self.level, self.entries)

    def allowed(self, now: float, limits: Limits) -> int:
        """How far the level may fall below the peak."""
        return max(limits.floor, int(self.peak(now, limits).entries * limits.share / 100))

    def fallen(self, now: float, limits: Limits) -> int:
        """How far it has."""
        return self.peak(now, limits).level - self.level

    def spare(self, now: float, limits: Limits) -> int | None:
        """How much more may be lost now; None: anything."""
        if self.released or not limits.window_s:
            return None
        return max(0, self.allowed(now, limits) - self.fallen(now, limits))

    def stand(self, now: float) -> Brake:
        """Something is held back."""
        return self if self.stands is not None else replace(self, stands=now)

    def run(self, now: float) -> Brake:
        """Nothing is held back any more: the window moves on from where it stood."""
        if self.stands is None:
            return self
        stood = now - self.stands
        marks = tuple(replace(m, until=m.until + stood) for m in self.marks)
        return replace(self, stands=None, marks=marks)

    def release(self, now: float) -> Brake:
        """What is held back may pass, and all that belongs to it."""
        return replace(self, stands=None, released=True, low=self.level, lost_at=now)

    def quiet(self, now: float, ended: bool = False) -> Brake:
        """The source has nothing more to send for now; ended: it has said goodbye."""
        if self.released and (ended or now - self.lost_at >= OVER_S):
            return Brake(self.entries, self.entries)
        return self.run(now)

    def later(self, by: float) -> Brake:
        """The same on a clock that reads so much more."""
        return replace(
            self,
            marks=tuple(replace(m, until=m.until + by) for m in self.marks),
            stands=None if self.stands is None else self.stands + by,
            lost_at=self.lost_at + by,
        )

    def _clock(self, now: float) -> float:
        return now if self.stands is None else self.stands

    def _within(self, now: float, limits: Limits) -> list[Mark]:
        return [m for m in self.marks if m.until > now - limits.window_s and m.level > self.level]
