"""Killed, cut off, out of space: each time it goes on by itself, and sends little twice."""

import random
import signal
import time

import forest
import pytest
from hosts import assert_equal, same, until

pytestmark = pytest.mark.root

KILLS = 4
WINDOW = 1 << 20


@pytest.fixture
def narrow(hosts):
    """The smallest window and frames, so that what is under way at a kill is little."""
    hosts.source.configure(window_bytes=WINDOW, frame_bytes=256 * forest.KIB, heartbeat_s=0.5)
    yield
    hosts.source.configure()


def full_mirror(hosts, trees) -> int:
    """What one undisturbed mirror of the source costs on the wire."""
    before = hosts.received()
    place = trees.target.with_name(trees.target.name + " undisturbed")
    hosts.once(trees.source, place, "--bwlimit", "200m")
    return hosts.received() - before


@pytest.mark.parametrize("victim", ["source", "target"])
def test_kills_at_random_moments_of_the_first_mirror(hosts, trees, narrow, victim):
    forest.bulk(trees.source, 24)
    full = full_mirror(hosts, trees)
    rng = random.Random(f"kill the {victim}")
    moments = sorted(rng.uniform(0.02, 0.95) * full for _ in range(KILLS))
    begin = hosts.received()
    mirror = hosts.mirror(trees.source, trees.target, "--once", "--bwlimit", "200m")
    for moment in moments:
        until(
            "the moment to kill",
            lambda m=moment, p=mirror: hosts.received() - begin > m or not p.running,
        )
        if victim == "source":
            mirror.kill()
            mirror = hosts.mirror(trees.source, trees.target, "--once", "--bwlimit", "200m")
        else:
            assert hosts.agent.running
            hosts.agent.kill()
            hosts.serve()
    assert mirror.wait() == 0, mirror.said()
    sent = hosts.received() - begin
    assert_equal(trees.source, trees.target)
    # The window may have been on its way at each kill, and a session has its own small talk.
    assert sent <= 1.1 * full + KILLS * (WINDOW + 200 * forest.KIB), (sent, full)
    hosts.tidy(trees.target)


def test_a_kill_in_the_middle_of_one_large_file(hosts, trees, narrow):
    """It goes on within the file."""
    (trees.source / "large").write_bytes(random.Random(3).randbytes(24 * forest.MIB))
    begin = hosts.received()
    mirror = hosts.mirror(trees.source, trees.target, "--once", "--bwlimit", "200m")
    until("the middle", lambda: hosts.received() - begin > 12 * forest.MIB)
    mirror.kill()
    assert not (trees.target / "large").exists()
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)
    assert hosts.received() - begin < 28 * forest.MIB
    hosts.tidy(trees.target)


def test_a_kill_while_it_follows(hosts, trees):
    """What happened meanwhile is found by the next start, on either side."""
    forest.plant(trees.source, small=100)
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    mirror.kill()
    (trees.source / "while it was down").write_text("new")
    (trees.source / "many" / "01").rename(trees.source / "moved while it was down")
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    assert_equal(trees.source, trees.target)

    hosts.agent.kill()
    (trees.source / "while the target was down").write_text("new")
    until("the loss", lambda: mirror.last("state")["state"] in ("EXCEPTION", "STALE"))
    hosts.serve()
    until("in sync", lambda: (r := hosts.source.status()) and r.in_sync)
    assert_equal(trees.source, trees.target)
    assert mirror.end(signal.SIGINT) == 0


# ---------------------------------------------------------------------- the network


def test_a_cut_in_the_middle_of_the_mirror(hosts, trees, narrow):
    forest.bulk(trees.source, 16)
    begin = hosts.received()
    mirror = hosts.mirror(trees.source, trees.target, "--bwlimit", "100m")
    until("the middle", lambda: hosts.received() - begin > 4 * forest.MIB)
    hosts.cut()
    try:
        report = until("the loss", lambda: lost(hosts))
        assert report.last_error == "peer-lost" and report.cause and not report.in_sync
    finally:
        hosts.heal()
    until("in sync", lambda: (r := hosts.source.status()) and r.in_sync)
    assert hosts.source.status().last_error == ""
    assert_equal(trees.source, trees.target)
    assert mirror.end() == 0
    hosts.tidy(trees.target)


def test_a_cut_while_it_follows(hosts, trees, narrow):
    (trees.source / "file").write_text("before")
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    hosts.cut()
    try:
        (trees.source / "file").write_text("while the cable was out")
        (trees.source / "new").mkdir()
        (trees.source / "new" / "file").write_text("while the cable was out")
        until("the loss", lambda: lost(hosts))
        (trees.source / "later").write_text("while it was known to be out")
    finally:
        hosts.heal()
    until("in sync", lambda: (r := hosts.source.status()) and r.in_sync)
    report = hosts.source.status()
    assert (report.progress, report.files_total, report.files_done) == (100.0, 1, 1)  # of the pass
    assert_equal(trees.source, trees.target)
    assert mirror.end() == 0


def lost(hosts):
    report = hosts.source.status()
    return report if report and report.state in ("EXCEPTION", "STALE") else None


# ---------------------------------------------------------------------- the target's disk


def test_a_full_target_says_so_and_goes_on_when_there_is_room(hosts, trees, tmp_path):
    (trees.source / "large").write_bytes(random.Random(4).randbytes(12 * forest.MIB))
    for number in range(200):
        (trees.source / f"small {number}").write_bytes(b"x" * 10_000)
    with forest.loop_mount(
        tmp_path / "image", trees.target.parent / f"{trees.target.name} disk", 32
    ) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(18 * forest.MIB))
        target = disk / "mirror"
        mirror = hosts.mirror(trees.source, target)
        report = until("the stall", lambda: (r := hosts.source.status()) and r.blocked_on and r)
        assert "No space left" in report.blocked_on and "free space" in report.blocked_on
        assert not report.in_sync
        assert not (target / "large").exists()
        assert "target-stalled" in hosts.agent.said()
        ballast.unlink()
        until("in sync", lambda: (r := hosts.source.status()) and r.in_sync)
        assert hosts.source.status().blocked_on == ""
        assert mirror.end() == 0
        assert_equal(trees.source, target)
        hosts.tidy(target)


def test_what_was_staged_for_a_file_that_went_makes_room(hosts, trees, tmp_path):
    """A file that does not fit leaves what was staged of it; no later pass waits for that room."""
    (trees.source / "large").write_bytes(random.Random(6).randbytes(40 * forest.MIB))
    with forest.loop_mount(
        tmp_path / "image", trees.target.parent / f"{trees.target.name} disk", 32
    ) as disk:
        target = disk / "mirror"
        mirror = hosts.mirror(trees.source, target, "--once")
        until("the stall", lambda: (r := hosts.source.status()) and r.blocked_on)
        mirror.kill()
        (trees.source / "large").unlink()
        (trees.source / "other").write_bytes(random.Random(7).randbytes(16 * forest.MIB))
        time.sleep(1.1)  # what is younger than the session by less may be in use
        hosts.once(trees.source, target)
        assert_equal(trees.source, target)
        assert "room-made" in hosts.agent.said()
        hosts.tidy(target)


def test_the_root_of_a_mount_as_target(hosts, trees, tmp_path):
    """Nowhere else on that file system can files be staged; when it is quiet nothing is seen."""
    forest.plant(trees.source, small=50)
    with forest.loop_mount(tmp_path / "image", trees.target, 192) as target:
        mirror = hosts.mirror(trees.source, target)
        until("in sync", lambda: mirror.last("state").get("in_sync"))
        assert_equal(trees.source, target)
        (trees.source / "contents" / "text").write_bytes(b"other" * 300_000)
        (trees.source / "links" / "a").rename(trees.source / "empty" / "a")
        until("equality", lambda: same(trees.source, target))
        until("quiet", lambda: (r := hosts.source.status()) and r.in_sync)
        assert_equal(trees.source, target)
        hosts.tidy(target)
        assert mirror.end() == 0
        assert_equal(trees.source, target)
        # A crash leaves the staging directory behind; the next start takes it away.
        (trees.source / "more").write_bytes(random.Random(5).randbytes(8 * forest.MIB))
        begin = hosts.received()
        mirror = hosts.mirror(trees.source, target, "--once", "--bwlimit", "100m")
        until("the middle", lambda: hosts.received() - begin > 3 * forest.MIB)
        hosts.agent.kill()
        mirror.kill()
        hosts.serve()
        hosts.once(trees.source, target)
        assert_equal(trees.source, target)
        hosts.tidy(target)
