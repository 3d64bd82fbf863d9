"""Where the attributes of a target are tried: on the file system its root is on, or will be."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from i2node.errors import I2Error
from i2node.fs import mounts, trials
from i2node.fs.tree import TargetTree
from i2node.fs.trials import Finding
from i2node.model import show


@dataclass(frozen=True, slots=True)
class Ground:
    """A file system as a target: its type, the bytes and inodes that are free (0: not told),
    whether what it refuses can be kept aside, and what became of each attribute. untried: why
    nothing is known of these, such as a full disk; empty when it is."""

    kind: str = ""
    free_bytes: int = 0
    free_inodes: int = 0
    shelf: bool = False
    findings: tuple[Finding, ...] = ()
    untried: str = ""


def try_ground(
    path: bytes, rule: str, state: Path, allowed: Sequence[Path], beside: bytes = b""
) -> Ground:
    """Tries at a target root, a resolved path, or, where that is not there yet, at the nearest
    directory above it, which is where it would be made. Leaves nothing there. beside: as of
    TargetTree."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    while beside and not os.path.lexists(beside):
        beside = os.path.dirname(beside)
    try:
        # A stage of its own: that of the rule may be in use.
        tree = TargetTree(path, f"try-{rule}", state, allowed, beside=beside)
    except I2Error as error:
        return Ground(untried=error.cause)
    try:
        free = os.fstatvfs(tree.root.fd)
        ground = Ground(
            mounts.kind_of(tree.root.fd).decode(errors="replace"),
            free.f_bavail * free.f_frsize,
            free.f_favail,
            tree.shelf.able,
        )
        return replace(ground, findings=_tried(tree))
    except I2Error as error:
        return replace(ground, untried=error.cause)
    except OSError as error:
        cause = f"cannot try what {show(path)} keeps: {os.strerror(error.errno or 0)}"
        return replace(ground, untried=cause)
    finally:
        tree.close()


def _tried(tree: TargetTree) -> tuple[Finding, ...]:
    stage = tree.stage()
    fcntl.flock(stage, fcntl.LOCK_EX)  # another doctor may be there
    trials.sweep(stage)
    tree.clean(keep_parts=False)
    return trials.try_all(stage)
