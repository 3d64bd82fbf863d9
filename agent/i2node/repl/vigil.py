"""The thread that looks after what raises no event: mounts, the sweep, the slow sweep."""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from i2node import log
from i2node.config import Config
from i2node.fs.coalesce import Dirty
from i2node.fs.engine import watch_tree
from i2node.fs.mounts import Mounts, is_shared
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.sweep import Name, Sweep
from i2node.fs.watch import Watch
from i2node.model import show
from i2node.mover import listing
from i2node.repl.journal import Journal
from i2node.repl.outside import Outside
from i2node.repl.patrol import Patrol
from i2node.repl.report import WatchReport

_log = logging.getLogger(__name__)

_CPU = 0.01  # of one core, for the sweep
_COUNT_CPU = 0.05  # for counting names, which is done but once
_ALL_PROCESSES = 0xEFFFFFFC
"""Inode number of the first namespace of processes (linux/proc_ns.h): from any other one those
outside are not seen."""


def armed(
    root: Root,
    journal: Journal,
    paths: PathSet,
    dirty: Dirty,
    config: Config,
    active: Callable[[], bool],
) -> tuple[Watch, Vigil]:
    """A watch of the source and who looks after the rest, both begun, or neither: it raises what
    hindered that."""
    watch = watch_tree(root, dirty, paths, config.watch, config.sweep_s)
    try:
        vigil = Vigil(root, journal, paths, dirty, watch, config, active)
    except BaseException:
        watch.close()
        raise
    watch.start()
    vigil.start()
    return watch, vigil


class Vigil:
    """Of one watch. active: see Patrol. `take`, `reach` and `reports` are for any thread."""

    def __init__(
        self,
        root: Root,
        journal: Journal,
        paths: PathSet,
        dirty: Dirty,
        watch: Watch,
        config: Config,
        active: Callable[[], bool],
    ) -> None:
        self.root = root
        self.dirty = dirty
        self.watch = watch
        self.every = config.sweep_s
        self._outside = Outside(journal)
        self._sweep = Sweep(root, paths, dirty, watch, journal.places, self._outside)
        self._patrol = Patrol(
            *(root, journal, paths, dirty, watch),
            config.small_file_max,
            config.slow_sweep_s,
            active,
        )
        self._mounts = Mounts(root.path)
        self._paths = paths
        self._overlaid = True  # until the mounts were looked at
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._interval = self.every
        self._span = 0.0  # how long one took
        self._began: float | None = None  # the last that came to its end
        self._failed = ""
        self._sees_all = _sees_all() and not is_shared(root.fd)
        self._due: dict[Callable[[], float], float] = dict.fromkeys(
            (self._remounted, self._count, self._run_sweep, self._patrol.step), time.monotonic()
        )
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._mounts.close()
            os.close(self._wake)

    def take(self) -> set[Name]:
        """See Sweep."""
        return self._sweep.take()

    def reach(self) -> float:
        """Seconds that may lie between a moment and the end of the next sweep."""
        began = self._began
        since = 0.0 if began is None else time.monotonic() - began
        return max(self._interval + self._span, since)

    def reports(self) -> WatchReport:
        """How the watch stands, with the bounds that this one gives."""
        watch = self.watch.statistics()
        slow = self._patrol.bound()
        bound: float | None = self.reach()
        unplaced = watch.unplaced_s is not None and watch.unplaced_s < (slow or math.inf)
        if self._began is None or self._failed or not self._outside.counted:
            bound = None
        elif self._outside.many or self._overlaid or not self._sees_all or unplaced:
            bound = slow
        if bound is not None and watch.unwatched_s is not None:
            bound = max(bound, watch.unwatched_s)
        return WatchReport(
            watch.engine,
            watch.coverage,
            watch.overflows,
            bound,
            slow_sweep_s=slow,
            hidden_processes=self._sweep.refused,
            instead=watch.instead,
            lost_since=watch.lost_since,
        )

    # ------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._mounts.descriptor, select.POLLPRI)
        poll.register(self._wake, select.POLLIN)
        while not self._closed:
            wait = min(self._due.values()) - time.monotonic()
            told = poll.poll(None if math.isinf(wait) else max(0.0, wait) * 1000)
            if any(fd == self._mounts.descriptor for fd, _ in told):
                self._due[self._remounted] = 0.0  # not each time: the table may be long
            for work, due in self._due.items():
                if not self._closed and due <= time.monotonic():
                    wait = self._try(work)
                    self._due[work] = time.monotonic() + wait

    def _try(self, work: Callable[[], float]) -> float:
        """What goes wrong is said once, and tried again; until then no bound is shown."""
        try:
            wait = work()
        except Exception as error:
            if not self._failed and not self._closed:
                log.event(_log, logging.WARNING, "sweep-failed", cause=repr(error))
            self._failed = work.__name__
            return self.every
        if self._failed == work.__name__:
            self._failed = ""
        return wait

    def _run_sweep(self) -> float:
        began, used = time.monotonic(), time.thread_time()
        self._sweep.run()
        self._span = time.monotonic() - began
        self._interval = max(self.every, (time.thread_time() - used) / _CPU)
        self._began = began
        return max(0.0, self._interval - self._span)

    def _count(self) -> float:
        used = time.thread_time()
        if self._outside.step():
            return self._interval
        return (time.thread_time() - used) / _COUNT_CPU

    def _remounted(self) -> float:
        """The directories that mount points stand in are compared: what is mounted is left out, and
        taken up again."""
        for path in self._mounts.changed():
            directory = path.rpartition(b"/")[0]
            answer = self.root.stat_names(directory, ())
            if not answer.status and self.watch.known(ino := listing.decode(answer.own).ino):
                log.event(_log, logging.INFO, "mounts-changed", path=show(path))
                self.dirty.add_dir(ino, False, time.monotonic())
        self._overlaid = not all(map(self._paths.excluded, self._mounts.uppers))
        return math.inf


def _sees_all() -> bool:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _ALL_PROCESSES
    except OSError:
        return False
