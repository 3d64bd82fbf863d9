"""What the target is expected to hold: by the journal, and where that is in doubt by asking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.model import MOUNT, PROBED, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.repl.assumed import Assumed
from i2node.repl.doubts import UNTIL_ASKED
from i2node.repl.draft import Draft
from i2node.repl.journal import Journal
from i2node.repl.plan import Put, Settled, Visit, believe, known, settled, without

ALL_BELOW = b""
"""Among the suspects of a directory: nothing below it is known but by content."""

Probe = Callable[[list[tuple[bytes, tuple[bytes, ...]]], bool], list[bytes | None]]


class Belief:
    """in_doubt: directories the target is to be asked for; all_in_doubt: all of them. strict: their
    content is compared too. probe: [(path, skipped names)] → a listing each, None where the target
    holds no such directory."""

    def __init__(
        self,
        root: Root,
        journal: Journal,
        draft: Draft,
        paths: PathSet,
        dirty: Dirty,
        probe: Probe,
        assumed: Assumed,
    ) -> None:
        self.root = root
        self.journal = journal
        self.draft = draft
        self.paths = paths
        self.dirty = dirty
        self.probe = probe
        self.assumed = assumed
        self.small_max = draft.small_max
        self.in_doubt: set[int] = set()
        self.all_in_doubt = False
        self.strict = False
        # Files of several names: the target's number → ours, and back, 0 where it is not known.
        self._twins: dict[int, int] = {}
        self._paired: dict[int, int] = {}
        self._unsure: set[int] = set()
        self._answered: set[int] = set()
        self._owed: set[int] = set()  # answered, and not compared
        self._suspects: dict[int, list[bytes]] = {}

    def begin(self) -> None:
        """A walk or a live round begins."""
        self._twins.clear()
        self._paired.clear()

    def doubted(self, ino: int) -> bool:
        return self.all_in_doubt or ino in self.in_doubt

    def pending(self, ino: int) -> bool:
        """Whether the target is to be asked for a directory, and was not yet."""
        return ino in self.in_doubt or (self.all_in_doubt and ino not in self._answered)

    def sure(self, ino: int) -> bool:
        """Whether the target surely holds in a directory what is written down: it is not to be
        asked for it, and no rename on the way up to it may have been lost. Only then may what is
        there be taken to another name; what is not sure is found out under its own name alone."""
        return not self.pending(ino) and self.placed(ino)

    def placed(self, ino: int) -> bool:
        """Whether a directory that the target holds is surely the one that is written down."""
        if not (self.in_doubt or self.all_in_doubt or self._suspects or self._unsure):
            return True
        while ino != self.root.identity.ino:
            places = self.journal.places(ino)
            if not places or ino in self._unsure:
                return False
            parent, name = places[0]
            if name in self._suspects.get(parent, ()) or (
                self.pending(parent) and name in self.journal.suspects(parent)
            ):
                return False
            ino = parent
        return True

    def suspect(self, ino: int, name: bytes) -> None:
        """Which directory the target holds under a name is to be found out."""
        self.journal.suspect(ino, [name], UNTIL_ASKED)
        path = self.journal.path(ino, self.root.identity.ino)
        if path is not None:
            self.ask(ino, path)
        self.dirty.add_dir(ino, False, time.monotonic())

    def visited(self, ino: int, path: bytes) -> None:
        """A directory was compared, and those in it are asked for if need be. Only from here on is
        it out of doubt: what died before that leaves the question as it was, to be put again."""
        self._unsure.discard(ino)
        self._suspects.pop(ino, None)
        if ino in self._owed:
            self._owed.discard(ino)
            self.draft.dir(ino, path).before_edits.append(Settled(ino))

    def compares_content(self, ino: int) -> bool:
        return self.strict or ino in self._unsure

    def unsure(self, visit: Visit, entry: Entry, path: bytes) -> bool:
        """Whether the target may hold another directory than entry under this name, since a rename
        was on its way. Then it is asked for all below, and by content: nothing else tells two
        directories of one shape from each other."""
        suspect = entry.name in self._suspects.get(visit.ino, ())
        if not (visit.unsure or visit.ino in self._unsure or suspect):
            return False
        self._unsure.add(entry.ino)
        self.journal.suspect(entry.ino, [ALL_BELOW], UNTIL_ASKED)
        self.ask(entry.ino, path)
        return True

    def ask(self, ino: int, path: bytes) -> None:
        """The target is to be asked for a directory when that is visited."""
        self.in_doubt.add(ino)
        self.journal.doubt(ino, path, UNTIL_ASKED)

    def succeed(self, old: int, new: int, path: bytes) -> None:
        """The question what is in a directory goes to the one that took its place."""
        for those in (self._unsure, self._owed):
            if old in those:
                those.add(new)
        if self.pending(old):
            self.ask(new, path)

    def doubt(self, path: bytes, ancestors: bool, look: bool = True) -> None:
        """The target may not hold what is written down for the directory that path stands in, and
        under the name itself it may hold anything. look: that is to be found out now."""
        now = time.monotonic()
        directory, _, name = path.rpartition(b"/")
        while True:
            # What had this path when it was sent may have moved since, and another come there.
            there = self.journal.inode(directory, self.root.identity.ino)
            those = set(self.journal.doubted(directory)) | ({there} if there is not None else set())
            for ino in those or {ino for ino, _ in self.journal.doubts()}:
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

    def known(self, visits: list[Visit]) -> tuple[list[bytes | None], set[int]]:
        """What the target is expected to hold in each directory, and which of them it was asked
        for. None: it has no such directory, which the one above is to be asked about."""
        found: dict[int, bytes | None] = {}
        asked: list[Visit] = []
        if any(v.ino in self.draft.dirs and v.ino not in self.draft.made for v in visits):
            # What was drafted for it in this round is to be known before it is compared again: what
            # seems new would be made once more, and what is in it be forgotten.
            self.draft.settle()
        listings = self.journal.listings([visit.ino for visit in visits])
        for visit in visits:
            if self.draft.is_unmade(visit):
                found[visit.ino] = b""
                continue
            held = found[visit.ino] = listings.get(visit.ino, b"")
            if visit.assumed or not self.assumed.holds(visit.ino):
                if self.doubted(visit.ino):
                    self._answered_for(visit.ino)  # what the target holds there does not matter
            elif self.doubted(visit.ino) or not (held or self._empty(visit.ino)):
                asked.append(visit)
                if ALL_BELOW in self.journal.suspects(visit.ino):
                    self._unsure.add(visit.ino)
            self.draft.made.discard(visit.ino)
        if asked:
            # What is on its way would arrive behind the answer, and change what it says.
            self.draft.flush()
            self.draft.sink.arrive()
            for content in (False, True):
                some = [v for v in asked if self.compares_content(v.ino) == content]
                requests = [(v.path, self.paths.skip(v.path)) for v in some]
                answers = self.probe(requests, content) if some else []
                for visit, answer in zip(some, answers, strict=True):
                    found[visit.ino] = self._heard(visit, answer)
        return [found[v.ino] for v in visits], {v.ino for v in asked}

    def _empty(self, ino: int) -> bool:
        """Whether the target's directory is known to be empty, which is more than not known."""
        return ino in self.draft.made or self.journal.lists(ino)

    def _heard(self, visit: Visit, answer: bytes | None) -> bytes | None:
        ino, path = visit.ino, visit.path
        if answer is None and path:
            self.doubt(path, ancestors=True)
            return None
        heard = self.included(path, answer or b"")
        suspects = self.journal.suspects(ino)
        if suspects:
            self._suspects[ino] = suspects
        remembered = self.journal.listing(ino)
        if not self.compares_content(ino):
            heard = believe(heard, remembered, suspects, self._pair)
        heard = self.assumed.heard(heard, remembered, suspects)
        self.journal.replace(ino, heard)
        self._answered_for(ino)
        if not path:
            # No listing tells what the target's root itself looks like: it is set anew.
            self.journal.set("root", b"")
        return heard

    def _answered_for(self, ino: int) -> None:
        self.in_doubt.discard(ino)
        if self.all_in_doubt:
            self._answered.add(ino)
        self._owed.add(ino)
        self.journal.answered(ino)

    def included(self, path: bytes, now: bytes) -> bytes:
        return included(self.paths, path, now)

    def digested(self, ino: int, path: bytes, now: bytes) -> bytes:
        """Where the target told its side, our side's attributes (strict: content) are read as
        well."""
        if not now:
            return now
        groups = bytearray(batch.group(path, now))
        batch.digest_files(
            self.root.fd, self.root.dev, groups, content=self.compares_content(ino), threads=4
        )
        ((_, filled),) = batch.groups(groups)
        return listing.cleared(filled)

    def adopt(
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
                split.append(entry._replace(verdict=Verdict.SWAPPED, content=bytes(16)))
            elif self.twin(entry, theirs):
                agreed.append(entry)
            else:
                joined.append(entry._replace(verdict=Verdict.DATA))
        work = self.draft.dir(visit.ino, visit.path)
        work.before_edits.append(Put(visit.ino, b"".join(map(known, agreed)), agreed=True))
        work.before_edits += [
            self.draft.place(e, visit.ino)
            for e in agreed
            if self.draft.placed(e) and e.ino and not e.flags & MOUNT
        ]
        for entry in listing.kept(c.dirs, Kind.DIR) if c else ():
            # It is there, whatever its own attributes are: what goes into it must find the way.
            if entry.verdict == Verdict.META and entry.ino and not entry.flags & MOUNT:
                work.before_edits.append(self.draft.place(entry, visit.ino))
        if any(e.nlink > 1 and e.kind != Kind.DIR for e in agreed):
            # Further names of the same file, here or elsewhere, are to find this one.
            self.draft.settle()
        if not split and not joined:
            return changes
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

    def twin(self, entry: Entry, theirs: Entry) -> bool:
        """Whether the target's file is, or may become, the one that all names of ours share."""
        known = self._twins.get(theirs.ino) == entry.ino
        return known or (
            all(self.pending(parent) for parent, _ in self.draft.link_places(entry))
            and self._pair(theirs, entry)
        )

    def linked(self, ino: int, anew: bool) -> None:
        """A name of this file of ours is made at the target; anew: as a file of its own, to which
        the names that are known are linked. Others are not taken for it because they look so."""
        theirs = self._paired.setdefault(ino, 0)
        if anew and theirs:
            self._paired[ino] = 0
            del self._twins[theirs]

    def _pair(self, theirs: Entry, ours: Entry) -> bool:
        """Whether all names heard of so far agree that these two are one file."""
        if theirs.ino not in self._twins and ours.ino not in self._paired:
            self._twins[theirs.ino] = ours.ino
            self._paired[ours.ino] = theirs.ino
        return self._twins.get(theirs.ino) == ours.ino


def included(paths: PathSet, path: bytes, now: bytes) -> bytes:
    """The listing without names that a pattern excludes; exact names were left out in C."""
    if not paths.has_globs:
        return now
    out = [e.name for e in listing.entries(now) if paths.matches(path, e.name)]
    return without(now, out) if out else now


def _with(section: bytes, more: Iterable[Entry]) -> bytes:
    return listing.sort(section + b"".join(map(listing.encode, more)))
