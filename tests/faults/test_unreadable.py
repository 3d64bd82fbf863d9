"""A source that cannot be read in part: told, endured, and over by itself."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import Ground, area
from nursery import Nursery
from unreadable import bad_at_first, bad_blocks, dead_mounts, no_rights, source_disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    with area() as made:
        yield made


def grounded(place: Path, nursery: Nursery) -> Ground:
    return Ground(place, nursery, source=place / "field" / "source")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_files_on_bad_blocks(place: Path, nursery: Nursery, kind: str) -> None:
    with source_disk(kind, place) as disk:
        ground = grounded(place, nursery)
        try:
            assert bad_at_first(ground, disk).wrong == ()
            ground.plant()
            assert bad_blocks(ground, disk, True, random.Random(kind)).wrong == ()
        finally:
            ground.close()


@pytest.mark.parametrize("engine", ["inotify", "fanotify"])
def test_mounts_that_do_not_answer(place: Path, nursery: Nursery, engine: str) -> None:
    ground = Ground(place, nursery, engine)
    try:
        ground.plant()
        assert dead_mounts(ground, True, random.Random(engine)).wrong == ()
    finally:
        ground.close()


def test_what_the_agent_has_no_right_to(place: Path, nursery: Nursery) -> None:
    ground = Ground(place, nursery)
    try:
        ground.plant()
        assert no_rights(ground, True, random.Random(1)).wrong == ()
    finally:
        ground.close()
