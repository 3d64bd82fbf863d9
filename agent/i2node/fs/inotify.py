"""The inotify engine, see inotify(7).

pyinotify's WatchManager owns the descriptor and its constants are the masks; watches are set by the
native walk, and the queue is read and decoded in C by a thread that does nothing else.

Facts that decide here. Watch descriptors are never used twice. A directory that is renamed raises
MOVED_FROM and MOVED_TO with one cookie in its parents, and behind them MOVE_SELF on its own watch:
only the last says which directory it was, the names in the first two may be taken by others
already. The planner's listings run ahead of the events that are still queued, and of a directory
that moves into one not watched yet there is only half of the pair. So a directory whose events do
not fit what is believed is in doubt: its believed place is dirty, and it is given up, with its
watches, unless it is found somewhere before the grace is over. Given up by mistake, it is found as
a new one.
"""

from __future__ import annotations

import os
import select
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress

with warnings.catch_warnings():
    # pyinotify needs asyncore for a class that is not used here; importing it warns.
    warnings.simplefilter("ignore")
    import pyinotify

from i2node.errors import I2Error, SessionError
from i2node.fs.coalesce import Dirty, Touch
from i2node.fs.dirtree import DirTree
from i2node.fs.halves import Halves, Place
from i2node.fs.pathset import PathSet
from i2node.fs.watch import Watch, WatchStatus
from i2node.mover.events import Event, drain

# Its own handler would write to stderr beside our log.
for _handler in list(pyinotify.log.handlers):
    pyinotify.log.removeHandler(_handler)

_CREATE: int = pyinotify.IN_CREATE
_DELETE: int = pyinotify.IN_DELETE
_FROM: int = pyinotify.IN_MOVED_FROM
_TO: int = pyinotify.IN_MOVED_TO
_ATTRIB: int = pyinotify.IN_ATTRIB
_DELETE_SELF: int = pyinotify.IN_DELETE_SELF
_MOVE_SELF: int = pyinotify.IN_MOVE_SELF
_IGNORED: int = pyinotify.IN_IGNORED
_UNMOUNT: int = pyinotify.IN_UNMOUNT
_OVERFLOW: int = pyinotify.IN_Q_OVERFLOW
_ISDIR: int = pyinotify.IN_ISDIR
_WRITTEN: int = pyinotify.IN_MODIFY | pyinotify.IN_CLOSE_WRITE
_NAMED = _CREATE | _DELETE | _FROM | _TO
_COMES = _CREATE | _TO

# Plain numbers: the operators of an enum cost more than the rest of an event.
_DATA, _ATTR, _NAME, _TREE = (t.value for t in (Touch.DATA, Touch.ATTR, Touch.NAME, Touch.TREE))

# Not IN_DONT_FOLLOW: the walk opens the directory without following a link, then sets the watch
# through /proc/self/fd, which is one.
MASK: int = (
    _NAMED
    | _WRITTEN
    | _ATTRIB
    | _DELETE_SELF
    | _MOVE_SELF
    | pyinotify.IN_ONLYDIR
    | pyinotify.IN_EXCL_UNLINK
)

GRACE = 2.0  # seconds until a directory whose place is taken or empty is given up
_READ = 1 << 20  # bytes of decoded events fetched at once
_EARLY = 65_536  # events kept for watches that are not placed yet

_Touches = list[tuple[int, bytes, int]]


class InotifyWatch(Watch):
    """Watches the tree below one root.

    root: its inode number. dirty: where changes go. excludes: names left out. sweep: seconds
    between two looks at each directory that could not be watched.
    Raises SessionError when the kernel gives no inotify instance.
    """

    def __init__(
        self,
        root: int,
        dirty: Dirty,
        excludes: PathSet | None = None,
        sweep: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._watches = pyinotify.WatchManager()
        except (OSError, pyinotify.InotifyBindingNotFoundError) as e:
            raise SessionError(
                f"no inotify instance: {e}", "raise fs.inotify.max_user_instances"
            ) from e
        self.descriptor: int = self._watches.get_fd()
        self.mask = MASK
        os.set_blocking(self.descriptor, False)
        os.set_inheritable(self.descriptor, False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._dirty = dirty
        self._excludes = excludes if excludes else None
        self._sweep = sweep
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._tree = DirTree(root)
        self._root = root
        self._root_lost: str | None = None
        self._failure: I2Error | None = None
        self._overflows = 0
        self._count = 0  # of directories moved; what `mark` gives
        self._uncovered: set[int] = set()
        self._swept = clock()
        self._early: dict[int, list[Event]] = {}
        self._early_count = 0
        self._leaving: set[int] = set()  # watches that end, IN_IGNORED still to come
        self._dead: set[int] = set()  # watches that ended since the last mark
        self._told: set[int] = set()  # directories whose own entry this batch has as dirty
        self._halves = Halves()  # until MOVE_SELF says of what
        self._unsure: dict[int, tuple[float, Place]] = {}  # deadline, place when it became so

    # ------------------------------------------------------------------------ the planner's side

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self.descriptor = -1
            self._watches.close()
            os.close(self._wake)

    def mark(self) -> int:
        with self._lock:
            self._dead.clear()  # a listing that begins now cannot be given one of them
            return self._count

    def placed(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        touches: _Touches = []
        with self._lock:
            if wd in self._leaving or wd in self._dead:
                # It ended after the listing had been given it: look there once more.
                touches.append((parent, name, _NAME | _TREE))
            elif ino != self._root and parent not in self._tree:
                self._retire([wd])
            else:
                self._place(wd, ino, parent, name, asof)
                self._told.clear()
                for event in self._early.pop(wd, ()):
                    self._early_count -= 1
                    self._translate(event, touches)
        self._dirty.add_all(touches, self._clock())

    def _place(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        believed = self._tree.place(ino)
        same = wd < 0 or self._tree.wd(ino) in (wd, -1)
        if believed is not None and same and self._tree.moved(ino) > asof:
            parent, name = believed
        self._displace(parent, name, ino)
        self._retire(self._tree.add(ino, wd, parent, name))
        self._unsure.pop(ino, None)
        if self._tree.wd(ino) >= 0:
            self._uncovered.discard(ino)
        else:
            self._uncovered.add(ino)

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
            if self._tree.wd(ino) < 0 or parent not in self._tree:
                return False
            current = self._tree.moved(ino) <= asof
            if self._tree.child(parent, name) != ino:
                if not current:
                    return False
                before = self._tree.path(ino)
                self._displace(parent, name, ino)
                self._retire(self._tree.move(ino, parent, name))
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
            watched = self._tree.watched
            total = watched + len(self._uncovered)
            overflows = self._overflows
        return WatchStatus(
            engine="inotify",
            coverage=watched / total if total else 0.0,
            watches=watched,
            overflows=overflows,
            # A write through mmap raises no event, and nothing looks for it yet.
            max_undetected_s=None,
            queue=self._dirty.count(),
        )

    # ------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            while not self._closed:
                poll.poll(self._patience())
                with suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                while not self._closed and (events := drain(self.descriptor, _READ)):
                    self._take(events)
                self._look_after()
        except Exception as e:
            # Whatever it was: a thread that dies in silence would leave a tree that looks watched.
            self._failure = SessionError(f"reading inotify events: {e!r}", "see the log")
            self._failure.__cause__ = e
            self._dirty.wake()

    def _patience(self) -> int | None:
        """How long to wait for events, in milliseconds."""
        with self._lock:
            return 500 if self._unsure or self._uncovered else None

    def _take(self, events: Iterable[Event]) -> None:
        touches: _Touches = []
        with self._lock:
            self._told.clear()
            for event in events:
                self._translate(event, touches)
        self._dirty.add_all(touches, self._clock())

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
                    self._dirty.add(*place, _NAME | _TREE, now)
            if not self._uncovered or now - self._swept < self._sweep:
                return
            self._swept = now
            self._told.clear()
            own: _Touches = []
            for ino in self._uncovered:
                self._dirty.add_dir(ino, False, now)
                self._touch_own(ino, own)
            self._dirty.add_all(own, now)

    # ------------------------------------------------------------------------ translation

    def _translate(self, event: Event, touches: _Touches) -> None:
        mask = event.mask
        if mask & _OVERFLOW:
            self._lose_track()
            return
        wd = event.wd
        ino = self._tree.by_wd(wd)
        if ino is None:
            self._stray(event)
        elif mask & _UNMOUNT:
            self._lose_root("its file system was unmounted")
        elif mask & (_IGNORED | _DELETE_SELF):
            self._end(wd, ino, bool(mask & _IGNORED), touches)
        elif mask & _MOVE_SELF:
            self._moved(ino, touches)
        elif not event.name:
            self._touch_own(ino, touches)
        else:
            self._named(ino, event, touches)

    def _named(self, ino: int, event: Event, touches: _Touches) -> None:
        mask, name = event.mask, event.name
        excluded = self._is_excluded(ino, name)
        if mask & _ISDIR and mask & (_FROM | _TO | _DELETE):
            self._note_move(ino, event, excluded)
        touch = 0
        if mask & _NAMED:
            touch = _NAME
            if mask & _ISDIR and mask & _COMES:
                touch |= _TREE
            self._touch_own(ino, touches)
        if mask & _WRITTEN:
            touch |= _DATA
        if mask & _ATTRIB:
            touch |= _ATTR
        if touch and not excluded:
            touches.append((ino, name, touch))

    def _touch_own(self, ino: int, touches: _Touches) -> None:
        """The directory's own entry changed, its times at least."""
        if ino in self._told:
            return
        self._told.add(ino)
        place = (ino, b"") if ino == self._root else self._tree.place(ino)
        if place is not None:
            touches.append((*place, _ATTR))

    def _is_excluded(self, ino: int, name: bytes) -> bool:
        if self._excludes is None or not self._excludes.may_match(name):
            return False
        path = self._tree.path(ino)
        return path is not None and self._excludes.matches(path, name)

    def _stray(self, event: Event) -> None:
        """An event of a watch that belongs to no directory: it ended, or is not placed yet."""
        wd = event.wd
        if event.mask & _IGNORED:
            self._early_count -= len(self._early.pop(wd, ()))
            self._leaving.discard(wd)
            self._dead.add(wd)
        elif wd not in self._leaving and wd not in self._dead:
            if self._early_count >= _EARLY:
                self._lose_track()
            self._early.setdefault(wd, []).append(event)
            self._early_count += 1

    def _end(self, wd: int, ino: int, ignored: bool, touches: _Touches) -> None:
        if ino == self._root:
            self._lose_root("it was deleted")
            return
        # Its inode number may be in use again, and have been taken for it.
        self._look_again(ino, touches)
        self._forget(ino, alive=False)
        if ignored:
            self._dead.add(wd)
        else:
            self._leaving.add(wd)

    def _lose_root(self, why: str) -> None:
        if self._root_lost is None:
            self._root_lost = why
            self._dirty.wake()

    def _lose_track(self) -> None:
        """Events were lost: everything is to be looked at. Beliefs are corrected by that."""
        self._overflows += 1
        self._halves.clear()
        self._early.clear()
        self._early_count = 0
        self._dirty.add_dir(self._root, True, self._clock())

    # ------------------------------------------------------------------------ moves

    def _note_move(self, ino: int, event: Event, excluded: bool) -> None:
        """A directory left, came to or vanished from this name."""
        place = (ino, event.name)
        child = self._tree.child(*place)
        unwatched = child is not None and self._tree.wd(child) < 0
        if event.mask & _DELETE and unwatched and child is not None:
            self._forget(child)
        if event.mask & _FROM:
            self._halves.leaves(event.cookie, place)
            if unwatched and child is not None:
                self._doubt(child)
        if event.mask & _TO:
            source = self._halves.source(event.cookie)
            if source is None or excluded:
                return
            child = self._tree.child(*source)
            if child is not None and self._tree.wd(child) < 0:
                self._move(child, place)  # it has no watch to say MOVE_SELF
            else:
                self._halves.pair(source, place)

    def _moved(self, ino: int, touches: _Touches) -> None:
        """MOVE_SELF: this directory is the one of the pair that left its place."""
        if ino == self._root:
            self._lose_root("it was moved")
            return
        place = self._tree.place(ino)
        target = None if place is None else self._halves.target(place)
        if target is not None:
            self._move(ino, target)
            return
        self._count += 1
        self._tree.touch(ino, self._count)
        self._look_again(ino, touches)
        self._doubt(ino)

    def _move(self, ino: int, place: Place) -> None:
        before = self._tree.path(ino)
        self._told.discard(ino)
        self._displace(*place, ino)
        self._count += 1
        self._unsure.pop(ino, None)
        self._retire(self._tree.move(ino, *place, self._count))
        if place[0] not in self._tree:
            self._lose_track()
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

    def _look_again(self, ino: int, touches: _Touches) -> None:
        """Has the planner look at the place where a directory is believed to be."""
        place = self._tree.place(ino)
        if place is not None:
            touches.append((*place, _NAME | _TREE))

    def _displace(self, parent: int, name: bytes, ino: int) -> None:
        other = self._tree.child(parent, name)
        if other is not None and other != ino:
            self._doubt(other)

    def _doubt(self, ino: int) -> None:
        place = self._tree.place(ino)
        if place is None or ino == self._root:
            return
        since, before = self._unsure.get(ino, (0.0, None))
        if before is None and not self._closed:
            os.eventfd_write(self._wake, 1)  # the thread may be waiting without end
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
        if self._uncovered:
            self._uncovered = {i for i in self._uncovered if i in self._tree}

    def _retire(self, wds: Iterable[int]) -> None:
        for wd in wds:
            if wd < 0:
                continue
            self._leaving.add(wd)
            self._early_count -= len(self._early.pop(wd, ()))
            try:
                self._watches.rm_watch(wd, quiet=False)
            except pyinotify.WatchManagerError:
                # The directory was deleted; that IN_IGNORED is on its way, or was lost.
                continue
