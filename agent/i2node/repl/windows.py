"""A file read from its start, a window of data or a whole hole at a time.

Windows begin and end with a block of the signature (the last one with the file), so that what is
signed is what was read: no byte is read twice. Holes are told as the file system tells them
(lseek(2), SEEK_DATA), down to its own block; a hole as large as a block of the signature is a
window of its own and costs nothing to read.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from i2node.mover import blocks
from i2node.mover.blocks import Data
from i2node.repl.signatures import BLOCK_RECORD

WINDOW = 1 << 20
"""Bytes read at a time, and about the content of one frame."""
AHEAD = 4
"""Windows that are read before they are asked for."""
HELD = AHEAD + 2
"""Windows in use at once: those, one that is read or waits for its place, one that is worked on."""
Read = Callable[[int, int], Data]


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a file; `data` False: a hole."""

    at: int
    end: int
    data: bool


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a file. `data` is its content, None where all of it is a hole; good until the
    next window is asked for. `extents`: the data and the holes in it, in order and without gap."""

    at: int
    end: int
    data: Data | None
    extents: tuple[Extent, ...]


def windows(
    fd: int, at: int, end: int, block: int, read: Read | None = None
) -> Generator[Window, None, None]:
    """The windows of a file from `at`, a multiple of block, to `end`; read(at, span) gives its
    content. Raises OSError.

    A file that changes meanwhile gives what is there at the moment; zeros behind its end. What is
    said to be a hole is zero in `data` too.
    """
    read = read or partial(_read, fd)
    limit = max(WINDOW, block)
    while at < end:
        start = _data_from(fd, at, end)
        hole_end = end if start >= end else at + (start - at) // block * block
        if hole_end > at:
            yield Window(at, hole_end, None, (Extent(at, hole_end, False),))
            at = hole_end
            continue
        stop = min(end, at - at % limit + limit)
        window = _data_window(fd, read, at, stop, end, block, start)
        yield window
        at = window.end


def ahead(found: Iterator[Window]) -> Generator[Window, None, None]:
    """The same windows, read by a thread of their own while the ones before are worked on. To be
    closed, or gone through: the thread ends with it."""
    ready: queue.Queue[Window | BaseException | None] = queue.Queue(AHEAD)
    over = threading.Event()

    def put(one: Window | BaseException | None) -> None:
        while not over.is_set():
            try:
                ready.put(one, timeout=0.2)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for window in found:
                put(window)
                if over.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name="ahead", daemon=True)
    thread.start()
    try:
        while (one := ready.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        over.set()
        with suppress(queue.Empty):
            while True:
                ready.get_nowait()
        thread.join()


def _data_window(
    fd: int, read: Read, at: int, stop: int, end: int, block: int, start: int
) -> Window:
    """The window at `at`, at most to `stop`; it ends where a hole of whole blocks begins. The next
    data begins at `start`."""
    found: list[Extent] = []
    here = at
    while here < stop:
        if start > here:
            found.append(Extent(here, min(start, stop), False))
        else:
            hole = min(_hole_from(fd, here, end), stop)
            found.append(Extent(here, hole if hole > here else stop, True))
        here = found[-1].end
        if here < stop and found[-1].data:
            start = _data_from(fd, here, end)
            whole = at + -(-(here - at) // block) * block
            if start >= end or (start - at) // block * block + at > whole:
                stop = min(stop, max(whole, here))
    data = read(at, stop - at)
    seen = (
        e if e.data or blocks.is_zero(memoryview(data)[e.at - at : e.end - at]) else _filled(e)
        for e in found
    )
    return Window(at, stop, data, tuple(seen))


def _filled(extent: Extent) -> Extent:
    """Was a hole when asked, and had data when read."""
    return Extent(extent.at, extent.end, True)


def _data_from(fd: int, at: int, end: int) -> int:
    try:
        return min(os.lseek(fd, at, os.SEEK_DATA), end)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def _hole_from(fd: int, at: int, end: int) -> int:
    try:
        return min(os.lseek(fd, at, os.SEEK_HOLE), end)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def _read(fd: int, at: int, span: int) -> bytes:
    """span bytes; zeros where the file has meanwhile become shorter (the end is checked
    afterwards)."""
    data = os.pread(fd, span, at)
    while len(data) < span:
        more = os.pread(fd, span - len(data), at + len(data))
        if not more:
            return data + bytes(span - len(data))
        data += more
    return data


class Signing:
    """The signature of a file, as its windows are read in order. block 0: none is made."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.records = bytearray()

    def add(self, window: Window) -> None:
        if not self.block:
            return
        if window.data is not None:
            self.records += blocks.signature(window.data, self.block)
        else:
            self.records += bytes(-(-(window.end - window.at) // self.block) * BLOCK_RECORD)

    def digest(self) -> bytes:
        """Of the whole content; not known (zeros) where there is no signature."""
        return blocks.digest(self.records) if self.block else bytes(16)


class Staged:
    """What a staged file holds by now, block by block: the signature of what was sent. `signing`
    is what was signed when the file of `size` bytes was first read, and may still go on."""

    def __init__(self, signing: Signing, size: int) -> None:
        self.block = signing.block
        self.size = size
        self._signing = signing
        self._literals: list[tuple[int, bytes]] = []

    def literal(self, window: Window) -> None:
        """The content of a window was read once more, and sent."""
        first, last = window.at // self.block, -(-window.end // self.block)
        aligned = window.at % self.block == 0 and (
            window.end % self.block == 0 or window.end == self.size
        )
        records = bytes((last - first) * BLOCK_RECORD)
        if window.data is not None:
            # Of a block that was sent in parts nothing is known: it never compares equal.
            records = (
                blocks.signature(window.data, self.block) if aligned else b"\xff" * len(records)
            )
        elif not aligned:
            records = b"\xff" * len(records)
        self._literals.append((first * BLOCK_RECORD, records))

    def signature(self) -> bytes:
        """Of the staged file, once the signing is through."""
        records = bytearray(self._signing.records)
        for at, literal in self._literals:
            records[at : at + len(literal)] = literal
        return bytes(records)
