"""Large files from the reader to the real apply: after every shipment the target is the source,
byte for byte and hole for hole, and nothing is left in the stage."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2node.fs.past import PastCache, Rooms
from i2node.fs.tree import Root
from i2node.model import RACY, Entry, Verdict
from i2node.mover import batch, blocks, listing
from i2node.mover.batch import STEP, At, Op
from i2node.repl import large, shipment, staging
from i2node.repl.answers import sign_file
from i2node.repl.delta import Basis
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader
from i2node.repl.plan import Large, known, unsettled
from i2node.repl.windows import HELD, WINDOW, Window, ahead, windows

MIB = 1 << 20
BLOCK = 4096


class Way:
    """A source directory, a target directory and what a session keeps between the two."""

    def __init__(self, place: Path) -> None:
        for name in ("source", "target", "stage"):
            (place / name).mkdir()
        self.source, self.target, self.stage = (
            place / "source",
            place / "target",
            place / "stage",
        )
        self.root = Root(os.fsencode(self.source))
        self.journal = Journal(place / "index.db")
        self.target_fd = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY)
        self.stage_fd = os.open(self.stage, os.O_RDONLY | os.O_DIRECTORY)
        self.dev = os.fstat(self.target_fd).st_dev
        self.asked = 0
        self.sent = 0
        self.written = 0
        self.ops: list[Op] = []
        self.reader = LargeReader(self.root, self.journal, {}, self._ask)

    def close(self) -> None:
        self.journal.close()
        self.root.close()
        os.close(self.target_fd)
        os.close(self.stage_fd)

    def _ask(self, path: bytes) -> Basis | None:
        self.asked += 1
        try:
            fd = batch.open_file(self.target_fd, self.dev, path)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(fd)
            block = blocks.block_size(found.st_size)
            signature = sign_file(fd, found.st_size, block)
            return Basis(signature, found.st_size, block, found.st_mtime_ns)
        finally:
            os.close(fd)

    def entry(self, name: bytes) -> Entry:
        """The file as a walk finds it, judged against what is written down."""
        now = batch.stat_names(self.root.fd, self.root.dev, b"", [name]).entries
        (entry,) = listing.entries(now)
        held = self.journal.select(self.root.identity.ino, [name])
        return entry._replace(verdict=Verdict.DATA if held else Verdict.NEW)

    def steps(self, name: bytes, trusted: bool = False) -> Iterator[bytes]:
        self.ops = []
        item = Large(self.root.identity.ino, name, self.entry(name), trusted)
        for steps, _ in self.reader.ship(item):
            if not steps:
                continue
            self.sent += len(steps)
            at = 0
            while at < len(steps):
                head = STEP.unpack_from(steps, at)
                self.ops.append(Op(head[1]))
                self.written += head[7]
                at += head[0]
            yield steps

    def apply(self, steps: bytes) -> list[batch.Fault]:
        return batch.apply(self.target_fd, self.stage_fd, steps).faults

    def ship(self, name: bytes = b"f", trusted: bool = False) -> Entry:
        """Ships the file as a session would, and writes down what it was."""
        faults: list[batch.Fault] = []
        for steps in self.steps(name, trusted):
            faults += self.apply(steps)
        assert faults == []
        return self.note()

    def note(self) -> Entry:
        outcome = self.reader.outcome
        assert outcome is not None
        if outcome.status == errno.EAGAIN:
            self.journal.put(self.root.identity.ino, unsettled(outcome))
        elif not outcome.status:
            record = known(outcome._replace(verdict=Verdict.SAME))
            self.journal.put(self.root.identity.ino, record)
        assert os.listdir(self.stage) == []
        return outcome

    def forget(self) -> None:
        """The books are lost, the target is not."""
        ino = (self.source / "f").stat().st_ino
        self.journal.wipe()
        there = batch.stat_names(self.target_fd, self.dev, b"", [b"f"]).entries
        self.journal.put(self.root.identity.ino, there)
        assert self.journal.signature(ino) is None


def extents(path: Path) -> list[tuple[int, int]]:
    """The data extents of a file (lseek(2))."""
    found: list[tuple[int, int]] = []
    with open(path, "rb") as file:
        fd, size, at = file.fileno(), os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def same(way: Way, holes: bool = True) -> None:
    """The file on both sides is one and the same."""
    here, there = way.source / "f", way.target / "f"
    a, b = here.stat(), there.stat()
    assert a.st_size == b.st_size
    assert (a.st_mtime_ns, a.st_mode, a.st_uid, a.st_gid) == (
        b.st_mtime_ns,
        b.st_mode,
        b.st_uid,
        b.st_gid,
    )
    assert attributes(here) == attributes(there)
    with open(here, "rb") as one, open(there, "rb") as other:
        for start, end in sorted({*extents(here), *extents(there)}):
            one.seek(start)
            other.seek(start)
            assert one.read(end - start) == other.read(end - start)
    if holes:
        assert extents(here) == extents(there)


def attributes(path: Path) -> dict[str, bytes]:
    return {n: os.getxattr(path, n) for n in os.listxattr(path) if n != "security.selinux"}


@pytest.fixture
def way(place: Path) -> Iterator[Way]:
    with closing(Way(place)) as made:
        yield made


# ------------------------------------------------------------------------------- any history


def lay(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def punch(path: Path, at: int, span: int) -> None:
    """Makes a hole (fallocate(2)), the size stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        span = min(span, size - at)
        if span > 0 and libc.fallocate64(
            file.fileno(), 3, ctypes.c_int64(at), ctypes.c_int64(span)
        ):
            raise OSError(ctypes.get_errno(), "fallocate")


def noise(seed: int, span: int) -> bytes:
    return blocks.hash(seed.to_bytes(8, "little"), 32) * (span // 32) + b"tail"[: span % 4]


KINDS = ["write", "zero", "punch", "truncate", "append", "insert", "cut", "touch", "mode"]
offsets = st.one_of(
    st.integers(0, 3 * MIB),
    st.sampled_from([0, 1, BLOCK - 1, BLOCK, MIB - BLOCK, MIB - 1, MIB, MIB + 1, 2 * MIB]),
)
spans = st.one_of(
    st.integers(1, MIB), st.sampled_from([1, BLOCK - 1, BLOCK, BLOCK + 1, MIB, 2 * MIB])
)
edits = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        offsets,
        spans,
    ),
    min_size=1,
    max_size=4,
)


def edit(path: Path, what: str, at: int, span: int, seed: int) -> None:
    if what == "write":
        lay(path, at, noise(seed, span))
    elif what == "zero":
        lay(path, at, bytes(span))
    elif what == "punch":
        punch(path, at, span)
    elif what == "truncate":
        os.truncate(path, at)
    elif what == "append":
        lay(path, path.stat().st_size, noise(seed, span))
    elif what == "insert":
        path.write_bytes(noise(seed, span) + path.read_bytes())
    elif what == "cut":
        path.write_bytes(path.read_bytes()[span:])
    elif what == "touch":
        os.utime(path, ns=(0, at * 1_000_000_007))
    else:
        os.chmod(path, span & 0o777 | 0o400)
        os.setxattr(path, "user.note", at.to_bytes(8, "little"))


def histories(path: Path, count: int) -> Iterator[None]:
    """Goes on when something was done to the file."""
    for seed in range(count):
        chance = random.Random(seed)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(path.stat().st_size + MIB)
            edit(path, chance.choice(KINDS), at, chance.choice([1, BLOCK, 70_000]), seed + 1)
        if chance.random() < 0.2:
            new = path.with_name("new")
            new.write_bytes(path.read_bytes() + b"x")
            new.rename(path)
        yield
        if path.stat().st_size < 2 * MIB:
            lay(path, path.stat().st_size, noise(seed, 8 * MIB))


def lay_about(path: Path, chance: random.Random) -> None:
    """Writes to twenty of its blocks."""
    for n in chance.sample(range(path.stat().st_size // BLOCK), 20):
        lay(path, n * BLOCK, chance.randbytes(BLOCK))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=edits,
    rounds=st.lists(
        st.tuples(st.sampled_from(["go on", "lose the books", "drift"]), edits),
        min_size=1,
        max_size=3,
    ),
)
def test_any_history_arrives(place: Path, first: list, rounds: list) -> None:
    with tempfile.TemporaryDirectory(dir=place) as spot, closing(Way(Path(spot))) as way:
        path = way.source / "f"
        path.write_bytes(b"")
        seed = 0
        for what, at, span in first:
            edit(path, what, at, span, seed := seed + 1)
        way.ship()
        same(way)
        for before, changes in rounds:
            for what, at, span in changes:
                edit(path, what, at, span, seed := seed + 1)
            if before == "lose the books":
                way.forget()
            elif before == "drift":
                # Somebody wrote to the target: the delta does not fit, and says so.
                was = (way.target / "f").stat().st_mtime_ns
                lay(way.target / "f", 0, b"drift")
                os.utime(way.target / "f", ns=(0, was + 10**9))
                faults = [f for steps in way.steps(b"f") for f in way.apply(steps)]
                for fault in faults:
                    assert fault.what == At.CHECK
                way.forget()
            way.ship()
            # Which zeros are allocated is left alone where nothing else differs.
            same(way, holes=False)
            if Op.STAGED in way.ops:
                here = extents(path)
                for start, end in extents(way.target / "f"):
                    assert any(a <= start and end <= b for a, b in here), (here, start, end)


# ------------------------------------------------------------------------------- each by itself

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, MIB - 1, MIB, MIB + 1, 2 * MIB + BLOCK + 7]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_blocks_and_windows(way: Way, size: int) -> None:
    path = way.source / "f"
    path.write_bytes(noise(size, size))
    assert way.ship().size == path.stat().st_size
    same(way)
    lay(path, max(0, path.stat().st_size - 1), b"!!")
    way.ship()
    same(way)


def test_holes_of_every_kind(way: Way) -> None:
    path = way.source / "f"
    with open(path, "wb") as file:
        for at in (0, 3 * BLOCK, MIB - BLOCK, 5 * MIB + 123, 9 * MIB):
            file.seek(at)
            file.write(noise(at, 5000))
        file.truncate(12 * MIB + 17)
    way.ship()
    same(way)
    assert way.written < 60_000
    punch(path, 0, BLOCK)
    punch(path, 9 * MIB, MIB)
    way.ship()
    same(way)
    assert Op.WRITE not in way.ops
    # Zeros that somebody wrote are no hole, here and there.
    lay(path, 2 * MIB, bytes(MIB))
    lay(path, 5 * MIB, b"x")
    way.forget()
    (way.target / "f").unlink()
    way.journal.wipe()
    way.ship()
    same(way)


def test_all_hole_and_a_tebibyte_of_it(way: Way) -> None:
    path = way.source / "f"
    with open(path, "wb") as file:
        file.truncate(5 * MIB + 1)
    way.ship()
    same(way)
    assert way.written == 0
    os.truncate(path, 1 << 40)
    lay(path, (1 << 39) + 4096, b"in the middle")
    way.ship()
    same(way)
    assert way.written < MIB
    lay(path, (1 << 39) + 5 * MIB, b"next to it")
    way.written = 0
    way.ship()
    same(way)
    assert way.written < MIB and way.asked == 0
    way.forget()
    lay(path, 7, b"seven")
    way.ship()
    same(way)
    assert way.asked == 1 and way.written < 2 * MIB


@pytest.mark.parametrize(
    "mtime", [-(10**18) - 1, -1, 2**31 * 10**9 + 7, 9_400_000_000 * 10**9 + 999_999_999]
)
def test_mtimes_of_all_ages(way: Way, mtime: int) -> None:
    path = way.source / "f"
    path.write_bytes(noise(1, 2 * MIB))
    os.utime(path, ns=(0, mtime))
    way.ship()
    same(way)
    lay(path, 5, b"x")
    os.utime(path, ns=(0, mtime - 1))
    way.ship()
    same(way)


def test_only_what_changed_is_sent(way: Way) -> None:
    """Blocks written in place; the books lost; a piece put in front."""
    path = way.source / "f"
    content = bytearray(os.urandom(16 * MIB))
    path.write_bytes(content)
    way.ship()
    changed = range(0, len(content) // BLOCK, 97)
    for n in changed:
        lay(path, n * BLOCK, os.urandom(BLOCK))
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 1.1 * len(changed) * BLOCK and way.asked == 0
    way.forget()
    lay(path, 5 * MIB, os.urandom(BLOCK))
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 2 * BLOCK + 4096 and way.asked == 1
    path.write_bytes(os.urandom(100_001) + path.read_bytes())
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 100_001 + 4 * BLOCK + 4096
    assert Op.COPY in way.ops


def test_a_file_that_outgrows_its_blocks_is_not_sent_as_a_whole(way: Way) -> None:
    """From 4 GiB on they are twice as large; and back."""
    path, size = way.source / "f", (4 << 30) - MIB
    with path.open("wb") as file:
        for at in (0, 1 << 30, size - 3 * MIB):
            file.seek(at)
            file.write(os.urandom(3 * MIB))
    way.ship()
    assert blocks.block_size(size) != blocks.block_size(size + 2 * MIB)
    for change in (lambda: lay(path, size, os.urandom(2 * MIB)), lambda: os.truncate(path, size)):
        change()
        way.sent = 0
        way.ship()
        same(way)
        assert way.sent < 3 * MIB and way.asked == 0
    lay(path, 5, b"x")
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent < MIB


def test_metadata_alone_sends_no_content(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(MIB))
    way.ship()
    for trusted in (False, True):
        os.chmod(path, 0o640 if trusted else 0o600)
        os.setxattr(path, "user.k", b"%d" % trusted)
        way.ship(trusted=trusted)
        assert way.ops == [Op.SET_META]
        same(way)
    # Trusted was the mtime at the walk; it moved since, so the content is looked at after all.
    lay(path, 3, b"seen")
    entry = way.entry(b"f")
    os.utime(path, ns=(0, 5))
    item = Large(way.root.identity.ino, b"f", entry, True)
    for steps, _ in way.reader.ship(item):
        assert way.apply(steps) == []
    way.note()
    same(way)


# ------------------------------------------------------------------------------- resumed


@pytest.mark.parametrize("part", [0, 1, MIB - 1, MIB, 2 * MIB + 77])
def test_a_staged_part_is_gone_on_with(way: Way, part: int) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB + 5))
    os.utime(path, ns=(0, 10**18))
    wait_until_not_racy(path)
    for steps in way.steps(b"f"):
        if way.written > part:
            # The target dies in the middle of this write.
            (name,) = os.listdir(way.stage)
            start = STEP.unpack_from(steps)[13]
            with open(way.stage / name, "r+b") as file:
                file.seek(start)
                file.write(steps[STEP.size :][: part - start])
            break
        assert way.apply(steps) == []
    parts = {int(n, 16): (way.stage / n).stat().st_size for n in os.listdir(way.stage)}
    way.reader = LargeReader(way.root, way.journal, parts, way._ask)
    way.written = 0
    way.ship()
    same(way)
    assert way.written == 3 * MIB + 5 - part // MIB * MIB
    assert way.reader.leftovers() == []


def wait_until_not_racy(path: Path) -> None:
    """A file written this moment is never gone on with: a later write may not show in its times."""
    deadline = time.monotonic() + 10
    while time.time_ns() - path.stat().st_ctime_ns < 30_000_000:
        assert time.monotonic() < deadline


def test_what_was_read_too_soon_after_a_write_proves_nothing(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write may carry the same time, to what was read by then, however long the rest took:
    what counts is when it began."""
    path = way.source / "f"
    path.write_bytes(noise(1, 3 * MIB))
    for change in ("new", "delta", "nothing"):
        if change == "delta":
            lay(path, MIB, b"delta")
        for patience, racy in ((10**18, RACY), (staging.RACY_NS, 0)):
            wait_until_not_racy(path)
            with monkeypatch.context() as patched:
                patched.setattr(staging, "RACY_NS", patience)
                assert way.ship().flags & RACY == racy, change
            same(way)


def test_what_takes_long_to_read_is_read_when_that_proves_something(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "CALM_FROM", MIB)
    path = way.source / "f"
    for seed in range(3):
        path.write_bytes(noise(seed, 3 * MIB))
        assert not way.ship().flags & RACY
        same(way)


def test_a_file_that_another_takes_the_place_of_is_shipped_as_it_was(way: Way) -> None:
    """Under one name there is never the content of the one with what the other may show to whom."""
    path, new = way.source / "f", way.source / "new"
    path.write_bytes(noise(1, 3 * MIB))
    path.chmod(0o600)
    os.setxattr(path, "user.note", b"mine")
    before = path.stat()
    for i, steps in enumerate(way.steps(b"f")):
        if i == 1:
            new.write_bytes(noise(2, 5))
            new.chmod(0o644)
            new.rename(path)
        assert way.apply(steps) == []
    outcome = way.note()
    there = way.target / "f"
    assert there.read_bytes() == noise(1, 3 * MIB)
    assert there.stat().st_mode == before.st_mode
    assert there.stat().st_mtime_ns == before.st_mtime_ns
    assert attributes(there) == {"user.note": b"mine"}
    # It is looked at again, and known for what it is.
    assert (outcome.status, outcome.ino) == (errno.EAGAIN, before.st_ino)
    way.ship()
    same(way)


def test_a_part_of_a_delta_is_not_taken_for_a_part_of_the_whole(way: Way) -> None:
    """Its clone is as long as the old file from the start."""
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB))
    way.ship()
    lay(path, MIB, os.urandom(MIB))
    wait_until_not_racy(path)
    way.apply(next(way.steps(b"f")))
    parts = {int(n, 16): (way.stage / n).stat().st_size for n in os.listdir(way.stage)}
    assert list(parts.values()) == [3 * MIB]
    way.reader = LargeReader(way.root, way.journal, parts, lambda path: None)
    way.journal.wipe()
    faults = [f for steps in way.steps(b"f") for f in way.apply(steps)]
    assert faults == []
    same(way)
    assert way.apply(b"".join(way.reader.leftovers())) == []
    assert os.listdir(way.stage) == []


# ------------------------------------------------------------------------------- while it moves


def test_a_file_that_is_written_while_it_is_read(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(4 * MIB))
    done = threading.Event()
    writes = 0

    def write() -> None:
        nonlocal writes
        while not done.is_set():
            writes += 1
            kind = writes % 5
            at = writes * 1_234_567 % (4 * MIB)
            if kind == 0:
                os.truncate(path, 2 * MIB + at // 2)
            elif kind == 1:
                punch(path, at, 40_000)
            else:
                lay(path, at, os.urandom(9000))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(6):
            assert way.ship().status in (0, errno.EAGAIN)
    finally:
        done.set()
        thread.join()
    way.ship()
    same(way, holes=False)


def test_every_moment_of_a_change(way: Way) -> None:
    """The file changes behind each step in turn, and back again: what arrives is one version."""
    path = way.source / "f"
    for delta in (False, True):
        moment = 0
        while True:
            path.write_bytes(bytes([7]) * (2 * MIB + 100))
            if delta:
                way.ship()
                lay(path, MIB - 5, b"literal, long enough")
                lay(path, 2 * MIB + 3, b"another one")
            for i, steps in enumerate(way.steps(b"f")):
                assert way.apply(steps) == []
                if i == moment:
                    lay(path, MIB - 3, b"changed")
                    lay(path, 100, b"changed")
                    os.truncate(path, MIB + 50)
                if i == moment + 1:
                    os.truncate(path, 2 * MIB + 50)
                    lay(path, 100, b"\7" * 7)
            way.note()
            finished = moment > i
            way.ship()
            same(way, holes=False)
            if finished:
                break
            moment += 1
        assert moment > 2


@pytest.mark.parametrize("kept", [True, False])
def test_a_block_that_changes_and_changes_back(
    way: Way, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A literal that is not kept is read after the match: what was sent, not what was matched,
    counts."""
    if not kept:
        monkeypatch.setattr(shipment, "AT_HAND", 0)
    path = way.source / "f"
    path.write_bytes(bytes(range(256)) * (MIB // 128))
    way.ship()
    lay(path, 5 * BLOCK, b"A" * BLOCK)
    for i, steps in enumerate(way.steps(b"f")):
        if i == 0:
            lay(path, 5 * BLOCK, b"B" * BLOCK)
        elif i == 1:
            assert (b"A" if kept else b"B") * BLOCK in steps
            lay(path, 5 * BLOCK, b"A" * BLOCK)
        assert way.apply(steps) == []
    way.note()
    same(way)


def test_what_vanishes_leaves_nothing(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB))
    for moment in range(4):
        path.write_bytes(os.urandom(3 * MIB))
        for i, steps in enumerate(way.steps(b"f")):
            assert way.apply(steps) == []
            if i == moment:
                path.unlink()
        assert way.note().status or not path.exists()
        path.write_bytes(b"")
    assert not (way.target / "f").exists()


def test_a_file_replaced_by_another_while_it_is_read(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(2 * MIB))
    for i, steps in enumerate(way.steps(b"f")):
        assert way.apply(steps) == []
        if i == 1:
            (way.source / "g").write_bytes(os.urandom(MIB + 9))
            (way.source / "g").rename(path)
    assert way.note().status
    way.ship()
    same(way)


def test_a_replaced_file_has_nothing_to_do_with_the_old_signature(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(2 * MIB))
    way.ship()
    times = path.stat()
    (way.source / "g").write_bytes(os.urandom(2 * MIB))
    os.utime(way.source / "g", ns=(0, times.st_mtime_ns))
    (way.source / "g").rename(path)
    way.ship()
    same(way)


def test_no_step_is_larger_than_a_window_however_large_the_file(way: Way) -> None:
    path, size = way.source / "f", 3 << 40
    block = blocks.block_size(size)
    assert block > WINDOW
    tail = bytearray(os.urandom(2 * block + 5000))
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), size)
        for change in (tail, os.urandom(2 * block - 1)):
            tail[len(tail) - len(change) :] = change
            os.pwrite(file.fileno(), tail, size - len(tail))
            sizes = []
            for steps in way.steps(b"f"):
                assert way.apply(steps) == []
                sizes.append(len(steps))
            way.note()
            assert MIB < max(sizes) < MIB + 4096
            with (way.target / "f").open("rb") as made:
                made.seek(size - len(tail))
                assert made.read() == tail


def test_windows_that_are_read_ahead_are_the_same_and_end_with_their_reader() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(9 * MIB + 77))
        fd, size = file.fileno(), 9 * MIB + 77
        plain = list(windows(fd, 0, size, BLOCK))
        before = threading.active_count()
        assert list(ahead(windows(fd, 0, size, BLOCK))) == plain
        some = ahead(windows(fd, 0, size, BLOCK))
        assert next(some) == plain[0]
        some.close()
        assert threading.active_count() == before

    def slowly() -> Iterator[Window]:
        with (
            tempfile.TemporaryFile() as file,
            PastCache(file.fileno(), size, Rooms(HELD)) as past,
        ):
            file.write(content)
            file.flush()
            for window in ahead(windows(file.fileno(), 0, size, BLOCK, past.read)):
                # All that can be read ahead is read.
                time.sleep(0.02)
                yield window

    content = b"".join(window.data or b"" for window in plain)
    for window, same in zip(slowly(), plain, strict=True):
        assert window == same

    def broken() -> Iterator[Window]:
        yield plain[0]
        raise OSError(errno.EIO, "broken")

    read = ahead(broken())
    assert next(read) == plain[0]
    with pytest.raises(OSError, match="broken"):
        next(read)
