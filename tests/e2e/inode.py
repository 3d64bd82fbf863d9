"""What an inode has beyond what stat tells: flags, a project, what is allocated; read and set."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import stat
import struct

KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 0x01, 0x02, 0x08, 0x10, 0x20
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
GET_XFLAGS, SET_XFLAGS = 0x801C581F, 0x401C5820
FIEMAP, UNWRITTEN = 0xC020660B, 0x800
FLAGS = {"S": 0x08, "i": 0x10, "a": 0x20, "d": 0x40, "A": 0x80}
"""Inode flags as chattr(1) writes them (ioctl_iflags(2)); those that XFS has too."""

_libc = ctypes.CDLL(None, use_errno=True)


def flag(here: int, name: bytes, letters: str) -> None:
    """Gives a file or directory these flags, and no other of FLAGS."""
    fd = os.open(name, os.O_RDONLY, dir_fd=here)
    try:
        (now,) = struct.unpack("i", fcntl.ioctl(fd, GET_FLAGS, bytes(4)))
        wanted = now & ~sum(FLAGS.values()) | sum(FLAGS[letter] for letter in letters)
        fcntl.ioctl(fd, SET_FLAGS, struct.pack("i", wanted))
    finally:
        os.close(fd)


def project(here: int, name: bytes, number: int, inherit: bool = False) -> None:
    fd = os.open(name, os.O_RDONLY, dir_fd=here)
    try:
        xflags, *rest = struct.unpack("<5I8x", fcntl.ioctl(fd, GET_XFLAGS, bytes(28)))
        rest[2] = number
        xflags = xflags & ~0x200 | (0x200 if inherit else 0)
        fcntl.ioctl(fd, SET_XFLAGS, struct.pack("<5I8x", xflags, *rest))
    finally:
        os.close(fd)


def allocate(here: int, name: bytes, how: int, at: int, span: int) -> None:
    """fallocate(2)."""
    fd = os.open(name, os.O_RDWR, dir_fd=here)
    try:
        if _libc.fallocate(fd, how, ctypes.c_long(at), ctypes.c_long(span)):
            raise OSError(ctypes.get_errno(), "fallocate", os.fsdecode(name))
    finally:
        os.close(fd)


def digest(fd: int) -> object:
    """Of what is not zero, wherever holes are."""
    found, at = hashlib.sha256(), 0
    while not stat.S_ISDIR(os.fstat(fd).st_mode):
        try:
            at = os.lseek(fd, at, os.SEEK_DATA) // 4096 * 4096
        except OSError:
            break
        if any(data := os.pread(fd, 4096, at)):
            found.update(b"%d " % at + data)
        at += 4096
    return found.hexdigest()


def flags_of(fd: int) -> object:
    try:
        (now,) = struct.unpack("i", fcntl.ioctl(fd, GET_FLAGS, bytes(4)))
    except OSError:
        return None
    return "".join(letter for letter, bit in FLAGS.items() if now & bit)


def project_of(fd: int) -> object:
    """The number, and whether what is made below inherits it."""
    try:
        xflags, _, _, number, _ = struct.unpack("<5I8x", fcntl.ioctl(fd, GET_XFLAGS, bytes(28)))
    except OSError:
        return None
    return number, bool(xflags & 0x200)


def extents(fd: int) -> list[tuple[int, int, int, int]]:
    """Of what is on disk: offset in the file, on the disk, length, flags (fiemap(5)). OSError."""
    room = 64
    answer = bytearray(struct.pack("<QQIIII", 0, 1 << 62, 1, 0, room, 0) + bytes(56 * room))
    fcntl.ioctl(fd, FIEMAP, answer)
    count = struct.unpack_from("<I", answer, 20)[0]
    return [struct.unpack_from("<QQQ16xI", answer, 32 + 56 * i) for i in range(count)]


def allocated(fd: int) -> object:
    """Extents that are reserved and not written: (offset, length), joined."""
    found: list[tuple[int, int]] = []
    try:
        held = extents(fd)
    except OSError:
        return None  # a directory
    for at, _, span, what in held:
        if what & UNWRITTEN and found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + span)
        elif what & UNWRITTEN:
            found.append((at, span))
    return found
