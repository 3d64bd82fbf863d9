"""Who may write to a file, as /proc tells it, and the guards that tell who opened it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from i2node.mover import events, writers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other processes are not to be seen")

_HOLDS = """
import ctypes, os, sys
how, path = sys.argv[1:]
flags = {"append": os.O_WRONLY | os.O_APPEND, "write": os.O_WRONLY, "path": os.O_PATH,
         "read": os.O_RDONLY, "both": os.O_RDWR | os.O_APPEND}
fd = os.open(path, flags.get(how, os.O_RDWR))
if how.startswith("map"):
    # Python's own mapping keeps a descriptor too.
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    kind = 2 if how == "map private" else 1
    assert libc.mmap(None, 4096, 3, kind, fd, 0) != ctypes.c_void_p(-1).value
    os.close(fd)
print(fd, flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(how: str, path: Path) -> Iterator[tuple[int, int]]:
    """A process that has the file open, or mapped: (pid, descriptor)."""
    words = [sys.executable, "-c", _HOLDS, how, str(path)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        yield child.pid, int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait(30)
        child.stdout.close()


@pytest.fixture
def path(place: Path) -> Path:
    made = place / "f"
    made.write_bytes(b"content")
    return made


def found(path: Path) -> list[tuple[int, int]] | None:
    st = path.stat()
    return writers.appenders(st.st_dev, st.st_ino)


def test_nobody_writes(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    with holder("write", other), holder("read", path), holder("path", path):
        assert found(path) == []


def test_who_appends_is_named(path: Path) -> None:
    with holder("append", path) as one, holder("append", path) as another:
        assert sorted(found(path) or ()) == sorted([one, another])
        st = path.stat()
        assert writers.is_appender(st.st_dev, st.st_ino, *one)
        assert not writers.is_appender(st.st_dev, st.st_ino + 1, *one)
        assert not writers.is_appender(st.st_dev, st.st_ino, one[0], 0)
    assert not writers.is_appender(st.st_dev, st.st_ino, *one)
    assert found(path) == []


@pytest.mark.parametrize("how", ["write", "both", "map shared"])
def test_who_may_write_anywhere_makes_it_unknown(path: Path, how: str) -> None:
    with holder("append", path), holder(how, path):
        assert found(path) is None
    assert found(path) == []


def test_a_private_mapping_writes_to_no_file(path: Path) -> None:
    with holder("map private", path):
        assert found(path) == []


def test_a_flag_that_is_taken_away(path: Path) -> None:
    st = path.stat()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        assert found(path) == [(os.getpid(), fd)]
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        assert found(path) is None
        assert not writers.is_appender(st.st_dev, st.st_ino, os.getpid(), fd)
    finally:
        os.close(fd)


def test_more_of_them_than_are_kept_apart_make_it_unknown(path: Path) -> None:
    fds = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(writers.MOST)]
    try:
        assert len(found(path) or ()) == writers.MOST
        fds.append(os.open(path, os.O_WRONLY | os.O_APPEND))
        assert found(path) is None
    finally:
        for fd in fds:
            os.close(fd)


def test_a_guard_tells_of_every_name(path: Path) -> None:
    notify, fd = writers.guards(), os.open(path, os.O_RDONLY)
    try:
        wd = writers.guard(notify, fd)
        assert events.drain(notify) == []
        os.link(path, path.with_name("link"))
        with path.with_name("link").open("ab") as other:
            other.write(b"x")
        (event,) = events.drain(notify)
        assert event.where == wd
        assert event.mask == writers.ATTRIB | writers.OPEN | writers.CLOSE_WRITE
        writers.unguard(notify, wd)
        assert [e.mask for e in events.drain(notify)] == [writers.IGNORED]
        path.read_bytes()
        assert events.drain(notify) == []
    finally:
        os.close(fd)
        os.close(notify)


def test_no_guard_where_others_write() -> None:
    notify, fd = writers.guards(), os.open("/proc/self/stat", os.O_RDONLY)
    try:
        with pytest.raises(OSError) as caught:
            writers.guard(notify, fd)
        assert caught.value.errno == errno.EOPNOTSUPP
    finally:
        os.close(fd)
        os.close(notify)
