"""How far a charge has come, and what is to be done for it now. Pure: the clock is handed in.

What is kept of it (`Course`) is all that a new start of the agent needs to go on in the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from i2node.orders import Charge, Run, Want
from i2node.schedule import Plan

_STAMP = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """run: the number of the charge's run that this is about. began: when the pass under way, or
    the whole run where none is planned, first began, 0: none is; stamp: the same as the name of its
    directory. prepared: its script `before` was run. over: the run is finished. note: what there is
    to say about the last pass. since: runs are due after this moment, None: after the one in which
    that is asked; planned: by which plan; once: its single run that began. sessions: the names of
    those that keep a journal. Times are seconds since 1970."""

    run: int = 0
    began: float = 0.0
    stamp: str = ""
    prepared: bool = False
    over: bool = False
    note: str = ""
    passes: int = 0
    last: Run | None = None
    since: float | None = None
    planned: str = ""
    once: int | None = None
    sessions: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Course:
        """What `plain` made. ValueError or TypeError: it is none."""
        values = {key: table[key] for key in cls.__dataclass_fields__ if key in table}
        if values.get("last") is not None:
            values["last"] = Run(**values["last"])
        values["sessions"] = tuple(values.get("sessions", ()))
        course = cls(**values)
        sound = type(course.run) is int and type(course.passes) is int
        texts = (course.stamp, course.planned, course.note)
        sound = sound and all(type(text) is str for text in (*texts, *course.sessions))
        sound = sound and type(course.began) in (int, float)
        if not sound or not (course.since is None or type(course.since) in (int, float)):
            raise ValueError("not a course")
        return course


class Act(Enum):
    """What is to be done."""

    STOP = auto()
    REST = auto()
    MIRROR = auto()
    LAST = auto()
    PASS = auto()
    WAIT = auto()


def followed(course: Course, charge: Charge, now: float) -> Course:
    """The course as the charge has it by now: another run, another plan."""
    if charge.run > course.run:
        course = Course(
            run=charge.run, passes=course.passes, last=course.last, sessions=course.sessions
        )
    planned = "" if charge.plan is None else repr(charge.plan)
    if planned != course.planned:
        course = replace(course, planned=planned, since=_since(charge.plan, now, course.once))
    if charge.want is not Want.FINISH:
        course = replace(course, prepared=False)  # another finish is to be prepared again
    if charge.want is Want.STOP:
        # What falls due while a person has it stopped is not made up for.
        return replace(course, since=None)
    if course.since is None and charge.plan is not None:
        course = replace(course, since=_since(charge.plan, now, course.once))
    return course


def _since(plan: Plan | None, now: float, once: int | None) -> float | None:
    """The single run of a plan may be due already when it is heard of; of others only those to come
    are. once: of which single run that is done."""
    if plan is None:
        return None
    if plan.once_at is None or plan.once_at == once:
        return now
    return min(now, plan.once_at - 1.0)


def due(course: Course, charge: Charge) -> float | None:
    """When the next planned run begins, which may be past; None: there is none."""
    if charge.plan is None or course.since is None or course.over:
        return None
    moment = charge.plan.next(datetime.fromtimestamp(course.since))
    return None if moment is None else moment.timestamp()


def act(course: Course, charge: Charge, now: float) -> Act:
    """course: as `followed` has it."""
    if charge.want is Want.STOP:
        return Act.STOP
    if course.over:
        return Act.REST
    if charge.want is Want.FINISH:
        return Act.LAST
    if charge.plan is None:
        return Act.MIRROR
    if course.began:
        return Act.PASS
    moment = due(course, charge)
    if moment is None:
        return Act.REST
    return Act.PASS if moment <= now else Act.WAIT


def begun(course: Course, charge: Charge, now: float, taken: str = "") -> Course:
    """A pass, or the run, begins; one that is under way goes on. taken: the newest stamp of the
    rules that have the same base."""
    if course.began:
        return course
    stamp = stamped(now, max(taken, course.last.stamp if course.last is not None else ""))
    course = replace(course, began=now, stamp=stamp if charge.base else "")
    plan = charge.plan
    if plan is None:
        return course
    begins = plan.once_at is not None and plan.once_at <= now
    return replace(course, since=now, once=plan.once_at if begins else course.once)


def stamped(now: float, taken: str) -> str:
    """The name of a directory by its time, behind the newest that there is."""
    stamp = f"{datetime.fromtimestamp(now):{_STAMP}}"
    if stamp <= taken:
        # Within a second, or by a clock that was set back: no two runs share a directory.
        stamp = f"{datetime.strptime(taken, _STAMP) + timedelta(seconds=1):{_STAMP}}"
    return stamp


def passed(course: Course, done: Run, over: bool, note: str = "") -> Course:
    """A pass is through; over: it was the run's last. note: what there is to say about it."""
    course = replace(course, passes=course.passes + 1, last=done, note=note)
    if over:
        return replace(course, over=True)
    return replace(course, began=0.0, stamp="", prepared=False)
