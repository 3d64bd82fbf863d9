"""What is to be done, as it is put together: the batch that grows, and what has to wait for the end
of the round."""

from __future__ import annotations

from typing import Protocol

from i2node.model import Entry, Kind, Verdict
from i2node.mover import listing
from i2node.repl.journal import Journal
from i2node.repl.plan import ROOT, Batch, Place, Visit, same_file

BATCH_ENTRIES = 2000


class Sink(Protocol):
    """Where batches go: the sender."""

    def submit(self, work: Batch) -> None: ...
    def settle(self) -> None:
        """Returns when everything submitted is in the journal."""

    def arrive(self) -> None:
        """Returns when the target has applied everything submitted."""


class Draft:
    """The round's batches; used by the planner's thread.

    late: directories whose times are sent once more at the end, inode → path. gone: (directory,
    its path, what is no longer there), deleted at the end. dirs: all directories touched since the
    round began. made: directories that are new at the target, and not visited yet. unmade: those
    that are made when they are visited, in one batch with what is in them, so that the target can
    build them whole: the one above → name → (path of the one above, entry).
    """

    def __init__(self, journal: Journal, sink: Sink, small_max: int, frame_bytes: int) -> None:
        self.journal = journal
        self.sink = sink
        self.small_max = small_max
        self.frame_bytes = frame_bytes
        self.batch = Batch()
        self.late: dict[int, bytes] = {}
        self.gone: list[tuple[int, bytes, bytes]] = []
        self.dirs: set[int] = set()
        self.made: set[int] = set()
        self.unmade: dict[int, dict[bytes, tuple[bytes, Entry]]] = {}
        self.changed_files = 0
        self.changed_bytes = 0

    def settle(self) -> None:
        """Returns when all that was drafted is in the journal."""
        self.flush()
        self.sink.settle()

    def dir(self, ino: int, path: bytes) -> Batch:
        self.batch.dirs[ino] = path
        self.dirs.add(ino)
        return self.batch

    def count(self, entries: int, size: int) -> None:
        work = self.batch
        work.entries += entries
        work.bytes += size
        if work.entries >= BATCH_ENTRIES or work.bytes >= self.frame_bytes:
            self.flush()

    def changed(self, files: int, size: int) -> None:
        self.changed_files += files
        self.changed_bytes += size

    def flush(self) -> None:
        if self.batch:
            work, self.batch = self.batch, Batch()
            self.sink.submit(work)

    def meta(
        self, parent: int, parent_path: bytes, entry: Entry, doubt: int, doubt_path: bytes
    ) -> None:
        """A directory is to get its owner, mode and times; doubt: it itself, with its path."""
        record = listing.encode(entry._replace(name=entry.name or ROOT, verdict=Verdict.META))
        work = self.dir(doubt, doubt_path)
        if parent:
            work.metas.setdefault(parent, (parent_path, {}))[1][entry.name] = record
            work.dirs[parent] = parent_path
        else:
            work.root = record
        self.count(1, 0)

    def place(self, entry: Entry, parent: int) -> Place:
        sole = entry.kind == Kind.DIR or entry.nlink < 2
        return Place(entry.ino, parent, entry.name, sole)

    def is_unmade(self, visit: Visit) -> bool:
        """Whether a directory is still to be made: the target holds nothing in its place."""
        return visit.name in self.unmade.get(visit.parent, ())

    def placed(self, entry: Entry) -> bool:
        """Whether the journal keeps where the target holds this: what may move or be linked."""
        return entry.kind == Kind.DIR or entry.nlink > 1 or entry.size > self.small_max

    def held(self, parent: int, name: bytes) -> Entry | None:
        found = self.journal.select(parent, [name])
        return next(iter(listing.entries(found)), None)

    def link_places(self, entry: Entry) -> list[tuple[int, bytes]]:
        """Where the target holds names of this inode, of those that are kept."""
        return self.holding(self.journal.places(entry.ino), entry)

    def holding(self, places: list[tuple[int, bytes]], entry: Entry) -> list[tuple[int, bytes]]:
        """Those of the places (directory, name) that still hold the file of entry."""
        return [
            (parent, name)
            for parent, name in places
            if (held := self.held(parent, name)) is not None and same_file(held, entry)
        ]
