"""What can change without an event: files that are mapped, held open, or written to under a name
outside the rule.

A write through a mapping leaves a trace only where the page was clean: then the kernel stamps the
file. So each sweep writes mapped files back, which makes their pages clean, and looks at the time
behind that. A page that was dirty when the file was first seen mapped, or where the file system
does not keep that promise, may have been written again with no trace at all: there the content is
looked at, whatever the times say. A write by a descriptor always stamps the file (not all raise an
event: those of io_submit(2) and of loop devices do not), so there the time is enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.fs.watch import Watch
from i2node.model import Entry, Kind
from i2node.mover import batch, listing
from i2node.mover.held import Held, held, write_back

GRAIN_NS = 20_000_000
"""By so much a time that the kernel stamps may be behind the clock (its last tick, path.h)."""

_LOOPS = "loop*/loop/backing_file"

Name = tuple[int, bytes]
"""A directory's inode number, and a name in it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A mapped file as the last sweep left it. name: where. ctime and begun: its time of change
    behind the write-back, and when that began, nanoseconds since 1970. stamped: whether a write
    through a mapping after that moves its ctime."""

    name: Name
    ctime: int
    begun: int
    stamped: bool


def unseen(before: Seen | None, ctime: int) -> bool:
    """Whether the content of a file that is mapped, or was at the sweep before, may be another than
    its times tell, or than was read since that sweep. before: None when it was not mapped then."""
    return (
        before is None
        or not before.stamped
        or ctime != before.ctime
        or ctime >= before.begun - GRAIN_NS
    )


@dataclass(frozen=True, slots=True)
class Stray:
    """A file that may have names outside the rule: one of those inside, how many there are of them,
    and its ctime when it was last read, 0 where that is not known."""

    ino: int
    name: Name
    names: int
    ctime: int


class Strays(Protocol):
    """The files with names outside, as far as they are known."""

    def all(self) -> Iterable[Stray]: ...
    def drop(self, ino: int) -> None:
        """This one is not found there, or has no name outside."""


class Sweep:
    """Looks for such files of one source, and makes dirty what changed, or may have. `run` is for
    one thread, `take` for any.

    names(ino): where the journal has a file, as far as it keeps that.
    """

    def __init__(
        self,
        root: Root,
        paths: PathSet,
        dirty: Dirty,
        watch: Watch,
        names: Callable[[int], Iterable[Name]],
        strays: Strays,
        blocks: Path = Path("/sys/block"),
    ) -> None:
        self.root = root
        self.paths = paths
        self.dirty = dirty
        self.watch = watch
        self.names = names
        self.strays = strays
        self.refused = 0
        """Processes that could not be looked into."""
        self._blocks = blocks
        self._mapped: dict[int, Seen] = {}
        self._times: dict[int, int] = {}  # ctime of what is only open, or has names outside
        self._lock = threading.Lock()
        self._unseen: set[Name] = set()

    def take(self) -> set[Name]:
        """The names, since the last call, of which the content is to be looked at whatever stat
        says. They are dirty as well, which may be taken before or after."""
        with self._lock:
            taken, self._unseen = self._unseen, set()
        return taken

    def run(self) -> None:
        """One sweep."""
        found = held(self.root.fd, self.root.dev)
        self.refused = found.refused
        mapped: dict[int, Seen] = {}
        times: dict[int, int] = {}
        wanted = {one.ino: one.mapped for one in sorted(found.files, key=lambda one: one.mapped)}
        for name, path, entry in self._places([*found.files, *self._loops()]):
            if entry.ino in mapped or (entry.ino in times and not wanted.get(entry.ino)):
                continue
            if wanted.get(entry.ino):
                times.pop(entry.ino, None)
                self._map(name, path, entry.ino, mapped)
            else:
                self._time(name, entry, times, self._times.get(entry.ino))
        for ino, before in self._mapped.items():
            if ino not in mapped:
                self._unmapped(ino, before)
        self._outside(mapped, times)
        self._mapped, self._times = mapped, times

    # ------------------------------------------------------------------------ what is looked at

    def _map(self, name: Name, path: bytes, ino: int, mapped: dict[int, Seen]) -> None:
        try:
            fd = batch.open_file(self.root.fd, self.root.dev, path)
        except OSError:
            return  # it went, or is told as a trouble when it is read
        try:
            begun = time.time_ns()
            stamped = False
            with suppress(OSError):  # a disk that fails, which whoever writes there is told
                stamped = write_back(fd)
            st = os.fstat(fd)
        finally:
            os.close(fd)
        if st.st_ino != ino:
            return
        if unseen(self._mapped.get(ino), st.st_ctime_ns):
            self._look(name)
        mapped[ino] = Seen(name, st.st_ctime_ns, begun, stamped)

    def _unmapped(self, ino: int, before: Seen) -> None:
        """Once more: what was written since the last sweep may have come behind a reading."""
        for name, _, entry in self._there(ino, before.name) or self._there(ino, *self.names(ino)):
            if unseen(before, entry.ctime):
                self._look(name)
            return

    def _time(self, name: Name, entry: Entry, times: dict[int, int], before: int | None) -> None:
        times[entry.ino] = entry.ctime
        if entry.ctime != before:
            self.dirty.add(*name, Touch.DATA, time.monotonic())

    def _outside(self, mapped: dict[int, Seen], times: dict[int, int]) -> None:
        by_dir: dict[int, dict[int, Stray]] = {}
        for one in self.strays.all():
            if one.ino not in mapped and one.ino not in times:
                by_dir.setdefault(one.name[0], {})[one.ino] = one
        for ino, some in by_dir.items():
            for name, _, entry in self._stat(ino, [one.name[1] for one in some.values()]):
                stray = some.get(entry.ino)
                if stray is not None and entry.nlink > stray.names:
                    self._time(name, entry, times, self._times.get(entry.ino, stray.ctime))
            for gone in some.keys() - times.keys():
                self.strays.drop(gone)

    def _look(self, name: Name) -> None:
        with self._lock:
            self._unseen.add(name)
        self.dirty.add(*name, Touch.DATA, time.monotonic())

    # ------------------------------------------------------------------------ where it stands

    def _places(self, files: Iterable[Held]) -> Iterator[tuple[Name, bytes, Entry]]:
        """(name, path, entry) of those that are in the rule, by a name of each."""
        by_dir: dict[bytes, dict[bytes, int]] = {}
        lost: list[int] = []
        for one in files:
            if one.path:
                directory, _, name = one.path.rpartition(b"/")
                by_dir.setdefault(directory, {})[name] = one.ino
            else:
                lost.append(one.ino)
        for directory, asked in by_dir.items():
            right: set[bytes] = set()
            if directory and self.paths.excluded(directory):
                continue
            for found in self._listed(directory, None, asked):
                entry = found[2]
                if asked[entry.name] in (entry.ino, 0):
                    right.add(entry.name)
                    yield found
            lost += [ino for name, ino in asked.items() if ino and name not in right]
        for ino in lost:
            yield from self._there(ino, *self.names(ino))

    def _there(self, ino: int, *names: Name) -> list[tuple[Name, bytes, Entry]]:
        """The first of these names that is one of this file; none: empty."""
        for directory, name in names:
            for found in self._stat(directory, [name]):
                if found[2].ino == ino:
                    return [found]
        return []

    def _stat(self, ino: int, names: Iterable[bytes]) -> Iterator[tuple[Name, bytes, Entry]]:
        path = self.watch.path(ino)
        return iter(()) if path is None else self._listed(path, ino, names)

    def _listed(
        self, directory: bytes, ino: int | None, names: Iterable[bytes]
    ) -> Iterator[tuple[Name, bytes, Entry]]:
        """The regular files of a directory, which is ino, that are in the rule."""
        kept = [n for n in names if not self.paths.matches(directory, n)]
        answer = self.root.stat_names(directory, kept, partial=True)
        if answer.status:
            return
        own = listing.decode(answer.own).ino
        if ino not in (own, None) or not self.watch.known(own):
            return  # not read yet, or no more: it is looked at for that
        for entry in listing.kept(answer.entries, Kind.FILE):
            if entry.status:
                continue
            path = directory + b"/" + entry.name if directory else entry.name
            yield (own, entry.name), path, entry

    def _loops(self) -> Iterator[Held]:
        """Files below loop devices, which the kernel itself writes to (loop(4))."""
        top = self.root.path.rstrip(b"/") + b"/"
        for file in self._blocks.glob(_LOOPS):
            with suppress(OSError):
                path = file.read_bytes().removesuffix(b"\n")
                if path.startswith(top):
                    yield Held(0, False, path[len(top) :])
