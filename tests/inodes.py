"""File flags and projects of inodes, as the kernel tells them: ioctl_iflags(2) and
ioctl_xfs_fsgetxattr(2)."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_GET_XATTR, _SET_XATTR = 0x801C581F, 0x401C5820
SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME = 0x8, 0x10, 0x20, 0x40, 0x80
DIRSYNC, HEIR = 0x10000, 0x20000000
CARRIED = 0x200100FB
"""The flags that a mirror carries (inode.h)."""


def inode_of(path: Path) -> tuple[int, int]:
    """Flags and project; none where the file system has no such thing."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        flags = struct.unpack("I", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))[0] & CARRIED
        return flags, struct.unpack("5I8x", fcntl.ioctl(fd, _GET_XATTR, bytes(28)))[3]
    except OSError:
        return 0, 0
    finally:
        os.close(fd)


def give(path: Path, flags: int = 0, *, less: int = 0) -> bool:
    """Sets flags, clears `less`; False where the file system has no such flags."""
    fd = os.open(path, os.O_RDONLY)
    try:
        now = struct.unpack("I", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))[0]
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("I", now & ~less | flags))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def into_project(path: Path, project: int) -> bool:
    """False where the file system has no projects."""
    fd = os.open(path, os.O_RDONLY)
    try:
        state = bytearray(fcntl.ioctl(fd, _GET_XATTR, bytes(28)))
        struct.pack_into("I", state, 12, project)
        fcntl.ioctl(fd, _SET_XATTR, bytes(state))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def unlock(top: Path) -> None:
    """Takes away what would keep a tree from being changed or removed."""
    subprocess.run(["chattr", "-R", "-f", "-ia", str(top)], check=False)


def record(flags: int, project: int = 0) -> bytes:
    """As the extended attributes of a step have it."""
    return struct.pack("<HHI", 12, 0, 8) + b"i2node.inode" + struct.pack("<II", flags, project)
