"""One host's agent: listens, and serves the sources that may keep mirrors here."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

from i2node import log
from i2node.config import Config
from i2node.errors import I2Error
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.listener import Listener
from i2node.repl.ledger import Ledger
from i2node.repl.mend import mend_all
from i2node.repl.receiver import Receiver

_log = logging.getLogger(__name__)


class Daemon:
    """The agent of a home. `run` returns when it is stopped, or, embedded, when stdin ends."""

    def __init__(self, config: Config, identity: Identity, embedded: bool = False) -> None:
        self.config = config
        self.identity = identity
        self.embedded = embedded
        self.ledger = Ledger(config.var / "targets")

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
            listener.close()

    def _serve(self, channel: Channel) -> None:
        try:
            config = self.config
            Receiver(
                channel, self.ledger, config.var, config.allow_roots, config.checkpoint_s
            ).run()
        except I2Error as error:
            log.event(
                _log, logging.WARNING, "session-failed", cause=error.cause, remedy=error.remedy
            )
