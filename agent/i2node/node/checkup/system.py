"""The kernel and the clock."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime

from i2node.fs.engine import FANOTIFY, INOTIFY, without_fanotify
from i2node.node.checkup.finding import Finding, fine, look, unknown
from i2node.node.checkup.host import Host, quoted

KERNEL = (4, 18)
"""The oldest one."""
WRITTEN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""Seconds since 1970: no clock that is right shows an earlier time."""


def kernel(host: Host) -> list[Finding]:
    """Whether it is new enough, and what of it tells of changes."""
    return [of_kernel(os.uname().release, host.config.watch, refusal(), host)]


def refusal() -> str:
    """Why fanotify cannot watch the file system of `/`; "": it can."""
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return without_fanotify(fd)
    finally:
        os.close(fd)


def of_kernel(release: str, watch: str, refused: str, host: Host) -> Finding:
    """watch: as configured. refused: see refusal."""
    told = f"Linux {release}"
    number = re.match(r"(\d+)\.(\d+)", release)
    if number is None or tuple(map(int, number.groups())) < KERNEL:
        least = ".".join(map(str, KERNEL))
        return look("kernel", f"{told}, and {least} is needed", "dnf upgrade kernel && reboot")
    if watch == FANOTIFY and refused:
        remedy = f"sed -i 's/^ *watch *=.*/watch = \"auto\"/' {quoted(host.config.file)}"
        return look("kernel", f"{told}, and watch is fanotify: {refused}", remedy)
    if watch == INOTIFY:
        return fine("kernel", f"{told}, inotify watches, as configured")
    if refused:
        return fine("kernel", f"{told}, inotify watches ({refused})")
    return fine("kernel", f"{told}, fanotify watches")


def clock(host: Host) -> list[Finding]:
    """Whether somebody keeps it."""
    from i2node.mover.clock import off_by

    try:
        off = off_by()
    except OSError as error:
        return [unknown("clock", f"the kernel does not tell: {error.strerror}", host.as_root())]
    return [of_clock(off, time.time(), (host.root / "usr/sbin/chronyd").exists())]


def of_clock(off: float | None, now: float, has_chrony: bool) -> Finding:
    """off: seconds at most, None: nobody keeps it; now: seconds since 1970."""
    start = "systemctl enable --now chronyd"
    if not has_chrony:
        start = f"dnf -y install chrony && {start}"
    shown = datetime.fromtimestamp(now).isoformat(" ", "seconds")
    if now < WRITTEN:
        return look("clock", f"it shows {shown}", f"{start} && chronyc makestep")
    if off is None:
        return look("clock", f"{shown}, not synchronised (adjtimex)", start)
    return fine("clock", f"{shown}, synchronised, off by {off * 1000:.0f} ms at most")
