"""How a rule stands, in the words of the API. Pure.

`status` and `progress` are the API's; cause, remedy and numbers stand beside. What was heard of
another run than the one that is wanted is no news of that one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.store.rules import Brief
from i2node.model import State
from i2node.orders import Standing, Tally, Want

_SETTLED = {State.M_STOP: (Want.STOP,), State.FINISH: (Want.FINISH, Want.RUN)}
"""States that only another order changes, and what was wanted for them to come."""
_NUMBERS = tuple(one.name for one in fields(Tally) if one.name != "last_error")
_ORDERED = "it is ordered; the work node has not told of it yet"


def element(
    brief: Brief, standing: Standing | None, online: bool, refusal: str = ""
) -> dict[str, Any]:
    """The status of a rule. standing: the last that was heard of it; online: whether its work node
    can be heard now; refusal: why its backup node has no part in it."""
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
        shown |= {"cause": cause, "remedy": "", "blocked_on": ""}
    else:
        shown |= _told(told)
    if refusal:
        shown |= {"cause": f"the backup node refuses it: {refusal}", "remedy": ""}
    return shown


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
    if told.tally is not None:
        shown |= {name: getattr(told.tally, name) for name in _NUMBERS}
    return shown
