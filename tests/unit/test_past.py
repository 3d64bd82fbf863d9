"""Reading past the page cache, on the machine's own disk and on tmpfs, which has nothing else."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from i2node.fs.past import ALIGNED, SHORTEST, PastCache, Rooms
from i2node.mover import extents

MIB = 1 << 20


def make(path: Path, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return data


def forget(fd: int) -> None:
    """Takes a file out of the page cache."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def has_direct(path: Path) -> bool:
    """Whether reading around the cache works here and can be told from reading through it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return False
    try:
        forget(fd)
        os.preadv(fd, [Rooms(1).take(ALIGNED)], 0)
        return extents.cached(fd, 0, ALIGNED) == 0
    except OSError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "size", [0, 1, 4097, SHORTEST, SHORTEST + 1, SHORTEST + 4096, 16 * MIB + 7]
)
@pytest.mark.parametrize("warm", [False, True])
def test_what_is_read_is_what_is_there(place: Path, size: int, warm: bool) -> None:
    data = make(place / "f", size)
    fd = os.open(place / "f", os.O_RDONLY)
    if not warm:
        forget(fd)
    rooms = Rooms(2)
    with PastCache(fd, size, rooms) as file:
        for at in range(0, size, MIB):
            assert file.read(at, min(MIB, size - at)) == data[at : at + MIB]
    os.close(fd)


def near(cached: int, expected: int) -> bool:
    """Of what is in the cache the kernel may take a few pages back at any time."""
    return expected - 65536 < cached <= expected


def test_what_is_not_in_the_cache_is_not_put_there_and_what_is_there_is_taken_from_it(
    tmp_path: Path,
) -> None:
    size = 32 * MIB
    data = make(tmp_path / "f", size)
    if not has_direct(tmp_path / "f"):
        pytest.skip("this file system reads through the page cache only")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    forget(fd)
    # Somebody else works with the second half, but for a hole in each MiB.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    holes = range(size // 2, size, MIB)
    for at in holes:
        os.pread(fd, MIB - 65536, at)
    assert near(extents.cached(fd, 0, size), size // 2 - 65536 * len(holes))
    with PastCache(fd, size, Rooms(1)) as file:
        for at in range(0, size, MIB):
            assert file.read(at, MIB) == data[at : at + MIB]
            # Others may read through the descriptor, at any place.
            assert os.pread(fd, 3, size - 7) == data[-7:-4]
    assert near(extents.cached(fd, 0, size), size // 2)
    os.close(fd)


def test_what_was_written_a_moment_ago_is_read_though_it_is_not_on_the_disk(tmp_path: Path) -> None:
    size = 8 * MIB
    data = bytearray(make(tmp_path / "f", size))
    fd = os.open(tmp_path / "f", os.O_RDWR)
    for round in range(20):
        forget(fd)
        at = random.Random(round).randrange(size - 100)
        if round % 2:
            os.pwrite(fd, b"%100d" % round, at)
        else:
            with mmap.mmap(fd, size) as view:
                view[at : at + 100] = b"%100d" % round
        data[at : at + 100] = b"%100d" % round
        with PastCache(fd, size, Rooms(1)) as file:
            for at in range(0, size, MIB):
                assert file.read(at, MIB) == data[at : at + MIB]
    os.close(fd)


def test_what_a_file_lost_meanwhile_reads_as_zeros(tmp_path: Path) -> None:
    data = make(tmp_path / "f", 5 * MIB)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    forget(fd)
    with PastCache(fd, 5 * MIB, Rooms(1)) as file:
        assert file.read(0, MIB) == data[:MIB]
        os.truncate(tmp_path / "f", MIB + 5000)
        assert file.read(MIB, MIB) == data[MIB : MIB + 5000] + bytes(MIB - 5000)
        assert file.read(2 * MIB, MIB) == bytes(MIB)
    os.close(fd)


def test_a_room_is_used_again_in_its_turn() -> None:
    rooms = Rooms(2)
    first, second = rooms.take(10), rooms.take(5000)
    assert (len(first), len(second)) == (4096, 8192)
    first[0:1] = b"x"
    assert rooms.take(1)[0:1] == b"x" and len(rooms.take(1)) == 8192
    assert len(rooms.take(9000)) == 12288
    rooms.trim(8192)
    assert {len(rooms.take(1)), len(rooms.take(1))} == {4096, 8192}


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    make(tmp_path / "f", 10_000)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    assert extents.cached(fd, 4000, 200) == 8192
    os.close(fd)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="No such device"):
        extents.cached(fd, 0, 4096)
    os.close(fd)
