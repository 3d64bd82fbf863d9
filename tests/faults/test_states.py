"""What an agent keeps for itself is lost, damaged or has no room; and the wire between the two."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import states
from ground import Ground, area
from nursery import Nursery
from wires import half_open, resets

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture(scope="module")
def ground(nursery: Nursery) -> Iterator[Ground]:
    with area() as place, states.small_states(place):
        made = Ground(place, nursery)
        try:
            made.plant()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize(
    ("side", "pattern", "way"),
    [
        ("source", "rules/*/index.db", "cut_short"),
        ("source", "rules/*/index.db", "foreign"),
        ("source", "rules/*/index.db-wal", "cut_short"),
        ("source", "rules/*/index.db-wal", "older"),
        ("target", "targets/*.json", "older"),
        ("target", "targets/*.json", "garbage"),
    ],
)
def test_what_is_damaged_is_not_trusted(ground: Ground, side: str, pattern: str, way: str) -> None:
    trial = states.damage(ground, side, pattern, way, random.Random(way))
    assert trial.hit and trial.wrong == ()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_state_directory_without_room(ground: Ground, side: str) -> None:
    assert states.full_state(ground, side, False, random.Random(side)).wrong == ()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_state_directory_that_is_read_only_is_named(ground: Ground, side: str) -> None:
    assert states.read_only_state(ground, side, random.Random(side)).wrong == ()


def test_a_wire_that_is_cut_again_and_again(ground: Ground) -> None:
    assert resets(ground, 5, random.Random(1)).wrong == ()


def test_a_wire_that_swallows_all(ground: Ground) -> None:
    assert half_open(ground, random.Random(1)).wrong == ()
