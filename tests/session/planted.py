"""The small tree of the recordings, and what becomes of it: as many kinds of entries, and of
changes, as a mirror knows. The same names, content and times at each planting."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

SMALL_MAX = 4096
"""`small_file_max` of the recordings: what is larger goes by blocks."""
FLOOR = 8
"""`brake_floor` of their target."""
MANY = 12
VAST = 1 << 20
"""From this size on a target is asked what it holds of a file (repl.large.ASK_FROM)."""
BORN = 1_700_000_000


def _noise(seed: int, size: int) -> bytes:
    """Text of few letters: it compresses, and does not repeat."""
    return bytes(random.Random(seed).choices(b"abcd", k=size))


def _aged(path: Path, by: int = 0) -> None:
    """A time that is long ago, so that none is taken for one of this moment."""
    os.utime(path, (BORN, BORN + by), follow_symlinks=False)


def plant(root: Path) -> None:
    """The tree, as the first mirror finds it."""
    for name in ("small", "links", "many", "empty", "torn", "gone/below"):
        (root / name).mkdir(parents=True)
    for n, name in enumerate("abc"):
        (root / "small" / name).write_bytes(_noise(n, 40))
    for n in range(MANY):
        (root / "many" / f"{n:02}").touch()
    for name in ("torn/kept", "gone/f", "gone/below/g"):
        (root / name).write_text(name)
    (root / "large").write_bytes(_noise(7, 20_000))
    with (root / "sparse").open("wb") as file:
        file.seek(40_960)
        file.write(b"the end")
    with (root / "vast").open("wb") as file:
        file.truncate(VAST)
        file.seek(500_000)
        file.write(_noise(9, 30_000))
    (root / "links" / "to-a").symlink_to("../small/a")
    (root / "links" / "second").hardlink_to(root / "small" / "b")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "small" / "b", "user.note", b"kept")
    os.setxattr(root / "empty", "user.note", b"of a directory")
    (root / "small" / "c").chmod(0o640)
    os.chown(root / "small" / "c", 1234, 4321)
    age(root)


def age(root: Path) -> None:
    """Gives all of it its times; those of directories last, as a change in one moves them."""
    paths = sorted(root.rglob("*"), key=lambda path: -len(path.parts))
    for n, path in enumerate(sorted(paths)):
        if not path.is_dir() or path.is_symlink():
            _aged(path, n)
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            _aged(path, len(path.parts))
    _aged(root)


def _patch(root: Path) -> None:
    """A few bytes in the middle of the large file."""
    with (root / "large").open("r+b") as file:
        file.seek(9000)
        file.write(b"patched")


def _grow(root: Path) -> None:
    with (root / "large").open("ab") as file:
        file.write(_noise(8, 3000))


def _swap(root: Path) -> None:
    """Two files change their names."""
    one, other, aside = root / "small" / "a", root / "small" / "c", root / "small" / "t"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _swap_directories(root: Path) -> None:
    one, other, aside = root / "links", root / "moved", root / "t"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _attributes(root: Path) -> None:
    (root / "small" / "a").chmod(0o600)
    os.removexattr(root / "small" / "b", "user.note")
    os.setxattr(root / "small" / "b", "user.other", b"new")


CHANGES: tuple[Callable[[Path], object], ...] = (
    _patch,
    lambda root: (root / "empty").rename(root / "moved"),
    lambda root: (root / "small" / "a").rename(root / "moved" / "a2"),
    lambda root: (root / "moved" / "a2").rename(root / "small" / "a"),
    _swap,
    lambda root: (root / "links" / "third").hardlink_to(root / "small" / "b"),
    _attributes,
    _swap_directories,
    lambda root: shutil.rmtree(root / "gone"),
    lambda root: os.truncate(root / "sparse", 10_000),
    _grow,
)
"""While it is live, one after the other."""


def tear(target: Path) -> None:
    """At the target: somebody puts a file where a directory was."""
    (target / "torn").rename(target / "torn-away")
    (target / "torn").write_text("in the way")


def mend(target: Path) -> None:
    """At the target, before what was torn is tried again."""
    (target / "torn").unlink()
    (target / "torn-away").rename(target / "torn")


def write_where_it_is_torn(root: Path) -> None:
    (root / "torn" / "kept").write_text("changed")


def change(root: Path) -> None:
    """All at once what the recording changed in its order, and the times that are told then."""
    for one in CHANGES:
        one(root)
    write_where_it_is_torn(root)
    remove_many(root)
    shift(root)


def remove_many(root: Path) -> None:
    """More than the brake lets go at once."""
    shutil.rmtree(root / "many")


def shift(root: Path) -> None:
    """What the vast file holds stands elsewhere in it, for a source that lost its books."""
    with (root / "vast").open("wb") as file:
        file.truncate(VAST)
        file.seek(600_100)
        file.write(_noise(9, 30_000))
    age(root)
