"""Trials: the disk of the target gives errors, and then no more."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from ends import NotSettledError, until
from ground import Ground
from kills import Trial
from machine import Disk
from shortages import cause_of


def disk_errors(ground: Ground, disk: Disk, reads: bool, rng: random.Random) -> Trial:
    """Writes fail, or reads as well, until the status tells of it. A file system that has shut
    itself down over it is unmounted and mounted, as nothing else helps one, and the rule is started
    if it stopped; else nobody does anything."""
    hosts = ground.hosts
    disk.ask("fail", reads=reads, writes=True)
    try:
        ground.stir(rng)
        until("the status to tell", lambda: bool(cause_of(hosts.report())))
        report = hosts.report()
        wrong = ["lost: in sync, it says"] if report is None or report.in_sync else []
    finally:
        disk.ask("fail")
    try:
        until("in sync", lambda: bool((r := hosts.report()) and r.in_sync), 8.0)
    except NotSettledError:
        hosts.kill_target()
        disk.unplug()
        disk.check()
        disk.plug()
        hosts.start_target()
    wrong += ground.settled()
    # What the kernel has in memory is not what is on the disk.
    subprocess.run(["sync", "-f", str(ground.rooms)], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    wrong += [f"lost: {path!r}: {what}" for path, what in hosts.differences()]
    return Trial(True, tuple(wrong))
