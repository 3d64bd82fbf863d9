"""How a rule stands, in the words of the API. Pure.

`status` and `progress` are the API's; cause, remedy and numbers stand beside. What was heard of
another run than the one that is wanted is no news of that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.store.rules import Brief
from i2node.model import State
from i2node.orders import Standing, Want

_SETTLED = {State.M_STOP: (Want.STOP,), State.FINISH: (Want.FINISH, Want.RUN)}
"""States that only another order changes, and what was wanted for them to come."""
_SUMS = [
    "files_total",
    "files_done",
    "bytes_total",
    "bytes_done",
    "bytes_sent",
    "rate",
    "dirty",
    "in_flight",
]
_ORDERED = "it is ordered; the work node has not told of it yet"


def element(brief: Brief, standing: Standing | None, online: bool) -> dict[str, Any]:
    """The status of a rule. standing: the last that was heard of it; online: whether its work node
    can be heard now."""
    told = standing if standing and standing.run >= brief.run else None
    state = _state(brief, told, online)
    shown: dict[str, Any] = {"fsp_uuid": brief.uuid, "status": state.value}
    if state is State.MIRROR and told is not None:
        shown["progress"] = told.progress
    if not online:
        number = int(Code.UNREACHABLE)
        shown |= {"code": number, "message": f"[{number}] {Code.UNREACHABLE.text}"}
    if told is None:
        cause = _ORDERED if online and brief.want != Want.STOP else ""
        return shown | {"cause": cause, "remedy": "", "blocked_on": ""}
    return shown | _told(told)


def _state(brief: Brief, told: Standing | None, online: bool) -> State:
    if told is not None and brief.want in _SETTLED.get(told.state, ()):
        return told.state
    if not online:
        return State.UNKNOWN
    if told is not None:
        return told.state
    return State.M_STOP if brief.want == Want.STOP else State.UNKNOWN


def _told(told: Standing) -> dict[str, Any]:
    """What was heard beside the state, of all its trees together."""
    shown: dict[str, Any] = {
        "cause": told.cause,
        "remedy": told.remedy,
        "blocked_on": told.blocked_on,
        "since": int(told.since),
        "run": told.run,
        "passes": told.passes,
        "restore_point": told.stamp,
        "next_run": None if told.next_run is None else int(told.next_run),
    }
    if told.reports:
        shown |= {name: sum(number(one, name) for one in told.reports) for name in _SUMS}
        shown["lag_s"] = _greatest(told, "lag_s")
        shown["eta_s"] = _greatest(told, "eta_s")
        shown["problems"] = sum(_problems(one) for one in told.reports)
        shown["in_sync"] = all(one.get("in_sync") is True for one in told.reports)
    return shown


def number(report: Mapping[str, Any], name: str) -> float:
    """A number of a report; 0 where it has none there."""
    value = report.get(name)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return value if is_number and value is not None else 0


def _greatest(told: Standing, name: str) -> float | None:
    known = [number(one, name) for one in told.reports if one.get(name) is not None]
    return max(known, default=None)


def _problems(report: Mapping[str, Any]) -> float:
    found = report.get("problems")
    return number(found, "count") if isinstance(found, Mapping) else 0
