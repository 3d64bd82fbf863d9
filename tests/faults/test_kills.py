"""A node killed, or told of an error, at some of its system calls; the campaign does them all."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator

import pytest
from ground import Ground, area, rooms_on
from kills import fail, kill
from nursery import Nursery

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"),
]


@pytest.fixture(scope="module")
def ground(nursery: Nursery) -> Iterator[Ground]:
    with area() as place, rooms_on("ext4", place, 64):
        made = Ground(place, nursery)
        try:
            made.plant()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "syncfs", "linkat", "renameat", "pwrite64"])
def test_the_target_is_killed_there(ground: Ground, call: str) -> None:
    trial = kill(ground, "target", call, 1, random.Random(call))
    assert trial.hit and trial.wrong == ()


@pytest.mark.parametrize("call", ["pwrite64", "rename"])
def test_the_source_is_killed_there(ground: Ground, call: str) -> None:
    trial = kill(ground, "source", call, 2, random.Random(call))
    assert trial.hit and trial.wrong == ()


@pytest.mark.parametrize(
    ("call", "error"),
    [("linkat", "ENOSPC"), ("fdatasync", "EIO"), ("syncfs", "EIO"), ("unlinkat", "EROFS")],
)
def test_the_target_is_told_of_an_error_there(ground: Ground, call: str, error: str) -> None:
    trial = fail(ground, "target", call, error, "1", random.Random(call))
    assert trial.hit and trial.wrong == ()
