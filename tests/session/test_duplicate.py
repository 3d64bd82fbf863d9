"""A second copy of a tree, made by the target: all that a file is, shared where that can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from trees import nasty, snapshot

from disks import disk
from i2node.errors import SessionError
from i2node.fs.tree import TargetTree
from i2node.mover import batch
from i2node.repl.duplicate import Duplicate

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
MIB = 1 << 20
RULE, OTHER = "a" * 16, "b" * 16


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with disk(request.param, tmp_path_factory.mktemp("disk")) as mount:
        yield mount


def duplicated(spot: Path, tree: Path, copy: Path, skip: dict[bytes, tuple[bytes, ...]]) -> bool:
    """Whether it is shared."""
    copy.mkdir()
    state = spot / "state"
    with closing(TargetTree(bytes(tree), RULE, state, [spot], read_only=True)) as one:
        with closing(TargetTree(bytes(copy), OTHER, state, [spot])) as two:
            made = Duplicate(one, two, skip, lambda: False)
            room, inodes = made.needs()
            batch.sync(one.root.fd)
            used = os.statvfs(spot)
            made.fill()
        with closing(TargetTree(bytes(copy), OTHER, state, [spot])) as two:
            made.dress(two)
            batch.sync(two.root.fd)
            now = os.statvfs(spot)
    assert made.problems == 0
    took = (used.f_bfree - now.f_bfree) * now.f_frsize
    assert took < room + (8 << 20), "it said how much it would take"
    assert not used.f_files or used.f_ffree - now.f_ffree <= inodes + 2
    return made.shares


def flags(root: Path) -> dict[str, bytes]:
    """The attributes of files and directories, with what chattr(1) sets."""
    found = {}
    for path in [root, *root.rglob("*")]:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        fd = os.open(path, os.O_RDONLY)
        found[str(path.relative_to(root))] = batch.attributes(fd)
        os.close(fd)
    return found


def test_a_copy_has_all_that_the_tree_has_and_stays_as_it_was(spot: Path) -> None:
    tree, copy = spot / "tree", spot / "copy"
    tree.mkdir()
    nasty(tree)
    (tree / "large").write_bytes(os.urandom(40 * MIB))
    (tree / "middle").write_bytes(os.urandom(100_000))
    with (tree / "holed").open("wb") as file:
        file.seek(20 * MIB)
        file.write(os.urandom(5 * MIB))
        file.truncate(60 * MIB)
    (tree / "locked").mkdir()
    (tree / "locked" / "fixed").write_text("fixed")
    fixed = [tree / "locked" / "fixed", tree / "locked"]
    (tree / "inner" / "below").mkdir(parents=True)
    (tree / "inner" / "below" / "x").write_text("x")
    os.utime(tree / "inner", ns=(9, 9))
    os.utime(tree, ns=(10, 11))
    subprocess.run(["chattr", "+i", *fixed], check=True)
    try:
        shared = duplicated(spot, tree, copy, {b"inner": (b"below",)})
        assert shared is (spot.name != "ext4")
        was = snapshot(tree)
        expected = {k: v for k, v in was.items() if not k.startswith(b"inner/below")}
        assert snapshot(copy) == expected
        told = {k: v for k, v in flags(tree).items() if not k.startswith("inner/below")}
        assert flags(copy) == told
        assert (copy / "holed").stat().st_blocks * 512 < 6 * MIB
        # As a target changes its files: in place.
        with (tree / "large").open("r+b") as file:
            file.write(bytes(MIB))
        os.chmod(tree / "plain", 0o700)
        assert snapshot(copy) == expected
    finally:
        for one in (tree, copy):
            there = [one / path.relative_to(tree) for path in fixed]
            subprocess.run(["chattr", "-i", *filter(Path.exists, there)], check=False)
        subprocess.run(["rm", "-rf", tree, copy], check=True)


def test_it_ends_when_it_is_wanted_no_more(spot: Path) -> None:
    tree, copy = spot / "tree", spot / "copy"
    for place in (tree, copy):
        place.mkdir()
    (tree / "large").write_bytes(bytes(2 * MIB))
    with (
        closing(TargetTree(bytes(tree), RULE, spot / "state", [spot], read_only=True)) as one,
        closing(TargetTree(bytes(copy), OTHER, spot / "state", [spot])) as two,
    ):
        asked = iter([False, True])
        made = Duplicate(one, two, {}, lambda: next(asked))
        with pytest.raises(SessionError, match="given up"):
            made.fill()
    assert not list(copy.iterdir())
    subprocess.run(["rm", "-rf", tree, copy], check=True)
