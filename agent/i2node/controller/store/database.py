"""The database: SQLite in a file, with its journal in WAL, or PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as Migrations
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Select, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from i2node.errors import UsageError

_BUSY_S = 30  # for who writes at the same time
_MIGRATING = 0x69326E6F6465  # the advisory lock of PostgreSQL
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock (PostgreSQL, appendix A)
_REMEDY = "see `database` in controller.toml"


class Database:
    """Transactions. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """url: as SQLAlchemy writes it, sqlite:////path or postgresql+psycopg://... Brings the
        tables to this version. UsageError: it cannot be used."""
        try:
            self._engine = create_engine(url, **_options(url))
        except (ArgumentError, ImportError) as error:
            raise UsageError(f"database {_shown(url)}: {error}", _REMEDY) from error
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        if self._is_sqlite:
            event.listen(self._engine, "connect", _prepare)
            event.listen(self._engine, "begin", _begin)
        try:
            self._migrate()
        except DBAPIError as error:
            raise UsageError(f"database {_shown(url)}: {error.orig}", _REMEDY) from error
        except CommandError as error:
            raise UsageError(
                f"database {_shown(url)} is not of this version: {error}",
                "run the newer i2node that wrote it",
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one moment and changes nothing."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is kept whole at its end, or not at all where it raises. Of SQLite's
        there is one at a time; elsewhere who goes by what he read locks that (with_for_update)."""
        with (
            self._writer() as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def rows(self, session: Session, query: Select[Any]) -> Sequence[Sequence[Any]]:
        """What a query of texts and numbers finds. Of SQLite in one row: its driver lets other
        threads have their turn at each, and in a busy controller waits as often."""
        if not self._is_sqlite:
            return session.execute(query).all()
        row = func.json_array(*query.subquery().columns)
        found: list[list[Any]] = json.loads(
            session.scalar(select(func.json_group_array(row))) or "[]"
        )
        return found

    def is_conflict(self, error: DBAPIError) -> bool:
        """Whether another transaction was first, and nothing else is wrong."""
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(error, IntegrityError) or state in _CONFLICTS

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()

    def _writer(self) -> Connection:
        connection = self._engine.connect().execution_options(i2_writes=True)
        if self._is_sqlite:
            return connection
        # Whoever comes second waits for the first and goes on, instead of being turned away.
        return connection.execution_options(isolation_level="READ COMMITTED")

    def _migrate(self) -> None:
        migrations = Migrations()
        migrations.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._writer() as connection, connection.begin():
            if not self._is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            migrations.attributes["connection"] = connection
            command.upgrade(migrations, "head")


def _options(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_S}}
    return {"pool_pre_ping": True, "isolation_level": "REPEATABLE READ"}


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "URL"


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A transaction that begins as a reader and then writes is refused when another wrote meanwhile.
    writes = connection.get_execution_options().get("i2_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
