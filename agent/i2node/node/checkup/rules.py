"""The rules of this home, as far as they stand still, and their journals."""

from __future__ import annotations

from collections.abc import Sequence

from i2node.model import State
from i2node.node.checkup.finding import Finding, fine, look
from i2node.node.checkup.host import Host
from i2node.repl.database import newer, schema_of
from i2node.repl.journal import Journal
from i2node.repl.report import RuleReport

STANDS = frozenset({State.EXCEPTION, State.STALE, State.STOP})


def rules(host: Host) -> list[Finding]:
    """A line for each that has something wrong, or one for all."""
    found = journals(host) + of_rules(host, host.reports)
    return found or [fine("rules", f"{len(host.reports)}, none in trouble")]


def of_rules(host: Host, reports: Sequence[RuleReport]) -> list[Finding]:
    """Those that a person is to look at. One that a person stopped is none of them."""
    found: list[Finding] = []
    for report in reports:
        why = report.cause
        if not why and report.problems.count:
            why = f"{report.problems.count:,} paths in trouble"
        if not why and report.state in STANDS:
            why = "it stands still"
        if why:
            way = f"{report.source} -> {report.target}" if report.rule else "status"
            found.append(look("rules", f"{way}: {report.state}: {why}", host.typed("status")))
    return found


def journals(host: Host) -> list[Finding]:
    """Those of another release, which this one cannot go on with."""
    found: list[Finding] = []
    for file in sorted((host.config.var / "rules").glob("*/index.db")):
        schema = schema_of(file)
        if schema > Journal.SCHEMA:
            halt = newer(file, schema, Journal.SCHEMA)
            found.append(look("rules", halt.cause, f"dnf upgrade i2node; or {halt.remedy}"))
    return found
