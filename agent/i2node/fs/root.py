"""The root of a tree, of either end of a rule.

It is held as a descriptor, opened from the top without following a link, so that nobody who may
write on the way can lead elsewhere; every path of the session is relative to one. A root is known
by what survives a remount and a reboot but not a replacement: its inode number, its birth and the
identity of its file system. The number of the device is no part of it; the kernel gives those anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from i2node.errors import SafetyStop
from i2node.fs.directory import open_directory
from i2node.model import show
from i2node.mover import batch, listing

_XFS_IOC_FSGEOMETRY_V1 = 2 << 30 | 112 << 16 | ord("X") << 8 | 100
_XFS_UUID = slice(64, 80)  # of struct xfs_fsop_geom_v1 (xfs_fs.h)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which directory a root is; equal exactly when it is the same one. fs is empty where the file
    system has nothing that outlives its mount."""

    ino: int
    birth: int
    fs: str

    def __str__(self) -> str:
        return f"{self.ino}-{self.birth}-{self.fs}"


class Root:
    """A held directory. `dev` is its file system: nothing beyond that is ever entered. owners:
    whether what is read of it tells whose it is; if not, all entries are model.UNOWNED."""

    def __init__(self, path: bytes, owners: bool = True) -> None:
        try:
            self.fd = open_directory(path)
        except OSError as error:
            raise SafetyStop(
                f"cannot open {show(path)}: {os.strerror(error.errno or 0)}",
                "mount it, create it or correct the path; nothing was deleted",
            ) from error
        self.path = path
        self.owners = owners
        self.dev = os.fstat(self.fd).st_dev
        try:
            self.identity = _identity(self.fd, self.dev)
        except BaseException:
            os.close(self.fd)
            raise

    def list_dirs(
        self,
        requests: Sequence[tuple[bytes, Sequence[bytes]]],
        *,
        notify: int = -1,
        mask: int = 0,
        partial: bool = False,
        threads: int = 1,
    ) -> list[batch.Listing]:
        """As batch.list_dirs."""
        return batch.list_dirs(
            *(self.fd, self.dev, requests),
            notify=notify,
            mask=mask,
            partial=partial,
            unowned=not self.owners,
            threads=threads,
        )

    def stat_names(
        self, path: bytes, names: Iterable[bytes], partial: bool = False
    ) -> batch.Listing:
        """As batch.stat_names."""
        return batch.stat_names(self.fd, self.dev, path, names, partial, not self.owners)

    def still_there(self) -> bool:
        """Whether the path still leads to the held directory."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        held = os.fstat(self.fd)
        return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino) and held.st_nlink > 0

    def close(self) -> None:
        os.close(self.fd)


def _identity(fd: int, dev: int) -> Identity:
    (answer,) = batch.list_dirs(fd, dev, [(b"", ())], partial=True)
    if answer.status:
        raise SafetyStop(
            f"cannot read the root: {os.strerror(answer.status)}",
            "make it readable for the agent; nothing was deleted",
        )
    own = listing.decode(answer.own)
    return Identity(own.ino, own.birth, _file_system(fd, dev))


def _file_system(fd: int, dev: int) -> str:
    """What tells this file system from another one: XFS gives its UUID, the others an fsid that
    they make of theirs (statfs(2)), unless it is only the number of the device."""
    geometry = bytearray(112)
    with suppress(OSError):
        fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, geometry)
        return bytes(geometry[_XFS_UUID]).hex()
    fsid = os.fstatvfs(fd).f_fsid
    major, minor = os.major(dev), os.minor(dev)
    encoded = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    return "" if fsid & 0xFFFFFFFF == encoded else f"{fsid:x}"
