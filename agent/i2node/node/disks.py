"""The disks of this host: what is mounted, what of it is to be protected, its volume groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import i2node
from i2node.config import Config
from i2node.errors import Problem
from i2node.fs.mounts import Mount, on_disk, table
from i2node.fs.tree import within
from i2node.node.folders import named

# Never mirrored of any host: what the kernel or the boot makes anew, what is elsewhere, what is
# passing, and what belongs to the one machine. Beside these stands what is the agent's own.
_EXCLUDED = (
    "/cgroup",
    "/dev",
    "/etc/X11/xorg.conf",
    "/lost+found",
    "/media",
    "/mnt",
    "/proc",
    "/run",
    "/selinux",
    "/sys",
    "/tmp",
    "/var/lock",
    "/var/run/vmblock-fuse",
)
_PROGRAM = ("/etc/init.d/i2node", "/etc/rc.d/init.d/i2node", "/usr/bin/i2node")
_VGS = ("/usr/sbin/vgs", "/sbin/vgs")
_VGS_SAYS = (
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "-o",
    "vg_name,vg_size,vg_free",
)
_VGS_S = 8.0


def excluded(config: Config) -> list[str]:
    """The 19 paths that are left out of a whole server, sorted, with a `/` behind each, be it a
    directory or not."""
    own = (str(config.etc.absolute()), str(config.var.absolute()), installed(), *_PROGRAM)
    return sorted({f"{path}/" for path in (*_EXCLUDED, *own)})


def installed() -> str:
    """The directory that holds this program and nothing else: its virtual environment, or, in a
    Python that others use too, its package."""
    own = sys.prefix if sys.prefix != sys.base_prefix else str(Path(i2node.__file__).parent)
    return os.path.abspath(own)


def trees(config: Config, mounts: list[Mount]) -> list[str]:
    """`/`, and the file systems on disks beside it that are not left out, sorted, with a `/` behind
    each: what a rule for a whole server names."""
    left_out = [os.fsencode(path.rstrip("/")) for path in excluded(config)]
    points = [m.point for m in mounts if not any(within(m.point, path) for path in left_out)]
    return sorted({"/", *(named(point.rstrip(b"/")) + "/" for point in points)})


def lists(config: Config) -> dict[str, list[str]]:
    """trees and excluded, of this host."""
    return {"trees": trees(config, on_disk(table())), "excluded": excluded(config)}


def mounts() -> list[dict[str, Any]]:
    """The file systems on disks: name of the device, mount point, kind, and bytes: total, free (to
    whoever is not root), used."""
    found: list[dict[str, Any]] = []
    for mount in on_disk(table()):
        try:
            told = os.statvfs(mount.point)
        except OSError:
            continue  # unmounted meanwhile, or hidden below another
        found.append(
            {
                "device": named(mount.source),
                "point": named(mount.point),
                "kind": mount.kind.decode("ascii", "replace"),
                "total": told.f_blocks * told.f_frsize,
                "free": told.f_bavail * told.f_frsize,
                "used": (told.f_blocks - told.f_bfree) * told.f_frsize,
            }
        )
    return found


def volume_groups() -> list[dict[str, Any]]:
    """Those of LVM, where it is installed: name, and bytes: size, free. Problem: it does not
    tell."""
    program = next((path for path in _VGS if os.access(path, os.X_OK)), None)
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *_VGS_SAYS], capture_output=True, timeout=_VGS_S, check=True, text=True
        )
        return read_vgs(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Problem(f"ask LVM for the volume groups: {error}", "see vgs on that host") from error


def read_vgs(report: str) -> list[dict[str, Any]]:
    """The same, of the JSON that vgs(8) prints. ValueError: it is none."""
    try:
        rows = [row for part in json.loads(report)["report"] for row in part["vg"]]
        return [
            {"name": row["vg_name"], "size": int(row["vg_size"]), "free": int(row["vg_free"])}
            for row in rows
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a report: {error!r}") from error
