"""Large files: staged, patched, cloned, put in place when whole; and disks that refuse."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_apply import Target, put
from test_walk import in_namespace
from trees import entries

from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import APPLY_VERIFY, STEP_CLONE, STEP_DROP, STEP_KEEP, At, Op, step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ID = 0x1234ABCD
NAME = "000000001234abcd"


@pytest.fixture
def target(place: Path) -> Iterator[Target]:
    made = Target(place)
    yield made
    made.close()


def stage(path: bytes = b"", flags: int = 0, old: os.stat_result | None = None) -> bytes:
    """old: what path is expected to be, for a clone."""
    return step(Op.STAGE, path, stage=ID, flags=flags, size=old.st_size if old else 0, **when(old))


def when(old: os.stat_result | None) -> dict[str, int]:
    """The mtime of a file as a step carries it."""
    seconds, ns = divmod(old.st_mtime_ns, 10**9) if old else (0, 0)
    return {"mtime_s": seconds, "mtime_ns": ns}


def write(at: int, data: bytes) -> bytes:
    return step(Op.WRITE, b"", stage=ID, size=at, data=data)


def copy(path: bytes, start: int, to: int, span: int, old: os.stat_result | None = None) -> bytes:
    return step(Op.COPY, path, stage=ID, rdev=start, size=to, span=span, **when(old))


def hole(at: int, span: int) -> bytes:
    return step(Op.HOLE, b"", stage=ID, size=at, span=span)


def staged(path: bytes, size: int, content: bytes = b"", **more: int) -> bytes:
    fields = {"kind": Kind.FILE, "mode": 0o640, "mtime_s": 5} | more
    return step(Op.STAGED, path, stage=ID, size=size, content=content, **fields)


def digest(place: Path, name: bytes) -> bytes:
    """The content digest of a file, as the walk and digest_files give it."""
    fd = os.open(place, os.O_RDONLY)
    dev = os.fstat(fd).st_dev
    listing = batch.stat_names(fd, dev, b"", [name])
    buffer = bytearray(batch.group(b"", listing.entries))
    batch.digest_files(fd, dev, buffer, content=True)
    os.close(fd)
    return next(entries(batch.groups(buffer)[0][1])).content


def test_a_staged_file_appears_whole_and_at_once(target: Target) -> None:
    data = os.urandom(300_000)
    r = target.root
    (r / "f").write_bytes(b"old")
    assert target.apply(stage(), write(100_000, data[100_000:]), write(0, data[:100_000])) == []
    assert (r / "f").read_bytes() == b"old" and os.listdir(target.stage) == [NAME]
    assert (target.stage / NAME).stat().st_mode & 0o7777 == 0o600
    assert target.apply(staged(b"f", len(data), uid=os.getuid(), gid=os.getgid())) == []
    assert (r / "f").read_bytes() == data and os.listdir(target.stage) == []
    assert (r / "f").stat().st_mode & 0o7777 == 0o640
    assert (r / "f").stat().st_mtime_ns == 5 * 10**9


def test_staging_goes_on_after_a_break(target: Target) -> None:
    assert target.apply(stage(), write(0, b"first")) == []
    assert target.apply(stage(flags=STEP_KEEP), write(5, b" second")) == []
    assert (target.stage / NAME).read_bytes() == b"first second"
    assert target.apply(stage(), write(0, b"anew"), staged(b"f", 4)) == []
    assert (target.root / "f").read_bytes() == b"anew"
    before = (target.root / "f").stat()
    assert target.apply(stage(b"f", STEP_CLONE, before), write(0, b"A")) == []
    again = stage(b"f", STEP_KEEP | STEP_CLONE, before)
    assert target.apply(again, write(3, b"W"), staged(b"f", 4)) == []
    assert (target.root / "f").read_bytes() == b"AneW"
    # Gone meanwhile: a file of which the beginning is missing must not come to be.
    faults = target.apply(stage(flags=STEP_KEEP), write(5, b" second"), staged(b"f", 12))
    assert faults and (target.root / "f").read_bytes() == b"AneW"


REFUSED: dict[str, list[kernel.Refusal]] = {
    "nothing": [],
    "clone": [("ioctl", errno.EOPNOTSUPP, None, 0)],
    "copy_file_range": [
        ("ioctl", errno.EOPNOTSUPP, None, 0),
        ("copy_file_range", errno.ENOSYS, None, 0),
    ],
    "punch": [("fallocate", errno.EOPNOTSUPP, None, 0), ("copy_file_range", errno.EXDEV, None, 0)],
}


@pytest.mark.parametrize("refused", REFUSED)
def test_clone_copy_and_hole(target: Target, refused: str) -> None:
    r, rest = target.root, 37
    size = 40 * 4096 + rest
    old = bytearray(os.urandom(size))
    old[8192 : 8192 + 65536] = bytes(65536)
    with open(r / "f", "wb") as f:
        f.write(old[:8192])
        f.seek(8192 + 65536)
        f.write(old[8192 + 65536 :])
    have = (r / "f").stat()
    sparse = have.st_blocks

    def work() -> None:
        cloned = [stage(b"f", STEP_CLONE, have), write(4096, b"patch"), staged(b"g", size)]
        assert target.apply(*cloned) == []
        parts = [
            stage(),
            write(0, b"head"),
            copy(b"f", 4096, 4096, 100_000, have),
            copy(b"f", 1, 104_097, 77, have),
            hole(104_174, 50_000),
            copy(b"f", size - 100, 154_174, 100, have),
            hole(154_274, 1000),
            staged(b"h", 155_274),
        ]
        assert target.apply(*parts) == []
        inner = [stage(b"f", STEP_CLONE, have), hole(100_000, 30_001), staged(b"i", size - 5)]
        assert target.apply(*inner) == []

    kernel.without(REFUSED[refused], work)
    want = bytearray(old)
    want[4096:4101] = b"patch"
    assert (r / "g").read_bytes() == want
    assert (r / "g").stat().st_blocks <= sparse + 8
    made = b"head" + bytes(4092) + old[4096:104_096] + b"\0" + old[1:78] + bytes(50_000)
    made += old[-100:] + bytes(1000)
    assert (r / "h").read_bytes() == made
    want = bytearray(old)
    want[100_000:130_001] = bytes(30_001)
    assert (r / "i").read_bytes() == want[:-5]
    assert os.listdir(target.stage) == []


LIMIT = 1 << 22


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond size (setrlimit(2)); Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_copied_is_told_by_the_last_step(target: Target, place: Path) -> None:
    (place / "secret").write_bytes(b"secret")
    (target.root / "link").symlink_to(place / "secret")
    (target.root / "out").symlink_to(place)
    os.mkfifo(target.root / "fifo")
    assert target.apply(put(b"f", b"0123456789")) == []
    have, secret = (target.root / "f").stat(), (place / "secret").stat()
    cases = [
        (copy(b"f", 5, 0, 6, have), At.WRITE, errno.ESTALE),
        (copy(b"f", 11, 0, 1, have), At.WRITE, errno.ESTALE),
        (copy(b"absent", 0, 0, 1), At.OPEN, errno.ENOENT),
        (copy(b"link", 0, 0, 6, secret), At.OPEN, errno.ESTALE),
        (copy(b"out/secret", 0, 0, 6, secret), At.OPEN, errno.ENOTDIR),
        (copy(b"fifo", 0, 0, 1), At.OPEN, errno.ESTALE),
        (stage(b"link", STEP_CLONE, secret), At.OPEN, errno.ESTALE),
        (write(LIMIT, b"12345678"), At.WRITE, errno.EFBIG),
    ]
    for bad, what, status in cases:
        assert target.apply(stage()) == []
        # In one call or in several: what comes behind is passed over, and the file never appears.
        with file_size_limit(LIMIT):
            assert target.apply(bad, write(0, b"late")) == []
        assert target.apply(write(1, b"later"), hole(0, 3)) == []
        (fault,) = target.apply(put(b"before"), staged(b"new", 8), put(b"after"))
        assert (fault.step, fault.what, fault.status, fault.fatal) == (1, what, status, False)
        assert not (target.root / "new").exists() and os.listdir(target.stage) == []
    assert target.apply(stage(), cases[0][0], stage(), write(0, b"anew"), staged(b"new", 4)) == []
    assert (target.root / "new").read_bytes() == b"anew"


def test_steps_for_a_file_that_is_not_staged_are_faults(target: Target) -> None:
    for bad in (
        step(Op.WRITE, b"", stage=99, data=b"x"),
        step(Op.HOLE, b"", stage=99, span=1),
        step(Op.STAGED, b"x", stage=99, kind=Kind.FILE),
    ):
        (fault,) = target.apply(bad)
        assert (fault.what, fault.status) == (At.OPEN, errno.ENOENT)
    assert target.apply(stage()) == []
    (fault,) = target.apply(staged(b"absent/f", 3))
    assert (fault.what, fault.status) == (At.OPEN, errno.ENOENT)
    assert os.listdir(target.stage) == []


def test_a_delta_needs_the_old_file_it_was_made_for(target: Target) -> None:
    r = target.root
    (r / "f").write_bytes(b"0123456789")
    have = (r / "f").stat()
    later = have.st_mtime_ns + 1
    os.utime(r / "f", ns=(later, later))
    for steps in ([stage(b"f", STEP_CLONE, have)], [stage(), copy(b"f", 0, 0, 5, have)]):
        (fault,) = target.apply(*steps, write(0, b"x"), staged(b"f", 10))
        assert (fault.step, fault.what) == (len(steps) + 1, At.CHECK)
        assert fault.status == errno.ESTALE
    assert (r / "f").read_bytes() == b"0123456789" and os.listdir(target.stage) == []
    # Another size under the same mtime.
    (r / "f").write_bytes(b"012345678")
    os.utime(r / "f", ns=(have.st_mtime_ns, have.st_mtime_ns))
    (fault,) = target.apply(stage(b"f", STEP_CLONE, have), staged(b"f", 10))
    assert fault.what == At.CHECK
    # A file system that keeps whole seconds.
    whole = have.st_mtime_ns // 10**9 * 10**9
    (r / "f").write_bytes(b"0123456789")
    os.utime(r / "f", ns=(whole, whole))
    assert target.apply(stage(b"f", STEP_CLONE, have), staged(b"f", 10)) == []


def test_what_is_not_wanted_any_more_is_dropped(target: Target) -> None:
    drop = stage(flags=STEP_DROP)
    assert target.apply(drop) == []
    assert target.apply(stage(), write(0, b"x"), drop) == []
    assert os.listdir(target.stage) == []
    assert target.apply(stage(), copy(b"absent", 0, 0, 1), drop) == []
    assert os.listdir(target.stage) == []


def test_a_staged_file_is_read_back(target: Target) -> None:
    data = os.urandom(2_500_000)
    (target.root / "want").write_bytes(data)
    content = digest(target.root, b"want")
    build = [stage(), write(0, data[:1_000_000]), write(1_000_000, data[1_000_000:])]
    good = staged(b"f", len(data), content)
    assert target.apply(*build, good, flags=APPLY_VERIFY) == []
    (fault,) = target.apply(*build, write(7, b"?"), good, flags=APPLY_VERIFY)
    assert (fault.what, fault.status, fault.step) == (At.CHECK, errno.EBADMSG, 4)
    assert (target.root / "f").read_bytes() == data and os.listdir(target.stage) == []


Change = tuple[str, int, int, int]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 60_000),
    st.lists(
        st.tuples(
            st.sampled_from(["write", "copy", "hole"]),
            st.integers(0, 70_000),
            st.integers(0, 60_000),
            st.integers(1, 20_000),
        ),
        max_size=8,
    ),
    st.booleans(),
    st.integers(0, 80_000),
)
def test_any_building_is_what_a_buffer_says(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    changes: list[Change],
    clone: bool,
    final: int,
) -> None:
    target = Target(tmp_path_factory.mktemp("any"))
    old = os.urandom(size)
    (target.root / "old").write_bytes(old)
    want = bytearray(old if clone else b"")
    have = (target.root / "old").stat()
    steps = [stage(b"old", STEP_CLONE, have) if clone else stage()]

    def lay(at: int, data: bytes) -> None:
        if len(want) < at + len(data):
            want.extend(bytes(at + len(data) - len(want)))
        want[at : at + len(data)] = data

    for what, at, start, span in changes:
        if what == "write":
            steps.append(write(at, b"%c" % (at % 256) * span))
            lay(at, b"%c" % (at % 256) * span)
        elif what == "hole":
            steps.append(hole(at, span))
            lay(at, bytes(span))
        elif start + span <= size:
            steps.append(copy(b"old", start, at, span, have))
            lay(at, old[start : start + span])
    steps.append(staged(b"new", final))
    assert target.apply(*steps) == []
    want = want[:final].ljust(final, b"\0")
    assert (target.root / "new").read_bytes() == want
    target.close()


FULL = """
import errno, os, subprocess, sys
from pathlib import Path
from test_apply import Target, put
from test_stage import stage, write, staged
from i2node.mover import batch

place = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
target = Target(place)
steps = [put(b"a", b"1" * 100_000), put(b"b", os.urandom(2_000_000)), put(b"c", b"3")]
payload = b"".join(steps)
done = batch.apply(*target.fds, payload)
assert done.done == 1 and len(done.faults) == 1, done
fault = done.faults[0]
assert (fault.step, fault.status, fault.fatal) == (1, errno.ENOSPC, True), fault
assert os.listdir(target.root) == ["a"] and os.listdir(target.stage) == []
subprocess.run(["mount", "-o", "remount,size=8m", "none", place], check=True)
assert target.apply(*steps) == []
assert (target.root / "b").stat().st_size == 2_000_000

subprocess.run(["mount", "-o", "remount,size=3m", "none", place], check=True)
big = [stage(), write(0, bytes([1]) * 500_000), write(500_000, bytes([2]) * 1_500_000)]
faults = target.apply(*big)
assert [(f.step, f.fatal) for f in faults] == [(2, True)], faults
assert len(os.listdir(target.stage)) == 1
subprocess.run(["mount", "-o", "remount,size=8m", "none", place], check=True)
assert target.apply(big[2], staged(b"big", 2_000_000)) == []
assert (target.root / "big").read_bytes() == bytes([1]) * 500_000 + bytes([2]) * 1_500_000

subprocess.run(["mount", "-o", "remount,ro", "none", place], check=True)
(fault,) = target.apply(put(b"d"))
assert (fault.status, fault.fatal) == (errno.EROFS, True), fault
"""


@needs_root
def test_a_full_and_a_read_only_disk_stop_the_payload(tmp_path: Path) -> None:
    in_namespace(FULL, tmp_path)


@needs_root
def test_an_attribute_too_large_is_no_full_disk(tmp_path: Path) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with open(image, "wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^ea_inode", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False).returncode:
        pytest.skip("no loop mounts here")
    try:
        target = Target(mount)
        record = b"\6\0\0\0" + (60_000).to_bytes(4, "little") + b"user.a" + bytes(60_000)
        large = step(Op.PUT_FILE, b"f", kind=Kind.FILE, mode=0o600, xattrs=record)
        (fault,) = target.apply(large)
        assert (fault.what, fault.status, fault.fatal) == (At.XATTR, errno.E2BIG, False)
        assert (target.root / "f").exists()
        target.close()
    finally:
        subprocess.run(["umount", mount], check=True)


def test_only_a_regular_file_is_opened(target: Target) -> None:
    os.mkfifo(target.root / "fifo")
    (target.root / "link").symlink_to("f")
    (target.root / "d").mkdir()
    (target.root / "f").write_bytes(b"x")
    dev = os.fstat(target.fds[0]).st_dev
    for name, status in ((b"fifo", errno.ENOENT), (b"link", errno.ELOOP), (b"d", errno.ENOENT)):
        with pytest.raises(OSError) as told:
            batch.open_file(target.fds[0], dev, name)
        assert told.value.errno == status
    os.close(batch.open_file(target.fds[0], dev, b"f"))


@pytest.mark.parametrize("refused", [False, True])
def test_a_large_file_is_written_past_the_page_cache(target: Target, refused: bool) -> None:
    mib = 1 << 20
    data = os.urandom(9 * mib + 4096 + 7)
    ends = [0, mib, 4 * mib, 5 * mib, 8 * mib, len(data)]
    written = [write(a, data[a:b]) for a, b in itertools.pairwise(ends)]

    def work() -> None:
        assert target.apply(stage(), *written, staged(b"big", len(data))) == []
        old = (target.root / "big").stat()
        moved = copy(b"big", 0, 6 * mib, len(data), old)
        assert target.apply(stage(), moved, staged(b"copy", 6 * mib + len(data))) == []

    kernel.without([("fcntl", errno.EINVAL, 1, fcntl.F_SETFL)] if refused else [], work)
    assert (target.root / "big").read_bytes() == data
    assert (target.root / "copy").read_bytes() == bytes(6 * mib) + data
    if not refused and takes_direct(target.root):
        os.truncate(target.root / "big", 0)
        assert target.apply(stage(), *written, staged(b"big", len(data))) == []
        fd = os.open(target.root / "big", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            os.preadv(fd, [bytearray(4096)], 6 * mib, os.RWF_NOWAIT)
        os.close(fd)


def takes_direct(place: Path) -> bool:
    """Whether files there can be written past the page cache."""
    probe = place / "probe"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return os.statvfs(place).f_bsize == 4096 and "tmpfs" not in filesystem(place)


def filesystem(place: Path) -> str:
    return subprocess.run(
        ["stat", "-f", "-c", "%T", place], capture_output=True, text=True, check=True
    ).stdout
