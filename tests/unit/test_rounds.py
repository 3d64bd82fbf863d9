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
from i2node.fs.touch import Touch, Work
from i2node.fs.tree import Root
from i2node.repl.heartbeat import Heartbeat
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
    """Does the next of its deeds each time it settles; with the first beat it is over."""

    def __init__(self, dirty: Dirty, stop: threading.Event) -> None:
        self.deeds: Deeds = []
        self.error: BaseException | None = None
        self.beats = 0
        self.large = Large()
        self.dirty = dirty
        self._stop = stop

    def settle(self) -> None:
        if self.deeds:
            self.deeds.pop(0)()

    def beat(self) -> int:
        assert self.dirty.under_way is None  # or all that comes from now on looks old
        self.beats += 1
        self._stop.set()
        return 1

    def drained(self) -> bool:
        return True


class Watch:
    """Marks at once when it is asked for a beat."""

    def __init__(self, dirty: Dirty) -> None:
        self.failure: None = None
        self.root_lost: str | None = None
        self.dirty = dirty

    def beat(self) -> None:
        now = time.monotonic()
        self.dirty.mark(now, now)


class Stage:
    def __init__(self, place: Path) -> None:
        self.root = Root(os.fsencode(place))
        self.dirty = Dirty()
        self.stop = threading.Event()
        self.planner, self.watch = Planner(), Watch(self.dirty)
        self.sender = Sender(self.dirty, self.stop)
        self.heartbeat = Heartbeat()
        troubles = Troubles(self.dirty.wake)
        self.rounds = Rounds("rule", self.dirty, troubles, self.heartbeat, self.stop)

    def run(self) -> None:
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
    assert (stage.planner.rounds, stage.sender.beats) == (3, 1)


def test_a_beat_waits_for_what_changed_while_it_was_read(stage: Stage) -> None:
    stage.sender.deeds = [stage.mark, stage.mark]
    stage.touch()
    stage.run()
    assert (stage.planner.rounds, stage.sender.beats) == (3, 1)


def test_marks_of_an_earlier_attempt_are_not_passed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[float] = []
    monkeypatch.setattr(stage.heartbeat, "carried", lambda stamp, *_: carried.append(stamp))
    stage.dirty.mark(-1.0, time.monotonic())
    stage.touch()
    stage.run()
    assert len(carried) == 1 and carried[0] > 0


def test_a_round_that_was_broken_off_passes_no_mark(stage: Stage) -> None:
    def broken_off() -> None:
        stage.watch.beat()
        stage.stop.set()

    stage.planner.complete = False
    stage.planner.deeds = [broken_off]
    stage.touch()
    stage.run()
    assert (stage.planner.rounds, stage.sender.beats) == (1, 0)


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
