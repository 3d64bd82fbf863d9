"""Nodes, as the database keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, String, cast, func, or_, select, text, update
from sqlalchemy.orm import Session

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.store.database import Database
from i2node.controller.store.tables import LogLine, Node, Rule, User


class Kept(NamedTuple):
    """A node and its owner, as they were at one moment."""

    node: Node
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is asked of a list. order: a key of COLUMNS; contains, equals: texts by such keys.
    limit 0: all; page: from 1 on."""

    order: str = "id"
    descending: bool = False
    limit: int = 0
    page: int = 1
    contains: Mapping[str, str] = field(default_factory=dict)
    equals: Mapping[str, str] = field(default_factory=dict)


COLUMNS: dict[str, ColumnElement[Any]] = {
    "id": Node.id.expression,
    "create_time": Node.created.expression,
    "node_name": Node.name.expression,
    "node_uuid": Node.uuid.expression,
    "config_addr": Node.config_addr.expression,
    "config_port": Node.config_port.expression,
    "data_addr": Node.data_addr.expression,
    "os_version": Node.os_version.expression,
    "username": User.name.expression,
    "node_role": Node.fields["node_role"].as_string(),
    "comment": Node.fields["comment"].as_string(),
}
"""What a list can be ordered and searched by, in the words of the API."""


_ALL = select(Node, User).join(User, Node.user_id == User.id)


class Nodes:
    """The table of nodes. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, node: Node) -> None:
        """Adds one. Refusal: its name, its address or the host itself is registered already."""
        with self._database.writing() as session:
            _alone(session)
            _check_apart(session, node)
            session.add(node)
            _note(session, node, "create", f"node {node.name} registered")

    def check_apart(self, node: Node) -> None:
        """Refusal: as in `add`."""
        with self._database.reading() as session:
            _check_apart(session, node)

    def find(self, uuid: str) -> Kept | None:
        """One of them."""
        with self._database.reading() as session:
            row = session.execute(_ALL.where(Node.uuid == uuid)).first()
        return None if row is None else Kept(row[0], row[1])

    def at(self, host: str, port: int) -> str | None:
        """The uuid of the one with this address."""
        of = (Node.config_addr == host) & (Node.config_port == port)
        with self._database.reading() as session:
            return session.scalar(select(Node.uuid).where(of))

    def of_peer(self, peer: str) -> str | None:
        """The name of the one with this node id."""
        with self._database.reading() as session:
            return session.scalar(select(Node.name).where(Node.peer == peer))

    def named(self, name: str) -> bool:
        """Whether there is one of this name."""
        with self._database.reading() as session:
            return session.scalar(select(Node.id).where(Node.name == name)) is not None

    def versions(self, uuids: Sequence[str]) -> dict[str, str]:
        """The versions of i2node on those of them that there are, in the order of the question."""
        with self._database.reading() as session:
            rows = session.execute(select(Node.uuid, Node.version).where(Node.uuid.in_(uuids)))
            found = {row[0]: row[1] for row in rows}
        return {uuid: found[uuid] for uuid in uuids if uuid in found}

    def page(self, asked: Page) -> tuple[list[Kept], int]:
        """Some of them, and how many there are of that kind."""
        where = [
            func.lower(cast(COLUMNS[key], String)).contains(part.lower(), autoescape=True)
            for key, part in asked.contains.items()
        ]
        where += [cast(COLUMNS[key], String) == value for key, value in asked.equals.items()]
        column = COLUMNS[asked.order]
        order = column.desc() if asked.descending else column.asc()
        last = Node.id.desc() if asked.descending else Node.id.asc()
        with self._database.reading() as session:
            every = select(func.count()).select_from(Node).join(User).where(*where)
            total = session.scalar(every) or 0
            rows = _ALL.where(*where).order_by(order, last)
            if asked.limit:
                rows = rows.limit(asked.limit).offset((asked.page - 1) * asked.limit)
            return [Kept(row[0], row[1]) for row in session.execute(rows)], total

    def replace(self, token: str, changed: Node) -> None:
        """Puts another in the place of the node with its uuid, if that has the edit token still.
        Refusal: it is gone, was changed by another, takes part in a rule that goes by what is to be
        changed, or see `add`."""
        with self._database.writing() as session:
            _alone(session)
            kept = _node(session, changed.uuid)
            if kept.random_str != token:
                raise Refusal(Code.CHANGED)
            if _differ(kept, changed):
                _check_free(session, kept, "only its name and comment can be changed")
            _check_apart(session, changed)
            for key in _CHANGED:
                setattr(kept, key, getattr(changed, key))
            kept.orders += 1
            _note(session, kept, "modify", f"node {kept.name} changed")

    def remove(self, uuids: Iterable[str], now: int) -> None:
        """Removes all of these. Refusal: one of them is unknown or takes part in a rule; then none
        is removed."""
        with self._database.writing() as session:
            for uuid in dict.fromkeys(uuids):
                node = _node(session, uuid)
                _check_free(session, node, "delete that first")
                session.delete(node)
                node.updated = now
                _note(session, node, "delete", f"node {node.name} deleted")

    def heard(self, uuid: str, os_version: str, now: int) -> None:
        """What its host runs."""
        with self._database.writing() as session:
            values = {"os_version": os_version, "seen": now}
            session.execute(update(Node).where(Node.uuid == uuid).values(values))


_ADDRESS = ("config_addr", "config_port", "data_addr")
_CHANGED = ("name", "random_str", "updated", *_ADDRESS, "peer", "os_version", "fields")
_FREE = ("name", "comment")  # of a node that takes part in a rule


def _alone(session: Session) -> None:
    """Two that are added at a time are not to find that they are different from all others."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE nodes IN SHARE ROW EXCLUSIVE MODE"))


def _node(session: Session, uuid: str) -> Node:
    node = session.scalar(select(Node).where(Node.uuid == uuid).with_for_update())
    if node is None:
        raise Refusal(Code.NO_SUCH_NODE, f"there is no node {uuid}")
    return node


def _differ(kept: Node, changed: Node) -> bool:
    """In anything but what is free."""
    if any(getattr(kept, key) != getattr(changed, key) for key in ("peer", *_ADDRESS)):
        return True
    names = {*kept.fields, *changed.fields} - {*_FREE}
    return any(kept.fields.get(name) != changed.fields.get(name) for name in names)


def _check_free(session: Session, node: Node, remedy: str) -> None:
    of = or_(Rule.wk_id == node.id, Rule.bk_id == node.id)
    rule = session.scalar(select(Rule.name).where(of).order_by(Rule.id).limit(1))
    if rule is not None:
        raise Refusal(Code.FAILED, f"node {node.name} takes part in rule {rule}: {remedy}")


def _check_apart(session: Session, node: Node) -> None:
    others = select(Node.name).where(Node.uuid != node.uuid)
    if session.scalar(others.where(Node.name == node.name)) is not None:
        raise Refusal(Code.NAME_EXISTS, f"there is a node {node.name} already")
    here = (Node.config_addr == node.config_addr) & (Node.config_port == node.config_port)
    taken = session.scalar(others.where(here))
    if taken is not None:
        where = f"{node.config_addr}:{node.config_port}"
        raise Refusal(Code.ADDRESS_TAKEN, f"{where} is registered already, as node {taken}")
    same = session.scalar(others.where(Node.peer == node.peer)) if node.peer else None
    if same is not None:
        raise Refusal(Code.ADDRESS_TAKEN, f"this host is registered already, as node {same}")


def _note(session: Session, node: Node, operation: str, detail: str) -> None:
    line = LogLine(at=node.updated, rule="", node=node.uuid, level=2, operation=operation)
    line.detail, line.result = detail, 0
    session.add(line)
