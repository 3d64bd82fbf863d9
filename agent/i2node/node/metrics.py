"""What this agent serves for Prometheus, where its configuration has a port for that."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from i2node import log
from i2node.net.listener import Statistics
from i2node.node import rpc

if TYPE_CHECKING:
    from i2node.net.exposition import Exposition

_log = logging.getLogger(__name__)

ANSWER_S = 1.0
"""How long each process of the home is waited for; who scrapes waits 10 s by default."""


class Metrics:
    """On a port of the loopback address until `close`; port 0: not at all. UsageError: the port
    cannot be had.

    run: the directory of the status sockets; statistics: of the agent's listener.
    """

    def __init__(self, port: int, run: Path, statistics: Callable[[], Statistics]) -> None:
        self._run = run
        self._statistics = statistics
        self._port = 0
        self._exposition: Exposition | None = None
        self.move(port)

    def move(self, port: int) -> None:
        """Serves there from now on. UsageError: that port cannot be had, and nothing changes."""
        if port == self._port:
            return
        opened = self._open(port) if port else None
        self.close()
        self._port, self._exposition = port, opened

    def close(self) -> None:
        """The port is free again."""
        if self._exposition is not None:
            self._exposition.close()
        self._port, self._exposition = 0, None

    def _open(self, port: int) -> Exposition:
        # Here, since few have it: it takes 35 ms and 2 MiB of each agent, also of embedded ones.
        from i2node.net.exposition import HOST, Exposition
        from i2node.node.families import page_of, registry_of

        registry = registry_of(lambda: rpc.status(self._run, ANSWER_S), self._statistics)
        asked = threading.Lock()

        def page(accepted: str) -> tuple[str, bytes]:
            with asked:  # many clients are no reason to ask the processes at the same time
                return page_of(registry, accepted)

        opened = Exposition(port, page)
        log.event(_log, logging.INFO, "metrics-served", host=HOST, port=port)
        return opened
