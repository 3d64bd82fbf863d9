"""Files that change while they are read, and the clock of one node that is set meanwhile."""

from __future__ import annotations

import random

import pytest
from clocks import LIBRARY, clock_steps
from ground import Ground, area
from moving_files import moving_files
from nursery import Nursery


@pytest.mark.skipif(LIBRARY is None, reason="needs faketime")
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_clock_that_jumps(nursery: Nursery, side: str) -> None:
    with area() as place:
        ground = Ground(place, nursery)
        try:
            ground.plant()
            assert moving_files(ground, random.Random(side)).wrong == ()
            assert clock_steps(ground, side, random.Random(side)).wrong == ()
        finally:
            ground.close()
