"""One host's agent: listens, and serves the sources that may keep mirrors here."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from i2node import log
from i2node.config import Config
from i2node.errors import I2Error, UsageError
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.listener import Listener
from i2node.node.rpc import StatusServer, Verb
from i2node.repl.budget import Budget, Budgets
from i2node.repl.ledger import Ledger
from i2node.repl.mend import mend_all
from i2node.repl.receiver import Receiver
from i2node.repl.report import plain

_log = logging.getLogger(__name__)


class Daemon:
    """The agent of a home. `run` returns when it is stopped, or, embedded, when stdin ends."""

    def __init__(self, config: Config, identity: Identity, embedded: bool = False) -> None:
        self.config = config
        self.identity = identity
        self.embedded = embedded
        self.ledger = Ledger(config.var / "targets")
        self.budgets = Budgets(self.ledger, config.limits)

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT (as the caller has arranged) or the end of stdin."""
        mend_all(self.ledger, self.config.var, self.config.allow_roots)
        listener = Listener(
            self.config.listen_host,
            self.config.listen_port,
            self.identity,
            on_channel=self._serve,
        )
        listener.start()
        server = StatusServer(self.config.run, self._verbs())
        try:
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
                threading.Event().wait()
        finally:
            server.close()
            listener.close()

    def _verbs(self) -> Mapping[str, Verb]:
        """What the status socket answers. An embedded agent tells of no rules: its source does, in
        the same home."""
        return {
            "status": lambda _: [] if self.embedded else list(map(plain, self.budgets.reports())),
            "release": lambda question: self._held(question).release(),
            "refuse": lambda question: self._held(question).refuse(),
        }

    def _held(self, question: Mapping[str, Any]) -> Budget:
        rule = question.get("rule")
        budget = self.budgets.of(rule) if isinstance(rule, str) else None
        if budget is None:
            raise UsageError(f"no source of rule {rule!r} is connected here", "see: i2node status")
        return budget

    def _serve(self, channel: Channel) -> None:
        try:
            config = self.config
            Receiver(
                *(channel, self.ledger, config.var, config.allow_roots, config.checkpoint_s),
                own=(config.etc, config.var),
                budgets=self.budgets,
            ).run()
        except I2Error as error:
            log.event(
                _log, logging.WARNING, "session-failed", cause=error.cause, remedy=error.remedy
            )
