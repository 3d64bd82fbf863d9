"""What happened, read back: lines of the log, passes that are over, traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from i2node.controller.store.database import Database
from i2node.controller.store.tables import LogLine, Node, Pass, Rule, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is asked: between two moments (seconds since 1970, end 0: now), of one rule or node
    (uuid, empty: all), a page of it."""

    rule: str = ""
    node: str = ""
    start: int = 0
    end: int = 0
    limit: int = 0
    page: int = 1


class History:
    """The tables of what happened. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lines(self, span: Span, level: int | None, *, of_nodes: bool) -> tuple[list[LogLine], int]:
        """Lines of the log about rules, or nodes, the newest first, and how many there are.
        level: those as grave alone."""
        where = [LogLine.at >= span.start]
        where.append(LogLine.node != "" if of_nodes else LogLine.rule != "")
        if span.end:
            where.append(LogLine.at <= span.end)
        if span.rule:
            where.append(LogLine.rule == span.rule)
        if span.node:
            where.append(LogLine.node == span.node)
        if level is not None:
            where.append(LogLine.level == level)
        query = select(LogLine).where(*where).order_by(LogLine.at.desc(), LogLine.id.desc())
        return self._page(query, select(func.count()).select_from(LogLine).where(*where), span)

    def passes(self, span: Span) -> tuple[list[Pass], int]:
        """Passes that ended between the moments, the newest first, and how many there are."""
        where = [Pass.ended >= span.start]
        if span.end:
            where.append(Pass.ended <= span.end)
        if span.rule:
            where.append(Pass.rule == span.rule)
        query = select(Pass).where(*where).order_by(Pass.ended.desc(), Pass.id.desc())
        return self._page(query, select(func.count()).select_from(Pass).where(*where), span)

    def one_pass(self, number: int) -> Pass | None:
        """One of them, by its id."""
        with self._database.reading() as session:
            return session.get(Pass, number)

    def names(self, rules: Sequence[str]) -> dict[str, tuple[str, str, str]]:
        """Name, work node and backup node (uuids) of the rules that there still are."""
        query = select(Rule.uuid, Rule.name, Rule.wk_id, Rule.bk_id).where(Rule.uuid.in_(rules))
        with self._database.reading() as session:
            found = session.execute(query).all()
            ids = {node for row in found for node in (row.wk_id, row.bk_id)}
            nodes = session.execute(select(Node.id, Node.uuid).where(Node.id.in_(ids)))
            uuids = {row.id: row.uuid for row in nodes}
        return {row.uuid: (row.name, uuids[row.wk_id], uuids[row.bk_id]) for row in found}

    def traffic(self, rule: str, span: int, start: int, end: int) -> list[Traffic]:
        """What a rule sent in the buckets of so many seconds from start on, before end."""
        query = (
            select(Traffic)
            .join(Rule, Traffic.rule_id == Rule.id)
            .where(Rule.uuid == rule, Traffic.span == span)
            .where(Traffic.start >= start, Traffic.start < end)
            .order_by(Traffic.start)
        )
        with self._database.reading() as session:
            return list(session.scalars(query))

    def _page(self, query: Any, count: Any, span: Span) -> tuple[list[Any], int]:
        if span.limit:
            query = query.limit(span.limit).offset((span.page - 1) * span.limit)
        with self._database.reading() as session:
            return list(session.scalars(query)), session.scalar(count) or 0
