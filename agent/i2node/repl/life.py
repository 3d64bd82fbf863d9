"""The life of one path, as the rooms it passes through tell it, and what follows from that.

Plain data and pure decisions: explain.py asks, `judge` decides, the command line prints. Times are
seconds since 1970, sizes bytes, texts as model.show makes them. None means not known, or that it is
not so; what was forgotten is told by `known_since`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from i2node.model import RACY, Entry, Kind, State
from i2node.repl.doubts import UNTIL_ASKED, UNTIL_COMPARED, UNTIL_SENT
from i2node.repl.plan import is_assumed


class Verdict(StrEnum):
    """What the judgement begins with."""

    IN_SYNC = "in sync"
    ON_ITS_WAY = "on its way"
    WAITS = "waits"
    CANNOT = "cannot"
    LEFT_OUT = "left out"


class Queue(StrEnum):
    """Where a change waits."""

    MEMORY = "memory"
    DISK = "disk"
    HAND = "hand"  # it is being looked at
    SCOUT = "scout"  # a large file, looked through beside the others
    READING = "reading"  # a large file, being shipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An entry at the source, or as the target is known to hold it. mtime_ns: since 1970."""

    kind: str
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Seen):
    """content: its digest (BLAKE3-128 over those of its blocks) in hex, None: none is kept.
    attributes: whether those are known. assumed: it was there before the rule began, and not
    mirrored. racy: it was read so soon after a change that its times do
    not prove it is still that. told: as the target told it."""

    content: str | None
    attributes: bool
    assumed: bool
    racy: bool
    told: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The last change that was handed out to be looked at. by: what the events said of it."""

    by: tuple[str, ...]
    changed: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A change that waits. of: the path that is dirty, which may be one above; by: what is known to
    have happened to it. whole: its directory is looked at as a whole. due: when it is looked at at
    the earliest, None: as soon as may be."""

    queue: Queue
    of: str
    since: float
    by: tuple[str, ...] = ()
    whole: bool = False
    due: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The last frame that carried it. gone: the frame takes it away. fuzzy: it changed while it was
    read, and is looked at once more. walk: the walk found it, no event. lost: the connection ended
    before it was durable."""

    frame: int
    gone: bool
    fuzzy: bool
    walk: bool
    read: float
    sent: float | None
    applied: float | None
    durable: float | None
    lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """A directory above is made, moved or taken away by a frame that is not known to be durable."""

    path: str
    sent: Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """path: that of the problem, which may be one above. retry: when it is tried again."""

    path: str
    cause: str
    remedy: str
    retry: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What is known of one path in one rule.

    excluded: what leaves it out; mount: the mount point that it lies on or behind. source_error:
    why it cannot be looked at. same: whether all that stat tells is as the target is known to hold
    it. unknown: a directory above that the target told of, and not yet of what is in it. doubt: the
    seq (doubts.py) until which its directory is in doubt, or one above where that concerns it;
    all_doubt: why everything is. gaps: a frame that is under way is forgotten, and may carry it.
    """

    rule: str
    source: str
    target: str
    path: str
    state: State
    connected: bool
    cause: str = ""
    remedy: str = ""
    blocked_on: str = ""
    asked: float
    known_since: float
    durable_as_of: float | None = None
    """See RuleReport."""
    undetected_s: float | None = None
    """Bound of the age of a change that no event told; None: there is none."""
    slow_s: float | None = None
    """The same of one that shows in nothing but the time of the change, as of file flags."""

    excluded: str | None = None
    mount: str | None = None
    now: Seen | None = None
    source_error: str = ""
    held: Held | None = None
    same: bool = False
    unknown: str | None = None
    doubt: int | None = None
    all_doubt: str = ""
    looked: Looked | None = None
    queued: Queued | None = None
    sent: Sent | None = None
    above: Above | None = None
    gaps: bool = False
    problem: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """text: a line that begins with the verdict. as_of: of what is in sync, when it surely was."""

    verdict: Verdict
    text: str
    as_of: float | None = None


def seen(entry: Entry) -> dict[str, Any]:
    """The fields of `Seen`."""
    return {
        "kind": Kind(entry.kind).name.lower(),
        "size": entry.size,
        "mtime_ns": entry.mtime_s * 10**9 + entry.mtime_ns,
        "mode": entry.mode & 0o7777,
        "uid": entry.uid,
        "gid": entry.gid,
        "links": entry.nlink,
    }


def held(entry: Entry, told: bool) -> Held:
    """The record of the journal."""
    return Held(
        **seen(entry),
        content=entry.content.hex() if any(entry.content) else None,
        attributes=entry.attrs != 0,
        assumed=is_assumed(entry),
        racy=bool(entry.flags & RACY),
        told=told,
    )


def plain(life: Life) -> dict[str, Any]:
    """For JSON, with the judgement."""
    judged = judge(life)
    told = {"verdict": judged.verdict.value, "as_of": judged.as_of, "judgement": judged.text}
    return asdict(life) | told


def judge(life: Life) -> Judgement:
    """How it stands in the end: one line, which says nothing that is not known."""
    return (
        _left_out(life)
        or _hindered(life)
        or _waiting(life)
        or _under_way(life)
        or _differing(life)
        or _doubtful(life)
        or _in_sync(life)
    )


def moment(at: float) -> str:
    """A time for people, of this host's zone, to the millisecond."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")


def _left_out(life: Life) -> Judgement | None:
    if life.excluded is not None:
        return _judged(Verdict.LEFT_OUT, f"by the exclude {life.excluded}")
    if life.mount is not None:
        text = f"another file system is mounted on {life.mount}, and what is mounted is not entered"
        return _judged(Verdict.LEFT_OUT, text)
    if life.same and life.held is not None and life.held.assumed and life.queued is None:
        text = "it was there before the rule began, which skips that, and has not changed since"
        return _judged(Verdict.LEFT_OUT, text)
    return None


def _hindered(life: Life) -> Judgement | None:
    if life.problem is not None:
        problem = life.problem
        parts = [f"{problem.path}: {problem.cause}", problem.remedy]
        if problem.retry is not None:
            parts.append(f"tried again at {moment(problem.retry)}")
        return _judged(Verdict.CANNOT, "; ".join(filter(None, parts)))
    if life.state == State.STOP:
        return _judged(Verdict.CANNOT, f"the rule is stopped: {_why(life)}")
    if life.source_error:
        return _judged(Verdict.CANNOT, f"it cannot be looked at: {life.source_error}")
    return None


def _waiting(life: Life) -> Judgement | None:
    queued = life.queued
    if queued is None or (queued.whole and _proven(life)):
        return None
    if not life.connected:
        return _target_away(life)
    whose = "it" if queued.of == life.path else queued.of
    if queued.queue is Queue.SCOUT:
        return _judged(
            Verdict.ON_ITS_WAY, "it is being looked through, and shipped when that is done"
        )
    if queued.queue is Queue.READING:
        return _judged(Verdict.ON_ITS_WAY, "it is being read and sent")
    if queued.queue is Queue.HAND:
        return _judged(Verdict.ON_ITS_WAY, f"{whose} is being looked at")
    if queued.due is not None and queued.due > life.asked:
        text = f"{whose} is written to, and looked at next at {moment(queued.due)}"
        return _judged(Verdict.WAITS, text)
    return _judged(Verdict.ON_ITS_WAY, f"{whose} is looked at as soon as its turn comes")


def _proven(life: Life) -> bool:
    """Whether its times say that it is as it was sent, whatever its directory is looked at for."""
    durable = life.sent is None or life.sent.durable is not None
    return (
        life.same and durable and not life.above and not (life.held is not None and life.held.racy)
    )


def _under_way(life: Life) -> Judgement | None:
    if life.sent is not None and life.sent.fuzzy:
        return _judged(Verdict.WAITS, "it changed while it was read, and is looked at once more")
    whose = f"{life.above.path} is " if life.above else ""
    sent = life.above.sent if life.above else life.sent
    if sent is None or sent.durable is not None:
        return None
    if sent.lost or not life.connected:
        return None  # what came of it is in doubt
    if life.blocked_on:
        return _judged(Verdict.WAITS, f"{whose}in frame {sent.frame}, for {life.blocked_on}")
    if sent.applied is not None:
        how = f"applied at {moment(sent.applied)}, not durable yet"
    elif sent.sent is not None:
        how = f"sent at {moment(sent.sent)}, not applied yet"
    else:
        how = f"read at {moment(sent.read)}, not sent yet"
    return _judged(Verdict.ON_ITS_WAY, f"{whose}in frame {sent.frame}, {how}")


def _differing(life: Life) -> Judgement | None:
    if life.same and life.unknown is None:
        return None
    if not life.connected:
        return _target_away(life)
    if life.unknown is not None:
        text = f"what the target holds in {life.unknown} is not known, and goes or is asked for"
        return _judged(Verdict.WAITS, text)
    if life.state in (State.MIRROR, State.SWITCH):
        return _judged(Verdict.ON_ITS_WAY, "the walk comes to it, or is at it")
    bound = life.slow_s if _looks_alike(life) else life.undetected_s
    found = f"it is found within {bound:.0f} s" if bound is not None else "no bound is known"
    return _judged(
        Verdict.WAITS, f"it differs from what the target holds, and no event told yet: {found}"
    )


def _looks_alike(life: Life) -> bool:
    """Whether all that is told of both sides is equal, though they differ."""
    if life.now is None or life.held is None:
        return False
    now, held = asdict(life.now), asdict(life.held)
    return all(held[key] == value for key, value in now.items())


def _doubtful(life: Life) -> Judgement | None:
    if life.all_doubt:
        if not life.connected:
            return _target_away(life)
        return _judged(Verdict.WAITS, f"everything is compared once more: {life.all_doubt}")
    if life.doubt is None and life.above is None:
        return None
    lost = life.above is not None or (life.sent is not None and life.sent.durable is None)
    asked = life.doubt in (UNTIL_ASKED, UNTIL_COMPARED)
    if not life.connected:
        interrupted = life.doubt == UNTIL_SENT
        return _target_away(life) if lost or asked or interrupted or life.gaps else None
    if lost or asked:
        return _judged(Verdict.WAITS, "the target is to be asked what it holds in the directory")
    if life.doubt == UNTIL_SENT:
        return _judged(Verdict.ON_ITS_WAY, "its directory is being read")
    if life.gaps:
        text = f"frame {life.doubt}, which may carry it, is not durable yet"
        return _judged(Verdict.ON_ITS_WAY, text)
    return None


def _in_sync(life: Life) -> Judgement:
    at: float | None = life.asked
    if life.held is not None and life.held.racy:
        # What stat tells proves nothing: it is as it was read, and no event was told since.
        known = (life.durable_as_of, life.sent.read if life.sent is not None else None)
        at = max((time for time in known if time is not None), default=None)
    when = "as of a time that is not known any more" if at is None else f"as of {moment(at)}"
    what = "" if life.held is not None else ": it is neither here nor there"
    return Judgement(Verdict.IN_SYNC, f"{Verdict.IN_SYNC.value} {when}{what}", at)


def _judged(verdict: Verdict, text: str) -> Judgement:
    return Judgement(verdict, f"{verdict.value}: {text}")


def _target_away(life: Life) -> Judgement:
    return _judged(Verdict.WAITS, f"for the target: {_why(life)}")


def _why(life: Life) -> str:
    if not life.cause:
        return "it is being connected to"
    return f"{life.cause} ({life.remedy})" if life.remedy else life.cause
