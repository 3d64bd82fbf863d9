"""What the kernel lets the agent have: open files, watches, queues of events."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress

from i2node.fs.engine import AUTO, INOTIFY
from i2node.model import State
from i2node.node.checkup.doors import agent_of
from i2node.node.checkup.finding import Finding, fine, look
from i2node.node.checkup.host import Host, text_of
from i2node.node.checkup.system import refusal
from i2node.node.release import memory
from i2node.repl.report import RuleReport

FILES = 262_144
"""Open files that the service is started with."""
FILES_LEAST = 1024
LEAST = {"max_user_watches": 65_536, "max_queued_events": 16_384, "max_user_instances": 128}
"""Of fs.inotify; the first two as packaging/size-inotify has them."""
_MOST = {"max_user_watches": 4_194_304, "max_queued_events": 1_048_576}
_DROP_IN = "/etc/sysctl.d/90-i2node.conf"
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+|unlimited)\s", re.MULTILINE)


def limits(host: Host) -> list[Finding]:
    """Of the agent that runs, and of inotify where that is what watches."""
    found: list[Finding] = []
    agent = agent_of(host)
    if agent is not None:
        home = host.proc / str(agent.pid)
        most = _OPEN_FILES.search(text_of(home / "limits"))
        with suppress(OSError):
            used = len(os.listdir(home / "fd"))
            if most and most[1] != "unlimited":
                found.append(of_files(agent.pid, int(most[1]), used))
    engines = {r.watch.engine for r in host.reports if r.side == "source"}
    wanted = host.config.watch
    if INOTIFY in engines or wanted == INOTIFY or (wanted == AUTO and refusal()):
        table = host.proc / "sys/fs/inotify"
        in_force = {name: int(text_of(table / name) or 0) for name in LEAST}
        kib = memory(text_of(host.proc / "meminfo"))[0] >> 10
        found += of_inotify(in_force, kib, host.reports)
    elif not found:
        found.append(fine("limits", "fanotify needs no watches"))
    return found


def of_files(pid: int, most: int, used: int) -> Finding:
    """The bound on open files of a process that has so many."""
    told = f"process {pid} may have {most:,} files open, and has {used:,}"
    if most < FILES_LEAST or used > most // 2:
        more = max(FILES, 4 * most)
        return look("limits", told, f"prlimit --pid {pid} --nofile={more}:{more}")
    return fine("limits", told)


def sized(kib: int) -> dict[str, int]:
    """The bounds of inotify for a host with so much memory."""
    wanted = {"max_user_watches": kib * 3 // 100, "max_queued_events": kib // 128}
    return LEAST | {name: min(max(n, LEAST[name]), _MOST[name]) for name, n in wanted.items()}


def of_inotify(
    in_force: Mapping[str, int], kib: int, reports: tuple[RuleReport, ...]
) -> list[Finding]:
    """in_force: by the names of LEAST. reports: what the watches cover."""
    watched = [r for r in reports if r.side == "source" and r.watch.engine == INOTIFY]
    # Before that they are still being set.
    short = any(r.watch.coverage < 1 for r in watched if r.state is State.REPLICATION)
    found: list[Finding] = []
    for name, least in LEAST.items():
        now, wanted = in_force[name], sized(kib)[name]
        why = "" if now >= least else f"at least {least:,} are sensible"
        if name == "max_user_watches" and short:
            why, wanted = "not every directory has a watch", max(wanted, 2 * now)
        if name == "max_user_instances" and len(watched) * 2 > now:
            why, wanted = f"{len(watched)} rules have one each", max(wanted, 4 * len(watched))
        if why:
            line = f"fs.inotify.{name} = {wanted}"
            remedy = f"echo '{line}' >>{_DROP_IN} && sysctl -p {_DROP_IN}"
            found.append(look("limits", f"fs.inotify.{name} is {now:,}: {why}", remedy))
    if not found:
        told = ", ".join(f"{name} {in_force[name]:,}" for name in LEAST)
        found.append(fine("limits", f"fs.inotify: {told}"))
    return found
