"""Counts the source beside a first mirror, so that progress and time left are honest from the
start."""

from __future__ import annotations

import threading
from collections.abc import Callable

from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.model import MOUNT, Kind
from i2node.mover import listing
from i2node.repl.plan import join


class Census:
    """A walk that only counts, in a thread. `files` (all but directories), `bytes` and `dirs` grow
    until `complete`."""

    def __init__(self, root: Root, paths: PathSet, stop: Callable[[], bool]) -> None:
        self.files = 0
        self.bytes = 0
        self.dirs = 1
        self.complete = False
        self._root = root
        self._paths = paths
        self._stop = stop
        self._thread = threading.Thread(target=self._count, name="census", daemon=True)
        self._thread.start()

    def _count(self) -> None:
        stack = [b""]
        while stack and not self._stop():
            paths = [stack.pop() for _ in range(min(32, len(stack)))]
            requests = [(p, self._paths.skip(p)) for p in paths]
            answers = self._root.list_dirs(requests, partial=True, threads=2)
            for path, answer in zip(paths, answers, strict=True):
                self.files += answer.n - answer.dirs
                self.bytes += answer.bytes
                self.dirs += answer.dirs
                if answer.dirs:
                    stack += [
                        join(path, e.name)
                        for e in listing.kept(answer.entries, Kind.DIR)
                        if not e.flags & MOUNT
                    ]
        self.complete = not stack

    def join(self) -> None:
        self._thread.join()
