"""A tree of everything that file systems let be, and a walker of its own to compare it with.

Everything goes by directory descriptors: paths are longer here than the kernel takes in one piece.
"""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ID = 0xFFFFFFFF
DEEP = 200
MTIMES = (
    -2_000_000_000 * 10**9 - 1,
    -1,
    0,
    2**31 * 10**9 + 999_999_999,
    2**33 * 10**9 + 1,
    9_400_000_000 * 10**9 + 123_456_789,
)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACL = acl((1, 7, NO_ID), (2, 5, 4711), (4, 4, NO_ID), (16, 5, NO_ID), (32, 0, NO_ID))
DEFAULT_ACL = acl((1, 7, NO_ID), (2, 7, 4711), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID))
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@contextmanager
def inside(path: str | bytes | Path, dir_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def put(top: int, name: bytes, data: bytes = b"x", mode: int = 0o644) -> None:
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode, dir_fd=top)
    os.write(fd, data)
    os.fchmod(fd, mode)
    os.close(fd)


def mark(top: int, name: bytes, attribute: str, value: bytes) -> bool:
    """Sets an extended attribute, of a symlink too; False where the file system takes none such."""
    try:
        os.setxattr(b"/proc/self/fd/%d/%s" % (top, name), attribute, value, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.E2BIG, errno.ENOSPC, errno.ERANGE):
            return False
        raise
    return True


def grow(root: Path, wide: int = 300) -> None:
    """Fills an empty directory. wide: files in the widest directory."""
    with inside(root) as top:
        names(top)
        owners_and_times(top)
        attributes(top)
        links_and_nodes(top)
        contents(top)
        deep(top)
        os.mkdir(b"wide", dir_fd=top)
        with inside(b"wide", top) as there:
            for i in range(wide):
                put(there, b"%05d" % i, b"%d" % i)
    os.utime(root, ns=(0, 10**18 + 7))


def names(top: int) -> None:
    os.mkdir(b"names", dir_fd=top)
    with inside(b"names", top) as here:
        for name in (
            b"new\nline",
            b"\xff\xfe",
            b"n" * 255,
            b"-rf",
            b" ",
            b"\x1b[31m",
            b"...",
            b"%s",
        ):
            put(here, name, name)
        # As long as a name can be, and as our own temporary names.
        put(here, b".i2node-stage-000000000000")
        for letter in range(1, 256):
            if letter not in (ord("/"), ord("."), ord(" ")):
                os.mkdir(bytes([letter]), dir_fd=here)


def owners_and_times(top: int) -> None:
    os.mkdir(b"owners", dir_fd=top)
    with inside(b"owners", top) as here:
        for i, mode in enumerate((0o6755, 0o4711, 0o2644, 0o1666, 0o000, 0o7777)):
            put(here, b"set%d" % i, mode=mode)
            os.chown(b"set%d" % i, 4711, 4712, dir_fd=here)
            os.chmod(b"set%d" % i, mode, dir_fd=here)
        put(here, b"huge")
        os.chown(b"huge", 2**31 + 5, 2**32 - 2, dir_fd=here)
        os.mkdir(b"setgid", dir_fd=here)
        os.chown(b"setgid", 0, 4712, dir_fd=here)
        os.chmod(b"setgid", 0o2775, dir_fd=here)
        with inside(b"setgid", here) as there:
            put(there, b"inherits")
            os.mkdir(b"below", dir_fd=there)
            # Not the group that a new file would have there.
            put(there, b"other")
            os.chown(b"other", 1, 1, dir_fd=there)
        for i, mtime in enumerate(MTIMES):
            put(here, b"time%d" % i)
            os.symlink(b"to", b"link%d" % i, dir_fd=here)
            os.mkdir(b"dir%d" % i, dir_fd=here)
            for kind in (b"time", b"link", b"dir"):
                name = kind + b"%d" % i
                os.utime(name, ns=(0, mtime), dir_fd=here, follow_symlinks=False)


def attributes(top: int) -> None:
    os.mkdir(b"attributes", dir_fd=top)
    with inside(b"attributes", top) as here:
        put(here, b"many")
        for i in range(20):
            mark(here, b"many", f"user.n{i:02}", bytes([i]) * (i * 5))
        mark(here, b"many", "user.empty", b"")
        mark(here, b"many", "user." + "n" * 250, b"long name")
        mark(here, b"many", "trusted.t", b"\0\xff")
        put(here, b"capable", mode=0o755)
        mark(here, b"capable", "security.capability", CAPABILITY)
        put(here, b"set and capable")
        os.chown(b"set and capable", 4711, 4712, dir_fd=here)
        os.chmod(b"set and capable", 0o6755, dir_fd=here)
        mark(here, b"set and capable", "security.capability", CAPABILITY)
        for size in (3000, 16000, 65536):
            put(here, b"big%d" % size)
            mark(here, b"big%d" % size, "user.big", bytes([size % 251]) * size)
        put(here, b"access")
        mark(here, b"access", "system.posix_acl_access", ACL)
        put(here, b"labelled")
        mark(here, b"labelled", "security.selinux", b"system_u:object_r:etc_t:s0\0")
        os.mkdir(b"inherits", dir_fd=here)
        mark(here, b"inherits", "system.posix_acl_default", DEFAULT_ACL)
        mark(here, b"inherits", "system.posix_acl_access", ACL)
        mark(here, b"inherits", "user.directory", b"d")
        with inside(b"inherits", here) as there:
            put(there, b"with")
            os.mkdir(b"below", dir_fd=there)
            put(there, b"without")
            if mark(there, b"without", "user.x", b""):
                path = b"/proc/self/fd/%d/without" % there
                if "system.posix_acl_access" in os.listxattr(path):
                    os.removexattr(path, "system.posix_acl_access")


def links_and_nodes(top: int) -> None:
    os.mkdir(b"links", dir_fd=top)
    os.mkdir(b"links2", dir_fd=top)
    with inside(b"links", top) as here, inside(b"links2", top) as there:
        targets = (
            b"plain",
            b"t" * 1023,
            b"/nowhere\n",
            b"..",
            b".",
            b"/",
            b"\xff",
            b"self2",
            b"/etc",
        )
        for i, target in enumerate(targets):
            os.symlink(target, b"self%d" % i, dir_fd=here)
        os.chown(b"self0", 4711, 4712, dir_fd=here, follow_symlinks=False)
        mark(here, b"self0", "trusted.link", b"l")
        for group in range(3):
            put(here, b"a%d" % group, b"%d" % group * (group * 400_000 + 1))
            for name in range(group + 1):
                where = there if name % 2 else here
                os.link(
                    b"a%d" % group, b"b%d.%d" % (group, name), src_dir_fd=here, dst_dir_fd=where
                )
        os.link(b"self0", b"symlink", src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        os.mkfifo(b"fifo", 0o620, dir_fd=here)
        os.link(b"fifo", b"fifo", src_dir_fd=here, dst_dir_fd=there)
        os.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), dir_fd=here)
        os.mknod(b"block", stat.S_IFBLK | 0o600, os.makedev(259, 70000), dir_fd=here)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(b"/proc/self/fd/%d/socket" % here)


def contents(top: int) -> None:
    os.mkdir(b"contents", dir_fd=top)
    with inside(b"contents", top) as here:
        for size in (0, 1, 4095, 4096, 4097, 65536, 300_000, 1_048_576, 1_048_577, 3_000_000):
            put(here, b"zeros%d" % size, bytes(size))
            put(here, b"bytes%d" % size, bytes(range(1, 252)) * (size // 251) + b"e" * (size % 251))
        put(here, b"hole", b"")
        os.truncate(b"/proc/self/fd/%d/hole" % here, 300_000)
        fd = os.open(b"sparse", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here)
        os.ftruncate(fd, 1 << 33)
        for at in (1 << 20, 1 << 32, (1 << 33) - 5):
            os.pwrite(fd, b"data!", at)
        os.close(fd)


def deep(top: int) -> None:
    """A path of DEEP directories with names of 100 bytes."""
    here = os.dup(top)
    for i in range(DEEP):
        name = (b"%03d" % i).ljust(100, b"d")
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        put(there, b"file", b"%d" % i)
        os.close(here)
        here = there
    os.close(here)


# ------------------------------------------------------------------------------- the walker

Seen = dict[bytes, dict[str, object]]


def seen(root: Path, owners: bool = True, labels: bool = True) -> Seen:
    """All there is to see of a tree, by path."""
    found: Seen = {}
    first: dict[int, bytes] = {}

    def look(top: int, name: bytes, path: bytes) -> None:
        st = os.stat(name, dir_fd=top, follow_symlinks=False)
        through = b"/proc/self/fd/%d/%s" % (top, name)
        facts: dict[str, object] = {
            "kind": stat.S_IFMT(st.st_mode),
            "mode": stat.S_IMODE(st.st_mode),
            "mtime": st.st_mtime_ns,
            "attributes": {
                n: os.getxattr(through, n, follow_symlinks=False)
                for n in os.listxattr(through, follow_symlinks=False)
                if labels or n != "security.selinux"
            },
        }
        if owners:
            facts["owner"] = (st.st_uid, st.st_gid)
        if stat.S_ISREG(st.st_mode):
            facts["size"] = st.st_size
            facts["content"] = content(top, name)
        elif stat.S_ISLNK(st.st_mode):
            facts["target"] = os.readlink(name, dir_fd=top)
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            facts["device"] = st.st_rdev
        if not stat.S_ISDIR(st.st_mode):
            facts["names"] = st.st_nlink
            facts["same as"] = first.setdefault(st.st_ino, path)
        found[path] = facts
        if stat.S_ISDIR(st.st_mode):
            with inside(name, top) as here:
                for entry in sorted(map(os.fsencode, os.listdir(here))):
                    look(here, entry, path + b"/" + entry)

    with inside(root) as top:
        look(top, b".", b"")
    return found


def content(top: int, name: bytes) -> tuple[str, list[tuple[int, int]]]:
    """The hash of a file's data, and where it lies."""
    digest = hashlib.sha256()
    extents: list[tuple[int, int]] = []
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=top)
    try:
        size, at = os.fstat(fd).st_size, 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            extents.append((start, at))
            digest.update(os.pread(fd, at - start, start))
    finally:
        os.close(fd)
    return digest.hexdigest(), extents


def differences(one: Seen, other: Seen) -> list[str]:
    """What is not the same, for people."""
    found = [f"only in the first: {p[-80:]!r}" for p in one.keys() - other.keys()]
    found += [f"only in the second: {p[-80:]!r}" for p in other.keys() - one.keys()]
    for path in sorted(one.keys() & other.keys()):
        for fact, value in one[path].items():
            there = other[path].get(fact)
            if value != there:
                found.append(f"{path[-80:]!r} {fact}: {value!r:.200} / {there!r:.200}")
    return found
