"""What happens at the source while it is followed: each kind of change, one after the other and
all at once; and what the status says meanwhile."""

import ctypes
import json
import os
import random
import shutil
import time
from dataclasses import fields

import forest
import pytest
from hosts import assert_equal, must, same, until

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def exchange(one, other) -> None:
    """renameat2(2), which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def create(top):
    (top / "new").write_text("new")


def write(top):
    with (top / "file").open("ab") as file:
        file.write(b"more")


def overwrite_large(top):
    with (top / "large").open("r+b") as file:
        file.seek(forest.MIB)
        file.write(b"in the middle")


def truncate(top):
    os.truncate(top / "large", 100)
    os.truncate(top / "file", 0)


def chmod(top):
    (top / "file").chmod(0o640)
    (top / "dir").chmod(0o700)
    os.utime(top / "dir" / "inside", ns=(1, 1_000_000_000_000_000_001))


def attributes(top):
    os.setxattr(top / "file", "user.new", b"1")
    os.setxattr(top / "dir", "user.new", b"2")


def rename_file(top):
    (top / "file").rename(top / "dir" / "renamed")


def rename_over(top):
    (top / "file").rename(top / "link a")


def rename_directory(top):
    (top / "dir").rename(top / "other" / "renamed dir")


def rename_chain(top):
    (top / "dir").rename(top / "first")
    (top / "first").rename(top / "second")
    (top / "second" / "inside").rename(top / "second" / "inside too")
    (top / "second").rename(top / "other" / "third")


def swap_files(top):
    exchange(top / "file", top / "large")


def swap_directories(top):
    exchange(top / "dir", top / "other")


def links(top):
    os.link(top / "file", top / "dir" / "a new link")
    (top / "link b").unlink()
    (top / "link a").write_text("both names")


def unlink(top):
    (top / "file").unlink()
    shutil.rmtree(top / "dir")


def filled_at_once(top):
    deep = top / "p" / "q" / "r" / "s"
    deep.mkdir(parents=True)
    for number in range(30):
        (deep / f"{number}").write_text(f"{number}")
        (deep.parent / f"{number}").mkdir()


def moved_in(top):
    outside = top.parent / f"{top.name} outside"
    (outside / "below" / "deep").mkdir(parents=True)
    for number in range(10):
        (outside / "below" / f"{number}").write_text("from outside")
    outside.rename(top / "moved in")
    (top / "moved in" / "below" / "after").write_text("afterwards")


def moved_out(top):
    (top / "dir").rename(top.parent / f"{top.name} moved out")
    (top.parent / f"{top.name} moved out" / "inside").write_text("nobody's business")


def retyped(top):
    shutil.rmtree(top / "dir")
    (top / "dir").write_text("a file")
    (top / "file").unlink()
    (top / "file").mkdir()
    (top / "file" / "inside").write_text("inside")


def retyped_and_back(top):
    retyped(top)
    shutil.rmtree(top / "file")
    (top / "file").write_text("a file again")
    (top / "dir").unlink()
    (top / "dir").mkdir()
    (top / "dir" / "inside").write_text("other than before")


def symlinks(top):
    (top / "symlink").unlink()
    (top / "symlink").symlink_to("elsewhere")
    (top / "another").symlink_to("dir")


def fifo(top):
    os.mkfifo(top / "a fifo")


def odd_name(top):
    (top / os.fsdecode(b"a\nb\xff")).write_text("odd")


CHANGES = (
    *(create, write, overwrite_large, truncate, chmod, attributes, rename_file, rename_over),
    *(rename_directory, rename_chain, swap_files, swap_directories, links, unlink),
    *(filled_at_once, moved_in, moved_out, retyped, retyped_and_back, symlinks, fifo, odd_name),
)


def ground(top) -> None:
    """What every change finds."""
    for name in ("dir", "other"):
        (top / name).mkdir(parents=True)
        (top / name / "inside").write_text(f"inside {name}")
    (top / "file").write_text("file")
    (top / "large").write_bytes(random.Random(6).randbytes(2 * forest.MIB))
    (top / "link a").write_text("linked")
    os.link(top / "link a", top / "link b")
    (top / "symlink").symlink_to("file")


@pytest.fixture(params=["fanotify", "inotify"])
def followed(hosts, trees, request):
    """A mirror that follows a tree with a ground for each change, with either engine."""
    hosts.source.configure(watch=request.param)
    for change in CHANGES:
        ground(trees.source / change.__name__)
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    yield mirror
    hosts.source.configure()


def in_sync(hosts):
    report = hosts.source.status()
    return report if report is not None and report.in_sync else None


def test_each_change_arrives(hosts, trees, followed):
    for change in CHANGES:
        change(trees.source / change.__name__)
        here, there = (t / change.__name__ for t in (trees.source, trees.target))
        until(f"{change.__name__} to arrive", lambda a=here, b=there: same(a, b))
    until("in sync", lambda: in_sync(hosts))
    assert_equal(trees.source, trees.target)
    assert followed.end() == 0
    done = followed.last("done")
    assert done["exit_status"] == 0 and done["problem_count"] == 0 and done["in_sync"]
    hosts.tidy(trees.target)


def test_what_is_made_anew_with_the_inode_numbers_of_what_was_there(hosts, trees, followed):
    """ext4 gives a number again at once; in sync is said only when both sides are equal."""
    for change in CHANGES:
        top = trees.source / change.__name__
        shutil.rmtree(top)
        ground(top)
        change(top)
        until(
            f"{change.__name__} to be in sync, and equal",
            lambda: in_sync(hosts) and same(trees.source, trees.target),
            20,
        )
    assert followed.end() == 0


def test_all_changes_at_once(hosts, trees, followed):
    changes = list(CHANGES)
    random.Random(7).shuffle(changes)
    for change in changes:
        change(trees.source / change.__name__)
    for number in range(300):
        (trees.source / f"burst {number}").write_text("burst")
    for number in range(0, 300, 2):
        (trees.source / f"burst {number}").rename(trees.source / f"burst {number + 1}")
    until("in sync", lambda: in_sync(hosts))
    assert_equal(trees.source, trees.target)


def test_sigterm_brings_under_way_what_is_dirty(hosts, trees, followed):
    for number in range(200):
        (trees.source / f"last {number}").write_text("in the last moment")
    assert followed.end() == 0
    assert_equal(trees.source, trees.target)
    done = followed.last("done")
    assert done["in_sync"] and followed.last("state")["state"] == "M_STOP"
    assert hosts.source.status() is None


FIELDS = {
    *("rule", "source", "target", "state", "progress", "files_total", "files_done", "bytes_total"),
    *("bytes_done", "bytes_sent", "rate", "eta_s", "dirty", "in_flight", "lag_s", "in_sync"),
    *("watch", "problems", "last_error", "cause", "remedy", "durable_as_of"),
}


def test_the_status_has_all_its_fields_and_goes_with_the_process(hosts, trees):
    (trees.source / "file").write_text("file")
    began = time.time()
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: in_sync(hosts))
    (rule,) = json.loads(hosts.source.run("status", "--json").out.read_text())
    assert rule.keys() >= FIELDS
    assert rule["watch"].keys() >= {"engine", "coverage", "overflows", "max_undetected_s"}
    assert rule["watch"]["engine"] == "fanotify" and rule["watch"]["coverage"] == 1.0
    assert (rule["state"], rule["in_sync"], rule["progress"]) == ("REPLICATION", True, 100.0)
    assert (rule["files_total"], rule["dirty"], rule["in_flight"]) == (1, 0, 0)
    assert rule["lag_s"] > 0 and began < rule["durable_as_of"] <= time.time()
    assert rule["pid"] == mirror.pid and rule["problems"]["count"] == 0
    assert {f.name for f in fields(hosts.source.status())} == rule.keys()
    shown = hosts.source.run("status").out.read_text()
    assert "REPLICATION" in shown and str(trees.source) in shown and "durable as of 2" in shown
    mirror.kill()
    assert json.loads(hosts.source.run("status", "--json").out.read_text()) == []
    assert "no rule" in hosts.source.run("status").out.read_text()


@pytest.mark.root
def test_a_problem_goes_when_its_cause_goes(hosts, trees):
    """And until then it is not in sync, whatever else arrives."""
    (trees.source / "dir").mkdir()
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: in_sync(hosts))
    must("mount", "-t", "tmpfs", "none", trees.target / "dir")
    try:
        (trees.source / "dir" / "file").write_text("does not get there")
        until("the problem", lambda: (r := hosts.source.status()) and r.problems.count)
        (trees.source / "beside").write_text("arrives")
        until("what is beside", (trees.target / "beside").exists)
        assert not hosts.source.status().in_sync
        assert list((trees.target / "dir").iterdir()) == []
    finally:
        must("umount", "--lazy", trees.target / "dir")
    until("in sync", lambda: in_sync(hosts))
    assert_equal(trees.source, trees.target)
    assert mirror.end() == 0
