"""Where the agent keeps its state, and where peers may keep mirrors: there, writable, with room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from i2node.fs.mounts import is_shared, kind_of, parsed, table
from i2node.node.checkup.asking import beside
from i2node.node.checkup.finding import Finding, fine, look
from i2node.node.checkup.host import Host, quoted, text_of

BYTES_LEAST = 256 << 20
INODES_LEAST = 1000
ANSWER_S = 5.0
"""A file server that has not answered by then is dead for our purpose."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A directory. point: what is mounted there or above; kind: of file system; is_shared: with
    other hosts. bytes, inodes: free, None where these are not counted."""

    path: Path
    point: Path
    kind: str
    is_shared: bool
    is_writable: bool
    is_read_only: bool
    bytes: int
    inodes: int | None


def disk(host: Host) -> list[Finding]:
    """The state directory, then each of allow_roots."""
    config = host.config
    unmounted = not_mounted(text_of(host.root / "etc/fstab"), table())
    places = [config.var, *config.allow_roots]
    looks = [partial(_of_place, path, unmounted, path is config.var) for path in places]
    found: list[Finding] = []
    for path, told in zip(places, beside(looks, ANSWER_S), strict=True):
        silent = f"{path} does not answer within {ANSWER_S:.0f} s"
        found += told or [look("disk", silent, "findmnt -t nfs,nfs4,cifs")]
    return found


def _of_place(path: Path, unmounted: Sequence[Path], state: bool) -> list[Finding]:
    point = next((p for p in unmounted if path == p or p in path.parents), None)
    if point is not None:
        told = f"{path}: /etc/fstab mounts {point}, and nothing is mounted there"
        return [look("disk", told, f"mount {quoted(point)}")]
    if not path.is_dir():
        if os.path.lexists(path):
            remedy = f"mv {quoted(path)} {quoted(f'{path}.old')}; mkdir -m 700 {quoted(path)}"
            return [look("disk", f"{path} is no directory", remedy)]
        mode = "-m 700 " if state else ""
        told = f"{path} is not there" + ("" if state else ", and stands in allow_roots")
        return [look("disk", told, f"mkdir -p {mode}{quoted(path)}")]
    return of_ground(ground(path), state)


def ground(path: Path) -> Ground:
    """Of a directory that is there."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        room, kind, shared = os.statvfs(fd), kind_of(fd), is_shared(fd)
    finally:
        os.close(fd)
    point = path.resolve()
    while not point.is_mount():
        point = point.parent
    return Ground(
        path,
        point,
        kind.decode("ascii", "replace"),
        shared,
        os.access(path, os.W_OK | os.X_OK, effective_ids=True),
        bool(room.f_flag & os.ST_RDONLY),
        room.f_bavail * room.f_frsize,
        room.f_favail if room.f_files else None,
    )


def of_ground(found: Ground, state: bool) -> list[Finding]:
    """state: whether it is the agent's own."""
    where = f"{found.path} ({found.kind})"
    bad: list[Finding] = []
    if found.is_read_only:
        remedy = f"dmesg | tail; mount -o remount,rw {quoted(found.point)}"
        bad.append(look("disk", f"{where} is mounted read-only", remedy))
    elif not found.is_writable:
        place, user = quoted(found.path), os.geteuid()
        mine = f"sudo chown {user} {place} && chmod u+rwx {place}"
        remedy = mine if user else f"chattr -i {place}"  # nothing else keeps root out
        bad.append(look("disk", f"{where} cannot be written to", remedy))
    if state and found.is_shared:
        told = f"{where}: journals and locks are to be on a disk of this host"
        remedy = f"mount a local file system at {quoted(found.path)}"
        bad.append(look("disk", told, remedy))
    if found.bytes < BYTES_LEAST:
        told = f"{where} has {found.bytes >> 20:,} MiB free, of {BYTES_LEAST >> 20} at least"
        bad.append(look("disk", told, f"du -xh {quoted(found.point)} | sort -h | tail -n 20"))
    if found.inodes is not None and found.inodes < INODES_LEAST:
        told = f"{where} has {found.inodes:,} inodes free, of {INODES_LEAST:,} at least"
        remedy = f"du -x --inodes {quoted(found.point)} | sort -n | tail -n 20"
        bad.append(look("disk", told, remedy))
    inodes = "" if found.inodes is None else f", {found.inodes:,} inodes"
    return bad or [fine("disk", f"{where}: {found.bytes >> 20:,} MiB{inodes} free")]


def not_mounted(fstab: str, mounts: bytes) -> list[Path]:
    """What fstab(5) mounts at boot, and a mountinfo does not have; the deepest first."""
    there = {os.fsdecode(mount.point) for mount in parsed(mounts)}
    found: list[Path] = []
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) < 4 or line.lstrip().startswith("#") or not fields[1].startswith("/"):
            continue
        point = fields[1].replace("\\040", " ").rstrip("/") or "/"
        if point != "/" and point not in there and "noauto" not in fields[3].split(","):
            found.append(Path(point))
    return sorted(found, reverse=True)
