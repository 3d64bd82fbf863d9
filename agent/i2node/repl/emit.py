"""What differs in one directory, put into batches in the order that keeps the target sound."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from i2node.errors import SafetyStop
from i2node.fs.coalesce import Dirty
from i2node.fs.root import Root
from i2node.fs.sweep import Name
from i2node.fs.touch import Touch
from i2node.fs.watch import Watch
from i2node.model import MOUNT, PROBED, Entry, Kind, Verdict, show
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.belief import Belief
from i2node.repl.draft import BATCH_ENTRIES, Draft
from i2node.repl.journal import Journal
from i2node.repl.links import Links
from i2node.repl.moves import Moves
from i2node.repl.plan import (
    Batch,
    Compared,
    Forget,
    Large,
    Put,
    Rekey,
    Replace,
    Unplace,
    Visit,
    is_assumed,
    join,
    known,
    make_dir,
    same_content,
    tombstone,
)

EMPTIED = 100
"""A source that held more entries than these and has none is taken for lost."""


class Emitter:
    """Drafts one round; visit(v) is told of directories that are to be listed with all below;
    trouble: see Troubles.unreadable."""

    def __init__(
        self,
        root: Root,
        journal: Journal,
        draft: Draft,
        moves: Moves,
        dirty: Dirty,
        watch: Watch | None,
        visit: Callable[[Visit], None],
        belief: Belief,
        trouble: Callable[[bytes, int, Name], None],
    ) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.moves = moves
        self.dirty = dirty
        self.watch = watch
        self.visit = visit
        self.belief = belief
        self.assumed = belief.assumed
        self.trouble = trouble
        self.small_max = draft.small_max
        self.may_empty = False
        """Whether a person has said that the source is what stands there now."""
        self._undressed: dict[int, tuple[Visit, Entry]] = {}  # till what is unmade in them is made
        self.links = Links(root, journal, draft, dirty, belief)

    def begin(self) -> None:
        """A walk begins anew: what one that was stopped left is of no use."""
        self.draft.unmade.clear()
        self.draft.made.clear()
        self._undressed.clear()
        self.links.begin(walking=True)

    def emit(self, found: Compared, visiting: Iterable[bytes]) -> None:
        """Puts what differs in one directory into batches."""
        if found.touches is None and self.moves.dirs_of(found):
            again = self.compare_again(found)
            if again is None:
                return
            found = again
        c = found.changes
        self.assumed.hold(found.ino)
        if found.touches is not None:
            # Whatever is put there or taken away moves the times of the directory on the target.
            self.draft.late[found.ino] = found.path
        for entry in listing.entries(c.dirs):
            if entry.verdict == Verdict.NEW and entry.name in visiting and not entry.flags & MOUNT:
                self.draft.unmade.setdefault(found.ino, {})[entry.name] = (found.path, entry)
            else:
                self._dir_entry(found.ino, found.path, entry, entry.name in visiting)
        for name in (n for files in (c.bulk, c.large, c.linked) for n in listing.retyped(files)):
            self._no_dir(found, name)
        self._small(found)
        for entry in listing.entries(c.large):
            self._large(found, entry)
        for entry in listing.entries(c.linked):
            self.links.emit(found, entry)
        if c.gone:
            self.draft.gone.append((found.ino, found.path, c.gone))

    def compare_again(self, one: Compared) -> Compared | None:
        """After renames the target holds something else under these names."""
        c = one.changes
        if one.touches is not None and not self.moves.count and one.ino not in self.moves.changed:
            return one
        if one.touches is not None and self.moves.count:
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
        for entry in listing.entries(c.dirs):
            if (one.ino, entry.name, entry.ino) in self.moves.left:
                names.discard(entry.name)
                touch = Touch.NAME | Touch.TREE
                self.dirty.add(one.ino, entry.name, touch, time.monotonic())
        old = self.journal.select(one.ino, sorted(names))
        seen = b"".join(listing.encode(e) for e in listing.entries(one.now) if e.name in names)
        changes = listing.diff(old, seen, self.small_max)
        return replace(one, changes=changes) if changes else None

    def make(self, visit: Visit) -> None:
        """A directory that is about to be filled is made now, if it is still to be made."""
        if self.draft.is_unmade(visit):
            path, entry = self.draft.unmade[visit.parent][visit.name]
            self._dir_entry(visit.parent, path, entry, visited=True)
            self.draft.made.discard(visit.ino)
            self.give_up(visit)

    def give_up(self, visit: Visit) -> None:
        """A directory is not to be made any more: it was, or it is gone."""
        if not self.draft.is_unmade(visit):
            return
        del self.draft.unmade[visit.parent][visit.name]
        if not self.draft.unmade[visit.parent]:
            del self.draft.unmade[visit.parent]
            if dressed := self._undressed.pop(visit.parent, None):
                self._dress(*dressed)

    def dress(self, visit: Visit, own: Entry) -> None:
        """Sends owner, mode and times of a directory: behind what is still to be made in it, which
        moves the times."""
        if visit.ino in self.draft.unmade:
            self._undressed[visit.ino] = (visit, own)
        elif visit.ino not in self.draft.late:
            self._dress(visit, own)

    def _dress(self, visit: Visit, own: Entry) -> None:
        if not self.assumed.holds(visit.ino):
            return  # what differs in it has it made, by the one above
        named = own._replace(name=visit.name)
        self.draft.meta(visit.parent, visit.above, named, visit.ino, visit.path)

    def _dir_entry(self, parent: int, parent_path: bytes, entry: Entry, visited: bool) -> None:
        path = join(parent_path, entry.name)
        if entry.verdict == Verdict.META:
            self.assumed.hold(entry.ino)
            if not visited:
                self.draft.late[entry.ino] = path
            return
        held = self.draft.held(parent, entry.name) if entry.verdict != Verdict.NEW else None
        if entry.flags & MOUNT:
            self._mount_point(parent, parent_path, entry, held)
            return
        swapped = held is not None and entry.verdict == Verdict.SWAPPED
        ours = swapped and (parent, entry.name) in self.journal.places(held.ino if held else 0)
        work = self.draft.dir(parent, parent_path)
        if held is not None and ours and not held.flags & PROBED:
            work.before_edits += [
                Unplace(held.ino, parent, entry.name),
                Rekey(held.ino, entry.ino),
            ]
            if is_assumed(held):
                work.before.append(make_dir(path, entry))
            self.belief.succeed(held.ino, entry.ino, path)
        else:
            if self.journal.listing(entry.ino):
                self.draft.settle()
                self.journal.forget(entry.ino)
            work = self.draft.dir(parent, parent_path)
            if swapped and not is_assumed(held):
                # What it holds is known under a number that another directory has by now.
                work.before.append(batch.step(Op.REMOVE, path, kind=Kind.DIR))
            work.before.append(make_dir(path, entry))
            # Until this is durable the target is asked what it holds there.
            work.before_edits.append(Replace(entry.ino, b""))
            self.draft.made.add(entry.ino)
        self.draft.dir(entry.ino, path)
        unknown = entry._replace(mtime_s=0, mtime_ns=0, ctime=0)
        work.before_edits += [
            Put(parent, known(unknown)),
            self.draft.place(entry, parent),
        ]
        self.draft.count(1, 0)
        if entry.verdict == Verdict.SWAPPED:
            self.draft.settle()
        if not visited:
            self.visit(Visit(path, entry.ino, parent, entry.name, True, True))

    def _mount_point(
        self, parent: int, parent_path: bytes, entry: Entry, held: Entry | None
    ) -> None:
        """An empty directory stands for what is mounted there."""
        work = self.draft.dir(parent, parent_path)
        work.before.append(make_dir(join(parent_path, entry.name), entry))
        if held is not None and not held.flags & PROBED:
            work.before_edits.append(Unplace(held.ino, parent, entry.name))
        work.before_edits.append(Put(parent, known(entry)))
        self.draft.count(1, 0)

    def _no_dir(self, found: Compared, name: bytes) -> None:
        """Where a directory stood that is gone, something else stands."""
        held = self.draft.held(found.ino, name)
        if held is None or held.kind != Kind.DIR:
            return
        number = self.journal.occupant(found.ino, name) if held.flags & PROBED else held.ino
        if number is not None:
            if self.watch:
                self.links.left_below(number, found.ino, name)
            # Till what is to stand there arrived, for which it has to be read, the directory does.
            there = known(held._replace(flags=held.flags | PROBED))
            work = self.draft.dir(found.ino, found.path)
            work.before_edits += [Forget(number, found.ino, name), Put(found.ino, there)]

    def _small(self, found: Compared) -> None:
        """Small files and the like, cut to what fits a batch."""
        rest = found.changes.bulk
        while rest:
            room_entries = max(1, BATCH_ENTRIES - self.draft.batch.entries)
            room_bytes = max(1, self.draft.frame_bytes - self.draft.batch.bytes)
            end, entries, size = listing.cut(rest, room_entries, room_bytes)
            self.draft.dir(found.ino, found.path).files.append((found.ino, found.path, rest[:end]))
            self.draft.changed(entries, size)
            self.draft.count(entries, size)
            rest = rest[end:]

    def _large(self, found: Compared, entry: Entry) -> None:
        if entry.verdict in (Verdict.NEW, Verdict.DATA, Verdict.SWAPPED):
            held = self.draft.held(found.ino, entry.name)
            here = held if held is not None and held.ino == entry.ino else None
            moved = self.moves.moved_from(entry) if here is None else None
            if moved is not None and moved != (found.ino, entry.name):
                old = self.draft.held(*moved)
                if old is not None and self.moves.move(old, moved[0], found.ino, entry):
                    entry = entry._replace(
                        verdict=Verdict.DATA, content=old.content, attrs=old.attrs
                    )
            # Of one that came from elsewhere the watch may have seen a write under its old name.
            touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
            trusted = here is not None and not touch & Touch.DATA and same_content(here, entry)
        else:
            trusted = False
        live = found.touches is not None and entry.verdict == Verdict.DATA
        work = self.draft.dir(found.ino, found.path)
        work.large.append(Large(found.ino, join(found.path, entry.name), entry, trusted, live))
        work.before_edits.append(self.draft.place(entry, found.ino))
        self.draft.changed(1, entry.size)
        self.draft.count(1, min(entry.size, self.draft.frame_bytes))

    def finish(self) -> None:
        """Deletes come last, and only what is still expected to be there under that name."""
        if self.draft.gone:
            self.draft.settle()
            if not self.root.still_there():
                raise SafetyStop(
                    "the root of the source was unmounted or replaced while it was read",
                    "mount it again; nothing was deleted for that",
                )
            self._not_emptied()
            for ino, path, section in self.draft.gone:
                self._remove(ino, path, section)
        # What was to be made in these is not to be visited any more.
        for dressed in self._undressed.values():
            self._dress(*dressed)
        self._undressed.clear()
        self.draft.unmade.clear()
        self._own_metas()
        self.draft.batch.last = True
        work, self.draft.batch = self.draft.batch, Batch()
        self.draft.sink.submit(work)
        # Only now: had the submitting failed, they would still be to do.
        self.draft.gone.clear()
        self.draft.late.clear()

    def _not_emptied(self) -> None:
        """SafetyStop when the round would leave a tree without any name that had many."""
        root = self.root
        if self.may_empty or all(ino != root.identity.ino for ino, _, _ in self.draft.gone):
            return
        skip = self.belief.paths.skip(b"")
        (answer,) = root.list_dirs([(b"", skip)])
        if answer.status or self.belief.included(b"", answer.entries):
            return
        if (held := self.journal.count()) > EMPTIED:
            raise SafetyStop(
                f"{show(root.path)} is empty, and held {held:,} entries a moment ago",
                "bring back what was there; if it was emptied on purpose, run once with --adopt. "
                "Nothing of this was deleted on the target",
            )

    def _remove(self, ino: int, path: bytes, section: bytes) -> None:
        names = [e.name for e in listing.entries(section)]
        held = {e.name: e for e in listing.entries(self.journal.select(ino, names))}
        seen = self.root.stat_names(path, names)
        if seen.status not in (0, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            self.trouble(path, seen.status, (ino, b""))
            return
        back = {e.name for e in listing.entries(seen.entries)} if not seen.status else set()
        target = self.journal.path(ino, self.root.identity.ino)
        if target is None or (not seen.status and listing.decode(seen.own).ino != ino):
            # It moved: whether the names are back is not seen under this path.
            self.dirty.add_dir(ino, False, time.monotonic())
            return
        for name in names:
            entry = held.get(name)
            if entry is None or name in back:
                continue
            work = self.draft.dir(ino, target)
            work.suspects += self.assumed.left(ino, name)
            work.before.append(batch.step(Op.REMOVE, join(target, name), kind=entry.kind))
            work.before_edits.append(Put(ino, tombstone(name)))
            # Of one that the target told of, the number stands in its place, if anywhere.
            number = self.journal.occupant(ino, name) if entry.flags & PROBED else entry.ino
            if number is not None:
                kind = Forget if entry.kind == Kind.DIR else Unplace
                if kind is Forget and self.watch:
                    self.links.left_below(number, ino, name)
                work.before_edits.append(kind(number, ino, name))
            self.draft.late[ino] = path
            self.draft.count(1, 0)

    def _place(self, ino: int) -> tuple[int, bytes] | None:
        """Where the watch tells of changes of a directory's own entry, as `Dirty` knows it."""
        if ino == self.root.identity.ino:
            return ino, b""
        return self.watch.place(ino) if self.watch else None

    def _own_metas(self) -> None:
        """Directories whose names changed after their content was sent get their times once more;
        by the one above, so that they come into one batch, and are read together."""
        places = self.journal.places_of(list(self.draft.late))
        if self.draft.late.keys() - places.keys() - {self.root.identity.ino}:
            # Some were made in this round, which is not all in the journal.
            self.draft.settle()
            places = self.journal.places_of(list(self.draft.late))
        late = [(*path.rpartition(b"/")[::2], ino, path) for ino, path in self.draft.late.items()]
        for above, those in groupby(sorted(late), key=itemgetter(0)):
            group = list(those)
            for _, _, ino, _ in group:
                if (place := self._place(ino)) is not None:
                    self.dirty.spare(*place)
            names = [name for _, name, _, _ in group if name]
            answer = self.root.stat_names(above, names)
            seen = {} if answer.status else {e.name: e for e in listing.entries(answer.entries)}
            if not above and not answer.status:
                seen[b""] = listing.decode(answer.own)
            for _, name, ino, path in group:
                if self._own_meta(ino, path, seen.get(name), places.get(ino, [])):
                    continue
                if (place := self._place(ino)) is not None:
                    self.dirty.add(*place, Touch.ATTR, time.monotonic())

    def _own_meta(self, ino: int, path: bytes, own: Entry | None, places: list[Name]) -> bool:
        """That of one, which was seen as own. False: it does not get them, for now."""
        if own is None or (own.ino, own.kind) != (ino, Kind.DIR) or own.flags & MOUNT:
            # It moved or went, and perhaps another stands there since, be it a file that has its
            # number by now; each is looked at again under the name it has now.
            self.dirty.add_dir(ino, False, time.monotonic())
            return False
        if ino == self.root.identity.ino:
            self.draft.meta(0, b"", own, ino, path)
            return True
        above, _, name = path.rpartition(b"/")
        for parent, held_name in places:
            if held_name == name:
                self.draft.meta(parent, above, own, ino, path)
                return True
        return False
