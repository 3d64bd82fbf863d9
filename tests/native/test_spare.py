"""What is lost is counted, and refused where it is too much, before anything of it is done."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inplace import JOURNAL, SIZE, begin, clone, noise, seal, spot
from inplace import target as in_place
from test_apply import Target, fifo, link, make_dir, needs_root, put, target
from test_fresh import any_step, assert_counted, shown
from test_stage import stage, staged, write
from trees import snapshot

from i2node.mover import batch
from i2node.mover.batch import Applied, Op, step

__all__ = ["in_place", "spot", "target"]

BIG = 5000
"""Bytes of a file that counts when it is cut."""


def names(root: Path) -> int:
    return len(snapshot(root)) - 1


def large(path: bytes, size: int) -> list[bytes]:
    return [stage(), write(0, b"n" * size), staged(path, size)]


def remove(path: bytes) -> bytes:
    return step(Op.REMOVE, path)


def rename(path: bytes, other: bytes) -> bytes:
    return step(Op.RENAME, path, other)


# What stands there: d with a directory of three files in it, six names below d; big, small and
# twin, which is big's other name; two, which is not.
LOSSES: dict[str, tuple[list[bytes], int, int, int]] = {
    # steps: gained, lost, shrunk
    "a file": ([remove(b"small")], 0, 1, 0),
    "a large file": ([remove(b"big")], 0, 1, 0),
    "an empty directory": ([remove(b"empty")], 0, 1, 0),
    "a tree": ([remove(b"d")], 0, 7, 0),
    "a name over another": ([rename(b"small", b"two")], 0, 1, 0),
    "a smaller file over a larger": ([rename(b"small", b"big")], 0, 1, 1),
    "a name over its twin": ([rename(b"big", b"twin")], 0, 1, 0),
    "a directory over an empty one": ([rename(b"d", b"empty")], 0, 1, 0),
    "a file over a tree": ([rename(b"small", b"d")], 0, 7, 0),
    "a directory over a tree": ([rename(b"empty", b"d")], 0, 7, 0),
    "a file for a tree": ([put(b"d")], 0, 6, 0),
    "a symlink for a tree": ([link(b"d", b"x")], 0, 6, 0),
    "a pipe for a tree": ([fifo(b"d")], 0, 6, 0),
    "a hard link for a tree": ([step(Op.LINK, b"d", b"small")], 0, 6, 0),
    "a large file for a tree": (large(b"d", BIG), 0, 6, 0),
    "a file cut": ([put(b"big", b"n" * (BIG // 2 - 1))], 0, 0, 1),
    "a large file cut": (large(b"big", BIG // 2 - 1), 0, 0, 1),
    "a symlink for a file": ([link(b"big", b"x")], 0, 0, 1),
    "a pipe for a file": ([fifo(b"big")], 0, 0, 1),
    "a directory for a file": ([make_dir(b"big")], 0, 0, 1),
    "a hard link for a file": ([step(Op.LINK, b"big", b"small")], 0, 0, 1),
}
FREE: dict[str, tuple[list[bytes], int]] = {
    "a file": ([put(b"new")], 1),
    "a fresh directory": ([make_dir(b"n"), put(b"n/a"), make_dir(b"n/b"), put(b"n/b/c")], 4),
    "a directory": ([make_dir(b"n")], 1),
    "a directory that is there": ([make_dir(b"d")], 0),
    "a symlink": ([link(b"new", b"x")], 1),
    "a pipe": ([fifo(b"new")], 1),
    "a hard link": ([step(Op.LINK, b"new", b"small")], 1),
    "a hard link that is there": ([step(Op.LINK, b"twin", b"big")], 0),
    "a large file": (large(b"new", BIG), 1),
    "half a file": ([put(b"big", b"n" * (BIG // 2))], 0),
    "a small file cut": ([put(b"small", b"")], 0),
    "a symlink for a small file": ([link(b"small", b"x")], 0),
    "a name": ([rename(b"d", b"e")], 0),
    "a name onto itself": ([rename(b"small", b"small")], 0),
    "an exchange": ([step(Op.EXCHANGE, b"big", b"d")], 0),
    "what is not there": ([remove(b"no"), remove(b"no/no")], 0),
}


def stand(root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in ("d/1", "d/2", "d/e/1", "d/e/2", "d/e/3", "small", "two"):
        (root / name).write_bytes(b"was")
    (root / "big").write_bytes(b"b" * BIG)
    for path in root.rglob("*"):
        os.utime(path, (7, 7))
    os.link(root / "big", root / "twin")


def counts(done: Applied) -> tuple[int, int, int]:
    return done.gained, done.lost, done.shrunk


@pytest.mark.parametrize("what", LOSSES)
def test_each_way_to_lose_at_its_border(target: Target, what: str) -> None:
    steps, gained, lost, shrunk = LOSSES[what]
    stand(target.root)
    before, payload = snapshot(target.root), b"".join(steps)
    cost = lost + shrunk - gained
    for spare in range(cost):
        done = batch.apply(*target.fds, payload, spare=spare)
        (fault,) = done.faults
        assert (fault.status, fault.fatal, fault.step) == (errno.ECANCELED, True, len(steps) - 1)
        assert spare < done.wanted <= cost
        assert counts(done) == (0, 0, 0) and snapshot(target.root) == before
        payload = steps[-1]  # as whoever waits goes on, with what is staged
        steps = [payload]
    done = batch.apply(*target.fds, payload, spare=cost)
    assert done.faults == [] and done.wanted == 0
    assert counts(done) == (gained, lost, shrunk)
    assert names(target.root) == len(before) - 1 + gained - lost


@pytest.mark.parametrize("what", FREE)
def test_what_loses_nothing_needs_no_budget(target: Target, what: str) -> None:
    steps, gained = FREE[what]
    stand(target.root)
    had = names(target.root)
    done = batch.apply(*target.fds, b"".join(steps), spare=0)
    assert done.faults == [] and counts(done) == (gained, 0, 0)
    assert names(target.root) == had + gained


def test_what_came_before_is_spent(target: Target) -> None:
    """Gains and losses of one call are weighed against each other, as they come."""
    stand(target.root)
    steps = [put(b"n%d" % i) for i in range(3)] + [remove(b"n%d" % i) for i in range(3)]
    done = batch.apply(*target.fds, b"".join([*steps, remove(b"small"), put(b"m")]), spare=0)
    assert done.done == 6 and counts(done) == (3, 3, 0) and done.wanted == 1
    done = batch.apply(*target.fds, b"".join([remove(b"small"), put(b"m")]), spare=0)
    assert done.done == 0, "what comes later does not count before"


def test_what_nobody_sees_yet_cannot_be_spent(target: Target) -> None:
    stand(target.root)
    steps = [make_dir(b"n"), put(b"n/1"), put(b"n/2"), put(b"big", b"")]
    done = batch.apply(*target.fds, b"".join(steps), spare=0)
    assert done.done == 3 and counts(done) == (3, 0, 0)
    assert (target.root / "big").stat().st_size == BIG
    assert batch.apply(*target.fds, steps[3], spare=done.gained).faults == []


def test_a_tree_deeper_than_anything_open_is_counted(target: Target) -> None:
    path = b"/".join([b"level"] * 100)
    for end in range(100):
        target.apply(make_dir(b"/".join([b"level"] * (end + 1))), put(path[: end * 6] + b"f"))
    before = snapshot(target.root)
    assert names(target.root) == 200
    done = batch.apply(*target.fds, remove(b"level"), spare=198)
    assert done.wanted == 199 and snapshot(target.root) == before
    assert batch.apply(*target.fds, remove(b"level"), spare=199).lost == 199
    assert os.listdir(target.root) == ["f"]


def test_a_wide_tree_is_counted_no_further_than_it_matters(target: Target) -> None:
    for i in range(30):
        (target.root / "w" / str(i)).mkdir(parents=True)
        for j in range(100):
            (target.root / "w" / str(i) / str(j)).touch()
    assert batch.apply(*target.fds, remove(b"w"), spare=500).wanted == 502
    assert batch.apply(*target.fds, remove(b"w"), spare=3030).wanted == 3031
    assert batch.apply(*target.fds, remove(b"w"), spare=3031).lost == 3031


@needs_root
def test_a_tree_that_goes_only_in_part_is_counted_as_far_as_it_went(target: Target) -> None:
    """What is mounted in it stays."""
    for name in ("a", "b", "m", "y", "z"):
        (target.root / "d" / name).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", target.root / "d" / "m"], check=True)
    try:
        done = batch.apply(*target.fds, remove(b"d"), spare=10)
        assert [f.status in (errno.EBUSY, errno.EXDEV) for f in done.faults] == [True]
        assert done.lost == 6 - names(target.root)
    finally:
        subprocess.run(["umount", target.root / "d" / "m"], check=True)


@needs_root
@pytest.mark.root
def test_a_file_that_is_cut_in_place(in_place: Target) -> None:
    path = in_place.root / "f"
    have = begin(in_place, noise(0, SIZE))
    start, end = clone(have) + write(8192, b"new"), staged(b"f", SIZE // 2 - 1)
    refused = batch.apply(*in_place.fds, start + end, spare=0)
    assert (refused.done, refused.wanted, counts(refused)) == (2, 1, (0, 0, 0))
    assert path.stat().st_size == SIZE and (in_place.stage / JOURNAL).exists()
    done = batch.apply(*in_place.fds, end, spare=1)
    assert done.faults == [] and counts(done) == (0, 0, 1)
    assert path.stat().st_size == SIZE // 2 - 1 and path.stat().st_ino == have.st_ino
    assert os.listdir(in_place.stage) == []


@needs_root
@pytest.mark.root
def test_what_is_sealed_is_finished_whatever_may_be_lost(in_place: Target) -> None:
    """It was weighed before that: by now the file is neither old nor new."""
    have = begin(in_place, noise(0, SIZE))
    end = staged(b"f", 3000)
    seal(in_place, [write(1000, b"new")], end)
    done = batch.apply(*in_place.fds, end, spare=0)
    assert done.faults == [] and counts(done) == (0, 0, 0)
    assert (in_place.root / "f").stat().st_size == 3000 < have.st_size


cut_or_grown = st.builds(
    lambda path, size: put(path, b"x" * size), st.sampled_from([b"a", b"b/a"]), st.integers(0, 9000)
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_step | cut_or_grown, max_size=14), st.integers(0, 4))
def test_whatever_comes_no_more_goes_than_may(
    tmp_path: Path, steps: list[bytes], spare: int
) -> None:
    """And what is refused is not begun: the tree is as if the call had ended before it."""
    made, other = (Target(Path(tempfile.mkdtemp(dir=tmp_path))) for _ in range(2))
    for one in (made, other):
        stand(one.root)
        one.apply(make_dir(b"a"), put(b"a/a"), put(b"a/b", b"x" * BIG), make_dir(b"b"))
    had = names(made.root)
    done = batch.apply(*made.fds, b"".join(steps), spare=spare)
    assert done.lost + done.shrunk - done.gained <= spare
    assert_counted(steps, names(made.root) - had, done)
    assert (done.wanted > 0) == (done.done < len(steps))
    if done.wanted:
        batch.apply(*other.fds, b"".join(steps[: done.done]))
        assert shown(made.root) == shown(other.root)
    for one in (made, other):
        one.close()
        shutil.rmtree(one.root.parent)
