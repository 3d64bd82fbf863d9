"""What a target keeps aside of its files (native/include/shelf.h)."""

from __future__ import annotations

import os

from i2node.errors import SessionError
from i2node.mover._mover import ffi, lib


def able(fd: int) -> bool:
    """Whether a shelf can be on the file system of an open directory."""
    return int(lib.i2_aside_able(fd)) == 1


def laid_over(fd: int, shelf: int, entry: bytes) -> bytes:
    """The entry of an open directory, with what is aside of it laid over. Raises SessionError when
    that cannot be read."""
    record = bytearray(entry)
    done = int(lib.i2_aside_entry(fd, shelf, ffi.from_buffer(record), len(record)))
    if done < 0:
        raise SessionError(f"read what is aside: {os.strerror(-done)}")
    return bytes(record)


def sweep(root_fd: int, shelf: int) -> int:
    """Takes away what is in a shelf for files that are no more; gives how many. Raises OSError."""
    gone = int(lib.i2_aside_sweep(root_fd, shelf))
    if gone < 0:
        raise OSError(-gone, os.strerror(-gone))
    return gone
