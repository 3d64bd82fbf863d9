"""How a running mirror and a status are shown: JSON lines, and the words that a terminal has too.

Every screen is fed with the same RuleReport, a few times a second; the JSON feed decides which of
them are worth a line: each transition, and about one progress line a second while something moves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Protocol, Self, TextIO

from i2node.cli.arguments import shown
from i2node.model import State
from i2node.repl.report import Outcome, PathProblem, RuleReport, plain

PROGRESS_EVERY_S = 1.0
_TRANSITION = ("state", "phase", "in_sync", "last_error", "cause", "remedy", "blocked_on")
_COUNTERS = (
    *("progress", "files_total", "files_done", "bytes_total", "bytes_done", "bytes_sent"),
    *("dirty", "in_flight"),
)
_MOMENTARY = ("rate", "eta_s", "lag_s", "durable_as_of")
_FIDELITY = {"aside": "kept aside by the target", "lost": "lost at the target"}
PASSES = (State.MIRROR, State.SWITCH)


class Screen(Protocol):
    """Where a running mirror is shown; entered before it starts, left when it is over."""

    def show(self, report: RuleReport, now: float) -> None:
        """Takes the picture of the moment `now` (seconds, any monotonic clock)."""

    def draining(self) -> None:
        """A person asked it to stop."""

    def finish(self, report: RuleReport, outcome: Outcome) -> None:
        """Says what was done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Feed:
    """Decides which lines a report is worth. No I/O."""

    def __init__(self) -> None:
        self._transition: list[Any] = []
        self._counters: list[Any] = []
        self._told = float("-inf")
        self._problems: set[PathProblem] = set()

    def lines(self, report: RuleReport, now: float) -> list[dict[str, Any]]:
        """The lines for a report at the moment now; often none."""
        table = plain(report)
        lines: list[dict[str, Any]] = []
        transition = [table[key] for key in _TRANSITION]
        if transition != self._transition:
            self._transition = transition
            lines.append({"t": "state", "rule": report.rule, **_chosen(table, _TRANSITION)})
        lines.extend(self._new_problems(report.problems.first))
        counters = [table[key] for key in _COUNTERS]
        moved = counters != self._counters or report.state in PASSES
        if moved and now - self._told >= PROGRESS_EVERY_S:
            lines.append(self._progress(table, counters, now))
        return lines

    def last(self, report: RuleReport, outcome: Outcome, now: float) -> list[dict[str, Any]]:
        """The lines at the end: where it stands, problems not told yet, `done`."""
        table = plain(report)
        lines = [line for line in self.lines(report, now) if line["t"] != "progress"]
        lines.append(self._progress(table, [table[key] for key in _COUNTERS], now))
        lines.extend(self._new_problems(outcome.problems))
        done = plain(outcome)
        del done["problems"]
        lines.append({"t": "done", **done})
        return lines

    def _progress(self, table: dict[str, Any], counters: list[Any], now: float) -> dict[str, Any]:
        self._told = now
        self._counters = counters
        keys = ("rule", "state", "phase", *_COUNTERS, *_MOMENTARY, "in_sync")
        return {"t": "progress", **_chosen(table, keys)}

    def _new_problems(self, problems: Sequence[PathProblem]) -> list[dict[str, Any]]:
        new = [problem for problem in problems if problem not in self._problems]
        self._problems.update(new)
        return [{"t": "problem", "path": p.path, "cause": p.cause, "remedy": p.remedy} for p in new]


def _chosen(table: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: table[key] for key in keys}


class JsonLines:
    """One JSON object a line, flushed line by line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._feed = Feed()
        self._now = 0.0

    def show(self, report: RuleReport, now: float) -> None:
        self._now = now
        self._write(self._feed.lines(report, now))

    def draining(self) -> None:
        """Nothing: the session's own state line says it."""

    def finish(self, report: RuleReport, outcome: Outcome) -> None:
        self._write(self._feed.last(report, outcome, self._now))

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        for line in lines:
            print(json.dumps(line), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def status_text(reports: Sequence[RuleReport]) -> str:
    """The status of several rules for people; without an end of line."""
    blocks: list[str] = []
    for report in reports:
        if report.side == "target":
            blocks.append("\n".join(map(shown, received(report))))
            continue
        lines = [f"{report.source or '?'} -> {report.target or '?'}  (process {report.pid})"]
        lines.append(f"  {standing(report)}")
        part = f", {report.progress:.0f} %" if report.progress < 100 else ""
        lines.append(f"  {amounts(report)}{part}")
        lines.append(f"  {coverage(report)}")
        if report.assumed:
            left = " but its directories" if report.assumed == "files" else ""
            lines.append(f"  not mirrored: what was there before the rule began{left}")
        for verdict, names in asdict(report.fidelity).items():
            if names:
                lines.append(f"  {_FIDELITY[verdict]}: {', '.join(names)}")
        if report.problems.count:
            lines.append(f"  problems: {report.problems.count}")
            lines.extend(f"    {p.path}: {p.cause}" for p in report.problems.first)
        lines.extend(
            f"  several files there: {path}: too many names" for path in report.problems.split
        )
        lines.extend(f"  {line}" for line in trouble(report))
        blocks.append("\n".join(map(shown, lines)))
    return "\n\n".join(blocks)


def received(report: RuleReport) -> list[str]:
    """What a target tells of a rule."""
    return [
        f"{report.source or '?'} -> {report.target}  (received by process {report.pid})",
        f"  {report.state} ({report.phase}), rule {report.rule}: {report.files_total:,} entries",
        *(f"  {line}" for line in trouble(report)),
    ]


def standing(report: RuleReport) -> str:
    """State, and the facts that say how far behind the target is."""
    sync = "in sync" if report.in_sync else "not in sync"
    if report.assumed:
        sync += " with what changed"
    phase = f" ({report.phase})" if report.phase else ""
    return (
        f"{report.state}{phase}, {sync}: lag {duration(report.lag_s)}{asof(report)}, "
        f"dirty {report.dirty}, in flight {report.in_flight}, sent {size(report.bytes_sent)}"
    )


def asof(report: RuleReport) -> str:
    """Up to when the target has everything durable; nothing where that is not known."""
    if report.durable_as_of is None:
        return ""
    moment = datetime.fromtimestamp(report.durable_as_of)
    return f", durable as of {moment.isoformat(' ', 'milliseconds')}"


def amounts(report: RuleReport) -> str:
    """How far the pass is; behind it what it found, since what comes and goes is not counted."""
    if report.progress >= 100:
        return f"last pass: {report.files_total:,} files, {size(report.bytes_total)}"
    return (
        f"files {report.files_done:,} of {report.files_total:,}, "
        f"{size(report.bytes_done)} of {size(report.bytes_total)}"
    )


def coverage(report: RuleReport) -> str:
    """What is known of changes: never more than is true."""
    watch = report.watch
    bound = watch.max_undetected_s
    age = "no bound on what raises no event"
    if bound is not None:
        age = f"a missed change is found within {duration(bound)}"
    # Rounded down: 100 % means every directory.
    percent = int(watch.coverage * 1000) / 10
    if watch.hidden_processes:
        age += f" (but for {watch.hidden_processes} processes that may not be looked into)"
    if watch.slow_sweep_s is not None:
        age += f", each directory compared within {duration(watch.slow_sweep_s)}"
    engine = f"{watch.engine} ({watch.instead})" if watch.instead else watch.engine
    lost = ", searching for what they lost" if watch.lost_since is not None else ""
    return f"watch {engine}, {percent:g} % covered, {watch.overflows} overflows{lost}, {age}"


def trouble(report: RuleReport) -> list[str]:
    """What holds it up, and what to do; empty when nothing does."""
    lines = [f"waits for {report.blocked_on}"] if report.blocked_on else []
    if report.cause:
        code = f"{report.last_error}: " if report.last_error else ""
        lines.append(f"{code}{report.cause}")
    if report.remedy:
        lines.append(f"remedy: {report.remedy}")
    return lines


def summary(outcome: Outcome) -> list[str]:
    """What a session did, for people."""
    lines = [f"problem: {p.path}: {p.cause}" for p in outcome.problems]
    untold = outcome.problem_count - len(outcome.problems)
    if untold > 0:
        lines.append(f"and {untold:,} problems more")
    sync = "in sync" if outcome.in_sync else "not in sync"
    lines.append(
        f"{sync}: {outcome.files:,} files, {outcome.changed:,} shipped, "
        f"{size(outcome.bytes_read)} read, {size(outcome.bytes_sent)} sent, "
        f"{outcome.problem_count:,} problems, {duration(outcome.elapsed_s)}"
    )
    return lines


def size(amount: float) -> str:
    """Bytes with a binary unit: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB"


def duration(seconds: float | None) -> str:
    """Seconds for people: '12 ms', '0.4 s', '3 min 05 s', '2 h 10 min', '3 d 4 h'; None is '?'."""
    if seconds is None:
        return "?"
    if 0 < seconds < 0.0995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
