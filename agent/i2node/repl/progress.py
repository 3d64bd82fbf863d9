"""How far a rule is, counted over all its attempts: files, bytes, rate."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from i2node.repl.census import Census
from i2node.repl.line import Flow
from i2node.repl.planner import Planner


class Rate:
    """Bytes a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, total: int) -> float:
        self._seen.append((now, total))
        while len(self._seen) > 2 and now - self._seen[0][0] > 5.0:
            self._seen.popleft()
        (then, before) = self._seen[0]
        return (total - before) / (now - then) if now - then > 0.05 else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """As in RuleReport."""

    progress: float
    files_total: int
    files_done: int
    bytes_total: int
    bytes_done: int
    bytes_sent: int
    rate: float
    eta_s: float | None
    counting: bool = False


class Progress:
    """Of one rule. before: what the attempts before this one sent; ended: how far the last of them
    came, while there is none."""

    def __init__(self) -> None:
        self.before = Flow(0, 0, 0, 0, None)
        self.ended = Flow(0, 0, 0, 0, None)
        self._census: Census | None = None
        self._walked: tuple[int, int] | None = None  # files and bytes of the last pass, once done
        self._rate = Rate()

    def begin(self, census: Census | None) -> None:
        """A pass begins. census: what counts the source, where it is not known."""
        self._census, self._walked = census, None

    def walked(self, planner: Planner) -> None:
        """It is done. What is looked at from now on is looked at again, and was counted."""
        self._census, self._walked = None, (planner.examined_files, planner.examined_bytes)

    def end(self, flow: Flow) -> None:
        """An attempt is over: its counters are added to those of the attempts before."""
        before = self.before
        self.ended = Flow(0, flow.files_applied, flow.bytes_applied, 0, None)
        self.before = Flow(
            before.bytes_sent + flow.bytes_sent,
            before.files_applied + flow.files_applied,
            before.bytes_applied + flow.bytes_applied,
            0,
            None,
        )

    def counts(self, planner: Planner | None, flow: Flow | None) -> Counts:
        """flow: of the attempt that is under way, None while there is none."""
        before, now, census = self.before, flow or self.ended, self._census
        applied = before.bytes_applied + (flow.bytes_applied if flow else 0)
        bytes_sent = before.bytes_sent + (flow.bytes_sent if flow else 0)
        rate = self._rate.at(time.monotonic(), applied)
        if self._walked is not None:
            files, content = self._walked
            return Counts(100.0, files, files, content, content, bytes_sent, rate, None)
        examined_files = planner.examined_files if planner else 0
        examined_bytes = planner.examined_bytes if planner else 0
        waiting_files = planner.draft.changed_files - now.files_applied if planner else 0
        waiting_bytes = planner.draft.changed_bytes - now.bytes_applied if planner else 0
        bytes_done = max(0, examined_bytes - max(0, waiting_bytes))
        bytes_total = max(examined_bytes, census.bytes if census else 0)
        progress = min(99.0, 100 * bytes_done / bytes_total) if bytes_total else 0.0
        return Counts(
            progress=round(progress, 1),
            files_total=max(examined_files, census.files if census else 0),
            files_done=max(0, examined_files - max(0, waiting_files)),
            bytes_total=bytes_total,
            bytes_done=bytes_done,
            bytes_sent=bytes_sent,
            rate=rate,
            eta_s=(bytes_total - bytes_done) / rate if rate else None,
            counting=census is None or not census.complete,
        )
