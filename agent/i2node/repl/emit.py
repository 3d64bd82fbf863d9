"""What differs in one directory, put into batches in the order that keeps the target sound."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from i2node.errors import SafetyStop
from i2node.fs.coalesce import Dirty, Touch
from i2node.fs.tree import Root
from i2node.fs.watch import Watch
from i2node.model import MOUNT, PROBED, RACY, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.belief import Belief
from i2node.repl.draft import BATCH_ENTRIES, Draft
from i2node.repl.journal import Journal
from i2node.repl.moves import Moves
from i2node.repl.plan import (
    Batch,
    Compared,
    Edit,
    Forget,
    Large,
    Place,
    Put,
    Rekey,
    Replace,
    Unplace,
    Visit,
    join,
    known,
    make_dir,
    same_content,
    same_file,
    tombstone,
)


class Emitter:
    """Drafts one round; visit(v) is told of directories that are to be listed with all below."""

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
    ) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.moves = moves
        self.dirty = dirty
        self.watch = watch
        self.visit = visit
        self.belief = belief
        self.small_max = draft.small_max
        self.shipped_links: dict[int, tuple[int, bytes]] = {}

    def emit(self, found: Compared, visiting: Iterable[bytes]) -> None:
        """Puts what differs in one directory into batches."""
        if found.touches is None and self.moves.dirs_of(found):
            again = self.compare_again(found)
            if again is None:
                return
            found = again
        c = found.changes
        if found.touches is not None:
            # Whatever is put there or taken away moves the times of the directory on the target.
            self.draft.late[found.ino] = found.path
        for entry in listing.entries(c.dirs):
            self._dir_entry(found, entry, entry.name in visiting)
        self._small(found)
        for entry in listing.entries(c.large):
            self._large(found, entry)
        for entry in listing.entries(c.linked):
            self._linked(found, entry)
        if c.gone:
            self.draft.gone.append((found.ino, found.path, c.gone))
            if self.watch:
                for entry in listing.kept(c.gone, Kind.DIR):
                    self.watch.gone(entry.ino, found.ino, entry.name, found.asof)

    def compare_again(self, one: Compared) -> Compared | None:
        """After renames the target holds something else under these names."""
        c = one.changes
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
        old = self.journal.select(one.ino, sorted(names))
        seen = b"".join(listing.encode(e) for e in listing.entries(one.now) if e.name in names)
        changes = listing.diff(old, seen, self.small_max)
        return replace(one, changes=changes) if changes else None

    def _dir_entry(self, found: Compared, entry: Entry, visited: bool) -> None:
        path = join(found.path, entry.name)
        if entry.verdict == Verdict.META:
            if not visited:
                self.draft.late[entry.ino] = path
            return
        held = self.draft.held(found.ino, entry.name) if entry.verdict != Verdict.NEW else None
        swapped = held is not None and entry.verdict == Verdict.SWAPPED
        ours = swapped and (found.ino, entry.name) in self.journal.places(held.ino if held else 0)
        work = self.draft.dir(found.ino, found.path)
        if held is not None and ours and not held.flags & PROBED:
            work.before_edits += [
                Unplace(held.ino, found.ino, entry.name),
                Rekey(held.ino, entry.ino),
            ]
            if self.belief.pending(held.ino):
                # The question whether its content is right goes to its successor.
                self.belief.ask(entry.ino, path)
        else:
            if self.journal.listing(entry.ino):
                self.draft.settle()
                self.journal.forget(entry.ino)
            work = self.draft.dir(found.ino, found.path)
            if swapped:
                # What it holds is known under a number that another directory has by now.
                work.before.append(batch.step(Op.REMOVE, path, kind=Kind.DIR))
            work.before.append(make_dir(path, entry))
            # Until this is durable the target is asked what it holds there.
            work.before_edits.append(Replace(entry.ino, b""))
            self.draft.made.add(entry.ino)
        self.draft.dir(entry.ino, path)
        unknown = replace(entry, mtime_s=0, mtime_ns=0, ctime=0)
        work.before_edits += [
            Put(found.ino, known(entry if entry.flags & MOUNT else unknown)),
            self.draft.place(entry, found.ino),
        ]
        self.draft.count(1, 0)
        if entry.verdict == Verdict.SWAPPED:
            self.draft.settle()
        if not visited and not entry.flags & MOUNT:
            self.visit(Visit(path, entry.ino, found.ino, entry.name, True, True))

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
        if entry.verdict == Verdict.NEW or entry.verdict == Verdict.DATA:
            held = self.draft.held(found.ino, entry.name)
            if held is None or held.ino != entry.ino:
                moved = self.moves.moved_from(entry)
                if moved is not None and moved != (found.ino, entry.name):
                    old = self.draft.held(*moved)
                    if old is not None and self.moves.move(old, moved[0], found.ino, entry):
                        held = replace(old, name=entry.name)
                        entry = replace(
                            entry, verdict=Verdict.DATA, content=old.content, attrs=old.attrs
                        )
            touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
            trusted = held is not None and not touch & Touch.DATA and same_content(held, entry)
        else:
            trusted = False
        work = self.draft.dir(found.ino, found.path)
        work.large.append(Large(found.ino, join(found.path, entry.name), entry, trusted))
        work.before_edits.append(self.draft.place(entry, found.ino))
        self.draft.changed(1, entry.size)
        self.draft.count(1, min(entry.size, self.draft.frame_bytes))

    def _linked(self, found: Compared, entry: Entry) -> None:
        """One name of a file that has several: its content once, the other names as links."""
        path = join(found.path, entry.name)
        root = self.root.identity.ino
        here = (found.ino, entry.name)
        place = Place(entry.ino, *here)
        if self._joins_shipped(found, entry, path):
            return
        names = [n for n in self.draft.link_places(entry) if n != here]
        seen = [self._number_at(*n) for n in names]
        # Of a name that has gone to another file the journal may not have heard yet.
        others = [n for n, ino in zip(names, seen, strict=True) if ino == entry.ino]
        parting = [n for n, ino in zip(names, seen, strict=True) if ino == 0]
        leader = None
        if entry.verdict != Verdict.DATA or self._ino_held(found.ino, entry.name) != entry.ino:
            # Whether the target has it is not sure where it is still to be asked.
            sure = [n for n in (*others, *parting) if not self.belief.pending(n[0])]
            leader = next(iter(sure), None)
        work = self.draft.dir(found.ino, found.path)
        held = self.draft.held(*leader) if leader is not None else None
        base = self.journal.path(leader[0], root) if leader is not None else None
        trusted = False
        if leader is not None and base is not None and held is not None:
            step = batch.step(Op.LINK, path, join(base, leader[1]), kind=entry.kind)
            edits: list[Edit] = [
                Put(found.ino, known(replace(held, name=entry.name))),
                place,
                # The first name was not kept while it was the only one.
                Place(entry.ino, *leader),
            ]
            if held.ctime == entry.ctime and not held.flags & RACY:
                work.after.append(step)
                work.after_edits += edits
                self.draft.count(1, 0)
                return
            # The file that the target has is older: it gets its new name, and is brought up to
            # date under that.
            work.before.append(step)
            work.before_edits += edits
            same = held.size == entry.size
            entry = replace(
                entry,
                verdict=Verdict.DATA,
                attrs=held.attrs,
                content=held.content if same else bytes(16),
            )
            touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
            trusted = not touch & Touch.DATA and same_content(held, entry)
        self.shipped_links[entry.ino] = here
        self.draft.changed(1, entry.size)
        if entry.kind == Kind.FILE and entry.size > self.small_max:
            work.large.append(Large(found.ino, path, entry, trusted))
        else:
            work.files.append((found.ino, found.path, listing.encode(entry)))
        for parent, name in others:
            base = self.journal.path(parent, root)
            if base is not None:
                work.dirs[parent] = base
                self.draft.late[parent] = base
                work.after.append(batch.step(Op.LINK, join(base, name), path, kind=entry.kind))
        self.draft.count(1, min(entry.size, self.draft.frame_bytes))
        # The next name of the same inode must find this one.
        work.after_edits.append(place)
        self.draft.settle()

    def _joins_shipped(self, found: Compared, entry: Entry, path: bytes) -> bool:
        """Links a name to the one under which its file was sent in this round, if that went well
        and was not before the entry was seen."""
        shipped = self.shipped_links.get(entry.ino)
        if shipped is None or shipped == (found.ino, entry.name):
            return False
        held = self.draft.held(*shipped)
        base = self.journal.path(shipped[0], self.root.identity.ino)
        if (
            held is None
            or base is None
            or not same_file(held, entry)
            or held.ctime < entry.ctime
            or held.flags & RACY & ~entry.flags
        ):
            return False
        work = self.draft.dir(found.ino, found.path)
        work.after.append(batch.step(Op.LINK, path, join(base, shipped[1]), kind=entry.kind))
        work.after_edits += [
            Put(found.ino, known(replace(held, name=entry.name))),
            Place(entry.ino, found.ino, entry.name),
        ]
        self.draft.count(1, 0)
        return True

    def _number_at(self, parent: int, name: bytes) -> int:
        """The inode that the source has under a name now; 0 where there is none."""
        path = self.journal.path(parent, self.root.identity.ino)
        if path is None:
            return 0
        answer = batch.stat_names(self.root.fd, self.root.dev, path, [name])
        if answer.status or listing.decode(answer.own).ino != parent:
            return 0
        return next((e.ino for e in listing.entries(answer.entries)), 0)

    def _ino_held(self, parent: int, name: bytes) -> int | None:
        held = self.draft.held(parent, name)
        return held.ino if held is not None and not held.flags & PROBED else None

    def finish(self) -> None:
        """Deletes come last, and only what is still expected to be there under that name."""
        if self.draft.gone:
            self.draft.settle()
            if not self.root.still_there():
                raise SafetyStop(
                    "the root of the source was unmounted or replaced while it was read",
                    "mount it again; nothing was deleted",
                )
            for ino, path, section in self.draft.gone:
                self._remove(ino, path, section)
        for ino, path in list(self.draft.late.items()):
            self._own_meta(ino, path)
        self.draft.batch.last = True
        work, self.draft.batch = self.draft.batch, Batch()
        self.draft.sink.submit(work)
        # Only now: had the submitting failed, they would still be to do.
        self.draft.gone.clear()
        self.draft.late.clear()

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
            work = self.draft.dir(ino, target)
            work.before.append(batch.step(Op.REMOVE, join(target, name), kind=entry.kind))
            work.before_edits.append(Put(ino, tombstone(name)))
            if not entry.flags & PROBED:
                kind = Forget if entry.kind == Kind.DIR else Unplace
                work.before_edits.append(kind(entry.ino, ino, name))
            self.draft.late[ino] = path
            self.draft.count(1, 0)

    def _own_meta(self, ino: int, path: bytes) -> None:
        """A directory whose names changed after its content was sent gets its times once more."""
        answer = batch.stat_names(self.root.fd, self.root.dev, path, [])
        if answer.status:
            return
        own = listing.decode(answer.own)
        if own.ino != ino:
            # Another stands there since; each is looked at again under the name it has now.
            self.dirty.add_dir(ino, False, time.monotonic())
            return
        if ino == self.root.identity.ino:
            self.draft.meta(0, b"", own, ino, path)
            return
        parent_path, _, name = path.rpartition(b"/")
        for parent, held_name in self.journal.places(ino):
            if held_name == name:
                self.draft.meta(parent, parent_path, replace(own, name=name), ino, path)
                return
