"""Files that the rule knows under fewer names than they have: written to under another one, they
raise no event in the tree."""

from __future__ import annotations

from i2node.fs.sweep import Name, Stray
from i2node.mover import listing
from i2node.repl.journal import LINKED, Journal

MOST = 100_000
"""So many are swept; where there are more, all are left to the slow sweep."""
_COUNTED = 1_000_000  # files with several names, of which the names are counted at a time
_PAGES = 32  # of the journal, read at a time: a few milliseconds at most


class Outside:
    """Those of one journal. Counted once, some pages with each `step`; then kept up to date by what
    the journal places. A name made outside while the rule runs raises no event either: it is known
    when the file is next looked at, by the slow sweep at the latest. For one thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.counted = False
        self.many = False
        """There are too many to be kept."""
        self._strays: dict[int, Stray] = {}
        self._begin()

    def _begin(self) -> None:
        self.counted = False
        self._after: tuple[int, bytes] | None = None
        self._names: dict[int, tuple[int, int, Name, int]] = {}  # names, links, one, its ctime

    def step(self) -> bool:
        """Counts on; True when all is counted."""
        if self.counted:
            return True
        pages = self.journal.pages(self._after, _PAGES)
        for directory, first, records in pages:
            self._after = (directory, first)
            for entry in listing.linked(records):
                names, _, name, ctime = self._names.get(entry.ino, (0, 0, None, entry.ctime))
                here = name or (directory, entry.name)
                self._names[entry.ino] = (names + 1, entry.nlink, here, ctime)
        self.many = len(self._names) > _COUNTED
        if pages and not self.many:
            return False
        for ino, (names, links, name, ctime) in self._names.items():
            if names < links:
                self._strays[ino] = Stray(ino, name, names, ctime)
        self._names.clear()
        self.counted = True
        self._limit()
        return True

    def all(self) -> list[Stray]:
        """Those known by now."""
        placed = self.journal.linked()
        if len(placed) > LINKED:
            self._begin()
        elif not self.many:
            for ino in placed:
                self._place(ino)
            self._limit()
        return list(self._strays.values())

    def drop(self, ino: int) -> None:
        """It is not found under that name, or has none outside: what changes that has it placed
        again."""
        self._strays.pop(ino, None)

    def _place(self, ino: int) -> None:
        """A file was placed, and may still be on its way: how many names it has is for the sweep to
        see."""
        places = self.journal.places(ino)
        for directory, name in places:
            held = listing.find(self.journal.select(directory, [name]), name)
            if held is not None and held.ino == ino:
                self._strays[ino] = Stray(ino, (directory, name), len(places), held.ctime)
                return
        if places:
            self._strays[ino] = Stray(ino, places[0], len(places), 0)

    def _limit(self) -> None:
        self.many = self.many or len(self._strays) > MOST
        if self.many:
            self._strays.clear()
