"""The decoding of fanotify(7) in C: which directory an event is of, and what is left out."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel import LIBC, without

from disks import disk
from i2node.fs.coalesce import Dirty
from i2node.fs.fanotify import FanotifyWatch
from i2node.fs.root import Root
from i2node.mover.events import Event, Group
from queues import short_queue, usual_queue

pytestmark = pytest.mark.root

MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
FROM, TO, CREATE, DELETE, MOVE_SELF, OVERFLOW = 0x40, 0x80, 0x100, 0x200, 0x800, 0x4000
RENAME, ONDIR = 0x10000000, 0x40000000


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for path in ("a/b", "out/of/it"):
        (top / path).mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    return top


@pytest.fixture
def group(top: Path) -> Iterator[Group]:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with usual_queue():
        made = Group(root, [b"out/of"])
    yield made
    made.close()
    os.close(root)


def ino(path: Path) -> int:
    return path.stat().st_ino


def test_names_in_directories_by_their_inode_number(group: Group, top: Path) -> None:
    (top / "a" / "b" / "f").write_bytes(b"x")
    (top / "a" / "b" / "f").chmod(0o600)
    (top / "a").chmod(0o700)
    assert group.drain() == [
        Event(ino(top / "a" / "b"), CREATE | MODIFY | CLOSE_WRITE | ATTRIB, 0, b"f"),
        Event(ino(top / "a"), ATTRIB | ONDIR, 0, b""),
    ]
    assert group.drain() == []


def test_a_rename_tells_both_names_and_which_directory_it_was(group: Group, top: Path) -> None:
    assert group.pairs
    a, b, moved = ino(top), ino(top / "a"), ino(top / "a" / "b")
    (top / "a" / "b").rename(top / "c")
    (top / "c" / "f").touch()
    (top / "c" / "f").rename(top / "a" / "g")
    assert [e for e in group.drain() if e.mask & RENAME] == [
        Event(b, RENAME | ONDIR, 0, b"b", moved, a, b"c"),
        Event(moved, RENAME, 0, b"f", 0, b, b"g"),
    ]


def test_where_only_halves_are_told(top: Path) -> None:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with usual_queue():
        group = Group(root, pairs=False)
    assert not group.pairs
    (top / "a" / "b").rename(top / "c")
    assert group.drain() == [
        Event(ino(top / "a"), FROM | ONDIR, 0, b"b"),
        Event(ino(top), TO | ONDIR, 0, b"c"),
    ]
    group.close()
    os.close(root)


def test_what_is_outside_or_left_out_is_not_told(group: Group, top: Path) -> None:
    beside = top.parent / "beside"
    (beside / "f").write_bytes(b"x")
    (top.parent / "topping").mkdir()
    (top.parent / "topping" / "f").touch()
    (top / "out" / "of" / "it" / "f").touch()
    (top / "out" / "of" / "f").touch()
    assert group.drain() == []
    (top / "out" / "office").mkdir()
    (top / "out" / "office" / "f").touch()
    assert {e.where for e in group.drain()} == {ino(top / "out"), ino(top / "out" / "office")}


def test_a_directory_that_comes_in_is_told_of_with_all_below_it(group: Group, top: Path) -> None:
    """Also where it was known, a moment ago, to be outside, and back."""
    beside = top.parent / "beside"
    (beside / "d" / "deep").mkdir(parents=True)
    (beside / "d" / "deep" / "f").touch()
    assert group.drain() == []
    (beside / "d").rename(top / "d")
    (top / "d" / "deep" / "f").write_bytes(b"in")
    deep = ino(top / "d" / "deep")
    assert group.drain() == [
        Event(0, RENAME | ONDIR, 0, b"d", ino(top / "d"), ino(top), b"d"),
        Event(deep, MODIFY | CLOSE_WRITE, 0, b"f"),
    ]
    (top / "d").rename(beside / "d")
    assert [e.to for e in group.drain()] == [0]
    (beside / "d" / "deep" / "f").write_bytes(b"out")
    assert group.drain() == []


def nested(top: Path, levels: int) -> int:
    """A descriptor of a directory so far below."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d" * 100, dir_fd=fd)
        below = os.open("d" * 100, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


@pytest.mark.parametrize("where", ["beside", "top/out/of", "top/a"])
def test_a_directory_whose_path_is_too_long_to_say(group: Group, top: Path, where: str) -> None:
    below = nested(top.parent / where, 60)
    group.drain()
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
    told = [Event(os.fstat(below).st_ino, CREATE | CLOSE_WRITE, 0, b"f")]
    os.close(below)
    assert group.drain() == (told if where == "top/a" else [])


def test_a_directory_that_is_gone_says_nothing_of_what_was_in_it(group: Group, top: Path) -> None:
    (top / "a" / "b" / "f").touch()
    subprocess.run(["rm", "-r", top / "a" / "b"], check=True)
    assert {(e.where, e.name) for e in group.drain()} == {(ino(top / "a"), b"b")}


def test_the_root_itself(group: Group, top: Path) -> None:
    number = ino(top)
    top.chmod(0o711)
    top.rename(top.with_name("moved"))
    (top.with_name("moved") / "f").touch()
    assert group.drain() == [
        Event(number, ATTRIB | MOVE_SELF | ONDIR, 0, b""),  # the queue merges them
        Event(number, CREATE | CLOSE_WRITE, 0, b"f"),
    ]


def test_more_directories_than_are_remembered(top: Path) -> None:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with usual_queue():
        group = Group(root, places=4096)
    for n in range(300):
        (top / f"{n}").mkdir()
        (top / f"{n}" / "f").touch()
    told = {(e.where, e.name) for e in drained(group)}
    for n in range(300):
        assert {(ino(top), b"%d" % n), (ino(top / f"{n}"), b"f")} <= told
    group.close()
    os.close(root)


def test_what_does_not_fit_comes_with_the_next_call(group: Group, top: Path) -> None:
    names = [b"%04d" % n + b"x" * 200 for n in range(500)]
    for name in names:
        (top / os.fsdecode(name)).touch()
    calls, told = 0, []
    while events := group.drain(8192):
        calls += 1
        told += [e.name for e in events]
    assert told == names and calls > 10


def test_a_full_queue_is_told(top: Path) -> None:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with short_queue(64):
        group = Group(root)
    for n in range(200):
        os.mknod(top / f"{n}")
    lost = [e.cookie for e in drained(group) if e.mask == OVERFLOW]
    assert lost == [errno.EOVERFLOW]
    group.close()
    os.close(root)


class Handle(ctypes.Structure):
    """struct file_handle."""

    _fields_ = (("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128))


def test_a_file_that_is_opened_by_its_handle(tmp_path: Path) -> None:
    """As the NFS server does it. Nothing of it is in memory, so that the kernel knows no name."""
    with disk("ext4", tmp_path, mib=32) as mount:
        for name in ("top/a/f", "beside/f"):
            (mount / name).parent.mkdir(parents=True)
            (mount / name).write_bytes(b"x")
        handles = []
        for name in ("top/a/f", "beside/f"):
            handle, number = Handle(128), ctypes.c_int()
            path = os.fsencode(mount / name)
            LIBC.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(number), 0)
            handles.append(handle)
        subprocess.run(["umount", mount], check=True)
        subprocess.run(["mount", "-o", "loop", tmp_path / "ext4.image", mount], check=True)
        top = mount / "top"
        root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        with usual_queue():
            group = Group(root)
        if not group.pairs:
            pytest.skip("this kernel tells nothing of such a file")
        opened = [LIBC.open_by_handle_at(root, ctypes.byref(h), os.O_RDWR) for h in handles]
        for fd in opened:
            os.write(fd, b"y")
        assert group.drain() == [Event(0, MODIFY, 0, b"")]
        os.stat(top / "a" / "f")
        os.stat(mount / "beside" / "f")
        for fd in opened:
            os.write(fd, b"z")
        assert group.drain() == [Event(ino(top / "a"), MODIFY, 0, b"")]
        for fd in (*opened, root):
            os.close(fd)
        group.close()


def test_what_was_written_to_a_file_without_a_name(top: Path) -> None:
    held, dirty = Root(os.fsencode(top)), Dirty()
    watch = FanotifyWatch(held, dirty)
    assert watch.statistics().unplaced_s is None
    watch._take([Event(ino(top / "a"), MODIFY, 0, b""), Event(0, MODIFY, 0, b"")])
    (work,) = dirty.take(9, time.monotonic())
    assert (work.ino, work.names) == (ino(top / "a"), None)
    unplaced = watch.statistics().unplaced_s
    assert unplaced is not None and unplaced >= 0.0
    watch.close()
    held.close()


def test_where_it_cannot_be_had() -> None:
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError) as refused:
        Group(proc)
    assert refused.value.errno in (errno.EOPNOTSUPP, errno.ENODEV, errno.EXDEV)
    os.close(proc)


def test_without_the_right_to_resolve_handles_it_cannot_be_had(top: Path) -> None:
    """As in a container that was given CAP_SYS_ADMIN alone: the mark can be set, and no event be
    understood."""

    def work() -> None:
        root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(PermissionError):
            Group(root)

    without([("open_by_handle_at", errno.EPERM, None, 0)], work)


def drained(group: Group) -> list[Event]:
    told: list[Event] = []
    while events := group.drain():
        told += events
    return told


CHURN = """
import os, sys
for n in range(4000):
    path = f"{sys.argv[1]}/{n % 3}"
    os.mkdir(path)
    os.mkdir(path + "/below")
    os.rmdir(path + "/below")
    os.rmdir(path)
"""


def test_numbers_that_are_given_away_at_once_are_no_loss(group: Group, top: Path) -> None:
    """While one is, the kernel has no other word for it than that memory is lacking."""
    busy = []
    for name in ("one", "two", "three"):
        (top / name).mkdir()
        busy.append(subprocess.Popen([sys.executable, "-c", CHURN, top / name]))
    lost: list[Event] = []
    while any(one.poll() is None for one in busy):
        lost += (e for e in group.drain() if e.mask & OVERFLOW)
    assert [one.returncode for one in busy] == [0, 0, 0]
    assert lost == []
