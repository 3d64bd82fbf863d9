"""One large file, block by block: whole, resumed, or as a delta.

The source keeps the block signatures of what the target was sent. With them a delta needs nothing
from the target: the file is read once here, and blocks that did not change are neither sent nor
read there. Without them (adopted trees) the target is asked for the signatures of what it holds.
Either way a delta names the mtime (and size) of the old file it was made against, and the target
refuses it for any other.

Content goes to a staged file on the target; the rename at the end is the only moment at which the
final name changes. Where nothing moved and the target cannot clone (ext4), it keeps the delta in a
journal, and changes the old file in place once all of it is durable there. A file that is written
while it is read is read again, and only what differs from what was staged is sent again; after
TRIES it is shipped as it was last seen and looked at once more.

A hole of the source is a hole on the target, and zeros that were written are written there. Only
where nothing else changed does a delta leave alone which zeros are allocated: reading them tells
no difference, and a file of which only the times moved is not staged for that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import NamedTuple

from i2node.errors import ProtocolError
from i2node.fs.past import SHORTEST, PastCache, Rooms
from i2node.fs.tree import Root
from i2node.model import Entry, Kind, Verdict
from i2node.mover import batch, blocks, listing
from i2node.mover.blocks import LITERAL, ZERO
from i2node.repl import staging
from i2node.repl.delta import HOLE, Basis, Differ, moved
from i2node.repl.hot import HOT_FROM, Hot, HotFiles
from i2node.repl.journal import Journal
from i2node.repl.patch import Patch
from i2node.repl.plan import Large
from i2node.repl.signatures import BLOCK_RECORD, Signature
from i2node.repl.staging import Pieces
from i2node.repl.windows import (
    HELD,
    WINDOW,
    Extent,
    Read,
    Signing,
    Staged,
    Window,
    ahead,
    windows,
)

TRIES = 3
ASK_FROM = 1 << 20
"""From this size on it pays to ask the target for signatures before sending an adopted file
whole."""
AT_HAND = 32 << 20
"""Bytes of a delta that are kept until they are sent; what is beyond is read once more."""
SIGNED_MAX = 1 << 46
"""Larger files (64 TiB) are always sent whole: one block of their signature would be more than
should be held in memory."""


class Part(NamedTuple):
    """How a part of the new file is had; content: of what only the source has, if it was kept."""

    op: blocks.Op
    content: bytes | None


class LargeReader:
    """Reads large files into steps; used by the sender's reading thread.

    ask(path) gives the signatures of what the target holds, once all that was sent is applied
    there; None when it holds nothing. parts: staged files that an earlier session left: id → bytes.
    """

    def __init__(
        self,
        root: Root,
        journal: Journal,
        parts: dict[int, int],
        ask: Callable[[bytes], Basis | None],
    ) -> None:
        self.root = root
        self.journal = journal
        self.parts = parts
        self.ask = ask
        self.outcome: Entry | None = None
        self.hot = HotFiles(journal)
        self._staged: int | None = None
        self._rooms = Rooms(HELD)

    def ship(self, item: Large) -> Pieces:
        """Steps for one file, each with the bytes of content it stands for. Afterwards `outcome` is
        the entry as shipped, with a status as i2_pack gives it."""
        self.outcome = item.entry
        self._staged = None
        hot = self.hot.get(item.entry.ino)
        try:
            fd = hot.fd if hot else batch.open_file(self.root.fd, self.root.dev, item.path)
        except OSError as error:
            self.outcome = item.entry._replace(status=error.errno or errno.EIO)
            return
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield from self._ship(item, fd)
        except OSError as error:
            self.outcome = item.entry._replace(status=error.errno or errno.EIO)
        finally:
            if hot is None:
                os.close(fd)
            # Those of a huge file are huge.
            self._rooms.trim(WINDOW)
        if self._staged is not None:
            yield staging.drop(self._staged), 0

    def leftovers(self) -> list[bytes]:
        """Steps that take away what earlier sessions staged and nobody came back for: to be sent
        when every file has been looked at."""
        steps = [staging.drop(stage) for stage in self.parts]
        self.parts.clear()
        return steps

    def rest(self) -> None:
        """To be called while there is nothing to do, a few times a second: lets go of what is held
        for nothing."""
        self.hot.rest()

    def close(self) -> None:
        """Ends the use, when the reading thread has ended."""
        self.hot.close()

    def _ship(self, item: Large, fd: int) -> Pieces:
        entry = _refreshed(item.entry, fd)
        if entry.kind != Kind.FILE:
            self.outcome = entry._replace(status=errno.ENOENT)
            return
        kept = self._kept(item)
        hot = self.hot.get(entry.ino)
        # What was seen of writes was seen up to the moment of the entry, not of now.
        if item.trusted and kept is not None and _same_moment(entry, item.entry):
            yield from self._meta(item, entry)
            self._keep(entry, kept.blocks, kept.block, hot is not None and hot.signature is kept)
            return
        if kept is not None and hot is not None and _only_grew(fd, entry, kept, hot):
            yield from self._patched(item, fd, entry, kept, ())
            return
        if entry.size >= HOT_FROM:
            hot = self.hot.enter(entry.ino, fd)
        if hot is not None:
            hot.begin()
        signing = Signing(_block(entry.size))
        basis = _basis(kept) if kept is not None else self._asked(item, entry)
        if basis is not None and signing.block and basis.block == signing.block:
            yield from self._delta(item, fd, entry, basis, signing)
        else:
            yield from self._whole(item, fd, entry, signing)
        if hot is not None:
            hot.read(self.outcome is not None and self.outcome.status == errno.EAGAIN)

    def _kept(self, item: Large) -> Signature | None:
        """What the target was sent under this name, by our own books."""
        if item.entry.verdict != Verdict.DATA:
            return None
        held = self._held(item)
        kept = self.journal.signature(held.ino) if held is not None else None
        if kept is None or held is None:
            return None
        same = (kept.size, kept.mtime, kept.ctime) == (held.size, _mtime(held), held.ctime)
        return kept if same else None

    def _asked(self, item: Large, entry: Entry) -> Basis | None:
        """What the target says it holds."""
        if item.entry.verdict != Verdict.DATA or not ASK_FROM <= entry.size <= SIGNED_MAX:
            return None
        basis = self.ask(item.path)
        if basis is None or basis.block != _block(basis.size) or not basis.block:
            return None
        if len(basis.signature) != -(-basis.size // basis.block) * BLOCK_RECORD:
            raise ProtocolError("the target's signature of a file does not fit its size")
        return basis

    def _held(self, item: Large) -> Entry | None:
        found = self.journal.select(item.dir, [item.entry.name])
        return next(iter(listing.entries(found)), None)

    # ------------------------------------------------------------------ whole

    def _whole(self, item: Large, fd: int, entry: Entry, signing: Signing) -> Pieces:
        """All data in order; what an earlier session staged of the same file is not sent."""
        stage = staging.stage_id(item.path, entry, b"whole")
        there = self.parts.pop(stage, 0) // WINDOW * WINDOW
        self._staged = stage
        yield staging.begin(stage, item.path, batch.STEP_KEEP if there else 0), 0
        block = signing.block or WINDOW
        with (
            PastCache(fd, entry.size, self._rooms) as file,
            closing(_read_through(fd, entry.size, block, file.read)) as found,
        ):
            for window in found:
                signing.add(window)
                if window.end > there:
                    yield from staging.content(stage, window)
                else:
                    yield b"", window.end - window.at
        yield from self._settle(item, fd, entry, signing, Staged(signing, entry.size), stage)

    # ------------------------------------------------------------------ delta

    def _delta(self, item: Large, fd: int, entry: Entry, basis: Basis, signing: Signing) -> Pieces:
        """On a clone, or in place, where nothing moved, which shows at the end; else built anew
        from the old file and literals, from the first op on that says so."""
        stage = staging.stage_id(item.path, entry, b"delta")
        staged = Staged(signing, entry.size)
        differ = Differ(basis, entry.size, signing)
        waiting: list[Part] = []
        anew, held = False, 0
        with (
            PastCache(fd, entry.size, self._rooms) as file,
            closing(_read_through(fd, entry.size, basis.block, file.read)) as found,
        ):
            for op in differ.ops(found):
                content = differ.content(op) if anew or held < AT_HAND else None
                held += len(content or b"")
                waiting.append(Part(op, content))
                if not anew and moved(op):
                    anew = True
                    self._staged = stage
                    yield staging.begin(stage, item.path), 0
                if anew:
                    for part in waiting:
                        yield from self._anew(item.path, fd, stage, part, basis, staged)
                    waiting.clear()
        if not anew and basis.unchanged((part.op for part in waiting), entry.size):
            yield from self._meta(item, entry, signing.digest())
            self._keep(entry, bytes(signing.records), signing.block)
            return
        if not anew:
            self._staged = stage
            yield staging.begin_clone(stage, item.path, basis.size, basis.mtime), 0
            if basis.size > entry.size:
                # What is cut off must not come back when the file grows before it is done.
                hole = bool(waiting) and waiting[-1].op.source == HOLE
                cut = waiting[-1].op.at if hole else entry.size
                yield staging.hole(stage, cut, basis.size - cut), 0
            for part in waiting:
                yield from self._in_place(fd, stage, part, basis, staged)
        yield from self._settle(item, fd, entry, signing, staged, stage)

    def _in_place(self, fd: int, stage: int, part: Part, basis: Basis, staged: Staged) -> Pieces:
        op = part.op
        if op.source == HOLE:
            yield staging.hole(stage, op.at, op.span), op.span
        elif op.source == op.at or (op.source == ZERO and basis.zero(op)):
            yield b"", op.span
        else:
            yield from self._literal(fd, stage, part, staged)

    def _anew(
        self, path: bytes, fd: int, stage: int, part: Part, basis: Basis, staged: Staged
    ) -> Pieces:
        op = part.op
        if op.source == HOLE:
            yield staging.hole(stage, op.at, op.span), op.span
        elif op.source in (LITERAL, ZERO):
            yield from self._literal(fd, stage, part, staged)
        else:
            yield staging.copy(path, stage, op, basis.mtime), op.span

    def _literal(self, fd: int, stage: int, part: Part, staged: Staged) -> Pieces:
        at, end = part.op.at, part.op.at + part.op.span
        if part.content is not None:
            # What is sent is what was signed.
            extent = Extent(at, end, True)
            yield from staging.content(stage, Window(at, end, part.content, (extent,)))
            return
        for window in windows(fd, at, end, 1):
            staged.literal(window)
            yield from staging.content(stage, window)

    # ------------------------------------------------------------------ patch

    def _patched(
        self,
        item: Large,
        fd: int,
        entry: Entry,
        kept: Signature,
        changed: Iterable[tuple[int, int]],
    ) -> Pieces:
        """Reads only what lies in `changed` (from, to) and behind the end: the rest is known to be
        as it was. What comes later is another version, and not waited for."""
        patch = Patch(kept, entry.size)
        stage = staging.stage_id(item.path, entry, b"delta")
        begin = staging.begin_clone(stage, item.path, kept.size, kept.mtime)
        left = entry.size
        for at, end in patch.ranges(changed):
            for window in windows(fd, at, end, kept.block):
                for start, stop in patch.add(window):
                    if self._staged is None:
                        self._staged = stage
                        yield begin, 0
                    for steps, span in staging.content(stage, window, start, stop):
                        left -= span
                        yield steps, span
        records = patch.signature()
        digest = blocks.digest(records)
        if self._staged is None and entry.size == kept.size:
            yield from self._meta(item, entry, digest)
            self._keep(entry, records, kept.block)
            return
        if self._staged is None:
            self._staged = stage
            yield begin, 0
        yield b"", left
        outcome = yield from self._named(item, entry, digest, stage)
        self.outcome = outcome = _of_its_moment(outcome, entry)
        if outcome.status == 0:
            self._keep(outcome, records, kept.block)
        else:
            self.journal.drop_signature(entry.ino)

    # ------------------------------------------------------------------ the end

    def _settle(
        self, item: Large, fd: int, entry: Entry, signing: Signing, staged: Staged, stage: int
    ) -> Pieces:
        """Sends what changed meanwhile until the file holds still, then gives it its name."""
        status, grew = 0, False
        hot = self.hot.get(entry.ino)
        tries = 0 if hot is not None and hot.restless else TRIES
        for attempt in range(tries + 1):
            now = _refreshed(entry, fd)
            if _same_moment(now, entry):
                break
            if now.size > entry.size and hot is not None and hot.grew():
                # It is the version of its entry, whatever came behind that.
                grew = True
                break
            if attempt == tries:
                status = errno.EAGAIN
                break
            again = Signing(_block(now.size))
            yield from self._again(fd, entry.size, now, staged, again, stage)
            staged = Staged(again, now.size)
            entry, signing = now, again
        digest = signing.digest()
        outcome = yield from self._named(item, entry, digest, stage)
        if grew:
            outcome = _of_its_moment(outcome, entry)
        elif outcome.status == 0 and not _same_moment(outcome, entry):
            status = errno.EAGAIN
        self.outcome = outcome = outcome._replace(status=outcome.status or status)
        records = bytes(signing.records) if outcome.status == 0 else staged.signature()
        if outcome.status in (0, errno.EAGAIN) and signing.block and outcome.ino == entry.ino:
            # Of a file that did not hold still it is not one version; but it is what was sent.
            self._keep(outcome, records, signing.block)
        else:
            # What is kept is of an earlier version, which may even carry the same times.
            self.journal.drop_signature(entry.ino)

    def _named(
        self, item: Large, entry: Entry, digest: bytes, stage: int
    ) -> Generator[tuple[bytes, int], None, Entry]:
        """The last step, which gives the staged file its name; returns the entry as of then."""
        final = entry._replace(rdev=stage, content=digest, verdict=Verdict.DATA)
        steps, packed = self._pack(item, final, batch.PACK_STAGED)
        if steps:
            self._staged = None
        yield steps, 0
        return packed._replace(rdev=0, content=digest)

    def _again(
        self, fd: int, before: int, entry: Entry, staged: Staged, signing: Signing, stage: int
    ) -> Pieces:
        """Sends the blocks of the staged file, so far of `before` bytes, that differ by now."""
        if entry.size < before:
            # What is cut off must not come back when the file grows again.
            yield staging.hole(stage, entry.size, before - entry.size), 0
        block = signing.block
        stood = staged.signature() if staged.block == block != 0 else None
        for window in windows(fd, 0, entry.size, signing.block or WINDOW):
            first = len(signing.records)
            signing.add(window)
            if window.data is None or stood is None:
                yield from staging.content(stage, window, counted=False)
                continue
            new = signing.records[first:]
            there = stood[first : first + len(new)].ljust(len(new), b"\xff")
            for i, j in blocks.differing(new, there):
                at, end = window.at + i * block, window.at + j * block
                yield from staging.content(stage, window, at, end, counted=False)

    def _meta(self, item: Large, entry: Entry, digest: bytes = b"") -> Pieces:
        steps, packed = self._pack(item, entry, batch.PACK_META)
        self.outcome = packed._replace(content=digest or item.entry.content)
        yield steps, entry.size

    def _pack(self, item: Large, entry: Entry, mode: int) -> tuple[bytes, Entry]:
        """The step that carries the file's metadata, and the entry as it was read for that."""
        directory = item.path[: -len(entry.name) - 1]
        group = bytearray(batch.group(directory, listing.encode(entry._replace(status=0))))
        steps = batch.pack(
            self.root.fd, self.root.dev, group, mode=mode, small_max=0, threads=1, cap=1 << 20
        )
        ((_, packed),) = batch.groups(group)
        return bytes(steps), next(iter(listing.entries(packed)))

    def _keep(self, entry: Entry, signature: bytes, block: int, read: bool = True) -> None:
        if not -(1 << 63) <= _mtime(entry) < 1 << 63:
            return  # behind the year 2262: the target is asked every time
        kept = Signature(entry.size, _mtime(entry), entry.ctime, block, signature)
        self.hot.keep(entry.ino, kept, read)


def _of_its_moment(outcome: Entry, entry: Entry) -> Entry:
    """The entry as it was shipped, where what came later is another version: it is marked as racy,
    and the watch tells of that."""
    if outcome.status == errno.EAGAIN and outcome.ino == entry.ino:
        return outcome._replace(status=0)
    return outcome


def _only_grew(fd: int, entry: Entry, kept: Signature, hot: Hot) -> bool:
    """Whether what was read for `kept` stands there as it did, and all that is new is behind it."""
    if hot.signature is not kept or hot.due():
        return False
    if not 0 < kept.size < entry.size or kept.block != _block(entry.size):
        return False
    # What no writer does: the file was cut off and grew again, a hole was made in it.
    at = (kept.size - 1) // kept.block * kept.block
    end = blocks.signature(os.pread(fd, kept.size - at, at), kept.block)
    if end != kept.blocks[-BLOCK_RECORD:] or os.lseek(fd, 0, os.SEEK_HOLE) < kept.size:
        return False
    return hot.grew()


def _basis(kept: Signature) -> Basis:
    return Basis(kept.blocks, kept.size, kept.block, kept.mtime)


def _read_through(fd: int, size: int, block: int, read: Read) -> Generator[Window, None, None]:
    found = windows(fd, 0, size, block, read)
    return ahead(found) if size > SHORTEST else found


def _block(size: int) -> int:
    """The signature's block for a file of that size; 0: none is made."""
    return blocks.block_size(size) if size <= SIGNED_MAX else 0


def _refreshed(entry: Entry, fd: int) -> Entry:
    """The entry with what stat says now."""
    st = os.fstat(fd)
    kind = Kind.FILE if (st.st_mode & 0o170000) == 0o100000 else entry.kind
    if (st.st_mode & 0o170000) != 0o100000:
        kind = Kind.FIFO
    return entry._replace(
        kind=kind,
        mode=st.st_mode & 0o7777,
        uid=st.st_uid,
        gid=st.st_gid,
        nlink=st.st_nlink,
        ino=st.st_ino,
        size=st.st_size,
        mtime_s=st.st_mtime_ns // 1_000_000_000,
        mtime_ns=st.st_mtime_ns % 1_000_000_000,
        ctime=st.st_ctime_ns,
        blocks=st.st_blocks,
    )


def _mtime(entry: Entry) -> int:
    return entry.mtime_s * 1_000_000_000 + entry.mtime_ns


def _same_moment(a: Entry, b: Entry) -> bool:
    return (a.ino, a.size, a.mtime_s, a.mtime_ns, a.ctime) == (
        b.ino,
        b.size,
        b.mtime_s,
        b.mtime_ns,
        b.ctime,
    )
