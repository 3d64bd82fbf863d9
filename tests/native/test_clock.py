"""The kernel's word on its clock, beside what libc is told of it."""

from __future__ import annotations

import ctypes
import struct

from i2node.mover.clock import off_by

_UNSYNCHRONISED = 0x40  # STA_UNSYNC, adjtimex(2)
_TIMEX = struct.Struct("@Ilqqqi")  # modes, offset, freq, maxerror, esterror, status


def test_it_is_what_adjtimex_says():
    told = ctypes.create_string_buffer(512)
    assert ctypes.CDLL(None, use_errno=True).adjtimex(told) >= 0
    *_, error, _, status = _TIMEX.unpack_from(told)
    off = off_by()
    if status & _UNSYNCHRONISED:
        assert off is None
    else:
        # It grows by half a millisecond a second until the clock is corrected again.
        assert off is not None and abs(off - error / 1e6) < 60
