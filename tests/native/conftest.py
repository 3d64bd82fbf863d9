from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "file").write_bytes(b"one")
    (root / "a" / "deep" / "er" / "leaf").write_bytes(b"leaf")
    return root


ENGINES = ("inotify", "fanotify", "fanotify, halves")


@pytest.fixture(
    params=[pytest.param(e, marks=pytest.mark.root if "fan" in e else ()) for e in ENGINES]
)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)
