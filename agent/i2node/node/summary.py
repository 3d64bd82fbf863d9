"""How a charge stands, from how its sessions do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from i2node.errors import I2Error
from i2node.model import State
from i2node.net.throttle import parse_plan
from i2node.node.course import Act, Course
from i2node.orders import NUMBER_MAX, Charge, Standing, Tally
from i2node.repl.report import RuleReport

TELLING = (
    State.STOP,
    State.EXCEPTION,
    State.STALE,
    State.MIRROR,
    State.SWITCH,
    State.REPLICATION,
    State.FINISH,
)
"""The state of a rule is the first of these that one of its parts is in."""

_AS: Mapping[State, State] = {State.UNKNOWN: State.MIRROR, State.M_STOP: State.MIRROR}
"""What a part is about to do that has just begun, or is begun anew."""

_SENDING = (State.MIRROR, State.SWITCH, State.REPLICATION)


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one charge at one moment. error: why it cannot go on, or not now. next_run: seconds since
    1970. reports: of the sessions that there are; before: how far they were when they ended."""

    charge: Charge
    course: Course
    act: Act
    running: bool = False
    error: I2Error | None = None
    next_run: float | None = None
    reports: tuple[RuleReport, ...] = ()
    before: int = 0


def standing(facts: Facts, now: datetime) -> Standing:
    """`since` is left to who remembers the one before."""
    course, error = facts.course, facts.error
    state, reason = _state(facts, now)
    fields: dict[str, Any] = {}
    if error is not None and not reason:
        fields = {"cause": error.cause, "remedy": error.remedy}
    elif reason:
        fields = {"cause": reason, "blocked_on": "bandwidth plan"}
    elif course.over and course.note:
        fields = {"cause": course.note}
    else:
        telling = [r for r in facts.reports if r.cause or r.blocked_on]
        telling.sort(key=lambda r: _rank(r.state))
        if facts.running and telling:
            first = telling[0]
            fields = {"cause": first.cause, "remedy": first.remedy, "blocked_on": first.blocked_on}
    return Standing(
        rule=facts.charge.rule,
        version=facts.charge.version,
        run=facts.charge.run,
        state=state,
        since=0.0,
        progress=100 if state is State.FINISH else progress(facts.reports) or facts.before,
        stamp=course.stamp or (course.last.stamp if course.last else ""),
        next_run=facts.next_run,
        tally=tally(facts.reports) if facts.running and facts.reports else None,
        passes=course.passes,
        last=course.last,
        **fields,
    )


def _state(facts: Facts, now: datetime) -> tuple[State, str]:
    """The state, and the reason of one that the bandwidth plan makes."""
    if facts.error is not None:
        return State.STOP, ""
    if facts.running:
        state = telling(report.state for report in facts.reports)
        if state is State.FINISH:
            state = State.SWITCH  # what is left to do is the rule's own
        if state is State.REPLICATION and facts.act is Act.LAST:
            state = State.SWITCH  # it brings to the target what it has, and then makes that pass
        if state in _SENDING and (reason := _standstill(facts.charge.bwlimit, now)):
            return State.STOP, reason
        return state, ""
    if facts.act is Act.STOP:
        return State.M_STOP, ""
    if facts.act is Act.REST:
        return State.FINISH, ""
    return (State.WAITING if facts.act is Act.WAIT else State.MIRROR), ""


def telling(states: Any) -> State:
    """That of a rule whose parts are in these."""
    return min((_AS.get(state, state) for state in states), key=_rank, default=State.MIRROR)


def _rank(state: State) -> int:
    return TELLING.index(_AS.get(state, state)) if _AS.get(state, state) in TELLING else 0


def _standstill(bwlimit: str, now: datetime) -> str:
    plan = parse_plan(bwlimit)
    if plan.rate_at(now) != 0:
        return ""
    end = plan.next_change(now)
    return f"the bandwidth plan is 0 until {end:%Y-%m-%d %H:%M}" if end else "the bandwidth is 0"


def progress(reports: Sequence[RuleReport]) -> int:
    """Whole percent of the bytes of all parts: 0 while they are counted, 100 only when all are
    through."""
    if not reports:
        return 0
    if all(report.progress >= 100 for report in reports):
        return 100
    if any(report.counting for report in reports):
        return 0
    total = sum(report.bytes_total for report in reports)
    done = sum(report.bytes_done for report in reports)
    return min(99, 100 * done // total) if total else 0


_SUMS = (
    "files_total",
    "files_done",
    "bytes_total",
    "bytes_done",
    "bytes_sent",
    "rate",
    "dirty",
    "in_flight",
)


def tally(reports: Sequence[RuleReport]) -> Tally:
    """The numbers of all parts together; times are those of the slowest."""
    sums = {name: min(NUMBER_MAX, sum(getattr(one, name) for one in reports)) for name in _SUMS}
    skipped = {one.assumed for one in reports}
    return Tally(
        **sums,
        lag_s=max((one.lag_s for one in reports if one.lag_s is not None), default=None),
        eta_s=max((one.eta_s for one in reports if one.eta_s is not None), default=None),
        problems=sum(one.problems.count for one in reports),
        in_sync=all(one.in_sync for one in reports),
        not_mirrored="all" if "all" in skipped else "files" if "files" in skipped else "",
        last_error=next((one.last_error for one in reports if one.last_error), ""),
    )
