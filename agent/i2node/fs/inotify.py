"""The inotify engine, see inotify(7).

pyinotify's WatchManager owns the descriptor and its constants are the masks; watches are set by the
native walk, and the queue is read and decoded in C by a thread that does nothing else.

Facts that decide here. Watch descriptors are never used twice. A directory that is renamed raises
MOVED_FROM and MOVED_TO with one cookie in its parents, and behind them MOVE_SELF on its own watch:
only the last says which directory it was, the names in the first two may be taken by others
already. Of a directory that moves into one not watched yet there is only half of the pair.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable

with warnings.catch_warnings():
    # pyinotify needs asyncore for a class that is not used here; importing it warns.
    warnings.simplefilter("ignore")
    import pyinotify

from i2node.errors import SessionError
from i2node.fs.coalesce import Dirty
from i2node.fs.halves import Halves, Place
from i2node.fs.masks import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    DELETE_SELF,
    FROM,
    ISDIR,
    MODIFY,
    MOVE_SELF,
    MOVED,
    NAME,
    NAMED,
    OVERFLOW,
    TO,
    TREE,
    WRITING,
    touch_of,
)
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import Rescan
from i2node.fs.treewatch import Touches, TreeWatch
from i2node.mover.events import Event, fetch

# Its own handler would write to stderr beside our log.
for _handler in list(pyinotify.log.handlers):
    pyinotify.log.removeHandler(_handler)

_IGNORED: int = pyinotify.IN_IGNORED
_UNMOUNT: int = pyinotify.IN_UNMOUNT

# Not IN_DONT_FOLLOW: the walk opens the directory without following a link, then sets the watch
# through /proc/self/fd, which is one.
MASK: int = (
    NAMED
    | MODIFY
    | CLOSE_WRITE
    | ATTRIB
    | DELETE_SELF
    | MOVE_SELF
    | pyinotify.IN_ONLYDIR
    | pyinotify.IN_EXCL_UNLINK
)

_EARLY = 65_536  # events kept for watches that are not placed yet
_OTHER = 0.002  # seconds in which the other half of a rename follows


class InotifyWatch(TreeWatch):
    """Watches the tree below one root, each of its directories.

    Raises SessionError when the kernel gives no inotify instance.
    """

    engine = "inotify"

    def __init__(
        self,
        root: int,
        dirty: Dirty,
        excludes: PathSet | None = None,
        rescan: Rescan | None = None,
        sweep: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._watches = pyinotify.WatchManager()
        except (OSError, pyinotify.InotifyBindingNotFoundError) as e:
            raise SessionError(
                f"no inotify instance: {e}", "raise fs.inotify.max_user_instances"
            ) from e
        super().__init__(root, dirty, excludes, rescan, sweep, clock)
        self.source = self.descriptor = self._watches.get_fd()
        self.mask = MASK
        os.set_blocking(self.source, False)
        os.set_inheritable(self.source, False)
        self._early: dict[int, list[Event]] = {}
        self._early_count = 0
        self._leaving: set[int] = set()  # watches that end, IN_IGNORED still to come
        self._dead: set[int] = set()  # watches that ended since the last mark
        self._halves = Halves()  # until MOVE_SELF says of what

    def mark(self) -> int:
        with self._lock:
            self._dead.clear()  # a listing that begins now cannot be given one of them
            return super().mark()

    def placed(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        touches: Touches = []
        with self._lock:
            if wd in self._leaving or wd in self._dead:
                # It ended after the listing had been given it: look there once more.
                touches.append((parent, name, NAME | TREE))
            elif ino != self._root and parent not in self._tree:
                self._retire([wd])
            else:
                self._place(wd, ino, parent, name, asof)
                if early := self._early.pop(wd, None):
                    self._early_count -= len(early)
                    self._told.clear()
                    for event in early:
                        self._translate(event, touches)
        # Not all at once: that would be as if it had happened only now, behind a mark.
        for touch in touches:
            self._dirty.add(*touch, self._clock())

    def _fetch(self) -> bytes:
        return fetch(self.source)

    def _next(self, seconds: float | None, marks: bool = True) -> list[Event]:
        events = super()._next(seconds, marks)
        heard = self._heard
        # The other half of a rename comes at once, if it comes: they are to be known together.
        while events and events[-1].mask & FROM and (more := super()._next(_OTHER, False)):
            events += more
        self._heard = heard  # should events be lost among the first of them
        return events

    def _covers(self, ino: int) -> bool:
        return self._tree.wd(ino) >= 0

    def _watched(self) -> int:
        return self._tree.watched

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

    def _release(self) -> None:
        self.descriptor = -1
        self._watches.close()

    # ------------------------------------------------------------------------ translation

    def _translate(self, event: Event, touches: Touches) -> None:
        mask = event.mask
        if mask & OVERFLOW:
            self._halves.clear()
            self._overflow()
            return
        wd = event.where
        ino = self._tree.by_wd(wd)
        if ino is None:
            self._stray(event)
        elif mask & _UNMOUNT:
            self._lose_root("its file system was unmounted")
        elif mask & (_IGNORED | DELETE_SELF):
            self._end(wd, ino, bool(mask & _IGNORED), touches)
        elif mask & MOVE_SELF:
            self._moved(ino, touches)
        elif not event.name:
            self._touch_own(ino, touches)
        else:
            self._named(ino, event, touches)

    def _named(self, ino: int, event: Event, touches: Touches) -> None:
        mask, name = event.mask, event.name
        excluded, source = self._is_excluded(ino, name), None
        if mask & FROM:
            self._halves.leaves(event.cookie, (ino, name))
        if mask & TO and (source := self._halves.source(event.cookie)):
            self._renames.append((source, (ino, name)))
            touches.append((*source, NAME | MOVED))
        if mask & ISDIR and mask & (FROM | TO | DELETE):
            self._note_move(ino, event, None if excluded else source)
        touch = touch_of(mask)
        if mask & NAMED:
            self._touch_own(ino, touches, touch & WRITING)
            if source:
                touch |= MOVED
            if mask & ISDIR and mask & (CREATE | TO):
                touch |= TREE
        if touch and not excluded:
            touches.append((ino, name, touch))

    def _stray(self, event: Event) -> None:
        """An event of a watch that belongs to no directory: it ended, or is not placed yet."""
        wd = event.where
        if event.mask & _IGNORED:
            self._early_count -= len(self._early.pop(wd, ()))
            self._leaving.discard(wd)
            self._dead.add(wd)
        elif wd not in self._leaving and wd not in self._dead:
            if self._early_count >= _EARLY:
                self._early.clear()
                self._early_count = 0
                self._look_at_all()
            self._early.setdefault(wd, []).append(event)
            self._early_count += 1

    def _end(self, wd: int, ino: int, ignored: bool, touches: Touches) -> None:
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

    def _note_move(self, ino: int, event: Event, source: Place | None) -> None:
        """A directory left, came to (from source, where that is told) or vanished from a name."""
        place = (ino, event.name)
        child = self._tree.child(*place)
        unwatched = child is not None and self._tree.wd(child) < 0
        if event.mask & DELETE and unwatched and child is not None:
            self._forget(child)
        if event.mask & FROM and unwatched and child is not None:
            self._doubt(child)
        if event.mask & TO and source is not None:
            child = self._tree.child(*source)
            if child is not None and self._tree.wd(child) < 0:
                self._move(child, place)  # it has no watch to say MOVE_SELF
            else:
                self._halves.pair(source, place)

    def _moved(self, ino: int, touches: Touches) -> None:
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
