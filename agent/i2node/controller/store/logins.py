"""Logins and access keys, as the database keeps them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import delete, func, select, update

from i2node.controller.store.database import Database
from i2node.controller.store.tables import AccessKey, Login, User

Kind = Literal["access", "sso", "refresh"]


class Logins:
    """The tables of logins and keys. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, login: Login, gone: int, superseded: int) -> None:
        """Adds one, and drops those made before `gone` or replaced before `superseded`."""
        with self._database.writing() as session:
            replaced = (Login.superseded > 0) & (Login.superseded <= superseded)
            session.execute(delete(Login).where((Login.created <= gone) | replaced))
            session.add(login)

    def find(self, kind: Kind, digest: str) -> tuple[Login, User] | None:
        """The login with this token, and whose it is."""
        column = {"access": Login.access, "sso": Login.sso, "refresh": Login.refresh}[kind]
        with self._database.reading() as session:
            row = session.execute(select(Login, User).join(User).where(column == digest)).first()
        return None if row is None else (row[0], row[1])

    def used(self, login: int, now: int) -> None:
        """It was used now."""
        with self._database.writing() as session:
            session.execute(update(Login).where(Login.id == login).values(used=now))

    def supersede(self, login: int, now: int) -> None:
        """Another takes its place from now on, unless one did before."""
        with self._database.writing() as session:
            of = (Login.id == login) & (Login.superseded == 0)
            session.execute(update(Login).where(of).values(superseded=now))

    def drop(self, access: str) -> None:
        """Ends the login with this access token's digest."""
        with self._database.writing() as session:
            session.execute(delete(Login).where(Login.access == access))

    def add_key(self, key: AccessKey, most: int) -> bool:
        """Adds a pair of keys; False: its user has as many already."""
        with self._database.writing() as session:
            of = select(func.count()).select_from(AccessKey).where(AccessKey.user_id == key.user_id)
            if (session.scalar(of) or 0) >= most:
                return False
            session.add(key)
            return True

    def keys(self, user: int) -> list[AccessKey]:
        """The pairs of a user, the oldest first."""
        with self._database.reading() as session:
            of = select(AccessKey).where(AccessKey.user_id == user).order_by(AccessKey.id)
            return list(session.scalars(of))

    def drop_key(self, user: int, access: str) -> bool:
        """Ends a pair; False: the user has no such key."""
        with self._database.writing() as session:
            of = (AccessKey.user_id == user) & (AccessKey.access == access)
            key = session.scalar(select(AccessKey).where(of))
            if key is None:
                return False
            session.delete(key)
            return True

    def key(self, access: str) -> tuple[AccessKey, User] | None:
        """A pair, and whose it is."""
        with self._database.reading() as session:
            of = select(AccessKey, User).join(User).where(AccessKey.access == access)
            row = session.execute(of).first()
        return None if row is None else (row[0], row[1])
