"""Large files of which a part stands in the stage: what is gone on with, and what is not."""

from __future__ import annotations

import os

import pytest
from edits import MIB, lay, wait_until_not_racy
from way import Way, same

from i2node.mover.batch import STEP
from i2node.repl.large import LargeReader


@pytest.mark.parametrize("part", [0, 1, MIB - 1, MIB, 2 * MIB + 77])
def test_a_staged_part_is_gone_on_with(way: Way, part: int) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB + 5))
    os.utime(path, ns=(0, 10**18))
    wait_until_not_racy(path)
    for steps in way.steps(b"f"):
        if way.written > part:
            # The target dies in the middle of this write.
            (name,) = os.listdir(way.stage)
            start = STEP.unpack_from(steps)[13]
            with open(way.stage / name, "r+b") as file:
                file.seek(start)
                file.write(steps[STEP.size :][: part - start])
            break
        assert way.apply(steps) == []
    parts = {int(n, 16): (way.stage / n).stat().st_size for n in os.listdir(way.stage)}
    way.reader = LargeReader(way.root, way.journal, parts, way._ask)
    way.written = 0
    way.ship()
    same(way)
    assert way.written == 3 * MIB + 5 - part // MIB * MIB
    assert way.reader.leftovers() == []


def test_a_part_of_a_delta_is_not_taken_for_a_part_of_the_whole(way: Way) -> None:
    """Its clone is as long as the old file from the start."""
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB))
    way.ship()
    lay(path, MIB, os.urandom(MIB))
    wait_until_not_racy(path)
    way.apply(next(way.steps(b"f")))
    parts = {int(n, 16): (way.stage / n).stat().st_size for n in os.listdir(way.stage)}
    assert list(parts.values()) == [3 * MIB]
    way.reader = LargeReader(way.root, way.journal, parts, lambda path: None)
    way.journal.wipe()
    faults = [f for steps in way.steps(b"f") for f in way.apply(steps)]
    assert faults == []
    same(way)
    assert way.apply(b"".join(way.reader.leftovers())) == []
    assert os.listdir(way.stage) == []
