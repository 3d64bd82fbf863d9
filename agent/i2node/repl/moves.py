"""Renames: what stands under another name at the source is renamed at the target, not sent anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from i2node.fs.coalesce import Dirty
from i2node.fs.touch import Touch, Work
from i2node.model import MOUNT, PROBED, RACY, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.belief import Belief
from i2node.repl.draft import Draft
from i2node.repl.journal import Journal
from i2node.repl.plan import (
    Compared,
    Put,
    Unplace,
    is_assumed,
    join,
    known,
    same_content,
    same_file,
    tombstone,
)

RACY_NS = 20_000_000
"""A time younger than this does not prove that a later write would show another (mover.h)."""
MISSED = 4096
"""Names remembered for being gone; where there are as many, others are believed at once."""
MISSED_S = 0.25
"""How long a name stays gone, in seconds, until it is believed: what had it is told of elsewhere by
then."""


class Moves:
    """Finds and drafts the renames of one round. arm(path, ino, parent, name, asof) is told of
    directories that came by one; `count` says how many directories moved."""

    def __init__(
        self,
        root: int,
        journal: Journal,
        draft: Draft,
        dirty: Dirty,
        belief: Belief,
        arm: Callable[[bytes, int, int, bytes, int], None],
    ) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.dirty = dirty
        self.belief = belief
        self.arm = arm
        self.count = 0
        self.left: set[tuple[int, bytes, int]] = set()
        """(directory, name, inode) from where a directory was renamed in this round. One that was
        looked at there before, and then where it went, was seen in both places."""
        self.changed: set[int] = set()
        """Directories with names that a rename of this round is about."""
        self._drafted = False  # whether the batch holds renames, and nothing else
        # Since when a name is met gone: those to be looked at again, and those looked at now.
        self._missed: dict[tuple[int, bytes], float] = {}
        self._looked_for: dict[tuple[int, bytes], float] = {}

    def begin(self, works: list[Work]) -> None:
        """A round begins, which looks at these."""
        self.count = 0
        self.left.clear()
        self.changed.clear()
        missed, self._looked_for = self._missed, {}
        if len(missed) >= MISSED:
            # What was in a directory that is gone is not looked at any more.
            paths = self.journal.paths({ino for ino, _ in missed}, self.root)
            gone = {ino for ino, path in paths.items() if path is None}
            self._missed = missed = {p: since for p, since in missed.items() if p[0] not in gone}
        if not missed:
            return
        places = [(work.ino, name) for work in works for name in work.names or ()]
        if whole := {work.ino for work in works if not work.names}:
            places += [place for place in missed if place[0] in whole]
        for place in places:
            if (since := missed.pop(place, None)) is not None:
                self._looked_for[place] = since

    def dirs_of(self, one: Compared) -> bool:
        """Renames directories that the target holds under other names: before anything takes
        these names, or is deleted with what stands there."""
        moved = False
        entries = [e for e in listing.kept(one.changes.dirs, Kind.DIR) if e.verdict != Verdict.META]
        placed = self.journal.placed([e.ino for e in entries])
        for entry in entries if placed else ():
            where = self.moved_from(entry)
            if where is None or where == (one.ino, entry.name):
                continue
            held = self.draft.held(*where)
            if held is not None and self.move(held, where[0], one.ino, entry):
                moved = True
                path = join(one.path, entry.name)
                self.draft.late[entry.ino] = path
                if one.touches is not None:
                    self.arm(path, entry.ino, one.ino, entry.name, one.asof)
        return moved

    def files_among(self, compared: list[Compared]) -> bool:
        """Names gone and names new with the same inode, in one round, are one rename. No two of
        these share a name, so that they go together."""
        gone: dict[int, tuple[Compared, Entry]] = {}
        for one in compared:
            for entry in listing.entries(one.changes.gone):
                if not entry.flags & (PROBED | MOUNT) and entry.nlink < 2:
                    gone[entry.ino] = (one, entry)
        moved = False
        for one in compared if gone else ():
            for section in (one.changes.bulk, one.changes.large):
                for entry in listing.entries(section):
                    there, old = gone.get(entry.ino, (one, None))
                    if old is None or not same_file(entry, old) or not self.belief.sure(there.ino):
                        continue
                    if self._shows_a_version(one, entry, old):
                        # One that moved on between two looks was seen in both places.
                        del gone[entry.ino]
                        moved |= self._draft_move(old, there.ino, one.ino, entry)
                        _carry(there, old.name, one, entry.name)
        if moved:
            self._settle()
        return moved

    def under_way(self, compared: list[Compared]) -> list[Compared]:
        """Without names that are gone still, and of which nobody told that what had them was
        deleted. It may have moved on between the looks at where it was and where it went, or be
        sent anew there and not be found; so it is not deleted before it was gone for a while, and
        not told to have moved once more."""
        later: dict[int, set[bytes]] = {}
        now = time.monotonic()
        for one in compared:
            for entry in listing.entries(one.changes.gone) if one.touches else ():
                touch = (one.touches or {}).get(entry.name, Touch(0))
                told = touch & (Touch.MOVED | Touch.DELETED)
                place = (one.ino, entry.name)
                since = self._looked_for.get(place)
                if told == Touch.DELETED or (entry.nlink > 1 and entry.kind != Kind.DIR):
                    continue
                if not told and since is None and len(self._missed) >= MISSED:
                    continue
                if told or since is None or now - since < MISSED_S:
                    self._missed[place] = now if told or since is None else since
                    later.setdefault(one.ino, set()).add(entry.name)
                    # With what was told of it, for the name under which it is met.
                    again = Touch.NAME | touch & (Touch.DATA | Touch.ATTR)
                    self.dirty.add(*place, again, now)
        return [_but(one, later[one.ino]) if one.ino in later else one for one in compared]

    def _shows_a_version(self, there: Compared, entry: Entry, held: Entry) -> bool:
        """Whether the target may show under the new name what it holds. What was sent of a file
        that was being written is not to stand, be it for a moment, under a name that had a version
        before, or where sending it anew costs little."""
        if same_content(entry, held) and not (held.flags & RACY and _is_fresh(held)):
            return True
        small = entry.kind != Kind.FILE or entry.size <= self.draft.small_max
        return not small and self.draft.held(there.ino, entry.name) is None

    def moved_from(self, entry: Entry) -> tuple[int, bytes] | None:
        """Where the target holds this inode, if it is known to hold it under another name."""
        if not entry.ino or entry.flags & MOUNT:
            return None
        if not self.journal.places(entry.ino):
            return None
        self.draft.settle()
        for parent, name in self.journal.places(entry.ino):
            held = self.draft.held(parent, name)
            if held is None or not same_file(held, entry):
                continue
            # Of a directory the number is enough: what is in it is in doubt by that, wherever it
            # stands. A file is sent anew where what the target holds of it is not sure.
            if held.kind == Kind.DIR or self.belief.sure(parent):
                return parent, name
        return None

    def move(self, old: Entry, old_dir: int, new_dir: int, entry: Entry) -> bool:
        """Sends the rename of what the target holds as old to entry's name. False: not possible."""
        moved = self._draft_move(old, old_dir, new_dir, entry)
        if moved:
            self._settle()
        return moved

    def _settle(self) -> None:
        self.draft.settle()
        self._drafted = False

    def _draft_move(self, old: Entry, old_dir: int, new_dir: int, entry: Entry) -> bool:
        """The same, settled only where a directory moves: the paths of others go by that."""
        root = self.root
        source, target = self.journal.path(old_dir, root), self.journal.path(new_dir, root)
        if source is None or target is None:
            return False
        here, there = join(source, old.name), join(target, entry.name)
        if there == here or there.startswith(here + b"/"):
            return False
        self.belief.assumed.hold(new_dir)
        in_way = self.draft.held(new_dir, entry.name)
        directory = old.kind == Kind.DIR or (in_way is not None and in_way.kind == Kind.DIR)
        sure = old.kind != Kind.DIR or self.belief.placed(old.ino)
        if not self._drafted:
            self.draft.flush()
        work = self.draft.batch
        self.draft.dir(old_dir, source)
        self.draft.dir(new_dir, target)
        moved = old._replace(name=entry.name)
        work.suspects.append((new_dir, entry.name))
        if in_way is not None and directory and not is_assumed(in_way):
            work.before.append(batch.step(Op.EXCHANGE, here, there, kind=old.kind))
            displaced = in_way._replace(name=old.name)
            work.suspects.append((old_dir, old.name))
            work.before_edits.append(Put(old_dir, known(displaced)))
            if (new_dir, entry.name) in self.journal.places(in_way.ino):
                # Else it was made anew elsewhere, and has its place there.
                work.before_edits += [
                    Unplace(in_way.ino, new_dir, entry.name),
                    self.draft.place(displaced, old_dir),
                ]
            self.dirty.add(old_dir, old.name, Touch.NAME | Touch.TREE, time.monotonic())
            self.draft.gone.append((old_dir, source, known(displaced)))
        else:
            work.before.append(batch.step(Op.RENAME, here, there, kind=old.kind))
            work.suspects += self.belief.assumed.left(old_dir, old.name)
            work.before_edits.append(Put(old_dir, tombstone(old.name)))
            if in_way is not None and not in_way.flags & PROBED:
                work.before_edits.append(Unplace(in_way.ino, new_dir, entry.name))
        work.before_edits += [
            Unplace(old.ino, old_dir, old.name),
            Put(new_dir, known(moved)),
        ]
        if self.draft.placed(old):
            work.before_edits.append(self.draft.place(moved, new_dir))
        if old.kind == Kind.DIR:
            self.left.add((old_dir, old.name, old.ino))
        self.draft.late[old_dir] = source
        self.draft.late[new_dir] = target
        self.changed.update((old_dir, new_dir))
        self._drafted = True
        if directory:
            self.count += 1
            self._settle()
        if not sure:
            # An earlier rename may have been lost: then this one takes another directory along.
            self.belief.suspect(new_dir, entry.name)
        return True


def _is_fresh(held: Entry) -> bool:
    """Whether the content may have changed after the look; a rename moves the ctime alone."""
    return held.ctime - (held.mtime_s * 10**9 + held.mtime_ns) < RACY_NS


def _but(one: Compared, names: set[bytes]) -> Compared:
    kept = (e for e in listing.entries(one.changes.gone) if e.name not in names)
    return replace(one, changes=replace(one.changes, gone=b"".join(map(listing.encode, kept))))


def _carry(old: Compared, old_name: bytes, new: Compared, new_name: bytes) -> None:
    """What was seen to happen to a file under its old name happened to the one of the new name."""
    if old.touches is not None and new.touches is not None:
        seen = old.touches.get(old_name, Touch.DATA)
        new.touches[new_name] = new.touches.get(new_name, seen) | seen
