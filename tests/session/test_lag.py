"""The heartbeat between real nodes: what is said to be durable is there, and where nothing comes
back nothing is said to be well."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import CONFIG, Hosts, until
from nursery import Nursery

from i2node.cli.display import status_text
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.touch import Touch
from i2node.mover import batch, listing
from i2node.repl.heartbeat import LATE_S
from i2node.repl.journal import Journal
from i2node.repl.plan import Batch, Place
from i2node.repl.planner import Planner
from i2node.repl.report import RuleReport


class Marked(Dirty):
    """Writes down how much was dirty when a mark came, and its stamp."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[int, float]] = []

    def mark(self, stamp: float, now: float) -> None:
        count = self.count()
        super().mark(stamp, now)
        self.marks.append((count, stamp))  # who waits for it finds the mark placed


def test_a_mark_comes_behind_what_happened_before_it(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    dirty = Marked()
    watch = InotifyWatch(tmp_path.stat().st_ino, dirty)
    (own,) = batch.list_dirs(
        fd, tmp_path.stat().st_dev, [(b"", ())], notify=watch.descriptor, mask=watch.mask
    )
    watch.placed(own.wd, listing.decode(own.own).ino, 0, b"", watch.mark())
    for number in range(1000):
        (tmp_path / f"{number}").touch()
    asked = time.monotonic()
    watch.beat()
    watch.start()
    while not dirty.marks:
        dirty.wait(60.0)
    ((count, stamp),) = dirty.marks
    assert count == 1001 and stamp >= asked  # and the directory's own entry
    assert dirty.passed() is None
    dirty.take(10_000, time.monotonic() + 1)
    assert dirty.passed() == stamp
    watch.close()
    watch.beat()
    os.close(fd)


class Sent:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Batch] = []

    def submit(self, work: Batch) -> None:
        self.sent.append(work)

    def settle(self) -> None:
        pass

    def arrive(self) -> None:
        pass


def test_times_that_are_sent_anyway_are_not_dirty_for_themselves(tmp_path: Path) -> None:
    """Of a directory in which something was put; but where they were not sent they stay so."""

    def never(*_: object) -> list[bytes | None]:
        raise AssertionError("nobody is asked, and nothing is in trouble")

    (tmp_path / "a").mkdir()
    root = Root(os.fsencode(tmp_path))
    top, number = root.identity.ino, (tmp_path / "a").stat().st_ino
    journal = Journal(tmp_path / "state" / "index.db")
    Place(number, top, b"a", True).note(journal)
    dirty, sink, paths = Dirty(), Sent(), PathSet(root.path, [b"state"])
    watch = InotifyWatch(top, dirty, paths)
    watch.placed(-1, top, 0, b"", watch.mark())
    watch.placed(-1, number, top, b"a", watch.mark())
    planner = Planner(root, journal, sink, paths, dirty, watch, never, never, 9, 9)

    def finish() -> list[int]:
        """The directories whose times were sent, with those above."""
        dirty.add_all([(top, b"a", Touch.ATTR), (top, b"", Touch.ATTR)], time.monotonic())
        planner.draft.late.update({number: b"a", top: b""})
        planner.emitter.finish()
        return sorted(sink.sent[-1].dirs)

    assert finish() == sorted([number, top])
    assert dirty.count() == 0
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").mkdir()
    assert finish() == [top]
    works = dirty.take(9, time.monotonic() + 1)
    assert {(work.ino, *(work.names or ())) for work in works} == {(number,), (top, b"a")}
    watch.close()
    journal.close()
    root.close()


@pytest.fixture
def hosts(nursery: Nursery) -> Iterator[Hosts]:
    """In sync, and patient with a connection over which nothing comes."""
    place = Path(tempfile.mkdtemp(prefix="i2node-beat-", dir="/var/tmp"))
    made = Hosts(place, nursery)
    for home in made.homes.values():
        patient = CONFIG.replace("heartbeat_s = 2.0", "heartbeat_s = 60.0")
        assert patient != CONFIG
        (home / "etc" / "i2node.toml").write_text(patient)
    made.quiesce()
    yield made
    made.relay.resume()
    made.close()
    shutil.rmtree(place)


def told(hosts: Hosts) -> RuleReport:
    report = hosts.report()
    assert report is not None and report.state == "REPLICATION", hosts.tail("here")
    return report


def asof(hosts: Hosts) -> float:
    return told(hosts).durable_as_of or 0.0


def test_what_is_said_to_be_durable_is_there(hosts: Hosts) -> None:
    for number in range(30):
        name = f"{number % 4}"
        (hosts.source / name).write_text(f"{number}")
        if number % 3 == 0:
            (hosts.source / name).rename(hosts.source / f"{name} renamed")
            name = f"{name} renamed"
        done = time.time()
        until("it to be durable", lambda done=done: asof(hosts) >= done)
        assert (hosts.target / name).read_text() == f"{number}"


def test_beats_come_back_though_nothing_changes(hosts: Hosts) -> None:
    before = asof(hosts)
    until("a beat", lambda: asof(hosts) > before)
    until("it to be in sync", hosts.in_sync)
    report = told(hosts)
    assert report.lag_s is not None and report.lag_s > 0
    assert (report.dirty, report.in_flight) == (0, 0)


def test_where_no_beat_comes_back_it_is_not_in_sync(hosts: Hosts) -> None:
    """Though nothing is dirty, and nothing on its way."""
    hosts.relay.pause()
    until("it to be noticed", lambda: not told(hosts).in_sync)
    late = told(hosts)
    assert (late.dirty, late.in_flight, late.problems.count) == (0, 0, 0)
    assert late.lag_s is not None and late.lag_s >= LATE_S
    until("lag to grow", lambda: (told(hosts).lag_s or 0) > late.lag_s + 1)
    assert asof(hosts) == late.durable_as_of
    until("the log to say so", lambda: "heartbeat-late" in hosts.tail("here"))
    shown = status_text([told(hosts)])
    assert "not in sync: lag" in shown and ", durable as of 2" in shown
    hosts.relay.resume()
    until("it to be in sync", hosts.in_sync)
    assert asof(hosts) > (late.durable_as_of or 0)
    until("the log to say so", lambda: "heartbeat-back" in hosts.tail("here"))
    assert "durable_as_of=" in hosts.tail("here")


def test_lag_grows_while_the_target_does_not_run(hosts: Hosts) -> None:
    assert hosts.agent is not None
    hosts.agent.signal(signal.SIGSTOP)
    try:
        (hosts.source / "held").write_text("back")
        done = time.time()
        until("lag to grow", lambda: (told(hosts).lag_s or 0) > 1.0)
        first = told(hosts)
        until("lag to grow on", lambda: (told(hosts).lag_s or 0) > (first.lag_s or 0) + 1)
        assert not told(hosts).in_sync and asof(hosts) < done
    finally:
        hosts.agent.signal(signal.SIGCONT)
    until("it to be durable", lambda: asof(hosts) >= done)
    assert (hosts.target / "held").read_text() == "back"
    until("lag to be what a beat takes", lambda: (told(hosts).lag_s or 9.0) < 1.0)


def test_lag_grows_while_there_is_no_target(hosts: Hosts) -> None:
    before = asof(hosts)
    hosts.kill_target()

    def gone() -> bool:
        report = hosts.report()
        return report is not None and report.state != "REPLICATION" and (report.lag_s or 0) > 1.0

    until("lag to grow", gone)
    report = hosts.report()
    assert report is not None and (report.durable_as_of or 0) >= before and not report.in_sync
    hosts.quiesce()
    assert asof(hosts) > before


def test_what_changed_before_it_is_told_to_stop_is_there_when_it_has_stopped(hosts: Hosts) -> None:
    """Though the kernel may not have told of it by then."""
    for number in range(12):
        (hosts.source / f"{number}").write_text("the last word")
        assert hosts.stop_source() == 0
        assert (hosts.target / f"{number}").read_text() == "the last word"
        hosts.start_source()
        until("it to run", hosts.in_sync)
