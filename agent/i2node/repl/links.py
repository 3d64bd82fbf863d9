"""Files with several names: content once, every other name a link to it.

The journal knows all names of a file that ever had two; of one that had a single name when it was
sent it knows only the entry, which is searched for by its inode number when a second name appears.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator

from i2node.fs.coalesce import Dirty
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.model import PROBED, RACY, Entry, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.belief import Belief
from i2node.repl.draft import Draft
from i2node.repl.journal import Journal
from i2node.repl.plan import (
    Compared,
    Large,
    Linked,
    Place,
    Put,
    join,
    known,
    same_content,
    same_file,
)

FEW = 32
"""Names of one file that are asked for before all are."""


class Links:
    """The hard links of one rule, as the planner meets them."""

    def __init__(
        self, root: Root, journal: Journal, draft: Draft, dirty: Dirty, belief: Belief
    ) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.dirty = dirty
        self.belief = belief
        self._first = False
        self._walking = False
        self._met: set[int] = set()
        # Files of which a name was sent or linked in this live round, or linked in a first mirror:
        # its path, the file as known, and the name where it is only sent if it is still there when
        # it is read.
        self._chain: dict[int, tuple[bytes, Entry, tuple[int, bytes] | None]] = {}
        self._sent: set[int] = set()  # files that were sent in it with all their names
        self._settled: set[int] = set()  # those of them that stand so in the journal
        self._single: array[int] | None = None

    def begin(self, walking: bool) -> None:
        """A walk or a live round begins."""
        self._walking = walking
        self._first = walking and not self.journal.lists(self.root.identity.ino)
        self._met.clear()
        self._chain.clear()
        self._sent.clear()
        self._settled.clear()
        self._single = None

    def emit(self, found: Compared, entry: Entry) -> None:
        """Puts one name of such a file into the batch."""
        if self._chained(found, entry):
            return
        if entry.ino in self._sent:
            if not self._sent_anew(found, entry):
                # Names come and go while they are looked at: a file is not sent with all of them
                # for each of them in one round.
                touch = Touch.NAME | Touch.DATA
                self.dirty.add(found.ino, entry.name, touch, time.monotonic())
            return
        if entry.ino in self._met or not self._first:
            # A name that was given to something else meanwhile must not be linked back, and a file
            # that had one name until a moment ago must be found: both stand in the journal only
            # when what was submitted is read. In a first mirror each name is sent but once.
            self.draft.settle()
            self._met.clear()
        self._met.add(entry.ino)
        held = self.draft.held(found.ino, entry.name)
        here = held if held is not None and same_file(held, entry) else None
        if here is not None and self._as_sent(here, entry):
            return
        path = join(found.path, entry.name)
        work = self.draft.dir(found.ino, found.path)
        self.draft.late[found.ino] = found.path
        place = Place(entry.ino, found.ino, entry.name)
        base = self._sure(found, entry) if here is None else None
        # What was done to the file under a name that went was told of that name alone.
        stands = base is None or self._still(entry.ino, *base)
        if base is not None:
            parent, name, other = base
            here = self.draft.held(parent, name)
            assert here is not None
            work.before.append(batch.step(Op.LINK, path, other, kind=entry.kind))
            work.suspects.append((found.ino, entry.name))
            self.belief.linked(entry.ino, anew=False)
            # The first name was not kept while it was the only one.
            work.before_edits += [
                Put(found.ino, known(here._replace(name=entry.name))),
                place,
                Place(entry.ino, parent, name),
            ]
            if _as_known(here, entry):
                if self._first:
                    self._chain[entry.ino] = (path, here, None)
                self.draft.count(1, 0)
                return
            if stands and _got_a_name(found, entry, here):
                self._chain[entry.ino] = (path, here, None)
                self.draft.count(1, 0)
                return
        trusted = False
        if here is not None:
            # What the target has may be older: it is brought up to date under this name.
            touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
            trusted = stands and not touch & Touch.DATA and same_content(here, entry)
            same = here.size == entry.size
            entry = entry._replace(
                verdict=Verdict.DATA,
                attrs=here.attrs,
                content=here.content if same else bytes(16),
            )
        # Of a name that has gone to another file the journal may not have heard yet.
        others = tuple(
            other
            for other in self._places(entry)
            if other[:2] != (found.ino, entry.name) and self._still(entry.ino, *other)
        )
        self.draft.changed(1, entry.size)
        self.belief.linked(entry.ino, anew=True)
        work.linked.append(Linked(Large(found.ino, path, entry, trusted), others))
        work.before_edits.append(place)
        for parent, name, other in others:
            directory = other[: -len(name) - 1]
            work.dirs[parent] = directory
            self.draft.late[parent] = directory
        self.draft.count(1, min(entry.size, self.draft.frame_bytes))
        if not self._walking:
            # Of its content only the journal's entry of this name is to tell.
            here = entry._replace(attrs=0, content=bytes(16))
            self._chain[entry.ino] = (path, here, (found.ino, entry.name))
            self._sent.add(entry.ino)
            self._settled.discard(entry.ino)
        if others or not self._walking:
            # Within a batch files go first; a name that is given to another file from here on
            # must come behind the link, and one that is linked to it too.
            self.draft.flush()

    def _sent_anew(self, found: Compared, entry: Entry) -> bool:
        """Whether what this name shows was sent in this round under another one."""
        if entry.ino not in self._settled:
            self.draft.settle()
            self._settled = set(self._sent)
        held = self.draft.held(found.ino, entry.name)
        return held is not None and same_file(held, entry) and self._as_sent(held, entry)

    def _as_sent(self, held: Entry, entry: Entry) -> bool:
        """Whether nothing happened to a file since it was sent: in this round it was read after it
        was looked at here."""
        if entry.ino in self._sent and held.ctime > entry.ctime:
            return not held.flags & RACY
        return _as_known(held, entry)

    def _chained(self, found: Compared, entry: Entry) -> bool:
        """Links a further new name to the one that was linked before in this round, which comes
        before it at the target whatever else does. False: there is none, or that is not enough."""
        before = self._chain.get(entry.ino)
        held = self.draft.held(found.ino, entry.name) if before else None
        if before is None or (held is not None and same_file(held, entry)):
            return False
        other, here, sent = before
        if sent is not None and not self._still(entry.ino, *sent, other):
            return False
        touch = (found.touches or {}).get(entry.name, Touch(0))
        if touch & (Touch.DATA | Touch.ATTR) or not _seems(entry, here):
            return False
        path = join(found.path, entry.name)
        work = self.draft.dir(found.ino, found.path)
        self.draft.late[found.ino] = found.path
        work.before.append(batch.step(Op.LINK, path, other, kind=entry.kind))
        work.suspects.append((found.ino, entry.name))
        work.before_edits += [
            Put(found.ino, known(here._replace(name=entry.name))),
            Place(entry.ino, found.ino, entry.name),
        ]
        if sent is None:
            self._chain[entry.ino] = (path, here, None)
        self.draft.count(1, 0)
        return True

    def left(self, ino: int, old: bytes, now: bytes) -> None:
        """Looks at all names of a file of which one went from a directory, or to another file: what
        was done to the file under that name, the watch told of that name alone."""
        went: dict[int, set[tuple[int, bytes]]] = {}
        for entry in listing.linked(old):
            told = entry.flags & PROBED
            number = self.journal.occupant(ino, entry.name) if told else entry.ino
            seen = listing.find(now, entry.name)
            if number is not None and (seen is None or seen.ino != number):
                went.setdefault(number, set()).add((ino, entry.name))
        for file, names in went.items():
            ages = (self.dirty.since(*place) for place in names)
            since = min((age for age in ages if age is not None), default=None)
            self._look_again(file, names, since)

    def left_below(self, ino: int, parent: int, name: bytes) -> None:
        """The same for all names in a directory that went from there, and below it."""
        for file in self.journal.linked_below(ino):
            self._look_again(file, set(), self.dirty.since(parent, name))

    def _look_again(self, ino: int, but: set[tuple[int, bytes]], since: float | None) -> None:
        touch = Touch.DATA | Touch.ATTR
        for place in set(self.journal.places(ino)) - but:
            self.dirty.add(*place, touch, time.monotonic(), since)

    def _still(self, ino: int, parent: int, name: bytes, path: bytes) -> bool:
        """Whether the source has this inode under the name now."""
        directory = path[: -len(name) - 1]
        answer = self.root.stat_names(directory, [name])
        if answer.status or listing.decode(answer.own).ino != parent:
            return False
        return any(e.ino == ino for e in listing.entries(answer.entries))

    def _sure(self, found: Compared, entry: Entry) -> tuple[int, bytes, bytes] | None:
        """One other name that the target surely holds of this inode, as `_places` gives it. A few
        are asked first: a file may have thousands."""
        known = False
        for place in self._few_first(entry.ino):
            for one in self._standing(self.draft.holding([place], entry)):
                known = True
                if place != (found.ino, entry.name) and self.belief.sure(place[0]):
                    return one
        # It may be held without a place, as what had one name is.
        for one in () if known else self._places(entry):
            if one[:2] != (found.ino, entry.name) and self.belief.sure(one[0]):
                return one
        return None

    def _few_first(self, ino: int) -> Iterator[tuple[int, bytes]]:
        few = self.journal.places(ino, FEW)
        yield from few
        if len(few) == FEW:
            yield from self.journal.places(ino)[FEW:]

    def _places(self, entry: Entry) -> list[tuple[int, bytes, bytes]]:
        """Where the target holds names of this inode, as far as that is still so: (directory, name,
        path)."""
        found = self._standing(self.draft.link_places(entry))
        if not found and self._may_hold(entry.ino):
            found = self._standing(self.draft.holding(self.journal.find_inode(entry.ino), entry))
        return found

    def _standing(self, places: list[tuple[int, bytes]]) -> list[tuple[int, bytes, bytes]]:
        """Those in directories that are still there."""
        paths = self.journal.paths((parent for parent, _ in places), self.root.identity.ino)
        return [
            (parent, name, join(base, name))
            for parent, name in places
            if (base := paths[parent]) is not None
        ]

    def _may_hold(self, ino: int) -> bool:
        """Whether the journal may know an inode of which it keeps no place. A walk asks a snapshot
        of all numbers, since a search for each file of a tree full of links would take for ever;
        live, the journal itself is searched."""
        if self._first:
            return False
        if not self._walking:
            return True
        if self._single is None:
            self._single = self.journal.inodes()
        at = bisect_left(self._single, ino)
        return at < len(self._single) and self._single[at] == ino


def _got_a_name(found: Compared, entry: Entry, held: Entry) -> bool:
    """Whether all that was told under a new name is that it is there: the watch told of a change to
    the file under another one. The ctime that is written down stays that of before, so that a
    look at it finds the rest."""
    touch = found.touches.get(entry.name, Touch.DATA) if found.touches else Touch.DATA
    return not touch & (Touch.DATA | Touch.ATTR) and _seems(entry, held)


def _seems(entry: Entry, held: Entry) -> bool:
    return (
        same_content(entry, held)
        and (entry.mode, entry.uid, entry.gid) == (held.mode, held.uid, held.gid)
        and not held.flags & PROBED
    )


def _as_known(held: Entry, entry: Entry) -> bool:
    """Whether nothing happened to a file since it was sent. Its owner is another without that where
    the rule carries none any more, or does now."""
    return (held.ctime, held.uid) == (entry.ctime, entry.uid) and not held.flags & RACY
