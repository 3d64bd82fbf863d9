"""Names that leave the tree without the kernel telling more than that they left: they are missed
once before they are believed to be gone."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import CONFIG, Hosts
from nursery import Nursery

from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch, Work
from i2node.model import Kind
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl import moves
from i2node.repl.journal import Journal
from i2node.repl.moves import MISSED
from i2node.repl.plan import Batch, Place, known
from i2node.repl.planner import Planner
from queues import usual_queue

DIRS = 3


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """With inotify: it says of a file that left no more than that."""
    nursery = Nursery()
    place = Path(tempfile.mkdtemp(prefix="i2node-leaving-", dir="/var/tmp"))
    made = Hosts(place, nursery, "inotify")
    # All of it may go.
    (made.homes["there"] / "etc" / "i2node.toml").write_text(CONFIG + "brake_window_s = 0\n")
    yield made
    made.close()
    nursery.close()
    shutil.rmtree(place)


def test_all_of_very_many_files_that_are_moved_out_at_once_are_deleted(hosts: Hosts) -> None:
    """Of each directory as many as are remembered for being gone, which is what a round takes: none
    is to be forgotten for those of the next."""
    away = hosts.place / "away"
    away.mkdir()
    names = [f"{number}" for number in range(DIRS * MISSED)]
    for at in range(DIRS):
        (hosts.source / f"d{at}").mkdir()
    for number, name in enumerate(names):
        (hosts.source / f"d{number % DIRS}" / name).touch()
    with usual_queue():
        hosts.quiesce()
    assert hosts.differences() == [] and hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    for number, name in enumerate(names):
        (hosts.source / f"d{number % DIRS}" / name).rename(away / name)
    hosts.mirror.signal(signal.SIGCONT)
    hosts.quiesce()
    assert [len(list((hosts.target / f"d{at}").iterdir())) for at in range(DIRS)] == [0] * DIRS
    assert hosts.differences() == []


class Planned:
    """A planner of directories a and b, and what it sends."""

    def __init__(self, place: Path) -> None:
        for name in "ab":
            (place / name).mkdir()
        self.root = Root(os.fsencode(place))
        self.journal = Journal(place / "state" / "index.db")
        paths, self.dirty = PathSet(self.root.path, [b"state"]), Dirty()
        top = self.root.identity.ino
        self.watch = InotifyWatch(top, self.dirty, paths)
        self.watch.placed(-1, top, 0, b"", self.watch.mark())
        (self.own,) = listing.entries(
            batch.stat_names(self.root.fd, self.root.dev, b"", [b"a"]).entries
        )
        self.inos = {name: (place / name).stat().st_ino for name in "ab"}
        for name, ino in self.inos.items():
            Place(ino, top, name.encode(), True).note(self.journal)
            self.journal.replace(ino, b"")
            self.watch.placed(-1, ino, top, name.encode(), self.watch.mark())
        those = (self.root, self.journal, self, paths, self.dirty, self.watch)
        self.planner = Planner(*those, self.never, self.never, 9, 9)
        self.removed: list[bytes] = []

    def never(self, *_: object) -> list[bytes | None]:
        raise AssertionError("nobody is asked, and nothing is in trouble")

    def submit(self, work: Batch) -> None:
        for edit in work.before_edits:
            edit.note(self.journal)
        steps = (batch.step_at(step, 0)[:2] for step in work.before)
        self.removed += [path for op, path in steps if op == Op.REMOVE]

    def settle(self) -> None:
        pass

    def arrive(self) -> None:
        pass

    def sent(self, name: str) -> None:
        """The target has a file that the source has no more."""
        ino = self.inos[name]
        entry = self.own._replace(name=b"f", kind=Kind.FILE, ino=1, nlink=1)
        self.journal.put(ino, known(entry))

    def look(self, name: str, whole: bool = False) -> None:
        names = None if whole else {b"f": Touch.NAME}
        work = Work(self.inos[name], names, False, frozenset(), 0.0)
        self.planner.live([work], lambda: False)

    def close(self) -> None:
        self.watch.close()
        self.journal.close()
        self.root.close()


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planned]:
    """A name that is missed once more is believed to be gone."""
    monkeypatch.setattr(moves, "MISSED_S", 0.0)
    made = Planned(tmp_path)
    yield made
    made.close()


def test_a_name_is_missed_anew_after_its_directory_was_looked_at_as_a_whole(
    planned: Planned,
) -> None:
    planned.sent("a")
    planned.look("a")
    assert planned.removed == []
    planned.look("a", whole=True)
    assert planned.removed == [b"a/f"]
    planned.sent("a")
    planned.look("a")
    assert planned.removed == [b"a/f"]
    planned.look("a")
    assert planned.removed == [b"a/f"] * 2


def test_what_was_missed_in_a_directory_that_is_gone_is_not_remembered_instead_of_others(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "MISSED", 1)
    planned.sent("a")
    planned.sent("b")
    planned.look("b")
    planned.look("a")  # one too many, while b may come back to it
    assert planned.removed == [b"a/f"]
    planned.dirty.discard(planned.inos["b"])
    planned.journal.forget(planned.inos["b"])
    planned.sent("a")
    planned.look("a")
    assert planned.removed == [b"a/f"]
    planned.look("a")
    assert planned.removed == [b"a/f"] * 2
