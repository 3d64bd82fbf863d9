"""Paths in trouble: what is kept of them, and that none is forgotten unseen."""

from __future__ import annotations

import errno

import pytest

from i2node.fs.sweep import Name
from i2node.mover.batch import At, Op
from i2node.repl import trouble
from i2node.repl.told import Fault
from i2node.repl.trouble import KEPT, SHOWN, Troubles


class Planner:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.retried: list[bytes] = []
        self.all = 0
        self.doubted: list[tuple[bytes, bool]] = []
        self.belief = self

    def retry(self, path: bytes, place: Name | None) -> None:
        self.retried.append(path)

    def retry_all(self) -> None:
        self.all += 1

    def retry_doubts(self) -> None:
        pass

    def doubt(self, path: bytes, ancestors: bool, look: bool = True) -> None:
        self.doubted.append((path, look))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "RETRY_S", (0.0,))


def test_what_is_beyond_the_kept_is_found_again_by_looking_at_everything(soon: None) -> None:
    troubles, planner = Troubles(lambda: None), Planner()
    for number in range(KEPT + 600):
        troubles.unreadable(b"%d" % number, errno.EACCES, (1, b"%d" % number))
    assert troubles.shown().count == KEPT + 600 and len(troubles.shown().first) == SHOWN
    troubles.retry(planner)
    assert (len(planner.retried), planner.all) == (KEPT, 1)
    assert troubles.shown().count == 0
    # One that stays is told again, and tried again.
    troubles.unreadable(b"7", errno.EACCES, (1, b"7"))
    troubles.retry(planner)
    assert planner.retried[KEPT:] == [b"7"] and planner.all == 1


def test_a_problem_is_found_by_its_path(soon: None) -> None:
    troubles, planner = Troubles(lambda: None), Planner()
    troubles.unreadable(b"d/f", errno.EACCES, (1, b"f"))
    found = troubles.of(b"d/f")
    assert found is not None and "Permission denied" in found.cause and found.remedy
    assert troubles.of(b"d") is None
    troubles.retry(planner)
    assert troubles.of(b"d/f") is None


def test_a_path_counts_once_however_often_it_is_told(soon: None) -> None:
    troubles = Troubles(lambda: None)
    paths = [b"%d" % number for number in range(KEPT + 600)]

    def tell() -> None:
        for path in paths:
            troubles.unreadable(path, errno.EACCES, (1, path))

    for _ in range(3):
        tell()
    assert troubles.shown().count == len(paths)

    class Telling(Planner):
        def retry_all(self) -> None:
            tell()

    troubles.retry(Telling())
    tell()
    assert troubles.shown().count == len(paths)
    troubles.retry(Planner())
    assert troubles.shown().count == 0


def test_what_is_told_while_others_are_tried_again_stays(soon: None) -> None:
    troubles = Troubles(lambda: None)

    class Telling(Planner):
        def retry(self, path: bytes, place: Name | None) -> None:
            super().retry(path, place)
            troubles.unreadable(b"new", errno.EIO, (1, b"new"))
            troubles.problem(path, "another cause", "")

    troubles.unreadable(b"old", errno.EACCES, (1, b"old"))
    planner = Telling()
    troubles.retry(planner)
    assert {p.path for p in troubles.kept().first} == {"new", "old"}
    assert troubles.kept().count == 2
    troubles.retry(Planner())
    assert troubles.kept().count == 0


def test_a_step_that_failed_twice_waits_for_the_next_trial() -> None:
    woken: list[bool] = []
    troubles, planner = Troubles(lambda: woken.append(True)), Planner()
    fault = Fault(b"a/b", b"", int(Op.PUT_FILE), errno.EBUSY, int(At.NAME))
    troubles.faulted([fault])
    assert troubles.waiting and woken
    troubles.settle(planner)
    assert planner.doubted == [(b"a/b", True)] and not troubles.waiting
    assert "put file failed at name" in troubles.shown().first[0].cause
    troubles.faulted([fault])
    troubles.settle(planner)
    assert planner.doubted[1:] == [(b"a/b", False)]
