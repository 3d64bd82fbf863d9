"""The watch engines on real trees."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import follower
import pytest
from follower import DEADLINE, Source, own_entry

from i2node.errors import SessionError
from i2node.fs import inotify, masks, treewatch, unwatched
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.touch import Touch
from i2node.mover import batch
from i2node.mover.events import Event
from queues import short_queue

USER_LIMITS = Path("/proc/sys/user")


def in_own_namespace(request: pytest.FixtureRequest, home: Path) -> bool:
    """True in a process whose limits are nobody else's; else runs the test in one, and is False."""
    if "I2NODE_TEST_NAMESPACE" in os.environ:
        return True
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", sys.executable, "-m", "pytest"),
            *(request.node.nodeid, f"--basetemp={home / 'inner'}"),
        ],
        check=False,
        cwd=request.config.rootpath,
        env=env | {"I2NODE_TEST_NAMESPACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return False


@pytest.fixture
def source(root: Path, engine: str) -> Iterator[Source]:
    source = Source(root, engine=engine)
    source.begin()
    yield source
    source.close()


def test_the_walk_covers_every_directory(source: Source) -> None:
    status = source.watch.statistics()
    assert status.engine in ("inotify", "fanotify")
    assert (status.coverage, status.watches) == (1.0, 5)
    assert (status.overflows, status.lost_since) == (0, None)


def test_a_write_names_the_file_and_its_content(source: Source, root: Path) -> None:
    with (root / "a" / "file").open("ab") as file:
        file.write(b"more")
    source.until(lambda: Touch.DATA in source.named().get(b"a/file", Touch(0)))
    source.catch_up()
    # Where the write was told before, the close counts for itself.
    assert source.named()[b"a/file"] | Touch.UNTOLD == Touch.DATA | Touch.UNTOLD
    assert source.armed == []


def test_a_file_that_was_closed_with_no_write_told_may_have_been_mapped(
    source: Source, root: Path
) -> None:
    with (root / "a" / "file").open("r+b") as file, mmap.mmap(file.fileno(), 3) as mapped:
        mapped[:3] = b"two"
    source.until(lambda: b"a/file" in source.named())
    assert source.named() == {b"a/file": Touch.DATA | Touch.UNTOLD}


def test_a_change_of_mode_is_no_content(source: Source, root: Path) -> None:
    (root / "a" / "file").chmod(0o600)
    (root / "b").chmod(0o700)
    root.chmod(0o711)
    source.catch_up()
    source.until(lambda: source.named().keys() >= {b"", b"b", b"a/file"})
    assert set(source.named().values()) == {Touch.ATTR}


def test_create_link_rename_unlink(source: Source, root: Path) -> None:
    (root / "b" / "new").write_bytes(b"x")
    (root / "b" / "link").symlink_to("/nowhere")
    os.link(root / "b" / "new", root / "a" / "hard")
    os.mkfifo(root / "b" / "pipe")
    source.catch_up()
    (root / "b" / "new").rename(root / "a" / "file")
    (root / "b" / "link").unlink()
    source.catch_up()
    touched = source.named()
    assert Touch.NAME in touched[b"a/file"]
    assert Touch.NAME in touched[b"b/new"]
    assert touched[b"b"] == Touch.ATTR  # its own times changed
    assert source.armed == []


def test_a_directory_made_and_filled_at_once(source: Source, root: Path) -> None:
    for n in range(50):
        deep = root / "b" / f"{n}" / "x" / "y"
        deep.mkdir(parents=True)
        (deep / "file").write_bytes(b"%d" % n)
    source.catch_up()
    (root / "b" / "7" / "x" / "y" / "file").write_bytes(b"changed")
    source.catch_up()
    assert source.watch.statistics().coverage == 1.0
    assert source.watch.statistics().watches == 5 + 150


def test_a_directory_moved_inside_keeps_its_watches(source: Source, root: Path) -> None:
    (root / "a" / "deep").rename(root / "b" / "moved")
    source.catch_up()
    assert source.armed == []
    (root / "b" / "moved" / "er" / "leaf").write_bytes(b"after the move")
    source.catch_up()
    assert Touch.DATA in source.named()[b"b/moved/er/leaf"]
    assert source.armed == []
    assert source.watch.statistics().watches == 5


def test_a_directory_moved_often_and_changed_between(source: Source, root: Path) -> None:
    here = root / "a" / "deep"
    for n in range(300):
        there = root / ("a", "b")[n % 2] / f"d{n}"
        here.rename(there)
        here = there
        (here / "er" / "leaf").write_bytes(b"%d" % n)
    source.catch_up()
    (here / "er" / "leaf").write_bytes(b"at last")
    source.catch_up()
    assert source.watch.statistics().watches == 5


def test_two_directories_change_places(source: Source, root: Path) -> None:
    (root / "b" / "inner").mkdir()
    source.catch_up()
    source.armed.clear()
    (root / "a").rename(root / "t")
    (root / "b").rename(root / "a")
    (root / "t").rename(root / "b")
    source.catch_up()
    (root / "a" / "inner" / "new").write_bytes(b"1")
    (root / "b" / "deep" / "new").write_bytes(b"2")
    source.catch_up()
    assert source.armed == []


def test_an_exchange_in_one_call(source: Source, root: Path) -> None:
    import ctypes

    (root / "b" / "inner").mkdir()
    source.catch_up()
    source.armed.clear()
    a, b = os.fsencode(root / "a" / "deep"), os.fsencode(root / "b")
    assert ctypes.CDLL(None, use_errno=True).renameat2(-100, a, -100, b, 2) == 0
    source.catch_up()
    (root / "a" / "deep" / "inner" / "new").write_bytes(b"1")
    (root / "b" / "er" / "new").write_bytes(b"2")
    source.catch_up()
    assert source.armed == []


def test_a_directory_moved_out_is_no_longer_watched(source: Source, root: Path) -> None:
    outside = root.parent / "outside"
    (root / "a" / "deep").rename(outside)
    source.catch_up()
    source.until(lambda: source.watch.statistics().watches == 3)
    ino = outside.stat().st_ino
    assert not source.watch.known(ino)
    (outside / "er" / "leaf").write_bytes(b"not ours")
    outside.rename(root / "b" / "back")
    source.catch_up()
    assert source.watch.statistics().watches == 5
    (root / "b" / "back" / "er" / "leaf").write_bytes(b"ours")
    source.catch_up()


def test_deleted_directories_are_forgotten(source: Source, root: Path) -> None:
    subprocess.run(["rm", "-rf", root / "a"], check=True)
    source.catch_up()
    source.until(lambda: source.watch.statistics().watches == 2)
    (root / "a").mkdir()  # likely with an inode number that was in use
    (root / "a" / "deep").mkdir()
    (root / "a" / "deep" / "x").write_bytes(b"x")
    source.catch_up()
    (root / "a" / "deep" / "x").write_bytes(b"y")
    source.catch_up()
    assert source.watch.statistics().watches == 4


def test_excludes_raise_no_work(root: Path) -> None:
    (root / "a" / "tmp").mkdir()
    source = Source(root, (b"a/tmp/", b"*.log"))
    source.begin()
    assert source.watch.statistics().watches == 5
    (root / "a" / "x.log").write_bytes(b"x")
    (root / "a" / "tmp" / "y").write_bytes(b"y")
    (root / "a" / "file").write_bytes(b"wanted")
    source.until(lambda: b"a/file" in source.named())
    source.catch_up()
    assert {p for p in source.named() if b"log" in p or b"tmp" in p} == set()
    # what an exclude by path left out is wanted when its directory gets another name
    (root / "a").rename(root / "c")
    source.catch_up()
    assert b"c/tmp/y" in source.believed()
    (root / "c" / "tmp" / "y").write_bytes(b"changed")
    source.catch_up()
    (root / "c").rename(root / "a")
    source.catch_up()
    assert b"a/tmp" not in source.believed()
    source.close()


def test_a_burst_in_one_directory(source: Source, root: Path) -> None:
    for n in range(20_000):
        (root / "b" / f"{n}").touch()
    source.catch_up()
    assert len(source.believed()) == 6 + 20_000 + 1


def test_an_overflow_is_counted_and_healed(root: Path) -> None:
    with short_queue(16):
        source = Source(root)
    source.begin()
    # hold the reader up, so that the queue is sure to run over
    with source.watch._arrived:
        (root / "b" / "wake").touch()
        for n in range(200):
            (root / "b" / f"{n}").mkdir()
            (root / "b" / f"{n}" / "f").write_bytes(b"%d" % n)
        (root / "a" / "deep").rename(root / "deep")
    source.until(lambda: source.watch.statistics().overflows > 0)
    source.catch_up()
    (root / "deep" / "er" / "leaf").write_bytes(b"after")
    (root / "b" / "77" / "f").write_bytes(b"after")
    source.catch_up()
    assert source.watch.statistics().coverage == 1.0
    source.close()


@pytest.mark.root
def test_what_cannot_be_watched_is_counted_and_swept(
    root: Path, request: pytest.FixtureRequest
) -> None:
    if not in_own_namespace(request, root.parent):
        return
    limit = USER_LIMITS / "max_inotify_watches"
    for n in range(20):
        (root / "b" / f"{n}").mkdir()
    limit.write_text("10")
    source = Source(root, sweep=0.0)
    source.begin()
    status = source.watch.statistics()
    assert status.watches == 10
    assert status.coverage == pytest.approx(10 / 25)
    for n in range(20):
        (root / "b" / f"{n}" / "f").write_bytes(b"unseen")
    source.catch_up()
    # also one that moves or goes without a watch to say so
    (root / "b" / "19").rename(root / "a" / "nineteen")
    (root / "a" / "nineteen" / "g").write_bytes(b"g")
    subprocess.run(["rm", "-r", root / "b" / "18"], check=True)
    source.catch_up()
    limit.write_text("1000")
    source.until(lambda: source.watch.statistics().coverage == 1.0)
    assert source.watch.statistics().watches == 24
    source.close()


def test_what_cannot_be_watched_is_swept_bit_by_bit(root: Path) -> None:
    """What is told of others does not wait behind all of it."""
    now, dirty, ino = [0.0], Dirty(), root.stat().st_ino
    watch = InotifyWatch(ino, dirty, sweep=30.0, clock=lambda: now[0])
    watch.placed(1, ino, 0, b"", watch.mark())
    for number in range(100):
        watch.placed(-1, 1000 + number, ino, b"%d" % number, watch.mark())
    watch._forget(1050)
    assert watch.statistics().coverage == 1 / 100
    looked_at = []
    for now[0] in (29.0, 30.0, 40.0, 40.1, 60.0, 61.0):
        watch._look_after()
        works = dirty.take(1000, now[0] + 1.0)
        looked_at.append({work.ino for work in works if work.names is None})
    watch.close()
    assert [len(some) for some in looked_at] == [0, 0, 33, 0, 66, 0]
    assert looked_at[2] | looked_at[4] == set(range(1000, 1100)) - {1050}


def test_what_cannot_be_watched_is_swept_no_faster_than_it_is_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the bound is what that takes."""
    monkeypatch.setattr(unwatched, "AT_ONCE", 30)
    now, dirty, ino = [0.0], Dirty(), root.stat().st_ino
    watch = InotifyWatch(ino, dirty, sweep=30.0, clock=lambda: now[0])
    watch.placed(1, ino, 0, b"", watch.mark())
    assert watch.statistics().unwatched_s is None
    for number in range(100):
        watch.placed(-1, 1000 + number, ino, b"%d" % number, watch.mark())
    bounds, looked_at = [], []
    for now[0] in (30.0, 60.0, 70.0, 80.0, 90.0, 100.0, 110.0, 140.0, 141.0, 142.0, 143.0, 144.0):
        watch._look_after()
        bounds.append(watch.statistics().unwatched_s)
        if now[0] >= 70.0:  # nobody took anything until then
            works = dirty.take(1000, now[0] + 1.0)
            looked_at.append(len([work for work in works if work.names is None]))
    watch.close()
    assert looked_at == [30, 30, 30, 10, 0, 30, 30, 30, 10, 0]
    assert bounds[:7] == [60.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0]
    assert bounds[7:] == [160.0] * 4 + [68.0]


def test_a_lost_root_is_told(root: Path) -> None:
    moved = Source(root)
    moved.begin()
    root.rename(root.with_name("elsewhere"))
    moved.until(lambda: moved.watch.root_lost is not None)
    moved.close()
    root = root.with_name("elsewhere")
    deleted = Source(root)
    deleted.begin()
    subprocess.run(["rm", "-rf", root], check=True)
    os.close(deleted.fd)  # the last hold on it
    deleted.fd = os.open("/", os.O_RDONLY)
    while deleted.watch.root_lost is None:
        deleted.dirty.wait(DEADLINE)
        deleted.dirty.take(1000, time.monotonic())
    assert "deleted" in deleted.watch.root_lost
    deleted.close()


@pytest.mark.root
def test_an_unmounted_root_is_told(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        source = Source(tmp_path)
        source.begin()
        os.close(source.fd)
        source.fd = os.open("/", os.O_RDONLY)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    while source.watch.root_lost is None:
        source.dirty.wait(DEADLINE)
        source.dirty.take(1000, time.monotonic())
    assert "unmounted" in source.watch.root_lost
    source.close()


def test_events_before_the_directory_is_placed_are_kept(root: Path) -> None:
    dirty = Dirty()
    watch = InotifyWatch(root.stat().st_ino, dirty)
    fd = os.open(root, os.O_RDONLY)
    dirs = [(b"", ()), (b"a", ()), (b"a/deep", ())]
    own, a, deep = batch.list_dirs(
        fd, root.stat().st_dev, dirs, notify=watch.descriptor, mask=watch.mask, threads=1
    )
    root_ino, a_ino, deep_ino = (own_entry(answer.own)[0] for answer in (own, a, deep))
    watch.start()
    (root / "a" / "file").write_bytes(b"early")
    (root / "a" / "deep").rename(root / "deeper")
    (root / "wake").touch()
    watch.placed(own.wd, root_ino, 0, b"", 0)
    while dirty.next_due(time.monotonic()) is None:
        dirty.wait(DEADLINE)
    watch.placed(a.wd, a_ino, root_ino, b"a", 0)
    watch.placed(deep.wd, deep_ino, a_ino, b"deep", 0)
    touched = set()
    while not touched >= {(a_ino, b"file"), (root_ino, b"deeper")}:
        dirty.wait(DEADLINE)
        for work in dirty.take(100, time.monotonic()):
            touched |= {(work.ino, name) for name in work.names or ()}
    # half of the pair came too early to be joined: it is moved when it is found
    assert watch.stands(deep_ino, root_ino, b"deeper", watch.mark())
    assert watch.path(deep_ino) == b"deeper"
    watch.close()
    os.close(fd)


def test_a_watch_that_ended_meanwhile_is_not_taken_for_one(root: Path) -> None:
    dirty = Dirty()
    ino = root.stat().st_ino
    watch = InotifyWatch(ino, dirty)
    watch.placed(1, ino, 0, b"", watch.mark())
    asof = watch.mark()
    ignored = Event(where=9, mask=inotify._IGNORED, cookie=0, name=b"")
    watch._take([ignored])
    watch.placed(9, 77, ino, b"gone", asof)
    assert not watch.known(77)
    (work,) = dirty.take(9, time.monotonic())
    assert work.names == {b"gone": Touch.NAME | Touch.TREE}
    asof = watch.mark()
    watch.placed(9, 77, ino, b"x", asof)  # not told of again, so it is a fresh one
    assert watch.stands(77, ino, b"x", watch.mark())
    watch.close()
    watch.close()


def test_a_late_listing_does_not_undo_a_move(root: Path) -> None:
    ino = root.stat().st_ino
    watch = InotifyWatch(ino, Dirty())
    asof = watch.mark()
    for wd, child, name in ((1, ino, b""), (2, 50, b"a"), (3, 51, b"b"), (4, 52, b"d")):
        watch.placed(wd, child, ino if name else 0, name, asof)
    asof = watch.mark()
    move = masks.ISDIR
    watch._take(
        [
            Event(where=1, mask=masks.FROM | move, cookie=5, name=b"d"),
            Event(where=2, mask=masks.TO | move, cookie=5, name=b"e"),
            Event(where=4, mask=masks.MOVE_SELF, cookie=0, name=b""),
        ]
    )
    assert watch.path(52) == b"a/e"
    watch.placed(4, 52, ino, b"d", asof)
    assert watch.path(52) == b"a/e"
    watch.placed(4, 52, 51, b"f", watch.mark())
    assert watch.path(52) == b"b/f"
    watch.close()


@pytest.mark.parametrize("through", ["placed", "stands"])
def test_a_listing_that_was_late_costs_no_watch(
    source: Source, root: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """It names a directory where that was before, and is compared after the newer one."""
    monkeypatch.setattr(treewatch, "GRACE", 0.05)
    ino, other = (root / "a" / "deep").stat().st_ino, (root / "b").stat().st_ino
    asof = source.watch.mark()
    if through == "placed":
        source.watch.placed(-1, ino, other, b"before", asof)
    else:
        assert source.watch.stands(ino, other, b"before", asof)
    assert source.watch.path(ino) == b"b/before"
    source.until(lambda: source.watch.path(ino) == b"a/deep")
    time.sleep(0.1)
    (root / "a" / "deep" / "new").write_bytes(b"new")
    source.catch_up()
    assert source.watch.statistics().coverage == 1.0


def test_what_happens_in_a_directory_between_its_listing_and_the_belief_in_it(
    source: Source, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """The batch calls of the follower: one listing is told of late."""

        @staticmethod
        def list_dirs(fd: int, dev: int, dirs: Any, **more: Any) -> list[batch.Listing]:
            answers = batch.list_dirs(fd, dev, dirs, **more)
            if (b"b/new", ()) in dirs and not (root / "b" / "new" / "f").exists():
                (root / "b" / "new" / "f").touch()
                time.sleep(0.2)  # in which that is told of
            return answers

    monkeypatch.setattr(follower, "batch", Slow)
    (root / "b" / "new").mkdir()
    source.until((root / "b" / "new" / "f").exists)
    source.catch_up()


def test_a_directory_that_moved_nobody_knows_where_stays_in_doubt(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was listed before it moved does not make its place before sure."""
    monkeypatch.setattr(treewatch, "GRACE", 0.0)
    ino, dirty = root.stat().st_ino, Dirty()
    watch = InotifyWatch(ino, dirty)
    for wd, child, name in ((1, ino, b""), (2, 50, b"a"), (3, 51, b"b")):
        watch.placed(wd, child, ino if name else 0, name, watch.mark())
    asof = watch.mark()
    watch._take([Event(where=3, mask=masks.MOVE_SELF, cookie=0, name=b"")])
    watch.placed(3, 51, 50, b"c", asof)
    watch._look_after()
    assert not watch.known(51)
    (above, below) = sorted(dirty.take(9, time.monotonic() + 1), key=lambda work: work.ino == 50)
    assert (above.ino, above.names) == (ino, {b"b": Touch.NAME | Touch.TREE})
    assert (below.ino, below.names) == (50, {b"c": Touch.NAME | Touch.TREE})
    watch.close()


@pytest.mark.parametrize("through", ["placed", "stands", "early", "dead"])
def test_what_comes_back_from_a_listing_holds_up_the_mark_behind_it(
    root: Path, through: str
) -> None:
    """It was told of before the mark, whenever a listing says where it belongs."""
    ino, dirty = root.stat().st_ino, Dirty()
    watch = InotifyWatch(ino, dirty)
    for wd, child, name in ((1, ino, b""), (2, 50, b"a"), (3, 51, b"b")):
        watch.placed(wd, child, ino if name else 0, name, watch.mark())
    asof = watch.mark()
    dirty.under_way = 1.0  # a round looks at what was told of until then
    if through in ("early", "dead"):
        mask = masks.CREATE if through == "early" else inotify._IGNORED
        watch._take([Event(where=9, mask=mask, cookie=0, name=b"f")])
    dirty.mark(2.0, 2.0)
    if through in ("early", "dead"):
        watch.placed(9, 52, ino, b"c", asof)
    elif through == "placed":
        watch.placed(3, 51, 50, b"c", asof)
    else:
        assert watch.stands(51, 50, b"c", asof)
    dirty.under_way = None
    assert dirty.count() and dirty.passed() is None
    dirty.take(9, time.monotonic() + 9)
    assert dirty.passed() == 2.0
    watch.close()


def test_what_a_look_does_not_find_is_given_up_though_nothing_happens(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread waits for events without end when the planner's thread finds it gone."""
    monkeypatch.setattr(treewatch, "GRACE", 0.05)
    ino, dirty, waiting = root.stat().st_ino, Dirty(), threading.Event()
    watch = InotifyWatch(ino, dirty)
    patience = watch._patience

    def told() -> float | None:
        found = patience()
        waiting.set()
        return found

    monkeypatch.setattr(watch, "_patience", told)
    for wd, child, name in ((1, ino, b""), (2, 50, b"a")):
        watch.placed(wd, child, ino if name else 0, name, watch.mark())
    watch.start()
    assert waiting.wait(DEADLINE)
    watch.gone(50, ino, b"a", watch.mark())
    assert dirty.wait(5.0)
    assert not watch.known(50)
    watch.close()


def test_a_reader_that_fails_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> bytes:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(inotify, "fetch", broken)
    source = Source(root)
    source.dirty.add_dir(source.ino, True, 0.0)
    source.watch.start()
    source.work_off()
    (root / "a" / "file").write_bytes(b"x")
    while source.watch.failure is None:
        source.dirty.wait(DEADLINE)
    assert isinstance(source.watch.failure, SessionError)
    source.close()


def test_a_mark_says_a_moment_behind_the_asking(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is asked for just as the reader wakes for something else."""
    dirty = Dirty()
    watch = InotifyWatch(root.stat().st_ino, dirty)
    asked: list[float] = []

    class Clock(treewatch.Moment):
        @classmethod
        def now(cls) -> treewatch.Moment:
            moment = treewatch.Moment(time.time_ns(), time.monotonic_ns())
            if watch._beats is False and woken and not asked:
                asked.append(time.monotonic())
                watch.beat()
            return moment

    woken: list[bool] = []
    monkeypatch.setattr(treewatch, "Moment", Clock)
    watch.start()
    woken.append(True)
    os.eventfd_write(watch._wake, 1)
    stamp = None
    while stamp is None:
        dirty.wait(DEADLINE)
        stamp = dirty.passed()
    assert stamp >= asked[0]
    watch.close()


@pytest.mark.root
def test_too_many_instances_is_a_session_error(root: Path, request: pytest.FixtureRequest) -> None:
    if in_own_namespace(request, root.parent):
        (USER_LIMITS / "max_inotify_instances").write_text("0")
        with pytest.raises(SessionError, match="inotify"):
            InotifyWatch(root.stat().st_ino, Dirty())


def test_what_a_mask_says_is_the_same_for_both_engines() -> None:
    """And their bits have the same numbers."""
    names = ("MODIFY", "ATTRIB", "CLOSE_WRITE", "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF")
    for name in names:
        assert getattr(masks, name) == getattr(inotify.pyinotify, f"IN_{name}")
    assert (masks.FROM, masks.TO) == (
        inotify.pyinotify.IN_MOVED_FROM,
        inotify.pyinotify.IN_MOVED_TO,
    )
    assert (masks.ISDIR, masks.OVERFLOW) == (
        inotify.pyinotify.IN_ISDIR,
        inotify.pyinotify.IN_Q_OVERFLOW,
    )
    created, closed, isdir = masks.CREATE, masks.CLOSE_WRITE, masks.ISDIR
    written = masks.MODIFY
    assert masks.touch_of(created) == Touch.NAME | Touch.WRITING
    assert masks.touch_of(created | isdir) == Touch.NAME
    assert masks.touch_of(closed) == Touch.DATA | Touch.CLOSED | Touch.UNTOLD
    assert masks.touch_of(written | closed) == Touch.DATA | Touch.CLOSED
    assert masks.touch_of(masks.DELETE) == Touch.NAME | Touch.DELETED
    assert masks.touch_of(masks.ATTRIB | isdir) == Touch.ATTR


def test_importing_warns_of_nothing() -> None:
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import i2node.fs.inotify"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_life(source: Source, root: Path, seed: int) -> None:
    """Threads make, fill, move, exchange and remove directories while the planner works."""

    def live(rng: random.Random, count: int) -> None:
        places: list[Path] = []
        for n in range(count):
            try:
                if n % 10 == 0:
                    places = [p for p in root.rglob("*") if p.is_dir()]
                here = rng.choice([root, *places])
                there = rng.choice([root, *places]) / f"n{rng.randrange(6)}"
                what = rng.randrange(8)
                if what < 2:
                    there.mkdir()
                elif what < 5:
                    (here / f"f{rng.randrange(4)}").write_bytes(rng.randbytes(rng.randrange(9)))
                elif what < 7 and here != root:
                    here.rename(there)
                elif here != root and rng.random() < 0.5:
                    here.rename(root.parent / f"out-{rng.random()}")
            except OSError:
                continue

    threads = [
        threading.Thread(target=live, args=(random.Random(seed * 10 + n), 400)) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        source.work_off()
        source.dirty.wait(0.001)
    for thread in threads:
        thread.join()
    source.catch_up()
    # nothing is believed to be watched that is not: each directory must answer
    for where, _, _ in os.walk(root):
        (Path(where) / "probe").write_bytes(b"probe")
    source.catch_up()
