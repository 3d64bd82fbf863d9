"""What `doctor` says of a target, on file systems with limits of their own."""

import os

import forest
import pytest
from hosts import must, until

from disks import disk
from i2node.fs import trials
from i2node.fs.ground import try_ground
from i2node.fs.tree import TargetTree
from inodes import IMMUTABLE, give, unlock


def doctor(hosts, source, target, status):
    program = hosts.source.run("doctor", source, hosts.place(target), "--json", status=status)
    found = {line["name"]: line for line in program.lines() if line["t"] == "attribute"}
    assert tuple(found) == trials.NAMES
    return program, found


def verdicts(found, verdict):
    return {name for name, line in found.items() if line["verdict"] == verdict}


@pytest.mark.root
def test_each_attribute_of_ext4_with_small_inodes(hosts, trees, tmp_path):
    """What it refuses is told with the cause, before the target is there, and nothing is left."""
    with forest.loop_mount(tmp_path / "image", trees.target, 16, "-b", "1024", "-I", "128"):
        _, found = doctor(hosts, trees.source, trees.target / "new" / "root", 1)
        assert found["nanoseconds"]["why"] == "1234567890.123456789 became 1234567890.000000000"
        assert {"nanoseconds", "after-2038", "large-xattrs"} <= verdicts(found, "aside")
        assert {"long-symlinks", "large-files"} <= verdicts(found, "lost")
        assert "964 bytes" in found["large-xattrs"]["why"]
        assert {"owner", "trusted-xattrs", "acl", "flags", "holes"} <= verdicts(found, "exact")
        assert list(trees.target.iterdir()) == [] and hosts.litter(trees.target) == []
        before = os.stat(trees.target).st_mtime_ns
        doctor(hosts, trees.source, trees.target, 1)
        assert list(trees.target.iterdir()) == []
        assert os.stat(trees.target).st_mtime_ns == before
    hosts.tidy(trees.target)


@pytest.mark.root
def test_what_the_source_cannot_have_is_not_missed(hosts, trees):
    """The same file system on both sides."""
    trees.target.mkdir()
    with disk("xfs", trees.source) as source, disk("xfs", trees.target) as target:
        program, found = doctor(hosts, source, target, 0)
        assert verdicts(found, "lost") == {"long-symlinks"}
        assert verdicts(found, "aside") == {"ext-flags"}
        impossible = {name for name, line in found.items() if not line["possible"]}
        assert impossible == {"long-symlinks", "ext-flags"}
        assert program.last("done")["lost"] == []
        must("mount", "-o", "remount,ro", target)
        refused = hosts.source.run("doctor", source, hosts.place(target), status=2)
        assert "Read-only" in refused.said()


def test_what_else_is_worth_knowing(hosts, trees):
    """Here the target stands in its agent's allowed root; notes are for people, and sound."""
    (trees.source / "below").mkdir()
    (trees.source / "below" / "file").write_bytes(bytes(1000))
    words = ("doctor", trees.source, hosts.place(trees.target), "--json")
    program = hosts.source.start(*words)
    assert program.wait() in (0, 1)
    notes = {line["what"]: line for line in program.lines() if line["t"] == "note"}
    assert set(notes) == {"version", "clocks", "watch", "room"}
    assert "3 entries and 1,000 bytes here" in notes["room"]["text"]
    assert all(note["sound"] for note in notes.values())
    assert not trees.target.exists() and hosts.litter(trees.target) == []


def test_a_table_for_people(hosts, trees):
    program = hosts.source.start("doctor", trees.source, hosts.place(trees.target))
    assert program.wait() in (0, 1)
    lines = program.out.read_text().splitlines()
    assert lines[0].split() == ["attribute", "source", "target"]
    assert [line.split()[0] for line in lines[1 : 1 + len(trials.NAMES)]] == list(trials.NAMES)


def test_where_a_target_may_not_be_nothing_is_tried(hosts, trees, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (elsewhere, hosts.backup / "link"):
        if place is not elsewhere:
            place.symlink_to(elsewhere)
        refused = hosts.source.run("doctor", trees.source, hosts.place(place), status=2)
        assert "allow" in refused.said()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_what_is_tried_is_what_is_true(tmp_path, kind):
    """By hand, what the trials found; they leave nothing."""
    with forest.loop_mount(tmp_path / "image", tmp_path / "ext4", 16) as mount:
        place = mount if kind == "ext4" else tmp_path / "tmpfs"
        if kind == "tmpfs":
            place.mkdir()
            must("mount", "-t", "tmpfs", "none", place)
        try:
            fd = os.open(place, os.O_RDONLY)
            found = {f.name: f for f in trials.try_all(fd)}
            assert os.listdir(fd) == []
            os.close(fd)
            file = place / "file"
            file.touch()
            for name, time_s in (("after-2446", 15_800_000_000), ("before-1970", -1_000_000_000)):
                os.utime(file, (time_s, time_s))
                assert found[name].kept == (os.stat(file).st_mtime == time_s)
            for name, size in (("large-xattrs", 65536), ("user-xattrs", 10)):
                try:
                    os.setxattr(file, "user.x", b"x" * size)
                except OSError:
                    assert not found[name].kept
                else:
                    assert found[name].kept
            assert found["ext-flags"].kept == (kind == "ext4")
        finally:
            if kind == "tmpfs":
                must("umount", "--lazy", place)


@pytest.mark.root
def test_what_is_required_and_would_be_lost_stops_the_rule_before_it_starts(hosts, trees, tmp_path):
    (trees.source / "file").write_text("x")
    words = ("--require", "owner,long-symlinks")
    with forest.loop_mount(tmp_path / "image", trees.target, 16, "-b", "1024"):
        root = trees.target / "root"
        refused = hosts.once(trees.source, root, *words, status=3).last("error")
        assert refused["code"] == "safety" and "doctor" in refused["remedy"]
        assert "long-symlinks (a target has at most 1,023 bytes)" in refused["cause"]
        assert "owner" not in refused["cause"] and not root.exists()
        mirror = hosts.once(trees.source, root, "--require", "owner")
        assert mirror.said().count("attributes-lost") == 1
        assert "long-symlinks: a target has at most 1,023 bytes" in mirror.said()
        (trees.source / "file").write_text("y")
        mirror = hosts.mirror(trees.source, root)
        until("in sync", lambda: mirror.last("state").get("in_sync"))
        assert "long-symlinks" in hosts.source.status().fidelity.lost
        assert "large-files" in hosts.source.run("status").out.read_text()
        assert mirror.end() == 0


@pytest.mark.root
def test_what_a_crash_left_of_trials_is_in_nobodys_way(tmp_path):
    """A flag too that was tried at that moment."""
    with forest.loop_mount(tmp_path / "image", tmp_path / "ext4", 16) as mount:
        place = (os.fsencode(mount / "root"), "0123456789abcdef", tmp_path / "state", [mount])
        (mount / "root").mkdir()
        path, rule, *where = place
        tree = TargetTree(path, f"try-{rule}", *where)
        for name in ("trials", "trials/1"):
            os.mkdir(name, dir_fd=tree.stage())
        (stage,) = mount.glob(".i2node-*")
        assert give(stage / "trials" / "1", IMMUTABLE)
        tree.close()
        try:
            assert try_ground(*place).untried == ""
            assert list(mount.glob(".i2node-*")) == []
        finally:
            unlock(mount)


@pytest.mark.parametrize("text", ["colour", ""])  # as of a variable that is not set
def test_a_requirement_that_is_none(hosts, trees, text):
    words = ("mirror", trees.source, hosts.place(trees.target), "--once", "--require", text)
    assert repr(text) in hosts.source.run(*words, status=2).said()


@pytest.mark.root
def test_a_full_disk_tells_nothing_and_does_not_keep_a_rule_from_freeing_it(hosts, trees, tmp_path):
    (trees.source / "file").write_bytes(os.urandom(100_000))
    place, root = hosts.place(trees.target / "root"), trees.target / "root"
    with forest.loop_mount(tmp_path / "image", trees.target, 8):
        hosts.once(trees.source, root)
        with (trees.target / "ballast").open("wb", buffering=0) as ballast:
            with pytest.raises(OSError, match="No space"):
                while True:
                    ballast.write(bytes(4096))
            # A directory to stage in has room, and hardly anything else.
            os.truncate(ballast.fileno(), ballast.tell() - 16384)
        refused = hosts.source.run("doctor", trees.source, place, status=2)
        assert "No space" in refused.said()
        (trees.source / "file").unlink()
        hosts.once(trees.source, root)
        assert list(root.iterdir()) == []
