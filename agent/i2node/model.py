"""Plain data that every floor speaks of. No I/O, no decisions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Kind(IntEnum):
    """What an entry is; the numbers stand in native/include/mover.h."""

    FILE = 1
    DIR = 2
    SYMLINK = 3
    CHR = 4
    BLK = 5
    FIFO = 6
    SOCK = 7


class Verdict(IntEnum):
    """How an entry differs from what the target is known to hold; numbers as in mover.h."""

    SAME = 0
    NEW = 1
    GONE = 2
    RETYPED = 3
    DATA = 4
    META = 5
    SWAPPED = 6


PROBED = 1
RACY = 2
MOUNT = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one name in a directory. Field for field `struct i2_entry`."""

    name: bytes
    kind: Kind
    verdict: Verdict
    mode: int
    uid: int
    gid: int
    nlink: int
    ino: int
    size: int
    rdev: int
    mtime_s: int
    mtime_ns: int
    flags: int
    status: int
    ctime: int
    birth: int
    blocks: int
    attrs: int
    content: bytes


class State(StrEnum):
    """The state of a rule, in the words of the management API."""

    MIRROR = "MIRROR"
    SWITCH = "SWITCH"
    REPLICATION = "REPLICATION"
    M_STOP = "M_STOP"
    STOP = "STOP"
    EXCEPTION = "EXCEPTION"
    STALE = "STALE"
    WAITING = "WAITING"
    FINISH = "FINISH"
    UNKNOWN = "UNKNOWN"


def show(path: bytes) -> str:
    """A path for people and logs: control and undecodable bytes escaped, nothing can fake a line."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
