"""How many bytes trees hold: at once as a bound, later as counted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from i2node.node.space import AT_ONCE, FRESH_S, Counts, Need

PATIENCE = 30.0


def counted(counts: Counts, trees: list[Path], excludes: list[bytes] | None = None) -> Need:
    """What is told when it was counted."""
    deadline = time.monotonic() + PATIENCE
    names = [os.fsencode(tree) for tree in trees]
    while (need := counts.need(names, excludes or [], 0.5)).estimated:
        assert time.monotonic() < deadline
    return need


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name, size in (("a", 1000), ("in/b", 200), ("in/deep/c", 30), ("out/d", 4)):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes(size))
    return tree


def test_what_is_excluded_needs_no_room(tree: Path) -> None:
    counts = Counts()
    assert counted(counts, [tree]) == Need(1234, False)
    assert counted(counts, [tree], [os.fsencode(tree / "in") + b"/", b"out"]) == Need(1000, False)
    assert counted(counts, [tree / "in"], [os.fsencode(tree) + b"/"]) == Need(0, False)


def test_trees_within_others_count_once(tree: Path) -> None:
    assert counted(Counts(), [tree, tree / "in" / "deep", tree / "in", tree]) == Need(1234, False)


def test_a_file_and_a_link_are_trees_too(tree: Path) -> None:
    (tree.parent / "link").symlink_to("tree/in")
    assert counted(Counts(), [tree / "a", tree.parent / "link"]) == Need(1230, False)


def test_what_is_not_there_is_told(tree: Path) -> None:
    missing = tree / "none"
    assert counted(Counts(), [tree, missing]) == Need(1234, False, (os.fsencode(missing),))


def test_the_disk_bounds_what_files_pretend(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 43)
    held = os.statvfs(tree)
    need = counted(Counts(), [tree])
    assert need.size < 1 << 43
    assert need.size <= held.f_blocks * held.f_frsize


def test_an_answer_does_not_wait_for_the_count(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is held up, as by a disk with very many files; the bound is the file system's."""
    held, release = [], []

    class Slow:
        bytes = 99

        def __init__(self, root: object, paths: object, stop: object) -> None:
            held.append(stop)

        def join(self) -> None:
            while not release and not held[0]():
                time.sleep(0.01)

    monkeypatch.setattr("i2node.node.space.Census", Slow)
    counts = Counts()
    need = counts.need([os.fsencode(tree)], [], 0.0)
    for _ in range(300):
        if need.size:
            break
        need = counts.need([os.fsencode(tree)], [], 0.01)
    assert need.estimated and need.size > 1234
    release.append(True)
    assert counted(counts, [tree]) == Need(99, False)
    assert len(held) == 1  # it was one count all the while


def test_few_counts_run_and_the_oldest_gives_way(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = []

    class Endless:
        bytes = 0

        def __init__(self, root: object, paths: object, stop: object) -> None:
            stops.append(stop)
            self.stop = stop

        def join(self) -> None:
            while not self.stop():  # type: ignore[operator]
                time.sleep(0.01)

    monkeypatch.setattr("i2node.node.space.Census", Endless)
    counts = Counts()
    deadline = time.monotonic() + PATIENCE
    for number in range(AT_ONCE + 2):
        counts.need([os.fsencode(tree)], [b"x%d" % number], 0.0)
        while len(stops) <= number:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [stop() for stop in stops] == [True, True, False, False]
    for number in range(AT_ONCE):
        counts.need([os.fsencode(tree)], [b"y%d" % number], 0.0)
    assert all(stop() for stop in stops[: AT_ONCE + 2])


def test_an_old_count_is_made_anew(tree: Path) -> None:
    now = 0.0
    counts = Counts(lambda: now)
    assert counted(counts, [tree]).size == 1234
    (tree / "more").write_bytes(bytes(66))
    assert counted(counts, [tree]).size == 1234
    now = FRESH_S + 1
    assert counted(counts, [tree]).size == 1300
