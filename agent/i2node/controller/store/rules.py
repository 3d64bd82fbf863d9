"""Rules, as the database keeps them. What changes a rule raises the number of the orders of its
nodes in the same transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, String, Text, cast, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.store.database import Database
from i2node.controller.store.tables import LogLine, Node, Rule, User
from i2node.orders import CHARGES_MOST

NOW = "_now"
"""Of a rule's fields one that is not the API's: see Turn."""
TEXT_MOST = 12 << 20
"""Bytes of the rules of a node, as the database keeps them. Orders have some more, a certificate
and names, of each rule: of 2048 rules that is less than what the wire takes beyond this."""
_Wk = aliased(Node)
_Bk = aliased(Node)


class Kept(NamedTuple):
    """A rule with its nodes and its owner, as they were at one moment."""

    rule: Rule
    wk: Node
    bk: Node
    user: User


class Brief(NamedTuple):
    """What the status of a rule needs of it. wk, bk: uuids of its nodes. policy: its
    bkup_policy."""

    uuid: str
    name: str
    want: str
    run: int
    wk: str
    bk: str
    policy: int


class Turn(NamedTuple):
    """Another want of a rule. status: what is kept as its last state. now: a run begins at this
    moment (seconds since 1970), whatever its plan says."""

    want: str
    run: int
    status: str | None
    now: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is asked of a list. order: a key of ORDERS; contains, equals: by such keys too. limit 0:
    all."""

    order: str = "create_time"
    descending: bool = False
    limit: int = 0
    page: int = 1
    contains: Mapping[str, str] | None = None
    equals: Mapping[str, str] | None = None


ORDERS: dict[str, InstrumentedAttribute[Any]] = {
    "create_time": Rule.created,
    "id": Rule.id,
    "fsp_name": Rule.name,
    "fsp_uuid": Rule.uuid,
    "uuid": Rule.uuid,
    "username": User.name,
    "wk_node_name": _Wk.name,
    "bk_node_name": _Bk.name,
    "wk_uuid": _Wk.uuid,
    "bk_uuid": _Bk.uuid,
    "wk_ip": _Wk.config_addr,
    "bk_ip": _Bk.config_addr,
}
"""What a list can be ordered and searched by, in the words of the API."""


class Rules:
    """The table of rules. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rule: Rule, wk: str, bk: str) -> None:
        """Adds one between two nodes. Refusal: the name is taken, a node is unknown, or has as many
        rules as there may be."""
        try:
            with self._database.writing() as session:
                _lock(session, (wk, bk))
                rule.wk_id, rule.bk_id = _node(session, wk).id, _node(session, bk).id
                if session.scalar(select(Rule.id).where(Rule.name == rule.name)) is not None:
                    raise _taken(rule.name)
                _check_room(session, rule)
                session.add(rule)
                _note(session, rule.uuid, rule.updated, "create", f"rule {rule.name} created")
                _bump(session, (wk, bk))
        except IntegrityError as error:
            raise _taken(rule.name) from error

    def find(self, uuid: str) -> Kept | None:
        """One of them."""
        with self._database.reading() as session:
            row = session.execute(_all().where(Rule.uuid == uuid)).first()
        return None if row is None else Kept(*row)

    def page(self, asked: Page) -> tuple[list[Kept], int]:
        """Some of them, and how many there are of that kind."""
        where = [
            *(
                func.lower(ORDERS[key].cast(String)).contains(text.lower(), autoescape=True)
                for key, text in (asked.contains or {}).items()
            ),
            *(ORDERS[key].cast(String) == text for key, text in (asked.equals or {}).items()),
        ]
        column = ORDERS[asked.order]
        order = column.desc() if asked.descending else column.asc()
        with self._database.reading() as session:
            every = _joined(select(func.count()).select_from(Rule)).where(*where)
            total = session.scalar(every) or 0
            rows = _all().where(*where).order_by(order, Rule.id)
            if asked.limit:
                rows = rows.limit(asked.limit).offset((asked.page - 1) * asked.limit)
            return [Kept(*row) for row in session.execute(rows)], total

    def briefs(self, uuids: Sequence[str] | None = None) -> list[Brief]:
        """What the status needs of some rules, in their order as asked, or of all."""
        query = _briefs()
        if uuids is not None:
            query = query.where(Rule.uuid.in_(uuids))
        with self._database.reading() as session:
            found = [Brief(*row) for row in self._database.rows(session, query)]
        if uuids is None:
            return found
        by_uuid = {brief.uuid: brief for brief in found}
        return [by_uuid[uuid] for uuid in dict.fromkeys(uuids) if uuid in by_uuid]

    def replace(
        self, token: str, changed: Rule, wk: str, bk: str, check: Callable[[Kept], None]
    ) -> Kept:
        """Puts another in the place of the rule with its uuid, if that has the edit token still;
        gives what there was. check: refuses, by what there is. Refusal: see there, and as in
        `add`; the rule is gone, or was changed by another."""
        try:
            with self._database.writing() as session:
                one = _all().where(Rule.uuid == changed.uuid).with_for_update(of=Rule)
                row = session.execute(one).first()
                if row is None:
                    raise Refusal(Code.NO_SUCH_RULE)
                kept = Kept(*row)
                if kept.rule.random_str != token:
                    raise Refusal(Code.CHANGED)
                check(kept)
                nodes = {wk, bk, kept.wk.uuid, kept.bk.uuid}
                _lock(session, nodes)
                new = (_node(session, wk).id, _node(session, bk).id)
                same = (Rule.name == changed.name) & (Rule.uuid != changed.uuid)
                if session.scalar(select(Rule.id).where(same)) is not None:
                    raise _taken(changed.name)
                # When a run is to begin at once is not the caller's to take back: he may have read
                # the rule before that was asked for.
                at_once = {NOW: now} if (now := kept.rule.fields.get(NOW)) else {}
                fields = {k: v for k, v in changed.fields.items() if k != NOW} | at_once
                values = {
                    "name": changed.name,
                    "random_str": changed.random_str,
                    "updated": changed.updated,
                    "fields": fields,
                    "secret": changed.secret,
                    "wk_id": new[0],
                    "bk_id": new[1],
                }
                changed.wk_id, changed.bk_id = new
                _check_room(session, changed)
                session.expunge_all()
                session.execute(update(Rule).where(Rule.uuid == changed.uuid).values(values))
                text = f"rule {changed.name} changed"
                _note(session, changed.uuid, changed.updated, "modify", text)
                _bump(session, nodes)
                return kept
        except IntegrityError as error:
            raise _taken(changed.name) from error

    def turn(
        self, uuids: Iterable[str], now: int, verb: str, decide: Callable[[Brief], Turn]
    ) -> list[Brief]:
        """Changes what is wanted of some rules, all at once; gives those that there are. decide
        tells it of each."""
        with self._database.writing() as session:
            wanted = list(uuids)
            every = select(Rule).where(Rule.uuid.in_(wanted)).order_by(Rule.id)
            rules = {rule.uuid: rule for rule in session.scalars(every.with_for_update())}
            found = [Brief(*row) for row in session.execute(_briefs().where(Rule.uuid.in_(rules)))]
            for brief in found:
                rule, turned = rules[brief.uuid], decide(brief)
                rule.want, rule.run, rule.status = turned.want, turned.run, turned.status
                rule.updated = now
                rule.fields = {**rule.fields, NOW: turned.now}
                _note(session, brief.uuid, now, verb, f"rule {brief.name}: {verb}")
            nodes = {node for brief in found for node in (brief.wk, brief.bk)}
            _bump(session, nodes)
            return found

    def remove(self, uuid: str, now: int) -> Brief | None:
        """Removes one, and gives what it was; None: there is none."""
        with self._database.writing() as session:
            session.execute(select(Rule.id).where(Rule.uuid == uuid).with_for_update())
            row = session.execute(_briefs().where(Rule.uuid == uuid)).first()
            if row is None:
                return None
            brief = Brief(*row)
            session.execute(delete(Rule).where(Rule.uuid == uuid))
            _note(session, uuid, now, "delete", f"rule {brief.name} deleted")
            _bump(session, (brief.wk, brief.bk))
            return brief

    def takes_part(self, *nodes: str) -> bool:
        """Whether any of these nodes is of a rule. Refusal: one of them is unknown."""
        with self._database.reading() as session:
            ids = [_node(session, node).id for node in nodes]
            of = or_(Rule.wk_id.in_(ids), Rule.bk_id.in_(ids))
            return session.scalar(select(Rule.id).where(of).limit(1)) is not None

    def nodes(self) -> list[tuple[str, bool]]:
        """The uuids of all nodes, and whether each was paired."""
        with self._database.reading() as session:
            return [
                (uuid, peer != "") for uuid, peer in session.execute(select(Node.uuid, Node.peer))
            ]

    def node_name(self, node: str) -> str:
        """What a node is called. Refusal: there is none."""
        with self._database.reading() as session:
            return _node(session, node).name


def _joined(query: Any) -> Select[Any]:
    joined: Select[Any] = (
        query.join(_Wk, Rule.wk_id == _Wk.id)
        .join(_Bk, Rule.bk_id == _Bk.id)
        .join(User, Rule.user_id == User.id)
    )
    return joined


def _all() -> Select[Any]:
    return _joined(select(Rule, _Wk, _Bk, User))


def _briefs() -> Select[Any]:
    policy = Rule.fields["bkup_policy"].as_integer()
    columns = (Rule.uuid, Rule.name, Rule.want, Rule.run, _Wk.uuid, _Bk.uuid, policy)
    return _joined(select(*columns).select_from(Rule))


def _node(session: Session, uuid: str) -> Node:
    node = session.scalar(select(Node).where(Node.uuid == uuid))
    if node is None:
        raise Refusal(Code.NO_SUCH_NODE, f"there is no node {uuid}: register it first")
    return node


def _check_room(session: Session, rule: Rule) -> None:
    """The orders of its nodes are bounded: refused here, and never when they are told."""
    for node, adds in ((rule.wk_id, rule.fields), (rule.bk_id, rule.fields["bk_path"])):
        others = {
            column: session.execute(
                select(func.count(), func.coalesce(func.sum(_text(part)), 0)).where(
                    column == node, Rule.uuid != rule.uuid
                )
            ).one()
            for column, part in ((Rule.wk_id, Rule.fields), (Rule.bk_id, Rule.fields["bk_path"]))
        }
        name = session.scalar(select(Node.name).where(Node.id == node))
        if any(count >= CHARGES_MOST for count, _ in others.values()):
            raise Refusal(
                Code.FAILED, f"node {name} has {CHARGES_MOST} rules already, which is the most"
            )
        size = len(json.dumps(adds)) + sum(text for _, text in others.values())
        if size > TEXT_MOST:
            raise Refusal(
                Code.FAILED,
                f"with rule {rule.name} the rules of node {name} were {size >> 10} KiB of text,"
                f" and {TEXT_MOST >> 10} KiB is the most: name fewer paths in excl_path, or give"
                " the rule to another node",
            )


def _text(part: Any) -> Any:
    """How long it is as the database keeps it; it is ASCII."""
    return func.length(cast(part, Text))


def _lock(session: Session, nodes: Iterable[str]) -> None:
    """Keeps other writers off these nodes; all take them in one order."""
    every = select(Node.id).where(Node.uuid.in_(list(nodes))).order_by(Node.id)
    session.execute(every.with_for_update())


def _bump(session: Session, nodes: Iterable[str]) -> None:
    """Another is wanted of these nodes."""
    wanted = set(nodes)
    _lock(session, wanted)
    session.execute(update(Node).where(Node.uuid.in_(wanted)).values(orders=Node.orders + 1))


def _note(session: Session, rule: str, now: int, operation: str, detail: str) -> None:
    line = LogLine(at=now, rule=rule, node="", level=2, operation=operation, detail=detail)
    line.result = 0
    session.add(line)


def _taken(name: str) -> Refusal:
    return Refusal(Code.NAME_EXISTS, f"there is a rule {name} already")
