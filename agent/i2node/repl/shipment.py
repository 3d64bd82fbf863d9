"""One large file on its way: what is read of it, as the steps that make it at the target."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from i2node.fs.past import SHORTEST, PastCache, Rooms
from i2node.fs.root import Root
from i2node.model import RACY, UNOWNED, Entry, Kind, Verdict
from i2node.mover import batch, blocks, listing
from i2node.mover.blocks import LITERAL, ZERO
from i2node.repl import staging
from i2node.repl.delta import HOLE, Basis, Differ, moved
from i2node.repl.hot import Hot
from i2node.repl.patch import Patch
from i2node.repl.plan import Large
from i2node.repl.signatures import Signature
from i2node.repl.staging import Pieces
from i2node.repl.windows import (
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
AT_HAND = 32 << 20
"""Bytes of a delta that are kept until they are sent; what is beyond is read once more."""
SIGNED_MAX = 1 << 46
"""Larger files (64 TiB) are always sent whole: one block of their signature would be more than
should be held in memory."""


class Part(NamedTuple):
    """How a part of the new file is had; content: of what only the source has, if it was kept."""

    op: blocks.Op
    content: bytes | None


class Shipment:
    """One of `whole`, `delta`, `patch` and `meta` is gone through; afterwards:

    outcome: the entry as shipped, with a status as i2_pack gives it. staged: what was begun at the
    target, and did not get its name. signature: of what the target holds then; spoilt: that is not
    known. fixed: what is read is of one moment and never changes, a clone; else it is read again
    while it does, unless `hot` says that this is for nothing. late: what is read was seen before
    the file was taken up, so that nobody tells of what came since, unless it ends as EAGAIN. holed:
    its holes are others than those that the target was sent.
    """

    def __init__(
        self, root: Root, rooms: Rooms, parts: dict[int, int], item: Large, file: int
    ) -> None:
        """parts: see LargeReader. file: a descriptor of it, for its attributes."""
        self.item = item
        self.outcome = item.entry
        self.staged: int | None = None
        self.signature: Signature | None = None
        self.spoilt = False
        self.fixed = False
        self.late = False
        self.holed = False
        self.hot: Hot | None = None
        self._root = root
        self._rooms = rooms
        self._parts = parts
        self._file = file

    def whole(self, fd: int, entry: Entry, signing: Signing) -> Pieces:
        """All data in order; what an earlier session staged of the same file is not sent."""
        stage = staging.stage_id(self.item.path, entry, b"whole")
        there = self._parts.pop(stage, 0) // WINDOW * WINDOW
        self.staged = stage
        yield staging.begin(stage, self.item.path, batch.STEP_KEEP if there else 0), 0
        block = signing.block or WINDOW
        with (
            PastCache(fd, entry.size, self._rooms) as file,
            closing(read_through(fd, entry.size, block, file.read)) as found,
        ):
            for window in found:
                signing.add(window)
                if window.end > there:
                    yield from staging.content(stage, window)
                else:
                    yield b"", window.end - window.at
        yield from self._settle(fd, entry, signing, Staged(signing, entry.size), stage)

    # ------------------------------------------------------------------ delta

    def delta(self, fd: int, entry: Entry, basis: Basis, signing: Signing) -> Pieces:
        """On a clone, or in place, where nothing moved, which shows at the end; else built anew
        from the old file and literals, from the first op on that says so."""
        stage = staging.stage_id(self.item.path, entry, b"delta")
        staged = Staged(signing, entry.size)
        # A file that outgrew the blocks of the old signature gets larger ones for its own.
        like = signing if basis.block == signing.block else Signing(basis.block)
        differ = Differ(basis, entry.size, like)
        waiting: list[Part] = []
        anew, held = False, 0
        with (
            PastCache(fd, entry.size, self._rooms) as file,
            closing(
                read_through(fd, entry.size, max(basis.block, signing.block), file.read)
            ) as found,
        ):
            for op in differ.ops(found if like is signing else _signed(found, signing)):
                content = differ.content(op) if anew or held < AT_HAND else None
                held += len(content or b"")
                waiting.append(Part(op, content))
                if not anew and moved(op):
                    anew = True
                    self.staged = stage
                    yield staging.begin(stage, self.item.path), 0
                if anew:
                    for part in waiting:
                        yield from self._anew(self.item.path, fd, stage, part, basis, staged)
                    waiting.clear()
        same = not anew and basis.unchanged((part.op for part in waiting), entry.size)
        if same and self.holed:
            # A hole and zeros have one signature.
            yield from self.whole(fd, entry, Signing(signing.block))
            return
        if same:
            yield from self.meta(entry, signing.digest())
            self._keep(entry, bytes(signing.records), signing.block)
            return
        if not anew:
            self.staged = stage
            yield staging.begin_clone(stage, self.item.path, basis.size, basis.mtime), 0
            if basis.size > entry.size:
                # What is cut off must not come back when the file grows before it is done.
                hole = bool(waiting) and waiting[-1].op.source == HOLE
                cut = waiting[-1].op.at if hole else entry.size
                yield staging.hole(stage, cut, basis.size - cut), 0
            for part in waiting:
                yield from self._in_place(fd, stage, part, basis, staged)
        yield from self._settle(fd, entry, signing, staged, stage)

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

    def patch(
        self,
        fd: int,
        entry: Entry,
        kept: Signature,
        changed: Iterable[tuple[int, int]],
    ) -> Pieces:
        """Reads only what lies in `changed` (from, to) and behind the end: the rest is known to be
        as it was. What comes later is another version, and not waited for."""
        patch = Patch(kept, entry.size)
        stage = staging.stage_id(self.item.path, entry, b"delta")
        begin = staging.begin_clone(stage, self.item.path, kept.size, kept.mtime)
        left = entry.size
        for at, end in patch.ranges(changed):
            for window in windows(fd, at, end, kept.block):
                for start, stop in patch.add(window):
                    if self.staged is None:
                        self.staged = stage
                        yield begin, 0
                    for steps, span in staging.content(stage, window, start, stop):
                        left -= span
                        yield steps, span
        records = patch.signature()
        digest = blocks.digest(records)
        if self.staged is None and entry.size == kept.size and self.holed:
            yield from self.whole(fd, entry, Signing(kept.block))
            return
        if self.staged is None and entry.size == kept.size:
            yield from self.meta(entry, digest)
            self._keep(entry, records, kept.block)
            return
        if self.staged is None:
            self.staged = stage
            yield begin, 0
        yield b"", left
        outcome = yield from self._named(entry, digest, stage)
        self.outcome = outcome = self._of_its_moment(outcome, entry)
        if outcome.status in (0, errno.EAGAIN) and outcome.ino == entry.ino:
            self._keep(outcome, records, kept.block)
        else:
            self.spoilt = True

    # ------------------------------------------------------------------ the end

    def _settle(
        self, fd: int, entry: Entry, signing: Signing, staged: Staged, stage: int
    ) -> Pieces:
        """Sends what changed meanwhile until the file holds still, then gives it its name."""
        status, grew = 0, self.fixed
        hot = self.hot
        tries = 0 if hot is not None and hot.restless else TRIES
        for attempt in range(0 if self.fixed else tries + 1):
            now = refreshed(entry, fd)
            if same_moment(now, entry):
                break
            if now.size > entry.size and hot is not None and hot.grew():
                # It is the version of its entry, whatever came behind that.
                grew = True
                break
            if attempt == tries:
                status = errno.EAGAIN
                break
            again = Signing(block_of(now.size))
            yield from self._again(fd, entry.size, now, staged, again, stage)
            staged = Staged(again, now.size)
            entry, signing = now, again
        digest = signing.digest()
        outcome = yield from self._named(entry, digest, stage)
        if grew:
            outcome = self._of_its_moment(outcome, entry)
        elif outcome.status == 0 and not same_moment(outcome, entry):
            status = errno.EAGAIN
        self.outcome = outcome = outcome._replace(status=outcome.status or status)
        records = bytes(signing.records) if outcome.status == 0 else staged.signature()
        if outcome.status in (0, errno.EAGAIN) and signing.block and outcome.ino == entry.ino:
            # Of a file that did not hold still it is not one version; but it is what was sent.
            self._keep(outcome, records, signing.block)
        else:
            # What is kept is of an earlier version, which may even carry the same times.
            self.spoilt = True

    def _named(
        self, entry: Entry, digest: bytes, stage: int
    ) -> Generator[tuple[bytes, int], None, Entry]:
        """The last step, which gives the staged file its name; returns the entry as of then."""
        final = entry._replace(rdev=stage, content=digest, verdict=Verdict.DATA)
        steps, packed = self._pack(final, batch.PACK_STAGED)
        if packed.status == errno.ESTALE:
            # Another file has its name by now; the target gets that next, or renames this one.
            packed = refreshed(final, self._file)._replace(
                size=final.size,
                mtime_s=final.mtime_s,
                mtime_ns=final.mtime_ns,
                ctime=final.ctime,
                flags=final.flags | RACY,
                status=errno.EAGAIN,
                attrs=0,
            )
            steps = staging.named(self.item.path, packed, staging.attributes(self._file, packed))
        if steps:
            self.staged = None
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

    def meta(self, entry: Entry, digest: bytes = b"") -> Pieces:
        steps, packed = self._pack(entry, batch.PACK_META)
        if self.fixed or self.late:
            packed = self._of_its_moment(packed, entry)
        self.outcome = packed._replace(content=digest or self.item.entry.content)
        yield steps, entry.size

    def _pack(self, entry: Entry, mode: int) -> tuple[bytes, Entry]:
        """The step that carries the file's metadata, and the entry as it was read for that."""
        directory = self.item.path[: -len(entry.name) - 1]
        group = bytearray(batch.group(directory, listing.encode(entry._replace(status=0))))
        steps = batch.pack(
            self._root.fd, self._root.dev, group, mode=mode, small_max=0, threads=1, cap=1 << 20
        )
        ((_, packed),) = batch.groups(group)
        outcome = next(iter(listing.entries(packed)))
        # Whether it is racy was to be seen when the reading began, not now.
        return bytes(steps), outcome._replace(flags=outcome.flags | entry.flags & RACY)

    def _of_its_moment(self, outcome: Entry, entry: Entry) -> Entry:
        """The entry as it was shipped, where what came later is another version: it is marked as
        racy, and the watch tells of that, or it is looked at again."""
        status = outcome.status
        if status in (0, errno.EAGAIN) and outcome.ino == entry.ino:
            status = errno.EAGAIN if self.late and outcome.flags & RACY else 0
        return outcome._replace(status=status)

    def _keep(self, entry: Entry, records: bytes, block: int) -> None:
        self.signature = signature(entry, records, block)


def signature(entry: Entry, records: bytes, block: int) -> Signature | None:
    """That of a version; none behind the year 2262, for which the target is asked every time."""
    if not -(1 << 63) <= mtime(entry) < 1 << 63:
        return None
    return Signature(entry.size, mtime(entry), entry.ctime, block, records)


def _signed(found: Iterable[Window], signing: Signing) -> Iterator[Window]:
    """The same windows, signed on the way."""
    for window in found:
        signing.add(window)
        yield window


def read_through(fd: int, size: int, block: int, read: Read) -> Generator[Window, None, None]:
    found = windows(fd, 0, size, block, read)
    return ahead(found) if size > SHORTEST else found


def block_of(size: int) -> int:
    """The signature's block for a file of that size; 0: none is made."""
    return blocks.block_size(size) if size <= SIGNED_MAX else 0


def refreshed(entry: Entry, fd: int) -> Entry:
    """The entry with what stat says now; racy where a write to what is read from here on may carry
    the same time."""
    now = time.time_ns()
    st = os.fstat(fd)
    racy = 0 if now - st.st_ctime_ns > staging.RACY_NS else RACY
    kind = Kind.FILE if (st.st_mode & 0o170000) == 0o100000 else entry.kind
    if (st.st_mode & 0o170000) != 0o100000:
        kind = Kind.FIFO
    owned = entry.uid != UNOWNED
    return entry._replace(
        kind=kind,
        mode=st.st_mode & (0o7777 if owned else 0o1777),
        uid=st.st_uid if owned else UNOWNED,
        gid=st.st_gid if owned else UNOWNED,
        nlink=st.st_nlink,
        ino=st.st_ino,
        size=st.st_size,
        mtime_s=st.st_mtime_ns // 1_000_000_000,
        mtime_ns=st.st_mtime_ns % 1_000_000_000,
        flags=entry.flags & ~RACY | racy,
        ctime=st.st_ctime_ns,
        blocks=st.st_blocks,
    )


def mtime(entry: Entry) -> int:
    return entry.mtime_s * 1_000_000_000 + entry.mtime_ns


def same_moment(a: Entry, b: Entry) -> bool:
    return (a.ino, a.size, a.mtime_s, a.mtime_ns, a.ctime) == (
        b.ino,
        b.size,
        b.mtime_s,
        b.mtime_ns,
        b.ctime,
    )
