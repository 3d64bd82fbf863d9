"""Rounds of replication with a planner, a sender and a watch that do as they are told: what a
heartbeat may carry, and what ends the rounds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2node.errors import PeerLost, SafetyStop
from i2node.fs.coalesce import Dirty
from i2node.fs.root import Root
from i2node.fs.touch import Touch, Work
from i2node.repl import rounds
from i2node.repl.heartbeat import Heartbeat
from i2node.repl.history import History
from i2node.repl.rounds import Rounds
from i2node.repl.trouble import Troubles

Deeds = list[Callable[[], None]]


class Planner:
    """Does the next of its deeds in each round."""

    def __init__(self) -> None:
        self.deeds: Deeds = []
        self.rounds = 0
        self.complete = True
        self.abandoned: list[Work] = []

    def live(self, works: list[Work], stop: Callable[[], bool]) -> bool:
        self.rounds += 1
        if self.deeds:
            self.deeds.pop(0)()
        return self.complete

    def abandon(self, works: list[Work]) -> None:
        self.abandoned += works

    def settled(self) -> None:
        pass


class Large:
    """Looks no file through."""

    def scouted(self) -> list[float]:
        return []


class Sender:
    """Does the next of its deeds each time it settles; with the first beat it is over. A beat is
    durable at once."""

    def __init__(self, stage: Stage) -> None:
        self.deeds: Deeds = []
        self.error: BaseException | None = None
        self.beats: list[int] = []  # behind how many rounds
        self.large = Large()
        self.stage = stage

    def settle(self) -> None:
        if self.deeds:
            self.deeds.pop(0)()

    def beat(self) -> int:
        # Or all that comes from now on looks old.
        assert self.stage.dirty.under_way is None
        self.beats.append(self.stage.planner.rounds)
        self.stage.stop.set()
        self.stage.heartbeat.durable(len(self.beats), time.monotonic())
        return len(self.beats)

    def drained(self) -> bool:
        return True


class Watch:
    """Marks at once when it is asked for a beat, behind what it has not told yet."""

    def __init__(self, dirty: Dirty) -> None:
        self.failure: None = None
        self.root_lost: str | None = None
        self.dirty = dirty
        self.untold: Deeds = []
        self.dumb = False

    def beat(self) -> None:
        while self.untold:
            self.untold.pop()()
        if self.dumb:
            return
        now = time.monotonic()
        self.dirty.mark(now, now)


class Stage:
    def __init__(self, place: Path) -> None:
        self.root = Root(os.fsencode(place))
        self.dirty = Dirty()
        self.stop = threading.Event()
        self.planner, self.watch = Planner(), Watch(self.dirty)
        self.heartbeat = Heartbeat()
        self.sender = Sender(self)
        troubles = Troubles(self.dirty.wake)
        self.rounds = Rounds("rule", self.dirty, troubles, self.heartbeat, self.stop, History())

    def run(self) -> None:
        # They have what a round asks of them, and no more.
        self.rounds.run(self.root, self.watch, self.planner, self.sender)  # type: ignore[arg-type]

    def touch(self) -> None:
        self.dirty.add(1, b"f", Touch.DATA, time.monotonic())

    def mark(self) -> None:
        """A mark comes, and behind it the name is to be looked at again."""
        self.watch.beat()
        self.touch()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.root.close()


def test_a_beat_waits_for_what_the_planner_gives_back(stage: Stage) -> None:
    stage.planner.deeds = [stage.mark, stage.mark]
    stage.touch()
    stage.run()
    assert stage.planner.rounds == stage.sender.beats[0] == 3


def test_a_beat_waits_for_what_changed_while_it_was_read(stage: Stage) -> None:
    stage.sender.deeds = [stage.mark, stage.mark]
    stage.touch()
    stage.run()
    assert stage.planner.rounds == stage.sender.beats[0] == 3


def stamps(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that will be carried."""
    seen: list[float] = []
    carried = stage.heartbeat.carried

    def told(stamp: float, frame: int, now: float) -> None:
        seen.append(stamp)
        carried(stamp, frame, now)

    monkeypatch.setattr(stage.heartbeat, "carried", told)
    return seen


def test_marks_of_an_earlier_attempt_are_not_passed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = stamps(stage, monkeypatch)
    stage.dirty.mark(-1.0, time.monotonic())
    stage.touch()
    stage.run()
    assert carried and min(carried) > 0


def test_a_round_that_was_broken_off_passes_no_mark(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried, marked = stamps(stage, monkeypatch), []

    def broken_off() -> None:
        stage.watch.beat()
        marked.append(time.monotonic())
        stage.stop.set()

    stage.planner.complete = False
    stage.planner.deeds = [broken_off]
    stage.touch()
    stage.run()
    assert stage.planner.rounds == 1 and min(carried) >= marked[0]


def test_what_the_watch_is_about_to_tell_of_is_not_left_when_it_stops(stage: Stage) -> None:
    stage.watch.untold = [stage.touch]
    stage.stop.set()
    stage.run()
    assert stage.planner.rounds == 1 and not stage.rounds.left


def test_where_the_watch_does_not_tell_all_something_may_be_left(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "DRAIN_S", 0.1)
    stage.watch.dumb = True
    stage.stop.set()
    stage.run()
    assert stage.rounds.left


def test_what_was_taken_is_given_back_when_the_line_is_cut(stage: Stage) -> None:
    def cut() -> None:
        raise PeerLost("the line is cut")

    stage.planner.deeds = [cut]
    stage.touch()
    with pytest.raises(PeerLost):
        stage.run()
    assert [work.ino for work in stage.planner.abandoned] == [1]
    assert stage.rounds.busy_since is None and stage.dirty.under_way is None


def test_a_root_that_is_gone_stops_the_rule(stage: Stage) -> None:
    stage.watch.root_lost = "it was moved"
    with pytest.raises(SafetyStop):
        stage.run()
