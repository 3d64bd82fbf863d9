"""The configuration, and who may read what only the node's owner is to read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from i2node.config import Config
from i2node.errors import I2Error
from i2node.net.identity import Identity
from i2node.node.checkup.finding import Finding, fine, look
from i2node.node.checkup.host import Host, quoted

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def configuration(host: Host, fault: I2Error | None) -> list[Finding]:
    """fault: what is wrong with it."""
    what, config = "configuration", host.config
    if not config.etc.is_dir():
        told = f"{config.etc} is not there, the defaults are in force"
        return [look(what, told, f"mkdir -p -m 700 {quoted(config.etc)}")]
    found: list[Finding] = []
    if fault is not None:
        told = f"{fault.cause} ({fault.remedy})" if fault.remedy else fault.cause
        file = fault.cause.partition(":")[0]
        found.append(look(what, told, f"vi {quoted(file)}; {host.typed('check-config')}"))
    seen = os.stat(config.etc)
    owner = 0 if host.is_system else seen.st_uid
    found += of_private(what, config.etc, seen, owner)
    if not found:
        told = "sound" if config.file.exists() else "not there, the defaults are in force"
        roots = ", ".join(map(str, config.allow_roots)) or "none"
        found.append(fine(what, f"{config.file}: {told}; allow_roots: {roots}"))
    return found


def of_private(what: str, path: Path, seen: os.stat_result, owner: int) -> Iterator[Finding]:
    """What is wrong with a file or directory that is its owner's alone."""
    if seen.st_uid != owner:
        told = f"{path} belongs to user {seen.st_uid}"
        yield look(what, told, f"chown {owner} {quoted(path)}")
    if seen.st_mode & _OTHERS:
        told = (
            f"{path} has mode {stat.S_IMODE(seen.st_mode):04o}: others than its owner could read it"
        )
        yield look(what, told, f"chmod go= {quoted(path)}")


def keys(host: Host) -> list[Finding]:
    """This node's, and the certificates of its peers."""
    etc = host.config.etc
    if not etc.is_dir() or (missing := Identity.missing(etc)):
        if etc.is_dir() and len(missing) < 3:
            told = f"{', '.join(map(str, missing))}: not there, or empty; restore it, or make anew"
            return [look("keys", told, host.typed("code"))]
        return [look("keys", "this node has none yet", host.typed("code"))]
    owner = os.stat(etc).st_uid
    found = [
        finding
        for path in secrets(host)
        for finding in of_private("keys", path, os.stat(path), owner)
    ]
    if found:
        return found
    try:
        identity = Identity.load(etc)
    except I2Error as error:
        return [look("keys", error.cause, error.remedy or f"ls -l {quoted(etc)}")]
    stems = sorted(path.stem for path in (etc / "peers").glob("*.pem"))
    unsound = [stem for stem in stems if identity.peer(stem) is None]
    for stem in unsound:
        both = quoted(etc / "peers" / stem) + ".*"
        told = f"the certificate of peer {stem[:12]} cannot be used, so it is not trusted"
        found.append(look("keys", told, f"rm {both}; then: {host.typed('pair')} HOST"))
    return found or [fine("keys", f"node {identity.node_id[:12]}, peers: {len(stems)}")]


def secrets(host: Host) -> list[Path]:
    """Files of a home that only its owner is to read, as far as they are there."""
    etc, var = host.config.etc, host.config.var
    found = [etc / "i2id.conf", var / "orders.json"]
    for below in (etc / "identity", etc / "controller"):
        if below.is_dir():
            found += (path for path in sorted(below.iterdir()) if path.is_file())
    return [path for path in found if path.exists()]


def unseen(config: Config) -> str:
    """The directory of a home that we may not look into; empty: there is none."""
    for path in (config.etc, config.var, config.run):
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
            return str(path)
    return ""
