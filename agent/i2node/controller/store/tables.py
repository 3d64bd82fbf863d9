"""The tables. Times are seconds since 1970; ids of the API are upper-case uuids."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, MetaData, String
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


class Node(Table):
    """A host. peer: its node id, empty until it was paired; certificate: the one with that id, PEM,
    for the controllers that it was not paired with. orders: the number of what is wanted of it,
    which rises with each change of that. fields: what else the API keeps of it, by its names. seen:
    when it was last heard of."""

    __tablename__ = "nodes"

    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    random_str: Mapped[str] = mapped_column(String(36))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created: Mapped[int]
    updated: Mapped[int]
    config_addr: Mapped[str] = mapped_column(String(255))
    config_port: Mapped[int]
    data_addr: Mapped[str] = mapped_column(String(255))
    peer: Mapped[str] = mapped_column(String(64), default="", index=True)
    certificate: Mapped[str] = mapped_column(default="")
    orders: Mapped[int] = mapped_column(default=0)
    os_version: Mapped[str] = mapped_column(String(255), default="")
    version: Mapped[str] = mapped_column(String(64), default="")
    seen: Mapped[int] = mapped_column(default=0)
    fields: Mapped[dict[str, Any]] = mapped_column(JSON)


class Rule(Table):
    """A rule of full-server protection. fields: what the API keeps of it, by its names, typed as it
    gives them back, without the secret key, which is kept sealed. want, run: see orders.Charge.
    status: the last state that is kept, None: none was."""

    __tablename__ = "rules"

    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    random_str: Mapped[str] = mapped_column(String(36))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    wk_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), index=True)
    bk_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"), index=True)
    created: Mapped[int]
    updated: Mapped[int]
    want: Mapped[str] = mapped_column(String(8))
    run: Mapped[int] = mapped_column(default=1)
    status: Mapped[str | None] = mapped_column(String(16), default=None)
    secret: Mapped[bytes | None] = mapped_column(default=None)
    fields: Mapped[dict[str, Any]] = mapped_column(JSON)


class Standing(Table):
    """The last that was heard of a rule (orders.Standing, plain). heard: when, seconds since
    1970."""

    __tablename__ = "standings"

    rule_id: Mapped[int] = mapped_column(
        ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True
    )
    heard: Mapped[float]
    told: Mapped[dict[str, Any]] = mapped_column(JSON)


class LogLine(Table):
    """What happened to a rule or a node, by their uuids; they may be gone. level: 0 error, 1
    warning, 2 normal. result: a number of the API, 0 for success."""

    __tablename__ = "log_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int] = mapped_column(index=True)
    rule: Mapped[str] = mapped_column(String(36), default="", index=True)
    node: Mapped[str] = mapped_column(String(36), default="", index=True)
    level: Mapped[int]
    operation: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str]
    result: Mapped[int] = mapped_column(default=0)


class Pass(Table):
    """A pass of a rule that is over (orders.Run, plain)."""

    __tablename__ = "passes"

    id: Mapped[int] = mapped_column(primary_key=True)
    rule: Mapped[str] = mapped_column(String(36), index=True)
    began: Mapped[float]
    ended: Mapped[float] = mapped_column(index=True)
    told: Mapped[dict[str, Any]] = mapped_column(JSON)


class Traffic(Table):
    """Bytes that a rule sent in the `span` seconds from `start` on, and its greatest lag then, in
    milliseconds."""

    __tablename__ = "traffic"

    rule_id: Mapped[int] = mapped_column(
        ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True
    )
    span: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    sent: Mapped[int] = mapped_column(BigInteger)
    lag_ms: Mapped[int]


class Operation(Table):
    """A call that was to change something: by whom, from where, and what came of it. result: its
    business code; reason: why it failed."""

    __tablename__ = "operations"

    id: Mapped[int] = mapped_column(primary_key=True)
    began: Mapped[float] = mapped_column(index=True)
    ended: Mapped[float] = mapped_column(index=True)
    user: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    description: Mapped[str]
    result: Mapped[int]
    reason: Mapped[str] = mapped_column(default="")


class Lease(Table):
    """Which of the controllers at one database drives. until: seconds since 1970, by the clock of
    the database."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    holder: Mapped[str] = mapped_column(String(36))
    until: Mapped[float]
