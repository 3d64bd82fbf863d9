"""A file with as many names as its file system lets one have, and a step that gives it another."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import ACL

from disks import disk
from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import At, Fault, Op, step
from inodes import IMMUTABLE, give, inode_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
LIMIT = 65_000  # EXT4_LINK_MAX


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """On ext4: a root, a stage, and a directory of names of ours outside the root."""
    with disk("ext4", tmp_path_factory.mktemp("many")) as mount:
        for name in ("root", "stage", "names"):
            (mount / name).mkdir()
        yield mount


def link(place: Path, *pairs: tuple[bytes, bytes], kind: Kind = Kind.FILE) -> list[Fault]:
    fds = [os.open(place / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("root", "stage")]
    try:
        steps = [step(Op.LINK, new, there, kind=kind) for new, there in pairs]
        done = batch.apply(*fds, b"".join(steps))
        assert done.done == len(steps)
        return done.faults
    finally:
        for fd in fds:
            os.close(fd)
        assert os.listdir(place / "stage") == []


def fill(place: Path, path: Path, room: int = 0) -> None:
    """Gives a file so many names that only `room` more are possible."""
    fd = os.open(place / "names", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        for i in range(LIMIT - room - path.lstat().st_nlink):
            os.link(path, f"{i}", dst_dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def told(faults: list[Fault]) -> list[tuple[int, int, At]]:
    return [(f.step, f.status, f.what) for f in faults]


def test_names_beyond_the_limit_are_those_of_a_second_file(place: Path) -> None:
    root = place / "root"
    first = root / "a"
    with open(first, "wb") as file:
        file.write(b"content")
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"more")
    os.setxattr(first, "user.x", b"value")
    os.setxattr(first, "trusted.empty", b"")
    os.setxattr(first, "system.posix_acl_access", ACL)
    os.chown(first, 4711, 4712)
    first.chmod(0o6754)
    os.utime(first, ns=(1, -(10**18) + 7))
    os.link(first, root / "b")
    (root / "taken").write_text("in the way")
    fill(place, first, room=1)

    faults = link(place, (b"c", b"a"), (b"d", b"a"), (b"e", b"a"), (b"taken", b"a"), (b"b", b"a"))

    # The fourth would have been the 65,001st: from there on it is another file.
    assert told(faults) == [(1, errno.EMLINK, At.LINKS)]
    numbers = {name: (root / name).stat().st_ino for name in ("a", "b", "c", "d", "e", "taken")}
    assert len({numbers[n] for n in ("a", "b", "d", "e", "taken")}) == 1
    assert numbers["c"] != numbers["a"]
    one, other = root / "a", root / "c"
    assert other.stat().st_nlink == LIMIT - 2 and one.stat().st_nlink == 5
    assert one.read_bytes() == other.read_bytes()
    assert attributes(one) == attributes(other) and len(attributes(one)) == 3
    for path in (one, other):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (4711, 4712, 0o6754)
        assert found.st_mtime_ns == -(10**18) + 7
    assert link(place, (b"d", b"a")) == []  # done again
    assert one.stat().st_blocks <= other.stat().st_blocks < 100


def attributes(path: Path) -> dict[str, bytes]:
    return {n: os.getxattr(path, n) for n in os.listxattr(path) if n != "security.selinux"}


def test_an_immutable_file_has_an_immutable_second_one(place: Path) -> None:
    first, more = place / "root" / "locked", place / "root" / "locked too"
    first.write_text("x")
    fill(place, first)
    try:
        assert give(first, IMMUTABLE)
        faults = link(place, (b"locked too", b"locked"))
        assert told(faults) == [(0, errno.EMLINK, At.LINKS)]
        assert more.stat().st_ino == first.stat().st_ino
        names = place / "names"
        assert inode_of(first) == inode_of(more) == inode_of(names / "0") == (IMMUTABLE, 0)
    finally:
        for path in (first, place / "names" / "0"):
            give(path, less=IMMUTABLE)


LINKING = """
import os, sys
from i2node.mover import batch
fds = [os.open(p, os.O_RDONLY) for p in sys.argv[1:3]]
print([int(f.what) for f in batch.apply(*fds, sys.stdin.buffer.read()).faults])
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_second_one_lasts_before_it_takes_the_name(tmp_path: Path) -> None:
    """Where it cannot be a clone, and the file system does not wait for what replaces a file."""
    with disk("btrfs", tmp_path, mib=300) as mount:
        places = [mount / name for name in ("root", "stage", "names")]
        for path in places:
            path.mkdir()
        first = places[0] / "a"
        first.touch()
        subprocess.run(["chattr", "+C", first], check=True)  # the stage copies on write
        first.write_bytes(bytes(range(256)) * 400)
        with pytest.raises(OSError, match="Too many links"):
            for name in itertools.count():
                os.link(first, places[2] / str(name))
        trace = ["strace", "-qq", "-o", tmp_path / "calls", "-e", "trace=fdatasync,renameat"]
        done = subprocess.run(
            [*trace, sys.executable, "-c", LINKING, *places[:2]],
            input=step(Op.LINK, b"b", b"a"),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        )
        assert done.stdout == b"[%d]\n" % At.LINKS
        calls = [line.split("(")[0] for line in (tmp_path / "calls").read_text().splitlines()]
        assert calls == ["fdatasync", "renameat"]
        assert (places[0] / "b").read_bytes() == (places[2] / "0").read_bytes()


def test_a_symlink_of_too_many_names_is_a_trouble_of_the_next(place: Path) -> None:
    first = place / "root" / "symlink"
    first.symlink_to("nowhere")
    fill(place, first)
    faults = link(place, (b"one more", b"symlink"), kind=Kind.SYMLINK)
    assert told(faults) == [(0, errno.EMLINK, At.NAME)]
    assert not os.path.lexists(place / "root" / "one more")
    assert first.is_symlink()
