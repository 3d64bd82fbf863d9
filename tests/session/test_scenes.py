"""Short scenes that a mirror got wrong once, or easily could: each with real nodes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deeds import Deeds
from ends import Hosts, until
from nursery import Nursery

from i2node.errors import PeerLost
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.touch import Touch, Work
from i2node.fs.tree import Root
from i2node.model import Entry, Kind
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.journal import Journal
from i2node.repl.plan import Batch, Place, known
from i2node.repl.planner import Planner
from queues import short_queue

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root"),
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


class Scene:
    def __init__(self, place: Path, nursery: Nursery, engine: str) -> None:
        self.hosts = Hosts(place, nursery, engine)
        self.source, self.target = self.hosts.source, self.hosts.target
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        self.deeds = Deeds(self.source, elsewhere)

    def equal(self) -> None:
        self.hosts.quiesce()
        assert self.hosts.differences() == []

    def problems(self) -> int:
        report = self.hosts.report()
        return report.problems.count if report else 0


EACH_ENGINE = pytest.mark.parametrize("scene", ["inotify", "fanotify"], indirect=True)


@pytest.fixture
def scene(nursery: Nursery, request: pytest.FixtureRequest) -> Iterator[Scene]:
    # Below /var/tmp: memory file systems used not to know user attributes.
    place = Path(tempfile.mkdtemp(prefix="i2node-scene-", dir="/var/tmp"))
    made = Scene(place, nursery, getattr(request, "param", "auto"))
    yield made
    made.hosts.close()
    shutil.rmtree(place)


def test_an_overwritten_file_leaves_the_times_of_its_directory(scene: Scene) -> None:
    scene.deeds.make(scene.source / "d")
    scene.deeds.write(scene.source / "d" / "f", 100)
    scene.equal()
    for size in (100, 9000):
        scene.deeds.write(scene.source / "d" / "f", size)
        scene.equal()


@EACH_ENGINE
def test_directories_that_change_places_take_their_changes_along(scene: Scene) -> None:
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "same")
        scene.deeds.write(scene.source / name / "same" / name, 100)
    scene.equal()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    scene.deeds.write(scene.source / "a" / "same" / "new", 100)
    scene.deeds.write(scene.source / "b" / "new", 100)
    scene.equal()


class Kept:
    """A sink that sends nothing and writes down what a reader would."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.sent: list[Batch] = []

    def submit(self, work: Batch) -> None:
        for edit in work.before_edits:
            edit.note(self.journal)
        self.journal.sent(0)
        self.sent.append(work)

    def settle(self) -> None:
        pass

    def arrive(self) -> None:
        pass


def test_the_times_of_a_directory_are_not_taken_from_the_one_that_replaced_it(
    tmp_path: Path,
) -> None:
    """The exchange falls between the look at what is in a directory and that at its own times."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    sink = Kept(journal)
    planner = Planner(
        root, journal, sink, PathSet(root.path, [b"state"]), Dirty(), None, _asked, _asked, 9, 9
    )
    number = (tmp_path / "a").stat().st_ino
    Place(number, root.identity.ino, b"a", True).note(journal)
    planner.draft.late[number] = b"a"
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    planner.emitter.finish()
    assert [work.metas for work in sink.sent] == [{}]
    assert planner.dirty.count() == 1
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "c").rename(tmp_path / "a")
    planner.draft.late[number] = b"a"
    planner.emitter.finish()
    assert len(sink.sent[-1].metas) == 1
    journal.close()
    root.close()


class _Leaving(InotifyWatch):
    """Of which a directory goes between two questions."""

    def place(self, ino: int) -> tuple[int, bytes] | None:
        return None


def test_a_directory_that_goes_while_it_is_asked_for_is_not_taken_for_the_root(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    number = (tmp_path / "a").stat().st_ino
    Place(number, root.identity.ino, b"a", True).note(journal)
    paths, dirty, sink = PathSet(root.path, [b"state"]), Dirty(), Kept(journal)
    watch = _Leaving(root.identity.ino, dirty, paths)
    watch.placed(-1, root.identity.ino, 0, b"", watch.mark())
    watch.placed(-1, number, root.identity.ino, b"a", watch.mark())
    planner = Planner(root, journal, sink, paths, dirty, watch, _asked, _asked, 9, 9)
    (tmp_path / "a").rmdir()
    planner.live([Work(number, None, False, frozenset(), 0.0)], lambda: False)
    assert dirty.count() == 1
    watch.close()
    journal.close()
    root.close()


def _asked(*_: object) -> list[bytes | None]:
    raise AssertionError("nothing is to be asked")


@pytest.mark.parametrize("at_once", [True, False])
def test_directories_of_one_shape_that_were_to_change_places(scene: Scene, at_once: bool) -> None:
    """The exchange was written down, and lost on its way: names, sizes and times of the two are the
    same, so that only the content tells which of them the target holds."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "deep")
        scene.deeds.write(scene.source / name / "deep" / "f", 5000)
    for path in sorted(scene.source.rglob("*"), reverse=True):
        os.utime(path, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    until("the change was not taken up", lambda: _in_flight(scene))
    if at_once:
        scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


def test_directories_made_anew_that_change_places_while_the_wire_is_down(scene: Scene) -> None:
    for name in ("a", "c"):
        scene.deeds.make(scene.source / name / "b")
        scene.deeds.write(scene.source / name / "d", 9000)
    scene.equal()
    scene.hosts.relay.pause()
    for name in ("a", "c"):
        scene.deeds.renew(scene.source / name, 9000)
    until("the change was not taken up", lambda: _in_flight(scene))
    scene.deeds.exchange(scene.source / "a", scene.source / "c")
    scene.hosts.relay.cut()
    scene.equal()


def test_a_directory_made_anew_whose_making_was_lost(scene: Scene) -> None:
    scene.deeds.make(scene.source / "d" / "old")
    scene.deeds.write(scene.source / "d" / "old" / "f", 100)
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.renew(scene.source / "d", 100)
    until("the change was not taken up", lambda: _in_flight(scene))
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


def test_a_number_used_again_does_not_cost_its_new_owner_anything(scene: Scene) -> None:
    """On ext4 the directories made last get the numbers of those that went."""
    scene.deeds.make(scene.source / "old" / "below")
    scene.deeds.write(scene.source / "old" / "below" / "f", 100)
    scene.equal()
    scene.deeds.remove(scene.source / "old")
    scene.deeds.make(scene.source / "new" / "below")
    scene.deeds.write(scene.source / "new" / "below" / "g", 100)
    scene.equal()
    scene.deeds.write(scene.source / "new" / "below" / "h", 100)
    scene.equal()


def test_a_directory_made_anew_with_its_old_number(scene: Scene) -> None:
    path = scene.source / "d"
    scene.deeds.make(path)
    scene.deeds.write(path / "f", 100)
    scene.equal()
    scene.hosts.kill_source()
    number = path.stat().st_ino
    scene.deeds.remove(path)
    for n in range(3000):
        other = scene.deeds.elsewhere / f"{n}"
        other.mkdir()
        if other.stat().st_ino == number:
            break
    else:
        pytest.skip("this file system does not use numbers again soon")
    other.rename(path)
    scene.deeds.write(path / "g", 100)
    scene.equal()


def test_a_new_directory_under_an_old_name_while_the_old_one_moves_in_there(scene: Scene) -> None:
    scene.deeds.make(scene.source / "data" / "deep")
    scene.deeds.write(scene.source / "data" / "deep" / "f", 100_000)
    scene.equal()
    before = (scene.target / "data" / "deep" / "f").stat().st_ino
    scene.deeds.move(scene.source / "data", scene.source / "data.old")
    scene.deeds.make(scene.source / "data")
    scene.equal()
    # Renamed, not sent anew.
    assert (scene.target / "data.old" / "deep" / "f").stat().st_ino == before


@pytest.mark.parametrize("size", [100, 9000, 2_000_000])
def test_a_change_that_size_and_time_conceal_survives_a_kill(scene: Scene, size: int) -> None:
    path = scene.source / "f"
    scene.deeds.write(path, size)
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.change(path, 10, 50, back=True)
    until("the change was not taken up", lambda: _in_flight(scene))
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


def _in_flight(scene: Scene) -> bool:
    report = scene.hosts.report()
    return report is not None and report.in_flight > 0


def test_a_problem_ends_with_its_cause(scene: Scene) -> None:
    """What is mounted over a file keeps it from being replaced, and no privilege helps."""
    scene.deeds.make(scene.source / "d")
    scene.deeds.write(scene.source / "d" / "f", 100)
    scene.equal()
    over = scene.hosts.place / "over"
    over.write_text("")
    subprocess.run(["mount", "--bind", over, scene.target / "d" / "f"], check=True)
    try:
        scene.deeds.write(scene.source / "d" / "f", 100)
        until("no problem was told", lambda: scene.problems() > 0)
        assert not scene.hosts.in_sync()
    finally:
        subprocess.run(["umount", scene.target / "d" / "f"], check=True)
    scene.equal()
    assert scene.problems() == 0


def test_a_comparison_that_was_interrupted_is_still_owed(scene: Scene) -> None:
    """The session that began it has said to the target which state the two have in common."""
    scene.deeds.write(scene.source / "f", 9000)
    scene.equal()
    assert scene.hosts.stop_source() == 0
    rot(scene.target / "f")
    (database,) = (scene.hosts.homes["here"] / "var").rglob("index.db")
    journal = Journal(database)
    journal.doubt_all("strict")
    journal.close()
    scene.equal()
    assert scene.hosts.stop_source() == 0
    # Paid: content is not read again for nothing.
    journal = Journal(database)
    assert journal.all_doubt == ""
    journal.close()


@pytest.mark.parametrize("options", [(), ("--adopt",)])
def test_a_journal_that_was_lost_is_made_up_for_by_content(
    scene: Scene, options: tuple[str, ...]
) -> None:
    scene.deeds.write(scene.source / "f", 9000)
    scene.deeds.write(scene.source / "g", 100)
    scene.equal()
    scene.hosts.kill_source()
    for name in ("f", "g"):
        rot(scene.target / name)
    (database,) = (scene.hosts.homes["here"] / "var").rglob("index.db")
    database.with_name("index.db-wal").unlink(missing_ok=True)
    database.write_bytes(b"rubbish" * 4000)
    scene.hosts.start_source(*options)
    scene.equal()


def rot(path: Path) -> None:
    """Other bytes, and neither size nor time tells of it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"ROT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@EACH_ENGINE
def test_lost_events_cost_a_search_and_no_change(scene: Scene) -> None:
    scene.deeds.make(scene.source / "old" / "deep")
    with short_queue(4):
        scene.hosts.start_target()
        scene.hosts.start_source()
        until("no replication", lambda: scene.hosts.in_sync())
    assert scene.hosts.mirror is not None
    scene.hosts.mirror.signal(signal.SIGSTOP)
    for n in range(20):
        scene.deeds.make(scene.source / "new" / f"{n}" / "below")
        scene.deeds.write(scene.source / "new" / f"{n}" / "below" / "f", 10)
        scene.deeds.write(scene.source / "old" / "deep" / f"{n}", 10)
    scene.hosts.mirror.signal(signal.SIGCONT)
    until("nothing was lost", lambda: _overflows(scene) > 0)
    scene.equal()
    # What appeared meanwhile is watched.
    scene.deeds.write(scene.source / "new" / "7" / "below" / "g", 10)
    scene.equal()


def _overflows(scene: Scene) -> int:
    report = scene.hosts.report()
    return report.watch.overflows if report else 0


def test_names_linked_otherwise_at_the_target_are_linked_anew(scene: Scene) -> None:
    """An adopted tree of equal files that are not equal names."""
    for side in (scene.source, scene.target):
        for name in ("a", "b", "c", "d"):
            (side / name).write_text("the same")
    (scene.source / "b").unlink()
    os.link(scene.source / "a", scene.source / "b")
    (scene.target / "d").unlink()
    os.link(scene.target / "c", scene.target / "d")
    for side in (scene.source, scene.target):
        for name in ("a", "b", "c", "d"):
            os.utime(side / name, ns=(1, 1))
    scene.hosts.start_target()
    scene.hosts.start_source("--adopt")
    scene.equal()


def test_links_that_were_lost_with_what_they_lead_to(scene: Scene) -> None:
    """Each of the two is written down and not there: neither may be made from the other."""
    scene.deeds.make(scene.source / "c")
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.write(scene.source / "e", 100)
    scene.deeds.link(scene.source / "e", scene.source / "c" / "e")
    until("the change was not taken up", lambda: _written_down(scene))
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.hosts.relay.resume()
    assert scene.hosts.once() == 0
    assert scene.hosts.differences() == []


def _written_down(scene: Scene) -> bool:
    """Everything has been looked at, and waits for the wire."""
    report = scene.hosts.report()
    return report is not None and report.in_flight > 0 and report.dirty == 0


def test_a_linked_name_that_went_to_another_file_stays_with_it(scene: Scene) -> None:
    scene.deeds.node(scene.source / "b")
    scene.deeds.link(scene.source / "b", scene.source / "e")
    scene.equal()
    scene.hosts.kill_source()
    scene.deeds.symlink("e", scene.source / "c")
    scene.deeds.exchange(scene.source / "c", scene.source / "b")
    scene.equal()


def test_a_third_name_joins_two_that_were_adopted(scene: Scene) -> None:
    for side in (scene.source, scene.target):
        (side / "d").mkdir()
        (side / "d" / "b").write_bytes(bytes(9000))
        os.link(side / "d" / "b", side / "d" / "e")
    for name in ("d/c", "z"):
        os.link(scene.source / "d" / "b", scene.source / name)
    for side in (scene.source, scene.target):
        os.utime(side / "d" / "b", ns=(1, 1))
    scene.hosts.start_target()
    scene.hosts.start_source("--adopt")
    scene.equal()


def test_a_name_that_is_linked_later_and_written_through(scene: Scene) -> None:
    scene.deeds.write(scene.source / "x", 100)
    scene.equal()
    scene.deeds.link(scene.source / "x", scene.source / "a")
    scene.equal()
    for name in ("a", "x"):
        scene.deeds.change(scene.source / name, 3, 20)
        scene.equal()


def test_a_linked_file_that_changes_as_it_moves(scene: Scene) -> None:
    """Its name is new, so it is linked; what else changed must not be taken for done by that."""
    for name in ("x", "y"):
        scene.deeds.write(scene.source / name, 100)
        scene.deeds.leave(scene.source / name)
        kept = max(scene.deeds.elsewhere.iterdir())
        os.link(kept, scene.source / name)
    scene.deeds.node(scene.source / "p")
    scene.deeds.link(scene.source / "p", scene.source / "q")
    scene.equal()
    scene.deeds.move(scene.source / "x", scene.source / "a")
    scene.deeds.mode(scene.source / "a", 0o600)
    scene.deeds.move(scene.source / "y", scene.source / "b")
    scene.deeds.change(scene.source / "b", 5, 10)
    scene.deeds.link(scene.source / "p", scene.source / "c")
    scene.deeds.owner(scene.source / "q", 1, 2)
    scene.equal()


def test_a_tree_that_grew_while_the_wire_was_down(scene: Scene) -> None:
    scene.equal()
    scene.hosts.relay.pause()
    for n in range(5):
        scene.deeds.make(scene.source / f"d{n}" / "deep" / "deeper")
        scene.deeds.write(scene.source / f"d{n}" / "deep" / "deeper" / "f", 9000)
    until("nothing was taken up", lambda: _in_flight(scene))
    scene.hosts.relay.cut()
    scene.hosts.relay.resume()
    scene.equal()
    scene.deeds.write(scene.source / "d4" / "deep" / "deeper" / "g", 10)
    scene.equal()


def test_a_change_that_was_lost_is_made_up_for_under_the_name_the_file_has_by_then(
    scene: Scene,
) -> None:
    """What the target holds of it is in doubt under the old name, in a directory that moved too."""
    top = scene.source / "c"
    for name in ("a1", "d1"):
        scene.deeds.make(top / name)
    for name in ("a1/c", "b"):
        scene.deeds.write(top / name, 300_000)
    scene.deeds.write(top / "c1", 10)
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.write(top / "a1" / "c", 300_000)
    until("the change was not taken up", lambda: _written_down(scene))
    scene.hosts.relay.cut()
    until("the loss was not noticed", lambda: not _connected(scene))
    scene.deeds.move(top / "a1", top / "d1" / "c2")
    scene.deeds.move(top / "d1" / "c2" / "c", top / "b")
    scene.equal()


def _connected(scene: Scene) -> bool:
    report = scene.hosts.report()
    return report is not None and report.state == "REPLICATION"


def test_a_file_that_leaves_a_directory_whose_rename_was_lost(scene: Scene) -> None:
    """The target may have another one of that shape under the name."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "deep" / "deeper")
        for file in ("f", "deeper/f"):
            scene.deeds.write(scene.source / name / "deep" / file, 9000)
    for path in sorted(scene.source.rglob("*"), reverse=True):
        os.utime(path, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    until("the change was not taken up", lambda: _in_flight(scene))
    scene.hosts.relay.cut()
    scene.deeds.move(scene.source / "a" / "deep" / "f", scene.source / "f")
    scene.deeds.move(scene.source / "a" / "deep" / "deeper", scene.source / "deeper")
    scene.equal()


def test_a_change_through_a_name_that_goes_at_once(scene: Scene) -> None:
    """The watch tells of it under that name alone, and there it is not found any more."""
    source, other = scene.source / "a", scene.source / "b"
    names = ("unlinked", "moved", "mode", "replaced", "renamed")
    for path in (source, other, source / "below" / "deep", source / "turned"):
        scene.deeds.make(path)
    for name in names:
        scene.deeds.write(source / name, 100)
        scene.deeds.link(source / name, other / name)
    for directory in ("below/deep", "turned"):
        scene.deeds.write(source / directory / "f", 100)
        scene.deeds.link(source / directory / "f", other / directory.replace("/", "-"))
    scene.deeds.write(scene.source / "other", 100)
    scene.equal()
    for name in ("unlinked", "moved", "replaced", "renamed", "below/deep/f", "turned/f"):
        scene.deeds.change(source / name, 100, 10)
    scene.deeds.mode(source / "mode", 0o600)
    for name in ("unlinked", "mode", "below", "turned"):
        scene.deeds.remove(source / name)
    scene.deeds.leave(source / "moved")
    scene.deeds.move(scene.source / "other", source / "replaced")
    scene.deeds.move(source / "renamed", source / "new")
    scene.deeds.write(source / "turned", 10)
    scene.equal()


def test_names_that_were_to_be_linked_and_look_alike(scene: Scene) -> None:
    """The one name is sent anew: what the target has of the other is not that file."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name)
        for file in ("f", "g"):
            scene.deeds.write(scene.source / name / file, 100)
            os.utime(scene.source / name / file, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    # Whichever of the two directories is asked first.
    for old, new in (("a/f", "b/f"), ("b/g", "a/g")):
        (scene.source / new).unlink()
        os.link(scene.source / old, scene.source / new)
    until("the change was not taken up", lambda: _written_down(scene))
    scene.hosts.relay.cut()
    scene.equal()


def test_work_for_a_directory_that_went_unseen_ends(tmp_path: Path) -> None:
    """The watch believes it there, and so do places that the journal kept of it."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    paths, dirty, sink = PathSet(root.path, [b"state"]), Dirty(), Kept(journal)
    clock = [0.0]
    watch = InotifyWatch(root.identity.ino, dirty, paths, clock=lambda: clock[0])
    watch.placed(-1, root.identity.ino, 0, b"", watch.mark())
    parent, name = root.identity.ino, b""
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        number, name = path.stat().st_ino, os.fsencode(path.name)
        Place(number, parent, name, True).note(journal)
        journal.replace(number, b"")
        watch.placed(-1, number, parent, name, watch.mark())
        parent = number
    planner = Planner(root, journal, sink, paths, dirty, watch, _asked, _none, 9, 9)
    shutil.rmtree(tmp_path / "a")
    now = time.monotonic()
    dirty.add_dir(number, True, now)
    for _ in range(40):
        now += 1.0
        clock[0] += 0.2
        planner.live(dirty.take(1000, now), lambda: False)
        watch._look_after()
        if not watch.known(number) and not dirty.count():
            break
    assert not watch.known(number) and dirty.count() == 0
    watch.close()
    journal.close()
    root.close()


def test_a_directory_that_is_new_is_made_once_though_the_one_above_is_visited_twice(
    tmp_path: Path,
) -> None:
    """It is another directory than before, and not watched yet: each asks for a visit. What is in
    it was sent with the first; being made again would be taken for being empty."""
    (tmp_path / "top" / "new").mkdir(parents=True)
    (tmp_path / "top" / "new" / "f").write_bytes(b"f")
    (tmp_path / "top" / "old").mkdir()
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    paths, dirty, sink = PathSet(root.path, [b"state"]), Dirty(), Kept(journal)
    watch = InotifyWatch(root.identity.ino, dirty, paths)
    planner = Planner(root, journal, sink, paths, dirty, watch, _asked, _none, 9, 9)
    top, old = (listed(root, path) for path in (b"top", b"top/old"))
    journal.put(root.identity.ino, known(top._replace(name=b"top", ino=1, birth=1)))
    Place(1, root.identity.ino, b"top", True).note(journal)
    journal.put(1, known(old._replace(name=b"old", ino=2, birth=1)))
    Place(2, 1, b"old", True).note(journal)
    journal.replace(2, b"")
    watch.placed(-1, root.identity.ino, 0, b"", watch.mark())
    names = {b"top": Touch.NAME | Touch.TREE}
    planner.live([Work(root.identity.ino, names, False, frozenset(names), 0.0)], lambda: False)
    steps = [batch.step_at(step, 0)[:2] for work in sink.sent for step in work.before]
    assert [step for step in steps if step[0] == Op.MAKE_DIR] == [(Op.MAKE_DIR, b"top/new")]
    watch.close()
    journal.close()
    root.close()


def listed(root: Root, path: bytes) -> Entry:
    """A directory's own entry."""
    return listing.decode(batch.stat_names(root.fd, root.dev, path, []).own)


def _none(*_: object) -> None:
    raise AssertionError("no trouble is to be told")


def test_a_directory_that_is_looked_at_twice_takes_another_in_once(tmp_path: Path) -> None:
    """Its own name is dirty, and all of it is: in the second look the one that came by a rename
    does not count as new, or what it lost on the way would stay at the target for ever."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    paths, dirty, sink = PathSet(root.path, [b"state"]), Dirty(), Kept(journal)
    watch = InotifyWatch(root.identity.ino, dirty, paths)
    planner = Planner(root, journal, sink, paths, dirty, watch, _asked, _none, 9, 9)
    listed = batch.stat_names(root.fd, root.dev, b"a", [b"b"])
    above, moved = listing.decode(listed.own), next(listing.entries(listed.entries))
    for entry in (above._replace(name=b"a"), moved):
        journal.put(root.identity.ino, known(entry))
        Place(entry.ino, root.identity.ino, entry.name, True).note(journal)
    journal.replace(above.ino, b"")
    journal.put(moved.ino, known(above._replace(name=b"k", kind=Kind.FILE, ino=1)))
    watch.placed(-1, root.identity.ino, 0, b"", watch.mark())
    watch.placed(-1, above.ino, root.identity.ino, b"a", watch.mark())
    own = {b"a": Touch.NAME | Touch.TREE}
    works = [
        Work(above.ino, None, False, frozenset(), 0.0),
        Work(root.identity.ino, own, False, frozenset(own), 0.0),
    ]
    planner.live(works, lambda: False)
    steps = [batch.step_at(step, 0)[:2] for work in sink.sent for step in work.before]
    assert steps == [(Op.RENAME, b"b"), (Op.REMOVE, b"a/b/k")]
    watch.close()
    journal.close()
    root.close()


def test_what_is_in_the_way_of_a_rename_keeps_the_place_it_has_elsewhere(tmp_path: Path) -> None:
    """It was made anew there, and what the target has here is still to be deleted."""
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    top, sink = root.identity.ino, Kept(journal)
    planner = Planner(
        root, journal, sink, PathSet(root.path, []), Dirty(), None, _asked, _none, 9, 9
    )
    own = listing.decode(batch.stat_names(root.fd, root.dev, b"", []).own)
    moved = own._replace(name=b"a", ino=50)
    for entry in (moved, own._replace(name=b"b", ino=51), own._replace(name=b"c", ino=51)):
        journal.put(top, known(entry))
    Place(50, top, b"a", True).note(journal)
    Place(51, top, b"c", True).note(journal)
    assert planner.moves.move(moved, top, top, moved._replace(name=b"b"))
    assert (journal.places(50), journal.places(51)) == ([(top, b"b")], [(top, b"c")])
    planner.emitter.finish()
    assert [batch.step_at(step, 0)[0] for step in sink.sent[-1].before] == [Op.REMOVE]
    assert journal.places(51) == [(top, b"c")]
    journal.close()
    root.close()


class _Lost(Kept):
    """A sink that is gone when what follows from an answer is to be sent."""

    answered = False

    def submit(self, work: Batch) -> None:
        if self.answered and work:
            raise PeerLost("gone")
        super().submit(work)


def test_what_was_answered_and_not_compared_is_asked_for_again(tmp_path: Path) -> None:
    """The source may be killed in between: then the journal alone knows what is owed."""
    (tmp_path / "a").mkdir()
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    journal.suspect(root.identity.ino, [b"a"], 3)
    journal.doubt(root.identity.ino, b"", 3)
    journal.new_session()
    sink = _Lost(journal)

    def probe(*_: object) -> list[bytes | None]:
        sink.answered = True
        return [b""]

    paths = PathSet(root.path, [b"state"])
    planner = Planner(root, journal, sink, paths, Dirty(), None, probe, _none, 9, 9)
    planner.belief.in_doubt.add(root.identity.ino)
    planner.start_walk()
    with pytest.raises(PeerLost):
        planner.walk(lambda: False)
    journal.new_session()
    assert (root.identity.ino, b"") in journal.doubts()
    assert journal.suspects(root.identity.ino) == [b"a"]
    after = Kept(journal)
    planner = Planner(root, journal, after, paths, Dirty(), None, probe, _none, 9, 9)
    planner.belief.in_doubt.add(root.identity.ino)
    planner.start_walk()
    planner.walk(lambda: False)
    journal.settle(0)
    assert journal.suspects(root.identity.ino) == []
    journal.close()
    root.close()


def test_deletes_that_cannot_be_checked_are_told_and_left(tmp_path: Path) -> None:
    """Whether the names are back is not known; and as little when another directory has come
    under this one's path."""
    (tmp_path / "a").mkdir()
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    told: list[tuple[bytes, int]] = []
    sink, dirty, paths = Kept(journal), Dirty(), PathSet(root.path, [b"state"])
    planner = Planner(
        root, journal, sink, paths, dirty, None, _asked, lambda *what: told.append(what), 9, 9
    )
    own = listing.decode(batch.stat_names(root.fd, root.dev, b"a", []).own)
    number, gone = own.ino, known(own._replace(name=b"k", kind=Kind.FILE, ino=1))
    Place(number, root.identity.ino, b"a", True).note(journal)
    journal.put(number, gone)

    def delete(path: bytes) -> list[Op]:
        planner.draft.gone.append((number, path, gone))
        planner.emitter.finish()
        return [batch.step_at(step, 0)[0] for step in sink.sent[-1].before]

    assert delete(b"n" * 300) == []
    assert told == [(b"n" * 300, errno.EINVAL)]
    assert dirty.count() == 0
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "k").touch()
    assert delete(b"a") == []
    assert [work.ino for work in dirty.take(9, time.monotonic())] == [number]
    (tmp_path / "a" / "k").unlink()
    (tmp_path / "a").rmdir()
    assert delete(b"a") == [Op.REMOVE]
    assert journal.listing(number) == b""
    assert len(told) == 1
    journal.close()
    root.close()


@pytest.mark.parametrize("size", [0, 100, 9000])
def test_a_file_put_over_one_of_two_names_leaves_the_other(scene: Scene, size: int) -> None:
    """With the same content, so that nothing but the times seems to differ."""
    for name in ("a", "b"):
        (scene.source / name).write_bytes(b"x" * size)
        scene.deeds.link(scene.source / name, scene.source / f"{name}-other")
    scene.equal()
    for name in ("a", "b"):
        (scene.source / "new").write_bytes(b"x" * size)
        (scene.source / "new").rename(scene.source / name)
    scene.equal()
