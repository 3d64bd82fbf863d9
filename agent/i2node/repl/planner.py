"""Finds what differs between the source and what the target is expected to hold, and says what to
do.

One way for both feeders: the walk visits whole directories, the watch names some names of a
directory; both are listed in C, compared with the journal's listing, and end in Batches. The
journal is keyed by the source's inode numbers, so that a directory that only moved compares as
unchanged.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from i2node.errors import SafetyStop
from i2node.fs.coalesce import Dirty, Touch, Work
from i2node.fs.pathset import PathSet
from i2node.fs.tree import Root
from i2node.fs.watch import Watch
from i2node.model import MOUNT, PROBED, RACY, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.journal import UNTIL_ASKED, Journal
from i2node.repl.plan import (
    ROOT,
    Batch,
    Forget,
    Large,
    Linked,
    Place,
    Put,
    Rekey,
    Unplace,
    believe,
    join,
    known,
    make_dir,
    named_root,
    same_content,
    same_file,
    settled,
    tombstone,
)

LIST_BATCH = 32
BATCH_ENTRIES = 2000


class Sink(Protocol):
    """Where batches go: the sender."""

    def submit(self, work: Batch) -> None: ...
    def settle(self) -> None:
        """Returns when everything submitted is in the journal."""

    def arrive(self) -> int | None:
        """Returns when the target has applied everything submitted: the number of the last frame
        while that is not durable yet."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A directory to be listed. `touched`: its own entry differs; `deep`: visit those below it
    too."""

    path: bytes
    ino: int
    parent: int
    name: bytes
    deep: bool
    touched: bool


@dataclass(slots=True)
class Compared:
    """A directory, or some names of it, beside what the target is expected to hold."""

    ino: int
    path: bytes
    now: bytes
    changes: listing.Changes
    touches: dict[bytes, Touch] | None
    asof: int = 0


class Planner:
    """One rule's planner; used by one thread.

    probe: asks the target what it holds: [(path, skipped names)] → a listing each, None where it
    holds no such directory. trouble: told of a path that cannot be read. strict: compare content
    where the target was asked.
    """

    def __init__(
        self,
        root: Root,
        journal: Journal,
        sink: Sink,
        paths: PathSet,
        dirty: Dirty,
        watch: Watch | None,
        probe: Callable[[list[tuple[bytes, tuple[bytes, ...]]], bool], list[bytes | None]],
        trouble: Callable[[bytes, int], None],
        small_max: int,
        frame_bytes: int,
    ) -> None:
        self.root = root
        self.journal = journal
        self.sink = sink
        self.paths = paths
        self.dirty = dirty
        self.watch = watch
        self.probe = probe
        self.trouble = trouble
        self.small_max = small_max
        self.frame_bytes = frame_bytes
        self.in_doubt: set[int] = set()
        self.all_in_doubt = False
        self.strict = False
        self.examined_files = 0
        self.examined_bytes = 0
        self.changed_files = 0
        self.changed_bytes = 0
        self.mounts: set[bytes] = set()
        self._stack: list[Visit] = []
        self._gone: list[tuple[int, bytes, bytes]] = []
        self._late: dict[int, bytes] = {}
        self._batch = Batch()
        self._linking: set[int] = set()
        self._inodes: array[int] | None = None
        self._walking = False
        self._visiting: list[Visit] = []
        self._changed_dirs: set[int] = set()
        self._moves = 0
        self._twins: dict[int, int] = {}

    # ------------------------------------------------------------------ the two feeders

    def start_walk(self) -> None:
        """The whole tree is to be compared."""
        self._stack = [Visit(b"", self.root.identity.ino, 0, b"", True, False)]
        self._gone.clear()
        self._linking.clear()
        self._inodes = None
        self._walking = True
        self._changed_dirs.clear()
        self._twins.clear()
        self._moves = 0

    def walk(self, stop: Callable[[], bool]) -> bool:
        """Compares what start_walk and the visits since left to do. False when stopped before."""
        while self._stack:
            if stop():
                return False
            self._visiting = [self._stack.pop() for _ in range(min(LIST_BATCH, len(self._stack)))]
            self._visit_all(self._visiting)
            self._visiting = []
        self._finish_round()
        return True

    def live(self, works: list[Work], stop: Callable[[], bool]) -> bool:
        """Compares the dirty names that the watch gave."""
        self.sink.settle()
        self._linking.clear()
        self._walking = False
        self._changed_dirs.clear()
        self._twins.clear()
        self._moves = 0
        compared = [found for work in works if (found := self._look(work)) is not None]
        moved = [self._dirs_moved(one) for one in compared]
        if self._moves_among(compared) or any(moved):
            compared = [again for one in compared if (again := self._compare_again(one))]
        for one in compared:
            self._emit(one, visiting=())
        return self.walk(stop)

    def abandon(self, works: list[Work]) -> None:
        """The attempt died: what was taken from the dirty set and is not surely in the journal goes
        back there, for the next planner."""
        now = time.monotonic()
        for work in works:
            self.dirty.put_back(work, now)
        for visit in (*self._visiting, *self._stack):
            if visit.name:
                self.dirty.add(visit.parent, visit.name, Touch.NAME | Touch.TREE, now)
            self.dirty.add_dir(visit.ino, visit.deep, now)
        touched = self._changed_dirs.union(self._late, (ino for ino, _, _ in self._gone))
        for ino in touched:
            self.dirty.add_dir(ino, False, now)

    def doubt(self, path: bytes, ancestors: bool, look: bool = True) -> None:
        """The target may not hold what is written down for the directory that path stands in, and
        under the name itself it may hold anything. look: that is to be found out now."""
        now = time.monotonic()
        directory, _, name = path.rpartition(b"/")
        while True:
            ino = self.journal.inode(directory, self.root.identity.ino)
            if ino is not None:
                self.in_doubt.add(ino)
                self.journal.doubt(ino, directory, UNTIL_ASKED)
                if name:
                    self.journal.suspect(ino, [name], UNTIL_ASKED)
                if look:
                    self.dirty.add_dir(ino, False, now)
            name = b""
            if not directory or not ancestors:
                return
            directory = directory.rpartition(b"/")[0]

    def retry(self, path: bytes) -> None:
        """A path that was in trouble is looked at again, with its directory."""
        directory, _, name = path.rpartition(b"/")
        now = time.monotonic()
        ino = self.journal.inode(directory, self.root.identity.ino)
        if ino is not None and name:
            self.dirty.add(ino, name, Touch.DATA | Touch.NAME | Touch.TREE, now)
        own = self.journal.inode(path, self.root.identity.ino)
        if own is not None and (self.watch is None or self.watch.known(own)):
            self.dirty.add_dir(own, False, now)

    def retry_doubts(self) -> None:
        """All directories that the target is still to be asked for are looked at again."""
        for ino in self.in_doubt:
            self.dirty.add_dir(ino, False, time.monotonic())

    # ------------------------------------------------------------------ the walk

    def _visit_all(self, visits: list[Visit]) -> None:
        visits = [visit for visit in visits if self._placed_there(visit)]
        requests = [(v.path, self.paths.skip(v.path)) for v in visits]
        notify, mask, asof = -1, 0, 0
        if self.watch:
            notify, mask, asof = self.watch.descriptor, self.watch.mask, self.watch.mark()
        answers = batch.list_dirs(
            self.root.fd, self.root.dev, requests, notify=notify, mask=mask, threads=4
        )
        asked = {v.ino for v in visits if self.all_in_doubt or v.ino in self.in_doubt}
        olds = self._known([(v.ino, v.path) for v in visits])
        for visit, answer, old in zip(visits, answers, olds, strict=True):
            if old is not None:
                doubted = visit.ino in asked
                self._visited(replace(visit, touched=visit.touched or doubted), answer, old, asof)

    def _placed_there(self, visit: Visit) -> bool:
        """Whether the target holds this directory where the source does: else what is sent for it
        would go to another one. Known without looking, unless something moved meanwhile or is in
        doubt."""
        sure = not self._moves and not self.all_in_doubt and visit.ino not in self.in_doubt
        if sure or not visit.name:
            return True
        self._flush()
        self.sink.settle()
        if self.journal.path(visit.ino, self.root.identity.ino) == visit.path:
            return True
        self._again(visit)
        return False

    def _visited(self, visit: Visit, answer: batch.Listing, old: bytes, asof: int) -> None:
        if answer.status:
            self._unlisted(visit, answer.status)
            return
        own = listing.decode(answer.own)
        if own.ino != visit.ino:
            self._again(visit)
            return
        if self.watch:
            self.watch.placed(answer.wd, own.ino, visit.parent, visit.name, asof)
        now = self._included(visit.path, answer.entries)
        self.examined_files += answer.n - answer.dirs
        self.examined_bytes += answer.bytes
        told = listing.probed(old)
        if told:
            now = self._digested(visit.path, now)
        changes = listing.diff(old, now, self.small_max)
        if told:
            changes = self._adopt(visit, old, now, changes)
        differing: dict[bytes, Verdict] = {}
        if changes is not None:
            differing = {e.name: Verdict(e.verdict) for e in listing.entries(changes.dirs)}
        below: list[Visit] = []
        for entry in listing.kept(now, Kind.DIR) if answer.dirs else ():
            path = join(visit.path, entry.name)
            verdict = differing.get(entry.name, Verdict.SAME)
            if entry.flags & MOUNT:
                self.mounts.add(path)
            elif (
                visit.deep
                or verdict not in (Verdict.SAME, Verdict.META)
                or not self._stands(entry.ino, visit.ino, entry.name, asof)
            ):
                touched = verdict != Verdict.SAME
                below.append(Visit(path, entry.ino, visit.ino, entry.name, True, touched))
        if changes is not None:
            found = Compared(visit.ino, visit.path, now, changes, None, asof)
            self._emit(found, {v.name for v in below})
        self._stack.extend(reversed(below))
        if visit.touched or changes is not None or (not visit.name and self._root_differs(own)):
            parent = visit.path[: -len(visit.name) - 1] if visit.name else b""
            self._meta(visit.parent, parent, replace(own, name=visit.name), visit.ino, visit.path)

    def _stands(self, ino: int, parent: int, name: bytes, asof: int) -> bool:
        return self.watch is None or self.watch.stands(ino, parent, name, asof)

    def _root_differs(self, own: Entry) -> bool:
        held = self.journal.get("root")
        return held is None or listing.diff(held, named_root(own), 0) is not None

    def _included(self, path: bytes, now: bytes) -> bytes:
        """The listing without names that a pattern excludes; exact names were left out in C."""
        if not self.paths.has_globs:
            return now
        out = [e.name for e in listing.entries(now) if self.paths.matches(path, e.name)]
        return listing.merge(now, b"".join(tombstone(n) for n in out)) if out else now

    def _digested(self, path: bytes, now: bytes) -> bytes:
        """Where the target told its side, our side's attributes (strict: content) are read as
        well."""
        if not now:
            return now
        groups = bytearray(batch.group(path, now))
        batch.digest_files(self.root.fd, self.root.dev, groups, content=self.strict, threads=4)
        ((_, filled),) = batch.groups(groups)
        return listing.cleared(filled)

    def _unlisted(self, visit: Visit, status: int) -> None:
        """A directory that could not be listed deletes nothing."""
        if not visit.name:
            raise SafetyStop(
                f"cannot list the root of the source: {os.strerror(status)}",
                "mount it or make it readable; nothing was deleted",
            )
        if status in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            self._again(visit)
        elif status == errno.EXDEV:
            self.mounts.add(visit.path)
        else:
            self.trouble(visit.path, status)

    def _again(self, visit: Visit) -> None:
        """What was seen is no longer so: the parent's name is looked at anew."""
        now = time.monotonic()
        self.dirty.add(visit.parent, visit.name, Touch.NAME | Touch.TREE, now)
        self.dirty.add_dir(visit.ino, visit.deep, now)

    # ------------------------------------------------------------------ what the target holds

    def _known(self, dirs: list[tuple[int, bytes]]) -> list[bytes | None]:
        """What the target is expected to hold in each directory; asked of it where in doubt. None:
        it was asked and has no such directory, which the one above is to be asked about."""
        ask = [(i, p) for i, p in dirs if self.all_in_doubt or i in self.in_doubt]
        told: dict[int, bytes | None] = {}
        if ask:
            # What is on its way would arrive behind the answer, and change what it says.
            self._flush()
            pending = self.sink.arrive()
            answers = self.probe([(p, self.paths.skip(p)) for _, p in ask], self.strict)
            for (ino, path), answer in zip(ask, answers, strict=True):
                told[ino] = self._heard(ino, path, answer, pending)
        return [told[ino] if ino in told else self.journal.listing(ino) for ino, _ in dirs]

    def _heard(
        self, ino: int, path: bytes, answer: bytes | None, pending: int | None
    ) -> bytes | None:
        if answer is None and path:
            self.doubt(path, ancestors=True)
            return None
        heard = self._included(path, answer or b"")
        if not self.strict:
            heard = believe(heard, self.journal.listing(ino), self.journal.suspects(ino))
        self.journal.replace(ino, heard)
        self.in_doubt.discard(ino)
        self.journal.certain(ino)
        if not path:
            # No listing tells what the target's root itself looks like: it is set anew.
            self.journal.set("root", b"")
        if pending is not None:
            self.journal.doubt(ino, path, pending)
        return heard

    def _adopt(
        self, visit: Visit, old: bytes, now: bytes, changes: listing.Changes | None
    ) -> listing.Changes | None:
        """Names that the target told of and both sides turn out to agree on are known from now on.
        Those that are linked otherwise there join what differs."""
        c = changes
        same = settled(now, (c.dirs, c.bulk, c.large, c.linked)) if c else now
        told = {e.name: e for e in listing.entries(old) if e.flags & PROBED}
        agreed: list[Entry] = []
        split: list[Entry] = []
        joined: list[Entry] = []
        for entry in listing.entries(same):
            theirs = told.get(entry.name)
            if theirs is None:
                continue
            if entry.kind == Kind.DIR or (entry.nlink < 2 and theirs.nlink < 2):
                agreed.append(entry)
            elif entry.nlink < 2:
                split.append(replace(entry, verdict=Verdict.NEW, content=bytes(16)))
            elif self._twin(entry, theirs):
                agreed.append(entry)
            else:
                joined.append(replace(entry, verdict=Verdict.DATA))
        work = self._dir(visit.ino, visit.path)
        work.before_edits.append(Put(visit.ino, b"".join(known(e) for e in agreed)))
        work.before_edits += [
            self._place(e, visit.ino) for e in agreed if self._placed(e) and e.ino
        ]
        for entry in listing.kept(c.dirs, Kind.DIR) if c else ():
            # It is there, whatever its own attributes are: what goes into it must find the way.
            if entry.verdict == Verdict.META and entry.ino and not entry.flags & MOUNT:
                work.before_edits.append(self._place(entry, visit.ino))
        if not split and not joined:
            return changes
        if joined:
            # The name that they are to join must be found.
            self._flush()
            self.sink.settle()
        large = [e for e in split if e.kind == Kind.FILE and e.size > self.small_max]
        bulk = [e for e in split if e not in large]
        c = changes or listing.Changes(b"", b"", b"", b"", b"")
        return listing.Changes(
            gone=c.gone,
            dirs=c.dirs,
            bulk=_with(c.bulk, bulk),
            large=_with(c.large, large),
            linked=_with(c.linked, joined),
        )

    def _twin(self, entry: Entry, theirs: Entry) -> bool:
        """Whether the target's file is, or may become, the one that all names of ours share."""
        twin = self._twins.get(theirs.ino)
        if twin is None and entry.ino not in self._twins.values() and not self._link_places(entry):
            self._twins[theirs.ino] = twin = entry.ino
        return twin == entry.ino

    def _place(self, entry: Entry, parent: int) -> Place:
        sole = entry.kind == Kind.DIR or entry.nlink < 2
        return Place(entry.ino, parent, entry.name, sole)

    def _placed(self, entry: Entry) -> bool:
        """Whether the journal keeps where the target holds this: what may move or be linked."""
        return entry.kind == Kind.DIR or entry.nlink > 1 or entry.size > self.small_max

    # ------------------------------------------------------------------ live names

    def _look(self, work: Work) -> Compared | None:
        """Lists the dirty names of a directory. None: nothing differs, or it was dealt with."""
        assert self.watch is not None
        path = self.watch.path(work.ino)
        if path is None:
            if self.watch.known(work.ino):
                self.dirty.put_back(work, time.monotonic())
            return None
        if self.journal.path(work.ino, self.root.identity.ino) != path:
            self.dirty.put_back(work, time.monotonic())
            self._settle_path(work.ino)
            return None
        if work.names is None or work.ino in self.in_doubt:
            self._revisit(work.ino, path, work.recursive)
            return None
        if b"" in work.names:
            self._late[work.ino] = path
        skip = set(self.paths.skip(path))
        names = sorted(n for n in work.names if n and n not in skip)
        if self.paths.has_globs:
            names = [n for n in names if not self.paths.matches(path, n)]
        if not names:
            return None
        asof = self.watch.mark()
        answer = batch.stat_names(self.root.fd, self.root.dev, path, names)
        if answer.status or listing.decode(answer.own).ino != work.ino:
            # It moved or went a moment ago; the watch is about to hear where to.
            self.dirty.put_back(work, time.monotonic())
            if answer.status not in (0, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.trouble(path, answer.status)
            return None
        for entry in listing.kept(answer.entries, Kind.DIR) if work.trees else ():
            if entry.name in work.trees and not entry.flags & MOUNT:
                self._arm(join(path, entry.name), entry.ino, work.ino, entry.name, asof)
        old = self.journal.select(work.ino, names)
        changes = listing.diff(old, answer.entries, self.small_max)
        if changes is None:
            return None
        return Compared(work.ino, path, answer.entries, changes, work.names, asof)

    def _arm(self, path: bytes, ino: int, parent: int, name: bytes, asof: int) -> None:
        """A directory that may not be watched is visited with all below it."""
        assert self.watch is not None
        if not self.watch.stands(ino, parent, name, asof):
            self._stack.append(Visit(path, ino, parent, name, True, False))

    def _revisit(self, ino: int, path: bytes, deep: bool) -> None:
        assert self.watch is not None
        where = self.watch.place(ino)
        parent, name = where if where else (0, b"")
        self._stack.append(Visit(path, ino, parent, name, deep, True))

    def _settle_path(self, ino: int) -> None:
        """An ancestor moved and its new name has not been looked at: that comes first, then
        this."""
        assert self.watch is not None
        child = ino
        stale: tuple[int, bytes] | None = None
        while (where := self.watch.place(child)) is not None and where[0]:
            if (where[0], where[1]) not in self.journal.places(child):
                stale = where
            child = where[0]
        if stale:
            self.dirty.add(stale[0], stale[1], Touch.NAME | Touch.TREE, time.monotonic())

    def _dirs_moved(self, one: Compared) -> bool:
        """Renames directories that the target holds under other names: before anything takes
        these names, or is deleted with what stands there."""
        moved = False
        for entry in listing.kept(one.changes.dirs, Kind.DIR):
            if entry.verdict == Verdict.META:
                continue
            where = self._moved_from(entry)
            if where is None or where == (one.ino, entry.name):
                continue
            held = self._held(*where)
            if held is not None and self._move(held, where[0], one.ino, entry):
                moved = True
                path = join(one.path, entry.name)
                self._late[entry.ino] = path
                if self.watch and one.touches is not None:
                    self._arm(path, entry.ino, one.ino, entry.name, one.asof)
        return moved

    def _moves_among(self, compared: list[Compared]) -> bool:
        """Names gone and names new with the same inode, in one round, are one rename."""
        gone: dict[int, tuple[Compared, Entry]] = {}
        for one in compared:
            for entry in listing.entries(one.changes.gone):
                if not entry.flags & (PROBED | MOUNT) and entry.nlink < 2:
                    gone[entry.ino] = (one, entry)
        moved = False
        for one in compared if gone else ():
            for section in (one.changes.bulk, one.changes.large):
                for entry in listing.entries(section):
                    pair = gone.get(entry.ino)
                    if pair is not None and same_file(entry, pair[1]):
                        moved |= self._move(pair[1], pair[0].ino, one.ino, entry)
        return moved

    def _compare_again(self, one: Compared) -> Compared | None:
        """After renames the target holds something else under these names."""
        c = one.changes
        if one.touches is not None and self._moves:
            # Its own way up may be among what moved.
            root = self.root.identity.ino
            if self.journal.path(one.ino, root) != one.path:
                for name, touch in one.touches.items():
                    self.dirty.add(one.ino, name, touch, time.monotonic())
                return None
        names = {
            e.name
            for section in (c.gone, c.dirs, c.bulk, c.large, c.linked)
            for e in listing.entries(section)
        }
        old = self.journal.select(one.ino, sorted(names))
        seen = b"".join(listing.encode(e) for e in listing.entries(one.now) if e.name in names)
        changes = listing.diff(old, seen, self.small_max)
        return replace(one, changes=changes) if changes else None

    # ------------------------------------------------------------------ moves

    def _moved_from(self, entry: Entry) -> tuple[int, bytes] | None:
        """Where the target holds this inode, if it is known to hold it under another name."""
        if not entry.ino or entry.flags & MOUNT:
            return None
        if not self.journal.places(entry.ino):
            return None
        self._flush()
        self.sink.settle()
        for parent, name in self.journal.places(entry.ino):
            held = self._held(parent, name)
            if held is not None and same_file(held, entry):
                return parent, name
        return None

    def _held(self, parent: int, name: bytes) -> Entry | None:
        found = self.journal.select(parent, [name])
        return next(iter(listing.entries(found)), None)

    def _move(self, old: Entry, old_dir: int, new_dir: int, entry: Entry) -> bool:
        """Sends the rename of what the target holds as old to entry's name. False: not possible."""
        root = self.root.identity.ino
        source, target = self.journal.path(old_dir, root), self.journal.path(new_dir, root)
        if source is None or target is None:
            return False
        here, there = join(source, old.name), join(target, entry.name)
        if there == here or there.startswith(here + b"/"):
            return False
        in_way = self._held(new_dir, entry.name)
        self._flush()
        work = self._batch
        self._dir(old_dir, source)
        self._dir(new_dir, target)
        moved = replace(old, name=entry.name)
        if in_way is not None and (in_way.kind == Kind.DIR or old.kind == Kind.DIR):
            work.before.append(batch.step(Op.EXCHANGE, here, there, kind=old.kind))
            displaced = replace(in_way, name=old.name)
            work.before_edits.append(Put(old_dir, known(displaced)))
            if not in_way.flags & PROBED:
                work.before_edits += [
                    Unplace(in_way.ino, new_dir, entry.name),
                    self._place(displaced, old_dir),
                ]
            self.dirty.add(old_dir, old.name, Touch.NAME | Touch.TREE, time.monotonic())
            self._gone.append((old_dir, source, known(displaced)))
        else:
            work.before.append(batch.step(Op.RENAME, here, there, kind=old.kind))
            work.before_edits.append(Put(old_dir, tombstone(old.name)))
            if in_way is not None and not in_way.flags & PROBED:
                work.before_edits.append(Unplace(in_way.ino, new_dir, entry.name))
        work.before_edits += [
            Unplace(old.ino, old_dir, old.name),
            Put(new_dir, known(moved)),
        ]
        if self._placed(old):
            work.before_edits.append(self._place(moved, new_dir))
        if old.kind == Kind.DIR or (in_way is not None and in_way.kind == Kind.DIR):
            self._moves += 1
        self._late[old_dir] = source
        self._late[new_dir] = target
        self._flush()
        self.sink.settle()
        return True

    # ------------------------------------------------------------------ what to do

    def _emit(self, found: Compared, visiting: Iterable[bytes]) -> None:
        """Puts what differs in one directory into batches."""
        if found.touches is None and self._dirs_moved(found):
            again = self._compare_again(found)
            if again is None:
                return
            found = again
        c = found.changes
        if found.touches is not None:
            # Whatever is put there or taken away moves the times of the directory on the target.
            self._late[found.ino] = found.path
        for entry in listing.entries(c.dirs):
            self._dir_entry(found, entry, entry.name in visiting)
        self._small(found)
        for entry in listing.entries(c.large):
            self._large(found, entry)
        for entry in listing.entries(c.linked):
            self._linked(found, entry)
        if c.gone:
            self._gone.append((found.ino, found.path, c.gone))
            if self.watch:
                for entry in listing.kept(c.gone, Kind.DIR):
                    self.watch.gone(entry.ino, found.ino, entry.name, found.asof)

    def _dir_entry(self, found: Compared, entry: Entry, visited: bool) -> None:
        path = join(found.path, entry.name)
        if entry.verdict == Verdict.META:
            if not visited:
                self._late[entry.ino] = path
            return
        held = self._held(found.ino, entry.name) if entry.verdict != Verdict.NEW else None
        swapped = held is not None and held.kind == Kind.DIR and held.ino != entry.ino
        ours = swapped and (found.ino, entry.name) in self.journal.places(held.ino if held else 0)
        work = self._dir(found.ino, found.path)
        if held is not None and ours and not held.flags & PROBED:
            work.before_edits += [
                Unplace(held.ino, found.ino, entry.name),
                Rekey(held.ino, entry.ino),
            ]
        else:
            if self.journal.listing(entry.ino):
                self._flush()
                self.sink.settle()
                self.journal.forget(entry.ino)
            work = self._dir(found.ino, found.path)
            if swapped:
                # What it holds is known under a number that another directory has by now.
                work.before.append(batch.step(Op.REMOVE, path, kind=Kind.DIR))
            work.before.append(make_dir(path, entry))
        unknown = replace(entry, mtime_s=0, mtime_ns=0, ctime=0)
        work.before_edits += [
            Put(found.ino, known(entry if entry.flags & MOUNT else unknown)),
            self._place(entry, found.ino),
        ]
        self._count(1, 0)
        if entry.verdict == Verdict.SWAPPED:
            self._flush()
            self.sink.settle()
        if not visited and not entry.flags & MOUNT:
            self._stack.append(Visit(path, entry.ino, found.ino, entry.name, True, True))

    def _small(self, found: Compared) -> None:
        """Small files and the like, cut to what fits a batch."""
        rest = found.changes.bulk
        while rest:
            room_entries = max(1, BATCH_ENTRIES - self._batch.entries)
            room_bytes = max(1, self.frame_bytes - self._batch.bytes)
            end, entries, size = listing.cut(rest, room_entries, room_bytes)
            self._dir(found.ino, found.path).files.append((found.ino, found.path, rest[:end]))
            self._changed(entries, size)
            self._count(entries, size)
            rest = rest[end:]

    def _large(self, found: Compared, entry: Entry) -> None:
        if entry.verdict == Verdict.NEW or entry.verdict == Verdict.DATA:
            held = self._held(found.ino, entry.name)
            if held is None or held.ino != entry.ino:
                moved = self._moved_from(entry)
                if moved is not None and moved != (found.ino, entry.name):
                    old = self._held(*moved)
                    if old is not None and self._move(old, moved[0], found.ino, entry):
                        held = replace(old, name=entry.name)
                        entry = replace(
                            entry, verdict=Verdict.DATA, content=old.content, attrs=old.attrs
                        )
            touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
            trusted = held is not None and not touch & Touch.DATA and same_content(held, entry)
        else:
            trusted = False
        work = self._dir(found.ino, found.path)
        work.large.append(Large(found.ino, join(found.path, entry.name), entry, trusted))
        work.before_edits.append(self._place(entry, found.ino))
        self._changed(1, entry.size)
        self._count(1, min(entry.size, self.frame_bytes))

    def _linked(self, found: Compared, entry: Entry) -> None:
        """One name of a file that has several: its content once, the other names as links."""
        if entry.ino in self._linking or (found.touches is not None and self._batch):
            # What this round already did to the file's names must stand in the journal, and live
            # also what it did to files that had one name until a moment ago.
            self._flush()
            self.sink.settle()
            self._linking.clear()
        self._linking.add(entry.ino)
        held = self._held(found.ino, entry.name)
        here = held is not None and same_file(held, entry)
        if here and held is not None and held.ctime == entry.ctime and not held.flags & RACY:
            return
        path = join(found.path, entry.name)
        others = [
            (parent, name, join(base, name))
            for parent, name in self._link_places(entry)
            if (parent, name) != (found.ino, entry.name)
            and (base := self.journal.path(parent, self.root.identity.ino)) is not None
        ]
        work = self._dir(found.ino, found.path)
        place = Place(entry.ino, found.ino, entry.name)
        self._late[found.ino] = found.path
        if others and not here:
            parent, name, base = others[0]
            known_as = self._held(parent, name)
            assert known_as is not None
            work.after.append(batch.step(Op.LINK, path, base, kind=entry.kind))
            # As it is known there: what it has become since is told under a name of its own. And
            # the first name was not kept while it was the only one.
            work.after_edits += [
                Put(found.ino, known(replace(known_as, name=entry.name))),
                place,
                Place(entry.ino, parent, name),
            ]
            self._count(1, 0)
            return
        self._changed(1, entry.size)
        work.linked.append(Linked(Large(found.ino, path, entry), tuple(others)))
        work.before_edits.append(place)
        for parent, name, other in others:
            directory = other[: -len(name) - 1]
            work.dirs[parent] = directory
            self._late[parent] = directory
        self._count(1, min(entry.size, self.frame_bytes))

    def _link_places(self, entry: Entry) -> list[tuple[int, bytes]]:
        """Where the target holds names of this inode; those that no longer hold it are passed
        over."""
        found = self._holding(self.journal.places(entry.ino), entry)
        if not found and self._may_hold(entry.ino):
            found = self._holding(self.journal.find_inode(entry.ino), entry)
        return found

    def _holding(self, places: list[tuple[int, bytes]], entry: Entry) -> list[tuple[int, bytes]]:
        return [
            (parent, name)
            for parent, name in places
            if (held := self._held(parent, name)) is not None and same_file(held, entry)
        ]

    def _may_hold(self, ino: int) -> bool:
        """Whether the journal may know an inode of which it keeps no place: a file that had one
        name when it was sent. A walk asks a snapshot of all numbers, since a search for each group
        of a tree full of links would take forever; live, the journal itself is searched."""
        if not self._walking:
            return True
        if self._inodes is None:
            self._inodes = self.journal.inodes()
        at = bisect_left(self._inodes, ino)
        return at < len(self._inodes) and self._inodes[at] == ino

    def _meta(
        self, parent: int, parent_path: bytes, entry: Entry, doubt: int, doubt_path: bytes
    ) -> None:
        record = listing.encode(replace(entry, name=entry.name or ROOT, verdict=Verdict.META))
        self._dir(doubt, doubt_path).metas.append((parent, parent_path, record))
        if parent:
            self._batch.dirs[parent] = parent_path
        self._count(1, 0)

    # ------------------------------------------------------------------ batches

    def _dir(self, ino: int, path: bytes) -> Batch:
        self._batch.dirs[ino] = path
        self._changed_dirs.add(ino)
        return self._batch

    def _count(self, entries: int, size: int) -> None:
        work = self._batch
        work.entries += entries
        work.bytes += size
        if work.entries >= BATCH_ENTRIES or work.bytes >= self.frame_bytes:
            self._flush()

    def _changed(self, files: int, size: int) -> None:
        self.changed_files += files
        self.changed_bytes += size

    def _flush(self) -> None:
        if self._batch:
            work, self._batch = self._batch, Batch()
            self.sink.submit(work)

    def _finish_round(self) -> None:
        """Deletes come last, and only what is still expected to be there under that name."""
        if self._gone:
            self._flush()
            self.sink.settle()
            if not self.root.still_there():
                raise SafetyStop(
                    "the root of the source was unmounted or replaced while it was read",
                    "mount it again; nothing was deleted",
                )
            gone, self._gone = self._gone, []
            for ino, path, section in gone:
                self._remove(ino, path, section)
        late, self._late = self._late, {}
        for ino, path in late.items():
            self._own_meta(ino, path)
        self._batch.last = True
        work, self._batch = self._batch, Batch()
        self.sink.submit(work)

    def _remove(self, ino: int, path: bytes, section: bytes) -> None:
        names = [e.name for e in listing.entries(section)]
        held = {e.name: e for e in listing.entries(self.journal.select(ino, names))}
        seen = batch.stat_names(self.root.fd, self.root.dev, path, names)
        if seen.status not in (0, errno.ENOENT, errno.ENOTDIR):
            return
        back = {e.name for e in listing.entries(seen.entries)} if not seen.status else set()
        target = self.journal.path(ino, self.root.identity.ino)
        if target is None:
            return
        for name in names:
            entry = held.get(name)
            if entry is None or name in back:
                continue
            work = self._dir(ino, target)
            work.before.append(batch.step(Op.REMOVE, join(target, name), kind=entry.kind))
            work.before_edits.append(Put(ino, tombstone(name)))
            if not entry.flags & PROBED:
                kind = Forget if entry.kind == Kind.DIR else Unplace
                work.before_edits.append(kind(entry.ino, ino, name))
            self._late[ino] = path
            self._count(1, 0)

    def _own_meta(self, ino: int, path: bytes) -> None:
        """A directory whose names changed after its content was sent gets its times once more."""
        answer = batch.stat_names(self.root.fd, self.root.dev, path, [])
        if answer.status:
            return
        own = listing.decode(answer.own)
        if ino == self.root.identity.ino:
            self._meta(0, b"", own, ino, path)
            return
        parent_path, _, name = path.rpartition(b"/")
        for parent, held_name in self.journal.places(ino):
            if held_name == name:
                self._meta(parent, parent_path, replace(own, name=name), ino, path)
                return


def _with(section: bytes, more: Iterable[Entry]) -> bytes:
    return listing.sort(section + b"".join(map(listing.encode, more)))
