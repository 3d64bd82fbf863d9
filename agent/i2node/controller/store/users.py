"""Users, as the database keeps them."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.store.database import Database
from i2node.controller.store.tables import Login, Node, Rule, User


class Users:
    """The table of users. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        """How many there are."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(User)) or 0

    def names(self) -> list[str]:
        """Their names, sorted."""
        with self._database.reading() as session:
            return list(session.scalars(select(User.name).order_by(User.name)))

    def first(self) -> int | None:
        """The id of the one who was there first."""
        with self._database.reading() as session:
            return session.scalar(select(func.min(User.id)))

    def find(self, name: str) -> User | None:
        """One of them, as it is now."""
        with self._database.reading() as session:
            return session.scalar(select(User).where(User.name == name))

    def add(self, uuid: str, name: str, password: str, created: int) -> bool:
        """Adds one; False: there is one of that name."""
        try:
            with self._database.writing() as session:
                session.add(User(uuid=uuid, name=name, password=password, created=created))
        except IntegrityError:
            return False
        return True

    def set_password(self, name: str, password: str) -> bool:
        """Another password, no lock-out, and no login that was made with the one before; False:
        there is no such user."""
        with self._database.writing() as session:
            user = session.scalar(select(User).where(User.name == name))
            if user is None:
                return False
            user.password, user.failures = password, 0
            session.execute(delete(Login).where(Login.user_id == user.id))
            return True

    def remove(self, name: str) -> None:
        """Removes one with its logins and keys. Refusal: it is the last, or has nodes or rules."""
        try:
            with self._database.writing() as session:
                if (session.scalar(select(func.count()).select_from(User)) or 0) <= 1:
                    raise Refusal(
                        Code.DENIED, f"{name} is the last user: nobody could log in any more"
                    )
                user = session.scalar(select(User.id).where(User.name == name))
                for table, what in ((Rule, "rule"), (Node, "node")):
                    of = select(table.name).where(table.user_id == user).limit(1)
                    if (one := session.scalar(of)) is not None:
                        raise _owner(name, f"{what} {one}")
                session.execute(delete(User).where(User.id == user))
        except IntegrityError as error:
            raise _owner(name, "what was made this moment") from error

    def failed(self, user: int, now: int, forgotten_s: int) -> None:
        """One login more that failed; those of before count if the last is less than forgotten_s
        seconds ago."""
        with self._database.writing() as session:
            found = session.get(User, user, with_for_update=True)
            if found is not None:
                recent = now < found.failed_at + forgotten_s
                found.failures = found.failures + 1 if recent else 1
                found.failed_at = now

    def succeeded(self, user: int) -> None:
        """The failures before count no more."""
        with self._database.writing() as session:
            session.execute(update(User).where(User.id == user).values(failures=0))


def _owner(name: str, what: str) -> Refusal:
    return Refusal(Code.DENIED, f"{name} is the owner of {what}: delete that first")
