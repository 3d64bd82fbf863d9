"""The level of compression follows where the sender's time goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from i2node.net.effort import LADDER, Effort


def test_a_slow_line_is_given_the_hardest_level() -> None:
    effort = Effort()
    for _ in range(20):
        effort.spent(0.09, 0.01)
    assert effort.level == LADDER[-1]


def test_a_free_line_is_given_no_compression() -> None:
    effort = Effort()
    for _ in range(20):
        effort.spent(0.0, 0.1)
    assert effort.level == 0


def test_what_lies_between_stays() -> None:
    effort = Effort()
    before = effort.level
    for _ in range(100):
        effort.spent(0.03, 0.07)
    assert effort.level == before


def test_a_step_that_is_taken_back_is_tried_less_and_less() -> None:
    """A line that is full without compression and idle with it."""
    effort, tried = Effort(), [0, 0]
    before = effort.level
    for half in range(2):
        for _ in range(1000):
            effort.spent(*((0.09, 0.01) if effort.level == 0 else (0.0, 0.1)))
            tried[half] += effort.level != before
            before = effort.level
    assert 0 < tried[1] < tried[0]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))))
def test_the_level_is_always_one_of_the_ladder(spans: list[tuple[float, float]]) -> None:
    effort = Effort()
    for line, other in spans:
        effort.spent(line, other)
        assert effort.level in LADDER
