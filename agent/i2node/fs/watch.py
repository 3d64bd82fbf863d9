"""What a watch engine is to the planner, whichever kernel interface it uses.

How the planner, which is one thread, works with it:

1. `asof = watch.mark()`, then list directories with `descriptor` and `mask`, parents first, then
   `placed(...)` for each answer, also where no watch could be set. A listing whose own inode
   number is not the one asked for is of another directory, one with a status is of none: nothing is
   placed, the work is put back. The own entry is newer than that in the parent's listing, which was
   read before this directory was watched: where they differ, the own one holds.
2. A directory that is new in a listing, or stands under a name in `Work.trees`, is listed and armed
   with all below it unless `stands` is true for it. With recursive work all are.
   Where that listing fails, its name in the parent is made dirty (NAME and TREE) and the directory
   itself, recursive: the one finds it if it is not known, the other does if it is.
3. A directory that is missing from a listing, or from the names that were looked at, and is
   believed to be there (`children`, `child`): `gone(...)`.
4. Work for a directory without a path: put back while `known`, else dropped. It is dropped safely,
   because a directory that was forgotten and still exists is found again as a new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from i2node.errors import I2Error


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """How a watch stands.

    engine: its name. instead: why it is not the better one; "" where it is. coverage: share of the
    known directories that raise events, 0 to 1. watches: directories that do. overflows: how often
    events were lost. lost_since: what happened since then, in seconds since 1970, is still being
    searched for after that; None when all is known. queue: dirty names and directories not handed
    out yet. unplaced_s: so many seconds ago a file was last written to of which the kernel did not
    tell which it is; None: that did not happen. unwatched_s: seconds that may lie between two looks
    at a directory that raises no events, by what the last two took; None: there is none.
    """

    engine: str
    coverage: float
    watches: int
    overflows: int
    lost_since: float | None
    queue: int
    instead: str = ""
    unplaced_s: float | None = None
    unwatched_s: float | None = None


class Watch(ABC):
    """Turns what the kernel tells of one tree into a dirty set. Methods may be called from any
    thread, but `mark`, `placed` and `gone` from the planner's only. Directories are named by inode
    number."""

    descriptor: int  # for the walk to set watches on; -1: none wanted
    mask: int

    @abstractmethod
    def start(self) -> None:
        """Begins to read events; those since the first watch are not lost."""

    @abstractmethod
    def close(self) -> None:
        """Ends all watching. Closing twice is fine."""

    @abstractmethod
    def beat(self) -> None:
        """Asks for a mark: soon `Dirty.mark` is called with a clock reading from behind this call,
        when all that had happened by then is in the dirty set, as far as the kernel tells."""

    @abstractmethod
    def mark(self) -> int:
        """The moment a listing begins; given to `placed` and `gone` with what it found."""

    @abstractmethod
    def placed(self, wd: int, ino: int, parent: int, name: bytes, asof: int) -> None:
        """A listing begun at asof found the directory ino there (the root: parent 0, name b"") and
        watches it as wd; wd below 0: no watch could be set, so it is swept from time to time until
        one can. What is known to have moved since asof is believed where it moved to."""

    @abstractmethod
    def gone(self, ino: int, parent: int, name: bytes, asof: int) -> None:
        """A listing begun at asof did not find a directory there that had been there before. It is
        forgotten, unless the events say soon that it moved."""

    @abstractmethod
    def children(self, ino: int) -> dict[bytes, int]:
        """The directories believed to stand in a directory: name → inode number."""

    @abstractmethod
    def child(self, ino: int, name: bytes) -> int | None:
        """One of them."""

    @abstractmethod
    def stands(self, ino: int, parent: int, name: bytes, asof: int) -> bool:
        """A listing begun at asof found the directory there: whether it is watched with all below
        it, so that it need not be listed for that. One that was known elsewhere is moved, so a
        renamed directory costs nothing."""

    @abstractmethod
    def known(self, ino: int) -> bool:
        """Whether anything is known of the directory."""

    @abstractmethod
    def path(self, ino: int) -> bytes | None:
        """Where the directory is believed to be, relative to the root, b"" for the root; None when
        that is not known (now)."""

    @abstractmethod
    def place(self, ino: int) -> tuple[int, bytes] | None:
        """(parent, name) of a directory as last believed; the root: (0, b"")."""

    @property
    @abstractmethod
    def root_lost(self) -> str | None:
        """Why the root is not where it was (moved, deleted, unmounted); None while it is."""

    @property
    @abstractmethod
    def failure(self) -> I2Error | None:
        """Why the engine stopped by itself; None while it works."""

    @abstractmethod
    def statistics(self) -> WatchStatus:
        """How it stands."""
