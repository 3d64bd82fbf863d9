"""Events of an inotify descriptor, drained and folded in C (native/src/events.c, inotify(7))."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from i2node.errors import SessionError
from i2node.mover._mover import ffi, lib

HEAD: Final = struct.Struct("<IiIIII")

_room = ffi.new_allocator(should_clear_after_alloc=False)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to `name` (b"": the watched thing itself) under watch `wd`.

    `mask` holds the IN_ bits of all that was folded into this event; `cookie` joins the two halves
    of a move. An overflow of the kernel's queue is IN_Q_OVERFLOW with wd -1: events were lost.
    """

    wd: int
    mask: int
    cookie: int
    name: bytes


def drain(fd: int, cap: int = 1 << 20) -> list[Event]:
    """What the non-blocking inotify descriptor holds now, in order; [] when it is empty.

    Events that repeat one of the same watch and name, with no move in between, are folded into
    it. `cap`: bytes of result at most (at least 768); what does not fit stays in the kernel for
    the next call. Raises SessionError when the descriptor cannot be read.
    """
    out = _room("uint8_t[]", cap)
    used = lib.i2_events(fd, out, cap)
    if used < 0:
        cause = OSError(-used, os.strerror(-used))
        raise SessionError(f"reading events: {cause.strerror}") from cause
    data = bytes(ffi.buffer(out, used))
    events: list[Event] = []
    at = 0
    while at < used:
        length, wd, mask, cookie, name_len, _ = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        events.append(Event(wd, mask, cookie, data[start : start + name_len]))
        at += length
    return events
