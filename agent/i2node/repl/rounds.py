"""Replicating: rounds of what the watch found dirty, and a heartbeat with them.

take what is dirty → compare, send → settle → what all has passed → wait
"""

from __future__ import annotations

import logging
import math
import threading
import time
from datetime import datetime

from i2node import log
from i2node.errors import SafetyStop, SessionError
from i2node.fs.coalesce import Dirty
from i2node.fs.root import Root
from i2node.fs.touch import Work
from i2node.fs.watch import Watch
from i2node.model import show
from i2node.repl.heartbeat import Heartbeat
from i2node.repl.history import History
from i2node.repl.planner import Planner
from i2node.repl.sender import Sender
from i2node.repl.trouble import Troubles

_log = logging.getLogger(__name__)

ROUND_NAMES = 4096
DRAIN_S = 15.0
"""How long what is under way may take when it is to stop."""
STILL_THERE_S = 5.0
"""How often it is looked at whether the root is still where it was, while nothing happens."""


class Rounds:
    """Those of one rule. `run` for each attempt, from the session's thread; the rest from any."""

    def __init__(
        self,
        rule: str,
        dirty: Dirty,
        troubles: Troubles,
        heartbeat: Heartbeat,
        stop: threading.Event,
        history: History,
    ) -> None:
        self.busy_since: float | None = None
        """Clock reading of the earliest change that a round is about; None between two."""
        self.left = False
        """Whether it stopped with something undone."""
        self._rule = rule
        self._dirty = dirty
        self._troubles = troubles
        self._heartbeat = heartbeat
        self._stop = stop
        self._history = history
        self._stopped_at: float | None = None  # when that was noticed
        self._late = False

    def run(self, root: Root, watch: Watch, planner: Planner, sender: Sender) -> None:
        """Until told to stop, and what changed before that is at the target."""
        works: list[Work] = []
        self._dirty.unmark()
        self._heartbeat.begin()
        try:
            while self._round(root, watch, planner, sender, works):
                pass
        except SessionError:
            planner.abandon(works)
            raise
        finally:
            self.busy_since = self._dirty.under_way = None
            self._heartbeat.end()

    def _round(
        self, root: Root, watch: Watch, planner: Planner, sender: Sender, taken: list[Work]
    ) -> bool:
        """One round, and the wait behind it. False: there is none to follow."""
        _check(root, watch, sender)
        self._troubles.settle(planner)
        self._troubles.retry(planner)
        if self._stop.is_set():
            if self._stopped_at is None:
                self._stopped_at = time.monotonic()
                self._heartbeat.hasten()
            looked_through = sender.large.scouted()  # first: what was becomes dirty again
            left = looked_through or self._dirty.count() or self._troubles.waiting
            # Of what changed a moment ago the watch may be about to tell.
            if not left and sender.drained() and self._heartbeat.reached(self._stopped_at):
                return False
            if self._drained_long_enough():
                self.left = True
                return False
        now = time.monotonic()
        self.busy_since = now
        works = taken[:] = self._dirty.take(ROUND_NAMES, now)
        if works:
            self.busy_since = self._dirty.under_way = min(work.since for work in works)
            self._heartbeat.busy(now)
            self._history.looked(works)
            if not planner.live(works, self._drained_long_enough):
                self._dirty.unmark()
            taken.clear()
            # What changed while it was read is dirty again by then.
            sender.settle()
            self._dirty.under_way = None
        # Asked first: what is looked through becomes dirty again.
        beside = min(sender.large.scouted(), default=math.inf)
        if (stamp := self._dirty.passed(beside)) is not None:
            self._heartbeat.carried(stamp, sender.beat(), time.monotonic())
        self.busy_since = None
        if self._heartbeat.due(time.monotonic()):
            watch.beat()
        self._tell_late()
        if not works:
            if sender.drained():
                planner.settled()
            self._dirty.wait(self._idle())
        return True

    def _drained_long_enough(self) -> bool:
        return self._stopped_at is not None and time.monotonic() > self._stopped_at + DRAIN_S

    def _idle(self) -> float:
        """How long nothing is to do unless something happens, in seconds."""
        if self._stop.is_set():
            return 0.05  # what is under way is waited for
        now = time.monotonic()
        due = self._dirty.next_due(now)
        trial = max(0.0, self._troubles.retry_at() - now)
        beat = self._heartbeat.wait(now)
        return min(STILL_THERE_S, beat, trial, due if due is not None else math.inf)

    # ------------------------------------------------------------------ in the log

    def _tell_late(self) -> None:
        """Says when beats stay away, and when they come again."""
        now = time.monotonic()
        if not self._late and self._heartbeat.late(now):
            self._late = True
            log.event(_log, logging.WARNING, "heartbeat-late", rule=self._rule, **self.standing())
        elif self._late and self._heartbeat.sound(now):
            self._late = False
            log.event(_log, logging.INFO, "heartbeat-back", rule=self._rule, **self.standing())

    def standing(self) -> dict[str, object]:
        """How far the target is, in the words of the status; empty before the first beat."""
        asof = self._heartbeat.durable_as_of
        if asof is None:
            return {}
        lag = self._heartbeat.lag(time.monotonic(), None)
        moment = datetime.fromtimestamp(asof).astimezone()
        return {"lag_s": lag, "durable_as_of": moment.isoformat(timespec="milliseconds")}


def _check(root: Root, watch: Watch, sender: Sender) -> None:
    """Raises what ends the replicating."""
    if watch.failure is not None:
        raise watch.failure
    if watch.root_lost or not root.still_there():
        raise SafetyStop(
            f"{show(root.path)} was unmounted, moved or removed",
            "mount it or put it back, then start again; nothing was deleted for that",
        )
    if sender.error is not None:
        raise sender.error
