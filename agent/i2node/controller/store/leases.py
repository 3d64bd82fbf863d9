"""Which of the controllers at one database drives: who holds the lease."""

from __future__ import annotations

import time

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from i2node.controller.store.database import Database
from i2node.controller.store.tables import Lease


class Leases:
    """The table of leases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Takes or renews a lease for so long by the clock of the database; False: another holds
        it, or took it at the same moment."""
        try:
            with self._database.writing() as session:
                now = _now(session)
                lease = session.get(Lease, name, with_for_update=True)
                if lease is None:
                    session.add(Lease(name=name, holder=holder, until=now + seconds))
                    return True
                if lease.holder != holder and lease.until > now:
                    return False
                lease.holder, lease.until = holder, now + seconds
                return True
        except DBAPIError as error:
            if self._database.is_conflict(error):
                return False
            raise

    def give_back(self, name: str, holder: str) -> None:
        """Another may have it at once."""
        with self._database.writing() as session:
            lease = session.get(Lease, name, with_for_update=True)
            if lease is not None and lease.holder == holder:
                session.delete(lease)


def _now(session: Session) -> float:
    """SQLite is of this host, and has its clock."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()
    return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)
