"""The tables. Times are seconds since 1970; ids of the API are upper-case uuids."""

from __future__ import annotations

from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """All of them. Constraints have names, so that a migration can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Table):
    """Who may call. password: its argon2 hash; failures: logins in a row that failed, the last of
    them at failed_at."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password: Mapped[str] = mapped_column(String(255))
    created: Mapped[int]
    failures: Mapped[int] = mapped_column(default=0)
    failed_at: Mapped[int] = mapped_column(default=0)


class Login(Table):
    """A login: its three tokens, as their SHA-256. superseded: when a refresh made another of it,
    after which this one is good for a while; 0 while it is the newest."""

    __tablename__ = "logins"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    access: Mapped[str] = mapped_column(String(64), unique=True)
    sso: Mapped[str] = mapped_column(String(64), unique=True)
    refresh: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[int]
    used: Mapped[int]
    superseded: Mapped[int] = mapped_column(default=0)


class AccessKey(Table):
    """A pair of keys of a user. The secret is needed to check signatures, so it is kept sealed with
    a key that is not in the database."""

    __tablename__ = "access_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    access: Mapped[str] = mapped_column(String(64), unique=True)
    secret: Mapped[bytes]
    created: Mapped[int]
