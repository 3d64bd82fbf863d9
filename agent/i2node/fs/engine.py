"""Which engine watches a source: the better one that the kernel, the rights of the process and the
file system allow, found by trying."""

from __future__ import annotations

import errno
import os

from i2node.config import ENGINES
from i2node.errors import SessionError
from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import Rescan
from i2node.fs.root import Root
from i2node.fs.watch import Watch

AUTO, FANOTIFY, INOTIFY = ENGINES

_WHY = {
    errno.EPERM: "it needs root, with CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH",
    errno.EACCES: "it is forbidden here",
    errno.EINVAL: "the kernel is too old",
    errno.ENOSYS: "the kernel has none",
    errno.EXDEV: "this file system is one of several under one mark, as a btrfs subvolume is",
    errno.EOPNOTSUPP: "this file system has no lasting file handles",
    errno.ENODEV: "this file system has no number of its own",
    errno.EMFILE: "all groups are taken: raise fs.fanotify.max_user_groups",
    errno.ENOSPC: "all marks are taken: raise fs.fanotify.max_user_marks",
}


def watch_tree(
    root: Root, dirty: Dirty, paths: PathSet, wanted: str = AUTO, sweep: float = 30.0
) -> Watch:
    """A watch of the tree below root, not started. wanted: one of ENGINES. sweep: see TreeWatch.

    Raises SessionError where the wanted one is not to be had.
    """
    rescan = Rescan(root, paths, dirty)
    instead = ""
    if wanted != INOTIFY:
        # Neither is loaded for nothing, by a pass that only looks once.
        from i2node.fs.fanotify import FanotifyWatch

        try:
            return FanotifyWatch(root, dirty, paths, rescan)
        except OSError as error:
            instead = _no_fanotify(error)
            if wanted == FANOTIFY:
                raise SessionError(instead, "set watch to auto") from error
    from i2node.fs.inotify import InotifyWatch

    watch = InotifyWatch(root.identity.ino, dirty, paths, rescan, sweep)
    watch.instead = instead
    return watch


def without_fanotify(fd: int) -> str:
    """Why the file system of an open directory cannot be watched by fanotify; "": it can. Tried,
    and nothing of it stays."""
    from i2node.mover.events import Group

    try:
        Group(fd).close()
    except OSError as error:
        return _no_fanotify(error)
    return ""


def _no_fanotify(error: OSError) -> str:
    number = error.errno or 0
    return f"no fanotify: {_WHY.get(number, os.strerror(number))}"
