"""How much of its time a thread waits."""

from __future__ import annotations

import time

WEIGHED_S = 0.5
"""Over how long it is weighed whether the target waits for frames, rather than they for it."""


class Idle:
    """How much of its time a thread waits: `with` it where it does. The last moments count."""

    def __init__(self) -> None:
        self.share = 1.0
        self._idle = self._all = 0.0
        self._since = self._began = time.monotonic()

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._idle += now - self._began
        self._all += now - self._since
        self._since = now
        self.share = self._idle / self._all if self._all else 1.0
        if self._all > WEIGHED_S:
            self._idle, self._all = self._idle / 2, self._all / 2
