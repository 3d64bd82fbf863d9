"""What is heard of the rules, as the database keeps it: how each stands, a line for each change of
that, the passes that are over, and what was sent when.

A standing is written down when it says something new, and else now and then, some at a time, so
that a fleet that reports at once does not hold up who reads: what was sent since it was last
written is told by its counters, so that nothing is lost between.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import case, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from i2node.controller.store.database import Database
from i2node.controller.store.tables import LogLine, Pass, Rule, Traffic
from i2node.controller.store.tables import Standing as Row
from i2node.errors import ProtocolError
from i2node.model import State
from i2node.orders import Standing, plain, read_standing

SPANS = (10, 3600, 86400)
"""Seconds of the buckets in which traffic is counted."""
KEPT_S = {10: 3600, 3600: 40 * 86400, 86400: 800 * 86400}
"""How long buckets stay, by their span."""
BUSY_S = 10.0
IDLE_S = 30.0
"""How often a rule is written down of which there is nothing new, as it sends something or not."""
AT_ONCE = 400
"""Of these, how many in one transaction."""
LINES_S = 90 * 86400
PASSES_S = 400 * 86400
_FORGET_S = 3600  # how often the old is removed
_LAG_MOST = 2**31 - 1
_WHAT_MOST = 64  # characters of the column
_SENT_MOST = 2**46
"""Bytes that are counted at once: so much each second for a day is still a number of the column."""

LEVELS = {State.STOP: 0, State.EXCEPTION: 0, State.STALE: 1}
"""Of a line about a state; others are 2, normal."""
RESULTS = {
    "peer-lost": -3522,
    "session": -3522,
    "no-answer": -3522,
    "target-fault": -3555,
    "protocol": -3554,
    "usage": -1001,
    "safety": -3631,
    "refused": -2011,
}
"""Numbers of nodes, negated as their logs have them, for the codes of errors.py."""


_LOST = RESULTS["peer-lost"]


@dataclass(frozen=True, slots=True)
class Last:
    """heard: when, seconds since 1970."""

    heard: float
    standing: Standing


@dataclass(frozen=True, slots=True)
class Presence:
    """A node came, with this version of i2node, or went, for this cause."""

    node: str
    online: bool
    detail: str


class Heard:
    """The tables of what is heard. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._written: dict[str, Last] = {}
        self._forgot = 0.0

    def last(self, rules: Sequence[str] | None = None) -> dict[str, Last]:
        """What was last written down of some rules, or of all, by their uuids."""
        query = select(Rule.uuid, Row.heard, Row.told).join(Rule, Row.rule_id == Rule.id)
        if rules is not None:
            query = query.where(Rule.uuid.in_(rules))
        found = {}
        with self._database.reading() as session:
            for uuid, heard, told in session.execute(query):
                try:
                    found[uuid] = Last(heard, read_standing(told))
                except ProtocolError:  # another version wrote it
                    continue
        return found

    def begin(self) -> None:
        """To be called before the first `note`, and when another may have written since the last:
        what there is is read anew."""
        with self._lock:
            self._written.clear()

    def note(self, batch: Iterable[Standing], now: float) -> int:
        """Writes down what was heard now, seconds since 1970, in one transaction; of a rule that is
        there twice the last counts, of one that is gone nothing is. Gives how many were written."""
        with self._lock:
            newest = {one.rule: one for one in batch}
            missing = [rule for rule in newest if rule not in self._written]
            if missing:
                self._written |= self.last(missing)
            due = self._due(newest.values(), now)
            if not due:
                return 0
            with self._database.writing() as session:
                asked = {one.rule for one in due}
                ids = _ids(session, list(asked))
                due = [one for one in due if one.rule in ids]
                self._write(session, due, ids, now)
                if now >= self._forgot + _FORGET_S:
                    _forget(session, now)
                    self._forgot = now
            self._written |= {one.rule: Last(now, one) for one in due}
            for rule in asked - ids.keys():
                self._written.pop(rule, None)
            return len(due)

    def note_presence(self, batch: Iterable[Presence], now: float) -> None:
        """A line of the log about each of these nodes, in one transaction."""
        lines = [_presence_line(one, now) for one in batch]
        if lines:
            with self._database.writing() as session:
                session.add_all(lines)

    def _due(self, heard: Iterable[Standing], now: float) -> list[Standing]:
        """All that say something new, and of the others those that were written longest ago."""
        new, others = [], []
        for one in heard:
            before = self._written.get(one.rule)
            if before is None or _news(before.standing) != _news(one):
                new.append(one)
                continue
            idle = _sent(before.standing) == _sent(one)
            if now >= before.heard + (IDLE_S if idle else BUSY_S):
                others.append((before.heard, one.rule, one))
        return new + [one for _, _, one in sorted(others, key=lambda each: each[:2])[:AT_ONCE]]

    def _write(
        self, session: Session, due: Sequence[Standing], ids: Mapping[str, int], now: float
    ) -> None:
        traffic: dict[tuple[int, int, int], tuple[float, int]] = {}
        for one in due:
            before = self._written.get(one.rule)
            session.add_all(_lines(before, one, now) + _noted(before, one, now))
            session.add_all(_passes(before, one))
            began, sent = before.heard if before else now, min(sent_since(before, one), _SENT_MOST)
            for span in SPANS:
                for start, share in spread(sent, began, now, span):
                    if share or span == SPANS[1]:  # whose lag is of interest all the same
                        traffic[ids[one.rule], span, start] = (share, _lag_ms(one))
        rows = [{"rule_id": ids[one.rule], "heard": now, "told": plain(one)} for one in due]
        _upsert(session, Row, rows, {})
        counted = [
            {"rule_id": rule, "span": span, "start": start, "sent": round(sent), "lag_ms": lag}
            for (rule, span, start), (sent, lag) in traffic.items()
        ]
        _upsert(session, Traffic, counted, {"sent": "add", "lag_ms": "most"})


def sent_since(before: Last | None, now: Standing) -> float:
    """Bytes that a rule sent since it was written down. The counters of its trees begin anew with
    each session; of a pass that ended between the record tells."""
    new = _sent(now)
    if before is None:
        return new
    old = _sent(before.standing)
    if new >= old and new > 0:
        return new - old
    if now.passes > before.standing.passes and now.last is not None:
        return max(0, now.last.bytes_sent - old) + new
    return new


def spread(sent: float, began: float, ended: float, span: int) -> list[tuple[int, float]]:
    """Bytes that went between two moments, as they fall into buckets of so many seconds: the
    bucket's start, and its share. Buckets that would not be kept any more are left out."""
    began = min(began, ended)
    first, final = math.floor(began / span) * span, math.floor(ended / span) * span
    first = max(first, math.floor((ended - KEPT_S[span]) / span) * span)
    if began >= ended:
        return [(final, sent)]
    per_second = sent / (ended - began)
    return [
        (start, per_second * (min(ended, start + span) - max(began, start)))
        for start in range(first, final + 1, span)
        if min(ended, start + span) > max(began, start)
    ]


def _news(one: Standing) -> tuple[object, ...]:
    noted = one.notes[-1].at if one.notes else 0.0
    return (one.state, one.cause, one.run, one.version, one.passes, one.stamp, one.next_run, noted)


def _lines(before: Last | None, one: Standing, now: float) -> list[LogLine]:
    """One for a new state, or a new cause of the same."""
    old = before.standing if before else None
    if old is not None and (old.state, old.cause) == (one.state, one.cause):
        return []
    if old is not None and old.state == one.state and not one.cause:
        return []
    then = f"{old.state} -> " if old is not None and old.state != one.state else ""
    told = ": ".join(text for text in (f"{then}{one.state}", one.cause) if text)
    level = LEVELS.get(one.state, 1 if one.cause else 2)
    error = one.tally.last_error if one.tally else ""
    return [
        LogLine(
            at=int(now),
            rule=one.rule,
            node="",
            level=level,
            operation="state",
            detail=f"{told} ({one.remedy})" if one.remedy else told,
            result=RESULTS.get(error, 0) if level < 2 else 0,
        )
    ]


def _presence_line(one: Presence, now: float) -> LogLine:
    word = "online" if one.online else "offline"
    return LogLine(
        at=int(now),
        rule="",
        node=one.node,
        level=2 if one.online else 1,
        operation=word,
        detail=f"{word}: {one.detail}" if one.detail else word,
        result=0 if one.online else _LOST,
    )


def _noted(before: Last | None, one: Standing, now: float) -> list[LogLine]:
    """One for each note that is newer than those that were written."""
    known = before.standing.notes if before else ()
    since = known[-1].at if known else 0.0
    return [
        LogLine(
            at=int(max(0.0, min(note.at, now))),
            rule=one.rule,
            node="",
            level=2 if note.sound else 1,
            operation=note.what[:_WHAT_MOST],
            detail=note.text,
            result=RESULTS.get(note.error, 0),
        )
        for note in one.notes
        if note.at > since
    ]


def _passes(before: Last | None, one: Standing) -> list[Pass]:
    count = before.standing.passes if before else 0
    if one.last is None or one.passes <= count:
        return []
    return [Pass(rule=one.rule, began=one.last.began, ended=one.last.ended, told=asdict(one.last))]


def _sent(one: Standing) -> int:
    return max(0, one.tally.bytes_sent) if one.tally else 0


def _lag_ms(one: Standing) -> int:
    lag = (one.tally.lag_s or 0) if one.tally else 0
    return int(min(max(lag, 0) * 1000, _LAG_MOST))


def _ids(session: Session, rules: Sequence[str]) -> dict[str, int]:
    found = session.execute(select(Rule.uuid, Rule.id).where(Rule.uuid.in_(rules)))
    return {row.uuid: row.id for row in found}


def _upsert(
    session: Session, table: type[Any], rows: list[dict[str, Any]], how: Mapping[str, str]
) -> None:
    """Puts rows in, over those with the same key: a column that is to add adds to what is there, of
    one that is the most the greater stays, others are replaced."""
    if not rows:
        return
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    columns = table.__table__
    keys = [column.name for column in columns.primary_key]
    values: dict[str, Any] = {}
    for name in rows[0].keys() - set(keys):
        old, new = columns.c[name], insert.excluded[name]
        if how.get(name) == "add":
            values[name] = old + new
        elif how.get(name) == "most":
            values[name] = case((old > new, old), else_=new)
        else:
            values[name] = new
    session.execute(insert.on_conflict_do_update(index_elements=keys, set_=values), rows)


def _forget(session: Session, now: float) -> None:
    session.execute(delete(LogLine).where(LogLine.at < now - LINES_S))
    session.execute(delete(Pass).where(Pass.ended < now - PASSES_S))
    for span, kept in KEPT_S.items():
        session.execute(delete(Traffic).where(Traffic.span == span, Traffic.start < now - kept))
