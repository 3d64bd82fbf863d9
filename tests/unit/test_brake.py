"""The arithmetic of the brake against a plain one that remembers everything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.config import Limits
from i2node.repl.brake import GRAIN, OVER_S, Brake

LIMITS = Limits(floor=10, share=25.0, window_s=640.0)
GRAIN_S = LIMITS.window_s / GRAIN


@dataclass
class Plain:
    """Every level there ever was, and until when."""

    entries: int
    level: int
    past: list[tuple[float, int]]

    def after(self, gained: int, lost: int, shrunk: int, now: float) -> None:
        self.past.append((now, self.level))
        self.entries = max(0, self.entries + gained - lost)
        self.level += gained - lost - shrunk

    def peak(self, since: float) -> int:
        return max([self.level, *(level for until, level in self.past if until > since)])


counts = st.integers(0, 30)
moves = st.lists(st.tuples(counts, counts, counts, st.floats(0, LIMITS.window_s / 2)), max_size=60)


@given(st.integers(0, 200), moves)
def test_the_peak_is_that_of_the_window(entries: int, moves: list[tuple[int, ...]]) -> None:
    brake, plain, now = Brake(entries, entries), Plain(entries, entries, []), 1e6
    for gained, lost, shrunk, pause in moves:
        now += pause
        brake = brake.after(gained, lost, shrunk, now, LIMITS)
        plain.after(gained, lost, shrunk, now)
        assert (brake.entries, brake.level) == (plain.entries, plain.level)
        peak = brake.peak(now, LIMITS).level
        # Never less than it was; what is forgotten late is forgotten a grain late.
        since = now - LIMITS.window_s
        assert plain.peak(since) <= peak <= plain.peak(since - GRAIN_S)
        assert len(brake.marks) <= GRAIN + 2
        levels = [mark.level for mark in brake.marks]
        assert levels == sorted(set(levels), reverse=True)


@given(st.integers(0, 5000), moves)
def test_who_keeps_to_what_is_spared_never_falls_below_what_is_allowed(
    entries: int, moves: list[tuple[int, ...]]
) -> None:
    brake, now = Brake(entries, entries), 0.0
    for gained, lost, shrunk, pause in moves:
        now += pause
        spare = brake.spare(now, LIMITS)
        assert spare is not None
        lost = min(lost, spare + gained)
        shrunk = min(shrunk, spare + gained - lost)
        allowed = brake.allowed(now, LIMITS)
        brake = brake.after(gained, lost, shrunk, now, LIMITS)
        assert brake.fallen(now, LIMITS) <= max(allowed, brake.allowed(now, LIMITS))


def lose(brake: Brake, entries: int, now: float) -> Brake:
    """As many as may, one by one."""
    for _ in range(entries):
        if brake.spare(now, LIMITS):
            brake = brake.after(0, 1, 0, now, LIMITS)
    return brake


@pytest.mark.parametrize(("entries", "goes"), [(5, 5), (40, 10), (41, 10), (1000, 250)])
def test_floor_and_share(entries: int, goes: int) -> None:
    assert lose(Brake(entries, entries), entries, 0.0).entries == entries - goes


def test_a_mirror_and_right_after_it_the_loss_of_everything() -> None:
    brake = Brake(0, 0)
    for _ in range(100):
        brake = brake.after(10, 0, 0, 1.0, LIMITS)
    assert lose(brake, 1000, 1.0).entries == 750


def test_churn_never_gets_anywhere() -> None:
    brake, now = Brake(100, 100), 0.0
    for _ in range(5000):
        now += 0.1
        brake = brake.after(20, 0, 0, now, LIMITS).after(0, 20, 0, now, LIMITS)
        assert brake.fallen(now, LIMITS) == 20
    assert brake.spare(now, replace(LIMITS, floor=31)) == 11


def test_a_slow_loss_passes_and_a_constant_one_does_not_hold_the_window() -> None:
    """One each grain, for many windows: no more than those of a window count."""
    brake, now = Brake(10_000, 10_000), 0.0
    for _ in range(10 * GRAIN):
        now += GRAIN_S / 3
        brake = brake.after(0, 1, 0, now, LIMITS)
        assert brake.fallen(now, LIMITS) <= 3 * (GRAIN + 2)


def test_files_that_are_cut_count_and_stay() -> None:
    brake = Brake(100, 100).after(0, 0, 25, 0.0, LIMITS)
    assert brake.entries == 100 and brake.spare(0.0, LIMITS) == 0


def test_time_does_not_release() -> None:
    brake = lose(Brake(100, 100), 100, 0.0).stand(1.0)
    assert brake.spare(1e9, LIMITS) == 0
    # When nothing is held back any more it moves on from there.
    ran = brake.run(1e9)
    assert ran.spare(1e9, LIMITS) == 0 and ran.spare(1e9 + 641, LIMITS) == 18
    assert brake.stand(50.0) == brake and ran.run(2e9) == ran


def test_what_goes_while_something_larger_is_held_back_goes_by_the_clock_that_stands() -> None:
    brake = Brake(100, 100).stand(10.0).after(0, 1, 0, 500.0, LIMITS).run(1000.0)
    assert brake.fallen(1000.0 + 639, LIMITS) == 1 and brake.fallen(1000.0 + 641, LIMITS) == 0


def test_a_release_lasts_until_the_burst_is_over() -> None:
    brake = lose(Brake(100, 100), 100, 0.0).stand(1.0).release(5.0)
    assert brake.spare(5.0, LIMITS) is None and brake.stands is None
    brake = brake.after(0, 60, 0, 50.0, LIMITS)
    assert brake.quiet(50.0 + OVER_S - 1).released, "another round may follow"
    over = brake.quiet(50.0 + OVER_S)
    assert not over.released and over == Brake(15, 15) and over.spare(81.0, LIMITS) == 10
    assert brake.quiet(50.0, ended=True) == over


def test_what_always_comes_and_goes_does_not_keep_the_brake_released() -> None:
    brake, now = Brake(100, 100).stand(1.0).release(5.0), 5.0
    while brake.released and now < 10 * OVER_S:
        now += 1.0
        brake = brake.after(1, 0, 0, now, LIMITS).after(0, 1, 0, now, LIMITS).quiet(now)
    assert now == 5.0 + OVER_S and brake.spare(now, LIMITS) == 25


def test_off() -> None:
    off = replace(LIMITS, window_s=0.0)
    brake = Brake(100, 100).after(0, 100, 0, 0.0, off)
    assert brake.spare(0.0, off) is None and brake.entries == 0 and brake.marks == ()


@given(st.floats(-1e6, 1e6), st.floats(0, 700))
def test_another_clock_changes_nothing(by: float, after: float) -> None:
    brake = Brake(100, 100).after(0, 3, 0, 7.0, LIMITS).stand(9.0).run(20.0)
    spare = brake.spare(20.0 + after, LIMITS)
    if abs(after - 629) > 1:
        assert brake.later(by).spare(20.0 + after + by, LIMITS) == spare
