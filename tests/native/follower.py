"""A source followed by a watch: a small planner keeps a copy of what it believes to be there.

In the end the copy must be the tree.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from i2node.fs.coalesce import Dirty
from i2node.fs.fanotify import FanotifyWatch
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import Rescan
from i2node.fs.root import Root
from i2node.fs.touch import Touch, Work
from i2node.fs.watch import Watch
from i2node.model import Entry, Kind
from i2node.mover import batch
from i2node.mover import listing as listings
from queues import usual_queue

DEADLINE = 60.0  # for what must happen; reached only by a test that fails

Seen = tuple[int, int, int, int]  # inode, mode, size, mtime


def seen(status: os.stat_result) -> Seen:
    size = status.st_size if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode) else 0
    return (status.st_ino, status.st_mode, size, status.st_mtime_ns)


FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIR: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
}


def seen_by_walk(e: Entry) -> Seen:
    return (e.ino, FORMATS[e.kind] | e.mode, e.size, e.mtime_s * 10**9 + e.mtime_ns)


def own_entry(record: bytes) -> Seen:
    """A directory's own entry, which has no name."""
    _, _, _, _, mode, _, _, _, ino, _, _, mtime_s, mtime_ns, *_ = listings.HEAD.unpack_from(record)
    return (ino, stat.S_IFDIR | mode, 0, mtime_s * 10**9 + mtime_ns)


def is_dir(entry: Seen) -> bool:
    return stat.S_ISDIR(entry[1])


class Source:
    """The planner's part as fs/watch.py describes it, with dicts for a journal."""

    def __init__(
        self,
        root: Path,
        excludes: tuple[bytes, ...] = (),
        sweep: float = 30.0,
        engine: str = "inotify",
        rescans: bool = False,
    ) -> None:
        self.root = root
        status = root.stat()
        self.ino, self.dev = status.st_ino, status.st_dev
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.dirty = Dirty()
        self.excludes = PathSet(os.fsencode(root), excludes)
        self.rescans = rescans
        self.watch: Watch
        # Not held for the engine that does not need it: some roots are to go.
        self.held = Root(os.fsencode(root)) if rescans or engine != "inotify" else None
        rescan = None
        if rescans:
            assert self.held is not None
            rescan = Rescan(self.held, self.excludes, self.dirty)
        with usual_queue():
            if engine == "inotify":
                self.watch = InotifyWatch(self.ino, self.dirty, self.excludes, rescan, sweep)
            else:
                assert self.held is not None
                those = (self.held, self.dirty, self.excludes, rescan)
                self.watch = FanotifyWatch(*those, pairs=engine == "fanotify")
        self.listings: dict[int, dict[bytes, Seen]] = {}
        self.own: Seen | None = None
        self.armed: list[bytes] = []  # paths that were listed and armed
        self.works: list[tuple[bytes, Work]] = []

    def begin(self) -> None:
        self.watch.start()
        self.dirty.add_dir(self.ino, True, time.monotonic())
        self.catch_up()
        self.armed.clear()
        self.works.clear()

    def close(self) -> None:
        self.watch.close()
        if self.held is not None:
            self.held.close()
        os.close(self.fd)

    def work_off(self) -> None:
        """Does all that is due now."""
        while works := self.dirty.take(1000, time.monotonic()):
            for work in works:
                self.do(work)

    def do(self, work: Work) -> None:
        path = self.watch.path(work.ino)
        place = self.watch.place(work.ino)
        if path is None or place is None:
            if self.watch.known(work.ino):
                self.dirty.put_back(work, time.monotonic())
            return
        self.works.append((path, work))
        if work.names is None:
            done = self.list(work.ino, path, *place, work.recursive, work.trees)
        else:
            done = self.look(work.ino, path, work.names)
        if not done:
            self.dirty.put_back(work, time.monotonic())

    def list(
        self,
        ino: int,
        path: bytes,
        parent: int,
        name: bytes,
        recursive: bool,
        trees: frozenset[bytes] = frozenset(),
    ) -> bool:
        asof = self.watch.mark()
        (answer,) = batch.list_dirs(
            self.fd,
            self.dev,
            [(path, self.excludes.skip(path))],
            notify=self.watch.descriptor,
            mask=self.watch.mask,
            threads=1,
        )
        if answer.status or own_entry(answer.own)[0] != ino:
            self.look_above(ino)
            return False
        if self.watch.descriptor >= 0:
            assert answer.wd >= 0 or answer.wd_status == errno.ENOSPC
        self.armed.append(path)
        self.watch.placed(answer.wd, ino, parent, name, asof)
        now = {
            entry.name: seen_by_walk(entry)
            for entry in listings.entries(answer.entries)
            if not self.excludes.matches(path, entry.name)
        }
        own = own_entry(answer.own)
        if not path:
            self.own = own
        elif self.listings.get(parent, {}).get(name, own)[0] == ino:
            self.listings.setdefault(parent, {})[name] = own
        old = self.listings.get(ino, {})
        self.listings[ino] = now
        self.compare(ino, path, old, now, asof, recursive, trees, self.watch.children(ino))
        return True

    def look(self, ino: int, path: bytes, names: dict[bytes, Touch]) -> bool:
        asof = self.watch.mark()
        try:
            fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        except OSError:
            self.look_above(ino)
            return False
        try:
            if os.fstat(fd).st_ino != ino:
                self.look_above(ino)
                return False
            if b"" in names:
                self.own = seen(os.fstat(fd))
            now = {}
            for name in names:
                if name:
                    now |= self.stat(fd, name)
        finally:
            os.close(fd)
        known = self.listings.setdefault(ino, {})
        old = {name: known.pop(name) for name in names if name in known}
        known |= now
        trees = frozenset(name for name, touch in names.items() if touch & Touch.TREE)
        there = {name: n for name in names if (n := self.watch.child(ino, name)) is not None}
        self.compare(ino, path, old, now, asof, False, trees, there)
        return True

    def look_above(self, ino: int) -> None:
        """The directory is not where it is believed to be."""
        where = self.watch.place(ino)
        if where is not None and where[0]:
            self.dirty.add(*where, Touch.NAME | Touch.TREE, time.monotonic())

    @staticmethod
    def stat(fd: int, name: bytes) -> dict[bytes, Seen]:
        try:
            return {name: seen(os.stat(name, dir_fd=fd, follow_symlinks=False))}
        except FileNotFoundError:
            return {}

    def compare(
        self,
        ino: int,
        path: bytes,
        old: dict[bytes, Seen],
        now: dict[bytes, Seen],
        asof: int,
        recursive: bool,
        trees: frozenset[bytes],
        believed: dict[bytes, int],
    ) -> None:
        for name, child in believed.items():
            if name not in now or not is_dir(now[name]):
                self.watch.gone(child, ino, name, asof)
        for name, entry in now.items():
            if not is_dir(entry):
                continue
            new = name in trees or old.get(name, (0,))[0] != entry[0]
            if recursive or (new and not self.watch.stands(entry[0], ino, name, asof)):
                below = path + b"/" + name if path else name
                if not self.list(entry[0], below, ino, name, True):
                    self.dirty.add(ino, name, Touch.NAME | Touch.TREE, time.monotonic())
                    self.dirty.add_dir(entry[0], True, time.monotonic())

    def believed(self) -> dict[bytes, Seen]:
        tree: dict[bytes, Seen] = {b"": self.own} if self.own else {}
        left = [(self.ino, b"")]
        met = set()
        while left:
            ino, path = left.pop()
            if ino in met:
                continue  # in two places while a move is half seen
            met.add(ino)
            for name, entry in self.listings.get(ino, {}).items():
                whole = path + b"/" + name if path else name
                tree[whole] = entry
                if is_dir(entry):
                    left.append((entry[0], whole))
        return tree

    def true(self) -> dict[bytes, Seen]:
        tree = {b"": seen(self.root.stat())}
        for where, dirs, files in os.walk(os.fsencode(self.root)):
            path = os.path.relpath(where, os.fsencode(self.root))
            path = b"" if path == b"." else path
            dirs[:] = [d for d in dirs if not self.excludes.matches(path, d)]
            for name in dirs + files:
                if not self.excludes.matches(path, name):
                    whole = path + b"/" + name if path else name
                    tree[whole] = seen(os.lstat(where + b"/" + name))
        return tree

    def until(self, done: object) -> None:
        """Works until done() is true."""
        assert callable(done)
        deadline = time.monotonic() + DEADLINE
        while not done():
            assert self.watch.failure is None
            if time.monotonic() > deadline:
                believed, true = self.believed(), self.true()
                wrong = {p for p in believed | true if believed.get(p) != true.get(p)}
                pytest.fail(f"never came to be; wrong: {sorted(wrong)[:9]}")
            self.work_off()
            self.dirty.wait(min(self.dirty.next_due(time.monotonic()) or 0.05, 0.05))

    def catch_up(self) -> None:
        self.until(lambda: self.believed() == self.true())
        if not self.rescans:
            # And what is told late of it; behind what was lost there is no mark.
            self.watch.beat()
            self.until(lambda: self.dirty.passed() is not None)

    def named(self) -> dict[bytes, Touch]:
        """All touches handed out, by path."""
        touches: dict[bytes, Touch] = {}
        for path, work in self.works:
            for name, touch in (work.names or {}).items():
                whole = path + b"/" + name if path and name else path + name
                touches[whole] = touches.get(whole, Touch(0)) | touch
        return touches
