"""The independent comparer stands with the end-to-end tests; the session tests use it too."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "native"))

from channels import Nodes
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


@pytest.fixture
def make_nodes(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    """A function that makes two, paired or not."""
    made: list[Nodes] = []

    def build(paired: bool = True, **options: Any) -> Nodes:
        nodes = Nodes(tmp_path / str(len(made)), **options)
        made.append(nodes)
        if paired:
            nodes.pair()
        return nodes

    yield build
    for nodes in made:
        nodes.close()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Warnings of net, whatever other tests did to the log's settings."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.msg)
    logger = logging.getLogger("i2node.net")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
