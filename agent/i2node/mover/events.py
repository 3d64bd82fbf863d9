"""What the kernel tells of changes, drained, decoded and folded in C: inotify(7), fanotify(7)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from i2node.errors import SessionError
from i2node.mover._mover import ffi, lib

# `where` is signed for inotify; where fanotify can be had inode numbers have no 64 bits.
HEAD: Final = struct.Struct("<IIqQQIIII")

READ = 1 << 20
"""Bytes of decoded events fetched at once."""
PLACES = 4 << 20
"""Bytes kept of which directory a file handle is of: about 65,000 of them."""

_room = ffi.new_allocator(should_clear_after_alloc=False)


class Event(NamedTuple):
    """What happened to `name` (b"": to the directory itself) in a directory.

    where: with inotify the watch descriptor, with fanotify the directory's inode number, 0 for one
    outside. mask: the IN_ or FAN_ bits of all that was folded into this event; lost events are
    IN_Q_OVERFLOW (FAN_Q_OVERFLOW). cookie: inotify's, joins the two halves of a move; fanotify's,
    why events were lost: EOVERFLOW, or the errno of asking for a directory. what, to, other:
    fanotify's: the inode number of the directory that it happened to (0: not told, or no
    directory), and of a FAN_RENAME the directory and the name it went to (0: outside). FAN_MODIFY
    of b"" is fanotify's too: some file in that directory was written to, or of 0 some file at all.
    """

    where: int
    mask: int
    cookie: int
    name: bytes
    what: int = 0
    to: int = 0
    other: bytes = b""


def drain(fd: int, cap: int = READ) -> list[Event]:
    """What the non-blocking inotify descriptor holds now, in order; [] when it is empty.

    Events that repeat one of the same watch and name, with no move in between, are folded into
    it. `cap`: bytes of result at most (at least 2048); what does not fit stays in the kernel for
    the next call. Raises SessionError when the descriptor cannot be read.
    """
    return decode(fetch(fd, cap))


def fetch(fd: int, cap: int = READ) -> bytes:
    """The same, packed as `decode` takes it."""
    out = _room("uint8_t[]", cap)
    return _fetched(out, lib.i2_inotify(fd, out, cap))


def decode(data: bytes) -> list[Event]:
    """The events that `fetch` gave."""
    events: list[Event] = []
    at = 0
    while at < len(data):
        length, mask, where, what, to, cookie, size, more, _ = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        end = start + size
        events.append(Event(where, mask, cookie, data[start:end], what, to, data[end : end + more]))
        at += length
    return events


class Group:
    """A fanotify group with a mark on the whole file system of a directory, which it tells of.

    root: descriptor of that directory; it stays the caller's. excluded: paths relative to it of
    which nothing is told. pairs: whether a rename is wanted as one event that tells both names
    and which directory it was (FAN_RENAME), or as halves; `pairs` tells what is had. places: bytes
    for what is remembered of directories.
    Raises OSError where that is not to be had: EPERM, EINVAL, EXDEV, EOPNOTSUPP, ENODEV.
    """

    def __init__(
        self,
        root: int,
        excluded: Iterable[bytes] = (),
        pairs: bool = True,
        places: int = PLACES,
    ) -> None:
        told = ffi.new("int32_t *", pairs)
        group = lib.i2_fanotify_open(root, told)
        if group < 0:
            raise OSError(-group, os.strerror(-group))
        self.fd: int = group
        self.pairs = bool(told[0])
        self._root = root
        self._excluded = b"".join(path + b"\0" for path in excluded)
        self._places = ffi.new("uint8_t[]", places)

    def drain(self, cap: int = READ) -> list[Event]:
        """What it holds now, as `drain` of an inotify descriptor does it; cap at least 8192."""
        return decode(self.fetch(cap))

    def fetch(self, cap: int = READ) -> bytes:
        """The same, packed as `decode` takes it."""
        out = _room("uint8_t[]", cap)
        used = lib.i2_fanotify(
            self.fd,
            self._root,
            self._excluded,
            len(self._excluded),
            self._places,
            len(self._places),
            out,
            cap,
        )
        return _fetched(out, used)

    def close(self) -> None:
        os.close(self.fd)


def _fetched(out: object, used: int) -> bytes:
    if used < 0:
        cause = OSError(-used, os.strerror(-used))
        raise SessionError(f"reading events: {cause.strerror}") from cause
    return bytes(ffi.buffer(out, used))
