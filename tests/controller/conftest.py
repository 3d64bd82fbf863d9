from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import info2soft
import pytest
from console import Console, started


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def console(home: Path) -> Iterator[Console]:
    console = started(home)
    yield console
    if console.process.poll() is None:
        assert console.stop() == 0, console.log.read_text()


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    """A copy of the SDK, which writes tokens beside its code; to be put first on the path."""
    where = tmp_path / "sdk"
    shutil.copytree(Path(info2soft.__file__).parent, where / "info2soft")
    (where / "aim.py").write_text(
        "import os\n"
        "from info2soft import config\n"
        "config.set_default(default_api_host=os.environ['I2HOST'])\n"
    )
    return where
