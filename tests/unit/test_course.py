"""What is to be done for a charge, and how it is shown: without a session, a disk or a clock."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from i2node.errors import SafetyStop
from i2node.model import State
from i2node.node import course as courses
from i2node.node import kept
from i2node.node.course import Act, Course
from i2node.node.summary import Facts, progress, standing
from i2node.orders import Charge, Part, Run, Want
from i2node.repl.clearing import spent
from i2node.repl.ledger import Record
from i2node.repl.report import RuleReport
from i2node.schedule import Every, Plan, Slot

NOW = datetime(2026, 3, 4, 12, 30, 15).timestamp()
HOUR = 3600.0
HOURLY = Plan(slots=(Slot(every=Every.DAY, gap=60),))


def charge(**fields: Any) -> Charge:
    known = {"want": Want.RUN, "host": "h", "port": 1, "peer": "p", "certificate": "c"}
    known |= {"rule": "R", "version": "1", "name": "n", "base": "/b", "parts": (Part(source="/"),)}
    return Charge(**known | fields)


def done(course: Course) -> Run:
    return Run(
        stamp=course.stamp,
        began=course.began,
        ended=course.began + 1,
        files=0,
        changed=0,
        bytes_read=0,
        bytes_sent=0,
        problems=0,
    )


def test_a_run_keeps_its_stamp_until_it_is_over_and_no_two_share_one() -> None:
    course = courses.begun(courses.followed(Course(), charge(), NOW), charge(), NOW)
    assert course.stamp == "20260304123015"
    assert courses.begun(course, charge(), NOW + HOUR) == course
    for want in Want:
        assert courses.followed(course, charge(want=want), NOW).stamp == course.stamp
    over = courses.passed(course, done(course), over=True)
    assert courses.act(over, charge(), NOW) is Act.REST
    for clock in (NOW, NOW - 365 * 24 * HOUR):
        again = courses.followed(over, charge(run=2), clock)
        assert courses.act(again, charge(run=2), clock) is Act.MIRROR
        assert courses.begun(again, charge(run=2), clock).stamp == "20260304123016"
    assert courses.begun(Course(run=1), charge(base=""), NOW).stamp == ""


@pytest.mark.parametrize(
    ("want", "plan", "over", "act"),
    [
        (Want.RUN, None, False, Act.MIRROR),
        (Want.STOP, None, False, Act.STOP),
        (Want.FINISH, None, False, Act.LAST),
        (Want.FINISH, HOURLY, False, Act.LAST),
        (Want.RUN, HOURLY, False, Act.WAIT),
        (Want.STOP, HOURLY, False, Act.STOP),
        (Want.RUN, Plan(), False, Act.REST),
        (Want.RUN, None, True, Act.REST),
        (Want.FINISH, None, True, Act.REST),
        (Want.STOP, None, True, Act.STOP),
    ],
)
def test_what_is_to_be_done(want: Want, plan: Plan | None, over: bool, act: Act) -> None:
    wanted = charge(want=want, plan=plan)
    course = courses.followed(Course(), wanted, NOW)
    assert courses.act(replace(course, over=over), wanted, NOW) is act


def test_a_planned_run_that_was_missed_begins_at_once_and_one_at_most() -> None:
    wanted = charge(plan=HOURLY)
    course = courses.followed(Course(), wanted, NOW)
    assert courses.due(course, wanted) == datetime(2026, 3, 4, 13).timestamp()
    late = NOW + 5 * HOUR
    assert courses.act(courses.followed(course, wanted, late), wanted, late) is Act.PASS
    running = courses.begun(course, wanted, late)
    assert courses.act(running, wanted, late) is Act.PASS, "also after a restart"
    after = courses.passed(running, done(running), over=False)
    assert courses.act(after, wanted, late) is Act.WAIT
    assert courses.due(after, wanted) == datetime(2026, 3, 4, 18).timestamp()


def test_what_fell_due_while_it_was_stopped_is_not_made_up_for() -> None:
    course = courses.followed(Course(), charge(plan=HOURLY), NOW)
    course = courses.followed(course, charge(plan=HOURLY, want=Want.STOP), NOW)
    late = NOW + 5 * HOUR
    course = courses.followed(course, charge(plan=HOURLY), late)
    assert courses.due(course, charge(plan=HOURLY)) == datetime(2026, 3, 4, 18).timestamp()


def test_the_only_run_may_be_due_before_it_is_heard_of() -> None:
    wanted = charge(plan=Plan(once_at=int(NOW) - 60))
    course = courses.followed(Course(), wanted, NOW)
    assert courses.act(course, wanted, NOW) is Act.PASS
    running = courses.begun(course, wanted, NOW)
    after = courses.passed(running, done(running), over=False)
    assert courses.act(after, wanted, NOW) is Act.REST
    for stopped in (course, after):
        halted = courses.followed(stopped, replace(wanted, want=Want.STOP), NOW)
        again = courses.followed(halted, wanted, NOW + HOUR)
        act = Act.PASS if stopped is course else Act.REST
        assert courses.act(again, wanted, NOW + HOUR) is act


def test_a_single_run_beside_others_is_due_once() -> None:
    both = Plan(once_at=int(NOW) - 60, slots=HOURLY.slots)
    wanted = charge(plan=both)
    course = courses.followed(Course(), wanted, NOW)
    assert courses.act(course, wanted, NOW) is Act.PASS
    running = courses.begun(course, wanted, NOW)
    after = courses.followed(courses.passed(running, done(running), over=False), wanted, NOW)
    assert courses.due(after, wanted) == datetime(2026, 3, 4, 13).timestamp()
    edited = charge(plan=replace(both, slots=(*both.slots, Slot(every=Every.DAY, times=(5,)))))
    again = courses.followed(after, edited, NOW)
    assert courses.act(again, edited, NOW) is Act.WAIT
    asked = charge(plan=replace(both, once_at=int(NOW) - 1))
    again = courses.followed(after, asked, NOW)
    assert courses.act(again, asked, NOW) is Act.PASS, "a start now is another single run"


def test_another_plan_counts_from_when_it_is_heard_of() -> None:
    course = courses.followed(Course(), charge(plan=HOURLY), NOW)
    morning = charge(plan=Plan(slots=(Slot(every=Every.DAY, times=(8 * 60,)),)))
    later = courses.followed(course, morning, NOW + HOUR)
    assert courses.due(later, morning) == datetime(2026, 3, 5, 8).timestamp()


def test_a_course_is_kept_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "charges" / "rule.json"
    assert kept.kept(file) is None
    course = courses.begun(courses.followed(Course(), charge(plan=HOURLY), NOW), charge(), NOW)
    course = courses.passed(course, done(course), over=True, note="n")
    kept.keep(file, course.plain())
    table = kept.kept(file)
    assert table is not None and Course.read(table) == course
    assert file.stat().st_mode & 0o777 == 0o600 and len(list(file.parent.iterdir())) == 1
    for wrong in ({"run": "1"}, {"stamp": 5}, {"began": "x"}, {"last": {"x": 1}}, {"since": []}):
        with pytest.raises((ValueError, TypeError)):
            Course.read(table | wrong)
    for text in ("[]", "{", ""):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"."):
            kept.kept(file)


# ------------------------------------------------------------------ how it is shown


def report(state: State, share: float = 100.0, size: int = 100, **fields: Any) -> RuleReport:
    return RuleReport(
        rule="r",
        source="/",
        target="/t",
        state=state,
        progress=share,
        bytes_total=size,
        bytes_done=int(size * share / 100),
        **fields,
    )


def shown(*reports: RuleReport, **fields: Any) -> Any:
    known: dict[str, Any] = {"charge": charge(), "course": Course(run=1), "act": Act.MIRROR}
    facts = Facts(**known | {"running": bool(reports), "reports": reports} | fields)
    return standing(facts, datetime.fromtimestamp(NOW))


@pytest.mark.parametrize(
    ("parts", "state"),
    [
        ((State.REPLICATION, State.REPLICATION), State.REPLICATION),
        ((State.REPLICATION, State.MIRROR), State.MIRROR),
        ((State.REPLICATION, State.SWITCH), State.SWITCH),
        ((State.REPLICATION, State.EXCEPTION), State.EXCEPTION),
        ((State.STALE, State.EXCEPTION, State.MIRROR), State.EXCEPTION),
        ((State.STOP, State.EXCEPTION), State.STOP),
        ((State.UNKNOWN, State.REPLICATION), State.MIRROR),
        ((State.FINISH, State.MIRROR), State.MIRROR),
        ((State.FINISH, State.FINISH), State.SWITCH),
    ],
)
def test_the_state_is_the_most_telling_of_the_parts(parts: tuple[State, ...], state: State) -> None:
    assert shown(*map(report, parts)).state is state
    # What still replicates when the last pass is due has that before it.
    last = State.SWITCH if state is State.REPLICATION else state
    assert shown(*map(report, parts), act=Act.LAST).state is last


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (Act.STOP, State.M_STOP),
        (Act.REST, State.FINISH),
        (Act.WAIT, State.WAITING),
        (Act.MIRROR, State.MIRROR),
    ],
)
def test_the_state_without_sessions(act: Act, state: State) -> None:
    assert shown(act=act).state is state


def test_progress_is_weighed_by_bytes() -> None:
    mirror = State.MIRROR
    assert progress((report(mirror, 50, 100), report(mirror, 10, 900))) == 14
    assert progress((report(mirror, 50, 100, counting=True), report(mirror, 10, 900))) == 0
    assert progress((report(State.REPLICATION), report(mirror, 99.9, 10**9))) == 99
    assert progress((report(State.REPLICATION), report(State.REPLICATION))) == 100
    assert progress((report(State.REPLICATION, size=0), report(mirror, 0, 0))) == 0
    assert shown(act=Act.REST).progress == 100


def test_causes() -> None:
    stood = shown(error=SafetyStop("the cause", "the remedy"), act=Act.LAST)
    assert (stood.state, stood.cause, stood.remedy) == (State.STOP, "the cause", "the remedy")
    lost = report(State.EXCEPTION, cause="lost", remedy="find")
    stood = shown(report(State.REPLICATION, blocked_on="disk"), lost)
    assert (stood.cause, stood.remedy, stood.blocked_on) == ("lost", "find", "")
    assert shown(report(State.REPLICATION, blocked_on="disk")).blocked_on == "disk"
    zero = charge(bwlimit="3*12:00-13:00*0")
    stood = shown(report(State.REPLICATION), charge=zero)
    assert stood.state is State.STOP and "until 2026-03-04 13:00" in stood.cause
    assert shown(lost, charge=zero).state is State.EXCEPTION


# ------------------------------------------------------------------ runs that go


def record(stamp: str, **fields: Any) -> Record:
    known: dict[str, Any] = {"rule": f"r{stamp}", "peer": "p", "source": "", "origin": "", "ino": 1}
    known |= {"birth": 1, "fs": "", "token": "", "boot": "", "whole": "R", "complete": True}
    return Record(**known | {"root": f"/b/{stamp}/s"} | fields)


def test_which_runs_go() -> None:
    stamps = [f"2026010100000{n}" for n in range(6)]
    records = [record(stamp) for stamp in stamps]
    records[1] = replace(records[1], complete=False)  # in use, or broken off
    records[2] = replace(records[2], whole="another")
    records[3] = replace(records[3], peer="another")
    assert spent(records, "R", "p", b"/b", 0) == {}
    assert list(spent(records, "R", "p", b"/b", 1)) == [stamps[0].encode(), stamps[4].encode()]
    assert list(spent(records, "R", "p", b"/b", 2)) == [stamps[0].encode()]
    assert spent(records, "R", "p", b"/b", 3) == {}
    assert spent(records, "R", "p", b"/c", 1) == {}
    copies = [replace(r, as_of=1.5) for r in records]
    assert spent(copies, "R", "p", b"/b", 1) == {}, "copies are not runs"
    two = [replace(r, parts=2) for r in records]
    assert spent(two, "R", "p", b"/b", 1) == {}, "the other part never came"
    whole = [*two, *(replace(r, rule=r.rule + "x", root=r.root + "/inner") for r in two)]
    assert list(spent(whole, "R", "p", b"/b", 2)) == [stamps[0].encode()]
    odd = [record("keep"), record("2026010100000"), record("202601010000000")]
    assert spent([*odd, *records], "R", "p", b"/b", 1).keys() == {
        stamps[0].encode(),
        stamps[4].encode(),
    }


def test_a_course_is_plain_data() -> None:
    assert json.loads(json.dumps(Course(run=3).plain()))["run"] == 3
