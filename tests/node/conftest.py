"""Two real agents and a controller that speaks their RPC."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "session"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "native"))

from master import House
from nursery import Nursery

import tmpfs


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with closing(Nursery()) as made:
        yield made


@pytest.fixture
def house(nursery: Nursery) -> Iterator[House]:
    # Below /var/tmp: memory file systems used not to know user attributes.
    place = Path(tempfile.mkdtemp(prefix="i2node-charges-", dir="/var/tmp"))
    with closing(House(place, nursery)) as made:
        yield made
    shutil.rmtree(place)


@pytest.fixture
def house_apart(nursery: Nursery) -> Iterator[House]:
    """Its room is on another file system than what the agents keep."""
    place = Path(tempfile.mkdtemp(prefix="i2node-charges-", dir="/var/tmp"))
    with tmpfs.directory() as room, closing(House(place, nursery, room)) as made:
        yield made
    shutil.rmtree(place)
