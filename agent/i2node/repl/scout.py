"""Looking through large files beside the thread that reads.

What takes seconds, to read all of a file or to clone one while the disk is busy, holds up nobody:
the reading thread sends a file here and goes on with what is small; when the answer is there, the
file is looked at again, and no more of it is read than was found to differ. By then it may have
been written to, which the watch told before; then it is looked at once more.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from i2node.fs import clone as clones
from i2node.fs.clone import Cloner
from i2node.fs.past import PastCache, Rooms
from i2node.model import Entry
from i2node.repl import staging
from i2node.repl.hot import Findings
from i2node.repl.patch import Patch
from i2node.repl.shipment import read_through, refreshed
from i2node.repl.signatures import Signature
from i2node.repl.windows import HELD, WINDOW

PAUSES = 3
"""How often a file is waited for that was written to this very moment."""


class Scout:
    """One thread, for one file after the other; sent by one thread."""

    def __init__(self, cloner: Cloner) -> None:
        self._cloner = cloner
        self._pool = ThreadPoolExecutor(1, "scout")
        self._rooms = Rooms(HELD)
        self._numbers = itertools.count()
        self._since: dict[int, float] = {}
        self._over = False

    def send(
        self,
        fd: int,
        base: int | None,
        entry: Entry,
        kept: Signature,
        since: float,
        done: Callable[[], None],
    ) -> Future[Findings]:
        """Sends an open file, and a clone of its version with the signature `kept`, if there is
        one; both stay the caller's. since: clock reading of the change it is about. done() is
        called when the answer is there, or that there is none."""
        own = os.dup(fd)
        own_base = None if base is None else os.dup(base)
        number = next(self._numbers)

        def ended(_: Future[Findings]) -> None:
            os.close(own)
            if own_base is not None:
                os.close(own_base)
            done()
            # Not before: whoever looks for what is to be done must see the one or the other.
            del self._since[number]

        self._since[number] = since
        future = self._pool.submit(self._look, own, own_base, entry, kept)
        future.add_done_callback(ended)
        return future

    def since(self) -> list[float]:
        """Clock readings of the changes that the files under way were sent for. From any thread."""
        return list(self._since.values())

    def close(self) -> None:
        """Ends what is under way, without an answer."""
        self._over = True
        self._pool.shutdown(cancel_futures=True)

    def _look(self, fd: int, base: int | None, entry: Entry, kept: Signature) -> Findings:
        self._cloner.prepare(fd)
        began = time.monotonic()
        pause(fd)
        clone, seen = snapshot(self._cloner, fd, entry)
        try:
            changed = None
            if clone is not None and base is not None:
                changed = clones.changed(base, clone, seen.size)
            if changed is None:
                changed = self._differing(fd if clone is None else clone, seen.size, kept)
        except BaseException:
            if clone is not None:
                os.close(clone)
            raise
        return Findings(kept, seen, clone, changed, time.monotonic() - began)

    def _differing(self, fd: int, size: int, kept: Signature) -> list[tuple[int, int]]:
        """By reading all of it."""
        patch = Patch(kept, size)
        found: list[tuple[int, int]] = []
        try:
            with (
                PastCache(fd, size, self._rooms) as file,
                closing(read_through(fd, size, kept.block, file.read)) as windows,
            ):
                for window in windows:
                    if self._over:
                        raise InterruptedError
                    found += patch.add(window)
        finally:
            self._rooms.trim(WINDOW)
        return found


def pause(fd: int) -> None:
    """Before much is read of an open file: left alone, it is soon of a moment that no other write
    has, and need not be read once more for that."""
    for _ in range(PAUSES):
        if time.time_ns() - os.fstat(fd).st_ctime_ns > staging.RACY_NS:
            break
        time.sleep(staging.RACY_NS / 1e9)


def snapshot(cloner: Cloner, fd: int, entry: Entry) -> tuple[int | None, Entry]:
    """A clone of an open file, None where there can be none, and the entry that describes it, or
    what is read from here on."""
    before = refreshed(entry, fd)
    # What is written from here on is seen when the entry is packed, unless that is racy.
    clone = cloner.clone(fd)
    size = before.size if clone is None else os.fstat(clone).st_size
    return clone, before._replace(size=size)
