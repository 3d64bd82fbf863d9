"""A rule running: connect, mirror, replicate, and what to do when any of that fails.

    connect → open → walk (MIRROR) → drain (SWITCH) → live rounds (REPLICATION)
       ↑                                                    |
       └──────── backoff (EXCEPTION, STALE) ←── SessionError┘        Halt → STOP

This thread owns the rule's state; `_enter` is the only place where it changes. The others (watch,
reading, sending, receiving) only fill queues and counters that a report takes a picture of.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from i2node import log
from i2node.config import Config
from i2node.errors import Halt, I2Error, SafetyStop, SessionError, UsageError, still_away
from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.spill import IN_MEMORY
from i2node.fs.touch import Touch
from i2node.fs.tree import within
from i2node.fs.watch import Watch
from i2node.model import TRANSITIONS, MirrorOptions, State, show
from i2node.net.identity import Identity
from i2node.net.transport import connect, open_stream
from i2node.repl.backlog import Backlog
from i2node.repl.binding import Binding
from i2node.repl.census import Census
from i2node.repl.delta import Basis
from i2node.repl.embedded import EmbeddedAgent
from i2node.repl.explain import Rooms, explain
from i2node.repl.heartbeat import Heartbeat
from i2node.repl.history import History
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader
from i2node.repl.life import plain
from i2node.repl.pace import Pace
from i2node.repl.patience import Patience
from i2node.repl.planner import Planner
from i2node.repl.progress import Progress
from i2node.repl.remote import Remote
from i2node.repl.report import Fidelity, Outcome, RuleReport, WatchReport
from i2node.repl.rounds import DRAIN_S, Rounds
from i2node.repl.rules import keep, lock_rule, place_of, rule_home, rule_id
from i2node.repl.sender import Sender
from i2node.repl.told import Fault
from i2node.repl.trouble import Troubles
from i2node.repl.vigil import Vigil, armed

_log = logging.getLogger(__name__)

ONCE_PASSES = 3


class Session:
    """One rule on this host. `run` once, from one thread; `report` and `stop` from any."""

    def __init__(self, config: Config, options: MirrorOptions, identity: Identity) -> None:
        self.config = config
        self.options = options
        self.identity = identity
        source = os.path.realpath(os.fsencode(options.source))
        if not os.path.isdir(source):
            raise UsageError(f"{show(source)} is not a directory", "name the directory to mirror")
        self.paths = PathSet(source, options.excludes)
        self.rule = rule_id(identity.node_id, source, place_of(options))
        for path in self.paths.outside:
            log.event(_log, logging.WARNING, "exclude-outside", rule=self.rule, path=show(path))
        self._source = source
        self._dirty = Dirty(in_memory=IN_MEMORY)
        self._heartbeat = Heartbeat()
        self._stop = threading.Event()
        self._pace = Pace(options.bwlimit, self._stop)
        self.on_state: Callable[[], None] = lambda: None
        """Called when the state has changed, by the thread of `run`."""
        self._state = State.UNKNOWN
        self._phase = "start"
        self._since = time.time()
        self._cause: I2Error | None = None
        self._blocked = ""
        self._troubles = Troubles(self._dirty.wake)
        self._left = False
        self._history = History()
        those = (self._dirty, self._troubles, self._heartbeat, self._stop, self._history)
        self._rounds = Rounds(self.rule, *those)
        self._walked = False
        self._binding: Binding | None = None
        self._progress = Progress()
        self._started = time.monotonic()
        self._watch: Watch | None = None
        self._vigil: Vigil | None = None
        self._planner: Planner | None = None
        self._sender: Sender | None = None

    # ------------------------------------------------------------------ from any thread

    def stop(self) -> None:
        """Asks `run` to bring what is under way to the target and to return."""
        self._stop.set()
        self._dirty.hurry()

    def limit(self, plan: str) -> None:
        """Another bandwidth plan holds from now on. UsageError when it is none."""
        self._pace.limit(plan)

    def report(self) -> RuleReport:
        """The picture of this moment."""
        planner, sender = self._planner, self._sender
        # In the order in which work goes on, so that none is passed over on its way.
        beside = len(sender.large.scouted()) if sender else 0
        dirty, busy_since, waiting = (
            self._dirty.count(),
            self._rounds.busy_since,
            self._troubles.waiting,
        )
        flow = sender.flow() if sender else None
        counts = self._progress.counts(planner, flow)
        in_flight = flow.in_flight if flow else 0
        watch = self._vigil.reports() if self._vigil else WatchReport()
        clock = time.monotonic()
        oldest = flow.oldest if flow else None
        ages = [clock - t for t in (oldest, busy_since) if t is not None]
        if dirty:
            ages.append(self._dirty.oldest(clock))
        if watch.lost_since is not None:
            ages.append(time.time() - watch.lost_since)
        lag = self._heartbeat.lag(clock, max(ages, default=None))
        error = self._cause
        problems = self._troubles.shown()
        return RuleReport(
            rule=self.rule,
            source=show(self._source),
            target=str(self.options.target),
            state=self._state,
            phase=self._phase,
            pid=os.getpid(),
            since=self._since,
            **asdict(counts),
            dirty=dirty,
            in_flight=in_flight,
            lag_s=None if lag is None else round(lag, 3),
            durable_as_of=self._heartbeat.durable_as_of,
            in_sync=self._state == State.REPLICATION
            and not dirty
            and not in_flight
            and not beside
            and busy_since is None
            and not waiting
            and not problems.count
            and self._heartbeat.sound(clock)
            and watch.coverage >= 1.0
            and watch.lost_since is None,
            assumed=self._binding.assumed if self._binding else "",
            watch=watch,
            last_compare=self._binding.last_compare if self._binding else None,
            mounts=tuple(map(show, planner.mounts)) if planner else (),
            fidelity=self._binding.fidelity if self._binding else Fidelity(),
            problems=problems,
            last_error=error.code if error else "",
            cause=error.cause if error else "",
            remedy=error.remedy if error else "",
            blocked_on=Pace.BLOCKED if self._pace.waits else self._blocked,
        )

    def explain(self, path: bytes) -> dict[str, Any] | None:
        """The life of an absolute path without symlinks above it, plain data (life.py); None: it
        is not below the source. SessionError while there is no journal to read."""
        if not within(path, self._source):
            return None
        binding = self._binding
        if binding is None:
            raise SessionError(f"the rule {self.rule} is only beginning", "ask again in a moment")
        rooms = Rooms(
            self._source,
            binding.root.identity.ino,
            self.options.owners,
            *(self.paths, self._dirty, self._rounds, self._troubles, self._history),
            binding.journal,
            *(self._sender, self._planner),
        )
        below = path[len(self._source) :].lstrip(b"/")
        return plain(explain(rooms, below, self.report()))

    # ------------------------------------------------------------------ the run

    def run(self) -> Outcome:
        """Until done (`once`), stopped, or halted. Raises Halt, and with `once` the SessionError
        that outlasted patience."""
        with ExitStack() as held:
            home = rule_home(self.config.var, self.rule)
            lock_rule(home, held)
            root = Root(self._source, self.options.owners)
            held.callback(root.close)
            journal = Journal(home / "index.db")
            held.callback(journal.close)
            keep(home, self.options, journal)
            backlog = Backlog(home / "backlog.db", root.identity.ino)
            self._dirty.spill_to(held.enter_context(closing(backlog)))
            try:
                binding = Binding(self.rule, self.options, self.paths, root, journal)
                self._binding = binding
                self._attempts(binding)
            except Halt as error:
                self._enter(State.STOP, "halted", error)
                raise
            finally:
                self._end_watch()
        return self._outcome()

    def _attempts(self, binding: Binding) -> None:
        patience = Patience()
        agent: EmbeddedAgent | None = None
        try:
            while not self._stop.is_set():
                applied = self._progress.before.files_applied
                try:
                    if self.options.target.host is None and (agent is None or not agent.alive()):
                        if agent is not None:
                            agent.close()
                        agent = EmbeddedAgent(self.config.etc.parent, self.options.target.path)
                    self._try(binding, agent)
                    return
                except SessionError as failed:
                    error = still_away(self._cause, failed)
                    if self._stop.is_set():
                        break
                    patience.failed(moved=self._progress.before.files_applied > applied)
                    known = self._progress.before.bytes_sent > 0
                    if self.options.once and patience.over(known):
                        self._enter(State.EXCEPTION, "gave up", error)
                        raise
                    self._enter(State.EXCEPTION, "retry", error)
                    self._stop.wait(patience.pause())
                    if not self._stop.is_set() and patience.failures > 1:
                        self._enter(State.STALE, "retry", error)
            # Stopped without a target: what it does not have stays in the journal as in doubt.
            self._left = True
            self._enter(State.M_STOP, "stopped", self._cause)
        finally:
            if agent is not None:
                agent.close()

    def _try(self, binding: Binding, agent: EmbeddedAgent | None) -> None:
        try:
            self._attempt(binding, agent)
        except OSError as error:
            raise SessionError(f"a call to this host's kernel failed: {error}") from error

    def _attempt(self, binding: Binding, agent: EmbeddedAgent | None) -> None:
        """One connection, from hello to bye."""
        self._phase = "connect"
        if self._watch is not None and self._watch.failure is not None:
            # Begun anew, and with it the walk, which finds what it did not tell.
            self._end_watch()
            self._watch = self._vigil = None
            self._walked = False
        root, journal = binding.root, binding.journal
        with ExitStack() as held:
            target = self.options.target
            host, port = (target.host, target.port) if agent is None else ("127.0.0.1", agent.port)
            assert host is not None
            expected = self.identity.node_id if agent else self.options.peer or None
            channel = connect(host, port, self.identity, expected, beat=self.config.heartbeat_s)
            remote = held.enter_context(Remote(channel))
            self._walked, parts = binding.open(remote, self._walked)
            if not self._walked:
                self._heartbeat.forget()
            secret = self.options.secret_key or b""
            remote.stream(0, self.options.encrypt, secret)
            stream = open_stream(channel, 0)
            sealer = stream.sealer(
                level=self.options.compress,
                encrypt=self.options.encrypt,
                rule_secret=secret,
            )
            large = LargeReader(root, journal, parts, lambda path: self._ask(remote, path))
            large.again = self._looked_through
            large.since = self._dirty.since
            sender = Sender(
                root,
                journal,
                stream,
                sealer,
                large,
                small_max=self.config.small_file_max,
                frame_bytes=self.config.frame_bytes,
                window=self.config.window_bytes,
                pace=self._pace.take,
                again=self._again,
                trouble=self._troubles.unreadable,
                strayed=self._troubles.strayed,
                took=lambda ino, name, s: self._dirty.cost(ino, name, s, time.monotonic()),
                history=self._history,
            )
            held.callback(self._detach)
            held.callback(sender.close)
            self._history.begin()
            self._sender = sender
            remote.on_applied = self._unblocked(sender.applied)
            remote.on_durable = lambda seq: self._durable(sender, seq)
            remote.on_faults = lambda seq, faults: self._faulted(sender, seq, faults)
            remote.on_stalled = self._stalled
            remote.on_lost = sender.fail
            sender.line.on_fail = self._dirty.wake
            planner = self._plan(binding, sender, remote)
            self._replicate(binding, planner, sender, remote)
            remote.bye()

    def _plan(self, binding: Binding, sender: Sender, remote: Remote) -> Planner:
        root, journal = binding.root, binding.journal
        if self._watch is None and not self.options.once:
            those = (root, journal, self.paths, self._dirty, self.config)
            self._watch, self._vigil = armed(*those, lambda: self._state == State.REPLICATION)
        planner = Planner(
            *(root, journal, sender, self.paths, self._dirty, self._watch, remote.probe),
            *(self._troubles.unreadable, self.config.small_file_max, self.config.frame_bytes),
            self._vigil,
        )
        planner.mounts = self._planner.mounts if self._planner else ()
        planner.emitter.may_empty = self.options.adopt and not self._walked
        planner.assumed.skip = binding.assumed
        journal.new_session()
        planner.belief.in_doubt = {ino for ino, _ in journal.doubts()}
        planner.belief.all_in_doubt = bool(binding.compare)
        planner.belief.strict = binding.compare == "strict"
        self._planner = planner
        return planner

    def _end_watch(self) -> None:
        if self._watch is not None and self._vigil is not None:
            self._vigil.close()
            self._watch.close()

    def _replicate(
        self, binding: Binding, planner: Planner, sender: Sender, remote: Remote
    ) -> None:
        """The walk, if it is still to be done, then live rounds."""
        if self._walked:
            for ino in planner.belief.in_doubt:
                self._dirty.add_dir(ino, False, time.monotonic())
        else:
            self._mirror(binding, planner, sender)
        if self._stop.is_set():
            sender.wait_drained(DRAIN_S)
            self._enter(State.M_STOP, "stopped")
            return
        if self.options.once:
            if self.options.whole is not None:
                remote.complete()
            self._enter(State.FINISH, "done")
            return
        self._enter(State.REPLICATION, "live")
        assert self._watch is not None
        self._rounds.run(binding.root, self._watch, planner, sender)
        self._left = self._rounds.left
        self._enter(State.M_STOP, "stopped")

    def _mirror(self, binding: Binding, planner: Planner, sender: Sender) -> None:
        self._enter(State.MIRROR, "mirror")
        self._history.walking = True
        root = binding.root
        census = None if binding.mirrored else Census(root, self.paths, self._stop.is_set)
        self._progress.begin(census)
        for attempt in range(ONCE_PASSES):
            planner.examined_files = planner.examined_bytes = 0
            self._troubles.forgive()
            planner.start_walk(first=not binding.mirrored)
            if not planner.walk(self._stopped):
                break
            planner.belief.all_in_doubt = False
            self._wait(sender)
            self._troubles.settle(planner)
            if not self.options.once or not self._dirty.count():
                break
            if attempt + 1 == ONCE_PASSES:
                self._troubles.unsettled(planner, self._dirty.take(1 << 30, math.inf))
            self._dirty.take(1 << 30, math.inf)
        if census is not None:
            census.join()
        if not self._stopped():
            self._enter(State.SWITCH, "settle")
            self._wait(sender)
            self._walked, self._history.walking = True, False
            self._progress.walked(planner)
            planner.emitter.may_empty = False
            for path in planner.mounts:
                log.event(_log, logging.WARNING, "mount-left-out", rule=self.rule, path=show(path))
            binding.walked(self._troubles.shown().count)

    # ------------------------------------------------------------------ state

    def _enter(self, state: State, phase: str, error: I2Error | None = None) -> None:
        """The one place where the state changes."""
        self._phase = phase
        self._cause = error
        if state == self._state:
            return
        if state not in TRANSITIONS[self._state]:
            raise AssertionError(f"no way from {self._state} to {state}")
        self._state, self._since = state, time.time()
        fields = self._rounds.standing()
        if error:
            fields |= {"cause": error.cause, "remedy": error.remedy}
        level = logging.WARNING if error else logging.INFO
        log.event(_log, level, "rule-state", rule=self.rule, state=state.value, **fields)
        self.on_state()

    def _stopped(self) -> bool:
        first = self._troubles.first if self.options.strict_source else None
        if first is not None and not (self._binding and self._binding.mirrored):
            raise SafetyStop(
                f"{first.path} {first.cause}, and the first pass of this rule is to stop at that",
                first.remedy or "make it readable, or leave it out; then start the rule again",
            )
        return self._stop.is_set()

    def _wait(self, sender: Sender) -> None:
        while not sender.wait_drained(0.5):
            if self._stopped():
                sender.wait_drained(DRAIN_S)
                return

    def _detach(self) -> None:
        """After an attempt."""
        sender, self._sender = self._sender, None
        if sender is not None:
            self._progress.end(sender.flow())
            self._history.cut()
        self._blocked = ""

    def _outcome(self) -> Outcome:
        report, sent = self.report(), self._progress.before
        problems = self._troubles.kept()
        return Outcome(
            exit_status=1 if problems.count else 0,
            problem_count=problems.count,
            problems=problems.first,
            files=report.files_total,
            changed=sent.files_applied,
            bytes_read=sent.bytes_applied,
            bytes_sent=sent.bytes_sent,
            elapsed_s=time.monotonic() - self._started,
            in_sync=not problems.count
            and self._state in (State.FINISH, State.M_STOP)
            and self._walked
            and not self._left
            and not self._dirty.count(),
        )

    # ------------------------------------------------------------------ told by the other threads

    def _ask(self, remote: Remote, path: bytes) -> Basis | None:
        assert self._sender is not None
        self._sender.wait_applied()
        return remote.sign(path)

    def _again(self, ino: int, name: bytes, sent: bool) -> None:
        """A name changed while it was read. Where it was sent, only what came since is missing."""
        now = time.monotonic()
        if sent:
            self._dirty.add_all([(ino, name, Touch.DATA)], now)
        else:
            self._dirty.add(ino, name, Touch.DATA, now)

    def _looked_through(self, ino: int, name: bytes, since: float) -> None:
        self._dirty.add(ino, name, Touch.DATA, time.monotonic(), since)

    def _durable(self, sender: Sender, seq: int) -> None:
        sender.durable(seq)
        self._heartbeat.durable(seq, time.monotonic())

    def _unblocked(self, applied: Callable[[int, bool], None]) -> Callable[[int, bool], None]:
        def told(seq: int, waits: bool) -> None:
            self._blocked = ""
            applied(seq, waits)

        return told

    def _faulted(self, sender: Sender, seq: int, faults: list[Fault]) -> None:
        failed = self._troubles.unsplit(faults)
        sender.faulted(seq, faults, sound=not failed)
        self._troubles.faulted(failed)

    def _stalled(self, cause: str, remedy: str) -> None:
        """The target's disk refuses; the target keeps trying, and so the session goes on."""
        if not self._blocked:
            log.event(_log, logging.WARNING, "target-stalled", rule=self.rule, cause=cause)
        self._blocked = f"target: {cause}" + (f" ({remedy})" if remedy else "")
