"""A disk in a file, whose power can be cut and which can fail: one process, FUSE without a library.

It serves one regular file, the image, that a loop device stands on. What was written since the last
flush (FSYNC, which the loop device makes of each barrier) is remembered write by write. A cut keeps
what was flushed and a random part of the rest: any subset, or a prefix, some of the writes torn at
a sector of 4 KiB, as disks have them inside. With less, the superblock of ext4 could be torn: it is
1 KiB long, has a checksum, is written in place, and only e2fsck makes a file system of that again.
Nothing else is a disk bound to. Commands are JSON lines on stdin, answers on stdout.

See linux/fuse.h for the protocol, and fuse(4).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import select
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HEADER = struct.Struct("<IIQQIIIHH")
INIT_IN = struct.Struct("<4I")
INIT_OUT = struct.Struct("<4IHHIIHHI28x")
SPAN = struct.Struct("<QQI")
GETATTR, OPEN, READ, WRITE, RELEASE, FSYNC, FLUSH, INIT = 3, 14, 15, 16, 18, 20, 25, 26
SILENT = {2, 42, 36}
"""FORGET, BATCH_FORGET and INTERRUPT have no answer."""
DIRECT = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
MOST = 1 << 20
SECTOR = 4096


@dataclass
class Medium:
    """What a disk holds. Offsets and lengths in bytes."""

    size: int
    now: int = field(default_factory=lambda: os.memfd_create("now"))
    flushed: int = field(default_factory=lambda: os.memfd_create("flushed"))
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    flushes: int = 0
    writes: int = 0

    def __post_init__(self) -> None:
        for fd in (self.now, self.flushed):
            os.ftruncate(fd, self.size)

    def write(self, at: int, data: bytes) -> None:
        os.pwrite(self.now, data, at)
        self.pending.append((at, data))
        self.writes += 1

    def flush(self) -> None:
        for at, data in self.pending:
            os.pwrite(self.flushed, data, at)
        self.pending.clear()
        self.flushes += 1

    def cut(self, rng: random.Random, lose: bool) -> dict[str, int]:
        """What is left when the power comes back; lose: nothing but what was flushed."""
        kept = torn = 0
        share = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        if lose:
            self.pending.clear()
        end = rng.randrange(len(self.pending) + 1) if rng.random() < 0.5 else len(self.pending)
        count = len(self.pending)
        for at, data in self.pending[:end]:
            if end == count and rng.random() >= share:
                continue
            kept += 1
            firsts = [at, *range(at - at % SECTOR + SECTOR, at + len(data), SECTOR)]
            if rng.random() < 0.1:
                torn += 1
                firsts = [first for first in firsts if rng.random() < 0.5]
            for first in firsts:
                end_of_sector = first - first % SECTOR + SECTOR
                os.pwrite(self.flushed, data[first - at : end_of_sector - at], first)
        self.pending.clear()
        at = 0
        while at < self.size:  # only where there is something
            try:
                first = os.lseek(self.now, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(self.now, first, os.SEEK_HOLE)
            for here in range(first, at, MOST):
                length = min(MOST, at - here)
                os.pwrite(self.now, os.pread(self.flushed, length, here), here)
        return {"pending": count, "kept": kept, "torn": torn}


class Drive:
    """Serves a medium at a path (an existing empty file) until stdin ends."""

    def __init__(self, path: str, size: int) -> None:
        self.medium = Medium(size)
        self.off = False
        self.fails: dict[str, bool] = {"reads": False, "writes": False}
        self._bad: list[tuple[int, int]] = []  # (from, to) of what cannot be read
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self._fd},rootmode=100600,user_id=0,group_id=0".encode()
        if libc.mount(b"drive", os.fsencode(path), b"fuse", 6, options):
            raise OSError(ctypes.get_errno(), "mount")
        self._answers: dict[int, Callable[[bytes], bytes]] = {
            INIT: self._init,
            GETATTR: lambda body: struct.pack("<QII", 3600, 0, 0) + self._attributes(),
            OPEN: lambda body: struct.pack("<QII", 1, DIRECT, 0),
            READ: self._read,
            WRITE: self._write,
            FSYNC: self._flush,
            FLUSH: lambda body: b"",
            RELEASE: lambda body: b"",
        }

    def run(self) -> None:
        poll = select.poll()
        for fd in (self._fd, 0):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == 0:
                    if not (line := sys.stdin.readline()):
                        return
                    print(json.dumps(self._command(json.loads(line))), flush=True)
                    continue
                try:
                    request = os.read(self._fd, MOST + (1 << 16))
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        return
                    if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                        continue
                    raise
                self._answer(request)

    def _command(self, asked: dict[str, Any]) -> dict[str, int]:
        medium = self.medium
        if asked["do"] == "cut":
            self.off = True
            return medium.cut(random.Random(str(asked["seed"])), bool(asked["lose"]))
        if asked["do"] == "on":
            self.off = False
        if asked["do"] == "fail":
            self.fails = {key: bool(asked.get(key)) for key in self.fails}
            self._bad = [(at, at + span) for at, span in asked.get("bad", ())]
        return {"flushes": medium.flushes, "writes": medium.writes, "pending": len(medium.pending)}

    def _answer(self, request: bytes) -> None:
        _, code, unique, *_ = HEADER.unpack_from(request)
        if code in SILENT:
            return
        try:
            if code not in self._answers:
                raise OSError(errno.ENOSYS, "")
            body, status = self._answers[code](request[HEADER.size :]), 0
        except OSError as error:
            body, status = b"", -(error.errno or errno.EIO)
        head = struct.pack("<IiQ", 16 + len(body), status, unique)
        try:
            os.writev(self._fd, [head, body])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _init(self, body: bytes) -> bytes:
        major, minor, ahead, flags = INIT_IN.unpack_from(body)
        assert (major, minor) >= (7, 28), "an older kernel than the protocol that is spoken here"
        flags &= BIG_WRITES | MAX_PAGES
        return INIT_OUT.pack(7, 28, ahead, flags, 16, 12, MOST, 1, MOST // 4096, 0, 0)

    def _attributes(self) -> bytes:
        times, nanoseconds = (0, 0, 0), (0, 0, 0)
        mode = stat.S_IFREG | 0o600
        size = self.medium.size
        head = struct.pack("<6Q", 1, size, size // 512, *times)
        return head + struct.pack("<10I", *nanoseconds, mode, 1, 0, 0, 0, 4096, 0)

    def _read(self, body: bytes) -> bytes:
        _, at, length = SPAN.unpack_from(body)
        bad = any(first < at + length and at < end for first, end in self._bad)
        if self.off or self.fails["reads"] or bad:
            raise OSError(errno.EIO, "")
        return os.pread(self.medium.now, length, at)

    def _write(self, body: bytes) -> bytes:
        _, at, length = SPAN.unpack_from(body)
        if self.off or self.fails["writes"]:
            raise OSError(errno.EIO, "")
        self.medium.write(at, body[40 : 40 + length])
        return struct.pack("<II", length, 0)

    def _flush(self, body: bytes) -> bytes:
        if self.off or self.fails["writes"]:
            raise OSError(errno.EIO, "")
        self.medium.flush()
        return b""


if __name__ == "__main__":
    Drive(sys.argv[1], int(sys.argv[2])).run()
