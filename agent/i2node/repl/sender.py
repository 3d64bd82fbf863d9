"""From batches to frames: read → steps → journal → the line.

Two stages, each behind a bounded queue: one reading thread (the reads themselves overlap in C),
which fills frames (frame.py), and the line (line.py), which seals and sends. What the target is
then expected to hold is written to the journal as it is read, and the directories concerned stand
in doubt there until the target has it durable; so a crash anywhere costs a question, never a
change.
"""

from __future__ import annotations

import errno
import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from i2node.errors import PeerLost
from i2node.fs.root import Root
from i2node.fs.sweep import Name
from i2node.model import Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.net.seal import Sealer
from i2node.net.stream import DataStream
from i2node.net.wire import FRAME_MAX
from i2node.repl import staging
from i2node.repl.doubts import UNTIL_ASKED, UNTIL_SENT
from i2node.repl.frame import Frame
from i2node.repl.history import History
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader
from i2node.repl.line import Flow, Line
from i2node.repl.plan import ROOT, Batch, Edit, Large, Linked, Put, join, known, together, unsettled
from i2node.repl.remote import FLUSH
from i2node.repl.told import Fault

OVERWRITES = (Verdict.DATA, Verdict.SWAPPED)
QUEUED_BATCHES = 4
READ_THREADS = 8
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}
"""What was meant is no longer there: ESTALE, where another directory stands under its path."""
BESIDE = 256 << 20
"""Bytes of large files beside which the next batch is read: as it is written down as it was read, a
change since is found like any other, only later."""
REST_S = 0.2
"""How often large files that are held open are looked after."""
STEP_ROOM = 512
"""Bytes of a step beyond its content and paths: header, padding, a few attributes."""
_FAULT = 64
"""Bytes that a fault takes beside its paths."""
ATTRIBUTES_MAX = (4 << 20) + (64 << 10)
"""Bytes beyond the content that are packed at once: what the attributes of one file may take."""


@dataclass(frozen=True, slots=True)
class Read:
    """Groups as they were read, with their steps: files, and bytes of content in them."""

    packed: bytearray
    steps: memoryview
    files: int
    content: int


class Sender:
    """One stream's sending side; `submit` and `settle` are for the planner.

    window and pace: see Line. again(dir, name, sent) is told of names that changed while they were
    read; sent: as they were, no older than when they were asked for. trouble is told of those that
    cannot be read, see Troubles.unreadable; strayed(path) of those that were read from another
    directory than was meant, and went under that path; took(dir, name, seconds) of how long a large
    one was read. history is told of what each frame carries, and how far it is.
    """

    def __init__(
        self,
        root: Root,
        journal: Journal,
        stream: DataStream,
        sealer: Sealer,
        large: LargeReader,
        *,
        small_max: int,
        frame_bytes: int,
        window: int,
        pace: Callable[[int], None],
        again: Callable[[int, bytes, bool], None],
        trouble: Callable[[bytes, int, Name], None],
        strayed: Callable[[bytes], None],
        took: Callable[[int, bytes, float], None],
        history: History | None = None,
    ) -> None:
        self.root = root
        self.journal = journal
        self.large = large
        self.small_max = small_max
        self.again = again
        self.trouble = trouble
        self.strayed = strayed
        self.took = took
        self.history = history or History()
        self.line = Line(stream, sealer, window, pace)
        self.line.on_sent = self.history.sent
        self.frame = Frame(journal, self.line, frame_bytes)
        self._changed = self.line.changed
        self._batches: queue.Queue[Batch | None] = queue.Queue(QUEUED_BATCHES)
        self._pool = ThreadPoolExecutor(1, "pack")
        self._submitted = 0
        self._read = 0
        self._rested = 0.0
        self._unread = b"", 0  # the path that could not be read last, and why
        self.line.start("read", self._read_loop)

    @property
    def error(self) -> BaseException | None:
        """What ended the sending."""
        return self.line.error

    # ------------------------------------------------------------------ for the planner

    def submit(self, work: Batch) -> None:
        """Takes a batch; waits while the pipeline is full."""
        work.since = work.since or time.monotonic()
        with self._changed:
            self._submitted += 1
        while True:
            self.line.check()
            try:
                self._batches.put(work, timeout=0.2)
                return
            except queue.Full:
                continue

    def settle(self) -> None:
        """Returns when everything submitted so far is read and in the journal."""
        with self._changed:
            while self._read < self._submitted:
                self.line.check()
                self._changed.wait(0.2)
        self.line.check()

    def drained(self) -> bool:
        """Whether everything submitted is durable on the target."""
        with self._changed:
            return self._read == self._submitted and self.line.durable == self.line.last

    def beat(self) -> int:
        """The number of the frame that is durable when all is that was settled: the last one, or,
        where the target has all of that durable, an empty one sent for this. Of each the target
        tells when it is."""
        if self.line.durable >= self.line.last:
            self.line.put(FLUSH, b"", 0, 0, math.inf)
        return self.line.last

    def arrive(self) -> None:
        """Returns when the target has applied everything submitted."""
        self.submit(Batch())  # behind it the reading thread hands out what it has
        self.settle()
        self.line.wait_applied()

    def wait_applied(self) -> None:
        """Returns when the target has applied everything that was read so far."""
        self.frame.emit()
        self.line.wait_applied()

    def wait_drained(self, timeout: float | None = None) -> bool:
        """Waits until everything submitted is durable; False when the time is over."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._read < self._submitted or self.line.durable < self.line.last:
                self.line.check()
                if end is not None and time.monotonic() > end:
                    return False
                self._changed.wait(0.2)
        return True

    def flow(self) -> Flow:
        """The line's, with the batches that are not frames yet, and what is looked through."""
        # Before the line: a batch that becomes a frame meanwhile must not be seen in neither.
        with self._changed:
            unread = self._submitted - self._read
        flow, beside = self.line.flow(), self.large.scouted()
        times = [t for t in (flow.oldest, self.frame.since if unread else 0.0, *beside) if t]
        in_flight = flow.in_flight + unread + len(beside)
        return replace(flow, in_flight=in_flight, oldest=min(times, default=None))

    # ------------------------------------------------------------------ told by the target

    def applied(self, seq: int, waits: bool = True) -> None:
        """The target has applied all frames up to seq; waits: it is rather idle, not behind."""
        self.line.applied(seq, waits)
        self.history.applied(seq)

    def durable(self, seq: int) -> None:
        """All frames up to seq will survive a power cut on the target."""
        self.line.survives(seq)
        self.journal.settle(seq)
        self.journal.commit()
        self.line.lasts(seq)
        self.history.durable(seq)
        if self.drained():
            self.journal.tidy()

    def faulted(self, seq: int, faults: Sequence[Fault], sound: bool = False) -> None:
        """Steps of this frame could not be done; sound: they are, and the faults tell how."""
        self.line.failed(seq, sum(len(f.path) + len(f.other) + _FAULT for f in faults))
        if not sound:
            self.journal.distrust(seq)

    def fail(self, error: BaseException) -> None:
        """Ends the sending; whoever waits gets the error."""
        self.line.fail(error)

    def close(self) -> None:
        """Stops the threads. What was submitted and not sent is forgotten here; it is in doubt."""
        self.line.fail(PeerLost("the session ended"))
        # Wakes the thread that waits for a batch; where the queue is full it does not wait.
        with suppress(queue.Full):
            self._batches.put_nowait(None)
        self.line.close()
        self.large.close()
        self._pool.shutdown(cancel_futures=True)

    # ------------------------------------------------------------------ reading

    def _read_loop(self) -> None:
        following: tuple[Batch, Future[Read]] | None = None
        while self.error is None:
            self._rest()
            begun = following or self._take(REST_S if self.large.holds() else None)
            if begun is None:
                continue
            work, read = begun
            # While this one is written down the next is read.
            large = sum(item.entry.size for item in (*work.large, *(g.first for g in work.linked)))
            following = self._take(0) if large <= BESIDE else None
            self._read_batch(work, read)
            if work.last or not work or (following is None and self._batches.empty()):
                self.frame.emit(last=work.last)
            with self._changed:
                self._read += 1
                self._changed.notify_all()

    def _rest(self) -> None:
        """To be called often: the owner of the large files waits for their room, however much there
        is to do."""
        now = time.monotonic()
        if now - self._rested >= REST_S:
            self._rested = now
            self.large.rest()

    def _take(self, patience: float | None) -> tuple[Batch, Future[Read]] | None:
        """The next batch, with its reading begun; None: there is none within so many seconds, or
        the sender ends."""
        try:
            work = self._batches.get(patience != 0, patience)
        except queue.Empty:
            return None
        return None if work is None else (work, self._pool.submit(self._read_groups, work.files))

    def _read_batch(self, work: Batch, read: Future[Read]) -> None:
        """Turns a batch into steps, in the order that Batch describes."""
        self.frame.begin(work.since, work.suspects)
        if work.dirs:
            self.journal.doubt_many(work.dirs, UNTIL_SENT)
        self._steps(work.before, work.before_edits)
        self._pack(work.files, work.large, read)
        for item in work.large:
            self._ship(item)
        for group in work.linked:
            self._ship_linked(group)
        metas = (
            (ino, path, b"".join(record for _, record in sorted(records.items())))
            for ino, (path, records) in work.metas.items()
        )
        self._pack(list(metas), [])
        if work.root:
            self._root_meta(listing.decode(work.root))
        if work.last:
            for step in self.large.leftovers():
                self.frame.append(step)
        self.frame.end()

    def _steps(self, steps: Iterable[bytes], edits: Iterable[Edit]) -> None:
        edits = list(together(edits))
        try:
            for edit in edits:
                edit.note(self.journal)
            for step in steps:
                self.frame.append(step)
        finally:
            # Even when the sending ends in between: the journal has it.
            for edit in edits:
                if isinstance(edit, Put) and not edit.agreed:
                    self.history.note(self.frame.reached, edit.dir, edit.change)

    def _read_groups(self, groups: list[tuple[int, bytes, bytes]], room: int = STEP_ROOM) -> Read:
        """Reads entries into steps. room: bytes for what a step has beside its content."""
        if not groups:
            return Read(bytearray(), memoryview(b""), 0, 0)
        packed = bytearray(b"".join(batch.group(p, entries, ino) for ino, p, entries in groups))
        count, content = map(sum, zip(*(listing.totals(e) for _, _, e in groups), strict=True))
        paths = max(len(path) for _, path, _ in groups)
        steps = batch.pack(
            self.root.fd,
            self.root.dev,
            packed,
            mode=batch.PACK_ALL,
            small_max=self.small_max,
            threads=READ_THREADS,
            cap=min(content + min(count * (room + paths + 255), ATTRIBUTES_MAX), FRAME_MAX),
        )
        return Read(packed, steps, count, content)

    def _pack(
        self,
        groups: list[tuple[int, bytes, bytes]],
        large: list[Large],
        begun: Future[Read] | None = None,
    ) -> None:
        """Sends entries and writes them down, as often as there was no room for some."""
        room = STEP_ROOM
        while groups:
            wanted = groups
            read = begun.result() if begun else self._read_groups(groups, room)
            # What is read once more had attributes of a size that only reading tells.
            begun, room = None, room * 4
            # Before anything is noted: what is noted goes by the number of the frame it is in.
            self.frame.make_room(len(read.steps))
            for owner, _, asked in groups:
                if over := listing.overwritten(asked):
                    self.journal.suspect(owner, over, self.frame.number)
            found, groups = batch.groups(read.packed), []
            for (owner, _, asked), (path, entries) in zip(wanted, found, strict=True):
                rest = self._noted(owner, path, asked, entries, large)
                if rest:
                    groups.append((owner, path, rest))
            # Behind what was noted: with the frame that it may fill, the journal is committed.
            self.frame.count(read.files, read.content)
            self.frame.append(read.steps)

    def _failed(self, path: bytes, status: int, place: Name) -> None:
        self._unread = path, status
        self.trouble(path, status, place)

    def _stands(self, owner: int, path: bytes) -> bool:
        """Whether the directory that was meant is still the one under this path."""
        answer = self.root.stat_names(path, ())
        return not answer.status and listing.decode(answer.own).ino == owner

    def _stray(self, owner: int, path: bytes, names: Iterable[bytes]) -> None:
        """Something else was read than was meant, and went under these names: into the directory
        that the target holds there, which is asked for it, after a kill too."""
        there = self.journal.inode(path, self.root.identity.ino)
        if there is not None:
            self.journal.doubt(there, path, UNTIL_ASKED)
        for name in names:
            self.strayed(join(path, name))
            self.again(owner, name, False)

    def _noted(
        self, owner: int, path: bytes, asked: bytes, entries: bytes, large: list[Large]
    ) -> bytes:
        """Writes down what was read of a directory; returns the entries to be read again."""
        joined = list(_exchanged(asked, entries))
        meant = {e.name: e.ino for e in listing.kept(asked, Kind.DIR)}
        others = {
            e.name
            for e in listing.kept(entries, Kind.DIR)
            if not e.status and e.ino != meant.get(e.name)
        }
        if others:
            self._stray(owner, path, others)
            kept = (e for e in listing.entries(entries) if e.name not in others)
            entries = b"".join(map(listing.encode, kept))
        rest: list[bytes] = []
        for entry in listing.troubled(entries):
            if entry.status == errno.ENOBUFS:
                rest.append(listing.encode(entry._replace(status=0)))
            elif entry.status == errno.EFBIG:
                large.append(Large(owner, join(path, entry.name), entry._replace(status=0)))
            elif entry.status == errno.EAGAIN:
                self.journal.put(owner, unsettled(entry))
                self.again(owner, entry.name, True)
            elif entry.status in GONE:
                self.again(owner, entry.name, False)
            else:
                self._failed(join(path, entry.name), entry.status, (owner, entry.name))
        self.journal.put(owner, entries)
        self.history.note(self.frame.number, owner, entries)
        for entry in joined:
            self._unlinked(owner, entry)
        return b"".join(rest)

    def _unlinked(self, owner: int, entry: Entry) -> None:
        """A file that has more names came under this name meanwhile, or got them: they are still to
        be made one on the target."""
        self.journal.put(owner, known(entry._replace(ctime=0)))
        self.again(owner, entry.name, False)

    def _root_meta(self, own: Entry) -> None:
        """It is read by its descriptor."""
        self.frame.append(staging.root(own, staging.attributes(self.root.fd, own)))
        self.journal.set("root", known(own))
        self._carried(self.root.identity.ino, own._replace(name=ROOT))

    def _ship(self, item: Large) -> None:
        name = (item.dir, item.entry.name)
        self.frame.overwrite(name if item.entry.verdict in OVERWRITES else None)
        spent, since = 0.0, time.monotonic()
        for steps, content in self.large.ship(item):
            spent += time.monotonic() - since
            self.frame.count(0, content)
            self.frame.append(steps)
            self._rest()
            since = time.monotonic()
        self.frame.overwrite(None)
        self.frame.count(1, 0)
        outcome = self.large.outcome
        if outcome is None or outcome.status == errno.EINPROGRESS:
            return
        self.took(item.dir, item.entry.name, spent + self.large.beside)
        if self._stands(item.dir, item.path.rpartition(b"/")[0]):
            self._shipped(item, outcome)
        else:
            self._stray(item.dir, item.path.rpartition(b"/")[0], (item.entry.name,))

    def _ship_linked(self, group: Linked) -> None:
        """A file under the first of its names; the others follow only if it could be read."""
        first = group.first
        self._unread = b"", 0
        directory, _, name = first.path.rpartition(b"/")
        large = [first] if first.entry.size > self.small_max else []
        if not large:
            self._pack([(first.dir, directory, listing.encode(first.entry))], large)
        for item in large:
            self._ship(item)
        found = self.journal.select(first.dir, [name])
        now = next(iter(listing.entries(found)), None)
        if now is None or now.ino != first.entry.ino or now.ctime < first.entry.ctime:
            for parent, other, path in group.others:
                if self._unread[0] == first.path:
                    # The same file: it is read again when that is to be tried again.
                    self.trouble(path, self._unread[1], (parent, other))
                else:
                    self.again(parent, other, False)
            return
        for parent, other, path in group.others:
            self.journal.put(parent, known(now._replace(name=other)))
            self.journal.suspect(parent, [other], self.frame.number)
            try:
                self.frame.append(batch.step(Op.LINK, path, first.path, kind=now.kind))
            finally:
                self._carried(parent, now._replace(name=other))

    def _carried(self, owner: int, entry: Entry) -> None:
        """What was appended last is of this entry of a directory."""
        self.history.note(self.frame.reached, owner, listing.encode(entry))

    def _shipped(self, item: Large, entry: Entry) -> None:
        if entry.status in (0, errno.EAGAIN):
            self._carried(item.dir, entry)
        if entry.status in GONE:
            self.again(item.dir, entry.name, False)
        elif entry.status == errno.EAGAIN:
            self.journal.put(item.dir, unsettled(entry))
            self.again(item.dir, entry.name, True)
        elif entry.status:
            self._failed(item.path, entry.status, (item.dir, entry.name))
        else:
            self.journal.put(item.dir, known(entry._replace(verdict=Verdict.SAME)))
            if entry.nlink > 1 and (entry.ino != item.entry.ino or item.entry.nlink < 2):
                self._unlinked(item.dir, entry)


def _exchanged(asked: bytes, read: bytes) -> Iterator[Entry]:
    """Entries with more names than one that are of another file than the one asked for, or had no
    other name then."""
    for entry in listing.linked(read):
        meant = listing.find(asked, entry.name)
        if not entry.status and (meant is None or meant.ino != entry.ino or meant.nlink < 2):
            yield entry
