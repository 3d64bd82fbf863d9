"""What is done beside the replication: real agents compare."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from master import House, Link

from i2node.model import State
from i2node.orders import Charge, Comparing, Note, Want
from i2node.schedule import Plan

LIVE = State.REPLICATION


def write(path: Path, text: str = "content") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(house: House) -> Path:
    for name in ("a", "b", "d/c", "inner/x", "left out/y"):
        write(house.source / name)
    return house.source


def soon(charge: Charge, **other: bool) -> Charge:
    """It is to be compared within two seconds, of what that comes to."""
    at = int(time.time()) + 1
    return replace(charge, version=f"{at}", comparing=Comparing(plan=Plan(once_at=at), **other))


def noted(here: Link, before: int = 0) -> Note:
    """The note behind so many."""
    return here.stands(lambda one: len(one.notes) > before).notes[before]


def spoil(file: Path, text: str) -> None:
    """Other content of the same size, and nothing that tells of it."""
    times = os.stat(file)
    file.write_text(text)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_trees_are_compared_at_their_time_and_nothing_is_mended(
    house: House, tree: Path
) -> None:
    charge = house.charge(tree, tree / "inner", excludes=(str(tree / "left out"),))
    here = house.begin(tree, tree / "inner", excludes=charge.excludes)
    copy = house.copy(here.state(LIVE))
    house.order(here, (soon(charge),))
    first = noted(here)
    assert first.sound and first.what == "compare", first
    assert first.text.startswith("source and target are equal, by size and times, in 0 s: 5 equal")
    spoil(copy / "a", "CONTENT")
    (copy / "inner" / "x").unlink()
    write(copy / "d" / "nobody's")
    house.order(here, (soon(charge),))
    second = noted(here, 1)
    assert not second.sound and "2 different, 1 missing, 1 extra: " in second.text, second.text
    assert f"{tree}/inner/x (missing)" in second.text
    assert f"{tree}/d/nobody's (extra)" in second.text
    house.order(here, (soon(charge, strict=True),))
    third = noted(here, 2)
    assert "by content" in third.text and "3 different, 1 missing, 1 extra" in third.text, third
    assert f"{tree}/a (content)" in third.text
    assert (copy / "d" / "nobody's").exists() and not (copy / "inner" / "x").exists()
    write(tree / "live")
    house.order(here, (charge,))
    house.work.stop(signal.SIGTERM)
    house.work.start()
    here = house.link(house.work)
    assert here.state(LIVE).notes == (first, second, third), "they are kept"


def test_what_falls_due_while_the_rule_is_stopped_is_not_made_up_for(
    house: House, tree: Path
) -> None:
    here = house.begin(tree)
    here.state(LIVE)
    charge = soon(house.charge(tree))
    house.order(here, (replace(charge, want=Want.STOP),))
    here.state(State.M_STOP)
    due = charge.comparing
    assert due is not None and due.plan.once_at is not None
    write(tree / "more")
    while time.time() <= due.plan.once_at:
        os.sched_yield()
    house.order(here, (charge,))
    here.state(LIVE)
    write(tree / "live")
    house.becomes_alike(house.copy(here.state(LIVE)))
    house.order(here, (soon(charge, strict=True),))
    assert "by content" in noted(here).text, "the one that was planned now"
