"""Where two clones differ: what is not named is the same, and little more than what was written is
named."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

import tmpfs
from disks import disk
from i2node.fs import clone as clones
from i2node.mover import extents

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
MIB = 1 << 20
BLOCK = 4096
SIZE = 8 * MIB + 1234
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with disk(request.param, tmp_path_factory.mktemp("disk")) as mount:
        yield mount


@contextmanager
def opened(path: Path, data: bytes) -> Iterator[tuple[int, clones.Cloner]]:
    path.write_bytes(data)
    directory, fd = os.open(path.parent, os.O_RDONLY), os.open(path, os.O_RDWR)
    try:
        yield fd, clones.Cloner(directory)
    finally:
        os.close(fd)
        os.close(directory)
        path.unlink()


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def fallocate(fd: int, mode: int, at: int, span: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate64(fd, mode, ctypes.c_int64(at), ctypes.c_int64(span)):
        code = ctypes.get_errno()
        if code != errno.EOPNOTSUPP:  # btrfs neither collapses nor inserts
            raise OSError(code, "fallocate")


def edit(fd: int, chance: random.Random) -> None:
    size = os.fstat(fd).st_size
    at = chance.randrange(size + 1)
    whole = at // BLOCK * BLOCK
    span = chance.choice([1, BLOCK, 3 * BLOCK, MIB // 2])
    what = chance.randrange(9)
    if what < 3:
        os.pwrite(fd, chance.randbytes(span), at)
    elif what == 3:
        os.pwrite(fd, bytes(span), at)
    elif what == 4:
        os.ftruncate(fd, max(at, MIB))
    elif what == 5:
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, span)
    elif what == 6:
        fallocate(fd, KEEP_SIZE, at, MIB)  # preallocated, behind the end too
    elif what == 7:
        fallocate(fd, ZERO | KEEP_SIZE, at, span)
    elif size > 2 * MIB and whole + BLOCK < size:
        fallocate(fd, chance.choice([COLLAPSE, INSERT]), whole, BLOCK)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_not_named_is_the_same(spot: Path, seed: int) -> None:
    chance = random.Random(seed)
    with opened(spot / "f", chance.randbytes(SIZE)) as (fd, cloner):
        old = cloner.clone(fd)
        assert old is not None
        for _ in range(6):
            for _ in range(chance.randrange(5)):
                edit(fd, chance)
            new = cloner.clone(fd)
            assert new is not None and content(new) == content(fd)
            before, after = content(old), content(new)
            found = extents.changed(old, new, len(after))
            for (_, end), (at, _) in pairwise(found):
                assert end < at
            patched = bytearray(before[: len(after)].ljust(len(after), b"\0"))
            for at, end in found:
                assert at < end <= len(after)
                patched[at:end] = after[at:end]
            # What is behind the old end is the caller's to read.
            assert patched[: len(before)] == after[: len(before)]
            os.close(old)
            old = new
        os.close(old)


def test_little_more_than_what_was_written_is_named(spot: Path) -> None:
    chance = random.Random(7)
    with opened(spot / "f", chance.randbytes(SIZE)) as (fd, cloner):
        old = cloner.clone(fd)
        assert old is not None
        # More of them than are told at a time.
        written = sorted(chance.sample(range(SIZE // BLOCK), 700))
        for n in written:
            os.pwrite(fd, b"x", n * BLOCK + 5)
        new = cloner.clone(fd)
        assert new is not None
        found = extents.changed(old, new, SIZE)
        blocks = [n for at, end in found for n in range(at // BLOCK, -(-end // BLOCK))]
        assert set(written) <= set(blocks) and len(blocks) <= 2 * len(written)
        third = cloner.clone(fd)
        assert third is not None and extents.changed(new, third, SIZE) == []
        for one in (old, new, third):
            os.close(one)


def test_more_ranges_than_there_is_room_for(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "_RANGES", 3)
    with opened(spot / "f", os.urandom(SIZE)) as (fd, cloner):
        old = cloner.clone(fd)
        for n in range(20):
            os.pwrite(fd, b"x", 10 * n * BLOCK)
        new = cloner.clone(fd)
        assert old is not None and new is not None
        assert [at for at, _ in extents.changed(old, new, SIZE)] == [
            10 * n * BLOCK for n in range(20)
        ]
        os.close(old)
        os.close(new)


@pytest.mark.parametrize("options", ["compress-force=zstd", "max_inline=2048"])
def test_what_the_map_is_vague_about_counts_as_changed(tmp_path: Path, options: str) -> None:
    """Compressed: two parts of one extent are told to stand at the same place."""
    size = MIB if "compress" in options else 900
    with (
        disk("btrfs", tmp_path, options) as mount,
        opened(mount / "f", b"abcdefgh" * (size // 8)) as (fd, cloner),
    ):
        old, new = cloner.clone(fd), cloner.clone(fd)
        if old is None or new is None:
            pytest.skip("inline extents cannot be cloned here")
        assert extents.changed(old, new, os.fstat(fd).st_size) == [(0, size // 8 * 8)]
        os.close(old)
        os.close(new)


def test_where_nothing_can_be_cloned() -> None:
    with tmpfs.directory() as path, opened(path / "f", b"x" * MIB) as (fd, cloner):
        assert cloner.clone(fd) is None
        with pytest.raises(OSError) as caught:
            extents.changed(fd, fd, MIB)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert clones.changed(fd, fd, MIB) is None


def test_who_wants_his_room_or_his_file_in_one_piece_is_left_alone(
    spot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(spot / "f", os.urandom(MIB)) as (fd, cloner):
        for n in range(0, 200, 2):
            os.pwrite(fd, b"x", n * BLOCK)
            os.fsync(fd)
        with monkeypatch.context() as patched:
            patched.setattr(clones, "MOST_EXTENTS", 0)
            assert cloner.clone(fd) is None
        with monkeypatch.context() as patched:
            patched.setattr(clones, "ROOM", 1)
            assert cloner.clone(fd) is None
        made = cloner.clone(fd)
        assert made is not None
        assert os.fstat(made).st_nlink == 0 and os.listdir(spot) == ["f"]
        os.close(made)
