"""Files and directories that move on, or go, between two looks of one round."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deeds import Deeds
from ends import Hosts
from nursery import Nursery

from i2node.fs.coalesce import Dirty
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.model import Entry, Kind
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.journal import Journal
from i2node.repl.plan import Batch, Compared, Place, known
from i2node.repl.planner import Planner


class Planned:
    """A planner without a watch, and what it sends."""

    def __init__(self, place: Path) -> None:
        self.root = Root(os.fsencode(place))
        self.journal = Journal(place / "state" / "index.db")
        paths = PathSet(self.root.path, [b"state"])
        those = (self.root, self.journal, self, paths, Dirty(), None)
        self.planner = Planner(*those, self.never, self.never, 9, 9)
        self.sent: list[Batch] = []

    def never(self, *_: object) -> list[bytes | None]:
        raise AssertionError("nobody is asked, and nothing is in trouble")

    def submit(self, work: Batch) -> None:
        for edit in work.before_edits:
            edit.note(self.journal)
        self.sent.append(work)

    def settle(self) -> None:
        pass

    def arrive(self) -> None:
        pass

    def seen(self, name: bytes) -> Entry:
        (entry,) = listing.entries(
            batch.stat_names(self.root.fd, self.root.dev, b"", [name]).entries
        )
        return entry

    def close(self) -> None:
        self.journal.close()
        self.root.close()


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    made = Planned(tmp_path)
    yield made
    made.close()


def test_a_file_with_the_number_of_a_directory_that_went_is_not_dressed_in_its_place(
    planned: Planned, tmp_path: Path
) -> None:
    """It is looked at like any other: as a directory's, its record would take the place of that
    with all below it."""
    (tmp_path / "a").write_bytes(b"a")
    number = (tmp_path / "a").stat().st_ino
    Place(number, planned.root.identity.ino, b"a", True).note(planned.journal)
    planned.planner.draft.late[number] = b"a"
    planned.planner.emitter.finish()
    assert [work.metas for work in planned.sent] == [{}]
    assert planned.planner.dirty.count() == 1


def test_a_file_that_moved_on_between_two_looks_is_renamed_once(
    planned: Planned, tmp_path: Path
) -> None:
    """Both names show it; to the second the target has nothing to rename any more."""
    inos = {}
    for name in (b"a", b"b"):
        (tmp_path / name.decode()).mkdir()
        inos[name] = planned.seen(name).ino
        Place(inos[name], planned.root.identity.ino, name, True).note(planned.journal)
        planned.journal.replace(inos[name], b"")
    file = planned.seen(b"a")._replace(kind=Kind.FILE, nlink=1, ino=1, flags=0)
    planned.journal.put(inos[b"a"], known(file._replace(name=b"old")))
    compared = []
    for name, new in ((b"a", b"x"), (b"b", b"y")):
        now = listing.encode(file._replace(name=new))
        changes = listing.diff(planned.journal.listing(inos[name]), now, 9)
        assert changes is not None
        touches = {b"old": Touch.MOVED, new: Touch.MOVED}
        compared.append(Compared(inos[name], name, now, changes, touches))
    assert planned.planner.moves.files_among(compared)
    steps = [batch.step_at(step, 0)[:2] for work in planned.sent for step in work.before]
    assert steps == [(Op.RENAME, b"a/old")]
    assert planned.journal.listing(inos[b"b"]) == b""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    nursery = Nursery()
    place = Path(tempfile.mkdtemp(prefix="i2node-moves-", dir="/var/tmp"))
    made = Hosts(place, nursery)
    yield made
    made.close()
    nursery.close()
    shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
@pytest.mark.parametrize("size", [100, 40_000])
def test_a_file_that_changed_under_a_name_it_had_for_a_moment(hosts: Hosts, size: int) -> None:
    """Nothing but what was told of that name says that its content is another one."""
    deeds = Deeds(hosts.source, hosts.place)
    one, two, three = (hosts.source / name for name in ("one", "two", "three"))
    deeds.write(one, size)
    hosts.quiesce()
    assert hosts.differences() == [] and hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    deeds.move(one, two)
    deeds.change(two, 50, 20, back=True)
    deeds.move(two, three)
    hosts.mirror.signal(signal.SIGCONT)
    hosts.quiesce()
    assert hosts.differences() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root")
@pytest.mark.parametrize("size", [100, 40_000])
@pytest.mark.parametrize("first", ["rename", "link"])
def test_a_file_that_changed_under_a_name_that_it_had_no_more_when_it_was_linked(
    hosts: Hosts, size: int, first: str
) -> None:
    """Nothing but what was told of the old name says that its content is another one."""
    deeds = Deeds(hosts.source, hosts.place)
    one, two, three = (hosts.source / name for name in ("one", "two", "three"))
    deeds.write(one, size)
    hosts.quiesce()
    assert hosts.differences() == [] and hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    deeds.change(one, 50, 20, back=True)
    if first == "link":
        deeds.link(one, three)
    deeds.move(one, two)
    deeds.link(two, three)
    hosts.mirror.signal(signal.SIGCONT)
    hosts.quiesce()
    assert hosts.differences() == []
