"""Large files that are looked through beside the reading thread: nothing waits for them, nothing of
them is lost, and after every shipment the target is the source."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from edits import BLOCK, MIB, histories, lay, lay_about, noise, wait_until_not_racy
from ends import until
from test_hot import LITTLE, SIZE, read_by
from test_sender import SMALL, Wire
from way import Way, same

from disks import disk
from i2node.model import Entry, Verdict
from i2node.mover import batch, listing
from i2node.repl import large
from i2node.repl.hot import Findings
from i2node.repl.plan import Batch, Large, known, tombstone
from i2node.repl.scout import Scout


class Told:
    """What the scout said it is done with."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.came = threading.Semaphore(0)

    def __call__(self, directory: int, name: bytes, since: float) -> None:
        self.names.append(name)
        self.came.release()

    def wait(self) -> None:
        assert self.came.acquire(timeout=30)


class LiveWay(Way):
    """As a session ships what the watch told of."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.told = Told()
        self.reader.again = self.told

    def look(self, trusted: bool = False) -> Entry:
        """Until it is shipped, or to be looked at again by itself."""
        for _ in range(4):  # one who is done at once is told of when nobody waits for it
            item = Large(self.root.identity.ino, b"f", self.entry(b"f"), trusted, live=True)
            content = 0
            for steps, span in self.reader.ship(item):
                assert self.apply(steps) == []
                self.sent += len(steps)
                content += span
            outcome = self.reader.outcome
            assert outcome is not None
            if outcome.status != errno.EINPROGRESS:
                return self.note()
            assert content == outcome.size
            self.told.wait()
        raise AssertionError("looked through over and over")

    def settle(self) -> None:
        """Until a look finds that the file held still."""
        for _ in range(5):
            if self.look().status == 0:
                return
        raise AssertionError("it never settles")


@pytest.fixture(params=["disk", "xfs"])
def spot(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    if os.geteuid():
        pytest.skip("mounting needs root")
    with disk(request.param, tmp_path) as mount:
        yield mount


@pytest.fixture
def way(spot: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveWay]:
    monkeypatch.setattr(large, "HOT_FROM", MIB)
    place = spot / "way"
    place.mkdir()
    with closing(LiveWay(place)) as made:
        (made.source / "f").write_bytes(noise(7, SIZE)[:SIZE])
        made.ship()
        yield made
        made.reader.close()


def held_up(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The scout looks at nothing before the second event is set; the first says that it would."""
    began, over = threading.Event(), threading.Event()
    look = Scout._look

    def slowly(self: Scout, *given: Any) -> Findings:
        began.set()
        over.wait(30)
        return look(self, *given)

    monkeypatch.setattr(Scout, "_look", slowly)
    return began, over


def test_what_was_found_is_all_that_is_read_again(way: LiveWay) -> None:
    path = way.source / "f"
    chance = random.Random(1)
    for _ in range(3):
        lay_about(path, chance)
        way.sent = 0
        way.settle()
        assert way.sent < 30 * BLOCK
        same(way)
    assert way.asked == 0 and way.reader.beside > 0
    item = Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)
    assert list(way.reader.ship(item)) == [(b"", item.entry.size)]
    way.told.wait()
    assert read_by(lambda: list(way.reader.ship(item))) < LITTLE


def test_any_history_arrives(way: LiveWay) -> None:
    for _ in histories(way.source / "f", 20):
        way.settle()
        same(way, holes=False)


def test_what_was_written_meanwhile_is_looked_at_again(way: LiveWay) -> None:
    """The watch told of it before the file was taken up again: nobody would come back for it."""
    path = way.source / "f"
    lay(path, 0, b"before")
    item = Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)
    list(way.reader.ship(item))
    way.told.wait()
    lay(path, 5 * MIB, b"meanwhile")
    assert way.look().status == errno.EAGAIN
    way.settle()
    same(way)


def test_a_write_that_shows_no_other_time_is_looked_at_again(
    way: LiveWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = way.source / "f"
    lay(path, 0, b"before")
    wait_until_not_racy(path)
    monkeypatch.setattr("i2node.repl.staging.RACY_NS", 10**18)
    monkeypatch.setattr("i2node.repl.scout.PAUSES", 0)
    assert way.look().status == errno.EAGAIN
    same(way)


def test_what_was_found_of_another_version_is_of_no_use(way: LiveWay) -> None:
    path = way.source / "f"
    lay(path, 0, b"found")
    item = Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)
    list(way.reader.ship(item))
    way.told.wait()
    lay(path, MIB, b"shipped by a walk")
    way.ship()
    lay(path, 2 * MIB, b"not found")
    way.look()
    same(way)


def test_only_its_owner_changed(way: LiveWay) -> None:
    path = way.source / "f"
    os.chmod(path, 0o600)
    way.settle()
    os.utime(path, ns=(0, 5))
    way.settle()
    same(way)


def test_a_file_that_is_gone_or_another_by_then(way: LiveWay) -> None:
    path = way.source / "f"
    for after in ("another", "none"):
        lay(path, 0, after.encode())
        item = Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)
        list(way.reader.ship(item))
        way.told.wait()
        path.unlink()
        if after == "another":
            path.write_bytes(noise(8, 2 * MIB))
            way.settle()
            same(way)
    before = len(os.listdir("/proc/self/fd"))
    way.reader.rest()
    assert len(os.listdir("/proc/self/fd")) < before


def test_every_name_that_it_was_asked_for_under_is_told(
    way: LiveWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was renamed while it was looked through: nobody would come back for the new name."""
    _, over = held_up(monkeypatch)
    path, root = way.source / "f", way.root.identity.ino
    lay(path, 0, b"before it was renamed")
    list(way.reader.ship(Large(root, b"f", way.entry(b"f"), live=True)))
    path.rename(path.with_name("gone on"))
    (way.target / "f").rename(way.target / "gone on")
    (held,) = listing.entries(way.journal.select(root, [b"f"]))
    way.journal.put(root, known(held._replace(name=b"gone on")))
    way.journal.put(root, tombstone(b"f"))
    item = Large(root, b"gone on", way.entry(b"gone on"), live=True)
    list(way.reader.ship(item))
    assert way.reader.outcome is not None and way.reader.outcome.status == errno.EINPROGRESS
    over.set()
    way.told.wait()
    way.told.wait()
    assert sorted(way.told.names) == [b"f", b"gone on"]
    for steps, _ in way.reader.ship(item):
        assert way.apply(steps) == []
    assert (way.target / "gone on").read_bytes() == path.with_name("gone on").read_bytes()


def test_who_cannot_look_leaves_it_to_the_reader(
    way: LiveWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Findings:
        raise OSError(errno.EIO, "broken")

    lay(way.source / "f", 0, b"x")
    monkeypatch.setattr(Scout, "_look", fails)
    way.settle()
    same(way)


def test_no_descriptor_is_left(way: LiveWay, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        lay(way.source / "f", 0, os.urandom(8))
        way.settle()
    # Found, and never asked for.
    lay(way.source / "f", 0, os.urandom(8))
    list(way.reader.ship(Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)))
    way.told.wait()
    until("it is under way", lambda: not way.reader.scouted())
    way.reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_is_closed_says_that_it_is_to_be_done_again(
    way: LiveWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, over = held_up(monkeypatch)
    lay(way.source / "f", 0, b"x")
    list(way.reader.ship(Large(way.root.identity.ino, b"f", way.entry(b"f"), live=True)))
    assert began.wait(30) and len(way.reader.scouted()) == 1
    over.set()
    way.reader.close()
    assert way.told.names == [b"f"] and way.reader.scouted() == []


# ------------------------------------------------------------------------------- in a session


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(large, "HOT_FROM", MIB)
    made = Wire(tmp_path)
    yield made
    made.close()


def live(wire: Wire, name: str) -> Batch:
    seen = batch.stat_names(wire.root.fd, wire.root.dev, b"", [os.fsencode(name)])
    (entry,) = listing.entries(seen.entries)
    verdict = Verdict.DATA if wire.held(name) else Verdict.NEW
    item = Large(wire.ino, os.fsencode(name), entry._replace(verdict=verdict), live=True)
    return Batch(large=[item], dirs={wire.ino: b""}, last=True)


def test_small_files_do_not_wait_for_large_ones(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wire.source / "image"
    path.write_bytes(noise(3, 4 * MIB))
    wire.send(live(wire, "image"))
    _, over = held_up(monkeypatch)
    lay(path, MIB, b"changed")
    wire.send(live(wire, "image"))
    (wire.source / "small").write_bytes(b"x" * (SMALL - 1))
    wire.send(wire.batch("small"))
    assert (wire.target / "small").read_bytes() == b"x" * (SMALL - 1)
    # What is under way is said to be so, and is in the books as it was.
    flow = wire.sender.flow()
    assert flow.in_flight == 1 and flow.oldest is not None
    assert not {"trouble", "again"}.intersection(what for what, _ in wire.told)
    assert [what for what, _ in wire.told].count("took") == 1
    over.set()
    until("the scout never came back", lambda: ("again", b"image") in wire.told)
    until("it is still under way", lambda: wire.sender.flow().in_flight == 0)
    wire.send(live(wire, "image"))
    assert (wire.target / "image").read_bytes() == path.read_bytes()


def test_what_is_deleted_is_let_go_though_there_is_always_something_to_do(wire: Wire) -> None:
    path = wire.source / "image"
    path.write_bytes(noise(3, 4 * MIB))
    wire.send(live(wire, "image"))
    lay(path, MIB, b"changed")
    wire.send(live(wire, "image"))
    (wire.source / "small").write_bytes(b"x")

    def is_let_go() -> bool:
        wire.send(wire.batch("small"))
        return not wire.sender.large.holds()

    assert wire.sender.large.holds()
    path.unlink()
    until("its room is not given back", is_let_go, 10.0)
