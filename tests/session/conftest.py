"""The independent comparer stands with the end-to-end tests; the session tests use it too."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))

from nursery import Nursery
from scene import Scene
from way import Way


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def scene(nursery: Nursery, request: pytest.FixtureRequest) -> Iterator[Scene]:
    # Below /var/tmp: memory file systems used not to know user attributes.
    place = Path(tempfile.mkdtemp(prefix="i2node-scene-", dir="/var/tmp"))
    made = Scene(place, nursery, getattr(request, "param", "auto"))
    yield made
    made.hosts.close()
    shutil.rmtree(place)


@pytest.fixture
def way(place: Path) -> Iterator[Way]:
    with closing(Way(place)) as made:
        yield made
