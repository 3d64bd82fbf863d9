"""The two ends of a rule on disk: the source's root as it is read, the target's root as it is
changed.

Both are held as descriptors; every path of the session is relative to one of them. A root is known
by what survives a remount and a reboot but not a replacement: its inode number, its birth and the
identity of its file system. The number of the device is no part of it; the kernel gives those anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from i2node.errors import Refused, SafetyStop, SessionError, TargetFault
from i2node.model import show
from i2node.mover import batch, listing

STAGE_PREFIX = ".i2node-stage-"
REDO_SUFFIX = ".redo"
"""Of journals in the stage (mover.h, i2_redo)."""

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
    """A held directory. `dev` is its file system: nothing beyond that is ever entered."""

    def __init__(self, path: bytes) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SafetyStop(
                f"cannot open {show(path)}: {os.strerror(error.errno or 0)}",
                "mount it, create it or correct the path; nothing was deleted",
            ) from error
        self.path = path
        self.dev = os.fstat(self.fd).st_dev
        self.identity = _identity(self.fd, self.dev)

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
    (answer,) = batch.list_dirs(fd, dev, [(b"", ())])
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


def host_id() -> str:
    """The same for two processes exactly when a path means the same to both: this boot, and this
    mount namespace (namespaces(7))."""
    try:
        return f"{boot_id()}/{os.stat('/proc/self/ns/mnt').st_ino}"
    except OSError:
        return ""


def boot_id() -> str:
    """Which boot of the kernel this is (proc(5))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def within(path: bytes, root: bytes) -> bool:
    """Whether a path is root or lies below it; both absolute and resolved."""
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def resolve_target(path: bytes, allowed: Sequence[Path]) -> bytes:
    """The real path of a target root, which need not exist. Raises Refused when no allowed root
    holds it.

    Symlinks are resolved before the comparison, so that a link cannot lead out of an allowed root.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise Refused(f"target {show(path)} is not an absolute path", "give an absolute path")
    real = os.path.realpath(path)
    roots = [os.path.realpath(os.fsencode(a)) for a in allowed]
    if not any(within(real, r) for r in roots):
        raise Refused(
            f"target {show(path)} is not below a root this node allows",
            f"start its agent with --allow-root {show(path)}, or set allow_roots in i2node.toml",
        )
    return real


def make_target(path: bytes) -> None:
    """Makes the directory of a target root, and those above it; one that is there is left alone."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"cannot make target {show(path)}: {os.strerror(error.errno or 0)}",
            "create the directory, or correct the path",
        ) from error


def half_changed(path: bytes, rule: str, state: Path) -> bool:
    """Whether a crash left journals in a rule's stage, wherever that may have been."""
    name = os.fsencode(STAGE_PREFIX + rule[:12])
    for home in (os.fsencode(state / "stage"), os.path.dirname(path), path):
        with suppress(OSError):
            if any(
                n.endswith(os.fsencode(REDO_SUFFIX)) for n in os.listdir(b"%s/%s" % (home, name))
            ):
                return True
    return False


class TargetTree:
    """A target's root and the directory where files wait for their final name.

    Staging needs the same file system and mount as the root. It is, by preference, in the agent's
    state directory; beside the root, where an allowed root holds that too; in the root itself, made
    for a batch and removed when the tree is quiet, with the root's times put back.
    """

    def __init__(
        self,
        path: bytes,
        rule: str,
        state: Path,
        allowed: Sequence[Path],
        read_only: bool = False,
    ) -> None:
        self.root = Root(path)
        self._name = (STAGE_PREFIX + rule[:12]).encode()
        self._stage: int | None = None
        self._home: bytes | None = None
        self._opened = time.time()
        for home in () if read_only else self._homes(state, allowed):
            if self._usable(home):
                self._home = home
                break
        self.inside = self._home is None

    @property
    def skip(self) -> tuple[bytes, ...]:
        """Names at the top of the root that are ours, not the tree's."""
        return (self._name,) if self.inside else ()

    def _homes(self, state: Path, allowed: Sequence[Path]) -> Iterator[bytes]:
        yield os.fsencode(state / "stage")
        beside = os.path.dirname(self.root.path)
        roots = [os.path.realpath(os.fsencode(a)) for a in allowed]
        if any(within(beside, r) for r in roots):
            yield beside

    def _usable(self, home: bytes) -> bool:
        """Whether a name can go from there into the root: tried, since mounts do not tell."""
        probe = b"%s/%s" % (home, self._name)
        landed = self._name + b".probe"
        try:
            os.makedirs(probe, mode=0o700, exist_ok=True)
            if os.stat(probe).st_dev != self.root.dev:
                os.rmdir(probe)
                return False
            before = os.stat(self.root.fd)
            link = b"%s/probe" % probe
            with suppress(FileNotFoundError):
                os.unlink(link)
            os.symlink(b"probe", link)
            try:
                os.rename(link, landed, dst_dir_fd=self.root.fd)
            except OSError:
                os.unlink(link)
                os.rmdir(probe)
                return False
            os.unlink(landed, dir_fd=self.root.fd)
            os.utime(self.root.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        except OSError:
            return False
        return True

    def stage(self) -> int:
        """The staging directory's descriptor, made now if it is not there."""
        if self._stage is None:
            try:
                if self._home is not None:
                    path = b"%s/%s" % (self._home, self._name)
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    self._stage = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    with self._keep_times(), suppress(FileExistsError):
                        os.mkdir(self._name, mode=0o700, dir_fd=self.root.fd)
                    self._stage = os.open(
                        self._name,
                        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        dir_fd=self.root.fd,
                    )
            except OSError as error:
                raise _disk("make the staging directory", error) from error
        return self._stage

    def redo(self, flags: int) -> Iterator[tuple[bytes, bool]]:
        """Does again what a crash broke off: for each journal left in the stage the path of its
        file, and whether there was something to do. To be called before anything else touches the
        tree; flags as of `batch.apply`. Raises SessionError when the disk refuses: then a file is
        neither old nor new until it is called again."""
        if self.inside and not self._inside_exists():
            return
        stage = self.stage()
        for name in sorted(os.listdir(stage)):
            if name.endswith(REDO_SUFFIX):
                try:
                    yield batch.redo(self.root.fd, stage, os.fsencode(name), flags=flags)
                except OSError as error:
                    path = show(os.fsencode(error.filename or name))
                    raise _disk(f"finish {path}, which a crash left half changed", error) from error

    def parts(self) -> dict[int, int]:
        """Staged files that an earlier session left: id → bytes there."""
        found: dict[int, int] = {}
        if self.inside and not self._inside_exists():
            return found
        stage = self.stage()
        for name in os.listdir(stage):
            with suppress(ValueError, FileNotFoundError):
                if len(name) == 16:
                    found[int(name, 16)] = os.stat(name, dir_fd=stage).st_size
        return found

    def clean(self, keep_parts: bool) -> None:
        """Removes what a crash left in the staging directory, whole staged files only if told
        so."""
        if self.inside and not self._inside_exists():
            return
        stage = self.stage()
        for name in os.listdir(stage):
            if keep_parts and len(name) == 16:
                # A link instead of a file: it was spoilt (mover.h), and is begun anew.
                with suppress(FileNotFoundError):
                    if stat.S_ISREG(os.lstat(name, dir_fd=stage).st_mode):
                        continue
            try:
                os.unlink(name, dir_fd=stage)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=stage)
            except FileNotFoundError:
                pass

    def make_room(self) -> int:
        """Removes what earlier sessions staged and this one has not written to; gives the bytes. A
        file that was to be built on it is told as a fault, and sent whole."""
        freed = 0
        stage = self.stage()
        for name in os.listdir(stage):
            with suppress(OSError):
                found = os.lstat(name, dir_fd=stage)
                if len(name) == 16 and found.st_mtime < self._opened - 1.0:
                    os.unlink(name, dir_fd=stage)
                    freed += found.st_blocks * 512
        return freed

    def free(self) -> tuple[int, int]:
        """Blocks and inodes that are free on the root's file system."""
        found = os.statvfs(self.root.fd)
        return found.f_bfree, found.f_ffree

    def rest(self) -> None:
        """Called when nothing is under way: takes an inside staging directory away again."""
        if self.inside and self._stage is not None and not os.listdir(self._stage):
            os.close(self._stage)
            self._stage = None
            self._remove_inside()

    def sync(self) -> None:
        """Makes everything applied so far durable: syncfs(2) of the root's file system."""
        batch.sync(self.root.fd)

    def close(self) -> None:
        """Ends the use."""
        self.rest()
        if self._stage is not None:
            os.close(self._stage)
            self._stage = None
        if self._home is not None:
            with suppress(OSError):
                os.rmdir(b"%s/%s" % (self._home, self._name))
        self.root.close()

    def _inside_exists(self) -> bool:
        try:
            os.stat(self._name, dir_fd=self.root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remove_inside(self) -> None:
        with self._keep_times(), suppress(OSError):
            os.rmdir(self._name, dir_fd=self.root.fd)

    @contextmanager
    def _keep_times(self) -> Iterator[None]:
        before = os.stat(self.root.fd)
        yield
        after = os.stat(self.root.fd)
        if after.st_mtime_ns != before.st_mtime_ns:
            os.utime(self.root.fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _disk(operation: str, error: OSError) -> SessionError:
    kind = TargetFault if error.errno in FATAL else SessionError
    return kind(f"{operation}: {os.strerror(error.errno or 0)}", remedy_for(error.errno or 0))


FATAL = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}

_REMEDIES = {
    errno.ENOSPC: "free space or inodes on the target; replication goes on by itself",
    errno.EDQUOT: "raise the quota on the target; replication goes on by itself",
    errno.EROFS: "remount the target's file system read-write; replication goes on by itself",
    errno.EIO: "look at the kernel log of the target for disk errors",
    errno.EMFILE: "raise the limit of open files of the agent",
    errno.ENFILE: "raise fs.file-max on the target",
    errno.ENOMEM: "free memory on the target",
    errno.EACCES: "run the agent as root, or give it access",
    errno.EPERM: "run the agent as root, or on a file system that takes this attribute",
    errno.EOPNOTSUPP: "the target's file system cannot hold this attribute",
    errno.E2BIG: "the target's file system cannot hold attributes of this size",
    errno.EBUSY: "unmount what is mounted there on the target",
    errno.EXDEV: "unmount what is mounted there on the target",
    errno.ENAMETOOLONG: "the target's file system cannot hold this name",
}


def remedy_for(status: int) -> str:
    """What a person can do about an errno; empty when there is nothing to say."""
    return _REMEDIES.get(status, "")
