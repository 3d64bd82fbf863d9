"""How far the target is behind, measured by what comes back from it.

A beat goes the way of a change: the watch stamps it and puts a mark behind all that the kernel has
told (`Watch.beat`); the mark waits until everything before it was handed out, read and is in frames
(`Dirty.passed`); the last of these frames carries it, or an empty one where there is none; the
target answers that it is durable. So the stamp of the newest beat that came back is a moment up to
which every change told by the kernel is durable there, save those of paths that are in trouble.

Beats are asked for often while something happens, and now and then while nothing does. One that
does not come back shows: its age is lag.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

BUSY_S = 0.1
"""From one beat to the next while there is something to do, and behind it."""
IDLE_S = 5.0
"""The same while nothing changes."""
LATE_S = 2.0
"""A beat that took longer did not come back, as far as `sound` goes."""
UNANSWERED = 256
"""Beats under way that are kept; while there are as many, more are asked for as seldom as when
nothing changes. Some are never answered: those of a time when events were lost."""


class Heartbeat:
    """Of one rule. Clock readings are those of time.monotonic, in seconds. Called by the thread
    that plans, `durable` by the one that hears the target, `lag` and the like by any."""

    def __init__(self) -> None:
        self.durable_as_of: float | None = None
        """Seconds since 1970; None before the first beat came back."""
        self._lock = threading.Lock()
        self._stamp: float | None = None  # the same on our clock
        self._trip = 0.0
        self._sound = False
        self._asked: deque[float] = deque()  # those not back yet
        self._flying: deque[tuple[int, float]] = deque()  # (frame, stamp)
        self._durable = -1  # the last frame that is
        self._next = 0.0

    def begin(self) -> None:
        """An attempt replicates."""
        with self._lock:
            self._next, self._durable = 0.0, -1

    def end(self) -> None:
        """It does so no more; what was under way is not to come back."""
        with self._lock:
            self._asked.clear()
            self._flying.clear()
            self._sound = False

    def forget(self) -> None:
        """The target does not hold what it was known to hold."""
        with self._lock:
            self._stamp = self.durable_as_of = None

    def busy(self, now: float) -> None:
        """Something was to do: the next beat comes soon."""
        with self._lock:
            if len(self._asked) < UNANSWERED:
                self._next = min(self._next, now + BUSY_S)

    def hasten(self) -> None:
        """The next beat is due now."""
        with self._lock:
            self._next = 0.0

    def due(self, now: float) -> bool:
        """Whether a beat is to be asked for now; then it counts as such."""
        with self._lock:
            if now < self._next:
                return False
            if len(self._asked) == UNANSWERED:
                self._asked.pop()  # this one tells of it too
            self._asked.append(now)
            self._next = now + IDLE_S
            return True

    def wait(self, now: float) -> float:
        """Seconds until one is, or until one that is under way is late."""
        with self._lock:
            late = self._asked[0] + LATE_S if self._asked else math.inf
            return max(0.0, min(self._next, late if late > now else math.inf) - now)

    def carried(self, stamp: float, frame: int, now: float) -> None:
        """A stamp is back when this frame is durable, which it may be by now."""
        with self._lock:
            self._flying.append((frame, stamp))
            self._back(now)

    def durable(self, frame: int, now: float) -> None:
        """The target has all frames up to this one durable."""
        with self._lock:
            self._durable = max(self._durable, frame)
            self._back(now)

    def _back(self, now: float) -> None:
        """Takes note of the stamps that are."""
        stamp = None
        while self._flying and self._flying[0][0] <= self._durable:
            _, stamp = self._flying.popleft()
        if stamp is None:
            return
        self._stamp, self._trip, self._sound = stamp, now - stamp, True
        self.durable_as_of = time.time() - self._trip
        while self._asked and self._asked[0] <= stamp:
            self._asked.popleft()

    def late(self, now: float) -> bool:
        """Whether one is not back that should be."""
        with self._lock:
            return bool(self._asked) and now - self._asked[0] >= LATE_S

    def sound(self, now: float) -> bool:
        """Whether beats come back: one did, and none is late."""
        return self._sound and not self.late(now)

    def reached(self, moment: float) -> bool:
        """Whether all that the kernel told of until then is durable, by a beat of this attempt."""
        with self._lock:
            return self._sound and self._stamp is not None and self._stamp >= moment

    def lag(self, now: float, waiting: float | None) -> float | None:
        """How far the target is behind, in seconds: what the last beat took, or longer where a
        change or a beat is under way for longer. waiting: the age of the oldest change known to be.
        Until one came back in this attempt it is the time since the newest stamp. None: nothing was
        measured, and nothing is under way."""
        with self._lock:
            if self._stamp is None:
                return waiting
            if not self._sound:
                return now - self._stamp
            asked = now - self._asked[0] if self._asked else 0.0
            return max(self._trip, asked, waiting or 0.0)
