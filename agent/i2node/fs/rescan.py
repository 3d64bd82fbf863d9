"""After events were lost: what changed meanwhile is found by its ctime, which no program can set.

A content, attribute or link that changes moves the ctime of the file; a name that comes or goes
that of its directory; a directory's own shows it in the directory. So a walk that looks at nothing
but ctimes finds all of it, at the speed of the walk, and only that is compared.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import NamedTuple

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.touch import Touch
from i2node.fs.tree import Root
from i2node.model import MOUNT, Kind
from i2node.mover import batch, listing

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
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def since(self) -> float | None:
        with self._lock:
            moments = [m.wall for m in (self._wanted, self._begun) if m is not None]
        return min(moments) / 1e9 if moments else None

    def begin(self, heard: Moment) -> None:
        """What happened after `heard` may have been lost. Any thread; returns at once."""
        with self._lock:
            self._wanted = self._wanted or heard
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
            if self._begun.set_back(Moment.now()) or not self._walk(self._begun.wall - MARGIN_NS):
                self._dirty.add_dir(self._root.identity.ino, True, time.monotonic())
            with self._lock:
                self._begun = None
                again = self._wanted is not None
            self._dirty.wake()
            if again:
                self._closed.wait(_REST * (time.monotonic() - started))

    def _walk(self, since: int) -> bool:
        """False: a directory could not be listed, so anything may have happened there."""
        stack = [b""]
        while stack and not self._closed.is_set():
            paths = [stack.pop() for _ in range(min(_BATCH, len(stack)))]
            requests = [(path, self._paths.skip(path)) for path in paths]
            answers = batch.list_dirs(self._root.fd, self._root.dev, requests, threads=2)
            for path, answer in zip(paths, answers, strict=True):
                if answer.status in _GONE:
                    continue
                if answer.status:
                    return False
                self._found(path, answer, since)
                for entry in listing.kept(answer.entries, Kind.DIR) if answer.dirs else ():
                    if not entry.flags & MOUNT and not self._paths.matches(path, entry.name):
                        stack.append(path + b"/" + entry.name if path else entry.name)
        return True

    def _found(self, path: bytes, answer: batch.Listing, since: int) -> None:
        own, now = listing.decode(answer.own), time.monotonic()
        if own.ctime >= since:
            self._dirty.add_dir(own.ino, False, now)
            return
        names = [entry.name for entry in listing.entries(listing.younger(answer.entries, since))]
        if self._paths.has_globs:
            names = [name for name in names if not self._paths.matches(path, name)]
        self._dirty.add_all(((own.ino, name, _TOUCH) for name in names), now)
