"""Plain data that every floor speaks of. No I/O, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Literal, NamedTuple


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
ASSUMED = 8
"""Flags of an entry, as in mover.h; the last is the journal's own: see repl.assumed."""
UNOWNED = 0xFFFFFFFF
"""The uid and gid of an entry that does not tell whose it is, nor by ACLs and the like who may do
what; as I2_UNOWNED in mover.h."""


class Entry(NamedTuple):
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


TRANSITIONS: dict[State, frozenset[State]] = {
    State.UNKNOWN: frozenset({State.MIRROR, State.EXCEPTION, State.STOP, State.M_STOP}),
    State.MIRROR: frozenset({State.SWITCH, State.EXCEPTION, State.STOP, State.M_STOP}),
    State.SWITCH: frozenset(
        {State.REPLICATION, State.FINISH, State.EXCEPTION, State.STOP, State.M_STOP}
    ),
    State.REPLICATION: frozenset({State.MIRROR, State.EXCEPTION, State.STOP, State.M_STOP}),
    State.EXCEPTION: frozenset(
        {State.STALE, State.MIRROR, State.REPLICATION, State.FINISH, State.STOP, State.M_STOP}
    ),
    State.STALE: frozenset(
        {State.EXCEPTION, State.MIRROR, State.REPLICATION, State.FINISH, State.STOP, State.M_STOP}
    ),
    State.STOP: frozenset({State.MIRROR, State.M_STOP}),
    State.M_STOP: frozenset(),
    State.FINISH: frozenset(),
}
"""Where a rule may go from each state."""


def show(path: bytes) -> str:
    """A path for people and logs: control and undecodable bytes escaped; it cannot fake a line."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


PORT = 26821
"""Where every node listens unless it is told otherwise."""
ENROLL_PORT = 58084
"""Where a controller waits for nodes that enrol."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a mirror stands: an absolute path on a host; host None: on this one."""

    host: str | None
    port: int
    path: bytes

    def __str__(self) -> str:
        if self.host is None:
            return show(self.path)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{show(self.path)}"


@dataclass(frozen=True, slots=True)
class Whole:
    """What a rule may be a part of: its name, and all its parts, each a rule's name and the root of
    its target. They may nest there."""

    name: str
    parts: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What a rule wants.

    excludes are absolute, relative to source, or patterns (fs.pathset). check `strict` compares
    content where `quick` trusts size and times. owners False leaves out whose a file is: owner,
    group, set-id bits, and the attributes of the namespaces security, system (ACLs) and trusted.
    skip leaves out what was there before the rule began, but for the directories, or all of it.
    compress is "auto", "off" or a zstd level. secret_key is mixed into the keys of the data
    streams. bwlimit is a plan (net.throttle), "" is no limit. adopt takes over a target directory
    that is not empty and not this rule's. require names attributes (fs.trials) that the target must
    not lose. peer is the node id that the host of the target must prove to have, "" any that is
    paired. strict_source stops the first pass at the first path that cannot be read.
    """

    source: Path
    target: Target
    once: bool = False
    excludes: tuple[bytes, ...] = ()
    check: Literal["quick", "strict"] = "quick"
    owners: bool = True
    skip: Literal["", "files", "all"] = ""
    compress: Literal["auto", "off"] | int = "auto"
    encrypt: bool = True
    secret_key: bytes | None = field(default=None, repr=False)
    bwlimit: str = ""
    adopt: bool = False
    require: tuple[str, ...] = ()
    peer: str = ""
    strict_source: bool = False
    whole: Whole | None = None
