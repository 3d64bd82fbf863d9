"""How many bytes some trees hold, told within a second: first what their file systems hold, which
is never less, then, once they were counted, what was counted.

A count goes on in the background after the answer, and is remembered for the same question. It
looks at every directory, which takes minutes where there are very many; few run at a time, the
oldest gives way.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from i2node.errors import I2Error
from i2node.fs.pathset import PathSet, normal
from i2node.fs.root import Root
from i2node.fs.tree import within
from i2node.repl.census import Census

LONGEST_S = 0.8
"""No question waits longer for its answer."""
AT_ONCE = 2
"""Counts under way."""
KEPT = 16
"""Counts that are remembered ..."""
FRESH_S = 600.0
"""... and for how long after its end one of them answers."""


@dataclass(frozen=True, slots=True)
class Need:
    """size: bytes of all trees together; estimated: not all of them were counted, and they hold no
    more than that. missing: trees that are not there, or cannot be read."""

    size: int
    estimated: bool
    missing: tuple[bytes, ...] = ()


class Counts:
    """The counts of this host. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[object, _Count] = OrderedDict()

    def need(self, trees: list[bytes], excludes: list[bytes], deadline_s: float) -> Need:
        """What the trees hold without what is excluded, all absolute; as well as it is known within
        deadline_s seconds."""
        question = tuple(sorted({normal(tree) for tree in trees})), frozenset(excludes)
        with self._lock:
            count = self._known.get(question)
            if count is None or count.ended + FRESH_S < self._clock():
                self._make_room()
                count = self._known[question] = _Count(question[0], tuple(excludes), self._clock)
            self._known.move_to_end(question)
        count.done.wait(max(0.0, min(deadline_s, LONGEST_S)))
        return count.need()

    def _make_room(self) -> None:
        under_way = [key for key, count in self._known.items() if not count.done.is_set()]
        for key in under_way[: len(under_way) - AT_ONCE + 1]:
            self._known.pop(key).stopped = True
        while len(self._known) >= KEPT:
            self._known.popitem(last=False)[1].stopped = True


class _Count:
    """One count, in a thread of its own: a file system that does not answer holds up that alone."""

    def __init__(
        self, trees: tuple[bytes, ...], excludes: tuple[bytes, ...], clock: Callable[[], float]
    ) -> None:
        self.done = threading.Event()
        self.stopped = False
        self.ended = float("inf")
        self._trees = trees
        self._excludes = excludes
        self._clock = clock
        self._lock = threading.Lock()
        self._device: dict[bytes, int] = {}  # of each tree
        self._used: dict[int, int] = {}  # bytes of each file system
        self._counted: dict[bytes, int] = {}
        self._missing: list[bytes] = []
        threading.Thread(target=self._run, name="space", daemon=True).start()

    def need(self) -> Need:
        """As far as it got. Trees of one file system hold no more than it does, whatever the sum of
        their lengths: files may be sparse."""
        with self._lock:
            total = 0
            for device, used in self._used.items():
                here = [tree for tree in self._trees if self._device.get(tree) == device]
                whole = all(tree in self._counted for tree in here)
                total += min(used, sum(self._counted[tree] for tree in here)) if whole else used
            known = len(self._counted) + len(self._missing)
            return Need(total, known < len(self._trees), tuple(self._missing))

    def _run(self) -> None:
        for tree in self._trees:
            self._look(tree)
        for tree in list(self._device):
            if self.stopped:
                break
            self._count(tree)
        self.ended = self._clock()
        self.done.set()

    def _look(self, tree: bytes) -> None:
        try:
            device, room = os.stat(tree).st_dev, os.statvfs(tree)
        except OSError:
            with self._lock:
                self._missing.append(tree)
            return
        with self._lock:
            self._device[tree] = device
            self._used[device] = (room.f_blocks - room.f_bfree) * room.f_frsize

    def _count(self, tree: bytes) -> None:
        try:
            counted = self._bytes(tree)
        except (I2Error, OSError):
            with self._lock:
                self._missing.append(tree)
                del self._device[tree]
            return
        if not self.stopped:
            with self._lock:
                self._counted[tree] = counted

    def _bytes(self, tree: bytes) -> int:
        if not os.path.isdir(tree):
            return os.stat(tree).st_size
        if any(within(tree, normal(path)) for path in self._excludes if path.startswith(b"/")):
            return 0
        real = os.path.realpath(tree)
        others = [other for other in self._trees if other != tree and within(other, tree)]
        root = Root(real)
        try:
            # The excludes are by the name of the tree, which may lead there by a link.
            paths = PathSet(tree, [*self._excludes, *others])
            census = Census(root, paths, lambda: self.stopped)
            census.join()
            return census.bytes
        finally:
            root.close()
