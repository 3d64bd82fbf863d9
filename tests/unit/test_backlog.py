"""Names on disk: nothing touched is lost on the way there and back, and memory keeps its bound."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.fs.coalesce import Dirty
from i2node.fs.touch import Touch, Work
from i2node.repl.backlog import Backlog

ROOT = 77
NONE: frozenset[bytes] = frozenset()


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    made = Backlog(tmp_path / "backlog.db", ROOT, batch=4, most=24)
    yield made
    made.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def written() -> None:
    """Waits until the writers have nothing more to write."""
    for thread in threading.enumerate():
        if thread.name == "backlog":
            thread.join()


def fill(backlog: Backlog, ino: int, names: range, since: float) -> None:
    for n in names:
        assert backlog.add(ino, b"%d" % n, Touch.DATA, since)


def emptied(backlog: Backlog) -> list[Work]:
    """All that is left, in rounds."""
    works: list[Work] = []
    while some := backlog.take(2, 100):
        works += some
        backlog.taken()
    assert (backlog.count(), backlog.oldest()) == (0, None)
    return works


def test_a_name_is_found_in_memory_and_on_disk(backlog: Backlog) -> None:
    fill(backlog, 1, range(4), 1.0)
    written()
    fill(backlog, 2, range(1), 2.0)
    assert backlog.add(1, b"0", Touch.TREE, 3.0)
    assert backlog.find(1, b"0") == (Touch.DATA | Touch.TREE, 1.0)
    assert backlog.find(1, b"3") == (Touch.DATA, 1.0)
    assert backlog.find(2, b"0") == (Touch.DATA, 2.0)
    assert backlog.find(1, b"4") is backlog.find(3, b"0") is None
    backlog.discard(1)
    assert backlog.find(1, b"0") is None
    assert backlog.add(1, b"0", Touch.NAME, 4.0)
    assert backlog.find(1, b"0") == (Touch.NAME, 4.0)
    emptied(backlog)
    assert backlog.find(1, b"0") is backlog.find(2, b"0") is None
    backlog.close()
    assert backlog.find(2, b"0") is None


def test_touches_of_a_name_are_one_wherever_they_are(backlog: Backlog) -> None:
    fill(backlog, 1, range(4), 1.0)
    written()
    fill(backlog, 2, range(2), 2.0)
    assert backlog.add(1, b"0", Touch.TREE, 3.0)
    assert backlog.add(2, b"0", Touch.NAME | Touch.TREE, 3.0)
    assert backlog.oldest() == 1.0
    names = {b"%d" % n: Touch.DATA for n in range(4)} | {b"0": Touch.DATA | Touch.TREE}
    assert backlog.take(1, 100) == [Work(1, names, False, frozenset([b"0"]), 1.0)]
    assert backlog.count() == 6  # what was handed back is counted until it was said to be
    backlog.taken()
    assert (backlog.count(), backlog.oldest()) == (2, 2.0)
    touches = {b"0": Touch.DATA | Touch.NAME | Touch.TREE, b"1": Touch.DATA}
    assert backlog.take(9, 100) == [Work(2, touches, False, frozenset([b"0"]), 2.0)]


def test_a_row_is_touched_again(backlog: Backlog) -> None:
    for touch in (Touch.DATA, Touch.ATTR, Touch.DATA):
        for n in range(4):
            assert backlog.add(1, b"%d" % n, touch, float(touch))
        written()
    assert backlog.count() == 4
    (work,) = emptied(backlog)
    assert work.names == {b"%d" % n: Touch.DATA | Touch.ATTR for n in range(4)}
    assert work.since == float(Touch.DATA)


def test_the_oldest_directory_comes_first_and_the_file_goes_with_the_last(
    backlog: Backlog,
) -> None:
    huge = (1 << 64) - 5
    assert not backlog.file.exists()
    for since, ino in enumerate((9, huge, 3, 5)):
        fill(backlog, ino, range(4), float(since))
    written()
    assert backlog.file.exists()
    assert [work.ino for work in emptied(backlog)] == [9, huge, 3, 5]
    assert list(backlog.file.parent.iterdir()) == []
    fill(backlog, 6, range(4), 9.0)
    written()
    assert [work.ino for work in emptied(backlog)] == [6]


def test_little_is_not_written(backlog: Backlog) -> None:
    fill(backlog, 1, range(3), 1.0)
    written()
    assert not backlog.file.exists()
    assert [work.ino for work in emptied(backlog)] == [1]


def test_a_directory_with_too_many_names_comes_back_whole(backlog: Backlog) -> None:
    fill(backlog, 1, range(12), 1.0)
    for n in (3, 7):
        assert backlog.add(1, b"%d" % n, Touch.TREE, 2.0)
    written()
    assert backlog.add(1, b"new", Touch.TREE, 3.0)
    fill(backlog, 2, range(4), 4.0)
    written()
    trees = frozenset([b"3", b"7", b"new"])
    assert backlog.take(2, 10)[0] == Work(1, None, False, trees, 1.0)


def test_a_directory_that_was_dropped_does_not_come_back(backlog: Backlog) -> None:
    fill(backlog, 1, range(4), 1.0)
    fill(backlog, 2, range(4), 2.0)
    written()
    fill(backlog, 1, range(4, 6), 3.0)
    backlog.discard(1)
    fill(backlog, 1, range(9, 10), 5.0)
    works = emptied(backlog)
    assert [(work.ino, work.since) for work in works] == [(2, 2.0), (1, 5.0)]
    assert works[1].names == {b"9": Touch.DATA}
    for n in range(3):
        fill(backlog, 10 + n, range(4), 1.0)
    written()
    for n in range(4):  # enough to be written by themselves
        backlog.discard(10 + n)
    written()
    assert (backlog.count(), backlog.oldest()) == (0, None)


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    for name in ("backlog.db", "backlog.db-journal"):
        (tmp_path / name).write_bytes(b"left")
    Backlog(tmp_path / "backlog.db", ROOT).close()
    assert list(tmp_path.iterdir()) == []


def test_closing_removes_the_file_and_leaves_the_count(backlog: Backlog) -> None:
    fill(backlog, 1, range(6), 1.0)
    backlog.close()
    assert list(backlog.file.parent.iterdir()) == []
    assert backlog.count() == 6
    assert not backlog.add(1, b"more", Touch.DATA, 2.0)
    assert backlog.take(9, 9) == []


def test_a_full_disk_leaves_names_in_memory_and_is_told_once(
    full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    backlog = Backlog(full / "backlog.db", ROOT, batch=200)
    dirty = Dirty(in_memory=100)
    dirty.spill_to(backlog)
    for n in range(4000):
        name = b"%0200d" % n
        dirty.add(n // 10, name, Touch.DATA, 1.0 + n)
        if n % 200 == 0:
            written()
    written()
    assert [line.split()[0] for line in caplog.messages] == ["backlog-failed"]
    assert "full" in caplog.text
    owed = {n // 10: {b"%0200d" % m for m in range(n, n + 10)} for n in range(0, 4000, 10)}
    exact = 0
    while works := dirty.take(150, 9999.0):
        for work in works:
            if work.names is None:
                owed.pop(work.ino, None)
            else:
                exact += len(work.names)
                owed[work.ino] = owed.get(work.ino, set()) - work.names.keys()
    assert not any(owed.values())
    assert exact > 200  # what was there before it was full, and what was on the way
    assert dirty.count() == 0
    # There is room again, so it is used again.
    for n in range(400):
        dirty.add(1, b"%d" % n, Touch.DATA, 9999.0)
    written()
    assert backlog.file.exists()
    backlog.close()


def test_a_file_that_cannot_be_changed_tells_its_directories(
    full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backlog = Backlog(full / "backlog.db", ROOT, batch=1000)
    for n in range(1000):
        assert backlog.add(n % 4, b"%060d" % n, Touch.TREE if n == 5 else Touch.DATA, 1.0 + n)
    written()
    # Not even room for undoing is left.
    with (full / "other").open("wb", buffering=0) as other, pytest.raises(OSError):
        while True:
            other.write(bytes(4096))
    works = backlog.take(9, 9999)
    assert [(w.ino, w.names, w.since) for w in works] == [(n, None, 1.0 + n) for n in range(4)]
    assert [w.trees for w in works] == [NONE, frozenset([b"%060d" % 5]), NONE, NONE]
    backlog.taken()
    assert backlog.count() == 0
    assert list(full.iterdir()) == [full / "other"]
    assert "backlog-failed" in caplog.text


def test_a_file_that_cannot_be_read_costs_a_look_at_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backlog = Backlog(tmp_path / "backlog.db", ROOT, batch=8192)
    for n in range(4 * 8192):
        assert backlog.add(n % 1000, b"%0250d" % n, Touch.DATA, 1.0 + n)
        backlog.pause()
    written()
    size = backlog.file.stat().st_size
    assert size > 5 << 20  # more than it keeps in memory
    backlog.file.write_bytes(b"\xff" * size)
    assert backlog.take(99999, 9999)[0] == Work(ROOT, None, True, NONE, 1.0)
    backlog.taken()
    assert backlog.count() == 0
    assert "backlog-failed" in caplog.text
    backlog.close()


class Failing(Backlog):
    """A disk that fails in the midst of writing, while a directory goes."""

    fails = False

    def _forget(self, db: sqlite3.Connection, inos: set[int]) -> int:
        if not self.fails:
            return super()._forget(db, inos)
        db.execute("INSERT INTO name VALUES(99, x'61', 1)")
        self.discard(2)
        raise sqlite3.OperationalError("disk I/O error")


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    backlog = Failing(tmp_path / "backlog.db", ROOT, batch=4)
    fill(backlog, 1, range(4), 1.0)
    fill(backlog, 5, range(4), 1.5)
    written()
    backlog.discard(1)
    backlog.fails = True
    fill(backlog, 2, range(1), 2.0)
    fill(backlog, 3, range(2), 3.0)
    written()
    backlog.fails = False
    assert not backlog.add(4, b"a", Touch.DATA, 4.0)
    assert backlog.add(3, b"1", Touch.ATTR, 4.0)
    assert backlog.oldest() == 1.0
    works = emptied(backlog)
    assert [(work.ino, work.since) for work in works] == [(5, 1.5), (3, 3.0)]
    assert works[0].names == {b"%d" % n: Touch.DATA for n in range(4)}
    assert works[1].names == {b"0": Touch.DATA, b"1": Touch.DATA | Touch.ATTR}
    backlog.close()


def test_what_was_handed_back_keeps_its_age_until_it_is_taken(backlog: Backlog) -> None:
    fill(backlog, 1, range(4), 1.0)
    fill(backlog, 2, range(4), 2.0)
    written()
    assert len(backlog.take(8, 100)) == 2
    assert (backlog.count(), backlog.oldest()) == (8, 1.0)
    backlog.taken()
    assert (backlog.count(), backlog.oldest()) == (0, None)


def test_nobody_who_adds_waits_for_the_disk(backlog: Backlog) -> None:
    dirty = Dirty(in_memory=9)
    dirty.spill_to(backlog)
    for n in range(20):
        dirty.add(1, b"%d" % n, Touch.DATA, 1.0)
    written()
    started = threading.Event()
    taken: list[Work] = []

    def take() -> None:
        started.set()
        while works := dirty.take(99, 2.0):
            taken.extend(works)

    with backlog._disk:  # a disk that does not answer
        thread = threading.Thread(target=take)
        thread.start()
        started.wait()
        for n in range(100):
            dirty.add(2, b"%d" % n, Touch.DATA, 2.0)
        assert dirty.count() > 20
        assert dirty.oldest(3.0) == 2.0
    thread.join()
    written()
    taken += dirty.take(999, 3.0)
    assert any(work.ino == 2 for work in taken)
    names = {name for work in taken if work.ino == 1 for name in work.names or ()}
    assert names == {b"%d" % n for n in range(20)}


def test_many_add_while_one_takes(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path / "backlog.db", ROOT, batch=64)
    dirty = Dirty(in_memory=200)
    dirty.spill_to(backlog)
    left = 3
    seen: set[tuple[int, bytes]] = set()
    whole: set[int] = set()

    def add(part: int) -> None:
        nonlocal left
        for n in range(part, 30_000, 60):
            dirty.add_all([(m // 20, b"%d" % m, 1) for m in range(n, n + 60, 3)], 1.0)
        left -= 1

    threads = [threading.Thread(target=add, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    now = 1.0
    while left or dirty.count():
        now += 0.1
        for work in dirty.take(500, now):
            whole.update([work.ino] if work.names is None else [])
            seen.update((work.ino, name) for name in work.names or ())
    for thread in threads:
        thread.join()
    backlog.close()
    missing = {(m // 20, b"%d" % m) for m in range(30_000)} - seen
    assert {ino for ino, _ in missing} <= whole


NAMES = [b"", b"a", b"b", b"\xff", b"d", b"e", b"f"]
DIRS = st.sampled_from([0, 1, 2, 3, (1 << 64) - 1])
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), DIRS, st.sampled_from(NAMES), st.integers(1, 15)),
        st.tuples(st.just("all"), DIRS, st.just(b""), st.integers(1, 15)),
        st.tuples(st.just("dir"), DIRS, st.just(b""), st.integers(0, 1)),
        st.tuples(st.just("take"), st.integers(1, 4), st.just(b""), st.just(0)),
        st.tuples(st.just("back"), st.integers(1, 4), st.just(b""), st.just(0)),
        st.tuples(st.just("gone"), DIRS, st.just(b""), st.just(0)),
        st.tuples(st.just("written"), st.just(0), st.just(b""), st.just(0)),
    ),
    max_size=120,
)


@given(
    OPS,
    st.lists(st.sampled_from([0.0, 0.001, 0.03, 0.5, 3.0]), min_size=120, max_size=120),
    st.integers(3, 9),
)
def test_every_touch_is_handed_out_with_what_was_spilled(
    ops: list[tuple[str, int, bytes, int]], gaps: list[float], most: int
) -> None:
    # Each kind of touch by itself: some of a name's may be on disk while others are not.
    owed: dict[tuple[int, bytes, int], float] = {}
    lives: dict[int, set[bytes]] = {}  # what was touched in a directory since it went last
    now = 0.0

    def touch(dirty: Dirty, ino: int, names: list[bytes], flags: int) -> None:
        dirty.add_all([(ino, name, flags) for name in names], now)
        for name in names:
            for kind in Touch(flags):
                owed.setdefault((ino, name, kind), now)
            lives.setdefault(ino, set()).add(name)

    def settle(works: list[Work]) -> None:
        for work in works:
            if work.names is not None:
                assert work.names.keys() <= lives[work.ino]
                assert work.trees == {n for n, t in work.names.items() if t & Touch.TREE}
            for key in [key for key in owed if key[0] == work.ino]:
                _, name, kind = key
                if work.names is not None:
                    done = bool(work.names.get(name, 0) & kind)
                else:
                    done = kind != Touch.TREE or work.recursive or name in work.trees
                # What is older is still to come, from where it was spilled to.
                if done and work.since <= owed[key]:
                    del owed[key]

    with tempfile.TemporaryDirectory() as place:
        backlog = Backlog(Path(place) / "backlog.db", ROOT, batch=3, most=9)
        # A directory weighs as much as seven names, so there is room for one or two of them.
        dirty = Dirty(max_names=most, in_memory=9)
        dirty.spill_to(backlog)
        held = 0
        for (op, number, name, flags), gap in zip(ops, gaps, strict=False):
            now += gap
            if op == "add":
                touch(dirty, number, [name], flags)
            elif op == "all":
                touch(dirty, number, NAMES, flags)
            elif op == "dir":
                dirty.add_dir(number, bool(flags), now)
                owed.setdefault((number, b"*", 0), now)
                held += 1
            elif op == "take":
                settle(dirty.take(number, now))
            elif op == "back":
                for work in dirty.take(number, now):
                    held += 1 if work.names is None else len(work.names)
                    dirty.put_back(work, now)
            elif op == "gone":
                dirty.discard(number)
                lives.pop(number, None)
                for key in [key for key in owed if key[0] == number]:
                    del owed[key]
            else:
                written()
            assert (dirty.next_due(now) is None) == (dirty.count() == 0)
            assert dirty.count() >= len({ino for ino, _, _ in owed})
            assert dirty.oldest(now) >= now - min(owed.values(), default=now)
            # What was put back was in memory before; all else is bound.
            fetched = 6 + most
            assert dirty.count() - backlog.count() <= 9 + fetched + held
        now += 10.0
        while works := dirty.take(2, now):
            settle(works)
            now += 10.0
        assert owed == {}
        assert dirty.count() == 0
        backlog.close()
