"""What was looked at and sent lately: found by name, bounded, and honest about what it forgot."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from i2node.fs.touch import Touch, Work
from i2node.model import Entry, Kind, Verdict
from i2node.mover import listing as listings
from i2node.repl import history
from i2node.repl.history import History, Way

NONE: frozenset[bytes] = frozenset()


def record(name: bytes, **fields: Any) -> bytes:
    values: dict[str, Any] = dict.fromkeys(Entry._fields, 0)
    values |= {"verdict": Verdict.SAME, "content": bytes(16), "kind": Kind.FILE}
    return listings.encode(Entry(**(values | {"name": name} | fields)))


def way(told: History, *places: tuple[int, bytes]) -> Way:
    found = told.way(places)
    assert found is not None
    return found


def test_a_frame_is_known_on_its_way() -> None:
    told = History()
    told.begin()
    assert told.way([(1, b"a")]) is None
    told.walking = True
    told.note(0, 1, record(b"a", size=3) + record(b"b"))
    told.walking = False
    told.note(1, 1, record(b"b", size=5))
    first = way(told, (1, b"a"))
    assert (first.frame, first.walk, first.entry.size) == (0, True, 3)
    assert first.sent is first.applied is first.durable is None
    told.sent(0)
    assert way(told, (1, b"a")).sent is not None and way(told, (1, b"b")).sent is None
    told.applied(0)
    told.sent(1)
    told.durable(1)
    for name, frame in ((b"a", 0), (b"b", 1)):
        found = way(told, (1, name))
        assert (found.frame, found.walk) == (frame, frame == 0)
        assert found.sent and found.applied and found.durable
        assert found.read <= found.sent <= found.applied <= found.durable
    assert told.way([(2, b"a"), (1, b"c")]) is None


def test_the_latest_counts_wherever_it_stood() -> None:
    told = History()
    told.note(0, 1, record(b"a", size=1))
    told.note(3, 2, record(b"n", size=2))
    told.note(3, 1, record(b"a", verdict=Verdict.GONE))
    assert way(told, (1, b"a")).entry.verdict == Verdict.GONE
    assert way(told, (1, b"a"), (2, b"n")).frame == 3


def test_what_stands_somewhere_is_not_said_by_its_times() -> None:
    told = History()
    told.note(0, 1, record(b"d", kind=Kind.DIR))
    told.note(1, 1, record(b"d", kind=Kind.DIR, verdict=Verdict.META))
    assert way(told, (1, b"d")).frame == 1
    found = told.way([(1, b"d")], stands=True)
    assert found is not None and found.frame == 0
    told.note(2, 1, record(b"d", verdict=Verdict.GONE))
    found = told.way([(1, b"d")], stands=True)
    assert found is not None and found.frame == 2


def test_what_could_not_be_read_was_not_carried() -> None:
    told = History()
    told.note(0, 1, record(b"a", status=errno.EACCES) + record(b"f", status=errno.EAGAIN))
    assert told.way([(1, b"a")]) is None
    assert way(told, (1, b"f")).entry.status == errno.EAGAIN


def test_what_is_noted_behind_the_acknowledgement_is_as_far() -> None:
    told = History()
    told.sent(4)
    told.applied(4)
    told.note(4, 1, record(b"a"))
    assert way(told, (1, b"a")).applied is not None and way(told, (1, b"a")).durable is None
    told.durable(4)
    assert way(told, (1, b"a")).durable is not None
    told.note(3, 1, record(b"b"))
    assert way(told, (1, b"b")).durable is not None


def test_what_was_under_way_when_the_connection_ended_is_lost() -> None:
    told = History()
    told.begin()
    told.note(0, 1, record(b"a"))
    told.note(1, 1, record(b"b"))
    told.durable(0)
    told.cut()
    told.durable(7)  # late news of that attempt
    told.begin()
    assert not way(told, (1, b"a")).lost and way(told, (1, b"b")).lost
    told.note(0, 1, record(b"c"))
    assert way(told, (1, b"c")).durable is None
    told.durable(1)
    assert way(told, (1, b"c")).durable is not None and way(told, (1, b"b")).durable is None


def test_it_keeps_its_bounds_and_says_what_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(record(b"00"))
    monkeypatch.setattr(history, "BYTES", 4 * size)
    told = History()
    began = told.since
    for n in range(4):
        told.note(n, 1, record(b"%02d" % n))
    assert told.since == began and not told.gaps
    told.note(4, 1, record(b"04"))
    assert told.gaps and told.way([(1, b"00")]) is None and way(told, (1, b"01")).frame == 1
    assert told.since >= began and way(told, (1, b"01")).read >= told.since
    told.durable(0)
    assert not told.gaps
    told.durable(4)
    for n in range(5, 50):
        told.note(n, 1, record(b"%02d" % n))
        told.durable(n)
        assert not told.gaps
    assert told.way([(1, b"45")]) is None and way(told, (1, b"46")).durable is not None
    # One that is larger than all that is kept is kept alone.
    told.note(50, 1, b"".join(record(b"x%02d" % n) for n in range(9)))
    assert way(told, (1, b"x08")).frame == 50 and told.way([(1, b"49")]) is None


def test_many_frames_with_little_in_them_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FRAMES", 10)
    told = History()
    for n in range(30):
        told.note(n, 1, record(b"%02d" % n))
    assert told.way([(1, b"19")]) is None and way(told, (1, b"20")).frame == 20


def test_the_last_look_at_a_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "NAMES", 3)
    told = History()
    told.looked([Work(1, {b"a": Touch.DATA, b"b": Touch.NAME}, False, NONE, 5.0)])
    told.looked([Work(2, None, False, NONE, 6.0)])
    found = told.look([(1, b"b")])
    assert found is not None and (found.touch, found.since) == (Touch.NAME, 5.0)
    found = told.look([(2, b"any")])
    assert found is not None and not found.touch
    assert told.look([(1, b"c")]) is None
    told.looked([Work(1, {b"a": Touch.ATTR}, False, NONE, 7.0)])
    found = told.look([(1, b"a")])
    assert found is not None and (found.touch, found.since) == (Touch.ATTR, 7.0)
    assert told.look([(1, b"b")]) is None, "the round is forgotten"
