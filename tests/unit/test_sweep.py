"""What the sweep decides, what it reads of mounts, and which names it counts; without processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i2node.config import Config
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.mounts import is_shared, kind, points, uppers
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.sweep import GRAIN_NS, Seen, Stray, unseen
from i2node.fs.touch import Touch
from i2node.model import Entry, Kind, Verdict
from i2node.mover import batch
from i2node.mover import listing as listings
from i2node.repl import vigil
from i2node.repl.journal import LINKED, Journal
from i2node.repl.outside import Outside
from i2node.repl.patrol import Patrol
from i2node.repl.plan import named_root

T = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
NAME = (2, b"f")


@pytest.mark.parametrize(
    ("before", "ctime", "wanted"),
    [
        (None, T, True),  # mapped since, and whatever was written then
        (Seen(NAME, T, T + SECOND, True), T, False),
        (Seen(NAME, T, T + SECOND, True), T + 2 * SECOND, True),
        (Seen(NAME, T, T + SECOND, True), T - SECOND, True),  # the clock was put back
        # Written while it was written back: that page may be dirty still.
        (Seen(NAME, T + SECOND, T, True), T + SECOND, True),
        # The kernel's stamp is behind the clock.
        (Seen(NAME, T - GRAIN_NS, T, True), T - GRAIN_NS, True),
        (Seen(NAME, T - GRAIN_NS - 1, T, True), T - GRAIN_NS - 1, False),
        (Seen(NAME, T, T + SECOND, False), T, True),  # nothing stamps there
    ],
)
def test_what_is_to_be_read_whatever_its_times_say(
    before: Seen | None, ctime: int, wanted: bool
) -> None:
    assert unseen(before, ctime) is wanted


TABLE = b"""\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /srv/tree/in\\040side\\134 rw - tmpfs none rw
31 22 0:26 / /srv/tree/d/deep rw shared:9 master:1 - tmpfs none rw
32 22 0:27 / /srv/tree rw - tmpfs none rw
33 22 0:28 / /srv/treetop rw - tmpfs none rw
broken
"""


def test_mount_points_below_a_root() -> None:
    assert points(TABLE, b"/srv/tree") == {b"in side\\", b"d/deep"}
    assert points(TABLE, b"/nowhere") == frozenset()
    assert b"srv/tree" in points(TABLE, b"/") and b"" not in points(TABLE, b"/")


def test_overlays_that_write_below_a_root() -> None:
    line = (
        b"40 22 0:31 / /run/merged rw,relatime shared:12 - overlay overlay"
        b" rw,lowerdir=/srv/tree/low,upperdir=%s,workdir=/srv/tree/work\n"
    )
    assert uppers(TABLE + line % b"/srv/tree/d\\040x/diff", b"/srv/tree") == {b"d x/diff"}
    assert uppers(TABLE + line % b"/srv/o/../tree/d", b"/") == {b"srv/tree/d"}
    assert uppers(TABLE + line % b"/srv/tree", b"/srv/tree") == {b""}
    assert uppers(TABLE + line % b"diff", b"/srv/tree") == {b""}
    assert uppers(TABLE + line % b"/srv/treetop/diff", b"/srv/tree") == frozenset()
    read_only = line.replace(b"upperdir=%s,workdir=/srv/tree/work", b"redirect_dir=on")
    assert uppers(TABLE + read_only, b"/srv/tree") == frozenset()


def test_the_type_of_a_mount() -> None:
    table = TABLE + b"41 22 0:40 / /srv/far rw - nfs4 host:/x rw,addr=10.0.0.1\n"
    assert [kind(table, number) for number in (22, 30, 41, 4, 99)] == [
        b"ext4",
        b"tmpfs",
        b"nfs4",
        b"",
        b"",
    ]


def test_what_is_not_known_to_be_local_is_shared(tmp_path: Path) -> None:
    """Others may write to it, of whom no event tells."""
    for path, shared in ((tmp_path, False), (Path("/proc"), True)):
        fd = os.open(path, os.O_RDONLY)
        assert is_shared(fd) is shared
        os.close(fd)


# ---------------------------------------------------------------------- names outside


def entry(name: bytes, ino: int, nlink: int, ctime: int = T) -> bytes:
    values: dict[str, Any] = dict.fromkeys(Entry._fields, 0)
    values |= {"verdict": Verdict.SAME, "content": bytes(16), "kind": Kind.FILE, "mode": 0o644}
    values |= {"name": name, "ino": ino, "nlink": nlink, "ctime": ctime}
    return listings.encode(Entry(**values))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "state" / "index.db")
    yield opened
    opened.close()


def counted(journal: Journal) -> Outside:
    outside = Outside(journal)
    while not outside.step():
        pass
    return outside


def test_files_with_fewer_names_in_the_rule_than_they_have(journal: Journal) -> None:
    journal.replace(2, entry(b"a", 10, 2) + entry(b"b", 11, 2) + entry(b"c", 12, 1))
    journal.replace(3, entry(b"a", 10, 2))
    journal.replace(1 << 63 | 5, entry(b"x", 13, 3, ctime=T + 1) + entry(b"y", 13, 3, ctime=T + 1))
    found = {stray.ino: stray for stray in counted(journal).all()}
    assert found == {
        11: Stray(11, (2, b"b"), 1, T),
        13: Stray(13, (1 << 63 | 5, b"x"), 2, T + 1),
    }


def test_what_is_linked_later_is_told_by_its_place(journal: Journal) -> None:
    outside = counted(journal)
    assert outside.all() == []
    journal.place(10, 2, b"a")
    assert outside.all() == [Stray(10, (2, b"a"), 1, 0)]  # not read yet: any time is another
    journal.replace(2, entry(b"a", 10, 2))
    journal.place(10, 2, b"a")
    assert outside.all() == [Stray(10, (2, b"a"), 1, T)]
    journal.place(10, 3, b"b")
    assert [(s.ino, s.names) for s in outside.all()] == [(10, 2)]
    outside.drop(10)
    assert outside.all() == []


def test_more_than_can_be_told_one_by_one_is_counted_anew(journal: Journal) -> None:
    outside = counted(journal)
    for number in range(LINKED + 1):
        journal.place(number + 10, 2, b"%d" % number)
    journal.replace(2, entry(b"a", 10, 2))
    outside.all()
    assert not outside.counted
    while not outside.step():
        pass
    assert [stray.ino for stray in outside.all()] == [10]


# ---------------------------------------------------------------------- the slow sweep


class Source:
    """A tree that is watched, and a journal that holds what stands in it."""

    def __init__(self, top: Path, journal: Journal) -> None:
        self.root = Root(os.fsencode(top))
        self.paths = PathSet(self.root.path, [b"*.no"])
        self.dirty = Dirty()
        self.journal = journal
        self.watch = InotifyWatch(self.root.identity.ino, self.dirty, self.paths)
        self.now = 1000.0
        self.active = True
        self.patrol = Patrol(
            *(self.root, journal, self.paths, self.dirty, self.watch),
            *(1 << 18, 600.0, lambda: self.active, lambda: self.now),
        )
        self.learn(b"", 0, b"")
        (own,) = batch.list_dirs(self.root.fd, self.root.dev, [(b"", ())])
        journal.set("root", named_root(listings.decode(own.own)._replace(flags=0)))

    def learn(self, path: bytes, parent: int, name: bytes) -> None:
        (answer,) = batch.list_dirs(self.root.fd, self.root.dev, [(path, ())])
        ino = listings.decode(answer.own).ino
        self.watch.placed(-1, ino, parent, name, self.watch.mark())
        kept = (e for e in listings.entries(answer.entries) if not e.name.endswith(b".no"))
        records = [e._replace(flags=0) for e in kept]
        self.journal.replace(ino, b"".join(map(listings.encode, records)))
        for below in listings.kept(answer.entries, Kind.DIR):
            self.learn(path + b"/" + below.name if path else below.name, ino, below.name)

    def round(self) -> float:
        """A round of the patrol; how long it took."""
        began = self.now
        for _ in range(1000):
            self.now += self.patrol.step()
            if self.patrol._known and not self.patrol._left:
                return self.now - began
        raise AssertionError("it does not come to an end")

    def touched(self) -> dict[bytes, Touch]:
        works = self.dirty.take(1 << 30, self.now + 1e6)
        return {n: t for work in works for n, t in (work.names or {b"*": Touch(0)}).items()}


@pytest.fixture
def source(tmp_path: Path, journal: Journal) -> Iterator[Source]:
    top = tmp_path / "top"
    for number in range(80):
        (top / f"d{number}" / "deep").mkdir(parents=True)
        (top / f"d{number}" / "deep" / "file").write_text("one")
    (top / "d1" / "x.no").write_text("left out")
    made = Source(top, journal)
    made.round()  # which only counts
    yield made
    made.watch.close()
    made.root.close()


def test_what_is_as_it_was_makes_nothing_dirty(source: Source) -> None:
    source.round()
    assert source.touched() == {}


def test_what_was_missed_is_made_dirty_by_its_name(source: Source, tmp_path: Path) -> None:
    (tmp_path / "top" / "d7" / "deep" / "file").write_text("other")
    (tmp_path / "top" / "d8" / "deep" / "new").write_text("new")
    (tmp_path / "top" / "d9" / "deep" / "file").unlink()
    (tmp_path / "top" / "d10" / "deep" / "dir").mkdir()
    source.round()
    touched = source.touched()
    assert touched.keys() == {b"file", b"new", b"dir", b"deep"}  # and the directories' own times
    assert touched[b"dir"] & Touch.TREE and touched[b"file"] & Touch.DATA


def test_the_root_itself(source: Source, tmp_path: Path) -> None:
    (tmp_path / "top").chmod(0o700)
    source.round()
    assert source.touched() == {b"": Touch.ATTR}


def test_nothing_is_compared_before_it_is_due(source: Source, tmp_path: Path) -> None:
    """The walk has just done that."""
    for number in range(80):
        (tmp_path / "top" / f"d{number}" / "deep" / "file").unlink()
    assert source.touched() == {}
    source.patrol.step()
    assert 0 < len(source.touched()) <= 32


def test_a_round_takes_its_period_and_says_so(source: Source) -> None:
    for _ in range(2):
        assert 500 < source.round() < 800
        bound = source.patrol.bound()
        assert bound is not None and 600 <= bound < 800


def test_before_it_begins_it_says_nothing(source: Source) -> None:
    source.active = False
    patrol = Patrol(
        *(source.root, source.journal, source.paths, source.dirty, source.watch),
        *(1 << 18, 600.0, lambda: False),
    )
    assert patrol.step() > 0 and patrol.bound() is None


def test_while_the_rule_does_not_replicate_the_bound_grows(source: Source) -> None:
    source.round()
    source.active = False
    source.now += 5000
    assert source.patrol.step() > 0
    bound = source.patrol.bound()
    assert bound is not None and bound >= 5000


def test_the_table_of_mounts_is_read_when_it_changed(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each step: it may be as long as there are containers."""
    read: list[int] = []
    descriptor, other = os.pipe()

    class Quiet:
        uppers: frozenset[bytes] = frozenset()

        def __init__(self, root: bytes) -> None:
            self.descriptor = descriptor

        def changed(self) -> frozenset[bytes]:
            read.append(len(steps))
            return frozenset()

        def close(self) -> None:
            os.close(descriptor)

    steps: list[float] = []
    enough = threading.Event()

    def step() -> float:
        steps.append(0.0)
        if len(steps) > 50:
            enough.set()
        return 0.0

    monkeypatch.setattr(vigil, "Mounts", Quiet)
    monkeypatch.setattr(source.patrol, "step", step)
    monkeypatch.setattr(vigil, "Patrol", lambda *_: source.patrol)
    those = (source.root, source.journal, source.paths, source.dirty, source.watch)
    thread = vigil.Vigil(*those, Config(), lambda: True)
    thread.start()
    assert enough.wait(60.0)
    thread.close()
    os.close(other)
    assert read == [0]
