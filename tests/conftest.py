"""What more than one kind of test uses. As it stands here, they can import from this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tmpfs

# What they assert says in full why it does not hold, as in the tests themselves.
pytest.register_assert_rewrite("scene", "way")

# How long one example takes says something of the machine, not of the code.
if settings().deadline is not None:
    settings.register_profile("any-machine", deadline=None)
    settings.load_profile("any-machine")


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty directory, once on the machine's own file system and once on tmpfs."""
    if request.param == "disk":
        yield tmp_path
        return
    with tmpfs.directory() as path:
        yield path
