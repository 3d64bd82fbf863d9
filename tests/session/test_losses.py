"""What was lost on the way (a change, an event, a journal, a comparison) or refused is made up for:
short scenes with real nodes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from ends import until
from scene import EACH_ENGINE, Scene

from i2node.repl.journal import Journal
from queues import short_queue

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root"),
]


@pytest.mark.parametrize("size", [100, 9000, 2_000_000])
def test_a_change_that_size_and_time_conceal_survives_a_kill(scene: Scene, size: int) -> None:
    path = scene.source / "f"
    scene.deeds.write(path, size)
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.change(path, 10, 50, back=True)
    until("the change was not taken up", scene.in_flight)
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


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


def test_a_problem_stays_though_its_directory_moves_before_it_is_told(scene: Scene) -> None:
    scene.deeds.make(scene.source / "d")
    scene.deeds.write(scene.source / "d" / "f", 100)
    scene.equal()
    over = scene.hosts.place / "over"
    over.write_text("")
    subprocess.run(["mount", "--bind", over, scene.target / "d" / "f"], check=True)
    try:
        scene.hosts.relay.pause()
        scene.deeds.write(scene.source / "d" / "f", 100)
        until("the change was not taken up", scene.written_down)
        before = scene.hosts.report().in_flight
        scene.deeds.move(scene.source / "d", scene.source / "e")
        until("the move was not taken up", lambda: scene.written_down(before))
        scene.hosts.relay.resume()
        until("no problem was told", lambda: scene.problems() > 0)
        until("it did not move", lambda: (scene.target / "e" / "f").exists())
    finally:
        subprocess.run(["umount", *scene.target.glob("[de]/f")], check=True)
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
    until("nothing was lost", lambda: scene.overflows() > 0)
    scene.equal()
    # What appeared meanwhile is watched.
    scene.deeds.write(scene.source / "new" / "7" / "below" / "g", 10)
    scene.equal()


def test_a_tree_that_grew_while_the_wire_was_down(scene: Scene) -> None:
    scene.equal()
    scene.hosts.relay.pause()
    for n in range(5):
        scene.deeds.make(scene.source / f"d{n}" / "deep" / "deeper")
        scene.deeds.write(scene.source / f"d{n}" / "deep" / "deeper" / "f", 9000)
    until("nothing was taken up", scene.in_flight)
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
    until("the change was not taken up", scene.written_down)
    scene.hosts.relay.cut()
    until("the loss was not noticed", lambda: not scene.connected())
    scene.deeds.move(top / "a1", top / "d1" / "c2")
    scene.deeds.move(top / "d1" / "c2" / "c", top / "b")
    scene.equal()
