"""Asks each room that a path passes through what it knows of it; life.py decides what follows.

The rooms are asked in the order in which work goes on, so that what moves on meanwhile is seen in
one of them, and the source last: what it shows then, the rooms before have told of or will.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.sweep import Name
from i2node.fs.touch import Room, Touch, Waiting
from i2node.model import MOUNT, PROBED, RACY, Entry, Kind, Verdict, show
from i2node.mover import batch, listing
from i2node.repl import life as lives
from i2node.repl.doubts import UNTIL_ASKED, UNTIL_SENT
from i2node.repl.history import History, Way
from i2node.repl.journal import Journal
from i2node.repl.life import Above, Life, Looked, Queue, Queued, Seen, Sent, Trouble
from i2node.repl.plan import ROOT, named_root
from i2node.repl.planner import Planner
from i2node.repl.report import RuleReport
from i2node.repl.rounds import Rounds
from i2node.repl.sender import Sender
from i2node.repl.trouble import Troubles

_HAPPENED = {
    Touch.DATA: "written",
    Touch.ATTR: "attributes or links changed",
    Touch.NAME: "created, deleted or renamed",
    Touch.TREE: "a directory appeared",
    Touch.UNTOLD: "closed after it may have been mapped",
    Touch.MOVED: "renamed",
    Touch.DELETED: "deleted",
}
_COMES = Touch.NAME | Touch.TREE | Touch.MOVED | Touch.DELETED


@dataclass(frozen=True, slots=True)
class Rooms:
    """Of one rule that runs. source: its path; root: inode number of it; owners: see MirrorOptions.
    sender: None while there is no connection; planner: the last one."""

    source: bytes
    root: int
    owners: bool
    paths: PathSet
    dirty: Dirty
    rounds: Rounds
    troubles: Troubles
    history: History
    journal: Journal
    sender: Sender | None
    planner: Planner | None


@dataclass(frozen=True, slots=True)
class _Look:
    """The source at one moment: the places (directory, name) on the way to the path as far as they
    are there, the entry, where the way ends at a mount, and why it could not be looked at."""

    places: tuple[Name, ...]
    entry: Entry | None
    mount: bytes | None = None
    error: str = ""


def explain(rooms: Rooms, path: bytes, report: RuleReport) -> Life:
    """The life of a path relative to the root, b"" for the root. report: of the same rule, made a
    moment ago. Raises SessionError when the journal cannot be read."""
    with _opened(rooms.source) as root:
        before = _look(root, path, not rooms.owners)
        target = _held_places(rooms, path)
        own = {places[-1] for places in (before.places, target) if len(places) == _depth(path)}
        queued = _queued(rooms, path, before, target)
        if queued is not None and queued.queue is Queue.HAND and rooms.rounds.busy_since is None:
            queued = None  # that round is over
        queued = queued or _large(rooms, path, before.entry)
        looked = rooms.history.look([(ino, b"" if name == ROOT else name) for ino, name in own])
        way, gaps = rooms.history.way(own), rooms.history.gaps
        problem = _problem(rooms, path)
        record = _record(rooms, path, target)
        unknown = _unknown(rooms, path, target)
        above = _above(rooms, path, before, target)
        doubt = _doubt(rooms, before, target)
        now = _look(root, path, not rooms.owners)
    mounts = rooms.planner.mounts if rooms.planner is not None else ()
    mount = next((m for m in mounts if (path + b"/").startswith(m + b"/")), now.mount)
    excluded = rooms.paths.reason(path)
    return Life(
        rule=report.rule,
        source=report.source,
        target=report.target,
        path=show(os.path.join(rooms.source, path) if path else rooms.source),
        state=report.state,
        connected=rooms.sender is not None and rooms.sender.error is None,
        cause=report.cause,
        remedy=report.remedy,
        blocked_on=report.blocked_on,
        asked=time.time(),
        known_since=rooms.history.since,
        durable_as_of=report.durable_as_of,
        undetected_s=report.watch.max_undetected_s,
        slow_s=report.watch.slow_sweep_s,
        excluded=None if excluded is None else show(excluded),
        mount=None if mount is None else show(os.path.join(rooms.source, mount)),
        now=None if now.entry is None else Seen(**lives.seen(now.entry)),
        source_error=now.error,
        held=None if record is None else lives.held(record, bool(record.flags & PROBED)),
        same=_same(record, now.entry),
        unknown=unknown,
        doubt=doubt,
        all_doubt=rooms.journal.all_doubt,
        looked=None
        if looked is None
        else Looked(by=_happened(looked.touch), changed=_wall(looked.since), at=looked.at),
        queued=queued,
        sent=None if way is None else _sent(way),
        above=above,
        gaps=gaps,
        problem=problem,
    )


# ------------------------------------------------------------------ the source


@contextmanager
def _opened(source: bytes) -> Iterator[int]:
    """The root as a descriptor of our own: the session's may be closed meanwhile. Below 0: it
    cannot be opened."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _look(root: int, path: bytes, unowned: bool) -> _Look:
    if root < 0:
        return _Look((), None, error="the root of the source cannot be opened")
    dev = os.fstat(root).st_dev
    if not path:
        answer = batch.stat_names(root, dev, b"", (), unowned=unowned)
        own = listing.decode(answer.own)
        return _Look(((own.ino, ROOT),), own)
    places: list[Name] = []
    above = b""
    entry: Entry | None = None
    for name in path.split(b"/"):
        answer = batch.stat_names(root, dev, above, [name], unowned=unowned)
        if answer.status == errno.EXDEV:
            return _Look(tuple(places), None, mount=above)
        if answer.status:
            gone = answer.status in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            return _Look(tuple(places), None, error="" if gone else os.strerror(answer.status))
        places.append((listing.decode(answer.own).ino, name))
        entry = listing.find(answer.entries, name)
        above = above + b"/" + name if above else name
        if entry is not None and entry.flags & MOUNT:
            return _Look(tuple(places), None, mount=above)
        if entry is None:
            break
    status = entry.status if entry is not None else 0
    return _Look(tuple(places), entry, error=os.strerror(status) if status else "")


# ------------------------------------------------------------------ the target, by the journal


def _depth(path: bytes) -> int:
    """How many places are on the way to a path."""
    return len(path.split(b"/"))


def _held_places(rooms: Rooms, path: bytes) -> tuple[Name, ...]:
    """The places on the way to a path at the target, as far as it is known to hold directories."""
    if not path:
        return ((rooms.root, ROOT),)
    places: list[Name] = []
    ino: int | None = rooms.root
    for name in path.split(b"/"):
        if ino is None:
            break
        places.append((ino, name))
        ino = rooms.journal.occupant(ino, name)
    return tuple(places)


def _record(rooms: Rooms, path: bytes, places: tuple[Name, ...]) -> Entry | None:
    if not path:
        return listing.find(rooms.journal.get("root") or b"", ROOT)
    if len(places) < _depth(path):
        return None
    return listing.find(rooms.journal.select(places[-1][0], [places[-1][1]]), places[-1][1])


def _unknown(rooms: Rooms, path: bytes, places: tuple[Name, ...]) -> str | None:
    """The directory at which the way to a path ends though the target told that it is there."""
    if len(places) == _depth(path):
        return None
    ino, name = places[-1]
    told = listing.find(rooms.journal.select(ino, [name]), name)
    if told is None or told.kind != Kind.DIR:
        return None
    return show(os.path.join(rooms.source, b"/".join(path.split(b"/")[: len(places)])))


def _same(held: Entry | None, now: Entry | None) -> bool:
    """Whether the planner would find no difference in what stat tells."""
    if held is None or now is None:
        return held is now
    held = held._replace(flags=held.flags & ~RACY)
    if held.name == ROOT:
        return listing.diff(listing.encode(held), named_root(now), 0) is None
    return listing.diff(listing.encode(held), listing.encode(now), 0) is None


def _doubt(rooms: Rooms, look: _Look, target: tuple[Name, ...]) -> int | None:
    """The seq until which the nearest directory that the target is known to hold is in doubt, or
    one above, where that is more than a frame that carries something else in it."""
    nearest = _doubt_of(rooms, target[-1][0])
    if nearest is not None and (nearest >= UNTIL_SENT or rooms.history.gaps):
        return nearest
    for ino in {ino for ino, _ in (*look.places, *target)}:
        seq = _doubt_of(rooms, ino)
        if seq is not None and (seq >= UNTIL_SENT or rooms.history.gaps):
            return seq
    return nearest


def _doubt_of(rooms: Rooms, ino: int) -> int | None:
    """The seq until which one directory is in doubt. Steps of a frame that failed leave all that it
    concerns in doubt; what they failed in is asked for at once, the rest in the next session, for
    which it is no doubt in this one."""
    seq, planner = rooms.journal.doubt_of(ino), rooms.planner
    if seq != UNTIL_ASKED or planner is None or planner.draft.sink is not rooms.sender:
        return seq  # this session, if there is one, has not begun to ask
    return seq if rooms.troubles.waiting or planner.belief.doubted(ino) else None


# ------------------------------------------------------------------ what is on its way


def _sent(way: Way) -> Sent:
    return Sent(
        frame=way.frame,
        gone=way.entry.verdict == Verdict.GONE,
        fuzzy=way.entry.status == errno.EAGAIN,
        walk=way.walk,
        read=way.read,
        sent=way.sent,
        applied=way.applied,
        durable=way.durable,
        lost=way.lost,
    )


def _above(rooms: Rooms, path: bytes, look: _Look, target: tuple[Name, ...]) -> Above | None:
    """The nearest one above of which a frame says what stands there, and is not durable. One that
    was lost counts until the target was asked."""
    for depth in range(_depth(path) - 1, 0, -1):
        for place in {
            places[depth - 1] for places in (look.places, target) if len(places) >= depth
        }:
            way = rooms.history.way([place], stands=True)
            if way is None or way.durable is not None:
                continue
            if not way.lost or rooms.journal.doubt_of(place[0]) is not None:
                of = b"/".join(path.split(b"/")[:depth])
                return Above(path=show(os.path.join(rooms.source, of)), sent=_sent(way))
    return None


# ------------------------------------------------------------------ what waits


def _queued(rooms: Rooms, path: bytes, look: _Look, target: tuple[Name, ...]) -> Queued | None:
    """What waits of the path itself, else of one above it that decides about it."""
    moved = look.places != target
    for depth in range(_depth(path), 0, -1):
        own = depth == _depth(path)
        of = b"/".join(path.split(b"/")[:depth])
        for ino, name in {
            places[depth - 1] for places in (look.places, target) if len(places) >= depth
        }:
            found = rooms.dirty.waiting(ino, b"" if name == ROOT else name)
            if found is None:
                continue
            comes = bool(found.touch & _COMES) or found.room is Room.HAND or found.whole
            if own or found.recursive or (comes and moved):
                return _as_queued(rooms, of, found)
    return None


def _as_queued(rooms: Rooms, of: bytes, found: Waiting) -> Queued:
    return Queued(
        queue=Queue(found.room.value),
        of=show(os.path.join(rooms.source, of) if of else rooms.source),
        since=_wall(found.since),
        by=_happened(found.touch),
        whole=found.whole,
        due=None if found.due is None else _wall(found.due),
    )


def _large(rooms: Rooms, path: bytes, entry: Entry | None) -> Queued | None:
    """A large file that is read, or looked through, and not dirty meanwhile."""
    if rooms.sender is None or entry is None:
        return None
    large = rooms.sender.large
    since = large.hot.scouted(entry.ino)
    of = show(os.path.join(rooms.source, path))
    if since is not None:
        return Queued(queue=Queue.SCOUT, of=of, since=_wall(since))
    if large.reads(entry.ino):
        return Queued(queue=Queue.READING, of=of, since=_wall(time.monotonic()))
    return None


def _problem(rooms: Rooms, path: bytes) -> Trouble | None:
    """That of the path, or of the nearest one above it."""
    names = path.split(b"/") if path else []
    for depth in range(len(names), -1, -1):
        of = b"/".join(names[:depth])
        problem = rooms.troubles.of(of)
        if problem is not None:
            at = rooms.troubles.retry_at()
            retry = None if math.isinf(at) else _wall(at)
            return Trouble(
                path=problem.path or "/", cause=problem.cause, remedy=problem.remedy, retry=retry
            )
    return None


def _happened(touch: Touch) -> tuple[str, ...]:
    if touch & (Touch.MOVED | Touch.DELETED):
        touch &= ~Touch.NAME  # which says less
    return tuple(text for bit, text in _HAPPENED.items() if touch & bit)


def _wall(clock: float) -> float:
    """A reading of the monotonic clock as seconds since 1970."""
    return time.time() - time.monotonic() + clock
