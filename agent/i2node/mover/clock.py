"""What the kernel says of its clock (native/src/clock.c)."""

from __future__ import annotations

import errno
import os

from i2node.mover._mover import lib


def off_by() -> float | None:
    """Seconds by which it may be off at most, as whoever keeps it synchronised told the kernel;
    None: nobody does. Raises OSError where the kernel does not tell."""
    told = int(lib.i2_clock_error())
    if told == -errno.ETIME:
        return None
    if told < 0:
        raise OSError(-told, os.strerror(-told))
    return told / 1e6
