"""What programs use, read from /proc: of a process with all below it, so that whoever starts others
for its work (lsyncd an rsync each time) is charged for them as well."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FIRST_FIELD = 3  # of proc(5)'s stat, counted from 1, that follows the command


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds since the start, those of ended children too; bytes that were read by calls, and
    that came from disks; and of what runs now: resident bytes, descriptors, threads."""

    cpu: float = 0.0
    read: int = 0
    disk_read: int = 0
    rss: int = 0
    descriptors: int = 0
    threads: int = 0


def _family(top: int) -> dict[int, list[int]]:
    """A process and all below it: process id → its numbers (`_stat`)."""
    children: dict[int, list[int]] = {}
    stats: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            stats[int(name)] = fields
            children.setdefault(fields[4 - _FIRST_FIELD], []).append(int(name))
    found: dict[int, list[int]] = {}
    left = [top]
    while left:
        pid = left.pop()
        left += children.get(pid, ())
        if pid in stats:
            found[pid] = stats[pid]
    return found


def below(top: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    return [pid for pid in _family(top) if pid != top]


def use(top: int) -> Use:
    """Of a process and all below it. A child that is waited for passes its numbers to its parent,
    so that none is lost between two readings."""
    cpu, read, disk_read, rss, descriptors, threads = 0, 0, 0, 0, 0, 0
    for pid, fields in _family(top).items():
        cpu += sum(fields[14 - _FIRST_FIELD : 18 - _FIRST_FIELD])
        threads += fields[20 - _FIRST_FIELD]
        rss += fields[24 - _FIRST_FIELD] * _PAGE
        with contextlib.suppress(OSError):
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            told = dict(
                line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines()
            )
            read += int(told["rchar"])
            disk_read += int(told["read_bytes"])
    return Use(cpu / _TICK, read, disk_read, rss, descriptors, threads)


def _stat(pid: int) -> list[int]:
    """The numbers of /proc/PID/stat from the third field on, 0 for the state; empty when gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return [0, *map(int, text.rpartition(") ")[2].split()[1:])]


def cpu(pids: Iterable[int]) -> float:
    return sum(use(pid).cpu for pid in pids)


def at_rest(pids: Sequence[int], patience: float = 30.0) -> None:
    """Returns once the programs used less than 2 % of a core for half a second, or after
    patience: some never rest."""
    deadline, before = time.monotonic() + patience, cpu(pids)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = cpu(pids)
        if now - before <= 0.01:
            return
        before = now


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
