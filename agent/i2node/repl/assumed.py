"""What a rule leaves out that skips its first mirror: what was there before it began.

The first walk writes down what stands there, and nothing of it is sent: each record is ASSUMED,
which says what was seen at the source, and nothing of the target. What differs from such a record
later has changed since, and is sent whole, as if it were new; so is what gets another name, with
all below it. A directory is made at the target, with those above it, when something in it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from i2node.model import ASSUMED, Entry, Kind
from i2node.mover import listing
from i2node.repl.draft import Draft
from i2node.repl.journal import Journal
from i2node.repl.plan import Put, Replace, is_assumed, join, known, make_dir, without

Skip = Literal["", "files", "all"]


class Assumed:
    """Of one rule; used by the planner's thread. root: inode number of the source's root. skip:
    what is not mirrored in the first walk, see MirrorOptions; first: whether this is it."""

    def __init__(self, root: int, journal: Journal, draft: Draft) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.skip: Skip = ""
        self.first = False
        self._held: set[int] = set()  # directories that are known to be at the target

    def take(self, ino: int, path: bytes, now: bytes) -> bytes:
        """Writes down what stands in a directory and is not to be mirrored, and gives that."""
        some = [e for e in listing.entries(now) if self.skip == "all" or e.kind != Kind.DIR]
        records = b"".join(known(e._replace(flags=e.flags | ASSUMED)) for e in some)
        work = self.draft.dir(ino, path)
        work.before_edits.append(Replace(ino, records))  # of an empty one that is known, too
        work.before_edits += [
            self.draft.place(e, ino) for e in listing.kept(records, Kind.DIR) if e.ino
        ]
        self.draft.count(len(some), 0)
        return records

    def goes_on(self, above: bool, ino: int, parent: int, name: bytes) -> bool:
        """Whether a directory was there before the rule began, and is not written down yet; above:
        whether that is so of the one above."""
        if not (self.skip and self.first) or self.journal.lists(ino):
            return False
        return above or is_assumed(self.draft.held(parent, name))

    def holds(self, ino: int) -> bool:
        """Whether the target is known to hold a directory."""
        if not self.skip or ino == self.root or ino in self._held:
            return True
        places = self.journal.places(ino)
        return not any(is_assumed(self.draft.held(*place)) for place in places)

    def hold(self, ino: int) -> None:
        """Something is to be done in a directory: it is made, and those above it."""
        way: list[tuple[int, Entry]] = []
        while self.skip and ino != self.root and ino not in self._held:
            places = self.journal.places(ino)
            record = self.draft.held(*places[0]) if places else None
            if record is None:
                break  # it is new, and made by who met it
            self._held.add(ino)
            if is_assumed(record):
                way.append((places[0][0], record))
            ino = places[0][0]
        for parent, record in reversed(way):
            above = self.journal.path(parent, self.root)
            if above is None:
                continue
            path = join(above, record.name)
            work = self.draft.dir(parent, above)
            work.before.append(make_dir(path, record))
            flags = record.flags & ~ASSUMED
            made = record._replace(flags=flags, mtime_s=0, mtime_ns=0, ctime=0)
            work.before_edits.append(Put(parent, known(made)))
            # Owner and times go behind what is put there.
            self.draft.late[record.ino] = path
            self.draft.count(1, 0)

    def left(self, ino: int, name: bytes) -> list[tuple[int, bytes]]:
        """What is suspect where a name is taken from the target: should that be lost, it is known
        of nowhere else, and a target that tells the name is to be believed."""
        return [(ino, name)] if self.skip else []

    def heard(self, told: bytes, remembered: bytes, suspects: Iterable[bytes]) -> bytes:
        """What a target told of a directory, to go by: what stands there and was never sent is not
        taken for gone at the source, and what is assumed stays so."""
        if not self.skip:
            return told
        doubtful = set(suspects)
        before = {e.name: e for e in listing.entries(remembered)}
        strange = [
            e.name for e in listing.entries(told) if e.name not in before and e.name not in doubtful
        ]
        kept = (e for e in before.values() if is_assumed(e) and e.name not in doubtful)
        return listing.merge(without(told, strange), b"".join(map(listing.encode, kept)))
