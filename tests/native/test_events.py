"""Events as the running kernel gives them, on a real inotify descriptor."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2node.errors import SessionError
from i2node.mover import events
from i2node.mover._mover import ffi
from i2node.mover.events import Event, drain
from queues import short_queue

MODIFY, ATTRIB, CLOSE_WRITE, OPEN = 0x2, 0x4, 0x8, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400
Q_OVERFLOW, IGNORED, ISDIR = 0x4000, 0x8000, 0x40000000
ALL = 0xFFF

libc = ctypes.CDLL(None, use_errno=True)


def watch(fd: int, path: Path, mask: int = ALL) -> int:
    wd = libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))
    assert wd >= 0, os.strerror(ctypes.get_errno())
    return int(wd)


@pytest.fixture
def fd() -> Iterator[int]:
    made = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert made >= 0
    yield made
    os.close(made)


def test_nothing_is_an_empty_list(fd: int, tmp_path: Path) -> None:
    watch(fd, tmp_path)
    assert drain(fd) == []


def test_what_one_file_does_is_one_event(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, CREATE | MODIFY | CLOSE_WRITE | DELETE)
    file = tmp_path / "f"
    for i in range(100):
        file.write_bytes(b"x" * i)
    file.unlink()
    assert drain(fd) == [Event(wd, CREATE | MODIFY | CLOSE_WRITE | DELETE, 0, b"f")]
    assert drain(fd) == []


def test_first_sight_keeps_the_order(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, MODIFY | CREATE)
    order = [b"c", b"a", b"b"]
    for _ in range(3):
        for name in order:
            with open(tmp_path / name.decode(), "ab") as f:
                f.write(b"1")
    assert drain(fd) == [Event(wd, CREATE | MODIFY, 0, name) for name in order]


def test_nothing_is_folded_across_a_move(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, MODIFY | CREATE | MOVED_FROM | MOVED_TO)
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"1")
    a.rename(b)
    b.write_bytes(b"2")
    a.write_bytes(b"2")
    got = drain(fd)
    cookie = got[2].cookie
    assert cookie != 0
    assert got == [
        Event(wd, CREATE | MODIFY, 0, b"a"),
        Event(wd, CREATE | MODIFY, 0, b"b"),
        Event(wd, MOVED_FROM, cookie, b"a"),
        Event(wd, MOVED_TO, cookie, b"b"),
        Event(wd, MODIFY, 0, b"b"),
        Event(wd, CREATE | MODIFY, 0, b"a"),
    ]


def test_repeated_moves_keep_their_cookies(fd: int, tmp_path: Path) -> None:
    watch(fd, tmp_path, MOVED_FROM | MOVED_TO)
    a, b = tmp_path / "a", tmp_path / "b"
    a.touch()
    for _ in range(5):
        a.rename(b)
        b.rename(a)
    got = drain(fd)
    assert len(got) == 20
    assert len({e.cookie for e in got}) == 10
    assert all(x.cookie == y.cookie for x, y in zip(got[::2], got[1::2], strict=True))


def test_a_directory_and_a_file_of_one_name_stay_apart(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, CREATE | DELETE)
    name = tmp_path / "n"
    name.mkdir()
    name.rmdir()
    name.touch()
    assert drain(fd) == [Event(wd, CREATE | DELETE | ISDIR, 0, b"n"), Event(wd, CREATE, 0, b"n")]


def test_the_end_of_a_watch_keeps_its_place(fd: int, tmp_path: Path) -> None:
    inner = tmp_path / "d"
    inner.mkdir()
    wd = watch(fd, inner, ATTRIB | CREATE | DELETE | DELETE_SELF)
    inner.chmod(0o700)
    (inner / "x").touch()
    (inner / "x").unlink()
    inner.rmdir()
    got = drain(fd)
    assert [(e.mask & ~ISDIR, e.name) for e in got] == [
        (ATTRIB, b""),
        (CREATE | DELETE, b"x"),
        (DELETE_SELF, b""),
        (IGNORED, b""),
    ]
    assert all(e.where == wd for e in got)


def test_a_burst_of_names(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, CREATE | CLOSE_WRITE)
    names = [b"%d-" % i * (1 + i % 40) for i in range(5000)]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o600))
    assert drain(fd) == [Event(wd, CREATE | CLOSE_WRITE, 0, name) for name in names]


def test_what_does_not_fit_comes_with_the_next_call(fd: int, tmp_path: Path) -> None:
    wd = watch(fd, tmp_path, CREATE)
    names = [b"n" * (1 + i % 255) + b"%d" % i for i in range(200)]
    names = [n[-255:] for n in names]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o600))
    got: list[Event] = []
    calls = 0
    while part := drain(fd, 2048):
        got += part
        calls += 1
    assert got == [Event(wd, CREATE, 0, name) for name in names]
    assert calls > 10


def test_names_of_every_length(fd: int, tmp_path: Path) -> None:
    watch(fd, tmp_path, CREATE)
    names = [b"\xff" * n for n in range(1, 256)]
    for name in names:
        (tmp_path / os.fsdecode(name)).mkdir()
    assert [e.name for e in drain(fd)] == names


def test_two_watches_do_not_mix(fd: int, tmp_path: Path) -> None:
    dirs = [tmp_path / "1", tmp_path / "2"]
    for d in dirs:
        d.mkdir()
    wds = [watch(fd, d, CREATE) for d in dirs]
    for d in dirs:
        (d / "same").touch()
    assert [(e.where, e.name) for e in drain(fd)] == [(wd, b"same") for wd in wds]


@pytest.mark.root
def test_overflow_is_told(tmp_path: Path) -> None:
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    if not os.access(limit, os.W_OK) or os.geteuid() != 0:
        pytest.skip("needs root")
    with short_queue(16):
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        watch(fd, tmp_path, CREATE)
        for i in range(50):
            (tmp_path / str(i)).touch()
        got = drain(fd)
        assert len(got) == 17
        assert got[-1] == Event(-1, Q_OVERFLOW, 0, b"")
        (tmp_path / "later").touch()
        assert [e.name for e in drain(fd)] == [b"later"]
    finally:
        os.close(fd)


def test_a_descriptor_that_cannot_be_read() -> None:
    with pytest.raises(SessionError, match="reading events") as caught:
        drain(-1)
    assert isinstance(caught.value.__cause__, OSError)


def test_too_little_room_is_an_error(fd: int) -> None:
    with pytest.raises(SessionError):
        drain(fd, 100)


def test_head_is_the_struct() -> None:
    assert events.HEAD.size == ffi.sizeof("struct i2_event")
