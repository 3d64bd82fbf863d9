"""The steps of which a large file is made at the target (mover.h, I2_STAGE and those behind it)."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator

from i2node.model import UNOWNED, Entry, Kind
from i2node.mover import batch, blocks
from i2node.mover.batch import Op
from i2node.repl.windows import WINDOW, Window

RACY_NS = 20_000_000
"""A ctime younger than this does not prove that a later write would show another (mover.h)."""
Pieces = Iterator[tuple[bytes, int]]
"""Steps, each with the bytes of content it stands for."""


def begin(stage: int, path: bytes, flags: int = 0) -> bytes:
    """A file is built anew, or with STEP_KEEP gone on with."""
    return batch.step(Op.STAGE, path, kind=Kind.FILE, flags=flags, stage=stage)


def begin_clone(stage: int, path: bytes, size: int, mtime: int) -> bytes:
    """It is built on the old one, which has this size and mtime (nanoseconds since 1970)."""
    return batch.step(
        Op.STAGE,
        path,
        kind=Kind.FILE,
        flags=batch.STEP_CLONE,
        stage=stage,
        size=size,
        mtime_s=mtime // 10**9,
        mtime_ns=mtime % 10**9,
    )


def stage_id(path: bytes, entry: Entry, shape: bytes) -> int:
    """The same for the same state of the same file, so that a later session finds what it staged;
    another one each time while a write could go unseen."""
    state = struct.pack("<QQqIq", entry.ino, entry.size, entry.mtime_s, entry.mtime_ns, entry.ctime)
    if time.time_ns() - entry.ctime < RACY_NS:
        state += os.urandom(16)
    return int.from_bytes(blocks.hash(state + shape + path, 8), "little") or 1


def content(
    stage: int, window: Window, start: int = 0, stop: int = 1 << 63, counted: bool = True
) -> Pieces:
    """Steps for what a window holds between start and stop."""
    for extent in window.extents:
        at, end = max(extent.at, start), min(extent.end, stop)
        if at >= end:
            continue
        if not extent.data or window.data is None:
            yield hole(stage, at, end - at), end - at if counted else 0
            continue
        data = memoryview(window.data)
        # The windows of huge files are larger than a frame.
        for first in range(at, end, WINDOW):
            last = min(first + WINDOW, end)
            step = write(stage, first, data[first - window.at : last - window.at])
            yield step, last - first if counted else 0


def named(path: bytes, entry: Entry, attributes: tuple[int, bytes]) -> bytes:
    """What is staged as number entry.rdev gets its name, and is what the entry and the `attributes`
    say."""
    flags, xattrs = attributes
    return batch.step(
        Op.STAGED,
        path,
        kind=Kind.FILE,
        flags=flags,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_s=entry.mtime_s,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        stage=entry.rdev,
        content=entry.content,
        xattrs=xattrs,
    )


def root(own: Entry, attributes: tuple[int, bytes]) -> bytes:
    """The root, which has no directory of ours to be read from, becomes what its entry and the
    `attributes` say."""
    flags, xattrs = attributes
    return batch.step(
        Op.SET_META,
        b"",
        kind=own.kind,
        flags=flags,
        mode=own.mode,
        uid=own.uid,
        gid=own.gid,
        mtime_s=own.mtime_s,
        mtime_ns=own.mtime_ns,
        xattrs=xattrs,
    )


def attributes(fd: int, entry: Entry | None = None, shelf: int = -1) -> tuple[int, bytes]:
    """The extended attributes of an open file or directory as a step carries them: its flags, and
    the records. entry: its own, which may have no owner; shelf as of `batch.pack`. OSError."""
    try:
        return 0, batch.attributes(fd, shelf, entry is not None and entry.uid == UNOWNED)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return batch.STEP_NO_XATTR, b""
        raise


def drop(stage: int) -> bytes:
    return batch.step(Op.STAGE, b"", flags=batch.STEP_DROP, stage=stage)


def write(stage: int, at: int, data: memoryview) -> bytes:
    return batch.step(Op.WRITE, b"", kind=Kind.FILE, stage=stage, size=at, data=data)


def hole(stage: int, at: int, span: int) -> bytes:
    return batch.step(Op.HOLE, b"", kind=Kind.FILE, stage=stage, size=at, span=span)


def copy(path: bytes, stage: int, op: blocks.Op, mtime: int) -> bytes:
    return batch.step(
        Op.COPY,
        path,
        kind=Kind.FILE,
        stage=stage,
        size=op.at,
        rdev=op.source,
        span=op.span,
        mtime_s=mtime // 10**9,
        mtime_ns=mtime % 10**9,
    )
