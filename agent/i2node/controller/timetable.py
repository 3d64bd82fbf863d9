"""`bkup_schedule` of the API, in its several spellings, as a schedule.Plan. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from i2node.controller.form import Form
from i2node.schedule import Every, Plan, Slot

SLOTS_MOST = 64
TIMES_MOST = 1440
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::[0-5][0-9])?", re.ASCII)
_DAY = 24 * 60
_EVERY = ("0", "1", "2")
_DAYS = {Every.WEEK: range(8), Every.MONTH: range(1, 32)}


def read_plan(form: Form, field: str, schedule: object) -> Plan:
    """The plan of a list of objects (§2.3 of the API's description): sched_every 0 day, 1 week, 2
    month; sched_day and sched_time one or several; a window with a gap; limit, how many runs stay.
    Faults are noted in the form."""
    if not isinstance(schedule, list) or not schedule:
        form.fault(f"Lost: {form.named(field)}[0]")
        return Plan()
    if len(schedule) > SLOTS_MOST:
        form.fault(f"The {form.named(field)} field must hold at most {SLOTS_MOST} plans")
        return Plan()
    slots = []
    for number, one in enumerate(schedule):
        name = f"{form.named(field)}[{number}]"
        if isinstance(one, Mapping):
            slots.append(_slot(form.part(one, name)))
        else:
            form.fault(f"Lost: {name}[sched_every]")
    return Plan(slots=tuple(slots))


def _slot(form: Form) -> Slot:
    told = form.choice("sched_every", _EVERY)
    every = Every(int(told)) if told in _EVERY else Every.DAY
    if form.given("backup_type"):
        form.choice("backup_type", ("0",), because="files are backed up in full only")
    days = _days(form, every)
    times = _times(form)
    gap = form.number("sched_gap_min", 0, high=_DAY)
    start = _minute(form, "sched_time_start", form.raw("sched_time_start"), 0)
    end = _minute(form, "sched_time_end", form.raw("sched_time_end"), _DAY)
    if gap and end <= start:
        form.fault(f"The {form.named('sched_time_end')} field must be behind sched_time_start")
    if not times and not gap:
        form.fault(f"Lost: {form.named('sched_time')}")
    keep = form.number("limit", 0, high=10_000)
    return Slot(every=every, days=days, times=times, start=start, end=end, gap=gap, keep=keep)


def _several(value: object) -> Sequence[Any]:
    if isinstance(value, str):
        return [part for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _days(form: Form, every: Every) -> tuple[int, ...]:
    allowed = _DAYS.get(every)
    if allowed is None:
        return ()
    found = []
    for day in _several(form.raw("sched_day")):
        number = int(day) if re.fullmatch("[0-9]{1,2}", str(day).strip(), re.ASCII) else -1
        if isinstance(day, bool) or number not in allowed:
            among = f"{allowed[0]} to {allowed[-1]}"
            form.fault(f"The {form.named('sched_day')} field must be a day from {among}")
        found.append(number)
    if not found:
        form.fault(f"Lost: {form.named('sched_day')}")
    return tuple(sorted(set(found)))


def _times(form: Form) -> tuple[int, ...]:
    values = _several(form.raw("sched_time"))
    if len(values) > TIMES_MOST:
        form.fault(f"The {form.named('sched_time')} field must hold at most {TIMES_MOST} times")
        return ()
    found = {_minute(form, "sched_time", value, -1) for value in values if value != ""}
    return tuple(sorted(found - {-1}))


def _minute(form: Form, field: str, value: object, default: int) -> int:
    """Minutes since midnight of HH:MM or HH:MM:SS; a run begins with the minute."""
    if value is None or value == "":
        return default
    match = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match and int(match[2]) < 60 else -1
    last = _DAY if field == "sched_time_end" else _DAY - 1
    if not 0 <= minute <= last:
        form.fault(f"The {form.named(field)} field must be a time of the day, HH:MM")
        return default
    return minute
