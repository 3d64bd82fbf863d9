"""Targets of which a large file is changed in place through the redo journal."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_apply import Target
from test_stage import ID, hole, stage, staged, when, write
from trees import entries

import tmpfs
from i2node.fs.tree import TargetTree
from i2node.mover import batch, blocks
from i2node.mover.batch import STEP_CLONE, Op, step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

MIB = 1 << 20
SIZE = 5 * MIB + 123
NAME = "000000001234abcd"
JOURNAL = NAME + ".redo"
MODE = 0o640
RULE = "0123456789abcdef"


def must(*words: object) -> None:
    subprocess.run([str(w) for w in words], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-o", "loop", image, at], check=False).returncode:
        pytest.skip("no loop mounts here")
    try:
        yield at
    finally:
        # Lazily: after a failure a descriptor may still hold it.
        must("umount", "--lazy", at)


@contextmanager
def disk(place: Path, mib: int = 256) -> Iterator[Path]:
    """A fresh ext4, which cannot clone."""
    image = place / "image"
    with open(image, "wb") as f:
        f.truncate(mib * MIB)
    must("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
    with mounted(image, place / "mount") as mount:
        yield mount
    image.unlink()


@pytest.fixture(scope="module", params=["ext4", "tmpfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    on_disk = request.param == "ext4"
    with disk(tmp_path_factory.mktemp("disk")) if on_disk else tmpfs.directory() as path:
        yield path


@contextmanager
def fresh(spot: Path) -> Iterator[Target]:
    place = Path(tempfile.mkdtemp(dir=spot))
    made = Target(place)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(place)


@pytest.fixture
def target(spot: Path) -> Iterator[Target]:
    with fresh(spot) as made:
        yield made


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def begin(target: Target, data: bytes, name: bytes = b"f") -> os.stat_result:
    """An old file of the mode that `staged` gives."""
    path = target.root / os.fsdecode(name)
    path.write_bytes(data)
    path.chmod(MODE)
    os.utime(path, ns=(0, 10**18))
    return path.stat()


def clone(have: os.stat_result, name: bytes = b"f") -> bytes:
    return stage(name, STEP_CLONE, have)


def tree_of(spot: Path) -> TargetTree:
    """A target as a session has it, its stage beside the root; made with an old file at first."""
    root = spot / "root"
    if not root.exists():
        root.mkdir()
        (root / "f").write_bytes(noise(0, SIZE))
        (root / "f").chmod(MODE)
        os.utime(root / "f", ns=(0, 10**18))
    return TargetTree(os.fsencode(root), RULE, spot / "no state", [spot])


def home_of(tree: TargetTree) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{tree.stage()}"))


def leave(target: Target) -> list[str]:
    return sorted(os.listdir(target.stage))


@dataclass
class Model:
    """Changes of a file, as steps and as bytes."""

    data: bytearray
    steps: list[bytes]

    def write(self, at: int, data: bytes) -> None:
        self.steps.append(write(at, data))
        self._lay(at, data)

    def hole(self, at: int, span: int) -> None:
        self.steps.append(hole(at, span))
        self._lay(at, bytes(span))

    def _lay(self, at: int, data: bytes) -> None:
        if data:
            self.data.extend(bytes(max(0, at + len(data) - len(self.data))))
            self.data[at : at + len(data)] = data

    def end(self, size: int) -> bytes:
        self.data = self.data[:size].ljust(size, b"\0")
        return staged(b"f", size)


def example(old: bytes) -> tuple[Model, int]:
    """Blocks, a hole, data behind what is the end in the end, and a little growth."""
    model = Model(bytearray(old), [])
    size = len(old) + 5000
    model.write(8192, noise(1, 4096))
    model.hole(MIB, 2 * MIB)
    model.write(3 * MIB + 17, noise(2, 10_000))
    model.write(size - 100, noise(3, 300))
    return model, size


SEAL = 48


def seal(target: Target, steps: list[bytes], end: bytes, birth: int = 0) -> Path:
    """A journal as a crash right behind its sealing leaves it. birth: added to the right one."""
    path = target.root / "f"
    fd = os.open(target.root, os.O_RDONLY)
    (old,) = entries(batch.stat_names(fd, os.fstat(fd).st_dev, b"", [b"f"]).entries)
    os.close(fd)
    have = path.stat()
    first = step(
        Op.STAGE,
        b"f",
        stage=ID,
        flags=STEP_CLONE,
        size=have.st_size,
        **when(have),
        rdev=old.ino,
        span=old.birth + birth,
    )
    body = b"".join([first, *steps, end])
    tail = b"i2redo1\n" + len(body).to_bytes(8, "little") + blocks.hash(body, 32)
    journal = target.stage / JOURNAL
    journal.touch(0o600)
    journal.write_bytes(body + tail)
    return journal


def redo(target: Target, name: str = JOURNAL) -> tuple[bytes, bool]:
    return batch.redo(*target.fds, os.fsencode(name))
