"""One large file, block by block: whole, resumed, or as a delta.

The source keeps the block signatures of what the target was sent. With them a delta needs nothing
from the target: the file is read once here, and blocks that did not change are neither sent nor
read there. Without them (adopted trees) the target is asked for the signatures of what it holds.

Content goes to a staged file on the target; the rename at the end is the only moment at which the
final name changes. A file that is written while it is read is read again, and only what differs
from what was staged is sent again; after TRIES it is shipped as it was last seen and looked at once
more.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from i2node.fs.tree import Root
from i2node.model import Entry, Kind, Verdict
from i2node.mover import batch, blocks, listing
from i2node.mover.batch import Op
from i2node.mover.blocks import LITERAL, ZERO
from i2node.repl.journal import Journal
from i2node.repl.plan import Large
from i2node.repl.signatures import BLOCK_RECORD, Signature

WINDOW = 1 << 20
"""Bytes read at a time, and about the content of one frame."""
TRIES = 3
ASK_FROM = 1 << 20
"""From this size on it pays to ask the target for signatures before sending an adopted file
whole."""

Pieces = Iterator[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a file; `data` False: a hole."""

    at: int
    end: int
    data: bool


@dataclass(frozen=True, slots=True)
class Basis:
    """What the target holds under the file's name: signatures in blocks of `block` bytes."""

    signature: bytes
    size: int
    block: int


class Moving(Exception):
    """The file changed while it was read."""


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

    def ship(self, item: Large) -> Pieces:
        """Steps for one file, each with the bytes of content it stands for. Afterwards `outcome` is
        the entry as shipped, with a status as i2_pack gives it."""
        self.outcome = item.entry
        try:
            fd = batch.open_file(self.root.fd, self.root.dev, item.path)
        except OSError as error:
            self.outcome = replace(item.entry, status=error.errno or errno.EIO)
            return
        try:
            yield from self._ship(item, fd)
        except OSError as error:
            self.outcome = replace(item.entry, status=error.errno or errno.EIO)
        finally:
            os.close(fd)

    def _ship(self, item: Large, fd: int) -> Pieces:
        entry = _refreshed(item.entry, fd)
        if entry.kind != Kind.FILE:
            self.outcome = replace(entry, status=errno.ENOENT)
            return
        basis = self._basis(item, entry)
        # What was seen of writes was seen up to the moment of the entry, not of now.
        if item.trusted and basis is not None and _same_moment(entry, item.entry):
            yield from self._meta(item, entry)
            self._keep(entry, basis.signature, basis.block)
            return
        block = blocks.block_size(entry.size)
        stage = _stage_id(item.path, entry)
        if basis is not None and basis.block == block:
            signature = bytearray()
            ops = self._match(fd, entry, basis, signature)
            if _unchanged(ops, basis, entry):
                yield from self._meta(item, entry, blocks.digest(bytes(signature)))
                self._keep(entry, bytes(signature), block)
                return
            yield from self._delta(item, fd, entry, basis, ops, stage)
        else:
            signature = bytearray()
            yield from self._whole(item, fd, entry, block, stage, signature)
        yield from self._settle(item, fd, entry, signature, stage)

    def _basis(self, item: Large, entry: Entry) -> Basis | None:
        """Signatures of what the target holds under this name, from here or from there."""
        if item.entry.verdict != Verdict.DATA:
            return None
        kept = self.journal.signature(entry.ino)
        held = self._held(item)
        if (
            kept is not None
            and held is not None
            and (kept.size, kept.mtime, kept.ctime) == (held.size, _mtime(held), held.ctime)
        ):
            return Basis(kept.blocks, held.size, kept.block)
        if entry.size < ASK_FROM:
            return None
        return self.ask(item.path)

    def _held(self, item: Large) -> Entry | None:
        found = self.journal.select(item.dir, [item.entry.name])
        return next(iter(listing.entries(found)), None)

    # ------------------------------------------------------------------ whole

    def _whole(
        self, item: Large, fd: int, entry: Entry, block: int, stage: int, signature: bytearray
    ) -> Pieces:
        """All data extents in order; what an earlier session staged of the same file is not
        sent."""
        there = self.parts.pop(stage, 0) // WINDOW * WINDOW
        flags = batch.STEP_KEEP if there else 0
        yield batch.step(Op.STAGE, item.path, kind=Kind.FILE, flags=flags, stage=stage), 0
        for extent in extents(fd, entry.size):
            at = extent.at
            while at < extent.end:
                span = min(extent.end - at, WINDOW - at % WINDOW if extent.data else extent.end)
                if not extent.data:
                    _pad(signature, at + span, block, entry.size)
                    if at + span > there:
                        yield _hole(stage, at, span), span
                    at += span
                    continue
                data = _read(fd, at, span)
                _sign(signature, fd, at, data, block, entry.size)
                if at + span > there:
                    yield _write(stage, at, data), span
                else:
                    yield b"", span
                at += span

    # ------------------------------------------------------------------ delta

    def _match(self, fd: int, entry: Entry, basis: Basis, signature: bytearray) -> list[blocks.Op]:
        """How the file is had from what the target holds; fills signature with its own."""
        matcher = blocks.Matcher(basis.signature, basis.size, basis.block)
        ops: list[blocks.Op] = []
        carried = b""
        for extent in extents(fd, entry.size):
            at = extent.at
            if not extent.data:
                if carried:
                    ops += matcher.match(carried, at - len(carried), True)[0]
                    carried = b""
                _pad(signature, extent.end, basis.block, entry.size)
                ops.append(blocks.Op(at, ZERO, extent.end - at))
                continue
            while at < extent.end:
                data = _read(fd, at, min(extent.end - at, WINDOW - at % WINDOW))
                _sign(signature, fd, at, data, basis.block, entry.size)
                at += len(data)
                window = carried + data
                found, used = matcher.match(window, at - len(window), at == entry.size)
                ops += found
                carried = window[used:]
        if carried:
            ops += matcher.match(carried, entry.size - len(carried), True)[0]
        return ops

    def _delta(
        self,
        item: Large,
        fd: int,
        entry: Entry,
        basis: Basis,
        ops: list[blocks.Op],
        stage: int,
    ) -> Pieces:
        """In place on a clone where nothing moved, else built anew from the old file and
        literals."""
        moved = any(op.source not in (LITERAL, ZERO, op.at) for op in ops)
        flags = 0 if moved else batch.STEP_CLONE
        yield batch.step(Op.STAGE, item.path, kind=Kind.FILE, flags=flags, stage=stage), 0
        for op in ops:
            if op.source == ZERO:
                yield _hole(stage, op.at, op.span), op.span
            elif op.source == LITERAL:
                for at in range(op.at, op.at + op.span, WINDOW):
                    data = _read(fd, at, min(WINDOW, op.at + op.span - at))
                    yield _write(stage, at, data), len(data)
            elif moved:
                yield _copy(item.path, stage, op), op.span
            else:
                yield b"", op.span

    # ------------------------------------------------------------------ the end

    def _settle(
        self, item: Large, fd: int, entry: Entry, signature: bytearray, stage: int
    ) -> Pieces:
        """Sends what changed meanwhile until the file holds still, then gives it its name."""
        block = blocks.block_size(entry.size)
        status = 0
        for attempt in range(TRIES + 1):
            now = _refreshed(entry, fd)
            if _same_moment(now, entry):
                break
            if attempt == TRIES:
                status = errno.EAGAIN
                break
            renewed = bytearray()
            if blocks.block_size(now.size) != block:
                block = blocks.block_size(now.size)
                yield from self._whole(item, fd, now, block, stage, renewed)
            else:
                yield from self._again(item, fd, now, bytes(signature), block, stage, renewed)
            entry, signature = now, renewed
        digest = blocks.digest(bytes(signature))
        final = replace(entry, rdev=stage, content=digest, verdict=Verdict.DATA)
        steps, packed = self._pack(item, final, batch.PACK_STAGED)
        if packed.status == 0 and not _same_moment(packed, entry):
            packed = replace(packed, status=errno.EAGAIN)
        self.outcome = replace(packed, rdev=0, content=digest, status=packed.status or status)
        yield steps, 0
        if self.outcome.status == 0:
            self._keep(self.outcome, bytes(signature), block)

    def _again(
        self,
        item: Large,
        fd: int,
        entry: Entry,
        old: bytes,
        block: int,
        stage: int,
        signature: bytearray,
    ) -> Pieces:
        """Sends the blocks of the staged file that differ by now."""
        for extent in extents(fd, entry.size):
            at = extent.at
            while at < extent.end:
                if not extent.data:
                    _pad(signature, extent.end, block, entry.size)
                    yield _hole(stage, at, extent.end - at), 0
                    break
                span = min(extent.end - at, WINDOW - at % WINDOW)
                data = _read(fd, at, span)
                start = len(signature)
                _sign(signature, fd, at, data, block, entry.size)
                if signature[start:] != old[start : len(signature)] or at % block:
                    yield _write(stage, at, data), 0
                at += span

    def _meta(self, item: Large, entry: Entry, digest: bytes = b"") -> Pieces:
        steps, packed = self._pack(item, entry, batch.PACK_META)
        self.outcome = replace(packed, content=digest or item.entry.content)
        yield steps, entry.size

    def _pack(self, item: Large, entry: Entry, mode: int) -> tuple[bytes, Entry]:
        """The step that carries the file's metadata, and the entry as it was read for that."""
        directory = item.path[: -len(entry.name) - 1]
        group = bytearray(batch.group(directory, listing.encode(replace(entry, status=0))))
        steps = batch.pack(
            self.root.fd, self.root.dev, group, mode=mode, small_max=0, threads=1, cap=1 << 20
        )
        ((_, packed),) = batch.groups(group)
        return bytes(steps), next(iter(listing.entries(packed)))

    def _keep(self, entry: Entry, signature: bytes, block: int) -> None:
        kept = Signature(entry.size, _mtime(entry), entry.ctime, block, signature)
        self.journal.put_signature(entry.ino, kept)


def extents(fd: int, size: int) -> list[Extent]:
    """Data and holes of a file from its start to size, in order and without gap (lseek(2))."""
    found: list[Extent] = []
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = size
        data = min(data, size)
        if data > at:
            found.append(Extent(at, data, False))
        if data >= size:
            break
        at = min(os.lseek(fd, data, os.SEEK_HOLE), size)
        if at <= data:
            break
        found.append(Extent(data, at, True))
    return found


def _read(fd: int, at: int, span: int) -> bytes:
    """span bytes; zeros where the file has meanwhile become shorter (the end is checked
    afterwards)."""
    data = os.pread(fd, span, at)
    while len(data) < span:
        more = os.pread(fd, span - len(data), at + len(data))
        if not more:
            return data + bytes(span - len(data))
        data += more
    return data


def _sign(signature: bytearray, fd: int, at: int, data: bytes, block: int, size: int) -> None:
    """Appends the signatures of the blocks that data completes or begins.

    Extents begin and end at multiples of the file system's block, which may be smaller than ours: a
    block that lies across a border is read whole.
    """
    done = len(signature) // BLOCK_RECORD * block
    end = at + len(data)
    until = end if end >= size else -(-end // block) * block
    if done >= until:
        return
    if done != at or until != end:
        data = _read(fd, done, min(until, size) - done)
    signature += blocks.signature(data, block)


def _pad(signature: bytearray, until: int, block: int, size: int) -> None:
    """Signatures of the blocks of a hole; one that data follows in belongs to that."""
    want = -(-until // block) if until >= size else until // block
    have = len(signature) // BLOCK_RECORD
    if want > have:
        signature += bytes((want - have) * BLOCK_RECORD)


def _unchanged(ops: list[blocks.Op], basis: Basis, entry: Entry) -> bool:
    if basis.size != entry.size:
        return False
    for op in ops:
        if op.source == LITERAL or (op.source not in (op.at, ZERO)):
            return False
        if op.source == ZERO:
            first = op.at // basis.block * BLOCK_RECORD
            last = -(-(op.at + op.span) // basis.block) * BLOCK_RECORD
            if any(basis.signature[first:last]):
                return False
    return True


def _refreshed(entry: Entry, fd: int) -> Entry:
    """The entry with what stat says now."""
    st = os.fstat(fd)
    kind = Kind.FILE if (st.st_mode & 0o170000) == 0o100000 else entry.kind
    if (st.st_mode & 0o170000) != 0o100000:
        kind = Kind.FIFO
    return replace(
        entry,
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


def _stage_id(path: bytes, entry: Entry) -> int:
    """The same for the same state of the same file, so that a later session finds what it
    staged."""
    state = struct.pack("<QQqIq", entry.ino, entry.size, entry.mtime_s, entry.mtime_ns, entry.ctime)
    return int.from_bytes(blocks.hash(state + path, 8), "little") or 1


def _write(stage: int, at: int, data: bytes) -> bytes:
    return batch.step(Op.WRITE, b"", kind=Kind.FILE, stage=stage, size=at, data=data)


def _hole(stage: int, at: int, span: int) -> bytes:
    return batch.step(Op.HOLE, b"", kind=Kind.FILE, stage=stage, size=at, span=span)


def _copy(path: bytes, stage: int, op: blocks.Op) -> bytes:
    return batch.step(
        Op.COPY, path, kind=Kind.FILE, stage=stage, size=op.at, rdev=op.source, span=op.span
    )
