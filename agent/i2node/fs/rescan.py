"""After events were lost: what changed meanwhile is found by its ctime, which no program can set.

A content, attribute or link that changes moves the ctime of the file; a name that comes or goes
that of its directory; a directory's own shows it in the directory. So a walk that looks at nothing
but ctimes finds all of it, at the speed of the walk, and only that is compared. A directory that
moves meanwhile may be met nowhere: those are compared with all that is below them.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from i2node import log
from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.model import MOUNT, Kind
from i2node.mover import batch, listing

_log = logging.getLogger(__name__)

MARGIN_NS = 1_000_000_000
"""How far a ctime, which is of a coarse clock, may lie before the moment of its change."""
_STEP_NS = 500_000_000
_REST = 10.0
"""Between two walks lies so many times what one took, should events go on being lost."""
_BATCH = 64
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}
_TOUCH = Touch.DATA.value | Touch.ATTR.value


class Moment(NamedTuple):
    """A moment on both clocks, in nanoseconds: since 1970, and of the one that is never set."""

    wall: int
    steady: int

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time_ns(), time.monotonic_ns())

    def set_back(self, now: Moment) -> bool:
        """Whether the clock was set back between this moment and now: ctimes prove nothing then."""
        return now.wall - self.wall < now.steady - self.steady - _STEP_NS


class Rescan:
    """Walks the source beside the live work when it is asked to, in a thread of its own.

    `since` is the time, in seconds since 1970, from which on events were lost and the walk is not
    over; None when nothing is to be found.
    """

    def __init__(self, root: Root, paths: PathSet, dirty: Dirty) -> None:
        self._root = root
        self._paths = paths
        self._dirty = dirty
        self._wanted: Moment | None = None
        self._begun: Moment | None = None
        self._unmet: Callable[[set[int]], Iterable[int]] = lambda met: ()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def since(self) -> float | None:
        with self._lock:
            moments = [m.wall for m in (self._wanted, self._begun) if m is not None]
        return min(moments) / 1e9 if moments else None

    def begin(
        self, heard: Moment, unmet: Callable[[set[int]], Iterable[int]] = lambda met: ()
    ) -> None:
        """What happened after `heard` may have been lost. unmet: of the directories that are known,
        by their inode numbers, those that are not among these, nor below one that is not. Any
        thread; returns at once."""
        with self._lock:
            self._wanted = self._wanted or heard
            self._unmet = unmet
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rescan", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                self._begun, self._wanted = self._wanted, None
                if self._begun is None:
                    self._thread = None
                    return
            started = time.monotonic()
            if not self._search(self._begun):
                self._dirty.add_dir(self._root.identity.ino, True, time.monotonic())
            with self._lock:
                self._begun = None
                again = self._wanted is not None
            self._dirty.wake()
            if again:
                self._closed.wait(_REST * (time.monotonic() - started))

    def _search(self, begun: Moment) -> bool:
        """False: what happened since then cannot be found so."""
        if begun.set_back(Moment.now()):
            return False
        try:
            return self._walk(begun.wall - MARGIN_NS)
        except Exception as error:
            # Without memory, say. A thread that dies would leave the search under way for ever.
            log.event(_log, logging.WARNING, "rescan-failed", cause=repr(error))
            return False

    def _walk(self, since: int) -> bool:
        """False: a directory could not be listed, so anything may have happened there."""
        stack = [b""]
        met: set[int] = set()
        while stack and not self._closed.is_set():
            paths = [stack.pop() for _ in range(min(_BATCH, len(stack)))]
            requests = [(path, self._paths.skip(path)) for path in paths]
            answers = batch.list_dirs(
                self._root.fd, self._root.dev, requests, partial=True, threads=2
            )
            for path, answer in zip(paths, answers, strict=True):
                if answer.status in _GONE:
                    continue
                if answer.status:
                    return False
                met.add(self._found(path, answer, since))
                for entry in listing.kept(answer.entries, Kind.DIR) if answer.dirs else ():
                    if not entry.flags & MOUNT and not self._paths.matches(path, entry.name):
                        stack.append(path + b"/" + entry.name if path else entry.name)
        if not self._closed.is_set():
            for ino in self._unmet(met):
                self._dirty.add_dir(ino, True, time.monotonic())
        return True

    def _found(self, path: bytes, answer: batch.Listing, since: int) -> int:
        """Makes dirty what changed in a directory. Gives its inode number."""
        own, now = listing.decode(answer.own), time.monotonic()
        if own.ctime >= since:
            self._dirty.add_dir(own.ino, False, now)
            return own.ino
        names = [entry.name for entry in listing.entries(listing.younger(answer.entries, since))]
        if answer.unread:
            # When they changed is not to be had.
            names += [entry.name for entry in listing.troubled(answer.entries)]
        if self._paths.has_globs:
            names = [name for name in names if not self._paths.matches(path, name)]
        self._dirty.add_all(((own.ino, name, _TOUCH) for name in names), now)
        return own.ino
