"""Directories built in the stage: what stands there afterwards is what it were without."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import kernel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_apply import DEFAULT_ACL, Target, fifo, link, make_dir, needs_root, put, target
from test_stage import in_namespace
from trees import snapshot

from i2node.fs.tree import TargetTree
from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import APPLY_NO_OWNER, STEP_NO_XATTR, At, Op, step

__all__ = ["target"]

NOREPLACE = 1
"""The flag of renameat2(2) with which a directory gets its name, and nothing else does."""


def set_meta(path: bytes, mode: int = 0o750) -> bytes:
    return step(Op.SET_META, path, kind=Kind.DIR, mode=mode, mtime_s=7)


def told(applied: batch.Applied) -> object:
    return applied.done, applied.more, applied.faults


def shown(root: Path) -> dict[bytes, tuple[object, ...]]:
    """A snapshot without what only the clock says: the times of directories."""
    found = snapshot(root)
    for path, entry in found.items():
        if stat.S_ISDIR(int(str(entry[0]))):
            found[path] = (*entry[:3], entry[3] if entry[3] == 7 * 10**9 else None, *entry[4:])
    return found


GETFLAGS, SETFLAGS, NODUMP = 0x80086601, 0x40086602, 0x40  # linux/fs.h


def file_flags(path: Path) -> int:
    if not path.is_dir() and not path.is_file():
        return 0
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return int.from_bytes(fcntl.ioctl(fd, GETFLAGS, bytes(8))[:4], sys.byteorder)
    except OSError:
        return 0
    finally:
        os.close(fd)


def no_dump(path: Path) -> bool:
    """Gives a directory a flag that it hands on and that changes nothing else; False where there
    are none."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, SETFLAGS, (file_flags(path) | NODUMP).to_bytes(8, sys.byteorder))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def test_a_directory_comes_whole(target: Target) -> None:
    """What a watcher of the parent sees is one name that comes."""
    fd = kernel.LIBC.inotify_init1(os.O_NONBLOCK)
    assert kernel.LIBC.inotify_add_watch(fd, os.fsencode(target.root), 0xFFF) > 0
    steps = [make_dir(b"d"), make_dir(b"d/e"), put(b"d/f"), put(b"d/e/g"), link(b"d/l", b"f")]
    steps += [fifo(b"d/p"), put(b"d/f", b"twice"), link(b"d/e/l", b"1"), link(b"d/e/l", b"2")]
    assert target.apply(*steps, set_meta(b"d")) == []
    data = os.read(fd, 4096)
    os.close(fd)
    seen = []
    while data:
        _, mask, _, size = struct.unpack_from("<iIII", data)
        seen.append((mask & 0xFC6, data[16 : 16 + size].rstrip(b"\0")))
        data = data[16 + size :]
    changes = [s for s in seen if s[0]]
    assert changes[0] == (0x80, b"d")  # IN_MOVED_TO
    assert {mask for mask, _ in changes[1:]} <= {2, 4}  # IN_MODIFY, IN_ATTRIB: of set_meta
    assert (target.root / "d/f").read_bytes() == b"twice"
    assert (target.root / "d/e/l").readlink() == Path("2")
    assert (target.root / "d").stat().st_mode & 0o7777 == 0o750


def test_who_watches_sees_directories_only_full(target: Target) -> None:
    found: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for name in os.listdir(target.root):
                found.append(len(os.listdir(target.root / name)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for i in range(40):
            d = b"%d" % i
            files = [put(b"%s/%d" % (d, k)) for k in range(50)]
            assert target.apply(make_dir(d), *files) == []
    finally:
        over.set()
        watcher.join()
    assert set(found) <= {50}


NAMES = (b"a", b"b", b"a/a", b"a/b", b"b/a", b"a/a/a", b"a/b/a", b"a/a/a/b", b"c/a")
paths = st.sampled_from(NAMES)


def put_with(path: bytes, data: bytes, mode: int, plain: bool) -> bytes:
    flags = 0 if plain else STEP_NO_XATTR
    return step(
        Op.PUT_FILE, path, kind=Kind.FILE, mode=mode, size=len(data), data=data, flags=flags
    )


modes = st.sampled_from([0o644, 0o600, 0o4755, 0o777, 0])
any_step = st.one_of(
    st.builds(make_dir, paths, st.sampled_from([0o755, 0o1777, 0o500])),
    st.builds(make_dir, paths),
    st.builds(put_with, paths, st.binary(max_size=3), modes, st.booleans()),
    st.builds(link, paths, st.sampled_from([b"a", b"/", b"../b"])),
    st.builds(fifo, paths),
    st.builds(set_meta, paths),
    st.builds(lambda p: step(Op.REMOVE, p), paths),
    st.builds(lambda p, q: step(Op.RENAME, p, q), paths, paths),
    st.builds(lambda p, q: step(Op.LINK, p, q), paths, paths),
    st.builds(lambda p, q: step(Op.EXCHANGE, p, q), paths, paths),
)


def assert_counted(steps: list[bytes], more: int, done: batch.Applied) -> None:
    """What was told to be gained and lost is by how much there is more. What moves out of what it
    replaces is counted with that."""
    moves = (batch.step_at(one, 0) for one in steps)
    out = any(op == Op.RENAME and path.startswith(other + b"/") for op, path, other in moves)
    assert more == done.gained - done.lost or (out and more > done.gained - done.lost)


def in_three_ways(place: Path, steps: list[bytes], room: int, before: list[bytes]) -> None:
    """At once, at once with nothing fresh, and each step by itself; what is gained and lost too."""
    payload = b"".join(steps)
    found = []
    for way in range(3):
        made = Target(Path(tempfile.mkdtemp(dir=place)))
        for one in before:
            batch.apply(*made.fds, one)
        if way == 1:
            # What is made in the stage would not be what is made in place: nothing is.
            no_dump(made.stage)
        had = len(shown(made.root))
        if way < 2:
            applied = batch.apply(*made.fds, payload, room=room, spare=1 << 60)
        else:
            faults, gained, lost = [], 0, 0
            for i, one in enumerate(steps):
                each = batch.apply(*made.fds, one, spare=1 << 60)
                faults += [replace(f, step=i) for f in each.faults]
                gained, lost = gained + each.gained, lost + each.lost
            more = max(0, len(faults) - room)
            applied = batch.Applied(len(steps), faults[:room], more, gained, lost)
        assert os.listdir(made.stage) == []
        after = shown(made.root)
        assert_counted(steps, len(after) - had, applied)
        found.append((told(applied), applied.gained, applied.lost, after))
        made.close()
        shutil.rmtree(made.root.parent)
    assert found[0] == found[1] == found[2]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_step, max_size=14), st.integers(1, 30), st.lists(any_step, max_size=3))
def test_whatever_comes_it_ends_as_in_place(
    place: Path, steps: list[bytes], room: int, before: list[bytes]
) -> None:
    in_three_ways(place, steps, room, before)


dirs = st.sampled_from([b"d", b"d/d", b"e", b"d/d/d", b"e/d", b"no/d"])
files = st.builds(lambda d, n: d + b"/" + n, dirs, st.sampled_from([b"f", b"g"]))
kind_by_name = st.one_of(
    st.builds(make_dir, dirs),
    st.builds(put_with, files, st.binary(max_size=3), modes, st.booleans()),
    st.builds(link, files, st.just(b"to")),
    st.builds(set_meta, dirs),
    st.builds(lambda p: step(Op.REMOVE, p), dirs),
)


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EXDEV, errno.EPERM, errno.EINVAL, errno.EIO, errno.ENOENT]
)
def test_a_name_refused_ends_as_in_place(tmp_path: Path, error: int) -> None:
    @settings(max_examples=60, database=None)
    @given(st.lists(kind_by_name, max_size=14), st.integers(1, 30))
    def work(steps: list[bytes], room: int) -> None:
        in_three_ways(tmp_path, steps, room, [])

    kernel.without([("renameat2", error, 4, NOREPLACE)], work)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EXDEV])
def test_what_was_noted_is_taken_back(target: Target, error: int) -> None:
    """Faults before, between and behind, with room for some of them."""
    steps = [put(b"no/1"), make_dir(b"d"), put(b"d/1"), put(b"no/2"), put(b"no/3")]
    steps += [make_dir(b"e"), put(b"d/1/2"), put(b"e/1"), put(b"no/4")]

    def work() -> None:
        for room in range(1, 6):
            applied = batch.apply(*target.fds, b"".join(steps), room=room)
            faults = [(0, errno.ENOENT), (3, errno.ENOENT), (4, errno.ENOENT)]
            faults += [(6, errno.ENOTDIR), (8, errno.ENOENT)]
            assert [(f.step, f.status) for f in applied.faults] == faults[:room]
            assert applied.more == len(faults) - len(applied.faults)
            assert applied.done == len(steps)
            assert sorted(os.listdir(target.root)) == ["d", "e"]
            assert os.listdir(target.stage) == []
            shutil.rmtree(target.root / "d")
            shutil.rmtree(target.root / "e")

    kernel.without([("renameat2", error, 4, NOREPLACE)], work)


@needs_root
def test_one_of_several_cannot_get_its_name(target: Target) -> None:
    for name in ("open", "shut"):
        (target.root / name).mkdir()
    os.chown(target.root / "open", 4711, 4712)
    os.chown(target.root / "shut", 0, 4712)
    os.chown(target.stage, 4711, 4712)
    steps = [make_dir(b"open/a"), put(b"open/a/f"), make_dir(b"shut/b"), put(b"shut/b/f")]
    steps += [put(b"open/a/g"), make_dir(b"open/c"), put(b"open/c/f")]
    os.setegid(4712)
    os.seteuid(4711)
    try:
        faults = target.apply(*steps, flags=APPLY_NO_OWNER)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert [(f.step, f.status, f.what) for f in faults] == [
        (2, errno.EACCES, At.CREATE),
        (3, errno.ENOENT, At.OPEN),
    ]
    assert sorted(os.listdir(target.root / "open/a")) == ["f", "g"]
    assert os.listdir(target.root / "open/c") == ["f"] and os.listdir(target.root / "shut") == []
    assert os.listdir(target.stage) == []


def test_more_directories_than_are_noted(target: Target) -> None:
    steps = [make_dir(b"%d" % i) for i in range(300)]
    steps += [put(b"%d/f" % i, b"%d" % i) for i in range(300)]
    assert target.apply(*steps) == []
    assert {(target.root / n / "f").read_text() for n in os.listdir(target.root)} == {
        str(i) for i in range(300)
    }


def test_a_deep_nest(target: Target) -> None:
    """Deeper than one lookup of the kernel reaches (PATH_MAX)."""
    parts = [b"n" * 200] * 30
    steps = [make_dir(b"/".join(parts[: i + 1])) for i in range(30)]
    steps += [put(b"/".join(parts[: i + 1]) + b"/f") for i in range(30)]
    assert target.apply(*steps) == []
    assert target.apply(*steps) == []
    assert target.apply(step(Op.REMOVE, parts[0])) == []
    assert os.listdir(target.root) == []


@pytest.mark.parametrize("old", ["nothing", "file", "link", "directory"])
def test_what_is_there_already(target: Target, old: str) -> None:
    d = target.root / "d"
    if old == "file":
        d.write_bytes(b"old")
    elif old == "link":
        d.symlink_to("/tmp")
    elif old == "directory":
        (d / "kept").mkdir(parents=True)
    assert target.apply(make_dir(b"d"), put(b"d/f"), make_dir(b"d"), put(b"d/g")) == []
    kept = ["kept"] if old == "directory" else []
    assert sorted(os.listdir(d)) == ["f", "g", *kept] and not d.is_symlink()


def test_a_put_in_the_place_of_what_is_fresh(target: Target) -> None:
    steps = [make_dir(b"d"), put(b"d/f"), put(b"d", b"top"), make_dir(b"e"), make_dir(b"e/e")]
    steps += [put(b"e/e/f"), link(b"e/e", b"low")]
    # Fresh, in a directory that is there and that a file then replaces.
    (target.root / "old").mkdir()
    steps += [make_dir(b"old/d"), put(b"old/d/f"), put(b"old", b"over")]
    assert target.apply(*steps) == []
    assert (target.root / "old").read_bytes() == b"over"
    assert (target.root / "d").read_bytes() == b"top"
    assert (target.root / "e/e").readlink() == Path("low")


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS])
def test_a_kernel_without_the_flag(target: Target, error: int) -> None:
    def work() -> None:
        inode = os.stat(target.stage).st_mtime_ns
        assert target.apply(make_dir(b"d"), put(b"d/f")) == []
        assert os.stat(target.stage).st_mtime_ns != inode

    kernel.without([("renameat2", error, None, 0)], work)
    assert os.listdir(target.root / "d") == ["f"]


def test_the_stage_is_the_root_itself(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    done = batch.apply(fd, fd, make_dir(b"d") + put(b"d/f") + put(b"no/f"))
    os.close(fd)
    assert [f.step for f in done.faults] == [2] and os.listdir(tmp_path) == ["d"]


@needs_root
@pytest.mark.parametrize("what", ["acl", "group", "flags"])
@pytest.mark.parametrize("where", ["root", "stage"])
def test_what_the_parent_hands_on_is_had(target: Target, where: str, what: str) -> None:
    """A default ACL, a group, file flags: those of the final parent, whatever the stage has."""
    peculiar = target.root if where == "root" else target.stage
    if what == "acl":
        os.setxattr(peculiar, "system.posix_acl_default", DEFAULT_ACL)
    elif what == "group":
        os.chown(peculiar, 0, 4712)
        peculiar.chmod(0o2755)
    elif not no_dump(peculiar):
        pytest.skip("no file flags here")
    steps = [make_dir(b"d"), make_dir(b"d/e"), put_with(b"d/f", b"x", 0o640, plain=False)]
    steps.append(put(b"d/e/g"))
    found = []
    for parts in ([steps], [[s] for s in steps]):
        for part in parts:
            target.apply(*part, flags=APPLY_NO_OWNER)
        # Not the times of the top: its names came one by one, or at once.
        entries = shown(target.root)
        flags = {p: file_flags(target.root / os.fsdecode(p)) & NODUMP for p in entries}
        found.append((entries, flags))
        shutil.rmtree(target.root / "d")
    assert found[0] == found[1]
    entries, flags = found[0]
    attrs = entries[b"d"][6]
    assert isinstance(attrs, dict)
    ours = where == "root"
    assert ("system.posix_acl_default" in attrs) == (ours and what == "acl")
    assert (entries[b"d"][2] == 4712) == (ours and what == "group")
    assert (flags[b"d"] == NODUMP) == (ours and what == "flags")


FULL = """
import errno, os, subprocess, sys
from pathlib import Path
from test_apply import Target, make_dir, put
from i2node.mover import batch

place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
target = Target(place)
steps = [make_dir(b"d"), put(b"d/0"), make_dir(b"d/e"), make_dir(b"c")]
steps += [put(b"d/e/%d" % i, bytes([65 + i]) * 50_000) for i in range(30)] + [put(b"c/x")]
payload = b"".join(steps)
applied = batch.apply(*target.fds, payload)
(fault,) = applied.faults
assert (fault.step, fault.status, fault.fatal) == (applied.done, errno.ENOSPC, True), applied
assert 5 < applied.done < 30 and os.listdir(target.stage) == [], applied
assert len(os.listdir(target.root / "d/e")) == applied.done - 4, os.listdir(target.root / "d/e")
assert os.listdir(target.root / "c") == []
subprocess.run(["mount", "-o", "remount,size=8m", "none", place], check=True)
assert target.apply(*steps[applied.done:]) == []
for i in range(30):
    assert (target.root / f"d/e/{i}").read_bytes() == bytes([65 + i]) * 50_000
assert os.listdir(target.root / "c") == ["x"]
subprocess.run(["mount", "-o", "remount,ro", "none", place], check=True)
(fault,) = target.apply(make_dir(b"g"), put(b"g/d"))
assert (fault.step, fault.status, fault.fatal) == (0, errno.EROFS, True), fault
"""


@needs_root
def test_a_full_disk_stops_in_the_middle(tmp_path: Path) -> None:
    in_namespace(FULL, tmp_path)


@needs_root
def test_a_full_disk_and_no_name_to_be_had(tmp_path: Path) -> None:
    """What is done again in place meets the full disk by itself, later or sooner."""
    refuse = "import kernel\nkernel.without([('renameat2', errno.ENOSPC, 4, 1)], work)\n"
    head, rest = FULL.split("applied = batch", 1)
    body = "applied = batch" + rest.split("subprocess.run", 1)[0]
    work = "def work():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    in_namespace(head + work + refuse, tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from test_apply import make_dir, put
from i2node.mover import batch

root, stage = (os.open(p, os.O_RDONLY) for p in sys.argv[1:3])
print(flush=True)
for n in range(1_000_000):
    steps = [make_dir(b"%d.%d" % (n, i)) for i in range(5)]
    steps += [put(b"%d.%d/%d" % (n, i, k), b"x" * 5000) for i in range(5) for k in range(30)]
    batch.apply(root, stage, b"".join(steps))
"""


@pytest.mark.parametrize("inside", [False, True])
def test_a_kill_leaves_nothing_half(tmp_path: Path, inside: bool) -> None:
    left = 0
    for delay in range(10):
        base = tmp_path / str(delay)
        (base / "root").mkdir(parents=True)
        (base / "state").mkdir()
        if inside:
            (base / "state").rmdir()
            (base / "state").write_bytes(b"no directory can be made here")
        tree = TargetTree(os.fsencode(base / "root"), "rule", base / "state", [])
        assert tree.inside == inside
        stage = tree.stage()
        where = os.readlink(f"/proc/self/fd/{stage}")
        words = [sys.executable, "-c", KILLED, base / "root", where]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=env) as child:
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            # Every other one in the middle of a payload, as far as it can be met.
            while len(os.listdir(base / "root")) <= 5 + delay * 3:
                pass
            while delay % 2 and not os.listdir(stage):
                pass
            child.send_signal(signal.SIGKILL)
        names = [n for n in os.listdir(base / "root") if not n.startswith(".")]
        assert names
        for name in names:
            files = os.listdir(base / "root" / name)
            assert len(files) == 30
            assert {(base / "root" / name / f).stat().st_size for f in files} == {5000}
        left += len(os.listdir(stage))
        tree.clean(keep_parts=True)
        assert os.listdir(stage) == []
        tree.close()
    assert left


@needs_root
def test_an_append_only_parent(tmp_path: Path) -> None:
    made = Target(tmp_path)
    d = made.root / "d"
    d.mkdir()
    if subprocess.run(["chattr", "+i", d], check=False, stderr=-3).returncode:
        pytest.skip("no file flags here")
    try:
        assert made.apply(make_dir(b"d/e"), put(b"d/e/f")) == []
        assert os.listdir(d / "e") == ["f"]
    finally:
        subprocess.run(["chattr", "-R", "-i", made.root], check=True)
        made.close()
