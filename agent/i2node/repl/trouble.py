"""Paths in trouble: told by the threads that meet them, tried again by the thread that plans.

A path that the source cannot read is a problem. So is one where the target could not do a step; its
directory is then in doubt too, since the target does not hold what was written down. A stray is a
step that was read from another directory than was meant: no problem, but a doubt.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from i2node import log
from i2node.fs.sweep import Name
from i2node.fs.touch import Work
from i2node.fs.tree import remedy_for
from i2node.model import show
from i2node.mover.batch import At, Op
from i2node.repl.plan import join
from i2node.repl.planner import Planner
from i2node.repl.report import PathProblem, Problems
from i2node.repl.told import Fault

_log = logging.getLogger(__name__)

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between the trials of paths in trouble."""
KEPT = 1000
"""Problems that are kept with their path; beyond it they are counted, and found again by looking at
everything."""
TOLD_APART = 65_536
"""Of so many of those it is known that they were counted; each of more counts as often as it is
told, until it is looked for again."""
SHOWN = 10

_REMEDIES = {
    errno.EACCES: "run the agent of the source as root, or give it access",
    errno.EPERM: "run the agent of the source as root, or give it access",
    errno.EIO: "look at the kernel log of the source for disk errors",
    errno.EBADMSG: "check the source's file system (fsck)",
    errno.EUCLEAN: "check the source's file system (fsck)",
    errno.EXDEV: "unmount what is mounted there on the source",
    errno.ENOTCONN: "unmount what is mounted there on the source, or leave it out",
    errno.EMFILE: "raise the limit of open files of the source's agent",
    errno.ENFILE: "raise fs.file-max on the source",
    errno.ENOMEM: "free memory on the source",
    errno.EOVERFLOW: "leave it out: a file has at most 256 TiB, its holes counted",
}
"""Against what keeps the source from being read; it is tried again by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    problem: PathProblem
    place: Name | None


class Troubles:
    """Of one rule. wake() is called when there is something to `settle`."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._problems: dict[bytes, _Kept] = {}
        self._beyond: set[int] = set()  # hashes of paths that are counted and not kept
        self._count = 0
        self.first: PathProblem | None = None
        """The first path that the source could not read in this pass."""
        self._split: dict[bytes, None] = {}
        self._faults: deque[Fault] = deque()
        self._strays: deque[bytes] = deque()
        self._retries = 0
        self._retry_at: float | None = None

    # ------------------------------------------------------------------ told, by any thread

    def problem(self, path: bytes, cause: str, remedy: str, place: Name | None = None) -> None:
        """place: where it is met again, whatever its path is by then."""
        with self._lock:
            if path not in self._problems:
                self._count += hash(path) not in self._beyond
                if self._retry_at is None:
                    self._retry_at = time.monotonic() + self._wait()
                    self._wake()
                if len(self._problems) >= KEPT:
                    if len(self._beyond) < TOLD_APART:
                        self._beyond.add(hash(path))
                    return
            self._problems[path] = _Kept(PathProblem(show(path), cause, remedy), place)

    def unreadable(self, path: bytes, status: int, place: Name) -> None:
        """place: its directory and its name there, or a directory and nothing: that one."""
        cause, remedy = f"cannot be read: {os.strerror(status)}", _REMEDIES.get(status, "")
        self.first = self.first or PathProblem(show(path), cause, remedy)
        self.problem(path, cause, remedy, place)

    def faulted(self, faults: list[Fault]) -> None:
        """Steps that the target could not do."""
        self._faults.extend(faults)
        self._wake()

    def unsplit(self, faults: list[Fault]) -> list[Fault]:
        """Takes note of the files that have more names than the target lets one have; the others
        failed."""
        for fault in faults:
            if fault.at == At.LINKS and len(self._split) < KEPT and fault.path not in self._split:
                self._split[fault.path] = None
                log.event(_log, logging.WARNING, "links-split", path=show(fault.path))
        return [fault for fault in faults if fault.at != At.LINKS]

    def strayed(self, path: bytes) -> None:
        self._strays.append(path)
        self._wake()

    # ------------------------------------------------------------------ shown

    @property
    def waiting(self) -> bool:
        """Whether there is something to `settle`."""
        return bool(self._faults or self._strays)

    def shown(self) -> Problems:
        with self._lock:
            first = islice(self._problems.values(), SHOWN)
            split = islice(list(self._split), SHOWN)
            return Problems(
                self._count, tuple(kept.problem for kept in first), tuple(map(show, split))
            )

    def of(self, path: bytes) -> PathProblem | None:
        """The problem of a path, if it is among those that are kept."""
        with self._lock:
            kept = self._problems.get(path)
            return None if kept is None else kept.problem

    def kept(self) -> Problems:
        """With all that are kept."""
        with self._lock:
            return Problems(self._count, tuple(k.problem for k in self._problems.values()))

    # ------------------------------------------------------------------ by the planning thread

    def retry_at(self) -> float:
        """Clock reading from which on `retry` has something to do; inf when it has not."""
        return math.inf if self._retry_at is None else self._retry_at

    def forgive(self) -> None:
        """Problems of an earlier pass are found again in this one, or are none any more."""
        with self._lock:
            self._problems.clear()
            self._beyond.clear()
            self._count = 0
            self.first = None

    def unsettled(self, planner: Planner, works: list[Work]) -> None:
        """What still changed in the last pass of a mirror that ends by itself is not as the source
        has it. A whole directory is among that because something failed in it, which is told."""
        for work in works:
            directory = planner.journal.path(work.ino, planner.root.identity.ino)
            for name in work.names or ():
                self.problem(
                    join(directory or b"", name),
                    "changed while it was read, in each pass",
                    "run again when it is quiet, or replicate without --once",
                )

    def settle(self, planner: Planner) -> None:
        """A step that failed leaves its directory in doubt: it is asked for and compared again, now
        or, where it failed before, when its problem is tried again."""
        while self._strays:
            planner.belief.doubt(self._strays[0], ancestors=False)
            self._strays.popleft()
        while self._faults:
            fault = self._faults[0]
            again = self._retries > 0 or fault.path in self._problems
            what = Op(fault.op).name.lower().replace("_", " ")
            where = At(fault.at).name.lower()
            self.problem(
                fault.path,
                f"{what} failed at {where}: {os.strerror(fault.status)}",
                remedy_for(fault.status),
            )
            for path in (fault.path, fault.other) if fault.other else (fault.path,):
                missing = fault.status in (errno.ENOENT, errno.ENOTDIR)
                planner.belief.doubt(path, ancestors=missing, look=not again)
            self._faults.popleft()

    def retry(self, planner: Planner) -> None:
        """Paths in trouble are tried again now and then; what works is no problem any more."""
        if self._retry_at is None or time.monotonic() < self._retry_at:
            return
        with self._lock:
            tried, beyond = dict(self._problems), self._count - len(self._problems)
            self._beyond.clear()
        # First dirty, then forgiven: in between it must not look as if all were well.
        for path, kept in tried.items():
            planner.retry(path, kept.place)
        if beyond:
            planner.retry_all()
        planner.retry_doubts()
        with self._lock:
            # What was told meanwhile stays.
            for path, kept in tried.items():
                if self._problems.get(path) is kept:
                    del self._problems[path]
                    self._count -= 1
            self._count -= beyond
            self._retries = self._retries + 1 if tried else 0
            # Looked at once more after that: nothing new by then, and the count begins anew.
            again = self._retries or self._problems
            self._retry_at = time.monotonic() + self._wait() if again else None

    def _wait(self) -> float:
        return RETRY_S[min(self._retries, len(RETRY_S) - 1)]
