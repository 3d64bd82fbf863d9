"""`bkup_schedule` in its spellings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.timetable import read_plan
from i2node.schedule import Every, Plan, Slot


def plan(schedule: object) -> Plan:
    form = Form({})
    found = read_plan(form, "s", schedule)
    form.check()
    return found


@pytest.mark.parametrize(
    ("told", "slot"),
    [
        (
            # as recorded
            {
                "sched_time_end": "16:25",
                "sched_day": 25,
                "sched_gap_min": 35,
                "sched_time": "20:48",
                "sched_time_start": "11:57",
                "sched_every": 2,
                "limit": 15,
            },
            Slot(
                every=Every.MONTH,
                days=(25,),
                times=(1248,),
                start=717,
                end=985,
                gap=35,
                keep=15,
            ),
        ),
        (
            {"sched_every": 0, "sched_day": [], "sched_time": ["02:02", "14:00"], "limit": ""},
            Slot(every=Every.DAY, times=(122, 840)),
        ),
        (
            {"sched_every": "1", "sched_day": ["7", 1, 1], "sched_time": "9:30:00"},
            Slot(every=Every.WEEK, days=(1, 7), times=(570,)),
        ),
        (
            {"sched_every": 2, "sched_day": "1, 31", "sched_time": "00:00", "backup_type": 0},
            Slot(every=Every.MONTH, days=(1, 31), times=(0,)),
        ),
        (
            {"sched_every": 0, "sched_gap_min": "60", "sched_time_end": "24:00", "policys": "x"},
            Slot(every=Every.DAY, gap=60),
        ),
    ],
)
def test_the_spellings(told: dict[str, Any], slot: Slot) -> None:
    assert plan([told]) == Plan(slots=(slot,))


DAILY = {"sched_every": 0, "sched_time": "01:00"}


@pytest.mark.parametrize(
    ("schedule", "clause"),
    [
        (None, r"Lost: s\[0\]"),
        ([], r"Lost: s\[0\]"),
        ([7], r"Lost: s\[0\]\[sched_every\]"),
        ([DAILY, {"sched_time": "1:00"}], r"Lost: s\[1\]\[sched_every\]"),
        ([DAILY | {"sched_every": 3}], r"s\[0\]\[sched_every\] field must be one of: 0,1,2"),
        ([{"sched_every": 0}], r"Lost: s\[0\]\[sched_time\]"),
        ([DAILY | {"sched_time": "24:00"}], "must be a time of the day"),
        ([DAILY | {"sched_time": "01:60"}], "must be a time of the day"),
        ([DAILY | {"sched_time": 100}], "must be a time of the day"),
        ([DAILY | {"sched_every": 1, "sched_day": 8}], "a day from 0 to 7"),
        ([DAILY | {"sched_every": 2, "sched_day": [0]}], "a day from 1 to 31"),
        ([DAILY | {"sched_every": 1, "sched_day": []}], r"Lost: s\[0\]\[sched_day\]"),
        ([DAILY | {"sched_every": 1, "sched_day": [True]}], "a day from 0 to 7"),
        ([DAILY | {"backup_type": 1}], "must be one of: 0 .files are backed up in full only"),
        ([DAILY | {"limit": -1}], "greater than or equal to 0"),
        (
            [{"sched_every": 0, "sched_gap_min": 5, "sched_time_end": "00:00"}],
            r"s\[0\]\[sched_time_end\] field must be behind",
        ),
        ([DAILY] * 65, "at most 64 plans"),
    ],
)
def test_what_is_no_plan(schedule: object, clause: str) -> None:
    with pytest.raises(Refusal, match=clause):
        plan(schedule)


TIMES = st.tuples(st.integers(0, 23), st.integers(0, 59))


@given(
    st.sampled_from([0, 1, 2, "0", "1", "2"]),
    st.lists(st.integers(1, 7), min_size=1),
    st.lists(TIMES, min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_what_is_said_is_what_is_meant(
    every: Any, days: list[int], times: list[tuple[int, int]], as_text: bool, seconds: bool
) -> None:
    written = [f"{h:02}:{m:02}" + (":59" if seconds else "") for h, m in times]
    told = {
        "sched_every": every,
        "sched_day": [str(day) for day in days] if as_text else days,
        "sched_time": written if len(written) > 1 or as_text else written[0],
    }
    (slot,) = plan([told]).slots
    assert slot.times == tuple(sorted({h * 60 + m for h, m in times}))
    assert slot.days == (() if str(every) == "0" else tuple(sorted(set(days))))


_KEYS = ("sched_every", "sched_day", "sched_time", "limit")
KEYS = st.sampled_from(
    [*_KEYS, "sched_time_start", "sched_time_end", "sched_gap_min", "backup_type"]
)
VALUES = st.one_of(
    st.none(), st.integers(-2, 99), st.text(max_size=6), st.booleans(), st.floats(), TIMES
) | st.lists(st.integers(0, 40) | st.text(max_size=5), max_size=3)


@given(st.lists(st.dictionaries(KEYS, VALUES) | st.integers(), max_size=3) | st.text())
def test_anything_else_is_refused(schedule: object) -> None:
    try:
        for slot in plan(schedule).slots:
            assert slot.minutes()
    except Refusal:
        pass
