"""What a file system keeps, found by trying: each attribute is set and read back.

`try_all` is for a target: it makes files in a directory of its own, and leaves none. `cannot` is
for a source, which is never written to: it asks what can be asked by reading.

Beside an attribute stands whether it can be kept aside (shelf.h) where the file system
refuses it. What cannot be is lost there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from i2node.fs import mounts
from i2node.fs.tree import FATAL

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_GETXATTR, _SETXATTR = 0x801C581F, 0x401C5820
"""ioctl_iflags(2), ioctl_xfs_fsgetxattr(2)."""
_XATTR = struct.Struct("=IIIII8x")
_PROJECT = 3  # the field of struct fsxattr
_FLAGS = {"immutable": 0x10, "append": 0x20, "nodump": 0x40, "noatime": 0x80}
_SYNC = {"sync": 0x8}
_EXT_FLAGS = {"secrm": 0x1, "unrm": 0x2, "dirsync": 0x10000}
_PROJINHERIT = 0x20000000
_ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 7, ~0 & 0xFFFFFFFF, 2, 6, 4711, *(4, 5, 0xFFFFFFFF),
                   *(16, 7, 0xFFFFFFFF), *(32, 1, 0xFFFFFFFF))  # fmt: skip
"""posix_acl_xattr.h: version 2, then tag, rights, id: owner, a user, group, mask, others."""
_XATTR_MAX = 65536
_LINK_MAX = 4095
_FILE_MAX = (16 << 40) - 4096
"""Bytes: what ext4 with blocks of 4 KiB can hold."""


class _Kept(Exception):
    """Not raised for an error: what the file system made of an attribute, in words."""


class _Place:
    """A directory for trials. Paths lead through its descriptor, which os.setxattr needs."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._made = 0

    def name(self) -> str:
        self._made += 1
        return f"/proc/self/fd/{self.fd}/{self._made}"

    def file(self) -> str:
        path = self.name()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return path

    def dir(self) -> str:
        path = self.name()
        os.mkdir(path, 0o700)
        return path

    def link(self, target: bytes = b"target") -> str:
        path = self.name()
        os.symlink(target, path)
        return path


@dataclass(frozen=True, slots=True)
class Trial:
    """An attribute: its name, how it is tried, and whether it can be kept aside. The trial raises
    OSError where it is refused, _Kept where something else was made of it."""

    name: str
    run: Callable[[_Place], None]
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of an attribute: kept exactly, or why not."""

    name: str
    kept: bool
    why: str = ""


def _same(found: object, wanted: object) -> None:
    if found != wanted:
        raise _Kept(f"{wanted} became {found}")


# ------------------------------------------------------------------------------- the trials


def _owner(place: _Place) -> None:
    for path in (place.file(), place.dir()):
        os.lchown(path, 2_000_000_001, 2_000_000_002)
        now = os.lstat(path)
        _same((now.st_uid, now.st_gid), (2_000_000_001, 2_000_000_002))


def _mode(place: _Place) -> None:
    for path, mode in ((place.file(), 0o751), (place.file(), 0o044), (place.dir(), 0o711)):
        os.chmod(path, mode)
        _same(oct(stat.S_IMODE(os.stat(path).st_mode)), oct(mode))


def _set_id(place: _Place) -> None:
    for path, mode in ((place.file(), 0o6755), (place.dir(), 0o3755)):
        os.chmod(path, mode)
        _same(oct(stat.S_IMODE(os.stat(path).st_mode)), oct(mode))


def _time(seconds: int, ns: int, make: Callable[[_Place], str]) -> Callable[[_Place], None]:
    def trial(place: _Place) -> None:
        path = make(place)
        wanted = seconds * 10**9 + ns
        os.utime(path, ns=(wanted, wanted), follow_symlinks=False)
        found = os.lstat(path).st_mtime_ns
        whole, part = divmod(found, 10**9)
        if (whole, part if ns else 0) != (seconds, ns):
            raise _Kept(f"{seconds}.{ns:09} became {whole}.{part:09}")

    return trial


def _symlinks(place: _Place) -> None:
    path = place.link(b"\xff not there")
    _same(os.readlink(os.fsencode(path)), b"\xff not there")


def _long_symlinks(place: _Place) -> None:
    _largest(_LINK_MAX, lambda n: place.link(b"n" * n), "a target")


def _xattrs(prefix: str) -> Callable[[_Place], None]:
    def trial(place: _Place) -> None:
        for path in (place.file(), place.dir()):
            _set(path, f"{prefix}.i2node", b"\0\xff value")

    return trial


def _set(path: str, name: str, value: bytes) -> None:
    os.setxattr(path, name, value, follow_symlinks=False)
    if os.getxattr(path, name, follow_symlinks=False) != value:
        raise _Kept("another value was read than was set")


def _large_xattrs(place: _Place) -> None:
    """In the first namespace that can be written to."""
    name = "trusted.i2node"
    with suppress(OSError):
        _set(place.file(), "user.i2node", b"")
        name = "user.i2node"
    _largest(_XATTR_MAX, lambda n: _set(place.file(), name, b"v" * n), "a value")


def _largest(most: int, made: Callable[[int], object], what: str) -> None:
    """Raises where `most` bytes are refused; says how many are not."""
    try:
        made(most)
        return
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EROFS):
            raise
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        try:
            made(middle)
            low = middle
        except OSError:
            high = middle
    raise _Kept(f"{what} has at most {low:,} bytes")


def _acl(name: str, make: Callable[[_Place], str]) -> Callable[[_Place], None]:
    def trial(place: _Place) -> None:
        _set(make(place), name, _ACL)

    return trial


def _hard_links(place: _Place) -> None:
    path, other = place.file(), place.name()
    os.link(path, other)
    here, there = os.stat(path), os.stat(other)
    _same((there.st_ino, here.st_nlink), (here.st_ino, 2))


def _holes(place: _Place) -> None:
    """Two MiB of hole between two blocks."""
    fd = os.open(place.file(), os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, bytes([1]) * 65536, 0)
        os.pwrite(fd, bytes([1]) * 65536, 2 << 20)
        if os.lseek(fd, 0, os.SEEK_HOLE) >= 2 << 20:
            raise _Kept("a hole is not told from zeros")
    finally:
        os.close(fd)


def _flags(flags: dict[str, int]) -> Callable[[_Place], None]:
    """Of a directory, which has all those that a file has."""

    def trial(place: _Place) -> None:
        fd = os.open(place.dir(), os.O_RDONLY | os.O_CLOEXEC)
        try:
            now = _int(fcntl.ioctl(fd, _GETFLAGS, bytes(8)))
            refused = [name for name, bit in flags.items() if not _flag_kept(fd, now, bit)]
        finally:
            os.close(fd)
        if refused:
            raise _Kept("not " + ", ".join(refused))

    return trial


def _flag_kept(fd: int, now: int, bit: int) -> bool:
    """Leaves the file as it was: what is locked could not be taken away."""
    try:
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("=Q", now | bit))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    kept = bool(_int(fcntl.ioctl(fd, _GETFLAGS, bytes(8))) & bit)
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("=Q", now))
    return kept


def _int(packed: bytes) -> int:
    return int(struct.unpack_from("=I", packed)[0])


def _project(place: _Place) -> None:
    fd = os.open(place.dir(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = list(_XATTR.unpack(fcntl.ioctl(fd, _GETXATTR, bytes(_XATTR.size))))
        fields[_PROJECT] = 4711
        fcntl.ioctl(fd, _SETXATTR, _XATTR.pack(*fields))
        found = _XATTR.unpack(fcntl.ioctl(fd, _GETXATTR, bytes(_XATTR.size)))
        _same(found[_PROJECT], 4711)
        if not _flag_kept(fd, _int(fcntl.ioctl(fd, _GETFLAGS, bytes(8))), _PROJINHERIT):
            raise _Kept("not projinherit")
    finally:
        os.close(fd)


def _node(*made: tuple[int, int]) -> Callable[[_Place], None]:
    def trial(place: _Place) -> None:
        for kind, device in made:
            path = place.name()
            os.mknod(path, kind | 0o600, device)
            found = os.lstat(path)
            _same((stat.S_IFMT(found.st_mode), found.st_rdev), (kind, device))

    return trial


def _named(*names: bytes) -> Callable[[_Place], None]:
    def trial(place: _Place) -> None:
        path = place.dir()
        for name in names:
            os.close(os.open(f"{path}/".encode() + name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        if sorted(os.listdir(os.fsencode(path))) != sorted(names):
            raise _Kept("another name was read than was given")

    return trial


def _large_files(place: _Place) -> None:
    path = place.file()
    _largest(_FILE_MAX, lambda n: os.truncate(path, n), "a file")


_ANY_BYTE = bytes(b for b in range(1, 256) if b != ord("/"))

ATTRIBUTES: Sequence[Trial] = (
    Trial("owner", _owner, aside=True),
    Trial("mode", _mode, aside=True),
    Trial("set-id", _set_id, aside=True),
    Trial("nanoseconds", _time(1_234_567_890, 123_456_789, _Place.file), aside=True),
    Trial("before-1970", _time(-1_000_000_000, 0, _Place.file), aside=True),
    Trial("after-2038", _time(4_102_444_800, 0, _Place.file), aside=True),
    Trial("after-2446", _time(15_800_000_000, 0, _Place.file), aside=True),
    Trial("symlink-times", _time(1_234_567_890, 0, _Place.link), aside=True),
    Trial("user-xattrs", _xattrs("user"), aside=True),
    Trial("trusted-xattrs", _xattrs("trusted"), aside=True),
    Trial("security-xattrs", _xattrs("security"), aside=True),
    Trial("large-xattrs", _large_xattrs, aside=True),
    Trial("acl", _acl("system.posix_acl_access", _Place.file), aside=True),
    Trial("default-acl", _acl("system.posix_acl_default", _Place.dir), aside=True),
    Trial("flags", _flags(_FLAGS), aside=True),
    Trial("sync-flag", _flags(_SYNC), aside=True),
    Trial("ext-flags", _flags(_EXT_FLAGS), aside=True),
    Trial("project", _project, aside=True),
    Trial("hard-links", _hard_links),
    Trial("holes", _holes),
    Trial("symlinks", _symlinks),
    Trial("long-symlinks", _long_symlinks),
    Trial(
        "devices",
        _node((stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(259, 4711))),
        aside=True,
    ),
    Trial("fifos", _node((stat.S_IFIFO, 0)), aside=True),
    Trial("sockets", _node((stat.S_IFSOCK, 0)), aside=True),
    Trial("any-name", _named(_ANY_BYTE, b"\xff\xfe", b" ends with a dot.", b"con")),
    Trial("long-names", _named(b"n" * 255)),
    Trial("like-names", _named(b"name", b"Name", "é".encode(), "e\u0301".encode())),
    Trial("large-files", _large_files),
)
"""All that is looked at, in the order in which it is shown."""

NAMES = tuple(trial.name for trial in ATTRIBUTES)
OWNERS = frozenset({"owner", "set-id", "trusted-xattrs", "security-xattrs", "acl", "default-acl"})
"""Those that a rule without owners does not carry."""


_DIRECTORY = "trials"


def sweep(fd: int) -> None:
    """Takes away what a crash left of trials in the open directory fd."""
    try:
        names = os.listdir(f"/proc/self/fd/{fd}/{_DIRECTORY}")
    except FileNotFoundError:
        return
    for name in names:
        with suppress(OSError):
            _unlock(f"/proc/self/fd/{fd}/{_DIRECTORY}/{name}")
    shutil.rmtree(_DIRECTORY, dir_fd=fd)


def _unlock(path: str) -> None:
    """A crash may have left a flag on it that was tried."""
    tried = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tried, _SETFLAGS, bytes(8))
    finally:
        os.close(tried)


def try_all(fd: int) -> tuple[Finding, ...]:
    """Tries every attribute in a directory of its own below the open directory fd, and takes that
    away again. Raises OSError where the disk is full, or not even an empty file can be made."""
    os.mkdir(_DIRECTORY, mode=0o700, dir_fd=fd)
    try:
        inside = os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            place = _Place(inside)
            place.file()
            return tuple(_finding(trial, place) for trial in ATTRIBUTES)
        finally:
            os.close(inside)
    finally:
        shutil.rmtree(_DIRECTORY, dir_fd=fd)


def _finding(trial: Trial, place: _Place) -> Finding:
    try:
        trial.run(place)
    except _Kept as kept:
        return Finding(trial.name, False, str(kept))
    except OSError as error:
        if error.errno in FATAL:
            raise
        number = errno.EOPNOTSUPP if error.errno == errno.ENOTTY else error.errno or 0
        return Finding(trial.name, False, os.strerror(number))
    return Finding(trial.name, True)


# ------------------------------------------------------------------------------- a source

_ASKED = {
    "user-xattrs": "user.i2node",
    "trusted-xattrs": "trusted.i2node",
    "security-xattrs": "security.i2node",
    "acl": "system.posix_acl_access",
    "default-acl": "system.posix_acl_default",
}
_NO_UNIX = frozenset(
    {"owner", "mode", "set-id", "nanoseconds", "before-1970", "symlink-times", "hard-links"}
    | {"holes", "symlinks", "long-symlinks", "devices", "fifos", "sockets", "any-name"}
    | {"like-names", "flags", "sync-flag", "ext-flags", "project", "large-xattrs", "large-files"}
)
_SMALL_INODES = frozenset({"nanoseconds", "after-2038"})
"""What ext4 has no room for in inodes of 128 bytes, nor for a time of birth."""
_TYPES: dict[bytes, frozenset[str]] = {
    **dict.fromkeys((b"ext2", b"ext3", b"ext4"), frozenset({"after-2446"})),
    b"xfs": frozenset({"long-symlinks", "ext-flags"}),
    b"tmpfs": frozenset({"project", "sync-flag", "ext-flags"}),
    **dict.fromkeys((b"vfat", b"msdos", b"exfat"), _NO_UNIX),
}


def cannot(fd: int, born: bool, owners: bool = True) -> frozenset[str]:
    """The attributes that nothing on the file system of an open directory can have, by what is
    known of its type and by what reading tells; without owners (model.MirrorOptions) none of those
    either. What is not told of counts as possible. born: the file system keeps times of birth."""
    kind = mounts.kind_of(fd)
    found = set(_TYPES.get(kind, ()))
    for name, xattr in _ASKED.items():
        try:
            os.getxattr(fd, xattr)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                found.add(name)
    if found.issuperset(list(_ASKED)[:3]):
        found.add("large-xattrs")
    for names, request, room in (
        (("flags", "sync-flag", "ext-flags"), _GETFLAGS, 8),
        (("project",), _GETXATTR, _XATTR.size),
    ):
        try:
            fcntl.ioctl(fd, request, bytes(room))
        except OSError:
            found.update(names)
    if kind == b"ext4" and not born:
        found |= _SMALL_INODES
    if not owners:
        found |= OWNERS
    return frozenset(found)
