"""Applying steps: what stands there afterwards, whatever stood there before."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kernel
import pytest
from trees import ACL, NO_ID, Copier, acl, nasty, snapshot

from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import APPLY_NO_OWNER, APPLY_VERIFY, At, Fault, Op, step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
DEFAULT_ACL = acl((1, 7, NO_ID), (2, 7, 4711), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID))


class Target:
    """A root to apply to, with its stage beside it."""

    def __init__(self, place: Path) -> None:
        self.root, self.stage = place / "root", place / "stage"
        self.root.mkdir()
        self.stage.mkdir()
        self.fds = [os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in (self.root, self.stage)]

    def apply(self, *steps: bytes, flags: int = 0) -> list[Fault]:
        payload = b"".join(steps)
        done = batch.apply(*self.fds, payload, flags=flags)
        if not any(f.fatal for f in done.faults):
            assert done.done == len(steps)
        assert done.more == 0
        return done.faults

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def target(place: Path) -> Iterator[Target]:
    made = Target(place)
    yield made
    assert [n for n in os.listdir(made.stage) if n.startswith("t")] == []
    made.close()


def put(path: bytes, data: bytes = b"new", **more: int) -> bytes:
    fields = {"kind": Kind.FILE, "mode": 0o640, "size": len(data), "mtime_s": 5} | more
    return step(Op.PUT_FILE, path, data=data, **fields)


def make_dir(path: bytes, mode: int = 0o755) -> bytes:
    return step(Op.MAKE_DIR, path, kind=Kind.DIR, mode=mode)


def link(path: bytes, to: bytes) -> bytes:
    return step(Op.PUT_LINK, path, to, kind=Kind.SYMLINK, mode=0o777, mtime_s=9)


def fifo(path: bytes) -> bytes:
    return step(Op.PUT_NODE, path, kind=Kind.FIFO, mode=0o600, mtime_s=9)


def copy_nasty(place: Path) -> None:
    for name in ("source", "target", "stage"):
        (place / name).mkdir()
    nasty(place / "source")
    copier = Copier(place / "source", place / "target", place / "stage")
    assert copier.copy() == []
    want, got = snapshot(place / "source"), snapshot(place / "target")
    want.pop(b"")
    got.pop(b"")
    assert got == want
    assert (place / "target" / "hole").stat().st_blocks == 0
    # All of it once more, over what is there.
    assert copier.copy() == []
    got = snapshot(place / "target")
    got.pop(b"")
    assert got == want
    assert os.listdir(place / "stage") == []
    copier.close()


@needs_root
def test_a_nasty_tree_comes_out_as_it_was(place: Path) -> None:
    copy_nasty(place)


@needs_root
@pytest.mark.parametrize("fs", ["xfs", "btrfs"])
def test_a_nasty_tree_on_another_file_system(tmp_path: Path, fs: str) -> None:
    if shutil.which(f"mkfs.{fs}") is None:
        pytest.skip(f"no mkfs.{fs}")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with open(image, "wb") as f:
        f.truncate(400 << 20)
    subprocess.run([f"mkfs.{fs}", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False).returncode:
        pytest.skip("no loop mounts here")
    try:
        copy_nasty(mount)
    finally:
        subprocess.run(["umount", mount], check=True)


@needs_root
def test_an_older_kernel_makes_the_same_tree(place: Path) -> None:
    refused: list[kernel.Refusal] = [
        ("openat2", errno.ENOSYS, None, 0),
        ("statx", errno.ENOSYS, None, 0),
        ("openat", errno.EOPNOTSUPP, 2, os.O_TMPFILE),
        ("renameat2", errno.EINVAL, None, 0),
    ]
    kernel.without(refused, lambda: copy_nasty(place))


def test_without_the_right_to_link_by_descriptor(target: Target) -> None:
    def work() -> None:
        assert target.apply(put(b"f", b"1"), put(b"f", b"2")) == []

    kernel.without([("linkat", errno.ENOENT, 4, 0x1000)], work)  # AT_EMPTY_PATH
    assert (target.root / "f").read_bytes() == b"2"


THINGS = ("nothing", "file", "link", "fifo", "empty directory", "full directory")


def stand(path: Path, what: str) -> None:
    if what == "file":
        path.write_bytes(b"old")
    elif what == "link":
        path.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(path)
    elif what.endswith("directory"):
        path.mkdir()
    if what == "full directory":
        (path / "below" / "deeper").mkdir(parents=True)
        (path / "below" / "file").write_bytes(b"x")


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", THINGS)
def test_anything_replaces_anything(target: Target, old: str, exchange: bool) -> None:
    new = {
        b"file": put(b"d/file"),
        b"link": link(b"d/link", b"to"),
        b"fifo": fifo(b"d/fifo"),
        b"dir": make_dir(b"d/dir"),
        b"hard": step(Op.LINK, b"d/hard", b"other"),
        b"moved": step(Op.RENAME, b"move", b"d/moved"),
        b"tree": step(Op.RENAME, b"tree", b"d/tree"),
    }
    (target.root / "d").mkdir()
    (target.root / "other").write_bytes(b"other")
    (target.root / "move").write_bytes(b"move")
    (target.root / "tree" / "leaf").mkdir(parents=True)
    for name in new:
        stand(target.root / "d" / os.fsdecode(name), old)

    def work() -> None:
        assert target.apply(*new.values()) == []

    kernel.without([] if exchange else [("renameat2", errno.EINVAL, None, 0)], work)
    d = target.root / "d"
    assert (d / "file").read_bytes() == b"new" and not (d / "file").is_symlink()
    assert (d / "link").readlink() == Path("to")
    assert stat.S_ISFIFO((d / "fifo").lstat().st_mode)
    assert (d / "dir").is_dir() and not (d / "dir").is_symlink()
    kept = old.endswith("directory")
    assert sorted(os.listdir(d / "dir")) == (["below"] if old == "full directory" and kept else [])
    assert (d / "hard").samefile(target.root / "other")
    assert (d / "moved").read_bytes() == b"move" and not (target.root / "move").exists()
    assert os.listdir(d / "tree") == ["leaf"] and not (target.root / "tree").exists()
    assert os.listdir(target.stage) == []
    assert Path("/etc/passwd").stat().st_size > 0


def test_the_same_steps_once_more_change_nothing(target: Target) -> None:
    steps = [
        make_dir(b"d"),
        put(b"d/f", b"content"),
        link(b"d/l", b"f"),
        fifo(b"d/p"),
        step(Op.LINK, b"d/g", b"d/f"),
        step(Op.REMOVE, b"nothing/here"),
        step(Op.REMOVE, b"nothing"),
        step(Op.SET_META, b"d", kind=Kind.DIR, mode=0o750, mtime_s=3),
        step(Op.SET_META, b"", kind=Kind.DIR, mode=0o711, mtime_s=4),
    ]
    assert target.apply(*steps) == []
    first = snapshot(target.root)
    assert first[b""][0] == stat.S_IFDIR | 0o711 and first[b""][3] == 4 * 10**9
    assert target.apply(*steps) == []
    assert snapshot(target.root) == first


def test_a_hard_link_to_itself_and_across(target: Target) -> None:
    assert target.apply(put(b"a"), step(Op.LINK, b"b", b"a"), step(Op.LINK, b"a", b"b")) == []
    assert (target.root / "a").stat().st_nlink == 2
    (fault,) = target.apply(step(Op.LINK, b"c", b"absent"))
    assert (fault.status, fault.what, fault.fatal) == (errno.ENOENT, At.NAME, False)


def test_renames(target: Target) -> None:
    r = target.root
    assert target.apply(put(b"a", b"A"), put(b"b", b"B"), make_dir(b"d"), put(b"d/x")) == []
    assert target.apply(step(Op.EXCHANGE, b"a", b"b")) == []
    assert ((r / "a").read_bytes(), (r / "b").read_bytes()) == (b"B", b"A")
    assert target.apply(step(Op.EXCHANGE, b"a", b"d"), put(b"a/y")) == []
    assert sorted(os.listdir(r / "a")) == ["x", "y"] and (r / "d").read_bytes() == b"B"

    # A directory held open by an earlier step is not taken for the one that has its name now.
    moved = [put(b"a/1"), step(Op.RENAME, b"a", b"c"), make_dir(b"a"), put(b"a/2"), put(b"c/3")]
    assert target.apply(*moved) == []
    assert sorted(os.listdir(r / "c")) == ["1", "3", "x", "y"] and os.listdir(r / "a") == ["2"]

    # Two names of one file: the old one goes, though rename(2) would do nothing.
    assert target.apply(step(Op.LINK, b"n", b"b"), step(Op.RENAME, b"n", b"b")) == []
    assert not (r / "n").exists() and (r / "b").stat().st_nlink == 1
    assert target.apply(step(Op.RENAME, b"b", b"b")) == [] and (r / "b").exists()

    # What is in the way holds what comes.
    assert target.apply(step(Op.RENAME, b"c/x", b"c")) == [] and (r / "c").is_file()
    faults = target.apply(step(Op.RENAME, b"a", b"a/2"), step(Op.RENAME, b"no", b"a"))
    assert [f.what for f in faults] == [At.NAME, At.NAME] and faults[1].status == errno.ENOENT
    assert os.listdir(r / "a") == ["2"]


def test_exchange_by_three_renames(target: Target) -> None:
    assert target.apply(put(b"a", b"A"), put(b"b", b"B")) == []

    def work() -> None:
        assert target.apply(step(Op.EXCHANGE, b"a", b"b")) == []

    kernel.without([("renameat2", errno.EINVAL, None, 0)], work)
    assert (target.root / "a").read_bytes() == b"B"
    assert (target.root / "b").read_bytes() == b"A"


def test_an_exchange_with_what_is_below_changes_nothing(target: Target) -> None:
    assert target.apply(make_dir(b"d"), put(b"d/f")) == []
    for a, b in ((b"d", b"d/f"), (b"d/f", b"d")):
        (fault,) = target.apply(step(Op.EXCHANGE, a, b))
        assert (fault.what, fault.status) == (At.NAME, errno.EINVAL)
        assert os.listdir(target.root) == ["d"] and os.listdir(target.root / "d") == ["f"]
        assert os.listdir(target.stage) == []


@needs_root
def test_metadata_is_set_on_whatever_it_is(target: Target) -> None:
    attrs = b"".join(
        len(n).to_bytes(2, "little") + b"\0\0" + len(v).to_bytes(4, "little") + n + v
        for n, v in ((b"trusted.a", b"1"), (b"trusted.b", b"2"))
    )
    r = target.root
    assert target.apply(put(b"f"), make_dir(b"d"), link(b"l", b"f"), fifo(b"p")) == []
    for name in ("f", "d", "l", "p"):
        os.setxattr(r / name, "trusted.b", b"old", follow_symlinks=False)
        os.setxattr(r / name, "trusted.c", b"old", follow_symlinks=False)
        os.setxattr(r / name, "security.selinux", b"kept", follow_symlinks=False)
    kinds = {b"f": Kind.FILE, b"d": Kind.DIR, b"l": Kind.SYMLINK, b"p": Kind.FIFO}
    fields = {"mode": 0o6711, "uid": 4711, "gid": 4712, "mtime_s": -7, "mtime_ns": 8}
    steps = [step(Op.SET_META, n, kind=k, xattrs=attrs, **fields) for n, k in kinds.items()]
    assert target.apply(*steps) == []
    for name in ("f", "d", "l", "p"):
        st = (r / name).lstat()
        assert (st.st_uid, st.st_gid, st.st_mtime_ns) == (4711, 4712, -7 * 10**9 + 8)
        assert name == "l" or st.st_mode & 0o7777 == 0o6711
        got = {
            n: os.getxattr(r / name, n, follow_symlinks=False)
            for n in os.listxattr(r / name, follow_symlinks=False)
        }
        assert got == {"security.selinux": b"kept", "trusted.a": b"1", "trusted.b": b"2"}
    # What is right already is not touched: a change would move ctime.
    before = (r / "f").stat().st_ctime_ns
    assert target.apply(*steps) == [] and (r / "f").stat().st_ctime_ns == before
    leave = step(Op.SET_META, b"f", kind=Kind.FILE, flags=batch.STEP_NO_XATTR, mode=0o600)
    assert target.apply(leave) == [] and len(os.listxattr(r / "f")) == 3
    # Another kind than the source saw: nothing is touched.
    (fault,) = target.apply(step(Op.SET_META, b"l", kind=Kind.FILE, mode=0o600))
    assert fault.what == At.OPEN and (r / "f").stat().st_mode & 0o7777 == 0o600
    (fault,) = target.apply(step(Op.SET_META, b"gone", kind=Kind.FILE, mode=0o600))
    assert (fault.what, fault.status) == (At.OPEN, errno.ENOENT)


@needs_root
def test_an_inherited_acl_does_not_stay(target: Target) -> None:
    for name in ("plain", "acl"):
        (target.root / name).mkdir()
    os.setxattr(target.root / "acl", "system.posix_acl_default", DEFAULT_ACL)
    record = b"\x17\0\0\0" + len(ACL).to_bytes(4, "little") + b"system.posix_acl_access" + ACL
    steps = []
    for d in (b"plain", b"acl"):
        steps += [put(d + b"/1"), put(d + b"/2"), make_dir(d + b"/d"), fifo(d + b"/p")]
        steps.append(step(Op.SET_META, d + b"/d", kind=Kind.DIR, mode=0o700))
        steps.append(step(Op.PUT_FILE, d + b"/3", kind=Kind.FILE, mode=0o754, xattrs=record))
    assert target.apply(*steps) == []
    for d in ("plain", "acl"):
        for name in ("1", "2", "d", "p"):
            assert os.listxattr(target.root / d / name) == []
        assert (target.root / d / "2").stat().st_mode & 0o7777 == 0o640
        assert os.getxattr(target.root / d / "3", "system.posix_acl_access") == ACL


RESTLESS = """
import os, sys
os.setresgid(4711, 4711, 4711), os.setresuid(4711, 4711, 4711)
os.write(1, b"!")
while True:
    os.fchmod(int(sys.argv[1]), 0o2755), os.fchmod(int(sys.argv[1]), 0o755)
"""


@needs_root
def test_who_owns_a_directory_gets_no_rights_to_what_is_put_there(target: Target) -> None:
    """Not even by having it hand on its group in the middle of a payload."""
    d = target.root / "d"
    d.mkdir()
    os.chown(d, 4711, 4711)
    names = [b"d/%d" % n for n in range(1000)]
    fd = os.open(d, os.O_RDONLY)
    words = [sys.executable, "-c", RESTLESS, str(fd)]
    with subprocess.Popen(words, pass_fds=[fd], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.read(1) == b"!"
        try:
            for more in (b"a", b"b", b"c", b"d", b"e", b"f"):
                assert target.apply(*(put(name + more, mode=0o640) for name in names)) == []
        finally:
            owner.kill()
            os.close(fd)
    assert len(os.listdir(d)) == 6 * len(names)
    assert {p.stat().st_gid for p in d.iterdir()} == {0}


@needs_root
def test_flags_in_the_way_are_cleared(tmp_path: Path) -> None:
    target = Target(tmp_path)
    r = target.root
    for name in ("put", "gone", "set", "over", "from", "tree/below/file", "dir/file"):
        (r / name).parent.mkdir(parents=True, exist_ok=True)
        (r / name).write_bytes(b"old")
    flagged = [
        r / n for n in ("put", "gone", "set", "over", "from", "tree/below/file", "tree/below")
    ]
    if subprocess.run(["chattr", "+i", *flagged], check=False, stderr=-3).returncode:
        pytest.skip("no file flags here")
    subprocess.run(["chattr", "+a", r / "dir"], check=True)
    try:
        faults = target.apply(
            put(b"put"),
            step(Op.REMOVE, b"gone"),
            step(Op.SET_META, b"set", kind=Kind.FILE, mode=0o600),
            step(Op.RENAME, b"from", b"over"),
            step(Op.REMOVE, b"tree"),
            step(Op.REMOVE, b"dir/file"),
        )
        assert faults == []
        assert sorted(os.listdir(r)) == ["dir", "over", "put", "set"]
        assert (r / "put").read_bytes() == b"new" and os.listdir(r / "dir") == []
    finally:
        subprocess.run(["chattr", "-R", "-ia", r], check=True)
    target.close()


@needs_root
def test_who_may_not_chown_lends_no_rights(target: Target) -> None:
    target.root.chmod(0o777)
    target.stage.chmod(0o777)
    os.setegid(4712)
    os.seteuid(4711)
    try:
        fields = {"uid": 0, "gid": 0, "mode": 0o6755}
        (owner,) = target.apply(put(b"tried", **fields))
        assert (owner.what, owner.status) == (At.OWNER, errno.EPERM)
        (mode,) = target.apply(put(b"told", **fields), flags=APPLY_NO_OWNER)
        assert (mode.what, mode.status) == (At.MODE, errno.EPERM)
        assert target.apply(put(b"fine", mode=0o755), flags=APPLY_NO_OWNER) == []
        own = put(b"own", uid=4711, gid=4712, mode=0o4755)
        assert target.apply(own, flags=APPLY_NO_OWNER) == []
        record = b"\x09\0\0\0\1\0\0\0trusted.ax"
        (attr,) = target.apply(
            step(Op.PUT_FILE, b"attr", kind=Kind.FILE, uid=4711, gid=4712, xattrs=record)
        )
        assert attr.what == At.XATTR and attr.status == errno.EPERM
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert (target.root / "attr").exists()
    for name in ("tried", "told", "fine"):
        assert (target.root / name).stat().st_mode & 0o7777 == 0o755
    assert (target.root / "own").stat().st_mode & 0o7777 == 0o4755


def test_content_that_is_not_what_it_should_be(target: Target) -> None:
    wrong = step(Op.PUT_FILE, b"f", kind=Kind.FILE, size=1, data=b"x", content=b"?" * 16)
    (fault,) = target.apply(wrong, flags=APPLY_VERIFY)
    assert (fault.what, fault.status) == (At.CHECK, errno.EBADMSG)
    assert os.listdir(target.root) == []
    assert target.apply(wrong) == []


def test_a_file_of_the_largest_frame(target: Target) -> None:
    data = os.urandom(5_000_001)
    assert target.apply(put(b"f", data)) == []
    assert (target.root / "f").read_bytes() == data
