"""What was looked at and sent lately: for whoever asks what became of one name.

Nothing is kept of each file for ever. The last rounds are kept as they were handed out and the last
frames by the listings that were noted for them, which are there anyway: to note one costs as much
for a thousand files as for one, and only a question looks into it. Both are bounded; what is older
is forgotten, and it is told since when all is known.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from i2node.fs.sweep import Name
from i2node.fs.touch import Touch, Work
from i2node.model import Entry, Verdict
from i2node.mover import listing as listings

FRAMES = 2048
BYTES = 4 << 20
"""Of the listings of all frames: some 30,000 names."""
NAMES = 16_384
"""In all rounds, a whole directory counting as one."""


@dataclass(frozen=True, slots=True)
class Look:
    """A name was handed out to be looked at. touch: what was known to have happened to it, nothing
    where its directory was looked at as a whole. since: clock reading of the earliest touch of
    that directory that was handed out with it. at: seconds since 1970."""

    touch: Touch
    since: float
    at: float


@dataclass(frozen=True, slots=True)
class Way:
    """A frame that carried a name, and how far it came; times in seconds since 1970. entry: as it
    was noted, its verdict GONE where the frame takes the name away. walk: it was found by the walk
    and not by a look. lost: the connection ended before the target told that it was durable."""

    frame: int
    entry: Entry
    walk: bool
    read: float
    sent: float | None
    applied: float | None
    durable: float | None
    lost: bool


@dataclass(slots=True)
class _Frame:
    number: int
    walk: bool
    read: float
    sent: float | None = None
    applied: float | None = None
    durable: float | None = None
    lost: bool = False
    notes: list[tuple[int, bytes]] = field(default_factory=list)
    """(directory, listing)."""
    size: int = 0


class History:
    """Of one rule; every method may be called from any thread. Directories are inode numbers of the
    source; frames are numbered from 0 in each attempt."""

    def __init__(self) -> None:
        self.since = time.time()
        """Since when (seconds since 1970) each frame is known."""
        self.walking = False
        """Whether what is noted is found by the walk."""
        self._lock = threading.Lock()
        self._frames: deque[_Frame] = deque()
        self._size = 0
        self._under_way: dict[int, _Frame] = {}  # of this attempt, those not durable
        self._rounds: deque[tuple[float, Sequence[Work], int]] = deque()  # at, works, names
        self._names = 0
        self._forgot = -1
        self._sent = self._applied = self._durable = -1

    # ------------------------------------------------------------------ told

    def begin(self) -> None:
        """An attempt begins, and its frames are numbered from 0. Nobody tells of those before."""
        with self._lock:
            self._forgot = self._sent = self._applied = self._durable = -1

    def cut(self) -> None:
        """It is over. What is under way is lost."""
        with self._lock:
            for frame in self._under_way.values():
                frame.lost = True
            self._under_way.clear()

    def looked(self, works: Sequence[Work]) -> None:
        """These are looked at from now on."""
        count = sum(1 if work.names is None else len(work.names) for work in works)
        with self._lock:
            self._rounds.append((time.time(), tuple(works), count))
            self._names += count
            while self._names > NAMES and len(self._rounds) > 1:
                self._names -= self._rounds.popleft()[2]

    def note(self, number: int, directory: int, listing: bytes) -> None:
        """A frame carries these names of a directory; those with a status other than EAGAIN it does
        not."""
        with self._lock:
            frame = self._under_way.get(number)
            if frame is None:
                frame = self._new(number)
            frame.notes.append((directory, listing))
            frame.size += len(listing)
            self._size += len(listing)
            while len(self._frames) > 1 and (self._size > BYTES or len(self._frames) > FRAMES):
                self._forget()

    def _new(self, number: int) -> _Frame:
        """It may be on its way already, and even there: what it carries is told behind it."""
        now = time.time()
        frame = _Frame(number, self.walking, now)
        frame.sent = now if number <= self._sent else None
        frame.applied = now if number <= self._applied else None
        frame.durable = now if number <= self._durable else None
        if frame.durable is None:
            self._under_way[number] = frame
        self._frames.append(frame)
        return frame

    def _forget(self) -> None:
        old = self._frames.popleft()
        self._size -= old.size
        self.since = old.read
        if self._under_way.get(old.number) is old:
            del self._under_way[old.number]
            self._forgot = old.number

    def sent(self, number: int) -> None:
        """A frame is on the wire."""
        with self._lock:
            self._sent = number
            if number in self._under_way:
                self._under_way[number].sent = time.time()

    def applied(self, number: int) -> None:
        """All frames up to this one are applied."""
        with self._lock:
            now, self._applied = time.time(), max(self._applied, number)
            for frame in self._under_way.values():
                if frame.applied is None and frame.number <= number:
                    frame.applied = now

    def durable(self, number: int) -> None:
        """All frames up to this one are durable, as well as applied."""
        self.applied(number)
        with self._lock:
            now, self._durable = time.time(), max(self._durable, number)
            for frame in [f for f in self._under_way.values() if f.number <= number]:
                frame.durable = now
                del self._under_way[frame.number]

    # ------------------------------------------------------------------ asked

    @property
    def gaps(self) -> bool:
        """Whether a frame that is under way is forgotten."""
        return self._forgot > self._durable

    def look(self, places: Collection[Name]) -> Look | None:
        """The last at one of these (directory, name)."""
        with self._lock:
            rounds = list(self._rounds)
        for at, works, _ in reversed(rounds):
            for work in works:
                for directory, name in places:
                    if work.ino == directory and (work.names is None or name in work.names):
                        touch = Touch(0) if work.names is None else work.names[name]
                        return Look(touch, work.since, at)
        return None

    def way(self, places: Collection[Name], stands: bool = False) -> Way | None:
        """The last frame that carried one of them. stands: one that says what stands there, not
        only of what owner, mode and times it is."""
        with self._lock:
            frames = list(self._frames)
        for frame in reversed(frames):
            for directory, listing in reversed(frame.notes):
                for there, name in places:
                    entry = listings.find(listing, name) if there == directory else None
                    if entry is None or entry.status not in (0, errno.EAGAIN):
                        continue
                    if not stands or entry.verdict != Verdict.META:
                        return _way(frame, entry)
        return None


def _way(frame: _Frame, entry: Entry) -> Way:
    return Way(
        frame=frame.number,
        entry=entry,
        walk=frame.walk,
        read=frame.read,
        sent=frame.sent,
        applied=frame.applied,
        durable=frame.durable,
        lost=frame.lost,
    )
