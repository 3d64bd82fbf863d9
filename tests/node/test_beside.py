"""What is done beside the replication: real agents compare, and keep copies."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ends import until
from master import RULE, House, Link
from nursery import Nursery
from trees import snapshot

from i2node.model import State
from i2node.node import beside
from i2node.node.stint import Stint
from i2node.orders import Charge, Comparing, Copying, Note, Want
from i2node.schedule import Plan

LIVE = State.REPLICATION
DAY = 86400


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


def test_what_has_not_arrived_since_a_copy_is_made_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late:
        asked = 0

        @property
        def durable_as_of(self) -> float:
            self.asked += 1
            return 0.0 if self.asked < 5 else time.time()

    monkeypatch.setattr(beside, "SETTLE_S", -1.0)
    copied = Late()
    beside._settle(cast(Stint, copied), lambda: True, lambda: False)
    assert copied.asked == 5
    stuck = Late()
    beside._settle(cast(Stint, stuck), lambda: False, lambda: False)
    assert stuck.asked == 1


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


def copied(house: House, here: Link, before: int, **other: Any) -> Path:
    """Has one more copy kept at once; gives where it stands."""
    at = int(time.time()) + 1  # behind the one before
    copying = Copying(every_s=DAY, start=at)
    house.order(here, (house.charge(version=f"{at}.{before}", copying=copying, **other),))
    note = noted(here, before)
    assert note.sound and note.what == "copy", note
    name = note.text.split()[1]
    assert note.text.startswith(f"copy {name} is kept, with all changes until "), note
    return house.base / name


def test_copies_are_kept_while_it_replicates_and_the_oldest_goes(house: House, tree: Path) -> None:
    os.link(tree / "a", tree / "d" / "another name")
    os.setxattr(tree / "a", "user.tag", b"of a")
    (tree / "link").symlink_to("a")
    with (tree / "holes").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(os.urandom(2 << 20))
    os.utime(tree / "d", ns=(10**18, 10**18))
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(copies=2),))
    house.order(here, (house.charge(),))
    run = here.state(LIVE).stamp
    first = copied(house, here, 0)
    was = snapshot(tree)
    assert snapshot(Path(f"{first}{tree}")) == was and house.stamps() == [run, first.name]
    assert (Path(f"{first}{tree}") / "holes").stat().st_blocks < 3 << 11
    # In place, by another name, anew: nothing of that may be seen in what was kept.
    os.chmod(tree / "b", 0o600)
    with (tree / "holes").open("r+b") as file:
        file.write(b"other")
    write(tree / "a", "other")
    write(tree / "new")
    (tree / "d" / "c").unlink()
    mirror = house.copy(here.state(LIVE))
    house.becomes_alike(mirror)
    assert snapshot(Path(f"{first}{tree}")) == was
    second = copied(house, here, 1)
    assert snapshot(Path(f"{second}{tree}")) == snapshot(tree) != was
    third = copied(house, here, 2)
    assert first.name in here.state(LIVE).notes[2].text, "it is told that it went"
    assert house.stamps() == [run, second.name, third.name]
    write(tree / "live")
    house.becomes_alike(mirror)
    assert not list(house.base.glob(".i2node-*"))


def test_no_copy_is_made_beyond_the_limit_where_none_is_to_go(house: House, tree: Path) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(copies=1, drop=False),))
    house.order(here, (house.charge(tree, tree / "inner", copying=Copying(every_s=1)),))
    run = here.state(LIVE).stamp
    first, full = noted(here), noted(here, 1)
    assert first.sound and not full.sound and "there are 1 already" in full.text, (first, full)
    (name,) = set(house.stamps()) - {run}
    assert name in first.text
    assert snapshot(Path(f"{house.base}/{name}{tree}")) == snapshot(tree), "with the inner part"
    house.order(there, grants=(house.grant(copies=2, drop=False),))
    assert noted(here, 2).sound and len(house.stamps()) == 3
    again = noted(here, 3)
    assert "there are 2 already" in again.text, again
    # What the rule wrote is wiped with it.
    house.order(here)
    base = str(house.base)
    answer = there.ask("wipe", rule=RULE, base=base, roots=[base])
    assert len(answer["value"]["removed"]) == 4 and not house.stamps(), answer


def test_what_a_copy_left_that_was_not_finished_goes_and_is_not_taken_for_one(
    house: House, tree: Path
) -> None:
    for n in range(3000):
        write(tree / "many" / str(n), "x" * 3000)
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(copies=3),))
    house.order(here, (house.charge(),))
    run = here.state(LIVE).stamp
    charge = house.charge(version="2", copying=Copying(every_s=DAY))
    house.order(here, (charge,))
    until("nothing was begun", lambda: any(house.base.glob(".i2node-copy-*/**/many/*")))
    house.backup.stop(signal.SIGKILL)
    assert house.stamps()[-1] == run and list(house.base.glob(".i2node-copy-*"))
    house.backup.start()
    here.stands(lambda one: any(note.sound for note in one.notes))
    assert "no copy was kept" in noted(here).text
    until("what is left goes", lambda: not list(house.base.glob(".i2node-copy-*")))
    (name,) = set(house.stamps()) - {run}
    assert snapshot(Path(f"{house.base}/{name}{tree}")) == snapshot(tree)


def test_a_copy_waits_for_a_file_that_is_half_changed_not_for_one_that_will_be(
    house: House, tree: Path
) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(copies=2),))
    house.order(here, (house.charge(),))
    here.state(LIVE)
    # What a large file is to be is on its way for as long as that takes: it has no seal.
    (stage,) = (house.backup.home / "var" / "stage").iterdir()
    steps, journal = b"steps of it", stage / f"{7:016x}.redo"
    journal.write_bytes(steps)
    copied(house, here, 0)
    # The disk refuses what was begun.
    journal.write_bytes(steps + struct.pack("<8sQ32s", b"i2redo1\n", len(steps), bytes(32)))

    def began() -> bool:
        return any(house.base.glob(".i2node-copy-*"))

    copying = Copying(every_s=DAY, start=int(time.time()) + 1)
    house.order(here, (house.charge(version="half", copying=copying),))
    until("nothing was begun", began)
    # Another rule can be deleted meanwhile.
    other, root = RULE[:-1] + "2", str(house.base.parent / "other")
    grants = (house.grant(copies=2), house.grant(rule=other, base="", roots=(root,)))
    house.order(there, grants=grants)
    assert there.ask("wipe", rule=other, roots=[root])["value"] == {"removed": []}
    # One that is not wanted any more is given up, and nothing is told of it.
    house.order(here, (house.charge(version="off"),))
    until("it goes on", lambda: not began())
    assert len(here.state(LIVE).notes) == 1
    house.order(here, (house.charge(version="on", copying=copying),))
    until("it is not taken up again", began)
    journal.unlink()
    assert noted(here, 1).sound, noted(here, 1)


@pytest.fixture
def narrow(nursery: Nursery, tmp_path: Path) -> Iterator[House]:
    """A house whose room is a file system of 70 MiB."""
    room = tmp_path / "room"
    room.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=70m", "narrow", str(room)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with closing(House(tmp_path, nursery, room)) as made:
            yield made
    finally:
        subprocess.run(["umount", str(room)], check=True)


def test_a_copy_for_which_there_is_no_room_is_told_and_replication_goes_on(narrow: House) -> None:
    house = narrow
    (house.source / "large").write_bytes(os.urandom(40 << 20))
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(copies=2),))
    house.order(here, (house.charge(copying=Copying(every_s=DAY)),))
    note, stood = noted(here), here.state(LIVE)
    assert not note.sound and note.error == "target-fault", note
    assert note.text.startswith("no copy was kept: a copy takes "), note
    write(house.source / "live")
    house.becomes_alike(house.copy(stood))
    assert house.stamps() == [stood.stamp]
