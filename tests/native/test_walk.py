"""Listings: whole, sorted, beneath the root, and never of something else."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kernel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import entries, nasty, open_files, snapshot

from i2node.model import RACY, Kind
from i2node.mover import batch

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OLD_KERNEL: list[kernel.Refusal] = [
    ("openat2", errno.ENOSYS, None, 0),
    ("statx", errno.ENOSYS, None, 0),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def listed(root: int, path: bytes = b"", skip: tuple[bytes, ...] = ()) -> batch.Listing:
    return batch.list_dirs(root, os.fstat(root).st_dev, [(path, skip)])[0]


def names(listing: batch.Listing) -> list[bytes]:
    return [e.name for e in entries(listing.entries)]


@needs_root
def test_an_entry_says_what_lstat_says(place: Path) -> None:
    nasty(place)
    fd = os.open(place, os.O_RDONLY)
    listing = listed(fd)
    seen = {e.name: e for e in entries(listing.entries)}
    own = next(entries(listing.own))
    os.close(fd)
    assert sorted(seen) == list(seen) == sorted(os.listdir(os.fsencode(place)))
    assert listing.n == len(seen) and listing.dirs == 2
    total = 0
    for name, e in seen.items():
        there = os.lstat(os.fsencode(place) + b"/" + name)
        assert (e.mode, e.uid, e.gid, e.nlink, e.ino) == (
            there.st_mode & 0o7777,
            there.st_uid,
            there.st_gid,
            there.st_nlink,
            there.st_ino,
        )
        assert e.mtime_s * 10**9 + e.mtime_ns == there.st_mtime_ns
        assert (e.ctime, e.blocks) == (there.st_ctime_ns, there.st_blocks)
        sized = e.kind in (Kind.FILE, Kind.SYMLINK)
        assert e.size == (there.st_size if sized else 0)
        assert e.rdev == (there.st_rdev if e.kind in (Kind.CHR, Kind.BLK) else 0)
        assert e.status == 0 and e.attrs == 0 and e.content == batch.UNKNOWN
        if e.kind == Kind.FILE:
            total += e.size
    assert listing.bytes == total
    assert (own.name, own.kind, own.ino) == (b"", Kind.DIR, os.stat(place).st_ino)
    assert {e.kind for e in seen.values()} == set(Kind)


def test_what_cannot_be_listed_has_a_status_and_no_entries(root: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "inside").touch()
    (tmp_path / "link").symlink_to("dir")
    for path, status in (
        (b"absent", errno.ENOENT),
        (b"file", errno.ENOTDIR),
        (b"link", errno.ENOTDIR),
        (b"link/inside", errno.ENOTDIR),
        (b"../etc", errno.EINVAL),
        (b"dir/../..", errno.EINVAL),
        (b"/etc", errno.EINVAL),
        (b"dir//x", errno.EINVAL),
        (b"dir/\0", errno.EINVAL),
    ):
        listing = listed(root, path)
        assert (listing.status, listing.n, listing.entries, listing.own) == (status, 0, b"", b"")
    assert batch.list_dirs(root, 12345, [(b"dir", ())])[0].status == errno.EXDEV
    assert names(listed(root, b"dir")) == [b"inside"]


def test_left_out_names_are_left_out(root: int, tmp_path: Path) -> None:
    for name in ("a", "b", "bb", "c", "stage"):
        (tmp_path / name).mkdir()
    listing = listed(root, b"", (b"stage", b"b", b"absent", b"a"))
    assert names(listing) == [b"bb", b"c"]
    assert (listing.n, listing.dirs) == (2, 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [1, 100, 170, 1000, 5000, 1 << 20])
def test_any_buffer_gives_the_same_answers(
    root: int, tmp_path: Path, threads: int, room: int
) -> None:
    for d in range(12):
        (tmp_path / f"d{d}").mkdir()
        for f in range(d * 3):
            (tmp_path / f"d{d}" / f"f{f}").touch()
    dev = os.fstat(root).st_dev
    asked = [(f"d{i}".encode(), ()) for i in range(13)] + [(b"", (b"d3",))]
    found = batch.list_dirs(root, dev, asked, threads=threads, room=room)
    assert [x.ticket for x in found] == list(range(14))
    assert [x.n for x in found[:12]] == [d * 3 for d in range(12)]
    assert (found[12].status, found[13].n) == (errno.ENOENT, 11)
    assert [names(x) for x in found[:12]] == [
        sorted(os.listdir(os.fsencode(tmp_path / f"d{d}"))) for d in range(12)
    ]


def test_nothing_asked_nothing_answered(root: int) -> None:
    assert batch.list_dirs(root, 0, []) == []


def test_watched_before_it_is_read(root: int, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    libc = kernel.LIBC
    notify = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        dev = os.fstat(root).st_dev
        asked = [(b"", ()), (b"d", ()), (b"absent", ())]
        found = batch.list_dirs(root, dev, asked, notify=notify, mask=0x100)  # IN_CREATE
        assert found[0].wd > 0 and found[1].wd > found[0].wd and found[0].wd_status == 0
        assert (found[2].wd, found[2].status) == (-1, errno.ENOENT)
        (tmp_path / "d" / "new").touch()
        assert b"new" in os.read(notify, 4096)
        bad = batch.list_dirs(root, dev, [(b"d", ())], notify=root, mask=0x100)[0]
        assert (bad.wd, bad.wd_status, bad.status, bad.n) == (-1, errno.EINVAL, 0, 1)
    finally:
        os.close(notify)


def test_a_fresh_ctime_is_racy_and_an_old_one_is_not(root: int, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    first = next(entries(listed(root).entries))
    while not first.flags & RACY:  # a slow machine may need another try
        (tmp_path / "f").touch()
        first = next(entries(listed(root).entries))
    while next(entries(listed(root).entries)).flags & RACY:
        pass
    assert next(entries(listed(root).entries)).ctime == first.ctime


def test_names_of_one_directory(root: int, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("x", "y", "z", "n" * 255):
        (tmp_path / "d" / name).write_text(name)
    dev = os.fstat(root).st_dev
    long = b"n" * 255
    found = batch.stat_names(root, dev, b"d", [b"z", long, b"absent", b"x", b"z"])
    assert names(found) == [long, b"x", b"z"]
    whole = {e.name: e for e in entries(listed(root, b"d").entries)}
    assert [e.ino for e in entries(found.entries)] == [whole[n].ino for n in names(found)]
    assert next(entries(found.own)).ino == (tmp_path / "d").stat().st_ino
    assert batch.stat_names(root, dev, b"d", []).n == 0
    assert batch.stat_names(root, dev, b"gone", [b"x"]).status == errno.ENOENT
    for bad in (b"..", b".", b"", b"a/b"):
        with pytest.raises(batch.SessionError):
            batch.stat_names(root, dev, b"d", [bad])


def test_fifty_thousand_names_in_one_directory(root: int, tmp_path: Path) -> None:
    for i in range(50_000):
        os.mknod(b"%s/%x" % (os.fsencode(tmp_path), i * 2654435761 % 2**32))
    listing = listed(root)
    assert listing.n == 50_000
    assert names(listing) == sorted(os.listdir(os.fsencode(tmp_path)))


def deep(top: int, levels: int, name: str) -> bytes:
    """A chain of directories; returns the path of the last."""
    fd = os.dup(top)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    return b"/".join([name.encode()] * levels)


def test_a_path_longer_than_the_kernel_takes(root: int, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    top = os.open(tmp_path / "top", os.O_RDONLY)
    path = b"top/" + deep(top, 1500, "some-longer-name")
    os.close(top)
    assert len(path) > 20_000
    assert names(listed(root, path)) == [b"leaf"]
    assert names(listed(root, path.rsplit(b"/", 700)[0])) == [b"some-longer-name"]
    subprocess.run(["rm", "-rf", tmp_path / "top"], check=True)


def in_namespace(script: str, *arguments: object) -> None:
    """Runs Python in a mount namespace of its own, so that mounts end with it."""
    here = os.pathsep.join(p for p in sys.path if p)
    subprocess.run(
        ["unshare", "-m", sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        env={**os.environ, "PYTHONPATH": here},
    )


MOUNTS = """
import errno, os, subprocess, sys
from pathlib import Path
import kernel
from trees import entries
from i2node.model import MOUNT
from i2node.mover import batch

root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", root / "other"], check=True)
subprocess.run(["mount", "--bind", root / "plain", root / "bound"], check=True)
(root / "other" / "hidden").touch()

def look():
    fd = os.open(root, os.O_RDONLY)
    dev = os.fstat(fd).st_dev
    top, plain, other, bound, inside = batch.list_dirs(
        fd, dev, [(p, ()) for p in (b"", b"plain", b"other", b"bound", b"bound/below")]
    )
    flags = {e.name: e.flags & MOUNT for e in entries(top.entries)}
    assert flags[b"plain"] == 0 and flags[b"other"] == MOUNT, flags
    assert plain.status == 0 and plain.n == 1
    for listing in (other, bound, inside):
        assert listing.status == errno.EXDEV and listing.entries == b"", listing
    os.close(fd)
    return flags

assert look()[b"bound"] == MOUNT
kernel.without([("openat2", errno.ENOSYS, None, 0), ("statx", errno.ENOSYS, None, 0)], look)
"""


@needs_root
def test_a_mount_is_told_and_never_entered(tmp_path: Path) -> None:
    for name in ("plain", "other", "bound"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "below").mkdir()
    in_namespace(MOUNTS, tmp_path)


DEAD = """
import errno, os, subprocess, sys
from pathlib import Path
from trees import entries
from i2node.mover import batch

root = Path(sys.argv[1])
wire = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={wire},rootmode=40000,user_id=0,group_id=0"
words = ["mount", "-i", "-t", "fuse", "-o", options, "dead", root / "dead"]
subprocess.run(words, check=True, pass_fds=[wire])
os.close(wire)
fd = os.open(root, os.O_RDONLY)
dev, names = os.fstat(fd).st_dev, [b"a", b"absent", b"dead", b"z"]
for whole in (batch.list_dirs(fd, dev, [(b"", ())])[0], batch.stat_names(fd, dev, b"", names)):
    assert (whole.status, whole.entries, whole.unread) == (errno.ENOTCONN, b"", 0), whole
for threads in (1, 2):
    asked = [(b"", ()), (b"", [b"dead"])]
    one, other = batch.list_dirs(fd, dev, asked, partial=True, threads=threads)
    for part in (one, batch.stat_names(fd, dev, b"", names, partial=True)):
        assert (part.status, part.n, part.dirs, part.bytes, part.unread) == (0, 3, 0, 1, 1), part
        told = [(e.name, e.status) for e in entries(part.entries)]
        assert told == [(b"a", 0), (b"dead", errno.ENOTCONN), (b"z", 0)], told
    assert (other.n, other.unread) == (2, 0), other
"""


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_one_that_stat_fails_for_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "z").touch()
    in_namespace(DEAD, tmp_path)


def test_a_kernel_without_openat2_and_statx_lists_the_same(root: int, tmp_path: Path) -> None:
    top = tmp_path / "t"
    top.mkdir()
    if os.geteuid() == 0:
        nasty(top)
    (tmp_path / "out").symlink_to("/etc")
    (top / "x").mkdir()
    dev = os.fstat(root).st_dev
    asked = [(p, ()) for p in (b"", b"t", b"t/x", b"absent", b"t/absent/x")]
    want = batch.list_dirs(root, dev, asked)

    def old() -> None:
        got = batch.list_dirs(root, dev, asked, threads=2)
        for w, g in zip(want, got, strict=True):
            assert (w.status, w.n, w.bytes) == (g.status, g.n, g.bytes)
            for a, b in zip(entries(w.entries), entries(g.entries), strict=True):
                assert b.birth == 0
                assert (a.name, a.kind, a.mode, a.ino, a.size, a.rdev, a.ctime, a.mtime_ns) == (
                    (b.name, b.kind, b.mode, b.ino, b.size, b.rdev, b.ctime, b.mtime_ns)
                )
        assert listed(root, b"out").status == errno.ENOTDIR
        assert listed(root, b"out/ssl").status == errno.ENOTDIR

    kernel.without(OLD_KERNEL, old)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(min_size=1, max_size=40), unique=True, max_size=30))
def test_any_names_come_back_sorted(tmp_path: Path, wanted: list[bytes]) -> None:
    top = tmp_path / "any"
    top.mkdir()
    made = []
    for name in wanted:
        clean = name.replace(b"/", b"").replace(b"\0", b"")
        if clean not in (b"", b".", b"..") and clean not in made:
            os.mknod(os.fsencode(top) + b"/" + clean)
            made.append(clean)
    fd = os.open(top, os.O_RDONLY)
    assert names(listed(fd)) == sorted(made)
    os.close(fd)
    shutil.rmtree(top)


def test_reading_leaves_no_trace(root: int, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    before = snapshot(tmp_path)
    open_before = open_files()
    batch.list_dirs(root, os.fstat(root).st_dev, [(b"d", ())] * 20 + [(b"no", ())], threads=4)
    assert snapshot(tmp_path) == before
    assert open_files() == open_before
