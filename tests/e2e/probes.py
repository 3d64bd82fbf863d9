"""What there is to be kept of a source: one probe for each attribute.

A probe makes its thing in an empty directory, and later changes it.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass

from inode import COLLAPSE, INSERT, KEEP_SIZE, PUNCH, ZERO, allocate, flag, project
from oddities import ACL, CAPABILITY, DEFAULT_ACL, inside, mark, put

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
DAY_NS = 86_400 * 10**9
LONGEST = bytes(b for b in range(1, 256) if b != ord("/")) + b"~"


def nothing(_: int) -> None:
    """Of a probe that nothing happens to."""


@dataclass(frozen=True)
class Probe:
    """make(fd) makes the thing in an empty directory, change(fd) is done to it when it has been
    replicated; `facts` are those of Seen, and of `more`, that belong to it. source: a file system
    that can hold it. unheard: the kernel tells nobody of the change."""

    what: str
    make: Callable[[int], None]
    change: Callable[[int], None]
    facts: tuple[str, ...]
    source: str = "xfs"
    unheard: bool = False


# ---------------------------------------------------------------------------- kinds and names


def kinds(here: int) -> None:
    put(here, b"file")
    os.mkdir(b"directory", dir_fd=here)
    os.symlink(b"file", b"symlink", dir_fd=here)
    os.mkfifo(b"fifo", dir_fd=here)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(b"/proc/self/fd/%d/socket" % here)


def other_kinds(here: int) -> None:
    for name in (b"file", b"symlink", b"fifo", b"socket"):
        os.unlink(name, dir_fd=here)
    os.rmdir(b"directory", dir_fd=here)
    os.mkfifo(b"directory", dir_fd=here)
    os.mkdir(b"fifo", dir_fd=here)
    put(here, b"socket")
    os.symlink(b"\xff", b"file", dir_fd=here)


def devices(here: int) -> None:
    os.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), dir_fd=here)
    os.mknod(b"disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000), dir_fd=here)


def other_devices(here: int) -> None:
    os.unlink(b"null", dir_fd=here)
    os.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(511, 262_143), dir_fd=here)


def symlinks(length: int) -> Callable[[int], None]:
    def make(here: int) -> None:
        for target in (b"plain", b"/nowhere\n", b"\xff", b"t" * length):
            os.symlink(target, b"%d" % len(target), dir_fd=here)

    return make


def names(here: int) -> None:
    put(here, LONGEST)
    for byte in range(1, 256):
        if byte not in b"./":
            put(here, bytes([byte]))
    os.mkdir(LONGEST[::-1], dir_fd=here)


def other_names(here: int) -> None:
    os.rename(LONGEST, LONGEST[100:], src_dir_fd=here, dst_dir_fd=here)
    with inside(LONGEST[::-1], here) as below:
        os.rename(b"\n", LONGEST, src_dir_fd=here, dst_dir_fd=below)


def deep(here: int) -> None:
    here = os.dup(here)
    for i in range(30):
        name = (b"%02d" % i).ljust(200, b"d")
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        put(below, b"file", b"%d" % i)
        os.close(here)
        here = below
    os.close(here)


def down(here: int, levels: int) -> int:
    """A descriptor of a directory of `deep`."""
    here = os.dup(here)
    for _ in range(levels):
        (name,) = (n for n in os.listdir(here) if len(n) == 200)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    return here


def deep_down(here: int) -> None:
    """At the bottom things come, change and go; half-way up a directory is renamed."""
    bottom, middle = down(here, 30), down(here, 15)
    put(bottom, b"new", b"new")
    with open(b"/proc/self/fd/%d/file" % bottom, "ab") as file:
        file.write(b" and more")
    os.mkdir(b"below", dir_fd=bottom)
    (name,) = (n for n in os.listdir(middle) if len(n) == 200)
    os.rename(name, b"renamed".ljust(200, b"r"), src_dir_fd=middle, dst_dir_fd=middle)
    os.rename(b"file", b"moved up", src_dir_fd=bottom, dst_dir_fd=here)
    os.unlink(b"file", dir_fd=middle)
    os.close(bottom)
    os.close(middle)


# ---------------------------------------------------------------------------- modes and times

MODES = (0o4755, 0o2711, 0o1666, 0o6710, 0o7777, 0o000)


def modes(here: int) -> None:
    for mode in MODES:
        put(here, b"f%o" % mode)
        os.mkdir(b"d%o" % mode, dir_fd=here)
        for kind in (b"f", b"d"):
            os.chown(kind + b"%o" % mode, 4711, 4712, dir_fd=here)
            os.chmod(kind + b"%o" % mode, mode, dir_fd=here)


def other_modes(here: int) -> None:
    """A change of the owner takes set-id bits away; and the mode itself changes."""
    for mode, other in zip(MODES, MODES[::-1], strict=True):
        os.chown(b"f%o" % mode, 4713, 4714, dir_fd=here)
        os.chmod(b"d%o" % mode, other, dir_fd=here)
    os.chmod(b"f4755", 0o4755, dir_fd=here)


def owners(here: int) -> None:
    for i, owner in enumerate(((1, 2), (2**31 + 5, 2**32 - 2), (65534, 65534))):
        put(here, b"f%d" % i)
        os.symlink(b"to", b"s%d" % i, dir_fd=here)
        os.mkdir(b"d%d" % i, dir_fd=here)
        for kind in (b"f", b"s", b"d"):
            os.chown(kind + b"%d" % i, *owner, dir_fd=here, follow_symlinks=False)


def other_owners(here: int) -> None:
    for name in (b"f0", b"s1", b"d2"):
        os.chown(name, 4711, 2**31 + 1, dir_fd=here, follow_symlinks=False)


def times(*moments: int) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Files, symlinks and directories of these mtimes (ns); then each has another one's."""

    def stamp(here: int, shift: int) -> None:
        for i in range(len(moments)):
            moment = moments[(i + shift) % len(moments)]
            for kind in (b"f", b"s", b"d"):
                name = kind + b"%d" % i
                os.utime(name, ns=(0, moment), dir_fd=here, follow_symlinks=False)

    def make(here: int) -> None:
        for i in range(len(moments)):
            put(here, b"f%d" % i)
            os.symlink(b"to", b"s%d" % i, dir_fd=here)
            os.mkdir(b"d%d" % i, dir_fd=here)
        stamp(here, 0)

    return make, lambda here: stamp(here, 1)


def read_at(here: int) -> None:
    put(here, b"read")
    os.utime(b"read", ns=(10**18 + 1, 10**18), dir_fd=here)


# ---------------------------------------------------------------------------- attributes


def marks(*attributes: tuple[str, bytes]) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """A file and a directory with these, and one of each that gets them later, as the others lose
    them one by one."""

    def stamp(here: int, kind: bytes) -> None:
        for name, value in attributes:
            assert mark(here, kind, name, value), f"the source takes no {name}"

    def make(here: int) -> None:
        for kind in (b"with", b"later", b"other value"):
            put(here, kind + b" f")
            os.mkdir(kind + b" d", dir_fd=here)
        for kind in (b"with f", b"with d", b"other value f"):
            stamp(here, kind)

    def change(here: int) -> None:
        stamp(here, b"later f")
        stamp(here, b"later d")
        for kind in (b"with f", b"with d"):
            os.removexattr(b"/proc/self/fd/%d/%s" % (here, kind), attributes[0][0])
        name, value = attributes[-1]
        mark(here, b"other value f", name, value[:-1] + bytes([value[-1] ^ 1]) if value else b"x")

    return make, change


def capable(here: int) -> None:
    for name in (b"plain", b"of another"):
        put(here, name, mode=0o755)
    os.chown(b"of another", 4711, 4712, dir_fd=here)
    for name in (b"plain", b"of another"):
        mark(here, name, "security.capability", CAPABILITY)


def less_capable(here: int) -> None:
    """The kernel takes a capability away when the owner changes, or the content."""
    os.chown(b"of another", 4713, 4714, dir_fd=here)
    mark(here, b"of another", "security.capability", CAPABILITY)
    with open(b"/proc/self/fd/%d/plain" % here, "ab") as file:
        file.write(b"more")


def labels(here: int) -> None:
    for name in (b"one", b"other"):
        put(here, name)
        mark(here, name, "security.selinux", b"system_u:object_r:etc_t:s0\0")


def other_labels(here: int) -> None:
    """A label that was given is not taken away again (selinux(8))."""
    mark(here, b"one", "security.selinux", b"system_u:object_r:tmp_t:s0\0")


def access_lists(here: int) -> None:
    for name in (b"with", b"later", b"given a mode"):
        put(here, name, mode=0o640)
        os.mkdir(name + b" d", mode=0o750, dir_fd=here)
    for name in (b"with", b"with d", b"given a mode"):
        mark(here, name, "system.posix_acl_access", ACL)


def other_access_lists(here: int) -> None:
    for name in (b"with", b"with d"):
        os.removexattr(b"/proc/self/fd/%d/%s" % (here, name), "system.posix_acl_access")
    for name in (b"later", b"later d"):
        mark(here, name, "system.posix_acl_access", ACL)
    os.chmod(b"given a mode", 0o2604, dir_fd=here)


def defaults(here: int) -> None:
    for name in (b"with", b"later"):
        os.mkdir(name, dir_fd=here)
    mark(here, b"with", "system.posix_acl_default", DEFAULT_ACL)
    with inside(b"with", here) as there:
        put(there, b"inherits")


def other_defaults(here: int) -> None:
    os.removexattr(b"/proc/self/fd/%d/with" % here, "system.posix_acl_default")
    mark(here, b"later", "system.posix_acl_default", DEFAULT_ACL)
    for name in (b"with", b"later"):
        with inside(name, here) as there:
            put(there, b"new")


def link_marks(here: int) -> None:
    symlinks(10)(here)
    devices(here)
    mark(here, b"5", "trusted.link", b"l")
    mark(here, b"null", "trusted.device", b"\0")


def other_link_marks(here: int) -> None:
    os.removexattr(b"/proc/self/fd/%d/5" % here, "trusted.link", follow_symlinks=False)
    mark(here, b"10", "trusted.empty", b"")
    mark(here, b"disk", "trusted.device", b"d")


# ---------------------------------------------------------------------------- links


def links(here: int) -> None:
    put(here, b"a", b"a" * 10_000)
    os.symlink(b"to", b"s", dir_fd=here)
    os.mkfifo(b"p", dir_fd=here)
    put(here, b"alone", b"alone")
    os.mkdir(b"there", dir_fd=here)
    with inside(b"there", here) as there:
        for name in (b"a", b"s", b"p"):
            os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
            os.link(name, b"2" + name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def other_links(here: int) -> None:
    """One more, one less, one made another file, and one written through."""
    with inside(b"there", here) as there:
        os.link(b"alone", b"no more", src_dir_fd=here, dst_dir_fd=there)
        os.unlink(b"s", dir_fd=there)
        os.unlink(b"2a", dir_fd=there)
        put(there, b"2a", b"a" * 10_000)
        with open(b"/proc/self/fd/%d/a" % there, "ab") as file:
            file.write(b"more")


# ---------------------------------------------------------------------------- contents


def write(here: int, name: bytes, at: int, data: bytes) -> None:
    fd = os.open(name, os.O_RDWR | os.O_CREAT, dir_fd=here)
    try:
        os.pwrite(fd, data, at)
    finally:
        os.close(fd)


SIZES = (0, 1, 4095, 4096, 65_536, 300_000, 3 * MIB + 7)


def contents(here: int) -> None:
    for size in SIZES:
        put(here, b"%d" % size, os.urandom(size))


def other_contents(here: int) -> None:
    for size in SIZES:
        write(here, b"%d" % size, size // 2, b"written")
    os.truncate(b"/proc/self/fd/%d/300000" % here, 5000)


def holes(here: int) -> None:
    for size in (64 * KIB, 8 * MIB):
        put(here, b"zeros%d" % size, bytes(size))
        for name in (b"sparse", b"full"):
            write(here, name + b"%d" % size, 0, os.urandom(size) if name == b"full" else b"")
            write(here, name + b"%d" % size, size - 5000, b"end")
        write(here, b"sparse%d" % size, size // 2, b"middle")
        for name in (b"only a hole", b"to be zeros"):
            write(here, name + b"%d" % size, 0, b"")
            os.truncate(b"/proc/self/fd/%d/%s%d" % (here, name, size), size)


def other_holes(here: int) -> None:
    """Punched and filled, also by what leaves the content as it is."""
    for size in (64 * KIB, 8 * MIB):
        allocate(here, b"zeros%d" % size, PUNCH | KEEP_SIZE, 16 * KIB, 24 * KIB)
        allocate(here, b"full%d" % size, PUNCH | KEEP_SIZE, 8 * KIB, 16 * KIB)
        write(here, b"sparse%d" % size, 16 * KIB, b"filled")
        status = os.stat(b"only a hole%d" % size, dir_fd=here)
        write(here, b"to be zeros%d" % size, 0, bytes(size))
        write(here, b"only a hole%d" % size, 32 * KIB, bytes(4 * KIB))
        os.utime(b"only a hole%d" % size, ns=(0, status.st_mtime_ns), dir_fd=here)


def zeros(here: int) -> None:
    for size in (64 * KIB, 8 * MIB):
        put(here, b"%d" % size, bytes(size))


def other_zeros(here: int) -> None:
    for size in (64 * KIB, 8 * MIB):
        write(here, b"%d" % size, 8 * KIB, b"not zero")
        write(here, b"new%d" % size, 0, b"x" * (8 * KIB) + bytes(size - 8 * KIB))


def ranges(here: int) -> None:
    for size in (64 * KIB, 8 * MIB):
        for name in (b"zeroed", b"collapsed", b"inserted"):
            put(here, name + b"%d" % size, os.urandom(size))


def other_ranges(here: int) -> None:
    for size in (64 * KIB, 8 * MIB):
        allocate(here, b"zeroed%d" % size, ZERO, 8 * KIB, 16 * KIB)
        allocate(here, b"collapsed%d" % size, COLLAPSE, 8 * KIB, 16 * KIB)
        allocate(here, b"inserted%d" % size, INSERT, 8 * KIB, 16 * KIB)


def reserved(here: int) -> None:
    for name, how in ((b"inside", 0), (b"behind", KEEP_SIZE)):
        put(here, name, b"x" * 8192)
        allocate(here, name, how, 0, 2 * MIB)


def huge(here: int) -> None:
    put(here, b"huge", b"begin")
    os.truncate(b"/proc/self/fd/%d/huge" % here, TIB)
    write(here, b"huge", TIB // 2, b"middle")


def other_huge(here: int) -> None:
    write(here, b"huge", TIB - 3, b"end")
    allocate(here, b"huge", PUNCH | KEEP_SIZE, TIB // 2, 4096)


# ---------------------------------------------------------------------------- inode flags


def flags(here: int) -> None:
    for name, letters in ((b"f", "i"), (b"a", "a"), (b"d", "dA"), (b"S", "S"), (b"n", "")):
        put(here, name)
        flag(here, name, letters)
    os.mkdir(b"dir", dir_fd=here)
    flag(here, b"dir", "Ad")
    os.mkdir(b"sealed", dir_fd=here)
    with inside(b"sealed", here) as below:
        put(below, b"inside")
    flag(here, b"sealed", "i")


def other_flags(here: int) -> None:
    """Lifted, written to, and set again; given, and taken."""
    for name in (b"f", b"a"):
        flag(here, name, "")
        write(here, name, 0, b"changed under another flag")
    flag(here, b"f", "i")
    flag(here, b"n", "d")
    flag(here, b"d", "")
    flag(here, b"sealed", "")
    with inside(b"sealed", here) as below:
        put(below, b"more")
    flag(here, b"sealed", "i")


def projects(here: int) -> None:
    put(here, b"file")
    os.mkdir(b"dir", dir_fd=here)
    project(here, b"file", 4711)
    project(here, b"dir", 2**31 + 1, True)
    with inside(b"dir", here) as below:
        put(below, b"inherits")


def other_projects(here: int) -> None:
    project(here, b"file", 0)
    with inside(b"dir", here) as below:
        project(below, b"inherits", 42)
        put(below, b"later")


# ---------------------------------------------------------------------------- the list

PRESENT, WORTH = 1_700_000_000_123_456_789, bytes(range(256))

PROBES = (
    Probe("type: file, directory, symlink, fifo, socket", kinds, other_kinds, ("kind",)),
    Probe("device numbers", devices, other_devices, ("kind", "device")),
    Probe("content, size", contents, other_contents, ("size", "hash")),
    Probe("mode: setuid, setgid, sticky, none", modes, other_modes, ("mode",)),
    Probe("owner and group, of 32 bits", owners, other_owners, ("owner",)),
    Probe("mtime to the nanosecond", *times(10**18 + 1, PRESENT), ("mtime",)),
    Probe("mtime before 1970", *times(-1, -2_000_000_000 * 10**9 - 1), ("mtime",)),
    Probe("mtime from 2038 to 2446", *times(2**31 * 10**9 + 1, 15 * 10**18 + 9), ("mtime",)),
    Probe("mtime behind 2446", *times(15_032_385_536 * 10**9 + 1, 16 * 10**18 + 9), ("mtime",)),
    Probe("names of any byte, 255 long", names, other_names, ("kind",)),
    Probe("paths of more than 4,096 bytes", deep, deep_down, ("kind", "content", "mtime")),
    Probe("symlinks to 1,023 bytes", symlinks(1023), nothing, ("target",)),
    Probe("symlinks to 4,095 bytes", symlinks(4095), nothing, ("target",), "ext4"),
    Probe("hard links", links, other_links, ("names", "same as", "hash")),
    Probe("user.*", *marks(("user.a", WORTH), ("user.empty", b"")), ("attributes",)),
    Probe("user.* of 64 KiB", *marks(("user.big", WORTH * 256)), ("attributes",)),
    Probe("trusted.*", *marks(("trusted.t", b"\0\xff")), ("attributes",)),
    Probe("trusted.* of symlinks, devices", link_marks, other_link_marks, ("attributes",)),
    Probe("security.capability", capable, less_capable, ("attributes", "owner", "hash")),
    Probe("security.selinux", labels, other_labels, ("attributes",)),
    Probe("security.ima", *marks(("security.ima", b"\4\4" + bytes(32))), ("attributes",)),
    Probe("access ACL", access_lists, other_access_lists, ("attributes", "mode")),
    Probe("default ACL", defaults, other_defaults, ("attributes", "mode")),
    Probe("holes, also punched and filled", holes, other_holes, ("holes", "hash")),
    Probe("zeros that are no holes", zeros, other_zeros, ("holes", "hash")),
    Probe("ranges zeroed, collapsed, inserted", ranges, other_ranges, ("size", "hash")),
    Probe("a file of 1 TiB", huge, other_huge, ("size", "hash", "holes")),
    Probe("room reserved, not written", reserved, nothing, ("allocated",)),
    Probe("chattr +i +a +d +A +S", flags, other_flags, ("flags", "kind", "hash"), unheard=True),
    Probe("project id, inherited", projects, other_projects, ("project",), unheard=True),
    Probe("access time", read_at, nothing, ("atime",)),
)
