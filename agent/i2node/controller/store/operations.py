"""Who changed what, as the database keeps it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import delete, func, select

from i2node.controller.store.database import Database
from i2node.controller.store.tables import Operation

KEPT_S = 400 * 86400
MOST = 100_000
"""Rows that are kept; the oldest go first."""
_FORGET_S = 3600  # how often the old are removed ...
_FORGET_ROWS = 1000  # ... or behind how many new ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which of them: between two moments (seconds since 1970, end 0: now), of this user, of an
    address and with words that hold these texts; failed: only those that failed, or did not. A page
    of it."""

    start: int = 0
    end: int = 0
    user: str = ""
    address: str = ""
    words: str = ""
    failed: bool | None = None
    limit: int = 100
    page: int = 1


class Operations:
    """The table of operations. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._forgot = 0.0
        self._new = 0

    def note(self, row: Operation) -> None:
        """Adds one."""
        with self._lock:
            self._new += 1
            is_due = self._new >= _FORGET_ROWS or row.ended >= self._forgot + _FORGET_S
            if is_due:
                self._forgot, self._new = row.ended, 0
        with self._database.writing() as session:
            session.add(row)
            if is_due:
                session.flush()
                session.execute(delete(Operation).where(Operation.ended < row.ended - KEPT_S))
                newest = session.scalar(select(func.max(Operation.id))) or 0
                session.execute(delete(Operation).where(Operation.id <= newest - MOST))

    def page(self, asked: Asked) -> tuple[list[Operation], int]:
        """Those asked for, the newest first, and how many there are."""
        where = [Operation.began >= asked.start]
        if asked.end:
            where.append(Operation.began < asked.end + 1)
        if asked.user:
            where.append(Operation.user == asked.user)
        if asked.address:
            where.append(Operation.address.contains(asked.address, autoescape=True))
        if asked.words:
            where.append(Operation.description.contains(asked.words, autoescape=True))
        if asked.failed is not None:
            where.append(Operation.result != 0 if asked.failed else Operation.result == 0)
        query = select(Operation).where(*where).order_by(Operation.id.desc())
        query = query.limit(asked.limit).offset((asked.page - 1) * asked.limit)
        with self._database.reading() as session:
            total = session.scalar(select(func.count()).select_from(Operation).where(*where))
            return list(session.scalars(query)), total or 0
