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
from collections.abc import Iterable
from dataclasses import replace
from itertools import count, islice

from i2node.fs.groups import Groups
from i2node.fs.halves import Place
from i2node.fs.heat import Heat, Key
from i2node.fs.marks import Marks
from i2node.fs.share import Share
from i2node.fs.spill import IN_MEMORY, Spill, Spilled
from i2node.fs.touch import TOUCHES, WAITS, Room, Touch, Waiting, Work

_STALE = 1024  # renamed names remembered though they are dirty no more, or not by themselves
_TREE = Touch.TREE.value
_CONTENT = Touch.DATA.value | Touch.ATTR.value


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
        self._dirs: dict[int, Share] = {}
        self._ready: dict[int, None] = {}  # directories with something to hand out, oldest first
        # Heap of what is held; may be stale. Numbered: a name and None do not compare.
        self._due: list[tuple[float, int, int, bytes | None]] = []
        self._numbers = count()
        self._heat = Heat()
        self._names = 0
        self._woken = False
        self._renamed = Groups()
        self._marks = Marks()
        self.under_way: float | None = None
        """The earliest `since` of what was handed out and is dealt with now, for who takes to say.
        What is dirty again meanwhile keeps its age; what was not handed out is as old as that."""
        self._handed: dict[Key, float] = {}  # by the last `take`: since
        self._told = 0, 0.0  # names that were told of together share one tuple

    def spill_to(self, spill: Spill) -> None:
        """From now on names beyond what memory is to hold go there."""
        with self._changed:
            self._spilled.place = spill

    # ------------------------------------------------------------------------------- filling

    def add(
        self, ino: int, name: bytes, touch: Touch | int, now: float, since: float | None = None
    ) -> None:
        """One name of a directory was touched, or is to be looked at once more. since: clock
        reading of the change that this is about, where that may be older than what is known."""
        with self._changed:
            self._add(ino, name, int(touch), now, self._age((ino, name), since))
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
        touched by, and since when: the name that it left may be gone, or be another's."""
        with self._changed:
            for ino, name, touch in touches:
                self._add(ino, name, touch, now)
            for one, other in renames:
                if self._has(*one) and self._has(*other):
                    touch, since = self._dirs[one[0]].told(one[1])
                    if content := touch & _CONTENT:
                        self._known(other[0], self._dirs[other[0]], other[1], content, now, since)
                    self._renamed.connect(one, other)
            if len(self._renamed) > 2 * self._names + _STALE:
                self._renamed.keep(self._has)
            self._changed.notify_all()
        self._spilled.pause()

    def add_dir(self, ino: int, recursive: bool, now: float) -> None:
        """A directory as a whole is to be looked at; recursive: and all below it."""
        with self._changed:
            entry = self._add_dir(ino, recursive, now)
            if (age := self._age((ino, None))) is not None:
                entry.since = min(entry.since, age)
            self._changed.notify_all()

    def whole(self, inos: Iterable[int]) -> set[int]:
        """Those of these directories that are to be looked at as a whole, and were not handed out
        yet."""
        with self._changed:
            return {ino for ino in inos if ino in self._dirs and self._dirs[ino].whole}

    def put_back(self, work: Work, now: float) -> None:
        """Work that could not be done yet. It keeps its age, and is held back like any other that
        comes again."""
        with self._changed:
            if self.under_way is None:
                self._put_back(work, now, {})
            else:
                oldest = min(work.since, self.under_way)
                self._put_back(replace(work, since=oldest), now, self._handed)
            self._changed.notify_all()

    def spare(self, ino: int, name: bytes) -> None:
        """The attributes under a name are about to be read: it is dirty no more where nothing but
        ATTR is known of it."""
        with self._changed:
            entry = self._dirs.get(ino)
            if entry is None or entry.whole:
                return
            if entry.told(name)[0] & ~WAITS == Touch.ATTR:
                self._pull(ino, name)

    def discard(self, ino: int) -> None:
        """The directory is gone, and all work in it."""
        with self._changed:
            entry = self._dirs.pop(ino, None)
            if entry is not None:
                self._names -= len(entry)
                self._ready.pop(ino, None)
            self._spilled.discard(ino)

    def since(self, ino: int, name: bytes) -> float | None:
        """Since when a name is dirty that is being dealt with; None: nothing is."""
        return self._age((ino, name))

    def _age(self, key: Key, since: float | None = None) -> float | None:
        """Since when it is dirty that somebody asks to look at once more; None: since now."""
        if self.under_way is None:
            return since
        age = self._handed.get(key, self.under_way if since is None else since)
        return age if since is None else min(age, since)

    def _put_back(self, work: Work, now: float, ages: dict[Key, float]) -> None:
        """Into memory, whatever is there: it was there before, or was asked for. What has no age of
        its own has the work's."""
        if work.names is None:
            entry = self._add_dir(work.ino, work.recursive, now, held=True)
            entry.since = min(entry.since, ages.get((work.ino, None), work.since))
        else:
            for name, touch in work.names.items():
                since = ages.get((work.ino, name), work.since)
                self._add(work.ino, name, int(touch), now, since)
        entry = self._dirs[work.ino]
        if entry.whole:
            entry.add_trees(work.trees, self._max_names)

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
            entry = self._dirs[ino] = Share()
        if full or len(entry) >= self._max_names:
            self._add_dir(ino, False, now)
            entry.since = min(entry.since, since)
            if touch & _TREE:
                entry.add_trees((name,), self._max_names)
            return
        self._names += 1
        self._hold(ino, entry, name, touch, since, None, now)

    def _hold(
        self,
        ino: int,
        entry: Share,
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
        self, ino: int, entry: Share, name: bytes, touch: int, now: float, since: float
    ) -> bool:
        """Adds a touch to what memory has of the name. False: it has nothing."""
        if entry.whole:
            entry.since = min(entry.since, since)
            if touch & _TREE:
                entry.add_trees((name,), self._max_names)
            return True
        known = entry.ready.get(name)
        if known is not None:
            if touch & ~known[0] or since < known[1]:
                entry.ready[name] = known[0] | touch, min(known[1], since)
            entry.since = min(entry.since, since)
            return True
        held = entry.held.get(name)
        if held is not None:
            self._hold(ino, entry, name, held[0] | touch, min(held[1], since), held[2], now)
            return True
        return False

    def _make_ready(self, ino: int, entry: Share, name: bytes, touch: int, since: float) -> None:
        if self._told != (touch, since):
            self._told = touch, since
        entry.put(name, self._told)
        self._ready[ino] = None

    def _add_dir(self, ino: int, recursive: bool, now: float, held: bool = False) -> Share:
        """held: it waits for its time, be it recursive or not."""
        entry = self._dirs.get(ino)
        if entry is None:
            entry = self._dirs[ino] = Share()
        if recursive:
            entry.recursive = True
            entry.trees.clear()
        if entry.whole:
            return entry
        self._names -= len(entry)
        entry.make_whole(now, self._max_names)
        self._woken = True
        due = self._heat.due((ino, None), now)
        if due > now and (held or not recursive):
            self._ready.pop(ino, None)
            heapq.heappush(self._due, (due, next(self._numbers), ino, None))
        else:
            self._ready[ino] = None
        return entry

    # ------------------------------------------------------------------------------- holding back

    def cost(self, ino: int, name: bytes, seconds: float, now: float) -> None:
        """A look at a name that was handed out took so long, and is over now."""
        with self._changed:
            self._heat.cost((ino, name), seconds, now)
            entry = self._dirs.get(ino)
            ready = entry.ready.get(name) if entry is not None else None
            if entry is None or ready is None:
                return
            if (due := self._heat.paused((ino, name), ready[0])) > now:
                del entry.ready[name]
                entry.held[name] = (*ready, due)
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
            elif entry.is_due(name, due):
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
            self._handed = handed = {}
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
                    handed[ino, None] = entry.since
                    self._heat.handed((ino, None), now)
                    del self._ready[ino]
                    del self._dirs[ino]
                    continue
                since = entry.since
                names: dict[bytes, Touch] = {}
                for name in list(islice(entry.ready, max_names)):
                    names[name] = self._hand_out(ino, name, *entry.ready.pop(name), now)
                works.append(Work.of(ino, names, since))
                max_names -= len(names)
                self._names -= len(names)
                if entry.ready:
                    entry.since = min(since for _, since in entry.ready.values())
                    continue
                del self._ready[ino]
                if not entry.held:
                    del self._dirs[ino]
            if self._renamed:
                works = self._with_partners(works, now)
        return works

    def _hand_out(self, ino: int, name: bytes, touch: int, since: float, now: float) -> Touch:
        self._handed[ino, name] = since
        self._heat.handed((ino, name), now, touch)
        return TOUCHES[touch]

    def _with_partners(self, works: list[Work], now: float) -> list[Work]:
        """The works, with what was renamed to or from what is in them, be it held back or not."""
        more: dict[int, dict[bytes, Touch]] = {}
        oldest = now
        for taken in [(work.ino, name) for work in works for name in work.names or ()]:
            for ino, name in self._renamed.pop(taken):
                found = self._pull(ino, name)
                if found is not None:
                    more.setdefault(ino, {})[name] = self._hand_out(ino, name, *found, now)
                    oldest = min(oldest, found[1])
        if not self._names:
            self._renamed.clear()
        for at, work in enumerate(works):
            if work.names is not None and (names := more.pop(work.ino, None)):
                works[at] = Work.of(work.ino, work.names | names, min(work.since, oldest))
        return works + [Work.of(ino, names, oldest) for ino, names in more.items()]

    def _has(self, ino: int, name: bytes) -> bool:
        """Whether memory holds a name as one."""
        entry = self._dirs.get(ino)
        return entry is not None and name in entry

    def _pull(self, ino: int, name: bytes) -> tuple[int, float] | None:
        """Takes one name out, ready or held: (touch, since); None where it is neither."""
        if not self._has(ino, name):
            return None
        entry = self._dirs[ino]
        found = entry.pull(name)
        self._names -= 1
        if not entry.ready:
            self._ready.pop(ino, None)
        if not entry:
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
                    self._put_back(work, now, {})

    def waiting(self, ino: int, name: bytes) -> Waiting | None:
        """How a name of a directory waits, by itself or with the whole; None: it does not."""
        with self._fetching:  # what comes back from the disk is seen there or here
            with self._changed:
                entry = self._dirs.get(ino)
                found = entry.waiting(name) if entry is not None else None
                for key in ((ino, None), (ino, name)):
                    if found is None and (since := self._handed.get(key)) is not None:
                        found = Waiting(Room.HAND, Touch(0), since, whole=key[1] is None)
            return found or self._spilled.find(ino, name)

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
                if entry is not None and (entry.whole if name is None else entry.is_due(name, due)):
                    return max(0.0, due - now)
                heapq.heappop(self._due)
            return None

    def oldest(self, now: float) -> float:
        """Age in seconds of the earliest touch not handed out yet; 0 when there is none."""
        with self._changed:
            return now - min(now, self._earliest())

    def _earliest(self) -> float:
        """Clock reading of it; inf when there is none."""
        earliest = min((entry.earliest() for entry in self._dirs.values()), default=math.inf)
        spilled = self._spilled.oldest()
        return earliest if spilled is None else min(earliest, spilled)

    # ------------------------------------------------------------------------------- marks

    def mark(self, stamp: float, now: float) -> None:
        """All that happened before the clock reading stamp was added by now."""
        with self._changed:
            self._marks.place(stamp, now)
            self._woken = True
            self._changed.notify_all()

    def passed(self, beside: float = math.inf) -> float | None:
        """The latest stamp of a mark that all has passed which was added before it: it was handed
        out, and did not come back. None when there is no new one. Not to be asked while that is
        open, when something is `under_way`. beside: clock reading of the earliest change that is
        neither dirty nor dealt with."""
        with self._changed:
            return self._marks.passed(min(self._earliest(), beside)) if self._marks else None

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
