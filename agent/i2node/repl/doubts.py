"""Where the source is not sure what its target holds, and what settles that.

A directory that a frame changes is in doubt from before the frame is sent until it is durable at
the target; a target that fails, or is met anew, is asked for what it holds there. Of a file that is
overwritten meanwhile the name is suspect: an answer does not tell by size and time which version it
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from i2node.repl.database import Database, signed, unsigned

_TABLES = """
CREATE TABLE doubt(dir INTEGER PRIMARY KEY, path BLOB NOT NULL, seq INTEGER NOT NULL);
CREATE INDEX doubt_seq ON doubt(seq);
CREATE TABLE suspect(dir INTEGER, name BLOB, seq INTEGER NOT NULL, PRIMARY KEY(dir, name))
WITHOUT ROWID;
CREATE INDEX suspect_seq ON suspect(seq);
"""

UNTIL_ASKED = (1 << 62) - 1
"""The seq of a doubt that no frame settles, only an answer of the target."""
UNTIL_COMPARED = UNTIL_ASKED - 1
"""That of one the target answered: settled when what it told was compared, with what follows."""
UNTIL_SENT = UNTIL_COMPARED - 1
"""That of one of which more is to be read into frames: `sent` tells by which one it is settled."""


class Doubts(Database):
    """This part of a journal. Inode numbers are those of the source; seq: the number of a frame, or
    one of the above. The key all_doubt is its own."""

    TABLES = _TABLES

    def doubt(self, ino: int, path: bytes, seq: int) -> None:
        """The target may or may not hold in this directory what its listing says, until it has
        acknowledged seq. path: where the target has it. Of one that is in doubt already the earlier
        path stays, under which it was sent what may fail yet."""
        self.doubt_many({ino: path}, seq)

    def doubt_many(self, dirs: Mapping[int, bytes], seq: int) -> None:
        """The same of many directories, inode → path."""
        with self._writing("writing") as db:
            db.executemany(
                "INSERT INTO doubt VALUES(?, ?, ?) ON CONFLICT(dir) DO UPDATE "
                "SET seq=max(seq, excluded.seq)",
                [(signed(ino), path, seq) for ino, path in dirs.items()],
            )

    def sent(self, seq: int) -> None:
        """What was in doubt UNTIL_SENT is so until seq is acknowledged."""
        self._set_seq("seq=?", (seq, UNTIL_SENT))

    def settle(self, seq: int) -> None:
        """All up to and with seq is durable at the target."""
        with self._writing("writing") as db:
            db.execute("DELETE FROM doubt WHERE seq<=?", (seq,))
            db.execute("DELETE FROM suspect WHERE seq<=?", (seq,))

    def distrust(self, seq: int) -> None:
        """Steps of this frame could not be done. Until they are looked into, which a kill may
        forestall, nothing that it or a later one concerns is settled by being durable."""
        self._set_seq("seq>=? AND seq<?", (UNTIL_ASKED, seq, UNTIL_COMPARED))

    def answered(self, ino: int) -> None:
        """The target told what it holds in this directory, which is to be compared."""
        self._set_seq("dir=?", (UNTIL_COMPARED, signed(ino)))

    def compared(self, ino: int) -> None:
        """What it told was compared, unless it was put in doubt again since. What is to be done
        about it is in the batch that says so."""
        self._set_seq("dir=? AND seq=?", (UNTIL_SENT, signed(ino), UNTIL_COMPARED))

    def _set_seq(self, where: str, values: tuple[int, ...]) -> None:
        with self._writing("writing") as db:
            for table in ("doubt", "suspect"):
                db.execute(f"UPDATE {table} SET seq=? WHERE {where}", values)

    def suspect(self, ino: int, names: Iterable[bytes], seq: int) -> None:
        """Files that are overwritten: until seq is acknowledged, a target that tells the expected
        size and time of one may still hold the version before, which had the same."""
        with self._writing("writing") as db:
            db.executemany(
                "INSERT INTO suspect VALUES(?, ?, ?) ON CONFLICT(dir, name) DO UPDATE "
                "SET seq=max(seq, excluded.seq)",
                [(signed(ino), name, seq) for name in names],
            )

    def suspects(self, ino: int) -> list[bytes]:
        """The names of a directory that only their content can clear."""
        with self._using("reading") as db:
            rows = db.execute("SELECT name FROM suspect WHERE dir=?", (signed(ino),))
            return [bytes(name) for (name,) in rows]

    def doubt_instead(self, old: int, new: int) -> None:
        """What is in doubt of one inode number is so of another, beside what is already."""
        with self._writing("writing") as db:
            for table, column, key in (("doubt", "path", "dir"), ("suspect", "name", "dir, name")):
                db.execute(
                    f"INSERT INTO {table} SELECT ?, {column}, seq FROM {table} WHERE dir=? "
                    f"ON CONFLICT({key}) DO UPDATE SET seq=max(seq, excluded.seq)",
                    (signed(new), signed(old)),
                )
            self.undoubt(old)

    def undoubt(self, ino: int) -> None:
        """Nothing is in doubt of a directory: it is no more."""
        with self._writing("writing") as db:
            db.execute("DELETE FROM doubt WHERE dir=?", (signed(ino),))
            db.execute("DELETE FROM suspect WHERE dir=?", (signed(ino),))

    def new_session(self) -> None:
        """Frames are counted anew; what is in doubt stays so until the target is asked."""
        self._set_seq("true", (UNTIL_ASKED,))

    def doubts(self) -> list[tuple[int, bytes]]:
        """(directory, path) of all in doubt, the longest in doubt first."""
        with self._using("reading") as db:
            rows = db.execute("SELECT dir, path FROM doubt ORDER BY seq, dir")
            return [(unsigned(dir), bytes(path)) for dir, path in rows]

    def doubt_of(self, ino: int) -> int | None:
        """The seq until which a directory is in doubt; None: it is not."""
        with self._using("reading") as db:
            row = db.execute("SELECT seq FROM doubt WHERE dir=?", (signed(ino),)).fetchone()
            return None if row is None else int(row[0])

    def doubted(self, path: bytes) -> list[int]:
        """The directories in doubt that the target had at a path when they came to be so."""
        with self._using("reading") as db:
            rows = db.execute("SELECT dir FROM doubt WHERE path=?", (path,))
            return [unsigned(dir) for (dir,) in rows]

    def doubt_all(self, reason: str) -> None:
        """Nothing that is kept here is to be relied on until `trust`."""
        self.set("all_doubt", reason.encode())

    @property
    def all_doubt(self) -> str:
        """The reason given to `doubt_all`; empty: not in doubt as a whole."""
        return (self.get("all_doubt") or b"").decode()

    def trust(self) -> None:
        """Ends `doubt_all`: everything was compared."""
        self.set("all_doubt", b"")
