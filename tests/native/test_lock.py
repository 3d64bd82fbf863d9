"""File flags and projects: carried by steps, and in the way of them."""

from __future__ import annotations

import errno
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from inplace import SIZE, begin, clone, noise
from test_apply import Target, make_dir, put
from test_stage import stage, staged, write

from disks import disk
from i2node.errors import ProtocolError
from i2node.fs.tree import TargetTree
from i2node.model import Kind
from i2node.mover import batch, listing
from i2node.mover.batch import At, Op, step
from inodes import (
    APPEND,
    HEIR,
    IMMUTABLE,
    NOATIME,
    NODUMP,
    give,
    inode_of,
    into_project,
    record,
    unlock,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with disk(request.param, tmp_path_factory.mktemp("disk")) as mount:
        yield mount


@pytest.fixture
def target(spot: Path) -> Iterator[Target]:
    place = Path(tempfile.mkdtemp(dir=spot))
    made = Target(place)
    try:
        yield made
        assert [n for n in os.listdir(made.stage) if n.startswith("t")] == []
    finally:
        unlock(place)
        made.close()
        shutil.rmtree(place)


def set_meta(path: bytes, xattrs: bytes = b"", kind: Kind = Kind.FILE, **more: int) -> bytes:
    fields = {"kind": kind, "mode": 0o640, "mtime_s": 5} | more
    return step(Op.SET_META, path, xattrs=xattrs, **fields)


def flags(target: Target, name: str) -> int:
    return inode_of(target.root / name)[0]


def test_a_step_says_all_of_the_flags(target: Target) -> None:
    model = write(0, b"large")
    steps = (
        make_dir(b"d"),
        step(
            Op.PUT_FILE, b"d/f", kind=Kind.FILE, mode=0o600, size=1, data=b"1", xattrs=record(0x50)
        ),
        set_meta(b"d", record(IMMUTABLE), Kind.DIR, mode=0o755),
        stage() + model + staged(b"s", 5, xattrs=record(APPEND)),
    )
    assert target.apply(*steps[:3]) == []
    assert batch.apply(*target.fds, steps[3]).faults == []
    assert (flags(target, "d"), flags(target, "d/f")) == (IMMUTABLE, IMMUTABLE | NODUMP)
    assert flags(target, "s") == APPEND
    # All of it once more; then what is locked gets other flags, and is left alone, and gets none.
    assert target.apply(*steps[:3]) == []
    assert flags(target, "d/f") == IMMUTABLE | NODUMP
    assert target.apply(set_meta(b"d/f", record(APPEND | NOATIME))) == []
    assert (flags(target, "d/f"), flags(target, "d")) == (APPEND | NOATIME, IMMUTABLE)
    kept = set_meta(b"d/f", flags=batch.STEP_NO_XATTR, mode=0o604)
    assert target.apply(kept) == []
    assert (target.root / "d" / "f").stat().st_mode & 0o777 == 0o604
    assert flags(target, "d/f") == APPEND | NOATIME
    assert target.apply(set_meta(b"d/f"), set_meta(b"d", kind=Kind.DIR)) == []
    assert (flags(target, "d/f"), flags(target, "d")) == (0, 0)
    # The root itself.
    assert target.apply(set_meta(b"", record(IMMUTABLE), Kind.DIR), put(b"n")) == []
    assert inode_of(target.root)[0] == IMMUTABLE and (target.root / "n").exists()
    assert target.apply(set_meta(b"", b"", Kind.DIR)) == []
    assert inode_of(target.root)[0] == 0


IN_THE_WAY: dict[str, list[bytes]] = {
    "put": [put(b"i/f")],
    "put new": [put(b"i/n")],
    "put in place of a tree": [put(b"i/t")],
    "make": [make_dir(b"i/n"), put(b"i/n/f")],
    "make in place": [make_dir(b"i/f"), put(b"i/f/g")],
    "link to": [step(Op.LINK, b"n", b"i/f")],
    "link in": [step(Op.LINK, b"i/n", b"open")],
    "link both": [step(Op.LINK, b"i/n", b"i/f")],
    "link over": [step(Op.LINK, b"i/f", b"j/f")],
    "rename": [step(Op.RENAME, b"i/f", b"j/n")],
    "rename over": [step(Op.RENAME, b"i/f", b"j/f")],
    "rename over a tree": [step(Op.RENAME, b"i/f", b"j/t")],
    "rename a tree": [step(Op.RENAME, b"i/t", b"n")],
    "rename a tree over one": [step(Op.RENAME, b"i/t", b"j/t")],
    "exchange": [step(Op.EXCHANGE, b"i/f", b"j/t")],
    "remove": [step(Op.REMOVE, b"i/f")],
    "remove a tree": [step(Op.REMOVE, b"i/t")],
    "stage": [stage(), write(0, b"12345"), staged(b"i/f", 5)],
    "node": [step(Op.PUT_NODE, b"i/f", kind=Kind.FIFO, mode=0o600)],
    "symlink": [step(Op.PUT_LINK, b"i/n", b"f", kind=Kind.SYMLINK, mode=0o777)],
}


@pytest.mark.parametrize("locks", [IMMUTABLE, APPEND])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_is_so_again_afterwards(target: Target, what: str, locks: int) -> None:
    """Every inode that is still there has the flags that it had, when each call returns: no later
    step need come."""
    r = target.root
    for d in ("i", "j"):
        (r / d / "t" / "below").mkdir(parents=True)
        for name in (f"{d}/f", f"{d}/t/g", f"{d}/t/below/h"):
            (r / name).write_text(name)
    (r / "open").write_text("open")
    (r / "k").mkdir()
    for i, name in enumerate(("i/f", "j/f", "j/t/g", "j/t/below/h")):
        os.link(r / name, r / "k" / str(i))  # which stays, whatever happens to that name
    locked = {}
    for path in sorted(r.rglob("*"), reverse=True):
        if path.name != "open":
            assert give(path, locks)
            locked[path.stat().st_ino] = path
    held = {ino: os.open(path, os.O_RDONLY) for ino, path in locked.items()}
    names = {str(p.relative_to(r)): p.lstat().st_ino for p in r.rglob("*")}
    try:
        assert target.apply(*IN_THE_WAY[what]) == []
        after = {str(p.relative_to(r)): p.lstat().st_ino for p in r.rglob("*")}
        assert after != names
        for path in r.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            wanted = locks if path.lstat().st_ino in held else 0
            assert inode_of(path)[0] == wanted, path
        assert inode_of(r)[0] == 0
    finally:
        for fd in held.values():
            os.close(fd)


@pytest.mark.parametrize("locks", [IMMUTABLE, APPEND])
def test_a_large_file_changes_in_place_and_is_locked_again(target: Target, locks: int) -> None:
    (target.root / "d").mkdir()
    have = begin(target, noise(0, SIZE), b"d/f")
    assert give(target.root / "d" / "f", locks) and give(target.root / "d", IMMUTABLE)
    change = write(SIZE - 3, b"new")
    end = staged(b"d/f", SIZE, xattrs=record(locks))
    assert target.apply(clone(have, b"d/f"), change, end) == []
    assert (target.root / "d" / "f").read_bytes() == noise(0, SIZE)[:-3] + b"new"
    assert (flags(target, "d/f"), flags(target, "d")) == (locks, IMMUTABLE)
    # Not to be locked any more.
    have = (target.root / "d" / "f").stat()
    steps = clone(have, b"d/f"), write(0, b"x"), staged(b"d/f", SIZE)
    assert target.apply(*steps) == []
    assert (flags(target, "d/f"), flags(target, "d")) == (0, IMMUTABLE)


def test_a_step_that_is_refused_leaves_what_is_locked_locked(target: Target) -> None:
    """By the brake, and where a mount keeps a directory in its place."""
    have = begin(target, noise(0, SIZE), b"f")
    assert give(target.root / "f", IMMUTABLE)
    steps = clone(have, b"f"), write(0, b"x"), staged(b"f", 1, xattrs=record(IMMUTABLE))
    for spare, size in ((0, SIZE), (1, 1)):
        done = batch.apply(*target.fds, b"".join(steps), spare=spare)
        assert ([f.status for f in done.faults] == [errno.ECANCELED]) == (not spare)
        assert (target.root / "f").stat().st_size == size
        assert flags(target, "f") == IMMUTABLE

    mount = target.root / "t" / "d" / "mount"
    mount.mkdir(parents=True)
    for n in range(9):
        (target.root / "t" / f"{n}").write_text("x")
    locked = [p for p in target.root.glob("t/**/*") if p != mount]
    assert all(give(p, APPEND) for p in (*locked, target.root / "t"))
    subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
    try:
        (fault,) = target.apply(step(Op.REMOVE, b"t"))
        assert fault.status == errno.EBUSY
        assert (flags(target, "t"), flags(target, "t/d")) == (APPEND, APPEND)
    finally:
        subprocess.run(["umount", mount], check=True)
    assert target.apply(step(Op.REMOVE, b"t")) == []
    assert not (target.root / "t").exists()


@pytest.mark.parametrize("spot", ["xfs"], indirect=True)  # the one that has projects as it is made
def test_what_is_in_the_way_twice(target: Target) -> None:
    """Locked, and of another project."""
    d = target.root / "d"
    d.mkdir()
    (d / "old").write_text("old")
    assert into_project(d, 7) and give(d, HEIR) and inode_of(d) == (HEIR, 7)
    for path in (d / "old", d):
        assert give(path, IMMUTABLE)
    large = stage(), write(0, b"12345"), staged(b"d/large", 5, xattrs=record(0, 9))
    over = stage(), write(0, b"12345"), staged(b"d/old", 5, xattrs=record(IMMUTABLE, 9))
    out = put(b"out"), step(Op.LINK, b"d/link", b"out"), step(Op.RENAME, b"out", b"d/own")
    assert target.apply(*large, *over, *out) == []
    assert sorted(os.listdir(d)) == ["large", "link", "old", "own"]
    assert inode_of(d) == (HEIR | IMMUTABLE, 7)
    assert inode_of(d / "old") == (IMMUTABLE, 9)


def test_projects(target: Target) -> None:
    """A directory that hands its project on takes nothing of another project (EXDEV): no name, no
    link, nothing from the stage."""
    r = target.root
    (r / "probe").write_text("")
    if not into_project(r / "probe", 7):
        steps = [put(b"f"), set_meta(b"f", record(NODUMP, 7))]
        assert [(f.step, f.status, f.what) for f in target.apply(*steps)] == [
            (1, errno.EOPNOTSUPP, At.XATTR)
        ]
        assert inode_of(r / "f") == (NODUMP, 0)
        return
    for path in (r, target.stage):
        assert into_project(path, 7) and give(path, HEIR)
    (r / "d").mkdir()
    (r / "out").write_text("out")
    assert inode_of(r / "d") == (HEIR, 7) == inode_of(r)
    large = stage(), write(0, b"12345"), staged(b"large", 5, xattrs=record(0, 9))
    own = step(
        Op.PUT_FILE, b"own", kind=Kind.FILE, mode=0o600, size=1, data=b"1", xattrs=record(0, 9)
    )
    steps = (
        put(b"none"),
        own,
        *large,
        step(Op.LINK, b"d/link", b"none"),
        step(Op.RENAME, b"own", b"d/own"),
        make_dir(b"e"),
        put(b"e/f"),
        set_meta(b"e", record(HEIR, 12), Kind.DIR),
        step(Op.RENAME, b"e", b"d/e"),
        step(Op.RENAME, b"none", b"d/e"),
        step(Op.PUT_NODE, b"node", kind=Kind.FIFO, mode=0o600),
    )
    assert target.apply(*steps) == []
    assert {p: inode_of(r / p) for p in ("d/link", "d/own", "large", "d/e")} == {
        "d/link": (0, 0),
        "d/own": (0, 9),
        "large": (0, 9),
        "d/e": (0, 0),
    }
    assert inode_of(r / "d") == (HEIR, 7) == inode_of(r)


def test_what_a_crash_left_in_the_stage_is_cleared(spot: Path) -> None:
    """An immutable file, a tree that holds one, and one that is deeper than a stack."""
    place = Path(tempfile.mkdtemp(dir=spot))
    left = place / "state" / "stage" / ".i2node-stage-crashed"
    above = left / "t0123456789abcdef.1"
    above.mkdir(parents=True)
    for path in (left / "t0123456789abcdef.2", above / "f"):
        path.write_text("x")
        assert give(path, IMMUTABLE)
    assert give(above, APPEND)
    deep = os.open(left, os.O_RDONLY)
    for name in ("t0123456789abcdef.3", *("d" * 2000)):
        os.mkdir(name, dir_fd=deep)
        below = os.open(name, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    (place / "root").mkdir()
    tree = TargetTree(os.fsencode(place / "root"), "crashed", place / "state", [])
    try:
        assert not tree.inside
        tree.clean(keep_parts=True)
        assert os.listdir(left) == []
    finally:
        unlock(place)
        tree.close()


def test_who_may_not_is_told(target: Target) -> None:
    """Without the capability: the file is there, its flags are a fault of that step."""
    child = """
import os, sys
from i2node.mover import batch
root, stage = (os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in sys.argv[1:3])
done = batch.apply(root, stage, open(sys.argv[3], "rb").read())
print([(f.step, f.status, int(f.what)) for f in done.faults], done.done)
"""
    payload = target.stage / "payload"
    xattrs = record(IMMUTABLE | NODUMP)
    steps = put(b"f") + set_meta(b"f", xattrs) + put(b"g")
    payload.write_bytes(steps)
    words = [sys.executable, "-c", child, target.root, target.stage, payload]
    without = ["setpriv", "--bounding-set=-linux_immutable", *words]
    done = subprocess.run(without, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[(1, {errno.EPERM}, {int(At.XATTR)})] 3"
    assert flags(target, "f") == NODUMP and (target.root / "g").exists()


@pytest.mark.parametrize(
    "xattrs",
    [
        record(IMMUTABLE)[:-1],
        record(IMMUTABLE)[:4] + b"\x07" + record(IMMUTABLE)[5:-1],
        record(IMMUTABLE)[:4] + b"\x09" + record(IMMUTABLE)[5:] + b"\0",
        record(IMMUTABLE) * 2,
        record(0x4),  # compression
        record(0x80000000),
        record(0, 0),
    ],
)
def test_a_record_that_is_none_is_refused(target: Target, xattrs: bytes) -> None:
    sound = set_meta(b"f", record(0x200100FB, 2**32 - 1))
    assert batch.steps_check(sound) == 1
    with pytest.raises(ProtocolError):
        batch.steps_check(set_meta(b"f", xattrs))
    with pytest.raises(ProtocolError):
        batch.apply(*target.fds, put(b"n") + set_meta(b"n", xattrs))
    assert not (target.root / "n").exists()


def test_what_has_no_flags_is_not_opened(target: Target) -> None:
    """Neither for reading nor for setting: whoever waits at a pipe goes on waiting. Also where the
    pipe came in place of a file just now."""
    pipe = target.root / "pipe"
    (target.root / "was").write_text("a file")
    dev = target.root.stat().st_dev
    (before,) = batch.list_dirs(target.fds[0], dev, [(b"", ())])
    assert {e.name for e in listing.entries(before.entries)} == {b"was"}
    (target.root / "was").unlink()
    os.mkfifo(target.root / "was")
    os.mkfifo(pipe)
    words = "import os, sys; print(flush=True); os.open(sys.argv[1], os.O_WRONLY)"
    writers = []
    try:
        for path in (pipe, target.root / "was"):
            argv = [sys.executable, "-c", words, str(path)]
            writer = subprocess.Popen(argv, stdout=subprocess.PIPE)
            writers.append(writer)
            assert writer.stdout is not None and writer.stdout.readline()
            opening(writer.pid)
        (now,) = batch.list_dirs(target.fds[0], dev, [(b"", ())])
        for entries in (now.entries, before.entries):
            group = bytearray(batch.group(b"", entries))
            batch.digest_files(target.fds[0], dev, group, content=False)
        faults = target.apply(
            step(Op.SET_META, b"pipe", kind=Kind.FIFO, mode=0o600, xattrs=record(NODUMP)),
        )
        assert [(f.status, f.what) for f in faults] == [(errno.EOPNOTSUPP, At.XATTR)]
        assert [w.poll() for w in writers] == [None, None]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def opening(pid: int) -> None:
    """Returns when the process is in openat(2)."""
    for _ in range(12_000):
        if Path(f"/proc/{pid}/syscall").read_text().startswith("257 "):
            return
        select.select([], [], [], 0.005)
    raise AssertionError("not within a minute")
