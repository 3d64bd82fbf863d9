"""What the tests of sessions stand on serves here too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for beside in ("session", "e2e", "native"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / beside))

from nursery import Nursery  # noqa: E402 (found by the path above)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()
