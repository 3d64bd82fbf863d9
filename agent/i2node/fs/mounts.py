"""Which mounts stand below a root, or write there, and when that changes (proc(5), mountinfo)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from i2node.fs.tree import within

_TABLE = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_LOCAL = frozenset(
    b"bcachefs btrfs exfat ext2 ext3 ext4 f2fs jfs nilfs2 ntfs3 overlay ramfs reiserfs tmpfs ubifs"
    b" udf vfat xfs zfs".split()
)
_MEMORY = frozenset(b"overlay ramfs tmpfs".split())
_POINT = 4  # the field of a line that says where the mount stands


class Mount(NamedTuple):
    """One mount. device: the number of its file system, major:minor; top: which directory of it
    stands at `point`; source: what was mounted."""

    device: bytes
    top: bytes
    point: bytes
    kind: bytes
    source: bytes


def parsed(table: bytes) -> list[Mount]:
    """The mounts of a mountinfo, in its order. Of those that stand at the same point, the last is
    the one that is seen."""
    found: list[Mount] = []
    for line in table.splitlines():
        fields, (kind, _, rest) = line.split(b" "), line.partition(b" - ")[2].partition(b" ")
        if kind and len(fields) > _POINT:
            source = _plain(rest.partition(b" ")[0])
            found.append(Mount(fields[2], _plain(fields[3]), _plain(fields[4]), kind, source))
    return found


def on_disk(table: bytes) -> list[Mount]:
    """Those of the file systems on this host's disks, each file system once, by their points. A
    directory that is bound to a second place is none; a subvolume of btrfs is one."""
    seen = {mount.point: mount for mount in parsed(table)}
    found: dict[tuple[bytes, bytes], Mount] = {}
    for mount in seen.values():
        whole = mount.top == b"/" or mount.kind == b"btrfs"
        if whole and mount.kind in _LOCAL - _MEMORY:
            found.setdefault((mount.device, mount.top), mount)
    return sorted(found.values(), key=lambda mount: mount.point)


def is_local(mount: Mount) -> bool:
    """Whether a look at it needs nothing but this host."""
    return mount.kind in _LOCAL


def table() -> bytes:
    """The mountinfo of this process's mount namespace."""
    return Path(_TABLE).read_bytes()


def points(table: bytes, root: bytes) -> frozenset[bytes]:
    """The mount points of a mountinfo below root, an absolute path, as paths relative to it."""
    below = root.rstrip(b"/") + b"/"
    found: set[bytes] = set()
    for line in table.splitlines():
        fields = line.split(b" ", _POINT + 1)
        if len(fields) <= _POINT:
            continue
        point = _plain(fields[_POINT])
        if point.startswith(below) and point != below:
            found.add(point[len(below) :])
    return frozenset(found)


def uppers(table: bytes, root: bytes) -> frozenset[bytes]:
    """Where the overlays of a mountinfo write to, of what is or may be below root; relative to it,
    b"" where that is not told. What comes there by an overlay's own hand raises no event for a file
    that is there already (before Linux 6.8), and no process is seen to hold it."""
    found: set[bytes] = set()
    for line in table.splitlines():
        kind, _, options = line.partition(b" - ")[2].partition(b" ")
        if kind != b"overlay":
            continue
        for option in options.rpartition(b" ")[2].split(b","):
            key, _, path = option.partition(b"=")
            if key == b"upperdir" and not path.startswith(b"/"):
                found.add(b"")  # from where it counts is not told
            elif key == b"upperdir" and within(real := os.path.realpath(_plain(path)), root):
                found.add(real[len(root) :].lstrip(b"/"))
    return frozenset(found)


def kind(table: bytes, mount: int) -> bytes:
    """The type of file system of a mountinfo's mount, by its number; b"" where there is none."""
    for line in table.splitlines():
        if line.startswith(b"%d " % mount):
            return line.partition(b" - ")[2].partition(b" ")[0]
    return b""


def kind_of(fd: int) -> bytes:
    """The same of the file system of an open file."""
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    mount = next((line for line in info.splitlines() if line.startswith("mnt_id:")), "mnt_id: 0")
    return kind(Path(_TABLE).read_bytes(), int(mount.split()[1]))


def is_shared(fd: int) -> bool:
    """Whether other hosts may write to the file system of an open file, or a server, of which the
    kernel here tells nothing: all are taken for such that are not known to be local."""
    return kind_of(fd) not in _LOCAL


def _plain(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), field)


class Mounts:
    """Those below one root, an absolute path. `descriptor` polls as POLLPRI when the table of this
    mount namespace changed. `uppers`: see there, as of the last call of `changed`."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self.descriptor = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        table = self._read()
        self._known = points(table, root)
        self.uppers = uppers(table, root)

    def changed(self) -> frozenset[bytes]:
        """The mount points that appeared or went since the last call, or since the beginning."""
        table = self._read()
        now = points(table, self._root)
        self.uppers = uppers(table, self._root)
        differing, self._known = now ^ self._known, now
        return differing

    def close(self) -> None:
        os.close(self.descriptor)

    def _read(self) -> bytes:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        parts: list[bytes] = []
        while part := os.read(self.descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
