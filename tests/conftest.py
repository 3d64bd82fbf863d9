"""What more than one kind of test uses. As it stands here, they can import from this directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tmpfs

# What they assert says in full why it does not hold, as in the tests themselves.
pytest.register_assert_rewrite("scene", "way", "master")

# How long one example takes says something of the machine, not of the code.
if settings().deadline is not None:
    settings.register_profile("any-machine", deadline=None)
    settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Whoever starts the package's log in a test keeps it from no later one."""
    root = logging.getLogger("i2node")
    level, propagate, handlers = root.level, root.propagate, list(root.handlers)
    yield
    for handler in root.handlers:
        logging.getLogger().removeHandler(handler)  # which has what other packages say, too
    root.setLevel(level)
    root.propagate, root.handlers[:] = propagate, handlers


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty directory, once on the machine's own file system and once on tmpfs."""
    if request.param == "disk":
        yield tmp_path
        return
    with tmpfs.directory() as path:
        yield path
