"""Rate plans and the token bucket."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.errors import UsageError
from i2node.net.throttle import Bucket, Plan, Window, parse_plan, parse_windows

MONDAY = datetime(2024, 1, 1)
M = 10**6


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A moment of the week; day 1 is Monday, 7 Sunday."""
    return MONDAY + timedelta(days=day - 1, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", None),
        ("-1", None),
        (" 20m ", 20 * M),
        ("512k", 512_000),
        ("1g", 10**9),
        ("1G", 10**9),
        ("64000", 64000),
        ("0", 0),
        ("0m", 0),
    ],
)
def test_plain_rates(text: str, rate: int | None) -> None:
    plan = parse_plan(text)
    assert plan.rate_at(MONDAY) == rate
    assert plan.next_change(MONDAY) is None


def test_windows_of_the_api() -> None:
    plan = parse_plan("123*01:00-02:00*2m, 34*01:30-13:00*6m")
    assert plan.rate_at(at(1, 1)) == 2 * M
    assert plan.rate_at(at(1, 0, 59)) is None
    assert plan.rate_at(at(1, 2)) is None
    assert plan.rate_at(at(3, 1, 29)) == 2 * M
    assert plan.rate_at(at(3, 1, 30)) == 2 * M  # overlap: the smaller one
    assert plan.rate_at(at(3, 2)) == 6 * M
    assert plan.rate_at(at(4, 12, 59)) == 6 * M
    assert plan.rate_at(at(5, 1, 30)) is None


def test_sunday_is_0_and_7() -> None:
    for digit in "07":
        plan = parse_plan(f"{digit}*00:00-24:00*0")
        assert [plan.rate_at(at(d, 12)) for d in range(1, 8)] == [None] * 6 + [0]


def test_past_midnight_and_past_the_week() -> None:
    plan = parse_plan("7*22:00-06:00*1m")
    assert plan.rate_at(at(7, 21, 59)) is None
    assert plan.rate_at(at(7, 23)) == M
    assert plan.rate_at(at(1, 5, 59)) == M
    assert plan.rate_at(at(1, 6)) is None
    assert plan.next_change(at(7, 23)) == at(8, 6)
    assert plan.next_change(at(1, 6)) == at(7, 22)
    whole = parse_plan("2*00:00-00:00*1m")
    assert [whole.rate_at(at(2, h)) for h in (0, 23)] == [M, M]
    assert whole.rate_at(at(3, 0)) is None


def test_windows_without_rate() -> None:
    plan = parse_windows("3*03:00-14:00,2*02:00-15:00")
    assert plan.rate_at(at(3, 4)) == 0
    assert plan.rate_at(at(4, 4)) is None
    assert parse_windows("").rate_at(MONDAY) is None


def test_a_plan_that_never_changes() -> None:
    plan = parse_plan("1234567*00:00-24:00*1m")
    assert plan.rate_at(at(5, 5)) == M
    assert plan.next_change(at(5, 5)) is None


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("fast", "fast"),
        ("20", "20"),
        ("-5m", "-5m"),
        ("1.5m", "1.5m"),
        ("٣m", "٣m"),
        ("8*01:00-02:00*2m", "8*01:00-02:00*2m"),
        ("*01:00-02:00*2m", "*01:00-02:00*2m"),
        ("1*01:00-02:00*2m,1*1-2*3m", "1*1-2*3m"),
        ("1*24:00-02:00*2m", "1*24:00-02:00*2m"),
        ("1*01:60-02:00*2m", "1*01:60-02:00*2m"),
        ("1*01:00-24:01*2m", "1*01:00-24:01*2m"),
        ("1*01:00-02:00", "1*01:00-02:00"),
        ("1*01:00-02:00*2m*3", "1*01:00-02:00*2m*3"),
        ("1*01:00-02:00*", "1*01:00-02:00*"),
        ("1*01:00-02:00*2m,", "''"),
        ("1m,2m", "1m"),
    ],
)
def test_errors_show_item_and_grammar(text: str, item: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_plan(text)
    assert item in e.value.cause
    assert "12345*08:00-18:00*2m" in e.value.remedy


@given(st.text(max_size=40) | st.text("0123456789*:-,kmg ", max_size=60))
def test_any_text_is_a_plan_or_a_usage_error(text: str) -> None:
    for parse in (parse_plan, parse_windows):
        try:
            plan = parse(text)
        except UsageError:
            continue
        assert isinstance(plan, Plan)


windows = st.builds(
    lambda days, start, length, rate: Window(frozenset(days), start, start + length, rate),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.sampled_from([0, 1000, 2 * M, 5 * M]),
)


@given(st.lists(windows, max_size=4), st.integers(0, 7 * 24 * 60 - 1))
def test_rate_and_next_change_agree_with_a_minute_by_minute_search(
    chosen: list[Window], minute: int
) -> None:
    plan = Plan(tuple(chosen))
    marks: list[list[int]] = [[] for _ in range(7 * 1440)]
    for w in chosen:
        for day in w.days:
            for m in range(w.start, w.end):
                marks[(day * 1440 + m) % (7 * 1440)].append(w.rate)
    week = [min(m, default=None) for m in marks]
    now = MONDAY + timedelta(minutes=minute, seconds=30)
    assert plan.rate_at(now) == week[minute]
    steps = range(1, 7 * 1440 + 1)
    step = next((i for i in steps if week[(minute + i) % (7 * 1440)] != week[minute]), None)
    expected = None if step is None else MONDAY + timedelta(minutes=minute + step)
    assert plan.next_change(now) == expected


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bucket_waits_for_what_was_taken() -> None:
    clock = Clock()
    bucket = Bucket(lambda: 8000, clock)  # 1000 bytes a second, 50 saved at most
    assert bucket.take(1000) == pytest.approx(1.0)
    clock.now += 1.0
    assert bucket.take(500) == pytest.approx(0.5)
    clock.now += 1000
    assert bucket.take(50) == 0
    assert bucket.take(100) == pytest.approx(0.1)


def test_bucket_without_limit_and_stopped() -> None:
    clock = Clock()
    rates: list[int | None] = [None]
    bucket = Bucket(lambda: rates[0], clock)
    assert bucket.take(10**12) == 0
    rates[0] = 0
    assert bucket.take(1) == math.inf
    clock.now += 50
    assert bucket.take(1) == math.inf
    rates[0] = 8000
    assert bucket.take(1000) == pytest.approx(1.0)
    clock.now -= 30  # a clock that is wrong gives nothing away
    assert bucket.take(1000) == pytest.approx(2.0)


@given(
    st.integers(8000, 10**10),
    st.lists(st.tuples(st.integers(1, 2**23), st.floats(0, 2)), min_size=1, max_size=50),
)
def test_bucket_never_exceeds_rate_and_burst(rate: int, takes: list[tuple[int, float]]) -> None:
    clock = Clock()
    bucket = Bucket(lambda: rate, clock)
    sent = 0
    for size, pause in takes:
        clock.now += pause
        clock.now += bucket.take(size)
        sent += size
        allowed = (clock.now - 100.0) * rate / 8 + 0.05 * rate / 8
        assert sent <= allowed * (1 + 1e-6) + 1
