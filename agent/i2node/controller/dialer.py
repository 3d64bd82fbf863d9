"""Makes links, and makes them anew: each when its time has come, some at once."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from itertools import count

from i2node import log
from i2node.controller.link import Link

_log = logging.getLogger(__name__)

AT_ONCE = 32
"""Links that are being made at a time: a fleet that comes back is not met all at once."""


class Dialer:
    """Between `start` and `close`. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._later: list[tuple[float, int, Link]] = []
        self._due: list[tuple[int, int, Link]] = []
        self._numbers = count()
        self._closed = False

    def start(self) -> None:
        """Begins to dial."""
        for _ in range(AT_ONCE):
            threading.Thread(target=self._run, name="i2node-dial", daemon=True).start()

    def dial(self, link: Link, wait_s: float = 0.0) -> None:
        """The link is to be made, in so many seconds."""
        with self._changed:
            heapq.heappush(self._later, (time.monotonic() + wait_s, next(self._numbers), link))
            self._changed.notify()

    def close(self) -> None:
        """Makes no more; does not wait for those that are being made."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (link := self._next()) is not None:
            try:
                link.dial()
            except Exception:
                log.event(_log, logging.ERROR, "fault", at="dial", node=link.address.node)

    def _next(self) -> Link | None:
        """Of those whose time has come the one that failed least; None: there are to be no more.

        A host that hangs takes ten seconds, so many of them all that can be made at a time: who
        was there a moment ago does not stand in line with them.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    _, number, link = heapq.heappop(self._later)
                    heapq.heappush(self._due, (link.failures, number, link))
                if self._due:
                    link = heapq.heappop(self._due)[2]
                    if self._due:
                        self._changed.notify()
                    return link
                self._changed.wait(self._later[0][0] - now if self._later else None)
        return None
