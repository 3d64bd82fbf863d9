"""Carries out one charge: one thread, which alone decides what becomes of it.

    order → followed → act → sessions begun, changed, ended → what came of it is kept → wait

Orders, ends of sessions and the clock only wake it. What it decides by is pure (course.py), what it
shows is made of pictures (summary.py).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from i2node import log
from i2node.errors import Halt, I2Error, Refused, SessionError
from i2node.node import course as courses
from i2node.node import kept, scripts
from i2node.node.beside import Beside
from i2node.node.course import Act, Course
from i2node.node.stint import Stint, Tools, forget, names_of
from i2node.node.summary import Facts, progress, standing
from i2node.orders import Charge, Run, Standing
from i2node.repl.report import RuleReport

_log = logging.getLogger(__name__)

AGAIN_S = 5.0
"""Until what failed is tried again: a pass whose peer was lost, a peer that does not know us yet,
since the controller tells both nodes, and one after the other; a disk that takes no more notes."""
TICK_S = 30.0
"""The clock on the wall may be set: a moment is waited for in steps of this."""


class Runner:
    """Of one charge. `order`, `end` and the pictures are for any thread."""

    def __init__(self, tools: Tools, charge: Charge) -> None:
        self._tools = tools
        self._lock = threading.Condition()
        self._charge = charge
        self._goes_by = charge
        self._woken = False
        self._ending = False
        self._file = tools.config.var / "charges" / f"{charge.rule}.json"
        self._script_note = self._file.with_suffix(".script")
        if scripts.end_left(self._script_note):
            log.event(_log, logging.WARNING, "script-left", rule=charge.rule, done="ended")
        self._course = self._read()
        self._kept: Course | None = None
        now = time.time()
        self._act = courses.act(courses.followed(self._course, charge, now), charge, now)
        self._stint: Stint | None = None
        self._error: I2Error | None = None
        self._error_of: Charge | None = None
        self._again_at = 0.0
        self._before = 0
        self._told: tuple[object, float] = (None, time.time())
        self._beside = Beside(tools, charge.rule)
        self._thread = threading.Thread(target=self._run, name="charge", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    def order(self, charge: Charge) -> None:
        """This is wanted from now on; the rule is the same."""
        with self._lock:
            self._charge = charge
        self._wake()

    def end(self) -> None:
        """Asks the sessions and the thread to end. The rule goes on with another Runner."""
        with self._lock:
            self._ending = True
            stint = self._stint
        self._beside.end()
        if stint is not None:
            stint.stop()
        self._wake()

    def join(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, after at most this time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def forget(self) -> None:
        """Removes what is kept of the rule. To be called when it has ended and is wanted no more:
        nobody would clear it up later, and of a whole host it is large."""
        forget(self._tools, self._course.sessions)
        self._file.unlink(missing_ok=True)
        self._beside.forget()

    def standing(self) -> Standing:
        """How it stands at this moment."""
        with self._lock:
            facts = self._facts()
            made = standing(facts, datetime.now())
            key = (made.state, made.run)
            if key != self._told[0]:
                self._told = key, time.time()
            if self._beside.copying and not made.blocked_on:
                made = replace(made, blocked_on="a copy of it that is being made")
            return replace(made, since=self._told[1], notes=self._beside.notes)

    def reports(self) -> tuple[RuleReport, ...]:
        """Of its sessions; of the rule itself while there are none."""
        stint = self._stint
        if stint is not None:
            return stint.reports()
        stands, charge = self.standing(), self._charge
        one = RuleReport(
            rule=stands.rule,
            source=", ".join(part.source for part in charge.parts),
            target=f"{charge.host}:{charge.port}",
            state=stands.state,
            phase="no session",
            pid=os.getpid(),
            since=stands.since,
            progress=float(stands.progress),
            cause=stands.cause,
            remedy=stands.remedy,
        )
        return (one,)

    @property
    def charge(self) -> Charge:
        """What is wanted of it."""
        return self._charge

    @property
    def runs(self) -> bool:
        """Whether it has sessions."""
        return self._stint is not None

    def explain(self, path: bytes) -> dict[str, Any] | None:
        """As Session.explain."""
        stint = self._stint
        return stint.explain(path) if stint is not None else None

    def _wake(self) -> None:
        with self._lock:
            self._woken = True
            self._lock.notify_all()
        self._tools.told()

    def _facts(self) -> Facts:
        stint, charge = self._stint, self._goes_by
        next_run = None
        if self._act is Act.WAIT:
            next_run = courses.due(self._course, charge)
        return Facts(
            charge,
            self._course,
            self._act,
            running=stint is not None,
            error=self._error,
            next_run=next_run,
            reports=stint.reports() if stint is not None else (),
            before=self._before,
        )

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                self._woken = False
                charge, ending = self._charge, self._ending
            if ending:
                self._end_stint()
                return
            try:
                wait = self._step(charge)
            except I2Error as error:
                self._failed(charge, error)
                wait = 0.0
            except Exception as error:
                log.event(_log, logging.ERROR, "charge-failed", rule=charge.rule, error=repr(error))
                self._failed(charge, Halt(f"the agent failed: {error!r}", "see the agent's log"))
                wait = 0.0
            self._tools.told()
            with self._lock:
                self._lock.wait_for(lambda: self._woken, wait)

    def _step(self, charge: Charge) -> float:
        """Brings the sessions nearer to what is wanted. Gives the seconds until it has something to
        do, unless it is woken."""
        now = time.time()
        self._go(courses.followed(self._course, charge, now))
        act = courses.act(self._course, charge, now)
        if self._error is not None and not self._may_go_on(charge):
            left = self._again_at - time.monotonic()
            return max(0.0, min(TICK_S, left)) if self._again_at else TICK_S
        with self._lock:
            self._act, self._error = act, None
        if act is Act.STOP:
            self._end_stint()
            self._follow(charge)
            return TICK_S
        if act in (Act.REST, Act.WAIT):
            return self._rest(charge, act, now)
        if act is Act.LAST and charge.before and not self._course.prepared:
            self._script(charge, charge.before, "before")
            self._go(replace(self._course, prepared=True))
        return self._work(charge, once=act is not Act.MIRROR)

    def _follow(self, charge: Charge) -> None:
        """From now on what is shown is of this charge."""
        with self._lock:
            self._goes_by = charge
            stint = self._stint
        self._beside.follow(charge, stint if stint is not None and not stint.once else None)

    def _rest(self, charge: Charge, act: Act, now: float) -> float:
        self._end_stint()
        self._follow(charge)
        if act is Act.WAIT:
            moment = courses.due(self._course, charge)
            return TICK_S if moment is None else max(0.0, min(TICK_S, moment - now))
        if not self._course.over:
            self._go(replace(self._course, over=True))
        return TICK_S

    def _work(self, charge: Charge, once: bool) -> float:
        """The sessions run, and do what the charge wants."""
        self._begin(charge)
        stamp, stint = self._course.stamp, self._stint
        if stint is not None and not stint.fits(charge, stamp, once):
            self._end_stint()
            stint = None
        if stint is None:
            names = names_of(self._tools, charge, stamp)
            forget(self._tools, set(self._course.sessions).difference(names))
            self._go(replace(self._course, sessions=names))
            made = Stint(self._tools, charge, stamp, once, self._wake)
            with self._lock:
                self._stint = made
                ending = self._ending
            self._follow(charge)
            if ending:
                made.stop()
            return TICK_S
        if charge.bwlimit != stint.charge.bwlimit:
            stint.limit(charge.bwlimit)
        stint.charge = charge
        self._follow(charge)
        if stint.error is not None:
            raise stint.error
        if not stint.over:
            return TICK_S
        if not once:
            raise SessionError("the sessions ended by themselves", "tried again by itself")
        self._through(charge, stint)
        return 0.0

    def _begin(self, charge: Charge) -> None:
        """Rules that go to one base, and begin at one time, have a directory each all the same."""
        tools, place = self._tools, (charge.peer, charge.base)
        with tools.beginning:
            taken = tools.stamps.get(place, "")
            course = courses.begun(self._course, charge, time.time(), taken)
            tools.stamps[place] = max(taken, course.stamp)
        self._go(course)

    def _through(self, charge: Charge, stint: Stint) -> None:
        """A pass was made from beginning to end."""
        done = stint.pass_of(self._course.began)
        over = self._act is Act.LAST
        note = self._after(charge) if over else ""
        self._end_stint()
        if charge.base:
            # Nothing goes to that directory any more.
            forget(self._tools, self._course.sessions)
        self._go(courses.passed(self._course, done, over, note))
        log.event(
            _log, logging.INFO, "pass-over", rule=charge.rule, problems=done.problems, last=over
        )

    def _after(self, charge: Charge) -> str:
        """The tree is complete by then, whatever the script does: gives what there is to say."""
        if not charge.after:
            return ""
        try:
            self._script(charge, charge.after, "after")
        except Halt as error:
            return error.cause
        return ""

    def _script(self, charge: Charge, name: str, stage: str) -> None:
        etc = self._tools.config.etc
        log.event(_log, logging.INFO, "script", rule=charge.rule, stage=stage, name=name)
        given_up, note = partial(self._is_other, charge), self._script_note
        scripts.run(etc, name, charge.rule, stage, given_up, note)

    def _is_other(self, charge: Charge) -> bool:
        with self._lock:
            return self._ending or self._charge.want is not charge.want

    # ------------------------------------------------------------------ what happened

    def _may_go_on(self, charge: Charge) -> bool:
        """After an error: another charge, or a while later where it may heal by itself."""
        if charge != self._error_of:
            return True
        return 0.0 < self._again_at <= time.monotonic()

    def _failed(self, charge: Charge, error: I2Error) -> None:
        """What cannot go on stands still with its cause."""
        stint = self._stint
        if stint is not None and stint.once:
            self._note(charge, stint.pass_of(self._course.began), error)
        self._end_stint()
        again = isinstance(error, SessionError | Refused)
        with self._lock:
            self._error, self._error_of = error, charge
            self._goes_by = charge
            self._again_at = time.monotonic() + AGAIN_S if again else 0.0
        fields = {"cause": error.cause, "remedy": error.remedy}
        log.event(_log, logging.WARNING, "charge-stands", rule=charge.rule, **fields)

    def _note(self, charge: Charge, tried: Run, error: I2Error) -> None:
        """That of a pass that failed is told, until one succeeds."""
        with self._lock:
            failed = replace(tried, error=error.code, cause=error.cause)
            self._course = replace(self._course, last=failed)

    def _end_stint(self) -> None:
        stint = self._stint
        if stint is None:
            return
        self._beside.follow(self._goes_by, None)
        stint.stop()
        stint.join()
        with self._lock:
            self._before = progress(stint.reports())
            self._stint = None

    # ------------------------------------------------------------------ kept

    def _go(self, course: Course) -> None:
        """The one place where the course changes: on disk first."""
        if course != self._kept:
            kept.keep(self._file, course.plain())
            self._kept = course
        with self._lock:
            if course.began != self._course.began:
                self._before = 0
            self._course = course

    def _read(self) -> Course:
        """A damaged file: whatever run it was of, another begins."""
        try:
            table = kept.kept(self._file)
            return Course() if table is None else Course.read(table)
        except (ValueError, TypeError) as error:
            log.event(
                _log, logging.WARNING, "course-lost", rule=self._charge.rule, cause=str(error)
            )
            return Course()
