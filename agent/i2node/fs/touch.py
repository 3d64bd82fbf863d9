"""What is known to have happened to names, and what is to be looked at for that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, StrEnum


class Touch(IntFlag):
    """What is known to have happened to a name."""

    DATA = 1  # written to
    ATTR = 2  # mode, owner, times, attributes, links
    NAME = 4  # created, deleted, moved
    TREE = 8  # a directory appeared under it: to be armed, even where it looks like the old one
    UNTOLD = 16  # closed by one who could have written through a mapping, and no write was told
    MOVED = 32  # something was renamed from or to it, and the other name is handed out with it
    WRITING = 64  # when it was touched it was open for writing, so that a close is to follow
    CLOSED = 128  # that close
    DELETED = 256  # what had the name was deleted: it is nowhere else


WAITS = Touch.WRITING.value | Touch.CLOSED.value
"""What says when a name is handed out, and nothing to whom it is."""
TOUCHES = tuple(Touch(n & ~WAITS) for n in range(2 * max(Touch)))
"""As they are handed out, by their numbers: the operators of an enum cost much."""
_TREE = Touch.TREE.value


class Room(StrEnum):
    """Where something waits to be looked at."""

    MEMORY = "memory"
    DISK = "disk"
    HAND = "hand"  # handed out by the last `take`


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a name waits to be looked at. touch: what is known to have happened to it, nothing where
    its directory is dirty as a whole; recursive: and all below that. since: clock reading of the
    earliest touch. due: when it is handed out at the earliest; None: as soon as may be."""

    room: Room
    touch: Touch
    since: float
    due: float | None = None
    whole: bool = False
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """One directory's share of work.

    ino: the directory. names: what to look at (b"" is the directory itself, used for the root), or
    None for the whole directory. recursive: and all directories below it, each of them armed.
    trees: names under which a directory appeared. since: clock reading of the earliest touch.
    """

    ino: int
    names: dict[bytes, Touch] | None
    recursive: bool
    trees: frozenset[bytes]
    since: float

    @classmethod
    def of(cls, ino: int, names: dict[bytes, Touch], since: float) -> Work:
        """That of some names of a directory."""
        trees = frozenset(n for n, t in names.items() if t.value & _TREE)
        return cls(ino, names, False, trees, since)
