"""What both watch engines share: where the directories stand by what was listed and told, what of
that is in doubt, the thread that reads events, and what is done when some were lost.

The planner's listings run ahead of the events that are still queued, and of a directory that moves
there may be only half of what tells so. So a directory whose events do not fit what is believed is
in doubt: its believed place is dirty, and it is given up, with its watches, unless it is found
somewhere before the grace is over. Given up by mistake, it is found as a new one.

When the kernel's queue overflowed, what happened since it was last empty is not known. But every
change leaves a later ctime on the file or directory: those are searched for by a walk that compares
nothing else, beside the live work; only what it finds is looked at (`rescan.py`).
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ClassVar

from i2node import log
from i2node.errors import I2Error, SessionError
from i2node.fs.coalesce import Dirty
from i2node.fs.dirtree import DirTree
from i2node.fs.halves import Place
from i2node.fs.masks import ATTR, NAME, TREE
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import Moment, Rescan
from i2node.fs.unwatched import Unwatched
from i2node.fs.watch import Watch, WatchStatus
from i2node.mover.events import Event, decode

_log = logging.getLogger(__name__)

Touches = list[tuple[int, bytes, int]]
INBOX = 64 << 20
"""Bytes of events that are read and not taken in yet, some half a million; beyond, they wait in the
kernel's queue, and that overflows."""
_STRANGE = 65_536  # directories; more do not change in the time of one listing
GRACE = 2.0  # seconds until a directory whose place is taken or empty is given up


class TreeWatch(Watch):
    """A watch that knows the directories of the tree below one root.

    root: its inode number. dirty: where changes go. excludes: names left out. rescan: finds what
    changed, when events were lost; None: then everything is looked at. sweep: seconds between two
    looks at each directory that could not be watched.
    """

    engine: ClassVar[str]
    source: int
    """The descriptor that events are read from, non-blocking."""
    instead = ""
    """Why the better engine is not used."""

    def __init__(
        self,
        root: int,
        dirty: Dirty,
        excludes: PathSet | None,
        rescan: Rescan | None,
        sweep: float,
        clock: Callable[[], float],
    ) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._dirty = dirty
        self._excludes = excludes if excludes else None
        self._rescan = rescan
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._arrived = threading.Condition()
        # What was read, with the moment until which all before it was read too.
        # Empty: a mark that was asked for at that moment.
        self._inbox: deque[tuple[bytes, Moment]] = deque()
        self._beats = False  # whether a mark is asked for
        self._inbox_size = 0
        self._woken = False
        self._lock = threading.RLock()
        self._tree = DirTree(root)
        self._root = root
        self._root_lost: str | None = None
        self._failure: I2Error | None = None
        self._overflows = 0
        self._heard = Moment.now()  # what happened until then was told
        self._unplaced: float | None = None  # when something was written, nobody knows where
        self._count = 0  # of directories moved; what `mark` gives
        self._unwatched = Unwatched(sweep, clock())
        self._told: set[int] = set()  # directories whose own entry this batch has as dirty
        self._strange: set[int] = set()  # not known, changed since the last mark
        self._renames: list[tuple[Place, Place]] = []  # of this batch, from where to where
        self._unsure: dict[int, tuple[float, Place]] = {}  # deadline, place when it became so

    # ------------------------------------------------------------------------ the engine's side

    @abstractmethod
    def _fetch(self) -> bytes:
        """What the kernel holds now, packed; empty when that is nothing."""

    @abstractmethod
    def _translate(self, event: Event, touches: Touches) -> None:
        """Believes one event, with the lock held, and says what it makes dirty."""

    @abstractmethod
    def _covers(self, ino: int) -> bool:
        """Whether a directory is known, and raises events."""

    @abstractmethod
    def _watched(self) -> int:
        """How many are."""

    @abstractmethod
    def _retire(self, wds: Iterable[int]) -> None:
        """Ends watches that belong to nothing any more."""

    @abstractmethod
    def _release(self) -> None:
        """Gives the descriptors back, the thread having ended."""

    # ------------------------------------------------------------------------ the planner's side

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._guard, args=[run], name=name, daemon=True)
            for run, name in ((self._read, "watch"), (self._believe, "believe"))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        if self._closed:
            return
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        os.eventfd_write(self._wake, 1)
        for thread in self._threads:
            thread.join()
        if self._rescan is not None:
            self._rescan.close()
        with self._lock:
            self._release()
            os.close(self._wake)

    def beat(self) -> None:
        with self._arrived:
            self._beats = True
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def mark(self) -> int:
        with self._lock:
            self._strange.clear()  # a listing that begins now shows it
            return self._count

    def placed(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        with self._lock:
            if ino == self._root or parent in self._tree:
                self._place(wd, ino, parent, name, asof)

    def _place(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        believed = self._tree.place(ino)
        self._doubt_both(believed, (parent, name))
        same = wd < 0 or self._tree.wd(ino) in (wd, -1)
        if believed is not None and same and self._tree.moved(ino) > asof:
            parent, name = believed
        else:
            self._unsure.pop(ino, None)
        self._displace(parent, name, ino)
        self._retire(self._tree.add(ino, wd, parent, name))
        if ino not in self._tree:
            self._look_at_all()
        elif ino in self._strange:
            self._dirty.add(parent, name, ATTR, self._clock())

    def gone(self, ino: int, parent: int, name: bytes, asof: int) -> None:
        with self._lock:
            if self._tree.place(ino) == (parent, name) and self._tree.moved(ino) <= asof:
                self._doubt(ino)

    def children(self, ino: int) -> dict[bytes, int]:
        with self._lock:
            return self._tree.children(ino)

    def child(self, ino: int, name: bytes) -> int | None:
        with self._lock:
            return self._tree.child(ino, name)

    def stands(self, ino: int, parent: int, name: bytes, asof: int) -> bool:
        with self._lock:
            if not self._covers(ino) or parent not in self._tree:
                return False
            current = self._tree.moved(ino) <= asof
            if self._tree.child(parent, name) != ino:
                if not current:
                    return False
                before = self._tree.path(ino)
                self._doubt_both(self._tree.place(ino), (parent, name))
                self._displace(parent, name, ino)
                self._retire(self._tree.move(ino, parent, name))
                if ino not in self._tree:
                    self._look_at_all()
                if ino not in self._tree or self._loses_excludes(ino, before):
                    return False
            if current:
                self._unsure.pop(ino, None)
            return True

    def known(self, ino: int) -> bool:
        with self._lock:
            return ino in self._tree

    def path(self, ino: int) -> bytes | None:
        with self._lock:
            return self._tree.path(ino)

    def place(self, ino: int) -> Place | None:
        with self._lock:
            return self._tree.place(ino)

    @property
    def root_lost(self) -> str | None:
        return self._root_lost

    @property
    def failure(self) -> I2Error | None:
        return self._failure

    def statistics(self) -> WatchStatus:
        with self._lock:
            watched, known = self._watched(), len(self._tree)
            overflows = self._overflows
            period = self._unwatched.period(self._clock())
        rescan = self._rescan
        return WatchStatus(
            engine=self.engine,
            coverage=watched / known,
            watches=watched,
            overflows=overflows,
            lost_since=rescan.since if rescan is not None else None,
            queue=self._dirty.count(),
            instead=self.instead,
            unwatched_s=2 * period if watched < known else None,
            unplaced_s=None if self._unplaced is None else self._clock() - self._unplaced,
        )

    # ------------------------------------------------------------------------ the threads

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as e:
            # Whatever it was: a thread that dies in silence would leave a tree that looks watched.
            self._failure = SessionError(f"reading {self.engine} events: {e!r}", "see the log")
            self._failure.__cause__ = e
            self._dirty.wake()

    def _read(self) -> None:
        """Empties the kernel's queue, which is short, and does nothing else."""
        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        heard = Moment.now()
        while not self._closed:
            poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._arrived:
                beats, self._beats = self._beats, False
            begun = Moment.now()  # behind the asking, which is waited for by it
            while not self._closed and (data := self._fetch()):
                with self._arrived:
                    self._inbox.append((data, heard))
                    self._inbox_size += len(data)
                    self._arrived.notify_all()
                    self._arrived.wait_for(lambda: self._inbox_size < INBOX or self._closed)
            heard = begun
            if beats:
                with self._arrived:
                    self._inbox.append((b"", begun))
                    self._arrived.notify_all()

    def _believe(self) -> None:
        """Takes in what was read."""
        while not self._closed:
            self._take(self._next(self._patience()))
            self._look_after()

    def _next(self, seconds: float | None, marks: bool = True) -> list[Event]:
        """The next events that were read; [] when the time is over, or somebody wakes it, or at a
        mark, which is put into the dirty set unless it is to stay."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._inbox or self._woken or self._closed, seconds)
            self._woken = False
            if not self._inbox or self._closed or not (self._inbox[0][0] or marks):
                return []
            data, moment = self._inbox.popleft()
            self._inbox_size -= len(data)
            self._arrived.notify_all()
        if data:
            self._heard = moment
        elif self._rescan is None or self._rescan.since is None:
            # What was lost is not told of: no mark can stand behind it.
            self._dirty.mark(moment.steady / 1e9, self._clock())
        return decode(data)

    def _patience(self) -> float | None:
        """How long to wait for events, in seconds."""
        with self._lock:
            if (patience := self._unwatched.patience()) is not None:
                return patience
            return 0.5 if self._unsure or not self._watches_all() else None

    def _watches_all(self) -> bool:
        return self._watched() == len(self._tree)

    def _wake_up(self) -> None:
        with self._arrived:
            self._woken = True
            self._arrived.notify_all()

    def _take(self, events: Iterable[Event]) -> None:
        touches: Touches = []
        with self._lock:
            self._told.clear()
            for event in events:
                self._translate(event, touches)
            renames, self._renames = self._renames, []
        self._dirty.add_all(touches, self._clock(), renames)

    def _look_after(self) -> None:
        """Gives up directories that stayed without a place, and has the unwatched looked at."""
        now = self._clock()
        with self._lock:
            for ino, (deadline, place) in list(self._unsure.items()):
                if deadline > now:
                    continue
                del self._unsure[ino]
                if self._tree.place(ino) == place:
                    self._forget(ino)
                    # Should it stand there after all, it is found.
                    self._dirty.add(*place, NAME | TREE, now)
            self._told.clear()
            own: Touches = []
            for ino in self._unwatched.due(now, self._all_unwatched, self._dirty.whole):
                if ino in self._tree and not self._covers(ino):
                    self._dirty.add_dir(ino, False, now)
                    self._unwatched.waits(ino)
                    self._touch_own(ino, own)
            if own:
                self._dirty.add_all(own, now)

    def _all_unwatched(self) -> list[int]:
        return [] if self._watches_all() else self._tree.unwatched()

    # ------------------------------------------------------------------------ beliefs

    def _touch_own(self, ino: int, touches: Touches, wait: int = 0) -> None:
        """The directory's own entry changed, its times at least. wait: WRITING where what came in
        it is being written."""
        if ino in self._told:
            return
        self._told.add(ino)
        place = (ino, b"") if ino == self._root else self._tree.place(ino)
        if place is not None:
            touches.append((*place, ATTR | wait))
            return
        if len(self._strange) >= _STRANGE:
            self._strange.clear()
        self._strange.add(ino)

    def _is_excluded(self, ino: int, name: bytes) -> bool:
        if self._excludes is None or not self._excludes.may_match(name):
            return False
        path = self._tree.path(ino)
        return path is not None and self._excludes.matches(path, name)

    def _lose_root(self, why: str) -> None:
        if self._root_lost is None:
            self._root_lost = why
            self._dirty.wake()

    def _overflow(self, error: int = errno.EOVERFLOW) -> None:
        """Events were lost: the kernel's queue was full, or what they told of could not be asked
        for."""
        self._overflows += 1
        if self._rescan is None or self._rescan.since is None:
            log.event(
                *(_log, logging.WARNING, "events-lost"),
                engine=self.engine,
                cause=os.strerror(error),
                remedy=f"raise fs.{self.engine}.max_queued_events"
                if error == errno.EOVERFLOW
                else "what changed is searched for",
            )
        if self._rescan is None:
            self._look_at_all()
        else:
            self._rescan.begin(self._heard, self._unmet)

    def _unmet(self, met: set[int]) -> list[int]:
        with self._lock:
            return self._tree.unmet(met)

    def _look_at_all(self) -> None:
        """What is believed may be wrong anywhere: that is corrected by looking at everything."""
        self._dirty.add_dir(self._root, True, self._clock())

    def _move(self, ino: int, place: Place) -> None:
        before = self._tree.path(ino)
        self._told.discard(ino)
        self._displace(*place, ino)
        self._count += 1
        self._unsure.pop(ino, None)
        self._retire(self._tree.move(ino, *place, self._count))
        if place[0] not in self._tree:
            self._look_at_all()
            return
        if self._loses_excludes(ino, before):
            self._dirty.add_dir(ino, True, self._clock())

    def _loses_excludes(self, ino: int, before: bytes | None) -> bool:
        """Whether other names are left out below a directory now that it moved: excludes by path
        do not move along."""
        return self._excludes is not None and any(
            path is not None and self._excludes.concerns(path)
            for path in (before, self._tree.path(ino))
        )

    def _look_again(self, ino: int, touches: Touches) -> None:
        """Has the planner look at the place where a directory is believed to be."""
        place = self._tree.place(ino)
        if place is not None:
            touches.append((*place, NAME | TREE))

    def _displace(self, parent: int, name: bytes, ino: int) -> None:
        other = self._tree.child(parent, name)
        if other is not None and other != ino:
            self._doubt(other)

    def _doubt_both(self, believed: Place | None, found: Place) -> None:
        """A listing found a directory elsewhere than it is believed to be. Which is the newer is
        not sure, and what was told of its own entry went to one of them: both are looked at."""
        if believed is not None and believed != found:
            # One by one: they are as old as what is looked at now, so that no mark passes them.
            for place in (believed, found):
                self._dirty.add(*place, NAME | TREE, self._clock())

    def _doubt(self, ino: int) -> None:
        place = self._tree.place(ino)
        if place is None or ino == self._root:
            return
        since, before = self._unsure.get(ino, (0.0, None))
        if before is None and not self._closed:
            self._wake_up()  # the thread may be waiting without end
        # Said again of the same place, it is not given more time.
        self._unsure[ino] = (since if before == place else self._clock() + GRACE, place)

    def _forget(self, ino: int, alive: bool = True) -> None:
        """Forgets a directory and all below it. alive: its own watch still has to be removed."""
        if ino == self._root:
            return
        own = -1 if alive else self._tree.wd(ino)
        self._retire(wd for wd in self._tree.remove(ino) if wd != own)
        self._dirty.discard(ino)
        self._unsure.pop(ino, None)
