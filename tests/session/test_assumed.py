"""What the planner makes of a tree of which it only wrote down what stood there at first."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from test_planner import At

from i2node.fs.touch import Touch
from i2node.mover.batch import Op


@pytest.fixture
def at(tmp_path: Path) -> Iterator[At]:
    """Which walked `a/b/f`, and asks the target for nothing."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "f").write_bytes(b"was there")
    while time.time_ns() - (below / "f").stat().st_ctime_ns < 100_000_000:
        pass  # else it may have changed since it was looked at
    with closing(At(tmp_path, None)) as made:
        made.planner.assumed.skip = "all"
        made.planner.start_walk(first=True)
        made.planner.walk(lambda: False)
        assert made.made() == []
        made.sink.sent.clear()
        yield made


def looks(at: At) -> None:
    at.planner.live(at.dirty.take(9, math.inf), lambda: False)


def test_a_directory_in_doubt_is_not_asked_for_and_not_sent(at: At, tmp_path: Path) -> None:
    number = (tmp_path / "a" / "b").stat().st_ino
    at.planner.belief.ask(number, b"a/b")
    at.dirty.add_dir(number, False, 0.0)
    looks(at)
    sent = at.sink.sent
    assert at.made() == [] and not any(one.metas or one.files or one.large for one in sent)
    assert at.planner.belief.in_doubt == set()


def test_another_directory_in_its_place_is_made(at: At, tmp_path: Path) -> None:
    above = (tmp_path / "a").stat().st_ino
    os.rename(tmp_path / "a" / "b", tmp_path / "state" / "b")
    (tmp_path / "a" / "b").mkdir()
    at.dirty.add(above, b"b", Touch.NAME | Touch.TREE, 0.0)
    looks(at)
    assert at.made()[:2] == [(Op.MAKE_DIR, b"a"), (Op.MAKE_DIR, b"a/b")]
    assert (Op.REMOVE, b"a/b/f") in at.made()


def test_a_removal_that_is_lost_is_found_out(at: At, tmp_path: Path) -> None:
    """What it takes away is known of nowhere else: what a target tells of that name counts."""
    below = tmp_path / "a" / "b"
    number = below.stat().st_ino
    (below / "f").unlink()
    at.dirty.add(number, b"f", Touch.DELETED, 0.0)
    looks(at)
    assert (Op.REMOVE, b"a/b/f") in at.made()
    assert (number, b"f") in [name for one in at.sink.sent for name in one.suspects]
