"""When the runs of a rule begin. Pure: the clock is handed in; times are of the node's own clock on
the wall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

_DAY = 24 * 60
_LOOK_AHEAD_D = 366
"""A day of the month that there is comes within this many days."""


class Every(IntEnum):
    """How often the days of a slot come around."""

    DAY = 0
    WEEK = 1
    MONTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Moments at which a run begins. days: of the week 1..6 Monday to Saturday, 0 or 7 Sunday; of
    the month 1..31, where a month without that day is passed over. times: minutes since midnight.
    gap: minutes between runs from `start` until `end` (minutes since midnight), 0: none of those.
    keep: how many of its runs stay, 0: all."""

    every: Every
    days: tuple[int, ...] = ()
    times: tuple[int, ...] = ()
    start: int = 0
    end: int = _DAY
    gap: int = 0
    keep: int = 0

    def minutes(self) -> tuple[int, ...]:
        """The minutes of a day on which it holds, at which a run begins."""
        repeated = range(self.start, self.end, self.gap) if self.gap > 0 else ()
        return tuple(sorted({*self.times, *repeated}))

    def holds(self, day: datetime) -> bool:
        """Whether it has runs on this day."""
        if self.every is Every.DAY:
            return True
        if self.every is Every.WEEK:
            return day.isoweekday() % 7 in {number % 7 for number in self.days}
        return day.day in self.days


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """once_at: seconds since 1970 of one run, beside those of the slots."""

    once_at: int | None = None
    slots: tuple[Slot, ...] = ()

    def next(self, after: datetime) -> datetime | None:
        """The first moment behind `after` (local, naive) at which a run begins; None: there is
        none any more."""
        found = [_next(slot, after) for slot in self.slots]
        if self.once_at is not None:
            moment = datetime.fromtimestamp(self.once_at)
            found.append(moment if moment > after else None)
        return min((moment for moment in found if moment is not None), default=None)

    @property
    def keep(self) -> int:
        """How many runs stay, 0: all."""
        return max((slot.keep for slot in self.slots), default=0)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Plan:
        """The plan whose asdict this is. ValueError, TypeError or KeyError: it is none."""
        slots = tuple(
            Slot(
                every=Every(one["every"]),
                days=tuple(map(int, one["days"])),
                times=tuple(map(int, one["times"])),
                **{key: int(one[key]) for key in ("start", "end", "gap", "keep")},
            )
            for one in table["slots"]
        )
        at = table["once_at"]
        return cls(once_at=None if at is None else int(at), slots=slots)


def _next(slot: Slot, after: datetime) -> datetime | None:
    minutes = slot.minutes()
    midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(_LOOK_AHEAD_D + 1):
        day = midnight + timedelta(days=number)
        if slot.holds(day):
            for minute in minutes:
                if (moment := day + timedelta(minutes=minute)) > after:
                    return moment
    return None
