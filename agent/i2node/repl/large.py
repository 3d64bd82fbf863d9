"""Large files, block by block: whole, resumed, or as a delta.

The source keeps the block signatures of what the target was sent. With them a delta needs nothing
from the target: the file is read once here, and blocks that did not change are neither sent nor
read there. Without them (adopted trees) the target is asked for the signatures of what it holds.
Either way a delta names the mtime (and size) of the old file it was made against, and the target
refuses it for any other.

Of a file that is written again and again not all is read each time: what is behind the old end,
where nothing but appending can have happened (fs/growth.py); else what a clone of it does not share
with the clone of the version before (fs/clone.py).

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
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future

from i2node.errors import ProtocolError
from i2node.fs import clone as clones
from i2node.fs.past import Rooms
from i2node.fs.root import Root
from i2node.model import PROBED, Entry, Kind, Verdict
from i2node.mover import batch, blocks, listing
from i2node.repl import staging
from i2node.repl.delta import Basis
from i2node.repl.hot import HOT_FROM, Findings, Hot, HotFiles
from i2node.repl.journal import Journal
from i2node.repl.plan import Large
from i2node.repl.scout import Scout, pause, snapshot
from i2node.repl.shipment import (
    SIGNED_MAX,
    Shipment,
    block_of,
    mtime,
    refreshed,
    same_moment,
    signature,
)
from i2node.repl.signatures import BLOCK_RECORD, Signature
from i2node.repl.staging import Pieces
from i2node.repl.windows import HELD, WINDOW, Signing

ASK_FROM = 1 << 20
"""From this size on it pays to ask the target for signatures before sending an adopted file
whole."""
CALM_FROM = 64 << 20
"""To read a file of so many bytes once more costs more than to wait for a moment before."""


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
        self.beside = 0.0
        """Seconds that the file of `outcome` was looked through by the scout."""
        self.again: Callable[[int, bytes, float], None] | None = None
        """Told of (directory, name, since) when the scout is done; without it he is not sent."""
        self.since: Callable[[int, bytes], float | None] = lambda *_: None
        """(directory, name) → clock reading of the change that it is shipped for; None: now."""
        self.hot = HotFiles(journal, root.fd)
        self._scout = Scout(self.hot.cloner)
        self._rooms = Rooms(HELD)
        self._shipment: Shipment | None = None

    def ship(self, item: Large) -> Pieces:
        """Steps for one file, each with the bytes of content it stands for. Afterwards `outcome` is
        the entry as shipped, with a status as i2_pack gives it; EINPROGRESS: it was not, and
        `again` will be told when it is to be tried again."""
        self.outcome, self.beside = item.entry, 0.0
        hot = self.hot.get(item.entry.ino)
        try:
            fd = hot.fd if hot else batch.open_file(self.root.fd, self.root.dev, item.path)
        except OSError as error:
            self.outcome = item.entry._replace(status=error.errno or errno.EIO)
            return
        self._shipment = shipment = Shipment(self.root, self._rooms, self.parts, item, fd)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield from self._ship(shipment, fd, hot)
            self.outcome = shipment.outcome
        except OSError as error:
            self.outcome = item.entry._replace(status=error.errno or errno.EIO)
        finally:
            self._shipment = None
            if hot is None:
                os.close(fd)
            # Those of a huge file are huge.
            self._rooms.trim(WINDOW)
        if shipment.staged is not None:
            yield staging.drop(shipment.staged), 0

    def leftovers(self) -> list[bytes]:
        """Steps that take away what earlier sessions staged and nobody came back for: to be sent
        when every file has been looked at."""
        steps = [staging.drop(stage) for stage in self.parts]
        self.parts.clear()
        return steps

    def holds(self) -> bool:
        """Whether there is something to `rest` for."""
        return self.hot.holds()

    def rest(self) -> None:
        """To be called a few times a second, while a file is shipped too: lets go of what is held
        for nothing."""
        self.hot.rest(self._shipment.hot if self._shipment else None)

    def close(self) -> None:
        """Ends the use, when the reading thread has ended."""
        self._scout.close()
        self.hot.close()

    def scouted(self) -> list[float]:
        """Since when (clock readings) files are looked through that are not shipped yet. From any
        thread."""
        return self._scout.since()

    def reads(self, ino: int) -> bool:
        """Whether this file is being shipped now. From any thread."""
        shipment = self._shipment
        return shipment is not None and shipment.item.entry.ino == ino

    def _ship(self, shipment: Shipment, fd: int, hot: Hot | None) -> Pieces:
        item = shipment.item
        entry = refreshed(item.entry, fd)
        if entry.kind != Kind.FILE:
            shipment.outcome = entry._replace(status=errno.ENOENT)
            return
        if entry.size > blocks.LARGEST:
            shipment.outcome = entry._replace(status=errno.EOVERFLOW)
            return
        kept, held = self._kept(item), self._held(item)
        shipment.holed = held is not None and _other_holes(held, entry)
        # What was seen of writes was seen up to the moment of the entry, not of now.
        if item.trusted and kept is not None and same_moment(entry, item.entry):
            yield from shipment.meta(entry)
            same = signature(entry, kept.blocks, kept.block)
            if same is not None and shipment.outcome.status in (0, errno.EAGAIN):
                self.hot.keep(entry.ino, same, hot is not None and hot.signature == kept)
            if hot is not None:
                hot.grew_from(kept)
            return
        shipment.hot = hot
        if kept is not None and hot is not None and _only_grew(fd, entry, kept, hot):
            yield from shipment.patch(fd, entry, kept, ())
            self._keep(shipment)
            hot.grew_from(kept)
            return
        if entry.size >= HOT_FROM:
            shipment.hot = hot = self.hot.enter(entry, fd, kept is not None and item.live)
        if hot is not None and kept is not None and self._is_for_scout(item, entry, kept):
            done = yield from self._scouted(shipment, entry, kept, hot)
            if done:
                return
        if entry.size >= CALM_FROM:
            pause(fd)
            entry = refreshed(entry, fd)
        if hot is None:
            yield from self._compared(shipment, fd, entry, kept)
            self._keep(shipment)
            return
        hot.begin()
        self.hot.cloner.prepare(fd)
        clone, entry = snapshot(self.hot.cloner, fd, entry)
        if clone is None:
            hot.take(None)
            yield from self._compared(shipment, fd, entry, kept)
            self._keep(shipment)
        else:
            changed = None
            if hot.clone is not None and hot.base == kept:
                changed = clones.changed(hot.clone, clone, entry.size)
            yield from self._cloned(shipment, clone, entry, kept, changed)
        hot.read(shipment.outcome.status == errno.EAGAIN)

    def _is_for_scout(self, item: Large, entry: Entry, kept: Signature) -> bool:
        return item.live and self.again is not None and kept.block == block_of(entry.size)

    def _compared(
        self, shipment: Shipment, fd: int, entry: Entry, kept: Signature | None
    ) -> Pieces:
        """All of the file is read."""
        signing = Signing(block_of(entry.size))
        basis = _basis(kept) if kept is not None else self._asked(shipment.item, entry)
        if basis is not None and signing.block:
            yield from shipment.delta(fd, entry, basis, signing)
        else:
            yield from shipment.whole(fd, entry, signing)

    def _keep(self, shipment: Shipment) -> None:
        """Writes down what the target holds, or that it is not known."""
        ino = shipment.outcome.ino
        if shipment.signature is not None and shipment.outcome.status in (0, errno.EAGAIN):
            self.hot.keep(ino, shipment.signature)
        elif shipment.spoilt:
            # What is kept is of an earlier version, which may even carry the same times.
            self.journal.drop_signature(shipment.item.entry.ino)

    # ------------------------------------------------------------------ hot files

    def _cloned(
        self,
        shipment: Shipment,
        clone: int,
        entry: Entry,
        kept: Signature | None,
        changed: list[tuple[int, int]] | None,
    ) -> Pieces:
        """Reads a clone, and of that only what is `changed`, if that is known and little; it is
        held then in place of the one before, or closed."""
        hot = shipment.hot
        assert hot is not None
        shipment.fixed = True
        try:
            alike = kept is not None and kept.block == block_of(entry.size)
            if kept is None or changed is None or not alike or _is_much(changed, entry.size):
                yield from self._compared(shipment, clone, entry, kept)
            else:
                os.posix_fadvise(clone, 0, 0, os.POSIX_FADV_RANDOM)
                yield from shipment.patch(clone, entry, kept, changed)
            self._keep(shipment)
            if hot.signature is not None:
                hot.take(clone)
        finally:
            if hot.clone != clone:
                hot.take(None)
                os.close(clone)

    def _scouted(
        self, shipment: Shipment, entry: Entry, kept: Signature, hot: Hot
    ) -> Generator[tuple[bytes, int], None, bool]:
        """Sends the scout, or ships what he found. False: nothing that is of use, the file is to be
        read here and now."""
        item = shipment.item
        if hot.scouting is None:
            hot.begin()
            # Not the one before: who is told by that may still be at it.
            hot.asked = {(item.dir, item.entry.name): self._since(item)}
            hot.scouting = self._send(entry, kept, hot)
        # It may be renamed meanwhile. Before it is seen whether he is done: then all were told.
        hot.asked.setdefault((item.dir, item.entry.name), self._since(item))
        if not hot.scouting.done():
            shipment.outcome = entry._replace(status=errno.EINPROGRESS)
            yield b"", entry.size
            return True
        found = hot.findings()
        if found is None:
            return False
        if found.kept != kept:
            found.close()
            return False
        self.beside = found.took
        seen = found.entry._replace(name=item.entry.name)
        if found.clone is None and _is_much(found.changed, seen.size):
            return False
        shipment.late = True
        if found.clone is not None:
            yield from self._cloned(shipment, found.clone, seen, kept, found.changed)
        else:
            hot.take(None)
            yield from shipment.patch(hot.fd, seen, kept, found.changed)
            self._keep(shipment)
        hot.read(False)
        return True

    def _since(self, item: Large) -> float:
        since = self.since(item.dir, item.entry.name)
        return time.monotonic() if since is None else since

    def _send(self, entry: Entry, kept: Signature, hot: Hot) -> Future[Findings]:
        asked = hot.asked

        def done() -> None:
            for (directory, name), since in list(asked.items()):
                if self.again is not None:
                    self.again(directory, name, since)

        base = hot.clone if hot.base == kept else None
        return self._scout.send(hot.fd, base, entry, kept, min(asked.values()), done)

    def _kept(self, item: Large) -> Signature | None:
        """What the target was sent under this name, by our own books."""
        if item.entry.verdict != Verdict.DATA:
            return None
        held = self._held(item)
        kept = self.journal.signature(held.ino) if held is not None else None
        if kept is None or held is None:
            return None
        same = (kept.size, kept.mtime, kept.ctime) == (held.size, mtime(held), held.ctime)
        return kept if same else None

    def _asked(self, item: Large, entry: Entry) -> Basis | None:
        """What the target says it holds."""
        if item.entry.verdict != Verdict.DATA or not ASK_FROM <= entry.size <= SIGNED_MAX:
            return None
        basis = self.ask(item.path)
        if basis is None or basis.block != block_of(basis.size) or not basis.block:
            return None
        if len(basis.signature) != -(-basis.size // basis.block) * BLOCK_RECORD:
            raise ProtocolError("the target's signature of a file does not fit its size")
        return basis

    def _held(self, item: Large) -> Entry | None:
        found = self.journal.select(item.dir, [item.entry.name])
        return next(iter(listing.entries(found)), None)


def _other_holes(held: Entry, now: Entry) -> bool:
    """Whether a file of which that is written down may have other holes now, and the same size."""
    sparse = any(e.blocks * 512 < e.size for e in (held, now))
    return not held.flags & PROBED and sparse and held.blocks != now.blocks


def _is_much(changed: list[tuple[int, int]], size: int) -> bool:
    """Whether so much changed that it pays to look whether some of it only moved."""
    return 2 * sum(end - at for at, end in changed) > size


def _only_grew(fd: int, entry: Entry, kept: Signature, hot: Hot) -> bool:
    """Whether what was read for `kept` stands there as it did, and all that is new is behind it."""
    if hot.signature != kept or hot.due():
        return False
    if not 0 < kept.size < entry.size or kept.block != block_of(entry.size):
        return False
    # What no writer does: the file was cut off and grew again, a hole was made in it.
    at = (kept.size - 1) // kept.block * kept.block
    end = blocks.signature(os.pread(fd, kept.size - at, at), kept.block)
    if end != kept.blocks[-BLOCK_RECORD:] or os.lseek(fd, 0, os.SEEK_HOLE) < kept.size:
        return False
    return hot.grew()


def _basis(kept: Signature) -> Basis:
    return Basis(kept.blocks, kept.size, kept.block, kept.mtime)
