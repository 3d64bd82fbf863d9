"""What follows from what the rooms know of a path: a table of lives and judgements."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from i2node.cli import lives
from i2node.model import State
from i2node.repl.doubts import UNTIL_ASKED, UNTIL_COMPARED, UNTIL_SENT
from i2node.repl.life import (
    Above,
    Held,
    Judgement,
    Life,
    Looked,
    Queue,
    Queued,
    Seen,
    Sent,
    Trouble,
    Verdict,
    judge,
    moment,
    plain,
)

T = 1_800_000_000.0
FIELDS: dict[str, Any] = {"kind": "file", "size": 5, "mtime_ns": 7, "mode": 0o644}
FIELDS |= {"uid": 0, "gid": 0, "links": 1}
NOW = Seen(**FIELDS)
LONGER = replace(NOW, size=6)
HELD = Held(**FIELDS, content="ab" * 16, attributes=True, assumed=False, racy=False, told=False)
SENT = Sent(
    frame=9,
    gone=False,
    fuzzy=False,
    walk=False,
    read=T - 5,
    sent=T - 4,
    applied=T - 3,
    durable=T - 2,
    lost=False,
)
LIFE = Life(
    rule="r",
    source="/s",
    target="bk:/t",
    path="/s/f",
    state=State.REPLICATION,
    connected=True,
    asked=T,
    known_since=T - 100,
    durable_as_of=T - 1,
    undetected_s=30.0,
    slow_s=3600.0,
    now=NOW,
    held=HELD,
    same=True,
    sent=SENT,
)
QUEUED = Queued(queue=Queue.MEMORY, of="/s/f", since=T - 1, by=("written",))
AWAY: dict[str, Any] = {"connected": False, "state": State.EXCEPTION}
AWAY |= {"cause": "bk: no route", "remedy": "mend it"}
TROUBLE = Trouble(path="f", cause="no room", remedy="make some", retry=T + 9)
UNDER_WAY = replace(SENT, durable=None)
LOST = replace(UNDER_WAY, lost=True)
RACY = replace(HELD, racy=True)
ASSUMED = replace(HELD, assumed=True)
WHOLE = replace(QUEUED, by=(), whole=True)


def judged(**fields: Any) -> Judgement:
    return judge(replace(LIFE, **fields))


@pytest.mark.parametrize(
    ("fields", "verdict", "words"),
    [
        ({}, "in sync", f"as of {moment(T)}"),
        ({"sent": None}, "in sync", f"as of {moment(T)}"),
        ({"held": None, "now": None}, "in sync", "neither here nor there"),
        (AWAY, "in sync", f"as of {moment(T)}"),
        # What its times do not prove is known by the events, or by what was read.
        ({"held": RACY}, "in sync", f"as of {moment(T - 1)}"),
        ({"held": RACY, "durable_as_of": T - 50}, "in sync", f"as of {moment(T - 5)}"),
        ({"held": RACY, "durable_as_of": None, "sent": None}, "in sync", "not known any more"),
        # Left out, whatever else.
        ({"excluded": "*.tmp", "problem": TROUBLE}, "left out", "by the exclude *.tmp"),
        ({"mount": "/s/m", "queued": QUEUED}, "left out", "mounted on /s/m"),
        ({"held": ASSUMED, "sent": None}, "left out", "before the rule began"),
        ({"held": ASSUMED, "queued": QUEUED}, "on its way", "its turn"),
        ({"held": ASSUMED, "same": False, "sent": None}, "waits", "no event told yet"),
        # What hinders comes before what waits.
        ({"problem": TROUBLE, "queued": QUEUED}, "cannot", "f: no room; make some; tried again"),
        ({"state": State.STOP, "cause": "gone", "remedy": "mount"}, "cannot", "gone (mount)"),
        ({"source_error": "Input/output error", "same": False}, "cannot", "Input/output error"),
        # Queued.
        ({"queued": QUEUED}, "on its way", "it is looked at as soon as its turn comes"),
        ({"queued": replace(QUEUED, due=T - 1)}, "on its way", "its turn"),
        ({"queued": replace(QUEUED, due=T + 8)}, "waits", f"next at {moment(T + 8)}"),
        ({"queued": replace(QUEUED, queue=Queue.DISK)}, "on its way", "its turn"),
        ({"queued": replace(QUEUED, queue=Queue.HAND)}, "on its way", "it is being looked at"),
        ({"queued": replace(QUEUED, queue=Queue.HAND, of="/s")}, "on its way", "/s is being"),
        ({"queued": replace(QUEUED, queue=Queue.SCOUT)}, "on its way", "looked through"),
        ({"queued": replace(QUEUED, queue=Queue.READING)}, "on its way", "read and sent"),
        ({"queued": QUEUED, **AWAY}, "waits", "for the target: bk: no route (mend it)"),
        ({"queued": QUEUED, "connected": False}, "waits", "it is being connected to"),
        # Its directory is looked at for something else, and its own times are proof.
        ({"queued": WHOLE}, "in sync", f"as of {moment(T)}"),
        ({"queued": WHOLE, "held": RACY}, "on its way", "its turn"),
        ({"queued": WHOLE, "sent": UNDER_WAY}, "on its way", "its turn"),
        ({"queued": WHOLE, "same": False}, "on its way", "its turn"),
        # In a frame.
        ({"sent": UNDER_WAY}, "on its way", f"in frame 9, applied at {moment(T - 3)}, not durable"),
        ({"sent": replace(UNDER_WAY, applied=None)}, "on its way", "not applied yet"),
        ({"sent": replace(UNDER_WAY, applied=None, sent=None)}, "on its way", "not sent yet"),
        ({"sent": UNDER_WAY, "blocked_on": "bandwidth plan"}, "waits", "for bandwidth plan"),
        ({"sent": replace(SENT, fuzzy=True)}, "waits", "changed while it was read"),
        ({"sent": UNDER_WAY, "doubt": 9, **AWAY}, "waits", "for the target"),
        ({"sent": LOST, "doubt": 9}, "waits", "to be asked"),
        ({"sent": LOST, "doubt": 9, **AWAY}, "waits", "for the target"),
        ({"sent": LOST}, "in sync", "as of"),  # the target was asked since
        # One above it is in a frame.
        ({"above": Above(path="/s", sent=UNDER_WAY)}, "on its way", "/s is in frame 9, applied"),
        ({"above": Above(path="/s", sent=UNDER_WAY), "sent": None}, "on its way", "/s is in"),
        ({"above": Above(path="/s", sent=LOST)}, "waits", "to be asked"),
        ({"above": Above(path="/s", sent=LOST), **AWAY}, "waits", "for the target"),
        ({"above": Above(path="/s", sent=UNDER_WAY), **AWAY}, "waits", "for the target"),
        ({"above": Above(path="/s", sent=UNDER_WAY), "queued": WHOLE}, "on its way", "its turn"),
        # It differs, and nobody told.
        ({"same": False, "now": LONGER}, "waits", "it is found within 30 s"),
        ({"same": False, "now": LONGER, "undetected_s": None}, "waits", "no bound"),
        ({"same": False}, "waits", "it is found within 3600 s"),  # flags, as chattr changes them
        ({"same": False, "slow_s": None}, "waits", "no bound"),
        ({"same": False, "state": State.MIRROR}, "on its way", "the walk"),
        ({"same": False, **AWAY}, "waits", "for the target"),
        ({"same": False, "held": None}, "waits", "no event told yet"),
        ({"held": None, "now": None, "unknown": "/s/d"}, "waits", "in /s/d is not known"),
        ({"held": None, "now": None, "unknown": "/s/d", **AWAY}, "waits", "for the target"),
        # In doubt.
        ({"all_doubt": "the journal was lost"}, "waits", "the journal was lost"),
        ({"all_doubt": "the journal was lost", **AWAY}, "waits", "for the target"),
        ({"doubt": UNTIL_ASKED}, "waits", "to be asked"),
        ({"doubt": UNTIL_ASKED, **AWAY}, "waits", "for the target"),
        ({"doubt": UNTIL_COMPARED}, "waits", "to be asked"),
        ({"doubt": UNTIL_SENT}, "on its way", "being read"),
        ({"doubt": UNTIL_SENT, **AWAY}, "waits", "for the target"),
        ({"doubt": 12}, "in sync", "as of"),  # of another name in the directory
        ({"doubt": 12, **AWAY}, "in sync", "as of"),
        ({"doubt": 12, "gaps": True}, "on its way", "frame 12, which may carry it"),
        ({"doubt": 12, "gaps": True, **AWAY}, "waits", "for the target"),
    ],
)
def test_judgements(fields: dict[str, Any], verdict: str, words: str) -> None:
    found = judged(**fields)
    assert found.verdict.value == verdict and words in found.text
    assert found.text.startswith(verdict)
    assert found.as_of is None or found.verdict is Verdict.IN_SYNC


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_can_be_had(verdict: Verdict) -> None:
    ways = ({}, {"queued": QUEUED}, {"doubt": UNTIL_ASKED}, {"problem": TROUBLE}, {"mount": "/s"})
    assert verdict in {judged(**fields).verdict for fields in ways}


def told(**fields: Any) -> str:
    """As the command line shows it, having heard it as JSON."""
    return lives.text(json.loads(json.dumps(plain(replace(LIFE, **fields)))))


def test_what_is_shown_of_a_life() -> None:
    text = told(
        looked=Looked(by=("written",), changed=T - 7, at=T - 6),
        queued=replace(QUEUED, due=T + 1),
        problem=TROUBLE,
        doubt=3,
    )
    for part in (
        "/s/f",
        "r, /s -> bk:/t",
        "file, 5 B (5), mode 0644",
        "content " + "ab" * 16,
        "attributes known",
        f"written, since {moment(T - 7)}, looked at {moment(T - 6)}",
        f"waits in memory since {moment(T - 1)}, written, looked at next at {moment(T + 1)}",
        f"it in frame 9, after a change, read {moment(T - 5)}",
        f"durable {moment(T - 2)}",
        "f: no room",
        "make some",
        f"tried again at {moment(T + 9)}",
        "doubt",
    ):
        assert part in text
    assert text.splitlines()[-1] == judged(problem=TROUBLE).text


def test_what_is_not_known_is_said_so() -> None:
    text = told(sent=None, held=None, now=None)
    assert f"not since {moment(T - 100)}" in text and "not known any more" in text
    assert "is not known to hold it" in text and "it is not there" in text
    held = replace(HELD, content=None, attributes=False, told=True, racy=True)
    text = told(held=held, sent=LOST)
    for part in ("no digest", "attributes not known", "as the target told", "its times prove"):
        assert part in text
    assert "ended before the target told" in text
    assert "sent" not in told(excluded="x", sent=None)


def test_times_and_names_of_any_kind_are_shown() -> None:
    text = told(now=replace(NOW, mtime_ns=-5, links=3), path="/s/\udcff\x1b[2J")
    assert "1969-12-31" in text and ".999999995" in text and "3 names" in text
    assert "\x1b" not in text and "\udcff" not in text
    assert "s since 1970" in told(now=replace(NOW, mtime_ns=2**63 * 10**9))
