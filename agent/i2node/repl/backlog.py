"""What is dirty beyond what memory is to hold: names in a file, one row each.

Touches gather in memory and are written in batches, by a thread that lives as long as there is a
batch to write: whoever reads events does not wait for a disk. Nothing is made durable: after a
restart the walk finds everything, so the file begins empty, and it is there only while there is
something in it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from i2node import log
from i2node.fs.touch import TOUCHES, Touch, Work
from i2node.repl.database import signed, unsigned

_log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE name(dir INTEGER, name BLOB, touch INTEGER NOT NULL, PRIMARY KEY(dir, name))
WITHOUT ROWID;
CREATE TABLE dir(dir INTEGER PRIMARY KEY, since REAL NOT NULL);
CREATE INDEX dir_since ON dir(since);
"""
_OF_NAME = "SELECT touch, since FROM name JOIN dir USING(dir) WHERE dir=? AND name=?"
_AT_ONCE = 500  # rows in one statement: between two, the interpreter may run another thread
_BEHIND = 2  # while so many batches wait in memory for the disk, `pause` does
_PAUSE_S = 0.25
_TREE = Touch.TREE.value


class _Share:
    """What one directory has in memory here."""

    __slots__ = ("names", "since")

    def __init__(self, since: float) -> None:
        self.names: dict[bytes, int] = {}
        self.since = since


_Shares = dict[int, _Share]  # by inode number, the earliest first
_Row = TypeVar("_Row")


class Backlog:
    """The `Spill` of one rule, a file of its own. When it cannot be written (a full disk), what is
    in memory stays there and no more is kept, until all of it was taken back. When it cannot even
    be emptied, the directories in it are handed out as whole ones; when it cannot be read, the root
    with all below it. Either is logged once, until it works again."""

    def __init__(self, file: Path, root: int, batch: int = 8192, most: int = 49_152) -> None:
        """root: inode number of the root. batch: names written at once. most: names that may wait
        in memory for that, as many as the kernel may tell of in one go. Removes a file that is
        there."""
        self.file = file
        self._root = root
        self._batch = batch
        self._most = most
        # Who needs both takes the disk first; nobody waits for it with another lock in hand.
        self._disk = threading.Lock()  # the connection
        self._quick = threading.Condition()  # all that follows
        self._fresh: _Shares = {}
        self._names = 0  # in fresh
        self._written: _Shares = {}  # on their way to the disk
        self._writing = 0  # names in them
        self._gone: set[int] = set()  # directories of which the disk may still hold something
        self._rows = 0
        self._earliest: float | None = None  # of the rows
        self._lent: tuple[int, float] | None = None  # names, since: handed back, not yet counted
        self._writer: threading.Thread | None = None
        self._failed = False
        self._closed = False
        self._db: sqlite3.Connection | None = None
        self._drop_file()

    def close(self) -> None:
        """Ends it and removes the file; what was kept stays counted. Closing twice is fine."""
        with self._quick:
            self._closed = True
            writer = self._writer
        if writer is not None:
            writer.join()
        with self._disk:
            self._drop_file()

    # ------------------------------------------------------------------------ filling

    def add(self, ino: int, name: bytes, touch: int, since: float) -> bool:
        """Keeps a touch, with those of the name that are kept already. False: the disk failed, or
        is far behind."""
        with self._quick:
            share = self._fresh.get(ino)
            known = share.names.get(name) if share is not None else None
            if share is not None and known is not None:
                share.names[name] = known | touch
                return True
            if self._failed or self._closed or self._names >= self._most:
                return False
            if share is None:
                share = self._fresh[ino] = _Share(since)
            share.names[name] = touch
            self._names += 1
            self._start_writing()
            return True

    def discard(self, ino: int) -> None:
        """Drops all that is kept of a directory."""
        with self._quick:
            share = self._fresh.pop(ino, None)
            if share is not None:
                self._names -= len(share.names)
            if self._rows or self._writing:
                self._gone.add(ino)
                self._start_writing()

    def pause(self) -> None:
        """Waits, a quarter of a second at most, where the disk is far behind."""
        with self._quick:
            if self._names >= _BEHIND * self._batch:
                self._quick.wait_for(
                    lambda: self._writer is None or self._names < self._batch, _PAUSE_S
                )

    def _start_writing(self) -> None:
        if self._writer is None and self._due():
            self._writer = threading.Thread(target=self._write, name="backlog", daemon=True)
            try:
                self._writer.start()
            except RuntimeError as error:  # no more threads
                self._writer = None
                self._fail(error)

    def _due(self) -> bool:
        # Directories are dropped in batches too: one by one they would cost a transaction each.
        full = self._names + len(self._gone) >= self._batch
        return full and not self._failed and not self._closed

    def _write(self) -> None:
        """The writer's life: batches, until there is none to write."""
        while True:
            with self._disk:
                with self._quick:
                    if not self._due():
                        self._writer = None
                        self._quick.notify_all()
                        return
                    shares, self._fresh = self._fresh, {}
                    gone, self._gone = self._gone, set()
                    self._written, self._writing, self._names = shares, self._names, 0
                    self._quick.notify_all()
                try:
                    rows = self._store(shares, gone)
                    earliest = self._first()
                except (sqlite3.Error, OSError) as error:
                    self._undo()
                    if not self._rows:
                        self._drop_file()
                    with self._quick:
                        self._fail(error)
                        self._come_back(shares, gone)
                    continue
                with self._quick:
                    self._written, self._writing = {}, 0
                    self._rows += rows
                    self._earliest = earliest

    def _come_back(self, shares: _Shares, gone: set[int]) -> None:
        """What could not be written is in memory again, before what came since."""
        for ino in self._gone:
            shares.pop(ino, None)
        for ino, share in self._fresh.items():
            known = shares.setdefault(ino, share)
            if known is not share:
                for name, touch in share.names.items():
                    known.names[name] = known.names.get(name, 0) | touch
        self._fresh = shares
        self._names = sum(len(share.names) for share in shares.values())
        self._written, self._writing = {}, 0
        self._gone |= gone

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            cause = error.strerror if isinstance(error, OSError) else str(error)
            room = f"make room in {self.file.parent}"
            log.event(
                _log,
                logging.WARNING,
                "backlog-failed",
                file=os.fsencode(self.file),
                cause=cause,
                remedy=f"{room}; until then more whole directories are looked at",
            )

    # ------------------------------------------------------------------------ emptying

    def take(self, names: int, most: int) -> list[Work]:
        """Hands back about so many names, whole directories' shares, the oldest first, and none
        twice; a directory with more than most names as a whole. They count until `taken`."""
        with self._disk:
            with self._quick:
                if self._closed:
                    return []
                gone, self._gone = self._gone, set()
            works: list[Work] = []
            rows = 0
            if self._rows:
                try:
                    works, rows = self._fetch(gone, names, most)
                except (sqlite3.Error, OSError) as error:
                    self._undo()
                    with self._quick:
                        self._fail(error)
                    works, rows = self._salvage(gone), 0
                if not rows:
                    self._drop_file()
                earliest = self._first() if rows else None
                with self._quick:
                    self._rows, self._earliest = rows, earliest
            with self._quick:
                works = [self._with_fresh(work) for work in works]
                count = sum(1 if w.names is None else len(w.names) for w in works)
                if not rows:
                    # Nothing that is older: what was not written need not be.
                    fresh = self._take_fresh(names - count, most)
                    count += sum(1 if w.names is None else len(w.names) for w in fresh)
                    works += fresh
                    self._failed = self._failed and bool(self._fresh)
                if works:
                    self._lent = (count, min(work.since for work in works))
                return works

    def taken(self) -> None:
        """What `take` handed back is counted elsewhere from now on."""
        with self._quick:
            self._lent = None

    def find(self, ino: int, name: bytes) -> tuple[int, float] | None:
        """The touch that is kept of a name, and since when; None: none is, or the disk fails."""
        with self._disk:
            with self._quick:
                share = self._fresh.get(ino)
                fresh = share.names.get(name, 0) if share is not None else 0
                earliest = share.since if share is not None else 0.0
                rows = self._rows if ino not in self._gone else 0
            row = None
            if rows and self._db is not None:
                with suppress(sqlite3.Error):
                    row = self._db.execute(_OF_NAME, (signed(ino), name)).fetchone()
            if row is not None:
                return row[0] | fresh, row[1]
            return (fresh, earliest) if fresh else None

    def _with_fresh(self, work: Work) -> Work:
        """With what came meanwhile for the directory; it is as new, so the age stays."""
        share = self._fresh.pop(work.ino, None)
        if share is None:
            return work
        self._names -= len(share.names)
        trees = work.trees | _trees(share.names)
        if work.names is None:
            return replace(work, trees=trees)
        for name, touch in share.names.items():
            work.names[name] = TOUCHES[work.names.get(name, TOUCHES[0]).value | touch]
        return replace(work, trees=trees)

    def _take_fresh(self, names: int, most: int) -> list[Work]:
        works = []
        for ino in list(self._fresh):
            if names <= 0:
                break
            share = self._fresh.pop(ino)
            self._names -= len(share.names)
            touches = {name: TOUCHES[touch] for name, touch in share.names.items()}
            whole = len(touches) > most
            names -= 1 if whole else len(touches)
            works.append(
                Work(ino, None if whole else touches, False, _trees(share.names), share.since)
            )
        return works

    # ------------------------------------------------------------------------ counting

    def count(self) -> int:
        """Names kept; 0 only when there are none. One that is on disk and was touched again, or
        whose directory was dropped, may count once more until it is next taken."""
        with self._quick:
            lent = self._lent[0] if self._lent else 0
            return self._names + self._writing + self._rows + lent

    def oldest(self) -> float | None:
        """Clock reading of the earliest touch kept; None when there is none."""
        with self._quick:
            known = [self._earliest, self._lent[1] if self._lent else None]
            known += [next(iter(s.values())).since for s in (self._written, self._fresh) if s]
            return min((since for since in known if since is not None), default=None)

    # ------------------------------------------------------------------------ the file

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._unlink()
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            # The room that undoing takes stays taken: a full disk is to be emptied all the same.
            self._db.execute("PRAGMA journal_mode=PERSIST")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute("PRAGMA cache_size=-4096")
            self._db.executescript(_TABLES)
        return self._db

    def _undo(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.rollback()

    def _drop_file(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        with suppress(OSError):
            self._unlink()

    def _unlink(self) -> None:
        for end in ("", "-journal"):
            self.file.with_name(self.file.name + end).unlink(missing_ok=True)

    def _first(self) -> float | None:
        (since,) = self._open().execute("SELECT min(since) FROM dir").fetchone()
        return None if since is None else float(since)

    def _store(self, shares: _Shares, gone: set[int]) -> int:
        """Drops, then adds; how many rows there are more."""
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        more = -self._forget(db, gone)
        rows = [
            (key, name, touch)
            for key, names in sorted((signed(ino), share.names) for ino, share in shares.items())
            for name, touch in sorted(names.items())
        ]
        for some in _chunks(rows):
            marks = ",".join(["(?,?,?)"] * len(some))
            values = [value for row in some for value in row]
            new = db.execute(f"INSERT OR IGNORE INTO name VALUES {marks}", values).rowcount
            more += new
            if new < len(some):
                db.execute(
                    f"INSERT INTO name VALUES {marks} "
                    "ON CONFLICT DO UPDATE SET touch=touch|excluded.touch",
                    values,
                )
        for dirs in _chunks([(signed(ino), share.since) for ino, share in shares.items()]):
            marks = ",".join(["(?,?)"] * len(dirs))
            db.execute(f"INSERT OR IGNORE INTO dir VALUES {marks}", [v for d in dirs for v in d])
        db.execute("COMMIT")
        return more

    def _forget(self, db: sqlite3.Connection, inos: set[int]) -> int:
        """How many rows there are less."""
        less = 0
        for some in _chunks(sorted(map(signed, inos))):
            marks = ",".join("?" * len(some))
            less += db.execute(f"DELETE FROM name WHERE dir IN ({marks})", some).rowcount
            db.execute(f"DELETE FROM dir WHERE dir IN ({marks})", some)
        return less

    def _fetch(self, gone: set[int], names: int, most: int) -> tuple[list[Work], int]:
        """What `take` hands back of the disk, where it is no more then; the rows that are left."""
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        less = self._forget(db, gone)
        works: list[Work] = []
        oldest = db.execute("SELECT dir, since FROM dir ORDER BY since LIMIT ?", (names,))
        for key, since in oldest.fetchall():
            if names <= 0:
                break
            found = db.execute(
                "SELECT name, touch FROM name WHERE dir=? LIMIT ?", (key, most + 1)
            ).fetchall()
            if len(found) > most:
                works.append(Work(unsigned(key), None, False, self._trees_of(db, key, most), since))
                names -= 1
            else:
                trees = frozenset(name for name, touch in found if touch & _TREE)
                touches = {name: TOUCHES[touch] for name, touch in found}
                works.append(Work(unsigned(key), touches, False, trees, since))
                names -= len(found)
        less += self._forget(db, {work.ino for work in works})
        db.execute("COMMIT")
        return works, self._rows - less

    def _trees_of(self, db: sqlite3.Connection, key: int, most: int) -> frozenset[bytes]:
        # One more than most is as good as all: with so many, all below is armed.
        found = db.execute(
            "SELECT name FROM name WHERE dir=? AND touch & ? LIMIT ?", (key, _TREE, most + 1)
        )
        return frozenset(name for (name,) in found)

    def _salvage(self, gone: set[int]) -> list[Work]:
        """What the file tells while it cannot be changed: which directories are concerned."""
        try:
            db = self._open()
            trees: dict[int, set[bytes]] = {}
            for key, name in db.execute("SELECT dir, name FROM name WHERE touch & ?", (_TREE,)):
                trees.setdefault(key, set()).add(name)
            return [
                Work(unsigned(key), None, False, frozenset(trees.get(key, ())), since)
                for key, since in db.execute("SELECT dir, since FROM dir ORDER BY since")
                if unsigned(key) not in gone
            ]
        except (sqlite3.Error, OSError):
            return [Work(self._root, None, True, frozenset(), self._earliest or 0.0)]


def _trees(names: dict[bytes, int]) -> frozenset[bytes]:
    return frozenset(name for name, touch in names.items() if touch & _TREE)


def _chunks(items: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    for at in range(0, len(items), _AT_ONCE):
        yield items[at : at + _AT_ONCE]
