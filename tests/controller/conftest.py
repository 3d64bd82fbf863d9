from __future__ import annotations

import importlib.util
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import Console, started
from postgres import cluster, emptied

from i2node.controller.store.database import Database

for _beside in ("e2e", "session"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / _beside))


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
    spec = importlib.util.find_spec("info2soft")  # found, not imported: its code makes Python warn
    assert spec is not None and spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, where / "info2soft")
    (where / "aim.py").write_text(
        "import os\n"
        "from info2soft import config\n"
        "config.set_default(default_api_host=os.environ['I2HOST'])\n"
    )
    return where


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'controller.db'}"
        return
    with emptied(request.getfixturevalue("server"), f"t{uuid.uuid4().hex}") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()
