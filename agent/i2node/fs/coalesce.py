"""What is dirty and not yet looked at: a set bounded by the number of names, not of events.

A name that was quiet is handed out at once; one that is being written, when it is closed, or
after a moment. One that is touched again and again is handed out at most once in its interval,
which starts at 20 ms, doubles up to 0.64 s while the touching goes on, and halves again when it
stops. So a log file costs three looks in two seconds, a saved document waits for nothing, and
neither is a second behind. A look that takes long is paid for with a pause that is as many times
longer.

Memory holds so many names only; those beyond are spilled, and come back later (`spill.py`).
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import count, islice

from i2node.fs.groups import Groups
from i2node.fs.halves import Place
from i2node.fs.heat import Heat
from i2node.fs.spill import IN_MEMORY, Spill, Spilled
from i2node.fs.touch import TOUCHES, WAITS, Touch, Work

MARKS = 256
"""Marks that wait; beyond it the oldest is forgotten, since a later one says more."""

_STALE = 1024  # renamed names remembered though they are dirty no more, or not by themselves
_TREE = Touch.TREE.value
_CONTENT = Touch.DATA.value | Touch.ATTR.value


class _Dir:
    __slots__ = ("held", "ready", "recursive", "since", "trees", "whole")

    def __init__(self) -> None:
        self.ready: dict[bytes, int] = {}
        self.held: dict[bytes, tuple[int, float, float]] = {}  # touch, since, due
        self.whole = False
        self.recursive = False
        self.trees: set[bytes] = set()
        self.since = 0.0  # of what is ready, or of the whole


class Dirty:
    """The dirty set of one source. Every method may be called from any thread; `now` is a reading
    of one monotonic clock in seconds, never going back.

    max_names: above so many names one directory becomes dirty as a whole.
    max_total: above so many names in all, each directory that is touched becomes so.
    in_memory: once there is a place to spill to, what is above so many names goes there.
    """

    def __init__(
        self, max_names: int = 8192, max_total: int = 500_000, in_memory: int = IN_MEMORY
    ) -> None:
        self._max_names = max_names
        self._max_total = max_total
        self._spilled = Spilled(in_memory)
        self._fetching = threading.Lock()
        self._changed = threading.Condition()
        self._dirs: dict[int, _Dir] = {}
        self._ready: dict[int, None] = {}  # directories with something to hand out, oldest first
        # Heap of what is held; may be stale. Numbered: a name and None do not compare.
        self._due: list[tuple[float, int, int, bytes | None]] = []
        self._numbers = count()
        self._heat = Heat()
        self._names = 0
        self._woken = False
        self._renamed = Groups()
        self._marks: deque[tuple[float, float]] = deque(maxlen=MARKS)  # (placed, stamp)
        self.under_way: float | None = None
        """The earliest `since` of what was handed out and is still being dealt with, for who takes
        to say: what is dirty again meanwhile is as old."""

    def spill_to(self, spill: Spill) -> None:
        """From now on names beyond what memory is to hold go there."""
        with self._changed:
            self._spilled.place = spill

    # ------------------------------------------------------------------------------- filling

    def add(self, ino: int, name: bytes, touch: Touch | int, now: float) -> None:
        """One name of a directory was touched, or is to be looked at once more."""
        with self._changed:
            self._add(ino, name, int(touch), now, self.under_way)
            self._changed.notify_all()

    def add_all(
        self,
        touches: Iterable[tuple[int, bytes, int]],
        now: float,
        renames: Iterable[tuple[Place, Place]] = (),
    ) -> None:
        """Many (directory, name, Touch) at the price of one lock. renames: pairs of (directory,
        name) that something left and came to: where memory holds both they are handed out together,
        since one without the other would show it in neither place. What came took along what it was
        touched by: the name that it left may be gone, or be another's."""
        with self._changed:
            for ino, name, touch in touches:
                self._add(ino, name, touch, now)
            for one, other in renames:
                if self._has(*one) and self._has(*other):
                    if content := self._touch(*one) & _CONTENT:
                        self._known(other[0], self._dirs[other[0]], other[1], content, now, now)
                    self._renamed.connect(one, other)
            if len(self._renamed) > 2 * self._names + _STALE:
                self._renamed.keep(self._has)
            self._changed.notify_all()
        self._spilled.pause()

    def add_dir(self, ino: int, recursive: bool, now: float) -> None:
        """A directory as a whole is to be looked at; recursive: and all below it."""
        with self._changed:
            entry = self._add_dir(ino, recursive, now)
            if self.under_way is not None:
                entry.since = min(entry.since, self.under_way)
            self._changed.notify_all()

    def whole(self, inos: Iterable[int]) -> set[int]:
        """Those of these directories that are to be looked at as a whole, and were not handed out
        yet."""
        with self._changed:
            return {ino for ino in inos if ino in self._dirs and self._dirs[ino].whole}

    def put_back(self, work: Work, now: float) -> None:
        """Work that could not be done yet. It keeps its age, and is held back like any other that
        comes again."""
        since = work.since if self.under_way is None else min(work.since, self.under_way)
        with self._changed:
            self._put_back(replace(work, since=since), now)
            self._changed.notify_all()

    def spare(self, ino: int, name: bytes) -> None:
        """The attributes under a name are about to be read: it is dirty no more where nothing but
        ATTR is known of it."""
        with self._changed:
            entry = self._dirs.get(ino)
            if entry is None or entry.whole:
                return
            touch = entry.ready.get(name) or entry.held.get(name, (0,))[0]
            if touch & ~WAITS == Touch.ATTR:
                self._pull(ino, name)

    def discard(self, ino: int) -> None:
        """The directory is gone, and all work in it."""
        with self._changed:
            entry = self._dirs.pop(ino, None)
            if entry is not None:
                self._names -= len(entry.ready) + len(entry.held)
                self._ready.pop(ino, None)
            self._spilled.discard(ino)

    def _put_back(self, work: Work, now: float) -> None:
        """Into memory, whatever is there: it was there before, or was asked for."""
        if work.names is None:
            entry = self._add_dir(work.ino, work.recursive, now, held=True)
            entry.since = min(entry.since, work.since)
        else:
            for name, touch in work.names.items():
                self._add(work.ino, name, int(touch), now, work.since)
        entry = self._dirs[work.ino]
        if entry.whole:
            self._add_trees(entry, work.trees)

    def _add(
        self, ino: int, name: bytes, touch: int, now: float, earlier: float | None = None
    ) -> None:
        """earlier: when it was touched; None: now, and it may be spilled."""
        since = now if earlier is None else earlier
        entry = self._dirs.get(ino)
        if entry is not None and self._known(ino, entry, name, touch, now, since):
            return
        full = self._names >= self._max_total
        if self._spilled.place is not None and earlier is None:
            full = self._spilled.full(self._names, len(self._dirs))
            if self._spilled.add(ino, name, touch, now, full):
                self._woken = True
                return
        if entry is None:
            entry = self._dirs[ino] = _Dir()
        if full or len(entry.ready) + len(entry.held) >= self._max_names:
            self._add_dir(ino, False, now)
            entry.since = min(entry.since, since)
            if touch & _TREE:
                self._add_trees(entry, (name,))
            return
        self._names += 1
        self._hold(ino, entry, name, touch, since, None, now)

    def _hold(
        self,
        ino: int,
        entry: _Dir,
        name: bytes,
        touch: int,
        since: float,
        until: float | None,
        now: float,
    ) -> None:
        """Puts a name that is not ready where it belongs. until: what it was held for so far."""
        due = self._heat.due((ino, name), now, touch)
        if until is not None:
            due = min(due, until)
        if due <= now:
            entry.held.pop(name, None)
            self._make_ready(ino, entry, name, touch, since)
            self._woken = True
            return
        entry.held[name] = (touch, since, due)
        if due != until:
            heapq.heappush(self._due, (due, next(self._numbers), ino, name))
            self._woken = True

    def _known(
        self, ino: int, entry: _Dir, name: bytes, touch: int, now: float, since: float
    ) -> bool:
        """Adds a touch to what memory has of the name. False: it has nothing."""
        if entry.whole:
            entry.since = min(entry.since, since)
            if touch & _TREE:
                self._add_trees(entry, (name,))
            return True
        known = entry.ready.get(name)
        if known is not None:
            entry.ready[name] = known | touch
            entry.since = min(entry.since, since)
            return True
        held = entry.held.get(name)
        if held is not None:
            self._hold(ino, entry, name, held[0] | touch, min(held[1], since), held[2], now)
            return True
        return False

    def _make_ready(self, ino: int, entry: _Dir, name: bytes, touch: int, since: float) -> None:
        entry.since = min(entry.since, since) if entry.ready else since
        entry.ready[name] = touch
        self._ready[ino] = None

    def _add_dir(self, ino: int, recursive: bool, now: float, held: bool = False) -> _Dir:
        """held: it waits for its time, be it recursive or not."""
        entry = self._dirs.get(ino)
        if entry is None:
            entry = self._dirs[ino] = _Dir()
        if recursive:
            entry.recursive = True
            entry.trees.clear()
        if entry.whole:
            return entry
        entry.since = min(
            [now]
            + ([entry.since] if entry.ready else [])
            + [since for _, since, _ in entry.held.values()]
        )
        self._names -= len(entry.ready) + len(entry.held)
        entry.whole = True
        self._add_trees(entry, [name for name, touch in entry.ready.items() if touch & _TREE])
        self._add_trees(entry, [name for name, (touch, *_) in entry.held.items() if touch & _TREE])
        entry.ready.clear()
        entry.held.clear()
        self._woken = True
        due = self._heat.due((ino, None), now)
        if due > now and (held or not recursive):
            self._ready.pop(ino, None)
            heapq.heappush(self._due, (due, next(self._numbers), ino, None))
        else:
            self._ready[ino] = None
        return entry

    def _add_trees(self, entry: _Dir, names: Iterable[bytes]) -> None:
        if entry.recursive:
            return  # all directories below are armed anyway
        entry.trees.update(names)
        if len(entry.trees) > self._max_names:
            entry.trees.clear()
            entry.recursive = True

    # ------------------------------------------------------------------------------- holding back

    def cost(self, ino: int, name: bytes, seconds: float, now: float) -> None:
        """A look at a name that was handed out took so long, and is over now."""
        with self._changed:
            self._heat.cost((ino, name), seconds, now)
            entry = self._dirs.get(ino)
            touch = entry.ready.get(name, 0) if entry is not None else 0
            if entry is not None and (due := self._heat.paused((ino, name), touch)) > now:
                entry.held[name] = (entry.ready.pop(name), entry.since, due)
                heapq.heappush(self._due, (due, next(self._numbers), ino, name))
                if not entry.ready:
                    self._ready.pop(ino, None)

    def hurry(self) -> None:
        """From now on nothing is held back for what it costs: somebody waits for the end."""
        with self._changed:
            self._heat.hurry()
            self._woken = True
            for ino, entry in self._dirs.items():
                for name, (touch, since, _) in entry.held.items():
                    entry.held[name] = (touch, since, 0.0)
                    heapq.heappush(self._due, (0.0, next(self._numbers), ino, name))
            self._changed.notify_all()

    def _release(self, now: float) -> None:
        """Moves what is due from held to ready."""
        while self._due and self._due[0][0] <= now:
            due, _, ino, name = heapq.heappop(self._due)
            entry = self._dirs.get(ino)
            if entry is None:
                continue
            if name is None:
                if entry.whole:
                    self._ready[ino] = None
            elif _is_due(entry, name, due):
                touch, since, _ = entry.held[name]
                paused = self._heat.paused((ino, name), touch)
                if paused > now:
                    # What the look before cost was told after it was held back.
                    entry.held[name] = (touch, since, paused)
                    heapq.heappush(self._due, (paused, next(self._numbers), ino, name))
                    continue
                del entry.held[name]
                self._make_ready(ino, entry, name, touch, since)

    # ------------------------------------------------------------------------------- emptying

    def take(self, max_names: int, now: float) -> list[Work]:
        """Hands out what is ready, the directory that waits longest first, until about max_names
        (>= 1) names are reached; a whole directory counts as one. What is handed out is clean
        from then on: a touch that comes later makes it dirty again."""
        works: list[Work] = []
        self._fetch(max_names, now)
        with self._changed:
            self._woken = False
            self._release(now)
            self._heat.cool(now)
            while self._ready and max_names > 0:
                ino = next(iter(self._ready))
                entry = self._dirs[ino]
                if entry.whole:
                    works.append(
                        Work(ino, None, entry.recursive, frozenset(entry.trees), entry.since)
                    )
                    max_names -= 1
                    self._heat.handed((ino, None), now)
                    del self._ready[ino]
                    del self._dirs[ino]
                    continue
                since = entry.since
                names: dict[bytes, Touch] = {}
                for name in list(islice(entry.ready, max_names)):
                    touch = entry.ready.pop(name)
                    names[name] = TOUCHES[touch]
                    self._heat.handed((ino, name), now, touch)
                works.append(_work(ino, names, since))
                max_names -= len(names)
                self._names -= len(names)
                if not entry.ready:
                    del self._ready[ino]
                    if not entry.held:
                        del self._dirs[ino]
            if self._renamed:
                works = self._with_partners(works, now)
        return works

    def _with_partners(self, works: list[Work], now: float) -> list[Work]:
        """The works, with what was renamed to or from what is in them, be it held back or not."""
        more: dict[int, dict[bytes, Touch]] = {}
        oldest = now
        for taken in [(work.ino, name) for work in works for name in work.names or ()]:
            for ino, name in self._renamed.pop(taken):
                found = self._pull(ino, name)
                if found is not None:
                    more.setdefault(ino, {})[name] = TOUCHES[found[0]]
                    oldest = min(oldest, found[1])
                    self._heat.handed((ino, name), now, found[0])
        if not self._names:
            self._renamed.clear()
        for at, work in enumerate(works):
            if work.names is not None and (names := more.pop(work.ino, None)):
                works[at] = _work(work.ino, work.names | names, min(work.since, oldest))
        return works + [_work(ino, names, oldest) for ino, names in more.items()]

    def _has(self, ino: int, name: bytes) -> bool:
        """Whether memory holds a name as one."""
        entry = self._dirs.get(ino)
        return entry is not None and (name in entry.ready or name in entry.held)

    def _touch(self, ino: int, name: bytes) -> int:
        """By what it was touched, of a name that memory holds."""
        entry = self._dirs[ino]
        return entry.ready[name] if name in entry.ready else entry.held[name][0]

    def _pull(self, ino: int, name: bytes) -> tuple[int, float] | None:
        """Takes one name out, ready or held: (touch, since); None where it is neither."""
        if not self._has(ino, name):
            return None
        entry = self._dirs[ino]
        if name in entry.ready:
            found = entry.ready.pop(name), entry.since
            if not entry.ready:
                self._ready.pop(ino, None)
        else:
            touch, since, _ = entry.held.pop(name)
            found = touch, since
        self._names -= 1
        if not entry.ready and not entry.held:
            del self._dirs[ino]
        return found

    def _fetch(self, max_names: int, now: float) -> None:
        """Brings back what was spilled, where memory has room for it. Not under the lock, which
        whoever reads events waits for."""
        with self._fetching:
            with self._changed:
                few = self._names < max_names
                roomy = few or self._spilled.roomy(self._names, len(self._dirs))
                if not self._spilled.some or (self._ready and not roomy):
                    return
                self._spilled.begin()
            works = self._spilled.fetch(max_names, self._max_names)
            with self._changed:
                for work in self._spilled.end(works):
                    self._put_back(work, now)

    def wait(self, timeout: float | None) -> bool:
        """Blocks until there is something to take, or something new is held back (ask `next_due`
        again), or `wake` was called, or timeout seconds passed. True when something is ready."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._woken or self._spilled.some or bool(self._ready), timeout
            )
            self._woken = False
            return self._spilled.some or bool(self._ready)

    def wake(self) -> None:
        """Ends a `wait`, or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def next_due(self, now: float) -> float | None:
        """Seconds until something can be taken, 0 when it can now; None when nothing is dirty."""
        with self._changed:
            if self._ready or self._spilled.some:
                return 0.0
            while self._due:
                due, _, ino, name = self._due[0]
                entry = self._dirs.get(ino)
                if entry is not None and (
                    entry.whole if name is None else _is_due(entry, name, due)
                ):
                    return max(0.0, due - now)
                heapq.heappop(self._due)
            return None

    def oldest(self, now: float) -> float:
        """Age in seconds of the earliest touch not handed out yet; 0 when there is none."""
        with self._changed:
            return now - min(now, self._earliest())

    def _earliest(self) -> float:
        """Clock reading of it; inf when there is none."""
        earliest = math.inf
        for entry in self._dirs.values():
            if entry.whole or entry.ready:
                earliest = min(earliest, entry.since)
            for _, since, _ in entry.held.values():
                earliest = min(earliest, since)
        spilled = self._spilled.oldest()
        return earliest if spilled is None else min(earliest, spilled)

    # ------------------------------------------------------------------------------- marks

    def mark(self, stamp: float, now: float) -> None:
        """All that happened before the clock reading stamp was added by now."""
        with self._changed:
            self._marks.append((now, stamp))
            self._woken = True
            self._changed.notify_all()

    def passed(self, beside: float = math.inf) -> float | None:
        """The latest stamp of a mark that all has passed which was added before it: it was handed
        out, and did not come back. None when there is no new one. Not to be asked while that is
        open, when something is `under_way`. beside: clock reading of the earliest change that is
        neither dirty nor dealt with."""
        stamp = None
        with self._changed:
            earliest = min(self._earliest(), beside) if self._marks else 0.0
            while self._marks and self._marks[0][0] < earliest:
                _, stamp = self._marks.popleft()
        return stamp

    def unmark(self) -> None:
        """Forgets all marks: what was handed out before them was lost on its way."""
        with self._changed:
            self._marks.clear()

    def count(self) -> int:
        """Dirty names, a whole directory counting as one. Where names were spilled, more than there
        are is told of what changed there a moment ago, and 0 only when nothing is dirty."""
        with self._changed:
            wholes = sum(1 for entry in self._dirs.values() if entry.whole)
            return self._names + wholes + self._spilled.count()


def _is_due(entry: _Dir, name: bytes, due: float) -> bool:
    """Whether a name is held, and until then."""
    return name in entry.held and entry.held[name][2] == due


def _work(ino: int, names: dict[bytes, Touch], since: float) -> Work:
    trees = frozenset(n for n, t in names.items() if t.value & _TREE)
    return Work(ino, names, False, trees, since)
