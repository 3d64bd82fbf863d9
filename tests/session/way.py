"""A source and a target directory, with large files on their way from the reader to the real apply
between the two."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from pathlib import Path

from i2node.fs.root import Root
from i2node.model import Entry, Verdict
from i2node.mover import batch, blocks, listing
from i2node.mover.batch import STEP, Op
from i2node.repl.answers import sign_file
from i2node.repl.delta import Basis
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader
from i2node.repl.plan import Large, known, unsettled


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

    def steps(self, name: bytes, trusted: bool = False) -> Generator[bytes, None, None]:
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
