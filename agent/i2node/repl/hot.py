"""The large files that are written again and again, and what is kept of them between two looks.

A file comes in when it is shipped for the second time within COOL_S, a larger one when it was
written to not long ago, and goes when it is left alone for so long, has no name any more, or others
are hotter. While it is here it is held open: its inode number is no other file's, and no reading of
ours looks like somebody opening it (fs/growth.py). Where that can be, a clone is held of what was
shipped (fs/clone.py).
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from dataclasses import dataclass

from i2node.fs.clone import Cloner
from i2node.fs.growth import Growth, Guards
from i2node.model import Entry
from i2node.repl.journal import Journal
from i2node.repl.signatures import Signature

HOT_FROM = 16 << 20
"""Bytes from which on it pays: to look for who writes to a file takes as long as to read one of
this size (6 ms)."""
FRESH_FROM = 64 << 20
FRESH_S = 600.0
"""From so many bytes on a file is hot at once when it was written to so many seconds ago."""
MOST = 64
"""Files that are held."""
COOL_S = 600.0
QUIET_S = 10.0
"""How long without a look until a signature that is held in memory is put to disk."""
WHOLE_S = 600.0
"""From one reading of the whole to the next, at least; and as many times as long as that took."""
WHOLE_TIMES = 100


@dataclass(frozen=True, slots=True)
class Findings:
    """Where (from, to) the version that `entry` describes, or a later one, may differ from that of
    the signature `kept`. clone: a descriptor of that very version; None: there is none. took:
    seconds."""

    kept: Signature
    entry: Entry
    clone: int | None
    changed: list[tuple[int, int]]
    took: float

    def close(self) -> None:
        if self.clone is not None:
            os.close(self.clone)


class Hot:
    """One file, open as fd. growth: None where the kernel cannot follow it. signature: of what was
    read since `begin`, and shipped. restless: it was written to while it was read last. clone: of
    an earlier version; base: the signature of the one shipped last, if that differs from the clone
    only behind the clone's end. scouting: it is looked through, or was (scout.py). asked: the
    names (directory, name) under which it was asked for meanwhile, with clock readings of what it
    was about."""

    def __init__(self, ino: int, fd: int, growth: Growth | None) -> None:
        self.ino = ino
        self.fd = fd
        self.growth = growth
        self.signature: Signature | None = None
        self.restless = False
        self.clone: int | None = None
        self.base: Signature | None = None
        self.scouting: Future[Findings] | None = None
        self.asked: dict[tuple[int, bytes], float] = {}
        self.looked = time.monotonic()
        self.settled = True
        self._read = 0.0
        self._took = 0.0

    def begin(self) -> None:
        """It is about to be read as a whole."""
        self.signature = None
        self._read = time.monotonic()
        if self.growth is not None:
            self.growth.begin()

    def read(self, restless: bool) -> None:
        """It was."""
        self._took = time.monotonic() - self._read
        self.restless = restless

    def grew(self) -> bool:
        """Whether all that was written since `begin` was written behind the end."""
        return self.growth is not None and self.growth.only()

    def take(self, clone: int | None) -> None:
        """Holds a clone of what was shipped, or none, in place of the one before."""
        if self.clone is not None:
            os.close(self.clone)
        self.clone = clone
        self.base = self.signature if clone is not None else None

    def grew_from(self, before: Signature) -> None:
        """What was shipped differs from the version before only behind its end: what a clone was
        good for it is good for still."""
        self.base = self.signature if self.base == before else None

    def findings(self) -> Findings | None:
        """What the scout found, for whoever takes it; None: he could not look."""
        future, self.scouting = self.scouting, None
        assert future is not None
        return None if future.cancelled() or future.exception() else future.result()

    def due(self) -> bool:
        """Whether it is time to read all of it once more, whatever is proven."""
        return time.monotonic() - self._read > max(WHOLE_S, WHOLE_TIMES * self._took)


class HotFiles:
    """Used by the thread that reads."""

    def __init__(self, journal: Journal, root: int) -> None:
        """root: a directory of the file system that they are on, as a descriptor."""
        self._journal = journal
        self.cloner = Cloner(root)
        self._guards = Guards()
        self._files: dict[int, Hot] = {}  # the one looked at last is the last
        self._shipped: dict[int, float] = {}

    def get(self, ino: int) -> Hot | None:
        """The file, if it is hot and still has a name."""
        hot = self._files.get(ino)
        if hot is None:
            return None
        if os.fstat(hot.fd).st_nlink == 0:
            self.drop(ino)
            return None
        del self._files[ino]
        self._files[ino] = hot
        hot.looked = time.monotonic()
        return hot

    def enter(self, entry: Entry, fd: int, again: bool) -> Hot | None:
        """An open file is about to be read; it is hot if that was so not long ago, or is known to
        be so `again`. fd stays the caller's, and open."""
        ino = entry.ino
        hot = self._files.get(ino)
        if hot is not None:
            return hot
        now = time.monotonic()
        before = self._shipped.pop(ino, None)
        fresh = entry.size >= FRESH_FROM and time.time() - entry.mtime_s < FRESH_S
        if not (again or fresh) and (before is None or now - before > COOL_S):
            self._shipped[ino] = now
            if len(self._shipped) > 2 * MOST:
                del self._shipped[next(iter(self._shipped))]
            return None
        while len(self._files) >= MOST:
            self.drop(next(iter(self._files)))
        own = os.dup(fd)
        self._files[ino] = hot = Hot(ino, own, self._guards.follow(own))
        return hot

    def keep(self, ino: int, signature: Signature, read: bool = True) -> None:
        """A file was shipped, and this describes what the target holds. read: it is of what was
        read since `Hot.begin`."""
        hot = self._files.get(ino)
        if hot is None:
            self._journal.put_signature(ino, signature)
            return
        self._journal.hold_signature(ino, signature)
        hot.signature = signature if read else None
        hot.settled = False

    def drop(self, ino: int) -> None:
        """Lets go of a file."""
        hot = self._files.pop(ino, None)
        if hot is not None:
            self._journal.settle_signature(ino, release=True)
            if hot.growth is not None:
                hot.growth.end()
            hot.take(None)
            if hot.scouting is not None:
                hot.scouting.add_done_callback(_unread)
            os.close(hot.fd)

    def holds(self) -> bool:
        """Whether any file is held."""
        return bool(self._files)

    def scouted(self, ino: int) -> float | None:
        """Clock reading of the change that a file is looked through for; None: it is not. From any
        thread."""
        hot = self._files.get(ino)
        if hot is None or hot.scouting is None or hot.scouting.done():
            return None
        return min(list(hot.asked.values()), default=None)

    def rest(self, busy: Hot | None = None) -> None:
        """To be called now and then: lets go of what has cooled or is gone; of the one that is
        being shipped not now."""
        if not self._files:
            return
        self._guards.listen()
        now = time.monotonic()
        if any(hot.clone is not None for hot in self._files.values()) and self.cloner.is_full():
            for hot in self._files.values():
                hot.take(None)
        for ino, hot in list(self._files.items()):
            if hot is busy:
                continue
            gone = hot.growth is None or hot.growth.gone()
            if now - hot.looked > COOL_S or (gone and os.fstat(hot.fd).st_nlink == 0):
                self.drop(ino)
            elif not hot.settled and now - hot.looked > QUIET_S:
                self._journal.settle_signature(ino)
                hot.settled = True

    def close(self) -> None:
        """Lets go of all."""
        for ino in list(self._files):
            self.drop(ino)
        self._guards.close()


def _unread(future: Future[Findings]) -> None:
    """Nobody asks for it any more."""
    if not future.cancelled() and not future.exception():
        future.result().close()
