"""The fanotify engine, see fanotify(7): one mark for a whole file system.

The directories are not watched one by one, so nothing has to be set up, and nothing is missed in a
directory that is new: all names in it are told of from the first on. An event names the directory
by a file handle, which C resolves to its inode number.

Facts that decide here. A queue merges what it holds, so that an event may stand before what made
it. An inode number may be in use again when the end of the directory that had it is told: what
is created is listed once more if its number is known already. Where the kernel tells a rename as
one event (5.17) it tells which directory it was; before that only both names are told, and the
planner finds by its number where a directory went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from i2node.fs.coalesce import Dirty
from i2node.fs.masks import (
    CREATE,
    DELETE,
    DELETE_SELF,
    DELETED,
    ISDIR,
    MODIFY,
    MOVE_SELF,
    MOVED,
    NAME,
    NAMED,
    OVERFLOW,
    TREE,
    WRITING,
    touch_of,
)
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import Rescan
from i2node.fs.root import Root
from i2node.fs.treewatch import Touches, TreeWatch
from i2node.mover.events import Event, Group

_RENAME = 0x10000000


class FanotifyWatch(TreeWatch):
    """Watches the file system of one root, whose descriptor it goes on using. pairs: see Group.

    Raises OSError where the kernel, the rights of the process or the file system do not allow it.
    """

    engine = "fanotify"

    def __init__(
        self,
        root: Root,
        dirty: Dirty,
        excludes: PathSet | None = None,
        rescan: Rescan | None = None,
        clock: Callable[[], float] = time.monotonic,
        pairs: bool = True,
    ) -> None:
        self._group = Group(root.fd, excludes.exact if excludes else (), pairs)
        super().__init__(root.identity.ino, dirty, excludes, rescan, 0.0, clock)
        self.source = self._group.fd
        self.descriptor = -1  # a walk has no watches to set
        self.mask = 0

    def _fetch(self) -> bytes:
        return self._group.fetch()

    def _covers(self, ino: int) -> bool:
        return ino in self._tree

    def _watched(self) -> int:
        return len(self._tree)

    def _retire(self, wds: Iterable[int]) -> None:
        """There are none."""

    def _release(self) -> None:
        self._group.close()

    # ------------------------------------------------------------------------ translation

    def _translate(self, event: Event, touches: Touches) -> None:
        mask = event.mask
        if mask & OVERFLOW:
            self._overflow(event.cookie)
        elif mask & _RENAME:
            self._renamed(event, touches)
        elif not event.name:
            self._itself(event, touches)
        else:
            self._named(event, touches)

    def _itself(self, event: Event, touches: Touches) -> None:
        if event.where == self._root and event.mask & (DELETE_SELF | MOVE_SELF):
            self._lose_root("it was moved" if event.mask & MOVE_SELF else "it was deleted")
        elif event.mask & MODIFY and event.where:
            self._dirty.add_dir(event.where, False, self._clock())
        elif event.mask & MODIFY:
            self._unplaced = self._clock()
        elif event.where:
            self._touch_own(event.where, touches)

    def _named(self, event: Event, touches: Touches) -> None:
        ino, mask, name = event.where, event.mask, event.name
        touch = touch_of(mask)
        if mask & NAMED:
            self._touch_own(ino, touches, touch & WRITING)
            if mask & ISDIR:
                touch |= TREE
                self._came_or_went(event)
        if not self._is_excluded(ino, name):
            touches.append((ino, name, touch))

    def _came_or_went(self, event: Event) -> None:
        stood = self._tree.child(event.where, event.name)
        if event.mask & DELETE and stood is not None:
            self._forget(stood)
            stood = None
        came = event.what or stood
        if event.mask & CREATE and came is not None and came in self._tree:
            # The planner has met it already, or one that had its number before.
            self._dirty.add_dir(came, False, self._clock())

    def _renamed(self, event: Event, touches: Touches) -> None:
        source, target = (event.where, event.name), (event.to, event.other)
        if event.where and event.to:
            self._renames.append((source, target))
        directory = bool(event.mask & ISDIR)
        inside = event.where and event.to
        left, came = (NAME | MOVED, NAME | MOVED) if inside else (NAME | DELETED, NAME)
        for (ino, name), touch in ((source, left), (target, came | TREE if directory else came)):
            if ino:
                self._touch_own(ino, touches)
                if not self._is_excluded(ino, name):
                    touches.append((ino, name, touch))
        if not directory or event.what == self._root:
            return
        if event.what not in self._tree:
            self._leave(source)
        elif event.to and event.to in self._tree and not self._is_excluded(*target):
            self._move(event.what, target)
        else:
            # Outside, or into a directory that is to be listed yet, where it is found.
            self._forget(event.what)

    def _leave(self, place: tuple[int, bytes]) -> None:
        """A directory that is not known left its place, or one that is gone by now."""
        stood = self._tree.child(*place)
        if stood is not None:
            self._doubt(stood)
