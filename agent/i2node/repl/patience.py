"""How long a rule keeps trying when its attempts fail."""

from __future__ import annotations

import time

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ONCE_S = 60.0
"""How long a mirror that is to end by itself keeps trying to reach a peer it once had."""
STRANGER_S = 3.0
"""The same of a peer that never answered: that one is given up soon."""


class Patience:
    """Of one rule, told of each attempt that failed."""

    def __init__(self) -> None:
        self.failures = 0
        self._lost_at: float | None = None

    def failed(self, moved: bool) -> None:
        """An attempt is over; moved: it brought something to the target."""
        if moved:
            self.failures, self._lost_at = 0, None
        self._lost_at = self._lost_at or time.monotonic()

    def over(self, known: bool) -> bool:
        """Whether a mirror that is to end by itself gives up. known: the peer was there once."""
        assert self._lost_at is not None
        return time.monotonic() - self._lost_at > (ONCE_S if known else STRANGER_S)

    def pause(self) -> float:
        """Seconds until the next attempt."""
        self.failures += 1
        return BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]
