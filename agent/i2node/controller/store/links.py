"""Where the nodes are, and what is wanted of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import or_, select, update

from i2node.controller.store.database import Database
from i2node.controller.store.tables import Node, Rule

_AT_ONCE = 1000
_NUMBER_MOST = 1 << 30
"""A node that claims to hold orders beyond this is not believed: nobody counts so far."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a node: a number that rises with it, and the rules it takes part in, each
    with its work node and its backup node."""

    number: int
    rules: tuple[tuple[Rule, Node, Node], ...]


class Paired(NamedTuple):
    """A node: its name, where it is, its node id, and the number of what is wanted of it."""

    uuid: str
    name: str
    host: str
    port: int
    peer: str
    orders: int


class Links:
    """The tables of nodes and rules, as links need them. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def paired(self) -> list[Paired]:
        """The nodes to which there is to be a link."""
        columns = (Node.uuid, Node.name, Node.config_addr, Node.config_port, Node.peer, Node.orders)
        with self._database.reading() as session:
            return [
                Paired(*row) for row in session.execute(select(*columns).where(Node.peer != ""))
            ]

    def certificates(self, nodes: Sequence[str]) -> dict[str, str]:
        """Those of these nodes that are known."""
        found: dict[str, str] = {}
        with self._database.reading() as session:
            for at in range(0, len(nodes), _AT_ONCE):
                columns = select(Node.uuid, Node.certificate)
                rows = session.execute(columns.where(Node.uuid.in_(nodes[at : at + _AT_ONCE])))
                found |= {row.uuid: row.certificate for row in rows if row.certificate}
        return found

    def wanted(self, node: str) -> Wanted | None:
        """What is wanted of a node, as of one moment; None: there is no such node."""
        with self._database.reading() as session:
            found = session.scalar(select(Node).where(Node.uuid == node))
            if found is None:
                return None
            concerned = or_(Rule.wk_id == found.id, Rule.bk_id == found.id)
            rules = list(session.scalars(select(Rule).where(concerned).order_by(Rule.id)))
            ids = {rule.wk_id for rule in rules} | {rule.bk_id for rule in rules}
            nodes = {one.id: one for one in session.scalars(select(Node).where(Node.id.in_(ids)))}
            those = tuple((rule, nodes[rule.wk_id], nodes[rule.bk_id]) for rule in rules)
            return Wanted(found.orders, those)

    def greeted(self, versions: Mapping[str, str], now: int) -> None:
        """These nodes are there, each with this version of i2node."""
        with self._database.writing() as session:
            for node, version in versions.items():
                values = {"version": version, "seen": now}
                session.execute(update(Node).where(Node.uuid == node).values(**values))

    def count_on(self, node: str, number: int) -> None:
        """A node holds orders of this number. Where that is ahead (the node was removed and
        registered anew, the database is an older copy) it is counted on from there: a node takes no
        orders that are older than those it holds."""
        if number <= _NUMBER_MOST:
            with self._database.writing() as session:
                behind = (Node.uuid == node) & (Node.orders < number)
                session.execute(update(Node).where(behind).values(orders=number))

    def certify(self, node: str, peer: str, certificate: str) -> None:
        """Keeps the certificate of a node, as long as it is this peer."""
        with self._database.writing() as session:
            of = (Node.uuid == node) & (Node.peer == peer)
            session.execute(update(Node).where(of).values(certificate=certificate))

    def saw(self, nodes: Sequence[str], now: int) -> None:
        """These nodes are there."""
        with self._database.writing() as session:
            for at in range(0, len(nodes), _AT_ONCE):
                some = nodes[at : at + _AT_ONCE]
                session.execute(update(Node).where(Node.uuid.in_(some)).values(seen=now))

    def seen(self, node: str) -> int:
        """When a node was last there, seconds since 1970; 0: never."""
        with self._database.reading() as session:
            return session.scalar(select(Node.seen).where(Node.uuid == node)) or 0
