"""Finds what differs between the source and what the target is expected to hold, and says what to
do.

One way for both feeders: the walk visits whole directories, the watch names some names of a
directory; both are listed in C, compared with the journal's listing, and end in Batches. The
journal is keyed by the source's inode numbers, so that a directory that only moved compares as
unchanged.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.sweep import GRAIN_NS, Name
from i2node.fs.touch import Touch, Work
from i2node.fs.watch import Watch
from i2node.model import MOUNT, PROBED, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.repl.assumed import Assumed
from i2node.repl.belief import Belief, Probe
from i2node.repl.draft import Draft, Sink
from i2node.repl.emit import Emitter
from i2node.repl.journal import Journal
from i2node.repl.moves import Moves
from i2node.repl.plan import Compared, Visit, join, named_root, racy, settled, unlisted, without
from i2node.repl.vigil import Vigil

LIST_BATCH = 64
_UNTOLD = Touch.UNTOLD.value


class Planner:
    """One rule's planner; used by one thread.

    probe: see Belief. trouble: see Troubles.unreadable. vigil: says of which files the
    content is to be looked at whatever stat says.
    """

    def __init__(
        self,
        root: Root,
        journal: Journal,
        sink: Sink,
        paths: PathSet,
        dirty: Dirty,
        watch: Watch | None,
        probe: Probe,
        trouble: Callable[[bytes, int, Name], None],
        small_max: int,
        frame_bytes: int,
        vigil: Vigil | None = None,
    ) -> None:
        self.root = root
        self.journal = journal
        self.paths = paths
        self.dirty = dirty
        self.watch = watch
        self.vigil = vigil
        self.trouble = trouble
        self.small_max = small_max
        self.draft = Draft(journal, sink, small_max, frame_bytes)
        self.assumed = Assumed(root.identity.ino, journal, self.draft)
        self.belief = Belief(root, journal, self.draft, paths, dirty, probe, self.assumed)
        self.moves = Moves(root.identity.ino, journal, self.draft, dirty, self.belief, self._arm)
        self._stack: list[Visit] = []
        self._visiting: list[Visit] = []
        self.emitter = Emitter(
            root,
            journal,
            self.draft,
            self.moves,
            dirty,
            watch,
            self._stack.append,
            self.belief,
            trouble,
        )
        self.examined_files = 0
        self.examined_bytes = 0
        self.mounts: tuple[bytes, ...] = ()
        """Where other file systems stand, sorted. Replaced, never changed: reports read it."""

    def start_walk(self, first: bool = False) -> None:
        """The whole tree is to be compared. first: as none was before."""
        self.assumed.first = first
        top = self.root.identity.ino
        assumed = self.assumed.goes_on(True, top, 0, b"")
        self._stack[:] = [Visit(b"", top, 0, b"", True, False, assumed=assumed)]
        self.mounts = ()
        self.draft.gone.clear()
        self.emitter.begin()
        self.draft.dirs.clear()
        self.belief.begin()
        self.moves.begin([])

    def walk(self, stop: Callable[[], bool]) -> bool:
        """Compares what start_walk and the visits since left to do. False when stopped before."""
        while self._stack:
            if stop():
                return False
            self._visiting = self._next()
            self._visit_all(self._visiting)
            self._visiting = []
        self.emitter.finish()
        return True

    def live(self, works: list[Work], stop: Callable[[], bool]) -> bool:
        """Compares the dirty names that the watch gave."""
        self.draft.sink.settle()
        for ino, name in self.vigil.take() if self.vigil else ():
            self._doubt_content(ino, self.watch.path(ino) if self.watch else None, [name])
        self.emitter.links.begin(walking=False)
        self.draft.dirs.clear()
        self.belief.begin()
        self.moves.begin(works)
        held = self.journal.paths((work.ino for work in works), self.root.identity.ino)
        looks = (self._look(work, held[work.ino]) for work in works)
        compared = [found for found in looks if found is not None]
        moved = [self.moves.dirs_of(one) for one in compared]
        if self.moves.files_among(compared) or any(moved):
            compared = [again for one in compared if (again := self.emitter.compare_again(one))]
        for one in self.moves.under_way(compared):
            self.emitter.emit(one, visiting=())
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
        touched = self.draft.dirs.union(self.draft.late, (ino for ino, _, _ in self.draft.gone))
        for ino in touched:
            self.dirty.add_dir(ino, False, now)

    def settled(self) -> None:
        """All that was submitted is in the journal: should the attempt die, none of it is to be
        looked at again."""
        self.draft.dirs.clear()

    def retry(self, path: bytes, place: Name | None) -> None:
        """A path that was in trouble is looked at again, with its directory. place: see Troubles;
        None: it is looked for by its path."""
        if place is None:
            directory, _, name = path.rpartition(b"/")
            found = self.journal.inode(directory, self.root.identity.ino)
            if found is None:
                return
            place = found, name
        now = time.monotonic()
        own = self.journal.occupant(*place) if place[1] else place[0]
        above = self.watch.place(place[0]) if self.watch and not place[1] else place
        if above is not None and above[1]:
            self.dirty.add(*above, Touch.DATA | Touch.NAME | Touch.TREE, now)
        if own is not None and (self.watch is None or self.watch.known(own)):
            self.dirty.add_dir(own, False, now)

    def retry_all(self) -> None:
        """Everything is looked at again."""
        self.dirty.add_dir(self.root.identity.ino, True, time.monotonic())

    def retry_doubts(self) -> None:
        """All directories that the target is still to be asked for are looked at again."""
        for ino in self.belief.in_doubt:
            self.dirty.add_dir(ino, False, time.monotonic())

    def _next(self) -> list[Visit]:
        """Visits that can be made together: none of a directory that was just visited, or in which
        one was, since what that makes of it is what this is to be compared with."""
        taken: list[Visit] = []
        met: set[int] = set()
        while self._stack and len(taken) < LIST_BATCH and self._stack[-1].ino not in met:
            visit = self._stack.pop()
            taken.append(visit)
            met.update((visit.ino, visit.parent))
        return taken

    def _visit_all(self, visits: list[Visit]) -> None:
        visits = [visit for visit in visits if self._placed_there(visit)]
        requests = [(v.path, self.paths.skip(v.path)) for v in visits]
        notify, mask, asof = -1, 0, 0
        if self.watch:
            notify, mask, asof = self.watch.descriptor, self.watch.mask, self.watch.mark()
        answers = self.root.list_dirs(requests, notify=notify, mask=mask, partial=True, threads=4)
        olds, asked = self.belief.known(visits)
        moved = self.moves.count
        for visit, answer, old in zip(visits, answers, olds, strict=True):
            if old is not None and self.moves.count != moved:
                # That was known before one of these visits moved a directory.
                there = self._placed_there(visit)
                unmade = self.draft.is_unmade(visit)
                old = (b"" if unmade else self.journal.listing(visit.ino)) if there else None
            if old is not None:
                if visit.ino in asked:
                    visit = replace(visit, touched=True)
                self._visited(visit, answer, old, asof)

    def _placed_there(self, visit: Visit) -> bool:
        """Whether the target holds this directory where the source does: else what is sent for it
        would go to another one. Known without looking, unless something moved meanwhile or is in
        doubt."""
        unmade = self.draft.is_unmade(visit)
        doubted = self.belief.doubted(visit.ino) and not unmade
        if not visit.name or not (self.moves.count or doubted):
            return True
        self.draft.settle()
        known, path = (visit.parent, visit.above) if unmade else (visit.ino, visit.path)
        if self.journal.path(known, self.root.identity.ino) == path:
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
        unread: set[bytes] = set()
        if answer.unread:
            answer, unread = self._readable(visit.ino, visit.path, answer)
            if answer.status:
                self._unlisted(visit, answer.status)
                return
            old = without(old, unread)
        self.emitter.make(visit)
        if self.watch:
            self.watch.placed(answer.wd, own.ino, visit.parent, visit.name, asof)
        if self.watch and (children := self.watch.children(visit.ino)):
            here = {e.name for e in listing.kept(answer.entries, Kind.DIR)}
            for name in children.keys() - here - unread:
                self.watch.gone(children[name], visit.ino, name, asof)
        now = self.belief.included(visit.path, answer.entries)
        self.examined_files += answer.n - answer.dirs
        self.examined_bytes += answer.bytes
        if visit.assumed:
            old = listing.merge(old, self.assumed.take(visit.ino, visit.path, now))
        told = listing.probed(old)
        if told:
            now = self.belief.digested(visit.ino, visit.path, now)
        changes = listing.diff(old, now, self.small_max)
        if told:
            changes = self.belief.adopt(visit, old, now, changes)
        differing: dict[bytes, Verdict] = {}
        if changes is not None:
            if self.watch:
                self.emitter.links.left(visit.ino, old, now)
            differing = {e.name: Verdict(e.verdict) for e in listing.entries(changes.dirs)}
        below: list[Visit] = []
        theirs = {e.name for e in listing.kept(old, Kind.DIR) if e.flags & PROBED} if told else ()
        for entry in listing.kept(now, Kind.DIR) if answer.dirs else ():
            path = join(visit.path, entry.name)
            verdict = differing.get(entry.name, Verdict.SAME)
            hidden = path in self.mounts
            self._mounted(path, bool(entry.flags & MOUNT))
            if entry.flags & MOUNT:
                continue
            unsure = self.belief.unsure(visit, entry, path)
            strange = entry.name in theirs
            if strange:
                # It is as the target tells, not as was written down: what was written down of its
                # content, by its number at the source, may be that of another one.
                self.belief.ask(entry.ino, path)
            deep = (
                visit.deep
                or unsure
                or hidden  # what happened there meanwhile could not be looked at
                or verdict not in (Verdict.SAME, Verdict.META)
                or not self._stands(entry.ino, visit.ino, entry.name, asof)
            )
            if deep or strange:
                touched = verdict != Verdict.SAME
                place = (entry.ino, visit.ino, entry.name)
                assumed = self.assumed.goes_on(visit.assumed, *place)
                below.append(Visit(path, *place, deep, touched, unsure, assumed))
        if changes is not None:
            found = Compared(visit.ino, visit.path, now, changes, None, asof)
            self.emitter.emit(found, {v.name for v in below})
        self._stack.extend(reversed(below))
        self.belief.visited(visit.ino, visit.path)
        differs = visit.touched or changes is not None
        differs = differs or (not visit.name and self._root_differs(own))
        if differs:
            self.emitter.dress(visit, own)

    def _readable(
        self, ino: int, path: bytes, answer: batch.Listing
    ) -> tuple[batch.Listing, set[bytes]]:
        """Tells of the names that stat(2) fails for; gives the answer without them, and them. Of
        what they stand for nothing is known, so that nothing is done about it. Where a directory
        may not be searched, it is that directory which cannot be read."""
        unread = {e.name: e.status for e in listing.troubled(answer.entries)}
        if len(unread) == answer.n and set(unread.values()) == {errno.EACCES}:
            return replace(answer, status=errno.EACCES), set()
        for name, status in unread.items():
            if not self.paths.matches(path, name):
                self.trouble(join(path, name), status, (ino, name))
        entries = without(answer.entries, unread)
        return replace(answer, n=answer.n - len(unread), entries=entries), set(unread)

    def _mounted(self, path: bytes, so: bool) -> None:
        if (path in self.mounts) != so:
            self.mounts = tuple(sorted({*self.mounts, path} if so else {*self.mounts} - {path}))

    def _mount_on(self, path: bytes) -> bytes:
        """The mount point on the way to a directory that lies behind one."""
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            if self.root.stat_names(above, ()).status == errno.EXDEV:
                return above
        return path

    def _stands(self, ino: int, parent: int, name: bytes, asof: int) -> bool:
        return self.watch is None or self.watch.stands(ino, parent, name, asof)

    def _root_differs(self, own: Entry) -> bool:
        held = self.journal.get("root")
        return held is None or listing.diff(held, named_root(own), 0) is not None

    def _unlisted(self, visit: Visit, status: int) -> None:
        """A directory that could not be listed deletes nothing."""
        if not visit.name:
            raise unlisted(status)
        if status in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            self._again(visit)
            return
        self.emitter.make(visit)
        if status == errno.EXDEV:
            self._mounted(self._mount_on(visit.path), True)
            return
        known = self.watch is not None and self.watch.known(visit.ino)
        self.trouble(visit.path, status, (visit.ino, b"") if known else (visit.parent, visit.name))
        # Its own mode, owner and times are told by the one above.
        seen = self.root.stat_names(visit.above, [visit.name])
        own = None if seen.status else listing.find(seen.entries, visit.name)
        if own is not None and own.ino == visit.ino and own.kind == Kind.DIR:
            self.emitter.dress(visit, own)

    def _again(self, visit: Visit) -> None:
        """What was seen is no longer so: the parent's name is looked at anew."""
        now = time.monotonic()
        self.emitter.give_up(visit)
        self.dirty.add(visit.parent, visit.name, Touch.NAME | Touch.TREE, now)
        self.dirty.put_back(Work(visit.ino, None, visit.deep, frozenset(), now), now)

    def _look(self, work: Work, held: bytes | None) -> Compared | None:
        """Lists the dirty names of a directory, of which the journal has this path. None: nothing
        differs, or it was dealt with."""
        assert self.watch is not None
        path = self.watch.path(work.ino)
        if path is None:
            if self.watch.known(work.ino):
                self.dirty.put_back(work, time.monotonic())
            return None
        if held != path:
            self.dirty.put_back(work, time.monotonic())
            self._settle_path(work.ino)
            return None
        if work.names is None or work.ino in self.belief.in_doubt:
            self._revisit(work, path)
            return None
        if b"" in work.names:
            self.draft.late[work.ino] = path
        skip = set(self.paths.skip(path))
        names = sorted(n for n in work.names if n and n not in skip)
        if self.paths.has_globs:
            names = [n for n in names if not self.paths.matches(path, n)]
        if not names:
            return None
        asof = self.watch.mark()
        answer = self.root.stat_names(path, names, partial=True)
        if answer.unread:
            answer, unread = self._readable(work.ino, path, answer)
            names = [name for name in names if name not in unread]
        if answer.status == errno.EXDEV:
            # It is looked at, with all below, when the mount is gone.
            self._mounted(self._mount_on(path), True)
            return None
        if answer.status and not path:
            self._revisit(work, path)  # which says whether it can be listed at all
            return None
        if answer.status or listing.decode(answer.own).ino != work.ino:
            # It moved or went a moment ago; the watch is about to hear where to, and when it does
            # not, the one above no longer has it.
            self.dirty.put_back(work, time.monotonic())
            where = self.watch.place(work.ino)
            if where is not None and where[0]:
                self.dirty.add(*where, Touch.NAME | Touch.TREE, time.monotonic())
            if answer.status not in (0, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.trouble(path, answer.status, (work.ino, b""))
            return None
        for name in names:
            child = self.watch.child(work.ino, name)
            if child is not None and not _is_dir(answer.entries, name):
                self.watch.gone(child, work.ino, name, asof)
        for entry in listing.kept(answer.entries, Kind.DIR) if work.trees else ():
            if entry.name in work.trees and not entry.flags & MOUNT:
                self._arm(join(path, entry.name), entry.ino, work.ino, entry.name, asof)
        if closed := [name for name in names if work.names[name].value & _UNTOLD]:
            self._closed(work, path, closed, answer.entries)
        old = self.journal.select(work.ino, names)
        changes = listing.diff(old, answer.entries, self.small_max)
        if listing.probed(old) and _told_alone(old, answer.entries, changes):
            # Of a directory no place is known, nor what is in it; of a file neither when it changed
            # nor which other names it has. One that differs is sent, and stays so until it arrived.
            self._revisit(work, path)
            return None
        if changes is None:
            return None
        self.emitter.links.left(work.ino, old, answer.entries)
        return Compared(work.ino, path, answer.entries, changes, work.names, asof)

    def _doubt_content(self, ino: int, path: bytes | None, names: list[bytes]) -> None:
        """The content of these files is to be looked at, whatever stat says. Of small ones it is
        done here, which sends nothing where nothing differs; all others differ until they are
        read."""
        held = {e.name: e for e in listing.entries(self.journal.select(ino, names))}
        small = [e for e in held.values() if e.kind == Kind.FILE and e.size <= self.small_max]
        if path is not None and small:
            group = bytearray(batch.group(path, b"".join(map(listing.encode, small)), ino))
            batch.digest_files(self.root.fd, self.root.dev, group, content=True)
            for read in listing.entries(batch.groups(group)[0][1]):
                if not read.status and read.content == held[read.name].content:
                    del held[read.name]
        self.journal.put(ino, racy(held.values()))

    def _closed(self, work: Work, path: bytes, names: list[bytes], entries: bytes) -> None:
        """Files that were closed may have been mapped since the last sweep, and written after they
        were read, which only a sweep in between would have shown."""
        age = time.monotonic() - work.since + (self.vigil.reach() if self.vigil else 0.0)
        since = time.time_ns() - int(age * 1e9) - GRAIN_NS
        seen = {
            name: entry.ctime
            for name in names
            if (entry := listing.find(entries, name)) is not None and entry.ctime >= since
        }
        held = listing.entries(self.journal.select(work.ino, seen))
        if same := [e.name for e in held if e.ctime == seen[e.name]]:
            self._doubt_content(work.ino, path, same)

    def _arm(self, path: bytes, ino: int, parent: int, name: bytes, asof: int) -> None:
        """A directory that may not be watched is visited with all below it."""
        assert self.watch is not None
        if not self.watch.stands(ino, parent, name, asof):
            self._stack.append(Visit(path, ino, parent, name, True, False))

    def _revisit(self, work: Work, path: bytes) -> None:
        assert self.watch is not None
        where = self.watch.place(work.ino)
        if where is None or where[1] != path.rpartition(b"/")[2]:
            # It moved or went since its path was asked for; a name of another place, or none,
            # which is the root's, must not go with this path.
            self.dirty.put_back(work, time.monotonic())
            return
        self._stack.append(Visit(path, work.ino, *where, work.recursive, True))

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


def _told_alone(old: bytes, entries: bytes, changes: listing.Changes | None) -> bool:
    """Whether a directory that stands here, or what seems to be the same under one of these names,
    is known only as the target told of it."""
    c = changes
    same = settled(entries, (c.bulk, c.large, c.linked)) if c else entries
    told = (e for e in listing.entries(old) if e.flags & PROBED)
    found = ((e, listing.find(same, e.name)) for e in told)
    return any(here is not None and here.kind == e.kind for e, here in found)


def _is_dir(entries: bytes, name: bytes) -> bool:
    found = listing.find(entries, name)
    return found is not None and found.kind == Kind.DIR
