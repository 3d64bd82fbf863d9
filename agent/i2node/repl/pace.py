"""How fast a rule sends: its bandwidth plan, which may change while it runs."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime

from i2node.net.throttle import Bucket, parse_plan


class Pace:
    """Of one rule, over all its attempts; any thread. stop: ends every wait."""

    BLOCKED = "bandwidth plan"

    def __init__(self, plan: str, stop: threading.Event) -> None:
        """UsageError when the plan is none."""
        self._plan = parse_plan(plan)
        self._stop = stop
        self._bucket = Bucket(lambda: self._plan.rate_at(datetime.now()), time.monotonic)
        self.waits = False
        """Whether a sender is held up by the plan now."""

    def limit(self, plan: str) -> None:
        """Another plan holds from now on, for who waits now as well within a second. UsageError
        when it is none."""
        self._plan = parse_plan(plan)

    def take(self, size: int) -> None:
        """Returns when so many bytes may be sent, or when the rule is stopped."""
        try:
            while (wait := self._bucket.take(size)) > 0 and not self._stop.is_set():
                self.waits = True
                if math.isinf(wait):
                    self._stop.wait(1.0)
                    continue
                self._owe(wait)
                break
        finally:
            self.waits = False

    def _owe(self, wait: float) -> None:
        """Waits as long as what was taken costs; under another plan, by that one's measure."""
        plan, until = self._plan, time.monotonic() + wait
        while (left := until - time.monotonic()) > 0 and self._plan is plan:
            if self._stop.wait(min(left, 1.0)):
                return
