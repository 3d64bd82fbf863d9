"""The slow sweep: every directory is compared with the journal from time to time, so that whatever
was missed, for whatever reason, does not stay so."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.fs.watch import Watch
from i2node.model import Kind
from i2node.mover import listing
from i2node.repl.belief import included
from i2node.repl.journal import Journal
from i2node.repl.plan import named_root, without

_AT_ONCE = 32  # directories
_COUNTED = 5000  # directories, where they are only counted
_CPU = 0.005  # of one core, at most
_TIME = 0.05  # of the time, at most: a cold disk costs more of that
_NAMES = 1000  # above so many that differ the directory is dirty as a whole
_IDLE_S = 5.0  # between two looks whether the rule replicates again


class Patrol:
    """Goes through the directories that a watch knows, the ones above first, in `period` seconds or
    as long as that takes. active: whether the rule replicates, so that the journal is worth being
    compared with. For one thread; `bound` for any."""

    def __init__(
        self,
        root: Root,
        journal: Journal,
        paths: PathSet,
        dirty: Dirty,
        watch: Watch,
        small_max: int,
        period: float,
        active: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.journal = journal
        self.paths = paths
        self.dirty = dirty
        self.watch = watch
        self.small_max = small_max
        self.period = period
        self.active = active
        self._clock = clock
        self._left: list[int] = []
        self._count = 0  # of directories, in this round
        self._known = 0  # in the one before; the first only counts them
        self._begun: float | None = None
        self._took = 0.0

    def bound(self) -> float | None:
        """Seconds within which every directory was compared, and will be; None: not yet. Before the
        first round that was done by the walk."""
        begun = self._begun
        return None if begun is None else max(self.period, self._took, self._clock() - begun)

    def step(self) -> float:
        """Compares the next directories. Gives the seconds to wait until the next step."""
        if not self.active():
            return _IDLE_S
        began, used = self._clock(), time.thread_time()
        if not self._left:
            self._begun = began
            self._count = 0
            self._left = [self.root.identity.ino]
        counting = not self._known
        taken = self._next(_COUNTED if counting else _AT_ONCE)
        if not counting:
            self._compare(
                [(ino, path) for ino in taken if (path := self.watch.path(ino)) is not None]
            )
        ended = self._clock()
        cost = max((time.thread_time() - used) / _CPU, (ended - began) / _TIME)
        if not self._left:
            self._took = 0.0 if counting else ended - (self._begun or ended)
            self._known = self._count
        if not self._known:
            return cost
        return max(cost, self.period * _AT_ONCE / max(self._known, self._count, _AT_ONCE))

    def _next(self, most: int) -> list[int]:
        taken: list[int] = []
        while self._left and len(taken) < most:
            ino = self._left.pop()
            taken.append(ino)
            self._left.extend(self.watch.children(ino).values())
        self._count += len(taken)
        return taken

    def _compare(self, some: list[tuple[int, bytes]]) -> None:
        requests = [(path, self.paths.skip(path)) for _, path in some]
        answers = self.root.list_dirs(requests, partial=True)
        for (ino, path), answer in zip(some, answers, strict=True):
            if answer.status == errno.EXDEV:
                continue  # something is mounted above it
            if answer.status or listing.decode(answer.own).ino != ino:
                if not path:
                    # Nothing is above it that could say more: it is listed once more, or the end.
                    self.dirty.add_dir(ino, False, self._clock())
                elif (place := self.watch.place(ino)) is not None and place[0]:
                    self.dirty.add(*place, Touch.NAME | Touch.TREE, self._clock())
                continue
            if not path and self._root_differs(answer.own):
                self.dirty.add(ino, b"", Touch.ATTR, self._clock())
            now, old = included(self.paths, path, answer.entries), self.journal.listing(ino)
            if answer.unread:
                # What cannot be looked at is no difference; it is told by the next who tries.
                unread = [entry.name for entry in listing.troubled(now)]
                self.dirty.add_all(((ino, name, Touch.NAME) for name in unread), self._clock())
                now, old = without(now, unread), without(old, unread)
            changes = listing.diff(old, now, self.small_max)
            if changes is not None:
                self._differs(ino, changes)

    def _root_differs(self, own: bytes) -> bool:
        held = self.journal.get("root")
        return held is None or listing.diff(held, named_root(listing.decode(own)), 0) is not None

    def _differs(self, ino: int, changes: listing.Changes) -> None:
        now = self._clock()
        touches = [
            (ino, entry.name, touch)
            for section in (changes.gone, changes.dirs, changes.bulk, changes.large, changes.linked)
            for entry in listing.entries(section)
            for touch in (Touch.NAME | (Touch.TREE if entry.kind == Kind.DIR else Touch.DATA),)
        ]
        if len(touches) > _NAMES:
            self.dirty.add_dir(ino, False, now)
        else:
            self.dirty.add_all(touches, now)
