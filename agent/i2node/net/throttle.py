"""How fast we may send: rate plans and a token bucket. Pure: the clock is handed in.

    plan  = "" | "-1" | rate | item *("," item)     "" and "-1": unlimited
    item  = days "*" HH:MM "-" HH:MM "*" rate       days: 1..6 Monday..Saturday, 0 or 7 Sunday
    rate  = number [k|m|g]                          20m is 20 Mbit/s (10^6), 0 is stop

Inside several windows the smallest rate holds, outside all of them there is no limit. A window
whose end is not after its start runs on into the next day. Times are wall-clock times of the node;
on the day the clocks change a window is as long as the clock on the wall says.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from i2node.errors import UsageError

GRAMMAR: Final = "e.g. 20m, or 12345*08:00-18:00*2m,67*00:00-24:00*0; empty for unlimited"
_WINDOWS_GRAMMAR: Final = "e.g. 12345*08:00-18:00,67*00:00-24:00"
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE: Final = re.compile(r"([0-9]{1,15})([kmgKMG]?)")
_SPAN: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_SLOWEST: Final = 1000
_MOST_WINDOWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Window:
    """A recurring span of time. `days` as datetime.weekday() counts, minutes since midnight.

    `end` counts from the midnight before `start` and may be past the day. `rate` in bit/s.
    """

    days: frozenset[int]
    start: int
    end: int
    rate: int

    def covers(self, minute: int) -> bool:
        """Whether a minute of the week (0 is Monday 00:00) lies inside."""
        return any(
            (minute - day * _DAY - self.start) % _WEEK < self.end - self.start for day in self.days
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What rate holds when. `always` is a limit beside the windows, bit/s, None for none."""

    windows: tuple[Window, ...] = ()
    always: int | None = None

    def rate_at(self, when: datetime) -> int | None:
        """Bit/s at a local time; None is unlimited, 0 is stop."""
        if not self.windows:
            return self.always
        minute = when.weekday() * _DAY + when.hour * 60 + when.minute
        rates = [w.rate for w in self.windows if w.covers(minute)]
        if self.always is not None:
            rates.append(self.always)
        return min(rates, default=None)

    def next_change(self, after: datetime) -> datetime | None:
        """The first moment behind `after` from which another rate holds; None: it never changes."""
        monday = after.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(
            days=after.weekday()
        )
        edges = {
            (day * _DAY + edge) % _WEEK
            for w in self.windows
            for day in w.days
            for edge in (w.start, w.end)
        }
        now = self.rate_at(after)
        moments = sorted(
            moment
            for edge in edges
            for week in (0, 1)
            if (moment := monday + timedelta(minutes=edge + week * _WEEK)) > after
        )
        return next((m for m in moments if self.rate_at(m) != now), None)


def parse_plan(text: str) -> Plan:
    """Reads a rate plan (the API's `band_width`, or a plain rate). UsageError shows the item."""
    text = text.strip()
    if text in ("", "-1"):
        return Plan()
    if "*" not in text and "," not in text:
        return Plan(always=_rate(text, text, GRAMMAR))
    return Plan(_items(text, 3, GRAMMAR))


def parse_windows(text: str) -> Plan:
    """Reads windows without rates (the API's `mirr_sched`): inside them the plan's rate is 0."""
    text = text.strip()
    return Plan(_items(text, 2, _WINDOWS_GRAMMAR)) if text else Plan()


def _items(text: str, parts: int, grammar: str) -> tuple[Window, ...]:
    items = text.split(",")
    if len(items) > _MOST_WINDOWS:
        raise UsageError(f"plan has {len(items)} windows, at most {_MOST_WINDOWS} are read")
    return tuple(_window(item.strip(), parts, grammar) for item in items)


def _window(item: str, parts: int, grammar: str) -> Window:
    fields = [f.strip() for f in item.split("*")]
    if len(fields) != parts:
        raise _bad(item, f"has {len(fields)} parts between '*', not {parts}", grammar)
    days = fields[0]
    if not days or any(d not in "01234567" for d in days):
        raise _bad(item, f"weekdays {days!r} are not digits 0 to 7", grammar)
    span = _SPAN.fullmatch(fields[1])
    if not span:
        raise _bad(item, f"{fields[1]!r} is not HH:MM-HH:MM", grammar)
    h1, m1, h2, m2 = map(int, span.groups())
    if m1 > 59 or m2 > 59 or h1 > 23 or h2 * 60 + m2 > _DAY:
        raise _bad(item, f"{fields[1]!r} holds no time of the day", grammar)
    start, end = h1 * 60 + m1, h2 * 60 + m2
    if end <= start:
        end += _DAY
    rate = _rate(fields[2], item, grammar) if parts == 3 else 0
    # Digit 1 is Monday, which datetime counts as 0; 0 and 7 both come out as Sunday.
    return Window(frozenset((int(d) - 1) % 7 for d in days), start, end, rate)


def _rate(text: str, item: str, grammar: str) -> int:
    match = _RATE.fullmatch(text)
    if not match or not text.isascii():
        raise _bad(item, f"{text!r} is not a rate", grammar)
    rate = int(match[1]) * _UNITS[match[2].lower()]
    if 0 < rate < _SLOWEST:
        raise _bad(item, f"{text!r} is {rate} bit/s: is the unit missing?", grammar)
    return rate


def _bad(item: str, why: str, grammar: str) -> UsageError:
    return UsageError(f"rate plan: in {item!r}: {why}", grammar)


class Bucket:
    """A token bucket that may go into debt: whoever took too much waits until it is paid back.

    `rate` tells bit/s at the moment (None unlimited, 0 stop), `clock` seconds that never run
    backwards. Savings are at most `burst` seconds' worth, so that a quiet minute is not
    followed by a flood. Several threads may share one bucket.
    """

    def __init__(
        self, rate: Callable[[], int | None], clock: Callable[[], float], burst: float = 0.05
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._burst = burst
        self._lock = threading.Lock()
        self._tokens = 0.0  # bytes; below zero: owed
        self._then = clock()

    def take(self, size: int) -> float:
        """Seconds to wait before sending `size` bytes, which count as sent.

        math.inf: sending is stopped; nothing was taken, ask again when the plan changes.
        """
        rate = self._rate()
        with self._lock:
            now = self._clock()
            elapsed = max(0.0, now - self._then)
            self._then = max(now, self._then)
            if rate is None:
                self._tokens = 0.0
                return 0.0
            per_second = rate / 8
            self._tokens = min(self._tokens + elapsed * per_second, per_second * self._burst)
            if rate == 0:
                return math.inf
            self._tokens -= size
            return max(0.0, -self._tokens / per_second)
