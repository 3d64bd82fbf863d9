"""What people and programs do to a tree, one deed at a time, each remembered in order.

Every content is written down before a file gets it: a mirror may show any of these versions, and
nothing that is not one of them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inodes import CARRIED, give

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_EXCHANGE = 2
_KEEP_SIZE, _PUNCH = 1, 2
SPARED = ("fence", "sworn")
"""How names begin that are not chosen among: those of files that tell something of the mirror."""


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


class Deeds:
    """Deeds on one tree. Numbers choose among what stands there; what cannot be done is left."""

    def __init__(self, root: Path, elsewhere: Path) -> None:
        self.root = root
        self.elsewhere = elsewhere
        self.versions = {digest(b"")}
        self.history: list[str] = []
        self._count = 0
        self._minted = 1_000_000_000

    # ------------------------------------------------------------------ choosing

    def all(self, kind: Callable[[int], bool]) -> list[Path]:
        found: list[Path] = []
        for path, directories, files in os.walk(self.root):
            directories.sort()
            for name in sorted(directories + files):
                each = Path(path, name)
                if kind(each.lstat().st_mode) and not name.startswith(SPARED):
                    found.append(each)
        return found

    def pick(self, number: int, kind: Callable[[int], bool] = lambda mode: True) -> Path | None:
        found = self.all(kind)
        return found[number % len(found)] if found else None

    def directory(self, number: int) -> Path:
        found = [self.root, *self.all(stat.S_ISDIR)]
        return found[number % len(found)]

    # ------------------------------------------------------------------ content

    def content(self, size: int) -> bytes:
        """Bytes that no other version has, and that a delta has something to find in."""
        self._count += 1
        seed = b"version %d " % self._count
        block = hashlib.blake2b(seed).digest() * 64
        return (seed + block * (size // len(block) + 1))[:size]

    def write(self, path: Path, size: int) -> None:
        self._note("write", path, size)
        content = self.content(size)
        self.versions.add(digest(content))
        with suppress(OSError):
            fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644
            )
            os.write(fd, content)
            os.close(fd)

    def save(self, path: Path, size: int) -> None:
        """As editors do: beside it, then over it."""
        self._note("save", path, size)
        content = self.content(size)
        self.versions.add(digest(content))
        beside = path.with_name("~" + path.name)
        with suppress(OSError):
            beside.write_bytes(content)
            beside.replace(path)
        with suppress(OSError):
            beside.unlink(missing_ok=True)

    def change(self, path: Path, at: int, size: int, back: bool = False) -> None:
        """Overwrites in place, or appends where `at` is the end. back: with the times put back, so
        that neither size nor mtime tell of it."""
        self._note("change", path, at, size, back)
        with suppress(OSError):
            old, before = path.read_bytes(), path.stat()
            at = min(at, len(old))
            if back:
                size = min(size, len(old) - at)
            piece = self.content(size)
            self.versions.add(digest(old[:at] + piece + old[at + size :]))
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            os.pwrite(fd, piece, at)
            os.close(fd)
            if back:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def truncate(self, path: Path, size: int) -> None:
        self._note("truncate", path, size)
        with suppress(OSError):
            old = path.read_bytes()
            self.versions.add(digest(old[:size].ljust(size, b"\0")))
            os.truncate(path, size)

    def punch(self, path: Path, at: int, size: int) -> None:
        """Zeros in place of what is there, and no blocks for them."""
        self._note("punch", path, at, size)
        with suppress(OSError):
            old = path.read_bytes()
            at, end = min(at, len(old)), min(at + size, len(old))
            self.versions.add(digest(old[:at] + bytes(end - at) + old[end:]))
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            span = (ctypes.c_long(at), ctypes.c_long(end - at))
            _libc.fallocate(fd, _PUNCH | _KEEP_SIZE, *span)
            os.close(fd)

    # ------------------------------------------------------------------ names

    def make(self, path: Path) -> None:
        self._note("make", path)
        if path.parent.is_symlink():
            return  # it may lead out of the tree, and what is made there is not the mirror's doing
        with suppress(OSError):
            path.mkdir(parents=True)

    def move(self, path: Path, to: Path) -> None:
        self._note("move", path, to)
        with suppress(OSError):
            os.rename(path, to)

    def exchange(self, path: Path, to: Path) -> None:
        self._note("exchange", path, to)
        a, b = os.fsencode(path), os.fsencode(to)
        _libc.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _EXCHANGE)

    def link(self, path: Path, to: Path) -> None:
        self._note("link", path, to)
        with suppress(OSError):
            os.link(path, to, follow_symlinks=False)

    def symlink(self, aim: str, to: Path) -> None:
        self._note("symlink", aim, to)
        with suppress(OSError):
            to.symlink_to(aim)

    def node(self, to: Path) -> None:
        self._note("node", to)
        with suppress(OSError):
            os.mkfifo(to)

    def remove(self, path: Path) -> None:
        self._note("remove", path)
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def leave(self, path: Path) -> None:
        """Out of the tree, to a place from where it may return."""
        self._note("leave", path)
        with suppress(OSError):
            self._count += 1
            path.rename(self.elsewhere / f"{self._count:04d}")

    def come(self, to: Path) -> None:
        waiting = sorted(self.elsewhere.iterdir())
        self._note("come", to)
        if waiting:
            with suppress(OSError):
                waiting[0].rename(to)

    def become(self, path: Path, size: int) -> None:
        """A directory becomes a file of the same name, anything else a directory with a file."""
        self._note("become", path, size)
        was_directory = path.is_dir() and not path.is_symlink()
        self.remove(path)
        if was_directory:
            self.write(path, size)
        else:
            self.make(path)
            self.write(path / "x", size)

    def renew(self, path: Path, size: int) -> None:
        """A directory goes, and another with the same name comes; the number of the inode is often
        the same too."""
        self._note("renew", path, size)
        if path.is_dir() and not path.is_symlink():
            self.remove(path)
            self.make(path)
            self.write(path / "y", size)

    # ------------------------------------------------------------------ metadata

    def mode(self, path: Path, bits: int) -> None:
        self._note("mode", path, oct(bits))
        with suppress(OSError):
            if not path.is_symlink():
                path.chmod(bits)

    def owner(self, path: Path, uid: int, gid: int) -> None:
        self._note("owner", path, uid, gid)
        with suppress(OSError):
            os.chown(path, uid, gid, follow_symlinks=False)

    def times(self, path: Path) -> None:
        self._note("times", path)
        self._minted += 1
        with suppress(OSError):
            moment = self._minted * 1_000_000_000 + self._count
            os.utime(path, ns=(moment, moment), follow_symlinks=False)

    def attribute(self, path: Path, name: str, value: bytes | None) -> None:
        self._note("attribute", path, name, value)
        with suppress(OSError):
            if value is None:
                os.removexattr(path, f"user.{name}", follow_symlinks=False)
            else:
                os.setxattr(path, f"user.{name}", value, follow_symlinks=False)

    def flags(self, path: Path, flags: int) -> None:
        """As chattr(1) does; with the others that a mirror carries taken away."""
        self._note("flags", path, flags)
        with suppress(OSError):
            give(path, flags, less=CARRIED & ~flags)

    def _note(self, deed: str, *arguments: object) -> None:
        shown = (
            str(a.relative_to(self.root)) if isinstance(a, Path) else repr(a) for a in arguments
        )
        self.history.append(f"{deed} {' '.join(shown)}")


def torn(target: Path, versions: set[bytes]) -> list[str]:
    """Files under the target whose content no source file ever had."""
    found: list[str] = []
    for path, _, files in os.walk(target):
        for name in files:
            each = os.path.join(path, name)
            try:
                fd = os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    with open(fd, "rb", closefd=False) as file:
                        if digest(file.read()) not in versions:
                            found.append(each)
            finally:
                os.close(fd)
    return found
