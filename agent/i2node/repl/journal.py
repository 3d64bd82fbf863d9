"""The journal: what the source expects its target to hold. Where it is not sure: doubts.py.

Nothing is kept until `commit`; a kill at any moment leaves the last commit. A power cut may take
the last commits too: `unclean_boot` tells, and then everything is in doubt.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2node.errors import SessionError
from i2node.model import PROBED, Kind
from i2node.mover import listing as listings
from i2node.repl.database import signed as _signed
from i2node.repl.database import unsigned as _unsigned
from i2node.repl.doubts import UNTIL_ASKED, Doubts
from i2node.repl.signatures import Signature, Signatures

PAGE = 28
"""Entries in a page of a listing: with names of usual length it fits a page of the database, and a
change of one writes no more than that."""

_TABLES = """
CREATE TABLE listing(dir INTEGER, first BLOB, n INTEGER NOT NULL, records BLOB NOT NULL,
                     UNIQUE(dir, first));
CREATE TABLE place(ino INTEGER, dir INTEGER, name BLOB, PRIMARY KEY(ino, dir, name)) WITHOUT ROWID;
CREATE UNIQUE INDEX place_at ON place(dir, name);
"""
_KEYED = (
    ("listing", "dir"),
    ("place", "ino"),
    ("place", "dir"),
)
# The page of a listing that a name belongs to, and where the next one begins.
_PAGE_OF = """
SELECT first, records, (SELECT min(first) FROM listing WHERE dir=?1 AND first>here.first)
FROM listing here WHERE dir=?1 AND first<=?2 ORDER BY first DESC LIMIT 1
"""
_ANY = 1 << 63  # bytes: no limit
_AT_ONCE = 500  # values in one query
LINKED = 100_000  # inode numbers that `linked` gives at most, and one


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """entries known in all listings, directories that have one, places, directories in doubt, and
    bytes on disk with the log and the signatures."""

    entries: int
    directories: int
    places: int
    doubts: int
    disk_bytes: int


class Journal(Doubts):
    """The journal of one rule at the source, in a file of its own. Inode numbers are those of the
    source, unsigned 64 bit. When it was `rebuilt`, both sides have to be compared by content. The
    keys root, compared, mirrored and assumed go with `wipe`."""

    SCHEMA = 1
    TABLES = _TABLES + Doubts.TABLES

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        """path: the database; signatures go to `sig` beside it. boot_id: this boot's, for tests."""
        self.signatures = Signatures(path.parent / "sig")
        self._linked: set[int] = set()
        super().__init__(path, boot_id)
        if self.rebuilt:
            self.signatures.clear()

    def close(self) -> None:
        """Puts down what is held in memory, commits, and notes that the end was an orderly one."""
        with self._lock:
            # What cannot be put down is compared in full the next time.
            with suppress(SessionError):
                self.signatures.settle_all()
            super().close()

    def rebuild(self) -> bool:
        with self._lock:
            if rebuilt := super().rebuild():
                self._linked.clear()
                self.signatures.clear()
            return rebuilt

    def wipe(self) -> None:
        """Forgets all that the target is expected to hold, and commits."""
        with self._writing("wiping") as db:
            db.execute("DELETE FROM meta WHERE key IN ('root', 'compared', 'mirrored', 'assumed')")
            for table in ("listing", "place", "doubt", "suspect"):
                db.execute(f"DELETE FROM {table}")
            self.signatures.clear()
            self.commit()

    # ------------------------------------------------------------------------ listings

    def listing(self, ino: int) -> bytes:
        """What the target is expected to hold in a directory; empty where nothing is known."""
        with self._using("reading") as db:
            rows = db.execute(
                "SELECT records FROM listing WHERE dir=? ORDER BY first", (_signed(ino),)
            )
            return b"".join(records for (records,) in rows)

    def listings(self, inos: Sequence[int]) -> dict[int, bytes]:
        """The same of many directories, of which something is known."""
        found: dict[int, list[bytes]] = {}
        with self._using("reading") as db:
            query = "SELECT dir, records FROM listing WHERE dir IN (?) ORDER BY dir, first"
            for key, records in _of_many(db, query, inos):
                found.setdefault(_unsigned(key), []).append(records)
        return {ino: b"".join(pages) for ino, pages in found.items()}

    def select(self, ino: int, names: Iterable[bytes]) -> bytes:
        """The listing of a directory, of these names only."""
        key = _signed(ino)
        found: list[bytes] = []
        first, page, end = b"", b"", None
        with self._using("reading") as db:
            for name in sorted(set(names)):
                if not page or name < first or (end is not None and name >= end):
                    row = db.execute(_PAGE_OF, (key, name)).fetchone()
                    if row is None:
                        return b""
                    first, page, end = row
                entry = listings.find(page, name)
                if entry is not None:
                    found.append(listings.encode(entry))
        return b"".join(found)

    def find_inode(self, ino: int) -> list[tuple[int, bytes]]:
        """All (directory, name) whose entry has this inode number: a search through everything, for
        the rare file that gets a second name."""
        wanted = ino.to_bytes(8, "little")
        with self._using("reading") as db:
            rows = db.execute(
                "SELECT dir, records FROM listing WHERE instr(records, ?) > 0", (wanted,)
            ).fetchall()
        return [
            (_unsigned(dir), entry.name)
            for dir, records in rows
            for entry in listings.entries(records)
            if entry.ino == ino and not entry.flags & PROBED
        ]

    def inodes(self) -> array[int]:
        """The inode numbers of all files that are kept with one name, sorted."""
        found: array[int] = array("Q")
        with self._using("reading") as db:
            for (records,) in db.execute("SELECT records FROM listing"):
                found.extend(listings.single(records))
        return array("Q", sorted(found))

    def pages(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes, bytes]]:
        """Of all listings, in one order: (directory, first, records). after: the last one had."""
        key, first = (-(1 << 63), b"") if after is None else (_signed(after[0]), after[1])
        with self._using("reading") as db:
            query = "SELECT dir, first, records FROM listing WHERE (dir, first) > (?, ?)"
            rows = db.execute(f"{query} ORDER BY dir, first LIMIT ?", (key, first, limit))
            return [(_unsigned(dir), bytes(first), records) for dir, first, records in rows]

    def count(self) -> int:
        """How many entries the target is expected to hold: a search through everything."""
        with self._using("reading") as db:
            return int(db.execute("SELECT total(n) FROM listing").fetchone()[0])

    def lists(self, ino: int) -> bool:
        """Whether a listing is kept, be it an empty one."""
        with self._using("reading") as db:
            row = db.execute("SELECT 1 FROM listing WHERE dir=? LIMIT 1", (_signed(ino),))
            return row.fetchone() is not None

    def put(self, ino: int, change: bytes) -> None:
        """Lays a sound listing of changes over a directory's, as i2_merge does: verdict GONE
        removes, entries with a status are passed over. Only the pages concerned are rewritten.
        Raises ProtocolError when change is not sound."""
        listings.check(change)
        key = _signed(ino)
        left = memoryview(change)
        with self._writing("writing") as db:
            while left:
                name = listings.first(left)
                row = db.execute(_PAGE_OF, (key, name)).fetchone()
                first, records, after = row or (b"", b"", None)
                end = len(left) if after is None else listings.before(left, after)
                self._put_page(db, key, first, listings.merge(records, left[:end]))
                left = left[end:]

    def replace(self, ino: int, listing: bytes) -> None:
        """Sets the whole listing of a directory; empty: a directory known to be empty."""
        listings.check(listing)
        key = _signed(ino)
        with self._writing("writing") as db:
            db.execute("DELETE FROM listing WHERE dir=?", (key,))
            self._put_page(db, key, b"", listing)

    def _put_page(self, db: sqlite3.Connection, key: int, first: bytes, records: bytes) -> None:
        # The first page is keyed b"" and stays even when empty: so each name has a page it belongs
        # to, and an empty directory differs from an unknown one.
        if not records and first:
            db.execute("DELETE FROM listing WHERE dir=? AND first=?", (key, first))
            return
        left = memoryview(records)
        while True:
            # A page that grew is split only when it is half as long again, or it would be split
            # with each name that is added.
            end, n, _ = listings.cut(left, PAGE * 3 // 2, _ANY)
            if end < len(left):
                end, n, _ = listings.cut(left, PAGE, _ANY)
            db.execute(
                "INSERT INTO listing VALUES(?, ?, ?, ?) ON CONFLICT(dir, first) DO UPDATE "
                "SET n=excluded.n, records=excluded.records",
                (key, first, n, left[:end]),
            )
            left = left[end:]
            if not left:
                return
            first = listings.first(left)

    def forget(self, ino: int) -> None:
        """Forgets the listing of a directory that is no more, and of all directories below it, with
        the places in them, the places of the directory itself, their doubts, and the signatures of
        files that have no place left. A directory that has a place elsewhere by now stays."""
        with self._writing("writing") as db:
            db.execute("DELETE FROM place WHERE ino=?", (_signed(ino),))
            left, seen = [ino], {ino}
            while left:
                top = left.pop()
                key = _signed(top)
                below = {
                    child
                    for (records,) in db.execute("SELECT records FROM listing WHERE dir=?", (key,))
                    for child in listings.directories(records)
                }
                placed = [
                    _unsigned(child)
                    for (child,) in db.execute("SELECT ino FROM place WHERE dir=?", (key,))
                ]
                db.execute("DELETE FROM listing WHERE dir=?", (key,))
                db.execute("DELETE FROM place WHERE dir=?", (key,))
                self.undoubt(top)
                for child in below.union(placed) - seen:
                    elsewhere = db.execute(
                        "SELECT 1 FROM place WHERE ino=? LIMIT 1", (_signed(child),)
                    )
                    if elsewhere.fetchone() is None:
                        seen.add(child)
                        left.append(child)
            for child in self.signatures.known & seen:
                self.signatures.drop(child)

    def rekey(self, old_ino: int, new_ino: int) -> None:
        """What was known of one inode number is known of another from now on; what was known of
        that one is lost, but no doubt of it."""
        old, new = _signed(old_ino), _signed(new_ino)
        if old == new:
            return
        with self._writing("writing") as db:
            self.doubt_instead(old_ino, new_ino)
            for table, column in _KEYED:
                db.execute(f"DELETE FROM {table} WHERE {column}=?", (new,))
                db.execute(f"UPDATE {table} SET {column}=? WHERE {column}=?", (new, old))
            self.signatures.drop(old_ino)

    # ------------------------------------------------------------------------ places

    def place(self, ino: int, dir: int, name: bytes, sole: bool = False) -> None:
        """The target is expected to hold ino under this name; who was there is there no more.
        sole: and under no other, as is so of every directory; another place of that number
        belonged to a file that had it before."""
        with self._writing("writing") as db:
            if sole:
                db.execute("DELETE FROM place WHERE ino=?", (_signed(ino),))
            elif len(self._linked) <= LINKED:
                self._linked.add(ino)
            db.execute(
                "INSERT OR REPLACE INTO place VALUES(?, ?, ?)", (_signed(ino), _signed(dir), name)
            )

    def linked(self) -> set[int]:
        """The files that were placed since the last call and may have other names. More than
        LINKED: there may be any number of others."""
        with self._lock:
            taken, self._linked = self._linked, set()
        return taken

    def unplace(self, ino: int, dir: int, name: bytes) -> None:
        """Takes that back; no such place is fine."""
        with self._writing("writing") as db:
            db.execute(
                "DELETE FROM place WHERE ino=? AND dir=? AND name=?",
                (_signed(ino), _signed(dir), name),
            )

    def places(self, ino: int, most: int = -1) -> list[tuple[int, bytes]]:
        """All (directory, name) of an inode, by directory and name; below 0: no limit to how many
        at most."""
        with self._using("reading") as db:
            rows = db.execute(
                "SELECT dir, name FROM place WHERE ino=? ORDER BY dir, name LIMIT ?",
                (_signed(ino), most),
            )
            return [(_unsigned(dir), bytes(name)) for dir, name in rows]

    def places_of(self, inos: Sequence[int]) -> dict[int, list[tuple[int, bytes]]]:
        """The same of many inodes, of those that have any."""
        found: dict[int, list[tuple[int, bytes]]] = {}
        with self._using("reading") as db:
            query = "SELECT ino, dir, name FROM place WHERE ino IN (?) ORDER BY dir, name"
            for ino, dir, name in _of_many(db, query, inos):
                found.setdefault(_unsigned(ino), []).append((_unsigned(dir), bytes(name)))
        return found

    def placed(self, inos: Sequence[int]) -> bool:
        """Whether any of these inodes has a place."""
        with self._using("reading") as db:
            query = "SELECT 1 FROM place WHERE ino IN (?) LIMIT 1"
            return next(_of_many(db, query, inos), None) is not None

    def linked_below(self, top: int) -> set[int]:
        """The files with several places of which one is in a directory, or below it."""
        found: set[int] = set()
        left, seen = [top], {top}
        with self._using("reading") as db:
            while left:
                key = _signed(left.pop())
                for ino, places in db.execute(
                    "SELECT ino, (SELECT count(*) FROM place o WHERE o.ino=p.ino) "
                    "FROM place p WHERE dir=?",
                    (key,),
                ):
                    if places > 1:
                        found.add(_unsigned(ino))
                    elif _unsigned(ino) not in seen:
                        seen.add(_unsigned(ino))
                        left.append(_unsigned(ino))
        return found

    def occupant(self, dir: int, name: bytes) -> int | None:
        """The inode placed under a name, None when none is."""
        with self._using("reading") as db:
            row = db.execute(
                "SELECT ino FROM place WHERE dir=? AND name=?", (_signed(dir), name)
            ).fetchone()
            return None if row is None else _unsigned(row[0])

    def path(self, ino: int, root_ino: int) -> bytes | None:
        """Where the target is expected to hold a directory (of a file: one of its names), relative
        to the root; b"" is the root. None when the way up does not lead to the root."""
        return self.paths([ino], root_ino)[ino]

    def paths(self, inos: Iterable[int], root_ino: int) -> dict[int, bytes | None]:
        """The same of many."""
        above: dict[int, tuple[int, bytes]] = {}
        wanted = list(dict.fromkeys(inos))
        met, left = {root_ino}, wanted
        with self._lock:
            while left := [ino for ino in left if ino not in met]:
                met.update(left)
                above |= {ino: places[0] for ino, places in self.places_of(left).items()}
                left = list({above[ino][0] for ino in left if ino in above})
        return {ino: _path(ino, root_ino, above) for ino in wanted}

    def inode(self, path: bytes, root_ino: int) -> int | None:
        """The directory that the target is expected to hold at a path relative to the root."""
        ino: int | None = root_ino
        for name in path.split(b"/") if path else ():
            if ino is None:
                return None
            ino = self.occupant(ino, name)
        return ino

    def suspect_doubted(self) -> None:
        """All files that are listed in a directory in doubt are suspect: of what was not durable a
        power cut leaves anything, under the size and times of the whole."""
        for ino, _ in self.doubts():
            files = [e.name for e in listings.kept(self.listing(ino), Kind.FILE)]
            self.suspect(ino, files, UNTIL_ASKED)

    # ------------------------------------------------------------------------ signatures, status

    def signature(self, ino: int) -> Signature | None:
        """The block signature of a large file, if a sound one is kept."""
        with self._lock:
            return self.signatures.read(ino)

    def put_signature(self, ino: int, signature: Signature) -> None:
        """Keeps it at once, whatever is committed: it says itself which version it belongs to."""
        with self._lock:
            self.signatures.write(ino, signature)

    def hold_signature(self, ino: int, signature: Signature) -> None:
        """Keeps it in memory; a kill before `settle_signature` or `close` leaves none."""
        with self._lock:
            self.signatures.hold(ino, signature)

    def settle_signature(self, ino: int, release: bool = False) -> None:
        """Puts one that is held in memory where a kill leaves it; release: holds it no longer."""
        with self._lock:
            (self.signatures.release if release else self.signatures.settle)(ino)

    def drop_signature(self, ino: int) -> None:
        """Forgets it."""
        with self._lock:
            self.signatures.drop(ino)

    def statistics(self) -> JournalStatus:
        """Counts; reads all listings, which takes 0.2 s for a million entries."""
        with self._using("reading") as db:
            (entries,) = db.execute("SELECT coalesce(sum(n), 0) FROM listing").fetchone()
            (dirs,) = db.execute("SELECT count(*) FROM listing WHERE first=x''").fetchone()
            (places,) = db.execute("SELECT count(*) FROM place").fetchone()
            (doubts,) = db.execute("SELECT count(*) FROM doubt").fetchone()
            size = self.signatures.size()
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                size += self.file.with_name(self.file.name + end).stat().st_size
        return JournalStatus(entries, dirs, places, doubts, size)


def _of_many(db: sqlite3.Connection, query: str, inos: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The rows of a query in which (?) stands for all of these inodes."""
    for at in range(0, len(inos), _AT_ONCE):
        some = list(map(_signed, inos[at : at + _AT_ONCE]))
        yield from db.execute(query.replace("(?)", f"({','.join('?' * len(some))})"), some)


def _path(ino: int, root_ino: int, above: Mapping[int, tuple[int, bytes]]) -> bytes | None:
    """The way up from a directory, by what is known to be above each; None when it does not end at
    the root."""
    names: list[bytes] = []
    while ino != root_ino:
        if ino not in above or len(names) > len(above):
            return None
        ino, name = above[ino]
        names.append(name)
    return b"/".join(reversed(names))
