"""A SQLite file that may be damaged, full, or of another release, and says so in our errors.

WAL mode, one connection, one process. Nothing is kept until `commit`; a kill at any moment leaves
the last commit. A power cut may take the last commits too (synchronous=NORMAL), and so may
whoever damages the log, of which SQLite drops what is unsound: `unclean_boot` tells. See
sqlite.org/wal.html and pragma.html.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from i2node.errors import Halt, SessionError

_APPLICATION = 0x69326E6A
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_META = "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"

_LOG_PAGES = 16384  # in the log, until a commit moves them into the database
_TALLY = 20  # bytes of the count of commits
_MUCH = 10_000  # rows written, until `tidy` does


def schema_of(file: Path) -> int:
    """The schema of a database as its header has it (sqlite.org/fileformat.html), beside whoever
    uses it; 0: none yet, or no database of ours. Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(72)
    ours = head.startswith(b"SQLite format 3\0")
    ours = ours and int.from_bytes(head[68:72], "big") == _APPLICATION
    return int.from_bytes(head[60:64], "big") if ours else 0


def newer(file: Path, schema: int, known: int) -> Halt:
    """What is said of a database whose schema is above the one that is known."""
    return Halt(
        f"the journal {file} was written by a newer release (schema {schema}, "
        f"this one knows {known})",
        f"install that release again, or remove {file} and mirror anew",
    )


class _DamagedError(Exception):
    """The database cannot be trusted."""


class Database:
    """One file, with the tables of its kind and the values of `get` and `set`. Methods may be
    called from any thread.

    Opening sets aside (as *.damaged) a database that is corrupt, or that a run found to be so, and
    starts an empty one: `rebuilt` is True then.

    Every method raises SessionError when the state directory is full, cannot be used, or the
    database turns out to be damaged (`rebuild`, or the next opening, begins anew); what was not
    committed is then undone. Opening raises Halt for a database that a newer release wrote.
    """

    SCHEMA = 0
    TABLES = ""

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        """boot_id: this boot's, for tests."""
        self.file = path
        self.rebuilt = False
        self._lock = threading.RLock()
        self._closed = False
        self._tidied = 0  # rows written until then
        self._suspect = path.with_name(path.name + ".suspect")
        self._tally = -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._boot = boot_id or _BOOT_ID.read_text().strip()
            if self._suspect.exists():
                self._set_aside()
        except OSError as e:
            raise SessionError(f"opening the journal {path}: {e.strerror}") from e
        try:
            self._db = self._open()
        except _DamagedError:
            self._set_aside()
            self._db = self._open()

    def rebuild(self) -> bool:
        """Sets aside what was found to be damaged since it was opened, and goes on with an empty
        one; False: nothing was. Raises SessionError where that cannot be done now; then it is to be
        done the next time."""
        with self._lock:
            if self._closed or not self._suspect.exists():
                return False
            self._closed_files(self._db)
            try:
                self._set_aside()
                self._db = self._open()
            except SessionError:
                with suppress(OSError):
                    self._suspect.touch(mode=0o600)
                raise
            self._tidied = 0
            return True

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(
                self.file, timeout=1.0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as e:
            raise SessionError(f"opening the journal {self.file}: {e}") from e
        try:
            # One process owns the journal; without others there is no shared memory file either.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA page_size=4096")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            # A commit that also checkpoints waits for the disk, and a change with it: `tidy` does
            # that when nobody waits, and a commit only where there was no such moment for long.
            db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
            db.execute("PRAGMA journal_size_limit=67108864")
            self._check_schema(db)
            found = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('boot', 'clean')"))
            self.clean = found.get("clean", b"1") == b"1"
            self.unclean_boot = not self.clean and found.get("boot") != self._boot.encode()
            self._begin_tally(db)
            if self.unclean_boot and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise _DamagedError
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT OR REPLACE INTO meta VALUES(?, ?)",
                [("boot", self._boot.encode()), ("clean", b"0")],
            )
            db.execute("COMMIT")
        except sqlite3.Error as e:
            self._closed_files(db)
            if isinstance(e, sqlite3.DatabaseError) and _code(e) in _DAMAGE:
                raise _DamagedError from e
            raise self._fault("opening", e) from e
        except OSError as e:
            self._closed_files(db)
            raise SessionError(f"opening the journal {self.file}: {e}") from e
        except BaseException:
            self._closed_files(db)
            raise
        return db

    def _closed_files(self, db: sqlite3.Connection) -> None:
        db.close()
        if self._tally >= 0:
            os.close(self._tally)
            self._tally = -1

    def _begin_tally(self, db: sqlite3.Connection) -> None:
        """Commits are counted within and beside: where it is behind the count, some were lost."""
        row = db.execute("SELECT value FROM meta WHERE key='commits'").fetchone()
        self._commits = int(row[0]) if row else 0
        path = self.file.with_name(self.file.name + ".commits")
        self._tally = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        told = os.pread(self._tally, _TALLY, 0)
        if told.strip().isdigit() and int(told) > self._commits:
            self.unclean_boot = True
            self._commits = int(told)

    def _check_schema(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            db.executescript(
                f"BEGIN; {_META}{self.TABLES} PRAGMA application_id={_APPLICATION};"
                f"PRAGMA user_version={self.SCHEMA}; COMMIT;"
            )
        elif application != _APPLICATION or version < 1:
            raise _DamagedError
        elif version > self.SCHEMA:
            raise newer(self.file, version, self.SCHEMA)

    def _set_aside(self) -> None:
        try:
            for end in ("", "-wal", "-shm", ".commits"):
                part = self.file.with_name(self.file.name + end)
                if part.exists():
                    part.replace(self.file.with_name(f"{self.file.name}.damaged{end}"))
            self._suspect.unlink(missing_ok=True)
        except OSError as e:
            raise SessionError(f"setting aside the journal {self.file}: {e.strerror}") from e
        self.rebuilt = True

    def close(self) -> None:
        """Commits, and notes that the end was an orderly one. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.set("clean", b"1")
                self.commit()
            finally:
                self._closed_files(self._db)

    def commit(self) -> None:
        """Keeps all that was written since the last commit."""
        with self._using("committing to") as db:
            if db.in_transaction:
                self._commits += 1
                count = b"%*d" % (_TALLY, self._commits)
                db.execute("INSERT OR REPLACE INTO meta VALUES('commits', ?)", (count,))
                db.execute("COMMIT")
                # One that is counted within alone was not lost.
                with suppress(OSError):
                    os.pwrite(self._tally, count, 0)

    def tidy(self) -> None:
        """Moves what was committed from the log into the database, when that is much. It waits for
        the disk; to be called when nobody waits for it."""
        with self._using("tidying") as db:
            if db.total_changes - self._tidied >= _MUCH and not db.in_transaction:
                self._tidied = db.total_changes
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _using(self, operation: str) -> _Access:
        return _Access(self, operation, False)

    def _writing(self, operation: str) -> _Access:
        return _Access(self, operation, True)

    def _fault(self, operation: str, error: sqlite3.Error) -> SessionError:
        code = _code(error)
        state = self.file.parent
        if code in _DAMAGE:
            with suppress(OSError):
                self._suspect.touch(mode=0o600)
            remedy = "it is set aside and rebuilt by itself"
        elif code == sqlite3.SQLITE_FULL:
            remedy = f"make room in {state}"
        elif code == sqlite3.SQLITE_BUSY:
            remedy = "another process has it open"
        else:
            remedy = f"check {state}"
        return SessionError(f"{operation} the journal {self.file}: {error}", remedy)

    def get(self, key: str) -> bytes | None:
        """A value kept by `set`, or None."""
        with self._using("reading") as db:
            row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
            return None if row is None else bytes(row[0])

    def set(self, key: str, value: bytes) -> None:
        """Keeps a value. The keys boot, clean and commits are taken."""
        with self._writing("writing") as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))


class _Access:
    """The connection, for the thread that has it, with SQLite's errors as ours. Entered for each
    call, of which there are many: a generator would cost as much as the query."""

    __slots__ = ("_of", "_operation", "_writes")

    def __init__(self, of: Database, operation: str, writes: bool) -> None:
        self._of = of
        self._operation = operation
        self._writes = writes

    def __enter__(self) -> sqlite3.Connection:
        of = self._of
        of._lock.acquire()
        try:
            if self._writes and not of._db.in_transaction:
                of._db.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            of._lock.release()
            if isinstance(error, sqlite3.Error):
                raise of._fault(self._operation, error) from error
            raise
        return of._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        of = self._of
        try:
            if isinstance(error, sqlite3.Error):
                # Half of an operation must not be committed with the next one.
                if self._writes and of._db.in_transaction:
                    with suppress(sqlite3.Error):
                        of._db.execute("ROLLBACK")
                raise of._fault(self._operation, error) from error
        finally:
            of._lock.release()


def _code(error: sqlite3.Error) -> int:
    """The primary result code (sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def signed(ino: int) -> int:
    """An inode number, unsigned 64 bit, as the integer that SQLite can keep."""
    return ino - (1 << 64) if ino >= 1 << 63 else ino


def unsigned(key: int) -> int:
    """The inode number that `signed` made an integer of."""
    return key + (1 << 64) if key < 0 else key
