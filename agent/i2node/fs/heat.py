"""How soon a name is looked at again: its interval, the wait for its close, the pause behind a look
that took long."""

from __future__ import annotations

from itertools import islice

from i2node.fs.touch import WAITS, Touch

SHORTEST = 0.020
LONGEST = 0.640
OFTEN = 0.250
"""What stays open and is handed out again so soon is held back longer: many small steps cost more
than they bring, be there a little time between them."""
CLOSING = 0.010
"""How long a name that is being written waits for its close: a small file is closed by then, and is
not sent half written and then once more."""
PAUSE_TIMES = 20
PAUSE_LONGEST = 60.0
"""The pause behind a look that took long: as long as the look at first, then twice as long each
time, at most as many times as long as the look, and so many seconds. So a file that has to be read
as a whole whenever it is written to costs a twentieth of that in the end, and one that is only
copied to its place comes no later than a look takes."""

_FORGET = 4 * LONGEST  # after so long a silence even the longest interval has decayed to nothing
_TRACKED = 65_536  # names whose interval is remembered
_PAUSED = 1024  # names whose pause is

_DATA, _UNTOLD = Touch.DATA.value, Touch.UNTOLD.value
_WRITING, _CLOSED = Touch.WRITING.value, Touch.CLOSED.value

Key = tuple[int, bytes | None]
"""Directory and name; None: the directory as a whole."""


class Heat:
    """Of the names of one dirty set, whose lock it relies on. now: reading of a monotonic clock, in
    seconds."""

    def __init__(self) -> None:
        # (taken, interval, whether it was open for writing then), ordered by time taken
        self._taken: dict[Key, tuple[float, float, bool]] = {}
        self._paused: dict[Key, tuple[float, float]] = {}  # (ended, pause)
        self._hurried = False

    def hurry(self) -> None:
        """From now on nothing is held back for what it costs."""
        self._hurried = True

    def due(self, key: Key, now: float, touch: int = 0) -> float:
        """When a name that was touched so is to be handed out."""
        taken, interval, writing = self._taken.get(key, (now, 0.0, False))
        paused = self.paused(key, touch)
        if touch & _CLOSED:
            return max(now if writing else taken + interval, paused)
        return max(taken + interval, paused, now + CLOSING if touch & _WRITING else now)

    def paused(self, key: Key, touch: int) -> float:
        """Till when what a look cost is paid for; 0 when it is, or need not be. A pause is kept of
        what is only written to: what came or went under its name may be another file."""
        if touch & ~(WAITS | _UNTOLD) != _DATA or self._hurried:
            return 0.0
        ended, pause = self._paused.get(key, (0.0, 0.0))
        return ended + pause

    def cost(self, key: Key, seconds: float, now: float) -> None:
        """A look at a name that was handed out took so long, and is over now."""
        taken, *_ = self._taken.get(key, (now - seconds,))
        ended, before = self._paused.pop(key, (0.0, 0.0))
        if taken - ended > 2 * before:
            before = 0.0  # it was left alone meanwhile
        pause = min(max(2 * before, seconds), PAUSE_TIMES * seconds, PAUSE_LONGEST)
        self._paused[key] = (now, pause)
        if len(self._paused) > _PAUSED:
            del self._paused[next(iter(self._paused))]

    def handed(self, key: Key, now: float, touch: int = 0) -> None:
        """A name is handed out now."""
        taken, interval, writing = self._taken.pop(key, (0.0, 0.0, False))
        if writing and touch & _CLOSED:
            # What was handed out half written is handed out once more, whole: one step of two.
            pass
        elif interval:
            quiet = now - taken
            if quiet <= max(2 * interval, OFTEN if touch & WAITS == _WRITING else 0.0):
                interval = min(2 * interval, LONGEST)
            else:
                while interval > SHORTEST and quiet > 2 * interval:
                    quiet -= 2 * interval
                    interval /= 2
        self._taken[key] = (now, max(interval, SHORTEST), touch & WAITS == _WRITING)

    def cool(self, now: float) -> None:
        """Forgets what was quiet for long."""
        drop = 0
        surplus = len(self._taken) - _TRACKED
        for taken, *_ in self._taken.values():
            if drop >= surplus and now - taken < _FORGET:
                break
            drop += 1
        for key in list(islice(self._taken, drop)):
            del self._taken[key]
