"""The dirty set: nothing touched is ever lost, hot names wait, memory is bounded."""

import threading
import tracemalloc
from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from i2node.fs.coalesce import Dirty
from i2node.fs.heat import CLOSING, LONGEST, PAUSE_LONGEST, SHORTEST
from i2node.fs.touch import Touch, Work


def test_touches_of_a_name_are_merged() -> None:
    dirty = Dirty()
    dirty.add(1, b"f", Touch.NAME, 10.0)
    dirty.add(1, b"f", Touch.DATA, 10.5)
    assert dirty.count() == 1
    assert dirty.oldest(11.0) == 1.0
    assert dirty.take(100, 11.0) == [
        Work(1, {b"f": Touch.NAME | Touch.DATA}, False, frozenset(), 10.0)
    ]
    assert dirty.take(100, 11.0) == []
    assert (dirty.count(), dirty.oldest(12.0), dirty.next_due(12.0)) == (0, 0.0, None)


def test_the_directory_that_waits_longest_comes_first() -> None:
    dirty = Dirty()
    dirty.add(7, b"a", Touch.DATA, 1.0)
    dirty.add(3, b"a", Touch.DATA, 2.0)
    dirty.add(7, b"b", Touch.DATA, 3.0)
    assert [(w.ino, list(w.names or ())) for w in dirty.take(2, 4.0)] == [(7, [b"a", b"b"])]
    assert [w.ino for w in dirty.take(2, 4.0)] == [3]


def test_a_take_is_limited_and_the_rest_stays_first() -> None:
    dirty = Dirty()
    dirty.add_all([(1, b"%d" % n, Touch.DATA) for n in range(10)], 0.0)
    dirty.add(2, b"x", Touch.DATA, 1.0)
    assert [len(w.names or ()) for w in dirty.take(4, 2.0)] == [4]
    assert [(w.ino, len(w.names or ())) for w in dirty.take(7, 2.0)] == [(1, 6), (2, 1)]


def test_a_whole_directory_swallows_its_names() -> None:
    dirty = Dirty()
    dirty.add(1, b"a", Touch.DATA, 1.0)
    dirty.add(1, b"d", Touch.NAME | Touch.TREE, 1.5)
    dirty.add_dir(1, False, 2.0)
    dirty.add(1, b"b", Touch.DATA, 3.0)
    dirty.add(1, b"e", Touch.TREE, 3.0)
    assert dirty.count() == 1
    assert dirty.take(9, 4.0) == [Work(1, None, False, frozenset([b"d", b"e"]), 1.0)]


def test_recursive_stays_recursive() -> None:
    dirty = Dirty()
    dirty.add_dir(1, True, 1.0)
    dirty.add_dir(1, False, 2.0)
    assert dirty.take(9, 4.0) == [Work(1, None, True, frozenset(), 1.0)]


def test_too_many_names_become_the_whole_directory() -> None:
    dirty = Dirty(max_names=10)
    dirty.add(1, b"tree", Touch.NAME | Touch.TREE, 0.0)
    for n in range(10):
        dirty.add(1, b"%d" % n, Touch.DATA, 1.0)
    assert dirty.take(99, 2.0) == [Work(1, None, False, frozenset([b"tree"]), 0.0)]
    for n in range(30):
        dirty.add(1, b"%d" % n, Touch.NAME | Touch.TREE, 9.0)
    assert dirty.take(99, 10.0) == [Work(1, None, True, frozenset(), 9.0)]


def test_too_many_names_in_all_become_whole_directories() -> None:
    dirty = Dirty(max_total=5)
    for ino in range(100):
        for name in (b"a", b"b", b"c"):
            dirty.add(ino, name, Touch.DATA, 1.0)
    works = dirty.take(10**6, 2.0)
    assert sorted({w.ino for w in works}) == list(range(100))
    assert sum(len(w.names) for w in works if w.names is not None) <= 5


def test_a_directory_that_becomes_whole_is_as_old_as_its_first_touch() -> None:
    dirty = Dirty(max_total=1)
    dirty.add(1, b"a", Touch.DATA, 10.0)
    dirty.add(2, b"a", Touch.DATA, 11.0)
    assert dirty.oldest(12.0) == 2.0
    assert [(work.names, work.since) for work in dirty.take(9, 12.0)[1:]] == [(None, 11.0)]


def test_what_is_written_to_often_is_one_step_of_several_writes() -> None:
    """Sixteen times a second, say, which is slower than the shortest interval."""
    dirty, taken, written = Dirty(), [], 0
    for step in range(10_000):
        now = step * 0.001
        if step % 62 == 0:
            dirty.add(1, b"log", Touch.DATA | Touch.WRITING, now)
            written += 1
        taken += [now for _ in dirty.take(9, now)]
    assert len(taken) < written / 2
    assert max(b - a for a, b in pairwise(taken)) <= LONGEST + CLOSING


def test_a_hot_name_waits_and_its_interval_doubles_then_decays() -> None:
    dirty = Dirty()
    now, gaps, last = 0.0, [], 0.0
    while now < 8.0:
        dirty.add(1, b"log", Touch.DATA, now)
        if dirty.take(9, now):
            gaps.append(now - last)
            last = now
        now += 0.005
    assert gaps[0] == 0.0
    assert gaps[1] == pytest.approx(SHORTEST, abs=0.006)
    assert gaps[2] == pytest.approx(2 * SHORTEST, abs=0.006)
    assert gaps[-1] == pytest.approx(LONGEST, abs=0.006)
    assert all(b >= a - 0.006 for a, b in pairwise(gaps))
    dirty.take(9, now + LONGEST)
    later = now + 10.0
    dirty.add(1, b"log", Touch.DATA, later)
    assert dirty.next_due(later) == 0.0
    assert dirty.take(9, later)
    dirty.add(1, b"log", Touch.DATA, later)
    assert dirty.next_due(later) == pytest.approx(SHORTEST)


def test_a_quiet_name_is_not_delayed_by_a_hot_neighbour() -> None:
    dirty = Dirty()
    dirty.add(1, b"hot", Touch.DATA, 0.0)
    dirty.take(9, 0.0)
    dirty.add(1, b"hot", Touch.DATA, 0.001)
    dirty.add(1, b"quiet", Touch.DATA, 0.002)
    assert [w.names for w in dirty.take(9, 0.002)] == [{b"quiet": Touch.DATA}]
    assert dirty.next_due(0.002) == pytest.approx(0.018)
    assert dirty.oldest(0.002) == pytest.approx(0.001)
    assert dirty.take(9, 0.019) == []
    (work,) = dirty.take(9, 0.021)
    assert (work.names, work.since) == ({b"hot": Touch.DATA}, 0.001)


def looks(dirty: Dirty, seconds: float, until: float) -> list[float]:
    """When a name that is written to all the time is looked at, each look taking so long."""
    now, found = 0.0, []
    while now < until:
        dirty.add(1, b"image", Touch.DATA, now)
        if dirty.take(9, now):
            found.append(now)
            # Meanwhile it is written to, and its interval passes.
            dirty.add(1, b"image", Touch.DATA, now + 0.001)
            now += seconds
            dirty.take(0, now)
            dirty.cost(1, b"image", seconds, now)
        now += 0.05
    return found


def test_a_name_that_costs_much_is_looked_at_rarely() -> None:
    dirty = Dirty()
    found = looks(dirty, 4.0, 600.0)
    gaps = [b - a - 4.0 for a, b in pairwise(found)]
    assert gaps[:4] == pytest.approx([4.0, 8.0, 16.0, 32.0], abs=0.2)
    assert gaps[4:] == pytest.approx([PAUSE_LONGEST] * len(gaps[4:]), abs=0.2)
    # Left alone, it is anybody's equal again.
    dirty.take(9, 1e4)
    dirty.add(1, b"image", Touch.DATA, 1e4 + 1)
    assert dirty.take(9, 1e4 + 1)
    dirty.cost(1, b"image", 4.0, 1e4 + 5)
    dirty.add(1, b"image", Touch.DATA, 1e4 + 5)
    assert dirty.next_due(1e4 + 5) == pytest.approx(4.0)


def test_what_costs_little_is_paused_for_as_little() -> None:
    found = looks(Dirty(), 0.01, 30.0)
    assert all(b - a <= LONGEST + 0.06 for a, b in pairwise(found))


@pytest.mark.parametrize("touch", [Touch.NAME, Touch.ATTR, Touch.TREE])
def test_a_pause_is_of_writes_alone(touch: Touch) -> None:
    """What comes under the name instead is looked at as soon as ever."""
    for first in (Touch.DATA, touch):
        dirty = Dirty()
        dirty.add(1, b"f", Touch.DATA, 0.0)
        dirty.take(9, 0.0)
        dirty.add(1, b"f", first, 0.1)
        dirty.cost(1, b"f", 10.0, 10.0)
        assert bool(dirty.take(9, 11.0)) == (first != Touch.DATA)
        if first == Touch.DATA:
            dirty.add(1, b"f", touch, 11.0)
            assert dirty.next_due(11.0) == 0.0 or not dirty.next_due(11.0)
            assert [w.names for w in dirty.take(9, 11.0)] == [{b"f": touch | Touch.DATA}]


def test_who_waits_for_the_end_waits_for_no_pause() -> None:
    dirty = Dirty()
    dirty.add(1, b"f", Touch.DATA, 0.0)
    dirty.take(9, 0.0)
    dirty.add(1, b"f", Touch.DATA, 0.1)
    dirty.cost(1, b"f", 10.0, 10.0)
    assert dirty.take(9, 15.0) == []
    dirty.hurry()
    assert dirty.wait(None) is False
    assert [w.since for w in dirty.take(9, 15.0)] == [0.1]
    dirty.add(1, b"f", Touch.DATA, 16.0)
    dirty.cost(1, b"f", 10.0, 16.0)
    assert dirty.take(9, 16.0 + LONGEST)


def test_work_put_back_keeps_its_age_and_waits() -> None:
    dirty = Dirty()
    dirty.add(1, b"d", Touch.NAME | Touch.TREE, 1.0)
    dirty.add_dir(2, True, 1.0)
    works = dirty.take(9, 2.0)
    for work in works:
        dirty.put_back(work, 2.0)
    # Nor is a rescan tried again at once: what could not be done then can hardly be done now.
    assert dirty.take(9, 2.001) == []
    assert dirty.take(9, 2.5) == [works[0], works[1]]


def test_discard_forgets_a_directory() -> None:
    dirty = Dirty()
    dirty.add(1, b"a", Touch.DATA, 1.0)
    dirty.add(2, b"a", Touch.DATA, 1.0)
    dirty.discard(1)
    dirty.discard(5)
    assert dirty.count() == 1
    assert [w.ino for w in dirty.take(9, 2.0)] == [2]


def test_wait_ends_with_work_or_a_wake() -> None:
    dirty = Dirty()
    assert dirty.wait(0.0) is False
    dirty.wake()
    assert dirty.wait(None) is False
    thread = threading.Thread(target=dirty.add, args=(1, b"a", Touch.DATA, 1.0))
    thread.start()
    assert dirty.wait(None) is True
    thread.join()


def test_names_put_back_beyond_the_bound_keep_their_age() -> None:
    dirty = Dirty(max_names=1)
    dirty.add(1, b"a", Touch.DATA, 1.0)
    (work,) = dirty.take(9, 2.0)
    dirty.add(1, b"b", Touch.DATA, 3.0)
    dirty.put_back(work, 4.0)
    assert dirty.take(9, 9.0) == [Work(1, None, False, frozenset(), 1.0)]


OPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(0, 3),
            st.sampled_from([b"a", b"b", b"c", b"d"]),
            st.integers(1, 15),
        ),
        st.tuples(st.just("dir"), st.integers(0, 3), st.just(b""), st.integers(0, 1)),
        st.tuples(st.just("take"), st.integers(1, 4), st.just(b""), st.just(0)),
        st.tuples(st.just("back"), st.integers(1, 4), st.just(b""), st.just(0)),
    ),
    max_size=80,
)


@example(
    [("add", 1, b"a", 1), ("back", 1, b"", 0), ("dir", 1, b"", 0), ("back", 1, b"", 0)], [0.0] * 4
)
@given(OPS, st.lists(st.sampled_from([0.0, 0.001, 0.03, 0.5, 3.0]), min_size=80, max_size=80))
def test_every_touch_is_handed_out_once(
    ops: list[tuple[str, int, bytes, int]], gaps: list[float]
) -> None:
    dirty = Dirty(max_names=3)
    owed: dict[tuple[int, bytes], int] = {}
    now = 0.0

    def settle(works: list[Work]) -> None:
        for work in works:
            assert work.since <= now
            for ino, name in [key for key in owed if key[0] == work.ino]:
                if work.names is None:
                    tree = owed.pop((ino, name)) & Touch.TREE
                    assert not tree or work.recursive or name in work.trees
                elif name in work.names:
                    assert owed.pop((ino, name)) & ~work.names[name] == 0
                    assert (name in work.trees) == bool(work.names[name] & Touch.TREE)

    for (op, number, name, flags), gap in zip(ops, gaps, strict=False):
        now += gap
        if op == "add":
            dirty.add(number, name, flags, now)
            owed[number, name] = owed.get((number, name), 0) | flags
        elif op == "dir":
            dirty.add_dir(number, bool(flags), now)
            owed[number, b"*"] = 0
        elif op == "take":
            settle(dirty.take(number, now))
        else:
            for work in dirty.take(number, now):
                dirty.put_back(work, now)
        assert dirty.count() <= 4 * 3
        assert dirty.oldest(now) >= 0.0
        assert (dirty.next_due(now) is None) == (dirty.count() == 0)
    now += 10.0
    settle(dirty.take(10**6, now))
    assert owed == {}
    assert dirty.count() == 0


def test_both_names_of_a_rename_are_handed_out_together() -> None:
    dirty = Dirty()
    for now in (0.0, 0.001):
        dirty.add(1, b"hot", Touch.DATA, now)
        dirty.take(10, now)
    dirty.add_all([(1, b"hot", 4), (2, b"new", 4)], 0.002, [((1, b"hot"), (2, b"new"))])
    works = {work.ino: work.names for work in dirty.take(10, 0.002)}
    # What was written under the one may be met under the other.
    both = Touch.DATA | Touch.NAME
    assert works == {1: {b"hot": both}, 2: {b"new": both}}
    assert dirty.count() == 0 and dirty.next_due(0.002) is None


def test_a_chain_of_renames_is_handed_out_as_one_though_there_are_more_than_asked_for() -> None:
    dirty = Dirty()
    places = [(n, b"x") for n in range(1, 6)]
    dirty.add_all([(*p, 4) for p in places], 0.0, pairwise(places))
    assert {work.ino for work in dirty.take(1, 0.0)} == {1, 2, 3, 4, 5}
    assert dirty.take(9, 9.0) == []
    dirty.add(1, b"x", Touch.NAME, 10.0)  # nothing is left of the pairs
    assert [work.ino for work in dirty.take(9, 10.0)] == [1]


def test_names_that_change_places_for_days_take_no_memory_for_each_pair() -> None:
    dirty = Dirty()
    places = [(1, b"%d" % n) for n in range(300)]
    dirty.add_all([(*place, Touch.NAME) for place in places], 0.0)
    tracemalloc.start()
    dirty.add_all([], 0.0, combinations(places, 2))
    took, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1000 * len(places)
    (work,) = dirty.take(1, 0.0)
    assert len(work.names or ()) == len(places)


def test_what_is_between_two_names_may_go_and_they_stay_together() -> None:
    dirty = Dirty()
    for ino in range(1, 4000, 2):
        places = [(1, b"a"), (ino + 1, b"between"), (1, b"b")]
        dirty.add_all([(*place, Touch.NAME) for place in places], 0.0, pairwise(places))
        dirty.discard(ino + 1)
    assert len(dirty._renamed) < 2000
    (work,) = dirty.take(1, 0.0)
    assert set(work.names or ()) == {b"a", b"b"}


@pytest.mark.parametrize("end", [Dirty.discard, lambda dirty, ino: dirty.add_dir(ino, False, 1.0)])
def test_renames_of_what_went_otherwise_are_forgotten(end: Callable[[Dirty, int], None]) -> None:
    """Though there is always something dirty."""
    dirty = Dirty()
    dirty.add(1, b"waits", Touch.DATA, 0.0)
    for ino in range(2, 9000):
        pair = (ino, b"a"), (ino, b"b")
        dirty.add_all([(*place, Touch.NAME) for place in pair], 1.0, [pair])
        end(dirty, ino)
    assert len(dirty._renamed) < 2000
    dirty.add_all([(1, b"a", Touch.NAME), (1, b"b", Touch.NAME)], 1.0, [((1, b"a"), (1, b"b"))])
    dirty.take(1, 2.0)
    (work,) = dirty.take(1, 2.0)
    assert set(work.names or ()) == {b"a", b"b"}


def test_what_is_being_written_waits_for_its_close() -> None:
    dirty = Dirty()
    dirty.add(1, b"f", Touch.NAME | Touch.WRITING, 10.0)
    assert dirty.take(9, 10.0) == []
    assert dirty.next_due(10.0) == pytest.approx(CLOSING)
    dirty.add(1, b"f", Touch.DATA | Touch.WRITING, 10.001)
    assert dirty.take(9, 10.001) == []
    dirty.add(1, b"f", Touch.DATA | Touch.CLOSED, 10.002)
    (work,) = dirty.take(9, 10.002)
    assert work == Work(1, {b"f": Touch.NAME | Touch.DATA}, False, frozenset(), 10.0)
    assert dirty.next_due(10.002) is None


def test_what_is_not_closed_soon_is_handed_out_and_again_at_once_when_it_is() -> None:
    dirty = Dirty()
    dirty.add(1, b"f", Touch.DATA | Touch.WRITING, 10.0)
    now = 10.0 + CLOSING
    assert len(dirty.take(9, now)) == 1
    dirty.add(1, b"f", Touch.DATA | Touch.WRITING, now)
    dirty.add(1, b"f", Touch.DATA | Touch.CLOSED, now + 0.001)
    assert len(dirty.take(9, now + 0.001)) == 1
    # Neither the second of these steps nor the stale time of the hold makes room for a third.
    dirty.add(1, b"f", Touch.DATA | Touch.CLOSED, now + 0.002)
    assert dirty.take(9, now + 0.001 + SHORTEST - 1e-6) == []
    assert len(dirty.take(9, now + 0.001 + SHORTEST)) == 1


def test_a_file_that_is_opened_written_and_closed_on_and_on_is_handed_out_at_a_bounded_rate() -> (
    None
):
    dirty = Dirty()
    taken = 0
    for step in range(20_000):
        now = step * 0.001
        way = Touch.WRITING if step % 2 else Touch.CLOSED
        dirty.add(1, b"log", Touch.DATA | way, now)
        taken += len(dirty.take(9, now))
    assert taken <= 2 * (20 / LONGEST + 10)


def test_a_file_that_is_saved_now_and_then_never_waits() -> None:
    dirty = Dirty()
    for step in range(100):
        now = step * 0.1
        dirty.add(1, b"f", Touch.DATA | Touch.WRITING, now)
        dirty.add(1, b"f", Touch.DATA | Touch.CLOSED, now + 0.001)
        assert len(dirty.take(9, now + 0.001)) == 1


@pytest.mark.parametrize("held", [False, True])
def test_own_attributes_that_are_read_anyway_are_spared(held: bool) -> None:
    dirty = Dirty()
    if held:
        dirty.add(1, b"d", Touch.ATTR, 9.999)
        dirty.take(9, 9.999)
    dirty.add(1, b"d", Touch.ATTR, 10.0)
    dirty.add(1, b"e", Touch.ATTR | Touch.NAME, 10.0)
    for name in (b"d", b"e", b"f"):
        dirty.spare(1, name)
    dirty.spare(2, b"d")
    assert dirty.count() == 1
    assert [work.names for work in dirty.take(9, 11.0)] == [{b"e": Touch.ATTR | Touch.NAME}]
    dirty.add(1, b"d", Touch.ATTR, 12.0)
    dirty.spare(1, b"d")
    assert (dirty.count(), dirty.take(9, 13.0), dirty.next_due(13.0)) == (0, [], None)
    dirty.add_dir(1, False, 14.0)
    dirty.spare(1, b"d")
    assert len(dirty.take(9, 14.0)) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["touch", "write", "close"]), st.integers(0, 5)),
        st.tuples(st.just("dir"), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["mark", "back"]), st.just(0)),
        st.tuples(st.just("later"), st.integers(1, 50)),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_mark_overtakes_what_was_touched_before_it(steps: list[tuple[str, int]]) -> None:
    """Against a list of touches by name, each with its time, from which what is taken is crossed
    off; it comes back as old as it was."""
    dirty = Dirty(max_names=1)
    now = told = 0.0
    left: dict[tuple[int, bytes], float] = {}
    marks: list[float] = []
    last: list[Work] = []
    ways = {"touch": 0, "write": Touch.WRITING.value, "close": Touch.CLOSED.value}
    for what, n in steps:
        now += 0.0001
        key = (n % 3, b"%d" % n)
        if what in ways:
            dirty.add(*key, Touch.DATA | ways[what], now)
            left.setdefault(key, now)
        elif what == "dir":
            dirty.add_dir(n, False, now)
            left.setdefault((n, b""), now)
        elif what == "take":
            last = dirty.take(n, now)
            for work in last:
                for other in [k for k in left if k[0] == work.ino]:
                    if work.names is None or other[1] in work.names:
                        del left[other]
        elif what == "back" and last:
            for work in last:
                dirty.put_back(work, now)
                for name in work.names or (b"",):
                    left[work.ino, name] = min(left.get((work.ino, name), now), work.since)
            last = []
        elif what == "mark":
            dirty.mark(now, now)
            marks.append(now)
        elif what == "later":
            now += n / 1000
        if (stamp := dirty.passed()) is not None:
            assert told < stamp and all(since >= stamp for since in left.values())
            told = stamp
    while dirty.count():
        now += 1.0
        dirty.take(9, now)
    assert max([told, *marks]) == (dirty.passed() or told)
