"""How old what is dirty is, and what comes back to the dirty set; with it the marks, which go by
that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from i2node.fs.coalesce import Dirty
from i2node.fs.heat import SHORTEST
from i2node.fs.touch import Touch, Work


def test_a_mark_is_passed_when_nothing_older_is_left() -> None:
    dirty = Dirty()
    assert dirty.passed() is None
    dirty.mark(9.5, 10.0)
    assert dirty.wait(0) is False and dirty.passed() == 9.5
    assert dirty.passed() is None
    dirty.add(1, b"hot", Touch.DATA, 11.0)
    dirty.take(9, 11.0)
    dirty.add(1, b"hot", Touch.DATA, 11.0 + SHORTEST / 2)
    dirty.mark(11.1, 11.2)
    dirty.add(1, b"new", Touch.DATA, 11.3)
    assert dirty.passed() is None  # a name that is held back is not handed out
    assert [list(work.names or ()) for work in dirty.take(1, 11.3)] == [[b"new"]]
    assert dirty.passed() is None
    assert [list(work.names or ()) for work in dirty.take(1, 11.3)] == [[b"hot"]]
    dirty.add(1, b"hot", Touch.DATA, 11.4)
    assert dirty.passed() == 11.1


@pytest.mark.parametrize(
    "again",
    [
        lambda dirty: dirty.add(1, b"f", Touch.DATA, 11.0),
        lambda dirty: dirty.add_dir(1, False, 11.0),
        lambda dirty: dirty.put_back(Work(1, {b"f": Touch.DATA}, False, frozenset(), 11.0), 11.0),
        lambda dirty: dirty.put_back(Work(1, None, False, frozenset(), 11.0), 11.0),
    ],
)
def test_what_comes_back_is_as_old_as_what_it_came_from(again: Callable[[Dirty], None]) -> None:
    dirty = Dirty()
    dirty.add(1, b"f", Touch.DATA, 10.0)
    (work,) = dirty.take(9, 10.0)
    dirty.under_way = work.since
    dirty.mark(10.5, 10.6)
    again(dirty)
    dirty.under_way = None
    assert dirty.passed() is None
    assert [work.since for work in dirty.take(9, 20.0)] == [10.0]
    assert dirty.passed() == 10.5
    dirty.mark(20.5, 20.6)
    dirty.unmark()
    assert dirty.passed() is None


@pytest.mark.parametrize(
    "again",
    [
        lambda dirty: dirty.add(1, b"new", Touch.NAME, 11.3),
        lambda dirty: dirty.put_back(Work(1, {b"new": Touch.DATA}, False, frozenset(), 10.0), 11.3),
    ],
)
def test_what_comes_back_is_no_older_than_itself(again: Callable[[Dirty], None]) -> None:
    # Else a name that is put back in each round would hand its age on for ever.
    dirty = Dirty()
    dirty.add(1, b"old", Touch.NAME, 10.0)
    dirty.add(1, b"new", Touch.NAME, 11.0)
    dirty.add(2, b"old", Touch.NAME, 10.0)
    works = dirty.take(9, 11.2)
    assert {work.ino: work.since for work in works} == {1: 10.0, 2: 10.0}
    dirty.under_way = 10.0
    again(dirty)
    dirty.under_way = None
    assert dirty.oldest(12.0) == 1.0
    assert [(work.names.keys(), work.since) for work in dirty.take(9, 12.0) if work.names] == [
        ({b"new"}, 11.0)
    ]


def test_what_is_known_to_be_older_than_what_was_handed_out_stays_so() -> None:
    # A file was looked through for a change of 5.0, and written to again meanwhile.
    dirty = Dirty()
    dirty.add(1, b"f", Touch.DATA, 11.0)
    dirty.add(1, b"put back in each round", Touch.NAME, 2.0)
    dirty.mark(8.0, 8.0)
    dirty.under_way = min(work.since for work in dirty.take(9, 11.0))
    assert (dirty.since(1, b"f"), dirty.since(1, b"g")) == (11.0, 2.0)
    dirty.add(1, b"f", Touch.DATA, 11.5, 5.0)
    dirty.add(1, b"g", Touch.DATA, 11.5, 6.0)
    dirty.under_way = None
    assert (dirty.oldest(12.0), dirty.passed(), dirty.since(1, b"f")) == (7.0, None, None)
    dirty.take(9, 12.0)
    dirty.add(1, b"h", Touch.DATA, 12.0, 9.0)
    assert (dirty.oldest(12.0), dirty.passed()) == (3.0, 8.0)


def test_what_was_written_before_a_rename_is_as_old_under_the_new_name() -> None:
    dirty = Dirty()
    dirty.add(1, b"a", Touch.DATA, 10.0)
    dirty.add_all(
        [(1, b"a", Touch.MOVED.value), (1, b"b", Touch.MOVED.value)], 11.0, [((1, b"a"), (1, b"b"))]
    )
    (work,) = dirty.take(9, 11.0)
    dirty.under_way = work.since
    dirty.mark(10.5, 10.5)
    # It changed while it was read.
    dirty.add(1, b"b", Touch.DATA, 11.1)
    dirty.under_way = None
    assert dirty.passed() is None


def test_a_directory_of_which_some_is_always_left_is_no_older_than_that() -> None:
    dirty = Dirty()
    dirty.add(1, b"0", Touch.NAME, 0.0)
    for second in range(1, 20):
        dirty.add(1, b"%d" % second, Touch.NAME, float(second))
        assert [list(work.names or ()) for work in dirty.take(1, second)] == [
            [b"%d" % (second - 1)]
        ]
        assert dirty.oldest(second) == 0.0
