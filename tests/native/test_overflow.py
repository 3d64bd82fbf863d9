"""Events are lost: only what changed meanwhile is looked at, and live work goes on beside that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from follower import Source

from i2node.fs import masks, rescan
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.rescan import MARGIN_NS, Moment, Rescan
from i2node.fs.root import Root
from i2node.mover import batch
from i2node.mover.events import HEAD
from queues import short_queue

QUEUE = 64


@pytest.fixture
def forest(root: Path) -> Path:
    """Much that stays as it is, and is older than the margin of a ctime."""
    for n in range(200):
        (root / "still" / f"{n}" / "below").mkdir(parents=True)
        (root / "still" / f"{n}" / "f").write_bytes(b"still")
    newest = time.time_ns()
    while time.time_ns() < newest + MARGIN_NS + 100_000_000:
        threading.Event().wait(0.05)
    return root


@pytest.fixture
def short(forest: Path, engine: str) -> Iterator[Source]:
    with short_queue(QUEUE):
        source = Source(forest, engine=engine, rescans=True)
    source.begin()
    yield source
    source.close()


def lose(source: Source, root: Path) -> None:
    """Much happens in b and a while nobody reads."""
    # An engine's own: who reads events and who takes them in wait for it meanwhile.
    with source.watch._arrived:  # type: ignore[attr-defined]
        (root / "b" / "wake").touch()
        (root / "a" / "deep").rename(root / "b" / "deep")
        for n in range(10 * QUEUE):
            (root / "b" / f"{n}").mkdir()
            (root / "b" / f"{n}" / "f").write_bytes(b"%d" % n)
        (root / "a" / "file").write_bytes(b"unheard")
        os.utime(root / "a" / "file", ns=(1, 1))
        (root / "b" / "7" / "f").unlink()
        (root / "still" / "3" / "f").write_bytes(b"unheard too")


def is_over(source: Source) -> bool:
    status = source.watch.statistics()
    return status.overflows > 0 and status.lost_since is None


def test_only_what_changed_is_looked_at(short: Source, forest: Path) -> None:
    lose(short, forest)
    short.until(lambda: is_over(short))
    short.catch_up()
    looked_at = {path for path, _ in short.works} | set(short.armed)
    still = {p for p in looked_at if p.startswith(b"still/")}
    assert still <= {b"still/3"}
    (forest / "b" / "deep" / "er" / "leaf").write_bytes(b"after")
    (forest / "b" / "77" / "f").write_bytes(b"after")
    short.catch_up()
    assert short.watch.statistics().coverage == 1.0


def test_live_changes_go_on_meanwhile(
    short: Source, forest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Held:
        """The batch calls, as the walk after a loss makes them: held up until the gate opens."""

        @staticmethod
        def list_dirs(*args: Any, **more: Any) -> list[batch.Listing]:
            gate.wait()
            return batch.list_dirs(*args, **more)

    monkeypatch.setattr(rescan, "batch", Held)
    lose(short, forest)
    short.until(lambda: short.watch.statistics().lost_since is not None)
    assert short.watch.statistics().lost_since == pytest.approx(time.time(), abs=60)
    (forest / "still" / "5" / "f").write_bytes(b"live")
    short.until(lambda: b"still/5/f" in short.named())
    assert not is_over(short)
    gate.set()
    short.until(lambda: is_over(short))
    short.catch_up()


def test_a_directory_that_moves_to_where_the_search_was_already(
    short: Source, forest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moving:
        """The batch calls, as the walk after a loss makes them."""

        @staticmethod
        def list_dirs(fd: int, dev: int, dirs: Any, **more: Any) -> list[batch.Listing]:
            # Not in a search after what others on this file system did before.
            here = forest / "still" / "3"
            if (b"still/3", ()) in dirs and (here / "f").read_bytes() != b"still":
                here.rename(forest / "a" / "3")
            return batch.list_dirs(fd, dev, dirs, **more)

    monkeypatch.setattr(rescan, "batch", Moving)
    lose(short, forest)
    # Others on this file system may have overrun the queue before, and that search be over.
    short.until(lambda: is_over(short) and (forest / "a" / "3").is_dir())
    short.catch_up()


def test_what_cannot_be_searched_is_looked_at_as_a_whole(
    short: Source, forest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Moment, "set_back", lambda *_: True)
    lose(short, forest)
    short.until(lambda: is_over(short))
    short.catch_up()
    assert b"still/9/below" in short.armed


def test_what_is_read_behind_a_loss_does_not_move_its_beginning(root: Path) -> None:
    """Half of a rename stands at the end of what was read, so that the other half is waited for."""
    held = Root(os.fsencode(root))
    begun: list[Moment] = []

    class Search(Rescan):
        def begin(self, heard: Moment, *_: Any) -> None:
            begun.append(heard)

    dirty = Dirty()
    search = Search(held, PathSet(held.path, ()), dirty)
    watch = InotifyWatch(held.identity.ino, dirty, None, search)
    watch.placed(1, held.identity.ino, 0, b"", watch.mark())
    lost = [(-1, masks.OVERFLOW, b""), (1, masks.FROM, b"a")]
    for moment, events in ((Moment(1, 1), lost), (Moment(2, 2), [(1, masks.TO, b"b")])):
        watch._inbox.append((b"".join(_packed(*event) for event in events), moment))
    watch._take(watch._next(0.0))
    assert begun == [Moment(1, 1)]
    watch.close()
    held.close()


def _packed(wd: int, mask: int, name: bytes) -> bytes:
    length = HEAD.size + len(name) + -len(name) % 8
    return (HEAD.pack(length, mask, wd, 0, 0, 7, len(name), 0, 0) + name).ljust(length, b"\0")


def test_a_search_that_fails_is_made_up_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a look at everything, and the next loss finds the search working."""

    class Failing:
        @staticmethod
        def list_dirs(*args: Any, **more: Any) -> list[batch.Listing]:
            raise MemoryError

    held = Root(os.fsencode(root))
    dirty = Dirty()
    search = Rescan(held, PathSet(held.path, ()), dirty)
    with monkeypatch.context() as broken:
        broken.setattr(rescan, "batch", Failing)
        search.begin(Moment.now())
        while not dirty.wait(0.05):
            assert search._thread is None or search._thread.is_alive()
        while search.since is not None:
            dirty.wait(0.05)
    (work,) = dirty.take(9, time.monotonic())
    assert work.ino == held.identity.ino and work.recursive
    (root / "a" / "file").write_bytes(b"new")
    search.begin(Moment.now())
    while search.since is not None:
        dirty.wait(0.05)
    assert dirty.count()
    search.close()
    held.close()


def test_the_clock_was_set_back() -> None:
    before = Moment(10**18, 10**9)
    later = Moment(10**18 + 5 * 10**9, 6 * 10**9)
    assert not before.set_back(later)
    assert before.set_back(later._replace(wall=10**18 + 2 * 10**9))
    assert not before.set_back(later._replace(wall=10**18 + 50 * 10**9))  # set forward


def test_what_is_left_out_is_not_searched(forest: Path) -> None:
    held = Root(os.fsencode(forest))
    dirty, paths = Dirty(), PathSet(held.path, [b"b", b"*.tmp"])
    since = Moment.now()
    for where in ("b", "a"):
        (forest / where / "x.tmp").touch()
        (forest / where / "file").write_bytes(b"new")
    search = Rescan(held, paths, dirty)
    search.begin(since)
    while search.since is not None:
        dirty.wait(1.0)
    found = {(work.ino, name) for work in dirty.take(99, 1e18) for name in work.names or (b"",)}
    # Of the root itself only the names: nothing came to it or went.
    assert found == {(held.identity.ino, b"a"), ((forest / "a").stat().st_ino, b"")}
    search.close()
    held.close()
