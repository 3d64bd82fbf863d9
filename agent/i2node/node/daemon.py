"""One host's agent: listens, serves the sources that may keep mirrors here, and runs the rules that
the controller wants."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from i2node import log
from i2node.config import OF_SESSIONS, Config
from i2node.errors import I2Error, UsageError
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.listener import Listener
from i2node.net.notify import Manager
from i2node.node import inventory
from i2node.node.charges import Charges
from i2node.node.govern import Governor
from i2node.node.grants import Grants
from i2node.node.metrics import Metrics
from i2node.node.rpc import StatusServer, Verb, path_of
from i2node.repl.budget import Budget, Budgets
from i2node.repl.ledger import Ledger
from i2node.repl.mend import mend_all
from i2node.repl.receiver import Receiver
from i2node.repl.report import RuleReport, plain

_log = logging.getLogger(__name__)


class Daemon:
    """The agent of a home. `run` returns when it is stopped, or, embedded, when stdin ends."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        embedded: bool = False,
        manager: Manager | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        """reread: gives the configuration anew, for `reload`; UsageError when it is wrong."""
        self.config = config
        self.identity = identity
        self.embedded = embedded
        self.manager = manager or Manager()
        self.ledger = Ledger(config.var / "targets")
        self.budgets = Budgets(self.ledger, config.limits)
        self.grants = Grants(config, identity, self.ledger, self.budgets)
        self.charges = Charges(self.grants)
        grants = self.grants
        own = {"wipe": grants.wipe, "release": grants.release, "refuse": grants.refuse}
        self._asked: Mapping[str, Verb] = {**inventory.verbs(config), **own}
        """What a controller may ask."""
        self._reread = reread or (lambda: config)
        self._stale = False

    def reload(self) -> None:
        """The configuration is to be read again, soon. For a handler of signals."""
        self._stale = True

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT (as the caller has arranged) or the end of stdin."""
        if not self.embedded:
            self.charges.read()
        mend_all(self.ledger, self.config.var, self.grants.all_roots())
        listener = Listener(
            self.config.listen_host,
            self.config.listen_port,
            self.identity,
            on_channel=self._serve,
        )
        listener.start()
        port = 0 if self.embedded else self.config.metrics_port
        metrics = Metrics(port, self.config.run, listener.statistics)
        server = StatusServer(self.config.run, self._verbs())
        untold = self.manager.keep_told(lambda: self._summary(listener.port))
        try:
            if not self.embedded:
                self.charges.start()
            if self.embedded:
                print(json.dumps({"port": listener.port}), flush=True)
                while os.read(sys.stdin.fileno(), 4096):
                    pass
            else:
                log.event(
                    _log,
                    logging.INFO,
                    "agent-listens",
                    host=self.config.listen_host,
                    port=listener.port,
                    node=self.identity.node_id,
                    roots=",".join(map(str, self.config.allow_roots)) or None,
                )
                self.manager.ready(self._summary(listener.port))
                until_signal(lambda: self._beat(listener, metrics), self.manager.beat_s)
        finally:
            untold()
            metrics.close()
            self.charges.close()
            server.close()
            listener.close()

    def _beat(self, listener: Listener, metrics: Metrics) -> None:
        self.manager.alive()
        if self._stale:
            self._stale = False
            self.manager.reloads()
            self._configure(listener, metrics)
            self.manager.ready(self._summary(listener.port))

    def _configure(self, listener: Listener, metrics: Metrics) -> None:
        """Takes the configuration as it is now, or goes on with the one in force; no session ends
        but those that it does not allow."""
        before = self.config
        try:
            config = self._reread()
            metrics.move(config.metrics_port)
            if _address(config) != _address(before):
                listener.move(*_address(config))
        except UsageError as error:
            with suppress(UsageError):
                metrics.move(before.metrics_port)
            why = {"cause": error.cause, "remedy": error.remedy}
            log.event(_log, logging.WARNING, "reload-refused", **why)
            return
        self.config = config
        log.start(config.log_level, config.log_format)
        self.grants.configure(config)
        self.charges.configure(config)
        changed = config.differs(before)
        told = {"changed": changed, "of_sessions": changed & OF_SESSIONS}
        listed = {name: ",".join(sorted(keys)) or None for name, keys in told.items()}
        log.event(_log, logging.INFO, "agent-reloaded", port=listener.port, **listed)

    def _verbs(self) -> Mapping[str, Verb]:
        """What the status socket answers. An embedded agent tells of no rules: its source does, in
        the same home."""
        return {
            "status": lambda _: [] if self.embedded else list(map(plain, self._reports())),
            "explain": lambda question: self.charges.explain(path_of(question)),
            "release": lambda question: self._held(question).release(),
            "refuse": lambda question: self._held(question).refuse(),
        }

    def _reports(self) -> list[RuleReport]:
        return self.charges.reports() + self.budgets.reports()

    def _summary(self, port: int) -> str:
        """A line for `systemctl status`."""
        states = Counter(str(report.state) for report in self._reports())
        told = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        return f"port {port}; rules: {told or 'none'}"

    def _held(self, question: Mapping[str, Any]) -> Budget:
        rule = question.get("rule")
        budget = self.budgets.of(rule) if isinstance(rule, str) else None
        if budget is None:
            raise UsageError(f"no source of rule {rule!r} is connected here", "see: i2node status")
        return budget

    def _serve(self, channel: Channel) -> None:
        try:
            first = None if self.embedded else _first(channel)
            kind = first["t"] if first else ""
            if kind == "govern" and channel.peer_role == "controller":
                Governor(channel, self.charges, self._asked).run()
                return
            if kind == "copy" and first:
                self.grants.copies.serve(channel, first)
                return
            self.grants.serve(self._receiver(channel), first)
        except I2Error as error:
            log.event(
                _log, logging.WARNING, "session-failed", cause=error.cause, remedy=error.remedy
            )

    def _receiver(self, channel: Channel) -> Receiver:
        config, roots = self.config, self.grants.roots(channel.peer_id)
        those = (channel, self.ledger, config.var, roots, config.checkpoint_s)
        return Receiver(*those, own=self.grants.own, budgets=self.budgets)


def _address(config: Config) -> tuple[str, int]:
    return config.listen_host, config.listen_port


def _first(channel: Channel) -> dict[str, Any] | None:
    """The message with which a channel begins; None: it ended before, as its next message tells."""
    with suppress(I2Error):
        return channel.recv(None)
    return None


def until_signal(beat: Callable[[], None] = lambda: None, every_s: float | None = None) -> None:
    """Until a handler of a signal raises; meanwhile `beat`, first at once, then each so many
    seconds and at every signal. Main thread only.

    The kernel gives a signal to any thread that comes by, also to one of the mover's; Python's
    handlers run in the main thread, which must be woken for that, and a lock would not be.
    """
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    try:
        while True:
            beat()
            poll.poll(None if every_s is None else every_s * 1000)
            with suppress(BlockingIOError):
                os.read(woken, 4096)
    finally:
        signal.set_wakeup_fd(before)
        os.close(wake)
        os.close(woken)
