"""What the target's file system refuses is kept aside, and comes back to the last byte."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from inplace import mounted
from trees import ACL, Copier, entries, nasty, snapshot

from disks import disk
from i2node.model import Kind
from i2node.mover import aside, batch, listing
from i2node.mover.batch import At, Op, step
from inodes import inode_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems"),
]

SMALL = ("-b", "1024", "-I", "128")
"""Times in whole seconds up to 2038, and hardly any room for attributes."""
LIMITED: dict[str, dict[str, object]] = {
    "ext4": {"mib": 32, "make": SMALL},
    "btrfs": {"mib": 200, "options": "noacl"},
}
MTIME = 4_300_000_000, 123_456_789
BIG = bytes(range(256)) * 12


class Spot:
    """A target with a root, a stage and a shelf on one file system."""

    def __init__(self, place: Path, held: ExitStack) -> None:
        self.root, self.stage, self.shelf = (place / n for n in ("root", "stage", "shelf"))
        for path in (self.root, self.stage, self.shelf):
            path.mkdir(exist_ok=True)
        self.fds = [os.open(p, os.O_RDONLY) for p in (self.root, self.stage, self.shelf)]
        self.dev = os.fstat(self.fds[0]).st_dev
        for fd in self.fds:
            held.callback(os.close, fd)

    def apply(self, *steps: bytes, flags: int = batch.APPLY_ASIDE) -> list[batch.Fault]:
        done = batch.apply(*self.fds[:2], b"".join(steps), flags=flags, shelf=self.fds[2])
        assert done.done == len(steps) or any(f.fatal for f in done.faults)
        return done.faults

    def kept(self) -> list[str]:
        return sorted(os.listdir(self.shelf))

    def told(self, path: bytes = b"", content: bool = False) -> dict[bytes, listing.Entry]:
        """The entries of a directory, as a probe tells them."""
        (answer,) = batch.list_dirs(self.fds[0], self.dev, [(path, ())])
        group = bytearray(batch.group(path, answer.entries))
        batch.digest_files(self.fds[0], self.dev, group, content=content, shelf=self.fds[2])
        return {e.name: e for _, packed in batch.groups(group) for e in entries(packed)}

    def attributes(self, name: str) -> bytes:
        fd = os.open(self.root / name, os.O_RDONLY)
        try:
            return batch.attributes(fd, self.fds[2])
        finally:
            os.close(fd)


@contextmanager
def spot_on(kind: str, place: Path, **more: object) -> Iterator[Spot]:
    with disk(kind, place, **more) as mount, ExitStack() as held:  # type: ignore[arg-type]
        yield Spot(mount, held)


@pytest.fixture
def spot(tmp_path: Path) -> Iterator[Spot]:
    with spot_on("ext4", tmp_path, mib=16, make=SMALL) as made:
        yield made


def records(attributes: dict[bytes, bytes]) -> bytes:
    return b"".join(
        len(name).to_bytes(4, "little") + len(value).to_bytes(4, "little") + name + value
        for name, value in sorted(attributes.items())
    )


def put(
    path: bytes,
    attributes: dict[bytes, bytes] | None = None,
    op: Op = Op.PUT_FILE,
    mode: int = 0o644,
    uid: int = 0,
    mtime: tuple[int, int] = MTIME,
    data: bytes = b"data",
) -> bytes:
    plain = op == Op.PUT_FILE
    return step(
        op,
        path,
        kind=Kind.FILE,
        mode=mode,
        uid=uid,
        mtime_s=mtime[0],
        mtime_ns=mtime[1],
        size=len(data) if plain else 0,
        data=data if plain else b"",
        xattrs=records(attributes or {}),
    )


ATTRIBUTES = {b"user.big": BIG, b"user.small": b"fits"}


def is_whole(spot: Spot, path: str, attributes: dict[bytes, bytes] = ATTRIBUTES) -> None:
    """What the file system has of it and what is aside make what the source had."""
    above, _, name = path.rpartition("/")
    told = spot.told(above.encode())[name.encode()]
    assert (told.mtime_s, told.mtime_ns) == MTIME
    assert spot.attributes(path) == records(attributes)


# ------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_nasty_tree_comes_back_to_the_last_byte(tmp_path, kind):
    """There, and from there to a third place, as a restore would do it."""
    with (
        disk("xfs", tmp_path) as rich,
        spot_on(kind, tmp_path, **LIMITED[kind]) as spot,
        ExitStack() as held,
    ):
        source, back, stage = (rich / name for name in ("source", "back", "stage"))
        for path in (source, back, stage):
            path.mkdir()
        nasty(source)
        os.setxattr(source / "attrs", "user.vast", os.urandom(60_000))
        os.setxattr(source / "dir", "user.vast", os.urandom(3_000))
        os.setxattr(source / "dir", "system.posix_acl_default", ACL)
        there = Copier(source, spot.root, spot.stage, shelves=(-1, spot.fds[2]))
        held.callback(there.close)
        assert there.copy() == []
        assert len(spot.kept()) >= 3
        home = Copier(spot.root, back, stage, shelves=(spot.fds[2], -1))
        held.callback(home.close)
        assert home.copy() == []
        assert snapshot(back)[b"dir"] == snapshot(source)[b"dir"]
        one, other = (
            {k: v for k, v in snapshot(p).items() if k} for p in (source, back)
        )  # the roots were not carried
        assert one == other


def test_what_is_told_of_a_file_is_what_the_source_has(spot, tmp_path):
    """So that a comparison of both sides settles; somebody else's change shows nevertheless."""
    assert spot.apply(put(b"f", ATTRIBUTES)) == []
    is_whole(spot, "f")
    assert os.stat(spot.root / "f").st_mtime == 2**31 - 1
    assert os.listxattr(spot.root / "f") == ["user.small"]
    before = spot.told()[b"f"].attrs
    os.setxattr(spot.root / "f", "user.small", b"else")
    os.utime(spot.root / "f", (5, 5))
    told = spot.told()[b"f"]
    assert told.attrs != before and (told.mtime_s, told.mtime_ns) == (5, 0)
    os.setxattr(spot.root / "f", "user.big", b"now it fits")
    assert spot.attributes("f") == records({b"user.big": b"now it fits", b"user.small": b"else"})


def test_without_a_shelf_nothing_is_looked_up_or_lost_unseen(spot):
    flags = batch.APPLY_ASIDE
    payload = put(b"plain", mtime=(5, 0)) + put(b"f", ATTRIBUTES)
    done = batch.apply(*spot.fds[:2], payload, flags=flags)
    assert done.done == 1 and (spot.root / "plain").exists() and not (spot.root / "f").exists()
    assert [(f.what, f.fatal) for f in done.faults] == [(At.ASIDE, True)]
    done = batch.apply(*spot.fds[:2], payload, flags=batch.APPLY_LOSE)
    assert done.done == 2 and done.faults == []
    assert os.listxattr(spot.root / "f") == ["user.small"]
    done = batch.apply(*spot.fds[:2], payload)
    faults = [(At.XATTR, errno.E2BIG), (At.TIMES, errno.ERANGE)]
    assert [(f.what, f.status) for f in done.faults] == faults


# ------------------------------------------------------------------------------- what happens to it


def test_it_follows_renames_and_links_and_goes_with_the_last_name(spot):
    assert (
        spot.apply(
            step(Op.MAKE_DIR, b"d", kind=Kind.DIR, mode=0o755),
            put(b"d/f", ATTRIBUTES),
            step(Op.RENAME, b"d/f", b"g"),
            step(Op.LINK, b"d/h", b"g"),
            step(Op.RENAME, b"d", b"e"),
        )
        == []
    )
    for name in ("g", "e/h"):
        is_whole(spot, name)
    assert len(spot.kept()) == 1
    assert spot.apply(step(Op.REMOVE, b"g")) == []
    is_whole(spot, "e/h")
    assert spot.apply(step(Op.REMOVE, b"e")) == []
    assert spot.kept() == [] and list(spot.root.iterdir()) == []


@pytest.mark.parametrize("how", ["rewrite", "rename", "link", "remove", "retype"])
def test_what_is_replaced_leaves_nothing(spot, how):
    assert spot.apply(put(b"f", ATTRIBUTES), put(b"plain", mtime=(5, 0))) == []
    (old,) = spot.kept()
    after = {
        "rewrite": put(b"f", ATTRIBUTES, data=b"other"),
        "rename": step(Op.RENAME, b"plain", b"f"),
        "link": step(Op.LINK, b"f", b"plain"),
        "remove": step(Op.REMOVE, b"f"),
        "retype": step(Op.PUT_LINK, b"f", b"there", kind=Kind.SYMLINK),
    }[how]
    assert spot.apply(after) == []
    assert len(spot.kept()) == (how == "rewrite") and old not in spot.kept()
    if how == "rewrite":
        is_whole(spot, "f")


def test_what_fits_again_or_is_not_wanted_any_more_is_taken_away(spot):
    assert spot.apply(put(b"f", ATTRIBUTES)) == []
    assert spot.apply(put(b"f", {b"user.big": b"short"}, Op.SET_META, mtime=(5, 0))) == []
    assert spot.kept() == []
    assert os.getxattr(spot.root / "f", "user.big") == b"short"
    # It has grown again: the older value does not stay.
    assert spot.apply(put(b"f", ATTRIBUTES, Op.SET_META)) == []
    is_whole(spot, "f")
    assert os.listxattr(spot.root / "f") == ["user.small"]


def test_a_step_that_leaves_attributes_alone_leaves_those_aside_alone(spot):
    assert spot.apply(put(b"f", ATTRIBUTES)) == []
    other = step(
        Op.SET_META, b"f", kind=Kind.FILE, flags=batch.STEP_NO_XATTR, mode=0o600, mtime_s=7
    )
    assert spot.apply(other) == []
    assert spot.attributes("f") == records(ATTRIBUTES)
    told = spot.told()[b"f"]
    assert (told.mode, told.mtime_s, told.mtime_ns) == (0o600, 7, 0)


def test_a_refused_acl_lends_the_group_nothing(tmp_path):
    """Beside an ACL the mode has the mask in the group's place."""
    acl = {b"system.posix_acl_access": ACL}
    with spot_on("btrfs", tmp_path, **LIMITED["btrfs"]) as spot:
        assert spot.apply(put(b"f", acl, mode=0o750, mtime=(5, 0))) == []
        assert os.stat(spot.root / "f").st_mode & 0o777 == 0o740
        told = spot.told()[b"f"]
        assert told.mode == 0o750 and spot.attributes("f") == records(acl)


def test_a_delta_is_laid_on_a_file_whose_time_is_aside(spot):
    size = 200_000
    old = os.urandom(size)
    assert spot.apply(put(b"f", data=old)) == []
    begin = {"size": size, "mtime_s": MTIME[0], "mtime_ns": MTIME[1]}
    assert spot.apply(
        step(Op.STAGE, b"f", flags=batch.STEP_CLONE, stage=1, **begin),
        step(Op.WRITE, b"", stage=1, size=1000, data=b"changed"),
        step(
            Op.STAGED, b"f", kind=Kind.FILE, mode=0o644, stage=1, size=size,
            mtime_s=MTIME[0] + 1, mtime_ns=MTIME[1],
        ),
    ) == []  # fmt: skip
    assert (spot.root / "f").read_bytes() == old[:1000] + b"changed" + old[1007:]
    told = spot.told()[b"f"]
    assert (told.mtime_s, told.mtime_ns) == (MTIME[0] + 1, MTIME[1])


def test_what_gets_no_name_leaves_nothing(spot):
    """A mount stands there: however often it is tried, nothing is aside of what never was."""
    mount = spot.root / "m"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
    try:
        link = {"kind": Kind.SYMLINK, "mode": 0o777, "mtime_s": MTIME[0]}
        for steps in (
            [put(b"m", ATTRIBUTES)],
            [step(Op.PUT_LINK, b"m", b"there", **link)],
            [
                step(Op.STAGE, b"", stage=1),
                step(Op.WRITE, b"", stage=1, data=b"large"),
                step(Op.STAGED, b"m", stage=1, size=5, kind=Kind.FILE, mtime_s=MTIME[0]),
            ],
        ):
            assert spot.apply(put(b"other", ATTRIBUTES), *steps)[-1].what == At.NAME
            assert len(spot.kept()) == 1 and os.listdir(spot.stage) == []
    finally:
        subprocess.run(["umount", mount], check=True)


def test_what_waited_and_gets_no_name_leaves_nothing(tmp_path):
    """Files that replace others wait for one sync; a mount keeps the last of them from its name."""
    with spot_on("btrfs", tmp_path, mib=200, options="noacl") as spot:
        names = [b"%d" % n for n in range(12)]
        refused = {b"system.posix_acl_access": ACL}
        assert spot.apply(*(put(name, refused) for name in names)) == []
        before = spot.kept()
        assert len(before) == len(names)
        subprocess.run(["mount", "--bind", spot.root / "0", spot.root / "11"], check=True)
        try:
            faults = spot.apply(*(put(name, refused, data=b"new") for name in names))
        finally:
            subprocess.run(["umount", spot.root / "11"], check=True)
        assert [(f.step, f.status) for f in faults] == [(11, errno.EBUSY)]
        assert len(spot.kept()) == len(names) and os.listdir(spot.stage) == []


def test_a_name_that_it_has_already_takes_nothing(spot):
    d = step(Op.MAKE_DIR, b"d", kind=Kind.DIR, mode=0o755)
    of_d = step(Op.SET_META, b"d", kind=Kind.DIR, mode=0o755, mtime_s=5, xattrs=records(ATTRIBUTES))
    assert spot.apply(put(b"f", ATTRIBUTES), d, of_d) == []
    kept = spot.kept()
    assert spot.apply(*(step(Op.RENAME, n, n) for n in (b"f", b"d"))) == []
    assert len(kept) == 2 and spot.kept() == kept


def test_more_than_can_be_read_again_is_told(spot):
    """As many names as a file can have leave no room for a record of ours."""
    names = {b"none.%04d" % i: b"" for i in range(65536 // 10)}
    assert spot.apply(put(b"f", ATTRIBUTES)) == []
    (fault,) = spot.apply(put(b"f", names, Op.SET_META))
    assert (fault.what, fault.status) == (At.XATTR, errno.E2BIG)
    assert spot.attributes("f") == b"" and spot.kept() == []
    assert spot.apply(put(b"f", names, Op.SET_META, mtime=(5, 0))) == []
    assert spot.attributes("f") == records(names)


@pytest.mark.parametrize("field", ["sound", "kind", "mode", "ns", "flags"])
def test_what_a_disk_spoilt_is_not_laid_over(spot, field):
    """With an entry that cannot be, a listing would be none at all."""
    assert spot.apply(put(b"f", {b"user.big": BIG}, mtime=(5, 0), data=b"")) == []
    (kept,) = spot.kept()
    kind = 99 if field == "kind" else Kind.FIFO
    mode, ns = (0o10600 if field == "mode" else 0o600), (10**9 if field == "ns" else 7)
    what = 8 | 2 | 4  # the kind, the mode and the time
    there = 0o644, 0, 0, 0, 5
    own = struct.pack("<6IqQ4Iq", what, kind, mode, 0, 0, ns, 9, 0, *there)
    spoilt = {b"i2node.stat": own}
    if field == "flags":
        spoilt = {b"i2node.flags": struct.pack("<4I", 0x80000000, 7, 0, 0)}
    (spot.shelf / kept).write_bytes(records(spoilt))
    told = spot.told()[b"f"]
    found = told.kind, told.mode, told.mtime_s, told.mtime_ns
    assert found == ((Kind.FIFO, 0o600, 9, 7) if field == "sound" else (Kind.FILE, 0o644, 5, 0))
    assert spot.attributes("f") == b""


def test_names_of_our_own_are_no_attributes_of_a_peer(spot):
    for name in (b"i2node.stat", b"i2node.flags", b"i2node.other"):
        (fault,) = spot.apply(put(b"f", {name: b"x" * 80}))
        assert fault.what == At.XATTR and spot.attributes("f") == b""


# ------------------------------------------------------------------------------- without root

NOBODY = 65534
ROOTLESS = """
import os, sys
from i2node.mover import batch
fds = [os.open(p, os.O_RDONLY) for p in sys.argv[1:4]]
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
flags = batch.APPLY_ASIDE | batch.APPLY_NO_OWNER
done = batch.apply(fds[0], fds[1], sys.stdin.buffer.read(), flags=flags, shelf=fds[2])
assert done.faults == [], done
"""


def child(code: str, spot: Spot, payload: bytes, *before: str) -> subprocess.CompletedProcess:
    places = [str(p) for p in (spot.root, spot.stage, spot.shelf)]
    words = [*before, sys.executable, "-c", code, *places]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(words, input=payload, env=paths, capture_output=True, check=False)


def test_an_agent_that_is_not_root_keeps_aside_what_it_may_not_set(spot):
    """Owner, set-id bits, attributes of root, devices: an empty file stands for these."""
    for path in (spot.root, spot.stage, spot.shelf):
        os.chown(path, NOBODY, NOBODY)
    device = step(
        Op.PUT_NODE, b"null", kind=Kind.CHR, mode=0o666, uid=7, rdev=os.makedev(1, 3), mtime_s=5
    )
    trusted = {b"trusted.t": b"\0t", b"user.u": b"u"}
    locked = {b"i2node.inode": struct.pack("<II", 0x10 | 0x40, 0)}  # immutable, no dump
    payload = put(b"f", trusted, mode=0o4755, uid=12345) + device + put(b"g", locked)
    done = child(ROOTLESS, spot, payload)
    assert done.returncode == 0, done.stderr.decode()
    real = os.stat(spot.root / "f")
    assert (real.st_uid, real.st_mode & 0o7777) == (NOBODY, 0o755)
    told = spot.told(content=True)
    assert (told[b"f"].uid, told[b"f"].mode) == (12345, 0o4755)
    assert spot.attributes("f") == records(trusted)
    assert spot.attributes("g") == records(locked)
    assert inode_of(spot.root / "g")[0] == 0x40
    node = told[b"null"]
    assert (node.kind, node.rdev, node.uid, node.mode) == (Kind.CHR, os.makedev(1, 3), 7, 0o666)
    assert node.content == bytes(16)
    assert os.stat(spot.root / "null").st_size == 0


# ------------------------------------------------------------------------------- after a crash

CRASHING = """
import os, sys
from i2node.mover import batch
fds = [os.open(p, os.O_RDONLY) for p in sys.argv[1:4]]
done = batch.apply(*fds[:2], sys.stdin.buffer.read(), flags=batch.APPLY_ASIDE, shelf=fds[2])
assert done.faults == [], done
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize(
    ("what", "call"),
    [
        *itertools.product(("new", "rewrite"), ("renameat", "pwrite64", "fsetxattr")),
        *itertools.product(("meta",), ("renameat", "pwrite64", "setxattr")),
        ("rewrite", "unlinkat"),
    ],
)
def test_killed_in_between_and_done_again(spot, call, what):
    """Whenever that was, what was acknowledged before is there, and then all of the new."""
    old = {b"user.big": BIG[::-1], b"user.small": b"old"}
    steps = {"meta": put(b"f", ATTRIBUTES, Op.SET_META)}.get(what, put(b"f", ATTRIBUTES))
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    for nth in range(1, 400):
        if what == "new":
            assert spot.apply(step(Op.REMOVE, b"f")) == []
        else:
            assert spot.apply(put(b"f", old)) == []
        inject = f"{call}:signal=KILL:when={nth}"
        done = child(CRASHING, spot, steps, *trace, "-e", "inject=" + inject)
        if done.returncode == 0:
            break
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        if what == "rewrite" and spot.attributes("f") != records(ATTRIBUTES):
            assert spot.attributes("f") == records(old)
        assert spot.apply(steps) == []
        is_whole(spot, "f")
        for left in spot.stage.iterdir():
            left.unlink()
        aside.sweep(spot.fds[0], spot.fds[2])
        assert len(spot.kept()) == 1
    assert nth > 1, "it was never killed"
    assert spot.apply(steps) == []
    is_whole(spot, "f")


def test_a_power_cut_after_the_sync_takes_nothing(spot, tmp_path):
    """One syncfs for the file and for what is aside of it; the file is known again after it."""
    assert spot.apply(put(b"f", ATTRIBUTES)) == []
    batch.sync(spot.fds[0])
    shutil.copyfile(tmp_path / "ext4.image", tmp_path / "cut")
    with mounted(tmp_path / "cut", tmp_path / "there") as place, ExitStack() as held:
        after = Spot(place, held)
        is_whole(after, "f")
        aside.sweep(after.fds[0], after.fds[2])
        is_whole(after, "f")


def test_what_a_crash_left_for_nobody_is_swept(spot):
    assert spot.apply(put(b"f", ATTRIBUTES), put(b"g", ATTRIBUTES)) == []
    (spot.shelf / "t0123.1").write_bytes(b"in passing")
    (spot.root / "g").unlink()
    assert aside.sweep(spot.fds[0], spot.fds[2]) == 2
    assert len(spot.kept()) == 1
    is_whole(spot, "f")
    # Half written and never acknowledged: as if it were not there.
    (spot.shelf / spot.kept()[0]).write_bytes(bytes(50))
    assert spot.attributes("f") == records({b"user.small": b"fits"})
    assert spot.apply(put(b"f", ATTRIBUTES, Op.SET_META)) == []
    is_whole(spot, "f")
