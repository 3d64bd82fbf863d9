"""A target without room, inodes or quota, or read-only: it says so, and goes on once healed."""

from __future__ import annotations

import os
import random
import shutil

import pytest
import shortages
from ground import Ground, area, rooms_on
from nursery import Nursery

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.mark.parametrize(
    ("kind", "names"),
    [("ext4", ("full", "no_inodes", "read_only")), ("btrfs", ("over_quota",))],
    ids=lambda words: words if isinstance(words, str) else "",
)
def test_a_shortage_is_told_and_endured(
    nursery: Nursery, kind: str, names: tuple[str, ...]
) -> None:
    if kind == "btrfs" and not shutil.which("btrfs"):
        pytest.skip("needs btrfs-progs")
    with area() as place, rooms_on(kind, place, 48 if kind == "ext4" else 200):
        ground = Ground(place, nursery)
        try:
            ground.plant()
            for name in names:
                for again in (False, True):
                    shortage = getattr(shortages, name)
                    trial = shortages.endure(ground, shortage, again, random.Random(name))
                    assert trial.wrong == (), (name, again)
        finally:
            ground.close()
