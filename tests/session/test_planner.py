"""The planner by itself, with a sink that sends nothing, where the tree changes between two of its
looks."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from i2node.errors import PeerLost
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch, Work
from i2node.model import PROBED, Entry, Kind
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl import trouble
from i2node.repl.journal import Journal
from i2node.repl.plan import Batch, Place, Unplace, known
from i2node.repl.planner import Planner


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


class At:
    """A planner of the tree in `top`, whose journal is in `state` below it. told: what the target
    says of any directory; None: it is not to be asked."""

    def __init__(self, top: Path, told: bytes | None) -> None:
        self.root = Root(os.fsencode(top))
        self.journal = Journal(top / "state" / "index.db")
        self.sink, self.dirty = Kept(self.journal), Dirty()
        paths = PathSet(self.root.path, [b"state"])
        self.watch = InotifyWatch(self.root.identity.ino, self.dirty, paths)
        probe: Callable[..., list[bytes | None]] = _asked if told is None else lambda *_: [told]
        given = (self.root, self.journal, self.sink, paths, self.dirty, self.watch)
        self.planner = Planner(*given, probe, _none, 9, 9)

    def close(self) -> None:
        for each in (self.watch, self.journal, self.root):
            each.close()

    def made(self) -> list[tuple[Op, bytes]]:
        """What was sent before the content of files, each with its path."""
        return [batch.step_at(step, 0)[:2] for work in self.sink.sent for step in work.before]


Planned = Callable[..., At]


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    """Of the tree as it is then."""
    with ExitStack() as held:
        yield lambda told=None: held.enter_context(closing(At(tmp_path, told)))


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


def test_what_cannot_be_read_is_tried_again_where_it_is_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory has another name, and another directory has that of it."""
    monkeypatch.setattr(trouble, "RETRY_S", (0.0,))
    (tmp_path / "a" / "d").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"not at the target")
    root = Root(os.fsencode(tmp_path))
    journal = Journal(tmp_path / "state" / "index.db")
    paths, dirty, sink = PathSet(root.path, [b"state"]), Dirty(), Kept(journal)
    top, number = root.identity.ino, (tmp_path / "a").stat().st_ino
    below = (tmp_path / "a" / "d").stat().st_ino
    watch = InotifyWatch(top, dirty, paths)
    for ino, place in ((top, (0, b"")), (number, (top, b"a")), (below, (number, b"d"))):
        watch.placed(-1, ino, *place, watch.mark())
    planner = Planner(root, journal, sink, paths, dirty, watch, _asked, _asked, 9, 9)
    Place(number, top, b"a", True).note(journal)
    Place(below, number, b"d", True).note(journal)
    troubles = trouble.Troubles(dirty.wake)
    troubles.unreadable(b"a/x", errno.EIO, (number, b"x"))
    troubles.unreadable(b"a/d", errno.EIO, (below, b""))
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    Unplace(number, top, b"a").note(journal)
    Place(number, top, b"b", True).note(journal)
    Place((tmp_path / "a").stat().st_ino, top, b"a", True).note(journal)
    troubles.retry(planner)
    works = {work.ino: work.names and set(work.names) for work in dirty.take(9, time.monotonic())}
    assert works == {number: {b"x", b"d"}, below: None}
    watch.close()
    journal.close()
    root.close()


def _asked(*_: object, **more: object) -> list[bytes | None]:
    raise AssertionError("nothing is to be asked")


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
    tmp_path: Path, planned: Planned
) -> None:
    """It is another directory than before, and not watched yet: each asks for a visit. What is in
    it was sent with the first; being made again would be taken for being empty."""
    (tmp_path / "top" / "new").mkdir(parents=True)
    (tmp_path / "top" / "new" / "f").write_bytes(b"f")
    (tmp_path / "top" / "old").mkdir()
    at = planned()
    top, old = (listed(at.root, path) for path in (b"top", b"top/old"))
    at.journal.put(at.root.identity.ino, known(top._replace(name=b"top", ino=1, birth=1)))
    Place(1, at.root.identity.ino, b"top", True).note(at.journal)
    at.journal.put(1, known(old._replace(name=b"old", ino=2, birth=1)))
    Place(2, 1, b"old", True).note(at.journal)
    at.journal.replace(2, b"")
    at.watch.placed(-1, at.root.identity.ino, 0, b"", at.watch.mark())
    names = {b"top": Touch.NAME | Touch.TREE}
    at.planner.live(
        [Work(at.root.identity.ino, names, False, frozenset(names), 0.0)], lambda: False
    )
    steps = at.made()
    assert [step for step in steps if step[0] == Op.MAKE_DIR] == [(Op.MAKE_DIR, b"top/new")]


def listed(root: Root, path: bytes) -> Entry:
    """A directory's own entry."""
    return listing.decode(batch.stat_names(root.fd, root.dev, path, []).own)


def _none(*_: object) -> None:
    raise AssertionError("no trouble is to be told")


def test_a_directory_that_is_looked_at_twice_takes_another_in_once(
    tmp_path: Path, planned: Planned
) -> None:
    """Its own name is dirty, and all of it is: in the second look the one that came by a rename
    does not count as new, or what it lost on the way would stay at the target for ever."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    at = planned()
    listed = batch.stat_names(at.root.fd, at.root.dev, b"a", [b"b"])
    above, moved = listing.decode(listed.own), next(listing.entries(listed.entries))
    for entry in (above._replace(name=b"a"), moved):
        at.journal.put(at.root.identity.ino, known(entry))
        Place(entry.ino, at.root.identity.ino, entry.name, True).note(at.journal)
    at.journal.replace(above.ino, b"")
    at.journal.put(moved.ino, known(above._replace(name=b"k", kind=Kind.FILE, ino=1)))
    at.watch.placed(-1, at.root.identity.ino, 0, b"", at.watch.mark())
    at.watch.placed(-1, above.ino, at.root.identity.ino, b"a", at.watch.mark())
    own = {b"a": Touch.NAME | Touch.TREE}
    works = [
        Work(above.ino, None, False, frozenset(), 0.0),
        Work(at.root.identity.ino, own, False, frozenset(own), 0.0),
    ]
    at.planner.live(works, lambda: False)
    steps = at.made()
    assert steps == [(Op.RENAME, b"b"), (Op.REMOVE, b"a/b/k")]


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


def test_a_directory_that_only_the_target_had_and_that_comes_here_has_its_place(
    tmp_path: Path, planned: Planned
) -> None:
    """The target told of it when there was none here, and there is one before it is deleted."""
    (tmp_path / "p" / "q").mkdir(parents=True)
    at = planned(b"")
    top, here = at.root.identity.ino, listed(at.root, b"p")._replace(name=b"p")
    at.journal.put(top, known(here._replace(ino=1, birth=1, flags=PROBED)))
    at.watch.placed(-1, top, 0, b"", at.watch.mark())
    at.planner.live([Work(top, {b"p": Touch.ATTR}, False, frozenset(), 0.0)], lambda: False)
    assert at.journal.places(here.ino) == [(top, b"p")]
    assert at.made() == [(Op.MAKE_DIR, b"p/q")]
    assert at.dirty.count() == 0


def test_a_directory_that_comes_back_while_the_file_in_its_place_is_read_has_its_place(
    tmp_path: Path, planned: Planned
) -> None:
    """The file was gone when it was to be sent, and the directory may be a new one with the number
    of the one before: what was written down of that was forgotten for the file."""
    (tmp_path / "d" / "below").mkdir(parents=True)
    at = planned(b"")
    top, here = at.root.identity.ino, listed(at.root, b"d")._replace(name=b"d")
    at.journal.put(top, known(here))
    Place(here.ino, top, b"d", True).note(at.journal)
    at.watch.placed(-1, top, 0, b"", at.watch.mark())
    (tmp_path / "d").rename(tmp_path / "state" / "d")
    (tmp_path / "d").touch()
    at.planner.live([Work(top, {b"d": Touch.NAME}, False, frozenset(), 0.0)], lambda: False)
    assert any(work.files for work in at.sink.sent)
    (tmp_path / "d").unlink()
    (tmp_path / "state" / "d").rename(tmp_path / "d")
    at.planner.live([Work(top, {b"d": Touch.ATTR}, False, frozenset(), 0.0)], lambda: False)
    assert at.journal.places(here.ino) == [(top, b"d")]
    steps = at.made()
    assert steps == [(Op.MAKE_DIR, b"d/below")]
    assert at.dirty.count() == 0


def test_other_names_of_a_file_are_as_old_as_the_one_that_went(
    tmp_path: Path, planned: Planned
) -> None:
    """What was written under that name may be found under them alone."""
    (tmp_path / "a").write_bytes(b"linked")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    at = planned()
    top = at.root.identity.ino
    for entry in listing.entries(
        batch.stat_names(at.root.fd, at.root.dev, b"", [b"a", b"b"]).entries
    ):
        at.journal.put(top, known(entry))
        Place(entry.ino, top, entry.name).note(at.journal)
    at.watch.placed(-1, top, 0, b"", at.watch.mark())
    (tmp_path / "a").unlink()
    at.dirty.add(1, b"put back in each round", Touch.NAME, 2.0)
    at.dirty.add(top, b"a", Touch.DATA | Touch.DELETED, 10.0)
    at.dirty.add(top, b"b", Touch.ATTR, 11.0)
    works = at.dirty.take(9, 12.0)
    at.dirty.under_way = 2.0
    at.planner.live(works, lambda: False)
    at.dirty.under_way = None
    again = {n for work in at.dirty.take(9, time.monotonic() + 9) for n in work.names or ()}
    at.dirty.under_way = 2.0
    assert b"b" in again and at.dirty.since(top, b"b") == 10.0


def _told(at: At, *names: bytes) -> None:
    """The target told of these, which are there as they are here."""
    top = at.root.identity.ino
    answer = batch.stat_names(at.root.fd, at.root.dev, b"", list(names))
    groups = bytearray(batch.group(b"", answer.entries))
    batch.digest_files(at.root.fd, at.root.dev, groups, content=True)
    for entry in listing.entries(batch.groups(groups)[0][1]):
        at.journal.put(top, known(entry._replace(ino=entry.ino + 1000, ctime=1, flags=PROBED)))
        Place(entry.ino, top, entry.name).note(at.journal)
    at.watch.placed(-1, top, 0, b"", at.watch.mark())


def test_an_attribute_of_what_only_the_target_told_of_is_looked_at(
    tmp_path: Path, planned: Planned
) -> None:
    """Its ctime is not that of the source's file, so that nothing else shows the change."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    at = planned()
    top = at.root.identity.ino
    _told(at, b"a", b"b")
    os.setxattr(tmp_path / "a", "user.a", b"new")
    at.dirty.add(top, b"a", Touch.ATTR, 1.0)
    at.planner.live(at.dirty.take(9, 9.0), lambda: False)
    files = [records for work in at.sink.sent for _, _, records in work.files]
    assert [e.name for records in files for e in listing.entries(records)] == [b"a"]
    held = {e.name: e.flags & PROBED for e in listing.entries(at.journal.listing(top))}
    assert held[b"b"] == 0


def test_a_file_under_way_that_only_the_target_told_of_costs_no_listing(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has arrived, each write to a large file would cost its whole directory."""
    (tmp_path / "large").write_bytes(b"more than is small")
    at = planned()
    top = at.root.identity.ino
    _told(at, b"large")
    monkeypatch.setattr(batch, "list_dirs", _asked)
    with (tmp_path / "large").open("ab") as more:
        more.write(b" and more")
    at.dirty.add(top, b"large", Touch.DATA, 1.0)
    at.planner.live(at.dirty.take(9, 9.0), lambda: False)
    assert [len(work.large) for work in at.sink.sent] == [1, 0]


def test_a_name_that_only_the_target_told_of_has_other_names_here(
    tmp_path: Path, planned: Planned
) -> None:
    """What was done to the file under that name is seen under them alone."""
    (tmp_path / "a").write_bytes(b"linked")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    at = planned()
    top = at.root.identity.ino
    _told(at, b"a", b"b")
    (tmp_path / "a").unlink()
    at.dirty.add(top, b"a", Touch.ATTR | Touch.DELETED, 1.0)
    at.planner.live(at.dirty.take(9, 9.0), lambda: False)
    again = {n for work in at.dirty.take(9, time.monotonic() + 9) for n in work.names or ()}
    assert b"b" in again


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
    told: list[tuple[object, ...]] = []
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
    assert told == [(b"n" * 300, errno.EINVAL, (number, b""))]
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
