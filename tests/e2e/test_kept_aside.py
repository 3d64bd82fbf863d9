"""Kept aside, in a mirror that lives: a target that holds few attributes and whole seconds, and a
source that changes; both sides are compared in full, and a restore is exact."""

import os
from pathlib import Path

import forest
import pytest
from hosts import until
from witness import differences

from i2node.mover import batch

pytestmark = pytest.mark.root

SMALL = ("-b", "1024", "-I", "128")
FAR = 4_300_000_000_123_456_789


@pytest.fixture
def small(trees, tmp_path):
    """The target is a small file system of its own."""
    with forest.loop_mount(tmp_path / "image", trees.target, 32, *SMALL) as mount:
        yield mount


def rich(path: Path, size: int = 3000) -> Path:
    """A file that such a target cannot hold."""
    path.write_bytes(os.urandom(500))
    return rich_attributes(path, size)


def rich_attributes(path: Path, size: int = 3000) -> Path:
    os.setxattr(path, "user.big", os.urandom(size))
    os.setxattr(path, "user.small", b"fits")
    os.utime(path, ns=(FAR, FAR))
    return path


def shelf(hosts, target: Path) -> list[Path]:
    """What is aside; its directory is in the root, which is a mount point."""
    places = (target, target.parent, hosts.target.home / "var" / "stage")
    found = [p for place in places for p in place.glob(".i2node-aside-*")]
    return [p for place in found for p in place.iterdir()]


def equal(hosts, trees):
    """As both sides say of each other."""
    hosts.source.run("compare", trees.source, hosts.place(trees.target), "--strict")


def in_sync(mirror):
    until("in sync", lambda: mirror.last("state").get("in_sync"))


def settled(hosts, trees, mirror):
    """Everything that was done has arrived: the fence is the last of it."""
    fence = f"fence{os.urandom(4).hex()}"
    (trees.source / fence).touch()
    until("the fence", lambda: (trees.target / fence).exists())
    in_sync(mirror)
    until("in sync", lambda: (report := hosts.source.status()) and report.in_sync)


def test_a_pass_that_keeps_aside_has_no_problem_and_is_not_sent_again(hosts, trees, small):
    for i in range(20):
        rich(trees.source / f"file {i}")
    (trees.source / "below").mkdir()
    os.setxattr(trees.source / "below", "user.big", b"d" * 3000)
    os.link(trees.source / "file 3", trees.source / "below" / "link")
    os.utime(trees.source, ns=(FAR, FAR))
    done = hosts.once(trees.source, trees.target)
    assert done.last("done")["problem_count"] == 0
    assert done.said().count("attributes-aside") == 1
    assert len(shelf(hosts, trees.target)) == 22  # with below and the root itself
    real = {what for _, what in differences(trees.source, small)[1]}
    assert real, "the target holds more than it should"
    equal(hosts, trees)
    again = hosts.once(trees.source, trees.target, "--check", "strict").last("done")
    assert again["bytes_sent"] < 1000 and again["problem_count"] == 0
    for path in (*trees.source.iterdir(), trees.source):
        for name in os.listxattr(path):
            os.removexattr(path, name)
        os.utime(path, (5, 5))
    hosts.once(trees.source, trees.target)
    assert shelf(hosts, trees.target) == []
    hosts.tidy(trees.target)
    assert differences(trees.source, small)[1] == []


def test_it_follows_what_happens_and_survives_kills(hosts, trees, small):
    names = ("renamed", "linked", "rewritten", "removed", "replaced", "left", "changed")
    for name in names:
        rich(trees.source / name)
    large = trees.source / "large"
    large.write_bytes(os.urandom(6_000_000))
    rich_attributes(large)
    mirror = hosts.mirror(trees.source, trees.target)
    in_sync(mirror)
    assert len(shelf(hosts, trees.target)) >= len(names)

    source = trees.source
    (source / "d").mkdir()
    (source / "renamed").rename(source / "d" / "renamed")
    os.link(source / "linked", source / "d" / "linked")
    (source / "linked").unlink()
    rich(source / "new").rename(source / "rewritten")
    (source / "removed").unlink()
    (source / "plain").write_text("plain")
    (source / "plain").rename(source / "replaced")
    os.setxattr(source / "changed", "user.big", b"other" * 500)
    with large.open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"of these blocks only this one is sent")
    os.utime(large, ns=(FAR, FAR + 1))
    sent = hosts.source.status().bytes_sent
    settled(hosts, trees, mirror)
    equal(hosts, trees)
    assert hosts.source.status().bytes_sent - sent < 1_000_000

    hosts.agent.kill()
    hosts.serve()
    rich(source / "after the kill")
    (source / "d" / "renamed").rename(source / "again")
    settled(hosts, trees, mirror)
    equal(hosts, trees)
    assert mirror.end() == 0
    rich_ones = [p for p in source.rglob("*") if p.is_file() and "user.big" in os.listxattr(p)]
    assert len(rich_ones) == 7
    held = {os.lstat(p).st_ino for p in (trees.target, *trees.target.rglob("*"))}
    assert len(shelf(hosts, trees.target)) <= len(held)
    is_exact(hosts, trees, rich_ones)


def is_exact(hosts, trees, paths):
    """Read back by what a restore reads with, here without the agent."""
    (place,) = {p.parent for p in shelf(hosts, trees.target)}
    fd = os.open(place, os.O_RDONLY)
    for path in paths:
        there = os.open(trees.target / path.relative_to(trees.source), os.O_RDONLY)
        here = os.open(path, os.O_RDONLY)
        assert batch.attributes(there, fd) == batch.attributes(here)
        os.close(there)
        os.close(here)
    os.close(fd)


def test_a_foreign_change_of_what_is_aside_is_found_and_put_right(hosts, trees, small):
    rich(trees.source / "file")
    hosts.once(trees.source, trees.target)
    (aside,) = (p for p in shelf(hosts, trees.target) if p.stat().st_size > 3000)
    aside.unlink()
    words = ("compare", trees.source, hosts.place(trees.target), "--strict")
    hosts.source.run(*words, status=1)
    hosts.once(trees.source, trees.target, "--check", "strict")
    equal(hosts, trees)
