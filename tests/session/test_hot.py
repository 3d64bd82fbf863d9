"""Large files that are written again and again: what need not be read is not, and what is not
proven is read as a whole. After every shipment the target is the source, byte for byte."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from edits import BLOCK, MIB, noise
from way import Way, same

from i2node.errors import SessionError
from i2node.repl import hot, large, signatures
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other processes are not to be seen")
SIZE = 8 * MIB + 100
LITTLE = 3 * MIB
"""Bytes read where not all of SIZE is: the tail, and what is in /proc."""


@pytest.fixture
def way(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    monkeypatch.setattr(large, "HOT_FROM", MIB)
    with closing(Way(place)) as made:
        (made.source / "f").write_bytes(noise(7, SIZE)[:SIZE])
        made.ship()
        yield made
        made.reader.close()


def bytes_read() -> int:
    """By this process, in all (proc_pid_io(5))."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def read_by(act: Callable[[], object]) -> int:
    before = bytes_read()
    act()
    return bytes_read() - before


class Log:
    """The file, held open to append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, seed: int, span: int = 30_000) -> None:
        os.write(self.fd, noise(seed, span))


@pytest.fixture
def log(way: Way) -> Iterator[Log]:
    """Appended to and shipped until it is hot, and read as a whole since."""
    made = Log(way.source / "f")
    for seed in range(2):
        made.add(seed)
        way.ship()
    same(way)
    yield made
    with suppress(OSError):
        os.close(made.fd)


def test_of_what_is_appended_to_the_tail_is_read_and_sent(way: Way, log: Log) -> None:
    for seed in range(5, 25):
        log.add(seed, 20_000 + seed)
        way.sent = 0
        assert read_by(way.ship) < LITTLE
        assert way.sent < 22_000
        assert way.reader.outcome is not None and way.reader.outcome.status == 0
        same(way)
    assert way.asked == 0
    # Nothing of it is on disk while it is hot, and all of it when the session ends.
    assert way.journal.signatures.size() == 0
    way.journal.signatures.settle_all()
    assert way.journal.signatures.size() > SIZE // BLOCK * 20
    os.close(log.fd)
    assert read_by(way.ship) > SIZE


def test_a_growing_file_that_is_read_as_a_whole_is_read_once(way: Way, log: Log) -> None:
    """What comes behind the end while it is read makes it no other version."""
    log.add(3)
    hot = way.reader.hot.get(log.path.stat().st_ino)
    assert hot is not None
    hot.signature = None
    size = log.path.stat().st_size
    for i, steps in enumerate(way.steps(b"f")):
        assert way.apply(steps) == []
        if i == 0:
            log.add(4)
    assert way.note().status == 0
    assert (way.target / "f").stat().st_size == size
    assert read_by(way.ship) < LITTLE
    same(way)


def test_a_file_that_grows_over_and_over_while_its_tail_is_read(way: Way, log: Log) -> None:
    for seed in range(4):
        log.add(seed)
        for steps in way.steps(b"f"):
            log.add(seed + 100, 7_000)
            assert way.apply(steps) == []
        assert way.note().status == 0
    way.ship()
    same(way)


def test_all_of_it_is_read_from_time_to_time(
    way: Way, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "WHOLE_S", 0.0)
    monkeypatch.setattr(hot, "WHOLE_TIMES", 0)
    log.add(3)
    assert read_by(way.ship) > SIZE
    same(way)


# ------------------------------------------------------------------------------- not proven

_MAPPED = """
import ctypes, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
kept = libc.mmap(None, 4096, 3, 1, fd, 0)  # Python's own mapping keeps a descriptor too
os.close(fd)
print(flush=True)
sys.stdin.readline()
ctypes.memmove(kept, b"HELLO", 5)
print(flush=True)
sys.stdin.readline()
"""


def by_another(log: Log) -> None:
    with open(log.path, "r+b") as file:
        file.write(b"HELLO")


def by_one_who_stays(log: Log) -> None:
    fd = os.open(log.path, os.O_WRONLY)
    os.pwrite(fd, b"HELLO", 0)
    KEPT.append(fd)


def by_another_name(log: Log) -> None:
    link = log.path.parent.parent / "link"
    os.link(log.path, link)
    with open(link, "r+b") as file:
        file.write(b"HELLO")
    link.unlink()


def by_the_same_descriptor(log: Log) -> None:
    fcntl.fcntl(log.fd, fcntl.F_SETFL, 0)
    os.pwrite(log.fd, b"HELLO", 0)
    os.lseek(log.fd, 0, os.SEEK_END)


def by_a_copy_of_it(log: Log) -> None:
    """The descriptor that was found is gone, what it stood for is not."""
    other = os.dup(log.fd)
    os.close(log.fd)
    log.fd = other
    by_the_same_descriptor(log)


def by_a_mapping(log: Log) -> None:
    words = [sys.executable, "-c", _MAPPED, str(log.path)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    child.stdin.write(b"\n")
    child.stdout.readline()
    MAPPED.append(child)


def by_cutting_it_off(log: Log) -> None:
    size = log.path.stat().st_size
    os.truncate(log.path, MIB)
    log.add(77, size - MIB)


def by_a_hole(log: Log) -> None:
    """Through the descriptor that appends (fallocate(2), FALLOC_FL_PUNCH_HOLE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate64(log.fd, 3, ctypes.c_int64(MIB), ctypes.c_int64(BLOCK)) == 0


def by_another_file(log: Log) -> None:
    new = log.path.with_name("new")
    new.write_bytes(b"HELLO" + log.path.read_bytes()[5:])
    new.rename(log.path)
    os.close(log.fd)
    log.fd = os.open(log.path, os.O_WRONLY | os.O_APPEND)


KEPT: list[int] = []
MAPPED: list[subprocess.Popen[bytes]] = []


@pytest.fixture
def let_go() -> Iterator[None]:
    yield
    while KEPT:
        os.close(KEPT.pop())
    while MAPPED:
        child = MAPPED.pop()
        child.communicate(b"\n", 30)


@pytest.mark.parametrize(
    "write",
    [
        by_another,
        by_one_who_stays,
        by_another_name,
        by_the_same_descriptor,
        by_a_copy_of_it,
        by_a_mapping,
        by_cutting_it_off,
        by_a_hole,
        by_another_file,
    ],
)
@pytest.mark.usefixtures("let_go")
def test_what_is_not_only_appended_to_is_read_as_a_whole(
    way: Way, log: Log, write: Callable[[Log], None]
) -> None:
    log.add(20)
    assert read_by(way.ship) < LITTLE
    write(log)
    log.add(21)
    way.ship()
    same(way, holes=write is not by_a_hole)
    # Nor is it trusted again before it was read as a whole with nobody else there.
    log.add(22)
    way.ship()
    same(way, holes=False)


def test_a_writer_who_came_and_went_while_it_was_read(way: Way, log: Log) -> None:
    with open(log.path, "r+b") as file:
        file.write(b"1")
    log.add(5)
    for i, steps in enumerate(way.steps(b"f")):
        assert way.apply(steps) == []
        if i == 0:
            by_another(log)
    way.note()
    log.add(6)
    way.ship()
    same(way)


def test_lost_events_prove_nothing(way: Way, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise SessionError("lost")

    log.add(5)
    with monkeypatch.context() as patched:
        patched.setattr("i2node.mover.events.drain", lost)
        assert read_by(way.ship) > SIZE
    same(way)


# ------------------------------------------------------------------------------- kept, let go


def test_a_kill_leaves_no_signature_of_an_earlier_version(
    way: Way, log: Log, tmp_path: Path
) -> None:
    ino = log.path.stat().st_ino
    log.add(5)
    way.ship()
    copied = tmp_path / "crashed"
    copied.mkdir()
    subprocess.run(["cp", "-a", way.journal.file.parent / "sig", copied], check=True)
    with closing(Journal(copied / "index.db")) as left:
        assert left.signature(ino) is None
    way.journal.settle_signature(ino)
    kept = way.journal.signature(ino)
    assert kept is not None and kept.size == log.path.stat().st_size
    subprocess.run(["cp", "-a", way.journal.file.parent / "sig", copied], check=True)
    with closing(Journal(copied / "index.db")) as left:
        assert left.signature(ino) == kept


def test_what_cools_is_put_to_disk_and_what_is_gone_let_go(
    way: Way, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(hot, "QUIET_S", 0.0)
    way.reader.rest()
    assert way.journal.signatures.size() > 0
    log.add(5)
    assert read_by(way.ship) < LITTLE  # it is hot still
    same(way)
    log.path.unlink()
    os.close(log.fd)
    way.reader.rest()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    log.fd = -1


def test_what_has_cooled_is_held_no_longer(
    way: Way, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "COOL_S", 0.0)
    before = len(os.listdir("/proc/self/fd"))
    way.reader.rest()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    log.add(5)
    assert read_by(way.ship) > SIZE
    same(way)


def test_only_so_many_are_held(way: Way, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "MOST", 2)
    monkeypatch.setattr(signatures, "HELD_BYTES", 50_000)
    before = len(os.listdir("/proc/self/fd"))
    names = [b"f%d" % n for n in range(4)]
    for seed in range(3):
        for name in names:
            path = way.source / name.decode()
            with open(path, "ab") as file:
                file.write(noise(seed, 2 * MIB))
            way.ship(name)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert sum(len(s.blocks) for s in way.journal.signatures._held.values()) <= 50_000
    for name in names:
        assert (way.source / name.decode()).read_bytes() == (
            way.target / name.decode()
        ).read_bytes()


def test_a_file_that_never_holds_still_needs_no_answer_of_the_target(way: Way) -> None:
    """What was sent is known, be it a version or not."""
    path = way.source / "f"
    with open(path, "r+b", buffering=0) as file:
        for seed in range(6):
            file.seek(0)
            file.write(noise(seed, 5000))
            for i, steps in enumerate(way.steps(b"f")):
                file.seek(seed * MIB // 2)
                file.write(noise(seed + i, 3000))
                assert way.apply(steps) == []
            way.note()
    assert way.asked == 0
    way.ship()
    same(way)


def test_a_failed_reading_proves_nothing(way: Way, log: Log) -> None:
    """The file was about to be read as a whole, and was not: what is kept is older than that."""
    with open(log.path, "r+b") as file:
        file.write(b"HELLO")
    log.add(5)
    found = way.steps(b"f")
    next(found)
    found.close()
    for name in os.listdir(way.stage):
        (way.stage / name).unlink()
    log.add(6)
    way.ship()
    same(way)


def test_the_reader_is_closed_with_its_descriptors(way: Way, log: Log) -> None:
    before = len(os.listdir("/proc/self/fd"))
    way.reader.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    way.reader = LargeReader(way.root, way.journal, {}, way._ask)
    log.add(5)
    way.ship()
    same(way)
    assert way.asked == 0
