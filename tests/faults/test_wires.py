"""A wire that loses packets and is reset: equal trees, and nothing told that is no trouble."""

from __future__ import annotations

import os
import random

import pytest
from ground import Ground, area
from nursery import Nursery
from wires import losses

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="rules for packets need root"),
]


def test_a_first_mirror_and_changes_over_a_wire_that_loses_packets(nursery: Nursery) -> None:
    with area() as place:
        ground = Ground(place, nursery)
        try:
            trial = losses(ground, 4.0, random.Random(1))
        finally:
            ground.close()
    assert trial.hit and trial.wrong == ()
