"""The target's end of a rule on disk: its root as it is changed, and what is beside it."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from i2node.errors import Refused, SafetyStop, SessionError, TargetFault
from i2node.fs.directory import open_directory, open_own
from i2node.fs.root import Root
from i2node.fs.shelf import Shelf
from i2node.model import show
from i2node.mover import batch
from i2node.mover.batch import Op

_OURS = re.compile(r"[0-9a-f]{16}(\.redo)?|t[0-9a-f]{16}\.[0-9a-f]+|probe")
"""Names in a stage (native/src/stage.c, apply.c): nothing else is removed there."""
STAGE_PREFIX = ".i2node-stage-"
SHELF_PREFIX = ".i2node-aside-"
REDO_SUFFIX = ".redo"
"""Of journals in the stage (mover.h, i2_redo)."""
_SEALED = b"i2redo1\n"
_SEAL = struct.Struct("<8sQ32s")
"""At the end of a sealed one: these bytes, the length of what is before them, its hash."""


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


def resolve_target(path: bytes, allowed: Sequence[Path], own: Sequence[Path] = ()) -> bytes:
    """The real path of a target root, which need not exist. Raises Refused when no allowed root
    holds it, and where it would be, hold or be held by what is the agent's own: a staging directory
    or one of `own`.

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
    private = [os.path.realpath(os.fsencode(o)) for o in own]
    if b"/" + STAGE_PREFIX.encode() in real or any(
        within(real, p) or within(p, real) for p in private
    ):
        raise Refused(
            f"target {show(path)} holds what the agent itself works with",
            "choose another directory",
        )
    return real


def make_target(path: bytes) -> None:
    """Makes the directory of a target root, and those above it; one that is there is left alone."""
    try:
        os.close(open_directory(path, make=True))
    except OSError as error:
        _readable(path)
        raise Refused(
            f"cannot make target {show(path)}: {os.strerror(error.errno or 0)}",
            "create the directory, or correct the path",
        ) from error


def journals(path: bytes, rule: str, state: Path, beside: bytes) -> Iterator[bytes]:
    """The redo journals in a rule's stage, wherever that may be: of a session that runs those that
    it is at, else those that a crash left."""
    name = os.fsencode(STAGE_PREFIX + rule[:12])
    for home in (os.fsencode(state / "stage"), beside, path):
        stage = b"%s/%s" % (home, name)
        with suppress(OSError):
            yield from (
                b"%s/%s" % (stage, one)
                for one in os.listdir(stage)
                if one.endswith(os.fsencode(REDO_SUFFIX))
            )


def half_changed(journal: bytes) -> bool:
    """Whether the file of a redo journal may be neither old nor new: without its seal (redo.c)
    nothing has been done to it."""
    try:
        with open(journal, "rb") as file:
            length = file.seek(0, os.SEEK_END) - _SEAL.size
            if length < 0:
                return False
            file.seek(length)
            magic, sealed, _ = _SEAL.unpack(file.read(_SEAL.size))
    except FileNotFoundError:
        return False
    return (magic, sealed) == (_SEALED, length)


class TargetTree:
    """A target's root and the directory where files wait for their final name.

    Staging needs the same file system and mount as the root. It is, by preference, in the agent's
    state directory; beside the root, where an allowed root holds that too; in the root itself, made
    for a batch and removed when the tree is quiet, with the root's times put back. Others may be
    able to write where it stands: what is staged goes only into a directory that is the agent's
    own.
    """

    def __init__(
        self,
        path: bytes,
        rule: str,
        state: Path,
        allowed: Sequence[Path],
        read_only: bool = False,
        beside: bytes = b"",
        owners: bool = True,
    ) -> None:
        """beside: the directory that is taken for the one above the root, where that is another
        rule's. owners: see Root."""
        _readable(path)
        self.root = Root(path, owners)
        self._beside = beside or os.path.dirname(path)
        self._name = (STAGE_PREFIX + rule[:12]).encode()
        self._stage: int | None = None
        self._home: int | None = None
        self._opened = time.time()
        try:
            for home in () if read_only else self._homes(state, allowed):
                self._home = self._usable(home)
                if self._home is not None:
                    break
            self.inside = self._home is None
            homes = (*self._homes(state, allowed), b"")
            self.shelf = Shelf(self.root.fd, (SHELF_PREFIX + rule[:12]).encode(), homes)
        except OSError as error:
            self._let_go()
            raise _disk("open the directory of what is kept aside", error) from error
        except BaseException:
            self._let_go()
            raise

    @property
    def skip(self) -> tuple[bytes, ...]:
        """Names at the top of the root that are ours, not the tree's."""
        stage = (self._name,) if self.inside else ()
        return (*stage, self.shelf.name) if self.shelf.inside else stage

    def make_shelf(self) -> None:
        """Makes a place for what is kept aside. Raises SessionError when the disk refuses."""
        try:
            with self._untouched() if self.inside else nullcontext():
                self.shelf.make(self._home)
        except OSError as error:
            raise _disk("make the directory for what is kept aside", error) from error

    def _homes(self, state: Path, allowed: Sequence[Path]) -> Iterator[bytes]:
        yield os.path.realpath(os.fsencode(state / "stage"))
        roots = [os.path.realpath(os.fsencode(a)) for a in allowed]
        if any(within(self._beside, r) for r in roots):
            yield self._beside

    def _usable(self, home: bytes) -> int | None:
        """A descriptor of it where a name can go from there into the root: tried, since mounts do
        not tell. Raises TargetFault when the disk lets nothing be tried: that says nothing of the
        place, where a crash may have left what is to be finished before anything else is done."""
        landed = self._name + b".probe"
        if _device(home) != self.root.dev:
            return None
        try:
            with ExitStack() as held:
                fd = open_directory(home, make=True)
                unused = held.enter_context(ExitStack())
                unused.callback(os.close, fd)
                stage = open_own(fd, self._name, make=True)
                held.callback(os.close, stage)
                unused.callback(_remove, self._name, fd)
                with suppress(FileNotFoundError):
                    os.unlink(b"probe", dir_fd=stage)
                os.symlink(b"probe", b"probe", dir_fd=stage)
                with self._untouched():
                    try:
                        os.rename(b"probe", landed, src_dir_fd=stage, dst_dir_fd=self.root.fd)
                    except OSError:
                        os.unlink(b"probe", dir_fd=stage)
                        raise
                    os.unlink(landed, dir_fd=self.root.fd)
                unused.pop_all()
                return fd
        except OSError as error:
            if error.errno in FATAL:
                raise _disk(f"try the staging directory in {show(home)}", error) from error
            return None
        except SafetyStop:
            return None

    def stage(self) -> int:
        """The staging directory's descriptor, made now if it is not there."""
        if self._stage is None:
            try:
                if self._home is not None:
                    self._stage = open_own(self._home, self._name, make=True)
                else:
                    with self._untouched():
                        self._stage = open_own(self.root.fd, self._name, make=True)
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
                # Where there is no room for it, it may not be needed.
                with suppress(SessionError):
                    if flags & batch.APPLY_ASIDE:
                        self.make_shelf()
                shelf = self.shelf.fd
                try:
                    yield batch.redo(
                        self.root.fd, stage, os.fsencode(name), flags=flags, shelf=shelf
                    )
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
        names = os.listdir(stage)
        for name in names:
            if not _OURS.fullmatch(name):
                raise SafetyStop(
                    f"{show(self._name)} in or beside {show(self.root.path)} holds "
                    f"{show(os.fsencode(name))}, which the agent did not put there",
                    "see who did, and take it elsewhere",
                )
        for name in names:
            if keep_parts and len(name) == 16:
                # A link instead of a file: it was spoilt (mover.h), and is begun anew.
                with suppress(FileNotFoundError):
                    if stat.S_ISREG(os.lstat(name, dir_fd=stage).st_mode):
                        continue
            self._remove_staged(stage, name)

    def _remove_staged(self, stage: int, name: str) -> None:
        """Also what is immutable, or deep: the mover takes it down, as it would have before."""
        gone = batch.apply(
            stage, stage, batch.step(Op.REMOVE, os.fsencode(name)), shelf=self.shelf.fd
        )
        for fault in gone.faults:
            error = OSError(fault.status, os.strerror(fault.status))
            raise _disk(f"clear {show(os.fsencode(name))} out of the staging directory", error)

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
        with self._untouched() if self.shelf.inside else nullcontext():
            self.shelf.close()
        if self._stage is not None:
            os.close(self._stage)
            self._stage = None
        if self._home is not None:
            _remove(self._name, self._home)
        self._let_go()

    def _let_go(self) -> None:
        if self._home is not None:
            os.close(self._home)
        self.root.close()

    def _inside_exists(self) -> bool:
        try:
            os.stat(self._name, dir_fd=self.root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remove_inside(self) -> None:
        with suppress(OSError), self._untouched():
            os.rmdir(self._name, dir_fd=self.root.fd)

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """The root takes names, and has its times and its flags as if there had been none."""
        with batch.unlocked(self.root.fd):
            before = os.stat(self.root.fd)
            yield
            after = os.stat(self.root.fd)
            if after.st_mtime_ns != before.st_mtime_ns:
                os.utime(self.root.fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _readable(path: bytes) -> None:
    """TargetFault where the disk fails under a target: that may heal, and nobody need decide."""
    try:
        with os.scandir(path) as found:
            next(found, None)
    except OSError as error:
        if error.errno in FATAL:
            raise _disk(f"read target {show(path)}", error) from error


def _device(path: bytes) -> int:
    """The file system on which a directory is, or would be made."""
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            if (above := os.path.dirname(path)) == path:
                raise
            path = above


def _remove(name: bytes, fd: int) -> None:
    """An empty directory."""
    with suppress(OSError):
        os.rmdir(name, dir_fd=fd)


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
    errno.ENAMETOOLONG: "the target's file system cannot hold this name, or a symlink as long",
    errno.ERANGE: "the target's file system cannot hold this time",
    errno.EMLINK: "the target's file system cannot hold as many names of one file",
}


def remedy_for(status: int) -> str:
    """What a person can do about an errno; empty when there is nothing to say."""
    return _REMEDIES.get(status, "")
