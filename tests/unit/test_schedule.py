"""When runs begin, held against a minute-by-minute look at the calendar."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from i2node.schedule import Every, Plan, Slot

MINUTE = timedelta(minutes=1)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2032, 12, 31))
times = st.integers(0, 24 * 60 - 1)


@st.composite
def slots(draw: st.DrawFn) -> Slot:
    every = draw(st.sampled_from(Every))
    days = st.integers(0, 7) if every is Every.WEEK else st.integers(1, 31)
    return Slot(
        every=every,
        days=tuple(draw(st.lists(days, max_size=3))),
        times=tuple(draw(st.lists(times, max_size=3))),
        start=draw(times),
        end=draw(st.integers(0, 24 * 60)),
        gap=draw(st.sampled_from([0, 1, 7, 60, 1440])),
        keep=draw(st.integers(0, 9)),
    )


plans = st.builds(Plan, slots=st.lists(slots(), max_size=3).map(tuple))


def begins(slot: Slot, moment: datetime) -> bool:
    """As the words say it, of one whole minute."""
    if slot.every is Every.WEEK and moment.isoweekday() not in [day or 7 for day in slot.days]:
        return False
    if slot.every is Every.MONTH and moment.day not in slot.days:
        return False
    minute = moment.hour * 60 + moment.minute
    repeats = slot.gap and slot.start <= minute < slot.end
    return minute in slot.times or bool(repeats and (minute - slot.start) % slot.gap == 0)


@given(plans, moments)
def test_the_next_moment_is_the_first_that_there_is(plan: Plan, after: datetime) -> None:
    found = plan.next(after)
    assert found is None or found > after
    assert found is None or any(begins(slot, found) for slot in plan.slots)
    look = after.replace(second=0, microsecond=0) + MINUTE
    until = min(found or datetime.max, look + timedelta(days=3))
    while look < until:
        assert not any(begins(slot, look) for slot in plan.slots), look
        look += MINUTE


@given(plans, moments)
def test_none_is_passed_over_from_one_to_the_next(plan: Plan, after: datetime) -> None:
    first = plan.next(after)
    if first is not None:
        assert plan.next(first - timedelta(microseconds=1)) == first
        second = plan.next(first)
        assert second is not None and second > first, "as long as there are days, there are runs"


@given(st.integers(0, 1 << 33), moments)
def test_a_single_run_is_due_once(at: int, after: datetime) -> None:
    moment = datetime.fromtimestamp(at)
    assert Plan(once_at=at).next(after) == (moment if moment > after else None)
    assert Plan(once_at=at).next(moment) is None


@given(plans)
def test_a_plan_survives_being_written_down(plan: Plan) -> None:
    from dataclasses import asdict

    assert Plan.read(asdict(plan)) == plan


def test_a_day_that_a_month_does_not_have_is_passed_over() -> None:
    plan = Plan(slots=(Slot(every=Every.MONTH, days=(31,), times=(0,)),))
    assert plan.next(datetime(2026, 1, 31, 12)) == datetime(2026, 3, 31)
    leap = Plan(slots=(Slot(every=Every.MONTH, days=(29,), times=(60,)),))
    assert leap.next(datetime(2027, 1, 29, 2)) == datetime(2027, 3, 29, 1)


def test_one_run_beside_those_of_the_slots() -> None:
    noon = datetime(2026, 1, 5, 12)
    at = int(datetime(2026, 1, 5, 12, 30).timestamp())
    plan = Plan(once_at=at, slots=(Slot(every=Every.DAY, times=(60,)),))
    assert plan.next(noon) == datetime(2026, 1, 5, 12, 30)
    assert plan.next(datetime(2026, 1, 5, 12, 30)) == datetime(2026, 1, 6, 1)
    assert Plan(once_at=at).next(datetime(2026, 1, 5, 12, 30)) is None
    assert plan.next(datetime(2026, 1, 5, 0)) == datetime(2026, 1, 5, 1)
