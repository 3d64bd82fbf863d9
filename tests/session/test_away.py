"""A target that is away while very much changes: it costs the number of files, not of events."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ends import Hosts, until
from nursery import Nursery

from i2node.config import Config
from i2node.fs.touch import Work
from i2node.model import MirrorOptions, State, Target
from i2node.net.identity import Identity
from i2node.repl import session as sessions
from i2node.repl.backlog import Backlog
from i2node.repl.session import Session

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root"),
]

DIRS, FILES, ROUNDS = 40, 50, 12
IN_MEMORY = 400


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    nursery = Nursery()
    place = Path(tempfile.mkdtemp(prefix="i2node-away-", dir="/var/tmp"))
    made = Hosts(place, nursery)
    yield made
    made.close()
    nursery.close()
    shutil.rmtree(place)


class Running:
    """The source in this process, so that what it looks at can be counted."""

    def __init__(self, hosts: Hosts) -> None:
        home = hosts.homes["here"]
        target = Target("127.0.0.1", hosts.relay.port, os.fsencode(hosts.target))
        options = MirrorOptions(source=hosts.source, target=target)
        self.session = Session(Config.load(home), options, Identity.load(home / "etc"))
        self.names = self.wholes = self.most = 0
        self._take = self.session._dirty.take
        # Nothing but who takes sees how much is taken at a time.
        self.session._dirty.take = self._counted  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.session.run)
        self._thread.start()

    def _counted(self, max_names: int, now: float) -> list[Work]:
        works = self._take(max_names, now)
        for work in works:
            if work.names is None:
                self.wholes += 1
            else:
                self.names += len(work.names)
        return works

    @property
    def backlog(self) -> Backlog:
        spill = self.session._dirty._spilled.place
        assert isinstance(spill, Backlog)
        return spill

    def in_sync(self) -> bool:
        assert self._thread.is_alive()
        return self.session.report().in_sync

    def close(self) -> None:
        self.session.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def running(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(sessions, "IN_MEMORY", IN_MEMORY)
    monkeypatch.setattr(sessions, "Backlog", partial(Backlog, batch=128))
    for n in range(DIRS):
        (hosts.source / f"d{n}").mkdir()
        for m in range(FILES):
            (hosts.source / f"d{n}" / f"f{m}").write_bytes(b"first")
    hosts.start_target()
    made = Running(hosts)
    yield made
    made.close()


def away(hosts: Hosts, running: Running) -> None:
    until("not in sync", running.in_sync)
    planner = running.session._planner
    assert planner is not None
    until("the last round is not settled", lambda: not planner.draft.dirs)
    hosts.kill_target()
    hosts.relay.cut()
    until(
        "the target is not missed",
        lambda: running.session.report().state in (State.EXCEPTION, State.STALE),
    )


def back(hosts: Hosts, running: Running) -> None:
    (hosts.source / "fence").touch()
    hosts.start_target()
    until("the fence did not arrive", (hosts.target / "fence").exists)
    until("not in sync", running.in_sync)
    assert hosts.differences() == []


def heard_of(running: Running) -> None:
    """Waits until the watch has heard of all that was done before. No rounds ask for marks now."""
    asked = time.monotonic()
    watch, dirty = running.session._watch, running.session._dirty
    assert watch is not None
    watch.beat()
    waiting = dirty._marks._waiting
    until("no mark came", lambda: any(stamp >= asked for _, stamp in tuple(waiting)))


def test_a_target_that_was_away_costs_files_not_events(hosts: Hosts, running: Running) -> None:
    away(hosts, running)
    before, wholes = running.names, running.wholes
    for turn in range(ROUNDS):
        for n in range(DIRS):
            for m in range(FILES):
                with (hosts.source / f"d{n}" / f"f{m}").open("ab") as file:
                    file.write(b"%d" % turn)
    heard_of(running)
    dirty, backlog = running.session._dirty, running.backlog
    assert dirty.count() >= DIRS * FILES
    assert dirty.count() - backlog.count() <= IN_MEMORY
    assert backlog.file.exists()
    assert running.session.report().lag_s > 0
    back(hosts, running)
    assert not backlog.file.exists()
    # A name may come twice that was handed out to an attempt which failed, and one that is touched
    # while it comes back.
    assert DIRS * FILES <= running.names - before <= DIRS * FILES * 1.2
    assert running.wholes - wholes < DIRS / 2


def test_directories_come_and_go_while_the_target_is_away(hosts: Hosts, running: Running) -> None:
    away(hosts, running)
    for n in range(DIRS):
        directory = hosts.source / f"d{n}"
        for m in range(FILES):
            (directory / f"f{m}").write_bytes(b"second")
        if n % 4 == 0:
            shutil.rmtree(directory)
        if n % 8 == 0:
            directory.mkdir()
            (directory / "f1").write_bytes(b"third")
        if n % 4 == 1:
            directory.rename(hosts.source / f"moved{n}")
            (hosts.source / f"moved{n}" / "f2").unlink()
            (hosts.source / f"moved{n}" / "below").mkdir()
            (hosts.source / f"moved{n}" / "below" / "new").write_bytes(b"new")
    heard_of(running)
    assert running.backlog.count() > 0
    back(hosts, running)
    for n in range(DIRS):
        for path in (hosts.source / f"d{n}" / "f3", hosts.source / f"moved{n}" / "below" / "new"):
            if path.exists():
                path.write_bytes(b"live")
    back(hosts, running)


def test_a_watch_that_failed_is_begun_anew(hosts: Hosts, running: Running) -> None:
    until("not in sync", running.in_sync)
    failed = running.session._watch
    assert failed is not None

    def no_memory() -> bytes:
        raise MemoryError

    # An engine's own: what it fails by is nobody else's to know.
    failed._fetch = no_memory  # type: ignore[attr-defined]
    (hosts.source / "d1" / "f1").write_bytes(b"not told")
    until("no failure", lambda: failed.failure is not None)
    until(
        "the file did not arrive",
        lambda: (hosts.target / "d1" / "f1").read_bytes() == b"not told",
    )
    (hosts.source / "d2" / "f2").write_bytes(b"told by the next")
    until("not in sync", running.in_sync)
    assert hosts.differences() == []
