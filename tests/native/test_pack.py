"""Reading entries into steps: what the steps say, what becomes of the entries, what disturbs it."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import ENTRY, Copier, entries, nasty, records, with_verdict

from i2node.model import RACY, Entry, Kind
from i2node.mover import batch
from i2node.mover.batch import STEP, Op

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NEW, DATA, META = 1, 4, 5


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[Copier]:
    for name in ("source", "target", "stage"):
        (tmp_path / name).mkdir()
    copier = Copier(tmp_path / "source", tmp_path / "target", tmp_path / "stage", threads=1)
    yield copier
    copier.close()


@pytest.fixture
def source(trees: Copier, tmp_path: Path) -> Path:
    return tmp_path / "source"


class Step:
    """A packed step, taken apart."""

    def __init__(self, payload: bytes, at: int) -> None:
        fields = STEP.unpack_from(payload, at)
        self.length, self.op, self.kind, self.flags = fields[:4]
        lengths = fields[4:8]
        self.mode, self.uid, self.gid, self.mtime_ns, self.mtime_s = fields[8:13]
        self.size, self.rdev, self.span, self.stage, self.content = fields[13:]
        at += STEP.size
        parts = []
        for n in lengths:
            parts.append(payload[at : at + n])
            at += n
        self.path, self.other, self.xattrs, self.data = parts


def steps(payload: bytes) -> list[Step]:
    batch.steps_check(payload)
    found, at = [], 0
    while at < len(payload):
        found.append(Step(payload, at))
        at += found[-1].length
    return found


def listed(trees: Copier, path: bytes = b"", verdict: int = NEW) -> bytes:
    listing = batch.list_dirs(trees.source, trees.dev, [(path, ())])[0]
    assert listing.status == 0
    return with_verdict(listing.entries, verdict)


def packed(
    trees: Copier, listing: bytes, mode: int = 0, path: bytes = b"", cap: int = 1 << 24
) -> tuple[list[Step], list[Entry], bytes]:
    buffer = bytearray(batch.group(path, listing))
    out = batch.pack(
        trees.source,
        trees.dev,
        buffer,
        mode=mode,
        small_max=1 << 20,
        threads=trees.threads,
        cap=cap,
    )
    after = batch.groups(buffer)[0][1]
    return steps(bytes(out)), list(entries(after)), after


@needs_root
def test_a_step_carries_all_that_a_file_is(trees: Copier, source: Path) -> None:
    nasty(source)
    top = os.fsencode(source)
    found, seen, _ = packed(trees, listed(trees))
    assert [e.status for e in seen] == [0] * len(seen)
    by_path = {s.path: s for s in found}
    assert sorted(by_path) == sorted(e.name for e in seen)
    expected = {
        Kind.FILE: Op.PUT_FILE,
        Kind.DIR: Op.MAKE_DIR,
        Kind.SYMLINK: Op.PUT_LINK,
    }
    for e in seen:
        s, there = by_path[e.name], os.lstat(top + b"/" + e.name)
        assert s.op == expected.get(e.kind, Op.PUT_NODE) and s.kind == e.kind
        assert (s.mode, s.uid, s.gid) == (there.st_mode & 0o7777, there.st_uid, there.st_gid)
        assert s.mtime_s * 10**9 + s.mtime_ns == there.st_mtime_ns
        if e.kind == Kind.FILE:
            assert s.size == there.st_size and s.content == e.content != batch.UNKNOWN
            if s.flags & batch.STEP_SPARSE:
                assert s.data == b"" and there.st_blocks == 0
            else:
                assert s.data == (source / os.fsdecode(e.name)).read_bytes()
        if e.kind == Kind.DIR:
            assert s.flags == batch.STEP_NO_XATTR and e.attrs == 0
        else:
            assert e.attrs != 0
    assert by_path[b"hole"].flags & batch.STEP_SPARSE
    assert not by_path[b"zeros"].flags & batch.STEP_SPARSE
    assert by_path[b"null"].rdev == os.makedev(1, 3)
    assert by_path[b"symlink"].other == b"plain"


@needs_root
def test_attributes_are_records_sorted_by_name(trees: Copier, source: Path) -> None:
    path = source / "f"
    path.touch()
    for name, value in (("user.b", b"2"), ("user.a", b""), ("trusted.x", bytes(3000))):
        os.setxattr(path, name, value)
    found, seen, _ = packed(trees, listed(trees))
    want = b"".join(
        struct.pack("<HHI", len(n), 0, len(v)) + n + v
        for n, v in ((b"trusted.x", bytes(3000)), (b"user.a", b""), (b"user.b", b"2"))
    )
    assert found[0].xattrs == want
    (source / "g").touch()
    for name, value in (("user.a", b""), ("trusted.x", bytes(3000)), ("user.b", b"2")):
        os.setxattr(source / "g", name, value)
    (source / "bare").touch()
    _, seen, _ = packed(trees, listed(trees))
    bare, f, g = seen
    assert f.attrs == g.attrs != bare.attrs == 1


@needs_root
def test_a_value_of_the_largest_size(place: Path) -> None:
    (place / "f").touch()
    for size in (255, 256, 257, 3000, 65536):
        try:
            os.setxattr(place / "f", "user.large", os.urandom(size))
        except OSError as e:
            assert e.errno in (errno.ENOSPC, errno.E2BIG)
            continue
        for name in ("target", "stage"):
            (place / f"{name}{size}").mkdir()
        trees = Copier(place, place / f"target{size}", place / f"stage{size}")
        listing = batch.stat_names(trees.source, trees.dev, b"", [b"f"]).entries
        found, _, _ = packed(trees, with_verdict(listing, NEW))
        value = os.getxattr(place / "f", "user.large")
        assert len(value) == size and found[0].xattrs.endswith(value)
        trees.close()


def test_known_content_is_not_sent_again(trees: Copier, source: Path) -> None:
    (source / "f").write_bytes(b"content" * 1000)
    (source / "link").symlink_to("f")
    _, _, after = packed(trees, listed(trees))
    os.utime(source / "f", ns=(1, 1))
    again = [with_verdict(r, DATA if i == 0 else META) for i, r in enumerate(records(after))]
    found, seen, _ = packed(trees, b"".join(again))
    assert [s.op for s in found] == [Op.SET_META, Op.SET_META]
    assert found[0].data == b"" and found[0].mtime_ns == 1
    assert [e.status for e in seen] == [0, 0]
    # The same bytes under the verdict NEW go out whole: the target holds nothing.
    found, _, _ = packed(trees, with_verdict(after, NEW))
    assert [s.op for s in found] == [Op.PUT_FILE, Op.PUT_LINK]

    (source / "f").write_bytes(b"Content" * 1000)
    (source / "link").unlink()
    (source / "link").symlink_to("g")
    found, _, _ = packed(trees, b"".join(again))
    assert [s.op for s in found] == [Op.PUT_FILE, Op.PUT_LINK]
    assert found[0].data == b"Content" * 1000 and found[1].other == b"g"


def test_an_entry_is_brought_up_to_date(trees: Copier, source: Path) -> None:
    (source / "f").write_bytes(b"old")
    listing = listed(trees)
    (source / "f").write_bytes(b"newer content")
    (source / "f").chmod(0o600)
    found, seen, _ = packed(trees, listing)
    there = (source / "f").stat()
    assert found[0].data == b"newer content" and found[0].mode == 0o600
    assert (seen[0].size, seen[0].mode, seen[0].ctime) == (13, 0o600, there.st_ctime_ns)
    assert seen[0].status == 0


def test_what_is_gone_retyped_or_too_large_has_a_status_and_no_step(
    trees: Copier, source: Path, tmp_path: Path
) -> None:
    for name in ("a-gone", "b-dir", "c-link", "d-grown", "e-fifo", "f-fine"):
        (source / name).write_bytes(b"x")
    (tmp_path / "canary").write_bytes(b"secret")
    (source / "g-link").symlink_to("x")
    listing = listed(trees)
    for name in ("a-gone", "b-dir", "c-link", "e-fifo", "g-link"):
        (source / name).unlink()
    (source / "b-dir").mkdir()
    (source / "c-link").symlink_to(tmp_path / "canary")
    (source / "d-grown").write_bytes(bytes((1 << 20) + 1))
    os.mkfifo(source / "e-fifo")
    (source / "g-link").write_bytes(b"now a file")
    for mode in (batch.PACK_ALL, batch.PACK_META):
        found, seen, _ = packed(trees, listing, mode)
        status = [e.status for e in seen]
        gone = errno.ENOENT
        grown = errno.EFBIG if mode == batch.PACK_ALL else errno.EAGAIN
        assert status == [gone, gone, gone, grown, gone, 0, gone]
        assert [s.path for s in found if s.path != b"d-grown"] == [b"f-fine"]


def test_a_directory_that_became_a_symlink_is_not_followed(
    trees: Copier, source: Path, tmp_path: Path
) -> None:
    (source / "d").mkdir()
    (source / "d" / "f").write_bytes(b"mine")
    listing = listed(trees, b"d")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"secret")
    (source / "d" / "f").unlink()
    (source / "d").rmdir()
    (source / "d").symlink_to(tmp_path / "outside")
    found, seen, _ = packed(trees, listing, path=b"d")
    assert found == [] and seen[0].status == errno.ENOTDIR


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("cap", [0, 7, 100, 1000, 1234, 20_000, 1 << 20])
def test_any_room_is_filled_and_the_rest_asked_for_again(
    trees: Copier, source: Path, threads: int, cap: int
) -> None:
    trees.threads = threads
    (source / "d").mkdir()
    (source / "d" / "in").write_bytes(b"inside")
    want = {b"d": b"", b"d/in": b"inside", b"link": b""}
    (source / "link").symlink_to("nowhere")
    for i in range(40):
        name = f"f{i:02}"
        (source / name).write_bytes(bytes([i]) * (i * 37))
        want[name.encode()] = bytes([i]) * (i * 37)
    buffers = {b"": listed(trees), b"d": listed(trees, b"d")}
    got: dict[bytes, bytes] = {}
    while any(buffers.values()):
        buffer = bytearray(b"".join(batch.group(p, e) for p, e in buffers.items()))
        out = batch.pack(
            trees.source, trees.dev, buffer, mode=0, small_max=1 << 20, threads=threads, cap=cap
        )
        assert len(out) <= cap
        for s in steps(bytes(out)):
            assert s.path not in got
            got[s.path] = s.data
        before = buffers
        buffers = {
            path: b"".join(r for r, e in zip(records(part), entries(part), strict=True) if e.status)
            for path, part in batch.groups(buffer)
        }
        assert {e.status for p in buffers.values() for e in entries(p)} <= {errno.ENOBUFS}
        if buffers == before or len(out) == 0:
            cap = cap * 2 + 64
    assert got == want


def test_a_file_that_never_settles_is_shipped_as_fuzzy(trees: Copier, source: Path) -> None:
    path = source / "busy"
    path.write_bytes(b"0" * 100_000)
    listing = listed(trees)
    stop = threading.Event()

    def disturb() -> None:
        fd = os.open(path, os.O_WRONLY)
        i = 0
        while not stop.is_set():
            i += 1
            os.pwrite(fd, b"%d" % (i % 10), i % 100_000)
            os.utime(fd, ns=(i, i))
        os.close(fd)

    writer = threading.Thread(target=disturb)
    writer.start()
    try:
        status, rounds = 0, 0
        while status != errno.EAGAIN and rounds < 10_000:
            rounds += 1
            buffer = bytearray(batch.group(b"", listing))
            out = batch.pack(
                trees.source, trees.dev, buffer, mode=0, small_max=1 << 20, tries=1, cap=1 << 20
            )
            (entry,) = entries(batch.groups(buffer)[0][1])
            status = entry.status
            (step,) = steps(bytes(out))
            assert len(step.data) == step.size == 100_000
    finally:
        stop.set()
        writer.join()
    assert status == errno.EAGAIN and entry.flags & RACY


def test_metadata_alone_and_staged_files(trees: Copier, source: Path) -> None:
    (source / "f").write_bytes(b"data")
    (source / "d").mkdir()
    listing = listed(trees)
    found, _, _ = packed(trees, listing, batch.PACK_META)
    assert [(s.op, s.data) for s in found] == [(Op.SET_META, b"")] * 2

    record = records(listing)[1]
    fields = list(ENTRY.unpack_from(record))
    fields[10], fields[-1] = 77, b"digest-of-a-file"
    record = ENTRY.pack(*fields) + record[ENTRY.size :]
    found, seen, after = packed(trees, record, batch.PACK_STAGED)
    assert (found[0].op, found[0].stage, found[0].size) == (Op.STAGED, 77, 4)
    assert found[0].content == b"digest-of-a-file" and seen[0].rdev == 77

    # What was read is what the entry says; a change since then must not pass for read.
    (source / "f").write_bytes(b"changed since")
    found, seen, _ = packed(trees, after, batch.PACK_STAGED)
    assert (found[0].size, found[0].mtime_ns) == (4, seen[0].mtime_ns)
    assert seen[0].status == errno.EAGAIN and seen[0].flags & RACY
    assert seen[0].ctime != (source / "f").stat().st_ctime_ns


@pytest.mark.parametrize("mode", [batch.PACK_META, batch.PACK_STAGED])
def test_what_was_read_of_one_file_is_not_dressed_as_another(
    trees: Copier, source: Path, mode: int
) -> None:
    (source / "f").write_bytes(b"for few")
    listing = listed(trees)
    (source / "new").write_bytes(b"for all")
    (source / "new").rename(source / "f")
    found, seen, _ = packed(trees, listing, mode)
    assert found == [] and seen[0].status == errno.ESTALE


def test_digests_tell_equal_from_different(trees: Copier, source: Path) -> None:
    contents = {
        "a": b"",
        "b": b"x",
        "c": b"x",
        "d": bytes(5_000_000),
        "f": os.urandom(3_000_000),
    }
    for name, data in contents.items():
        (source / name).write_bytes(data)
    with open(source / "e", "wb") as f:
        f.truncate(5_000_000)
    (source / "g").write_bytes(contents["f"][:-1] + bytes([contents["f"][-1] ^ 1]))
    with open(source / "h", "wb") as f:  # data between holes
        f.truncate(4_000_000)
        f.seek(2_000_000)
        f.write(b"island")
    (source / "i").write_bytes((source / "h").read_bytes())
    os.link(source / "f", source / "j")
    buffer = bytearray(batch.group(b"", listed(trees)))
    batch.digest_files(trees.source, trees.dev, buffer, content=True, threads=2)
    d = {e.name.decode(): e for e in entries(batch.groups(buffer)[0][1])}
    assert {e.status for e in d.values()} == {0} and {e.attrs for e in d.values()} == {1}
    c = {n: e.content for n, e in d.items()}
    assert c["b"] == c["c"] and c["d"] == c["e"] and c["f"] == c["j"] and c["h"] == c["i"]
    assert len(set(c.values())) == 6 and batch.UNKNOWN not in c.values()
    assert stat.S_ISREG((source / "h").stat().st_mode)

    # What pack says of a small file is the same.
    (source / "f").unlink()
    _, seen, _ = packed(trees, b"".join(records(listed(trees))[:3]))
    assert [e.content for e in seen] == [c["a"], c["b"], c["c"]]

    buffer = bytearray(batch.group(b"", listed(trees)))
    batch.digest_files(trees.source, trees.dev, buffer, content=False)
    assert all(
        e.content == batch.UNKNOWN and e.attrs == 1 for e in entries(batch.groups(buffer)[0][1])
    )


def test_unsound_groups_are_refused(trees: Copier, source: Path) -> None:
    (source / "f").touch()
    good = batch.group(b"", listed(trees))
    slash = bytearray(good)
    slash[batch.GROUP.size + ENTRY.size] = ord("/")
    for bad in (good[:-8], good + bytes(8), b"\xff" * 64, batch.group(b"..", b""), bytes(slash)):
        with pytest.raises(batch.SessionError):
            batch.pack(trees.source, trees.dev, bytearray(bad), mode=0, small_max=1, cap=1000)
        with pytest.raises(batch.SessionError):
            batch.digest_files(trees.source, trees.dev, bytearray(bad), content=True)
    assert (
        bytes(batch.pack(trees.source, trees.dev, bytearray(), mode=0, small_max=1, cap=9)) == b""
    )


def test_entries_of_another_directory_are_not_read(trees: Copier, source: Path) -> None:
    (source / "f").write_bytes(b"content")
    listing = listed(trees)
    for ino, status in ((source.stat().st_ino, 0), (source.stat().st_ino + 1, errno.ESTALE)):
        buffer = bytearray(batch.group(b"", listing, ino))
        out = batch.pack(
            trees.source, trees.dev, buffer, mode=batch.PACK_ALL, small_max=1 << 20, cap=1 << 16
        )
        ((_, read),) = batch.groups(buffer)
        assert [e.status for e in entries(read)] == [status]
        assert bool(len(out)) == (not status)
