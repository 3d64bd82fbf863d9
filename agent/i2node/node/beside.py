"""What is done beside the replication of one rule, at its times: comparing the trees, and having
copies of the run kept. What came of it goes into the rule's diary; the replication goes on,
whatever comes of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from i2node import log
from i2node.errors import I2Error, PeerLost, ProtocolError, SessionError, of_code
from i2node.net.channel import Channel
from i2node.net.transport import connect
from i2node.node import chores
from i2node.node.chores import COMPARE, COPY
from i2node.node.course import stamped
from i2node.node.diary import Diary
from i2node.node.stint import Stint, Tools
from i2node.orders import Charge, Note, Want
from i2node.repl.compare import Comparison, opened
from i2node.repl.session import Session

_log = logging.getLogger(__name__)

TICK_S = 30.0
"""The clock on the wall may be set: a moment is waited for in steps of this."""
READY_S = 0.5
"""How often it is looked at whether what is due can be done."""
AGAIN_S = 5.0
"""Until what the other node did not live to see is tried again."""
SETTLE_S = 60.0
"""How long what differs may take to arrive before it is looked at once more."""
LOOKED_AT_AGAIN = 10_000
"""Differences of one part; where there are more they are not looked at again."""


class Beside:
    """Of one rule. `follow` is for the thread that runs it; the rest for any."""

    def __init__(self, tools: Tools, rule: str) -> None:
        self._diary = Diary(tools.config.var / "charges" / f"{rule}.diary.json")
        self._copier = Copier(tools, self._diary)
        self._chores = (Comparer(tools, self._diary, lambda: self.copying), self._copier)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What came of it, the newest, in order."""
        return self._diary.notes

    @property
    def copying(self) -> bool:
        """Whether a copy is being made, for which the trees at the target stand still."""
        return self._copier.under_way

    def follow(self, charge: Charge, stint: Stint | None) -> None:
        """From now on this is wanted, and these are its sessions, None: it has none."""
        for chore in self._chores:
            chore.follow(charge, stint)

    def end(self) -> None:
        """What is under way is given up, as soon as it can be; this does not wait for it."""
        for chore in self._chores:
            chore.end()

    def forget(self) -> None:
        """Removes what is kept."""
        self._diary.forget()


class Chore:
    """One kind of work, in a thread of its own from when it is wanted first."""

    what: str

    def __init__(self, tools: Tools, diary: Diary) -> None:
        self.tools = tools
        self.diary = diary
        self._lock = threading.Condition()
        self._charge: Charge | None = None
        self._stint: Stint | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    # ------------------------------------------------------------------ what a kind of work is

    def wanted(self, charge: Charge) -> bool:
        """Whether it is to be done at all."""
        raise NotImplementedError

    def due(self, charge: Charge, now: float) -> float | None:
        """When it is due, which may be past; None: never, as it is wanted now."""
        raise NotImplementedError

    def ready(self, stint: Stint, due: float) -> bool:
        """Whether what is due can be done."""
        raise NotImplementedError

    def do(self, charge: Charge, stint: Stint, over: Callable[[], bool]) -> Note | None:
        """Does it; what came of that, None: nothing new. over: whether it is to end early. I2Error:
        it could not be done."""
        raise NotImplementedError

    def done(self, charge: Charge, due: float, now: float) -> float:
        """What has been done when that which was due then was begun now."""
        raise NotImplementedError

    def anew(self) -> None:
        """A person has stopped the rule, or wants this at other times."""

    def differs(self, before: Charge, charge: Charge) -> bool:
        """Whether this is wanted at other times."""
        raise NotImplementedError

    # ------------------------------------------------------------------ from any thread

    def follow(self, charge: Charge, stint: Stint | None) -> None:
        """See Beside.follow."""
        with self._lock:
            before = self._charge
            if (charge, stint) == (before, self._stint):
                return
            other = before is not None and self.differs(before, charge)
            if other or charge.want is Want.STOP:
                self.anew()
            self._charge, self._stint = charge, stint
            self._lock.notify_all()
            wanted = stint is not None and self.due(charge, time.time()) is not None
            if self._thread is None and wanted and not self._ending:
                self._thread = threading.Thread(target=self._run, name=self.what, daemon=True)
                self._thread.start()

    def end(self) -> None:
        """See Beside.end."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._ending:
                    return
                charge, stint = self._charge, self._stint
                assert charge is not None
            wait = TICK_S
            if stint is not None:
                wait = self._turn(charge, stint)
            with self._lock:
                self._lock.wait_for(partial(self._is_other, charge, stint), wait)

    def _is_other(self, charge: Charge, stint: Stint | None) -> bool:
        """Whether another is wanted than these; lock held."""
        return self._ending or self._charge is not charge or self._stint is not stint

    def _turn(self, charge: Charge, stint: Stint) -> float:
        """Does what is due. Gives the seconds until there may be something again."""
        now = time.time()
        due = self.due(charge, now)
        if due is None:
            return TICK_S
        if due > now:
            return min(TICK_S, due - now)
        if not self.ready(stint, due):
            return READY_S
        now = time.time()
        note: Note | None
        try:
            note = self.do(charge, stint, lambda: self._is_over(stint))
        except I2Error as error:
            note = chores.failed(self.what, error)
        except Exception as error:
            log.event(_log, logging.ERROR, "chore-failed", rule=charge.rule, error=repr(error))
            failure = SessionError(f"the agent failed: {error!r}", "see the agent's log")
            note = chores.failed(self.what, failure)
        if self._is_over(stint) and (note is None or note.error):
            return 0.0  # given up: due still, if it is wanted still
        if note is not None and note.error == PeerLost.code:
            # Due still, when it is back.
            told = any(one.text == note.text for one in self.diary.notes[-1:])
            self._tell(charge, None if told else note, self.diary.done(self.what))
            return AGAIN_S
        self._tell(charge, note, self.done(charge, due, now))
        return 0.0

    def _is_over(self, stint: Stint) -> bool:
        with self._lock:
            wanted = self._charge is not None and self.wanted(self._charge)
            return self._ending or self._stint is not stint or not wanted

    def _tell(self, charge: Charge, note: Note | None, done: float | None) -> None:
        if note is None:
            self.diary.mark(self.what, done)
            return
        self.diary.add(replace(note, at=time.time()), done)
        level = logging.INFO if note.sound else logging.WARNING
        log.event(_log, level, f"{self.what}-done", rule=charge.rule, told=note.text)
        self.tools.told()


class Comparer(Chore):
    """Compares source and target of each part, over channels of its own, and mends nothing."""

    what = COMPARE

    def __init__(self, tools: Tools, diary: Diary, held: Callable[[], bool]) -> None:
        """held: whether the target stands still by now, as it does for a copy."""
        super().__init__(tools, diary)
        self._held = held

    def wanted(self, charge: Charge) -> bool:
        return charge.comparing is not None

    def due(self, charge: Charge, now: float) -> float | None:
        if charge.comparing is None:
            return None
        done = self.diary.done(COMPARE)
        if done is None:
            self.diary.mark(COMPARE, done := now)
        return chores.comparison_due(charge.comparing, done)

    def ready(self, stint: Stint, due: float) -> bool:
        return stint.live

    def done(self, charge: Charge, due: float, now: float) -> float:
        return now

    def differs(self, before: Charge, charge: Charge) -> bool:
        return before.comparing != charge.comparing

    def anew(self) -> None:
        """What falls due meanwhile is not made up for."""
        self.diary.mark(COMPARE, None)

    def do(self, charge: Charge, stint: Stint, over: Callable[[], bool]) -> Note | None:
        began = time.monotonic()
        assert charge.comparing is not None
        strict = charge.comparing.strict
        found = [
            (os.fsencode(one.options.source), self._compare(one, stint, strict, over))
            for one in stint.sessions
        ]
        return chores.compared(found, strict, time.monotonic() - began)

    def _compare(
        self, session: Session, stint: Stint, strict: bool, over: Callable[[], bool]
    ) -> Comparison:
        config, options = self.tools.config, session.options
        host, port, target = options.target.host, options.target.port, options.target.path
        assert host is not None
        beat = config.heartbeat_s
        channel = connect(host, port, self.tools.identity, options.peer or None, beat=beat)
        source = os.path.realpath(os.fsencode(options.source))
        rule, paths = session.rule, session.paths
        with opened(channel, rule, source, target, paths, strict, options.owners) as comparing:
            comparing.most = LOOKED_AT_AGAIN
            comparing.stopped = over
            comparing.look()
            if not comparing.result().equal:
                _settle(stint, self._held, over)
                comparing.look_again()
            return comparing.result()


class Copier(Chore):
    """Has the backup node keep copies of the run. The times that were missed are made up for by
    one."""

    what = COPY
    under_way = False

    def wanted(self, charge: Charge) -> bool:
        return charge.copying is not None

    def due(self, charge: Charge, now: float) -> float | None:
        if charge.copying is None:
            return None
        return chores.copy_due(charge.copying, self.diary.done(COPY))

    def ready(self, stint: Stint, due: float) -> bool:
        """All that changed until it was due is in it."""
        return stint.live and stint.durable_as_of > due

    def done(self, charge: Charge, due: float, now: float) -> float:
        assert charge.copying is not None
        return chores.copied(charge.copying, due, now)

    def differs(self, before: Charge, charge: Charge) -> bool:
        return False

    def do(self, charge: Charge, stint: Stint, over: Callable[[], bool]) -> Note | None:
        as_of, name = stint.durable_as_of, self._name(charge, stint)
        self.under_way = True
        self.tools.told()
        try:
            answer = self._asked(charge, stint, name, as_of, over)
        finally:
            self.under_way = False
        note = chores.kept(answer, name, as_of)
        last = next((one for one in reversed(self.diary.notes) if one.what == COPY), None)
        # That there are as many as may be is said once.
        again = answer.get("t") == "full" and last is not None and last.text == note.text
        return None if again else note

    def _name(self, charge: Charge, stint: Stint) -> str:
        """Of no run of the rules that have the same base, nor of another copy."""
        tools, place = self.tools, (charge.peer, charge.base)
        with tools.beginning:
            taken = max(tools.stamps.get(place, ""), stint.stamp)
            name = tools.stamps[place] = stamped(time.time(), taken)
        return name

    def _asked(
        self, charge: Charge, stint: Stint, name: str, as_of: float, over: Callable[[], bool]
    ) -> dict[str, Any]:
        """What the backup node says when it is done. I2Error: it could not do it."""
        tools = self.tools
        beat = tools.config.heartbeat_s
        with closing(
            connect(charge.host, charge.port, tools.identity, charge.peer, beat=beat)
        ) as c:
            question = {"rule": charge.rule, "run": stint.stamp, "name": name, "as_of": as_of}
            c.send({"t": "copy", **question})
            stop = threading.Event()
            watch = threading.Thread(target=_hang_up, args=(c, over, stop), daemon=True)
            watch.start()
            try:
                while (answer := c.recv(None))["t"] == "copying":
                    pass
            finally:
                stop.set()
                watch.join()
        if answer["t"] == "error":
            raise of_code(*(str(answer.get(key, "")) for key in ("code", "cause", "remedy")))
        if answer["t"] not in ("copied", "full"):
            raise ProtocolError(f"{answer['t']!r:.40} came where copied is due")
        return answer


def _hang_up(channel: Channel, over: Callable[[], bool], stop: threading.Event) -> None:
    """What is not waited for any more is given up over there."""
    while not stop.wait(READY_S):
        if over():
            channel.close()
            return


def _settle(stint: Stint, held: Callable[[], bool], over: Callable[[], bool]) -> None:
    """Waits until what has changed so far is at the target, or for so long after it was held."""
    moment, until = time.time(), time.monotonic() + SETTLE_S
    while stint.durable_as_of < moment and not over():
        if held():
            until = time.monotonic() + SETTLE_S
        elif time.monotonic() > until:
            return
        time.sleep(READY_S / 5)
