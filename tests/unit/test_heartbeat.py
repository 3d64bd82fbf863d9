"""What heartbeats say: when one is due, what lag is, and when they are not to be relied on."""

from __future__ import annotations

import time

import pytest

from i2node.repl.heartbeat import BUSY_S, IDLE_S, LATE_S, UNANSWERED, Heartbeat


def begun() -> Heartbeat:
    """A heartbeat of which the first beat, asked for at 100 s, took 20 ms."""
    made = Heartbeat()
    made.begin()
    assert made.due(100.0)
    made.carried(100.005, 7, 100.005)
    made.durable(7, 100.020)
    return made


def test_beats_are_slow_while_nothing_happens_and_fast_while_something_does() -> None:
    heart = begun()
    now, asked = 100.020, []
    for _ in range(10):
        now += heart.wait(now)
        assert heart.due(now) and not heart.due(now)
        asked.append(now)
        heart.carried(now, 8 + len(asked), now)
        heart.durable(8 + len(asked), now)
    assert asked == [pytest.approx(100.0 + IDLE_S * (n + 1)) for n in range(10)]
    heart.busy(now + 1)
    heart.busy(now + 1 + BUSY_S / 2)
    assert heart.wait(now + 1) == pytest.approx(BUSY_S)
    assert not heart.due(now + 1) and heart.due(now + 1 + BUSY_S)
    assert not heart.due(now + 1 + 2 * BUSY_S)


def test_lag_is_what_the_last_beat_took_or_what_waits_longer() -> None:
    heart = begun()
    assert heart.lag(103.0, None) == pytest.approx(0.015)
    assert heart.lag(103.0, 0.001) == pytest.approx(0.015)
    assert heart.lag(103.0, 0.7) == pytest.approx(0.7)
    assert heart.due(105.0)
    assert heart.lag(105.5, None) == pytest.approx(0.5)
    assert heart.lag(105.5, 0.7) == pytest.approx(0.7)
    heart.carried(105.0, 9, 105.0)
    heart.durable(8, 106.0)  # of an earlier frame
    assert heart.lag(107.0, None) == pytest.approx(2.0)
    heart.durable(9, 106.0)
    assert heart.lag(120.0, None) == pytest.approx(1.0)


def test_without_a_target_lag_grows_though_nothing_changes() -> None:
    heart = begun()
    heart.end()
    assert heart.lag(160.0, None) == pytest.approx(160.0 - 100.005)
    assert not heart.sound(100.1)
    heart.begin()
    assert not heart.sound(100.1)
    heart.durable(7, 101.0)  # nothing of before comes back
    assert not heart.sound(101.0)


def test_with_the_target_back_lag_is_that_of_before_until_a_beat_is_back() -> None:
    """What was on its way when it was lost is looked for anew, and looks young."""
    heart = begun()
    assert heart.due(105.0)
    heart.carried(105.0, 8, 105.0)
    heart.end()
    heart.durable(8, 105.1)  # told too late
    heart.begin()
    assert heart.lag(160.0, 0.001) == pytest.approx(160.0 - 100.005)
    assert heart.due(160.0)
    heart.carried(160.0, 0, 160.0)
    heart.durable(0, 160.02)
    assert heart.lag(160.02, 0.001) == pytest.approx(0.02)


def test_nothing_measured_is_not_no_lag() -> None:
    heart = Heartbeat()
    assert heart.lag(5.0, None) is None and heart.durable_as_of is None
    assert heart.lag(5.0, 2.0) == 2.0
    heart = begun()
    heart.forget()
    assert heart.lag(5.0, None) is None and heart.durable_as_of is None


def test_a_beat_that_stays_away_is_late_and_the_wait_ends_by_then() -> None:
    heart = begun()
    assert heart.sound(104.0)
    assert heart.due(105.0)
    assert heart.wait(105.0) == pytest.approx(LATE_S)
    assert heart.sound(105.0 + LATE_S - 0.01) and not heart.late(105.0 + LATE_S - 0.01)
    assert not heart.sound(105.0 + LATE_S) and heart.late(105.0 + LATE_S)
    assert heart.wait(105.0 + LATE_S) == pytest.approx(IDLE_S - LATE_S)
    heart.carried(105.001, 8, 105.001)
    heart.durable(8, 109.0)
    assert heart.sound(109.0)


def test_one_answer_is_for_all_that_were_asked_for_before_its_stamp() -> None:
    heart = begun()
    for now in (105.0, 110.0, 115.0):
        assert heart.due(now)
    heart.carried(110.0, 8, 110.0)
    heart.durable(8, 115.5)
    assert heart.lag(116.0, None) == pytest.approx(5.5)  # by the answer
    assert heart.lag(122.0, None) == pytest.approx(7.0)  # by the one asked for at 115
    before = time.time()
    heart.carried(115.0, 9, 115.0)
    heart.durable(9, 115.0)
    assert heart.durable_as_of is not None and heart.durable_as_of >= before


def test_beats_that_never_come_back_are_bounded_and_nobody_spins_for_them() -> None:
    heart = begun()
    now = 105.0
    for _ in range(UNANSWERED):
        assert heart.due(now)
        heart.busy(now)
        now += BUSY_S
    # From here on as seldom as if nothing happened.
    assert not heart.due(now)
    assert heart.wait(now) == pytest.approx(IDLE_S - BUSY_S)
    for _ in range(3):
        now += heart.wait(now)
        assert heart.due(now)
        heart.busy(now)
    assert heart.lag(now, None) == pytest.approx(now - 105.0)  # by the oldest
    # One that is answered in the end is for all of them.
    heart.carried(now, 8, now)
    heart.durable(8, now + 0.01)
    assert heart.sound(now + 0.01)
    assert heart.lag(now + 0.01, None) == pytest.approx(0.01)
    heart.busy(now + 0.01)
    assert heart.wait(now + 0.01) == pytest.approx(BUSY_S)


def test_an_answer_may_be_there_before_it_is_waited_for() -> None:
    heart = begun()
    assert heart.due(105.0)
    heart.durable(8, 105.02)
    heart.carried(105.01, 8, 105.03)
    assert heart.lag(105.1, None) == pytest.approx(0.02)
    assert heart.sound(109.0)
