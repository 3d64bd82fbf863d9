"""Files that real processes hold, as /proc of the running kernel tells of them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tmpfs
from i2node.mover.held import Held, held, write_back

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOLDER = """
import mmap, os, sys
{code}
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Holder:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._heard() == "ready"

    def do(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        assert self._heard() == "done"

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def holder(directory: Path, code: str, *before: str) -> Iterator[Holder]:
    """A process that has run code in a directory, and stays."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", HOLDER.format(code=code)],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Holder(process)
        finally:
            process.kill()


def found(top: Path, room: int = 1 << 18) -> list[Held]:
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return held(fd, os.fstat(fd).st_dev, room).files
    finally:
        os.close(fd)


def by_path(top: Path) -> dict[bytes, bool]:
    """Path → whether it is mapped, of what is held below."""
    return {one.path: one.mapped for one in found(top) if one.path}


MAPPED = """
with open("{name}", "w+b") as f:
    f.truncate(8192)
    m = mmap.mmap(f.fileno(), 8192, {flags})
os.closerange(3, 20)
"""

LEADERLESS = """
import ctypes, threading
g = open("open", "wb")
me = f"/proc/{os.getpid()}"
def ready():
    while open(f"{me}/stat").read().rpartition(") ")[2][0] != "Z":
        pass
    print("ready", flush=True)
    sys.stdin.read()
threading.Thread(target=ready).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_what_nobody_holds_is_not_told(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    with holder(place, "f = open('f')"):
        assert by_path(place) == {}


def test_a_shared_mapping_is_told_with_inode_and_path(place: Path) -> None:
    (place / "d").mkdir()
    name = "d/a b\\n\\\\c"
    with holder(place, MAPPED.format(name=name, flags="")):
        path = b"d/a b\n\\c"
        ino = os.stat(os.fsencode(place) + b"/" + path).st_ino
        assert Held(ino, True, path) in found(place)


def test_a_mapping_that_may_become_writable_counts_one_that_cannot_does_not(place: Path) -> None:
    (place / "read").write_bytes(b"x" * 100)
    code = MAPPED.format(name="may", flags="prot=mmap.PROT_READ") + (
        "g = open('read', 'rb')\nn = mmap.mmap(g.fileno(), 0, prot=mmap.PROT_READ)\n"
    )
    with holder(place, code):
        assert by_path(place) == {b"may": True}


def test_a_private_mapping_does_not_count(place: Path) -> None:
    with holder(place, MAPPED.format(name="private", flags="flags=mmap.MAP_PRIVATE")):
        assert by_path(place) == {}


@pytest.mark.parametrize("mode", ["ab", "r+b", "wb"])
def test_a_descriptor_to_write_is_told(place: Path, mode: str) -> None:
    (place / "f").write_bytes(b"x")
    with holder(place, f"f = open('f', '{mode}')\ng = open('f', 'rb')"):
        assert by_path(place) == {b"f": False}


def test_a_file_that_is_mapped_by_one_and_open_by_another_is_mapped(place: Path) -> None:
    with holder(place, MAPPED.format(name="f", flags="")), holder(place, "f = open('f', 'r+b')"):
        assert True in {one.mapped for one in found(place) if one.path == b"f"}


def test_a_process_whose_main_thread_has_ended_holds_what_its_others_do(place: Path) -> None:
    code = MAPPED.format(name="mapped", flags="") + LEADERLESS
    with holder(place, code):
        assert by_path(place) == {b"mapped": True, b"open": False}


def test_a_file_held_by_many_is_told_once(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    code = "f = [open('f', 'ab') for i in range(50)]"
    with holder(place, code), holder(place, code):
        assert [one.path for one in found(place)].count(b"f") == 1


def test_what_has_no_name_any_more_is_not_told(place: Path) -> None:
    with holder(place, "f = open('gone', 'wb'); os.unlink('gone')"):
        assert by_path(place) == {}


def test_a_file_of_another_name_than_the_one_it_was_opened_by(place: Path) -> None:
    """Its number is told, with a path that is not there or none."""
    (place / "in").mkdir()
    (place / "in" / "f").write_bytes(b"x")
    os.link(place / "in" / "f", place / "outside")
    ino = (place / "in" / "f").stat().st_ino
    with holder(place, "f = open('outside', 'r+b')") as process:
        assert Held(ino, False, b"") in found(place / "in")
        process.do("os.unlink('outside')")
        assert Held(ino, False, b"") in found(place / "in")


def test_what_stands_beside_the_root_is_not_told(place: Path) -> None:
    (place / "in").mkdir()
    with holder(place, "f = open('inside', 'wb')"):
        ino = (place / "inside").stat().st_ino
        assert ino not in {one.ino for one in found(place / "in")}


def test_another_file_system_is_not_told(tmp_path: Path) -> None:
    with tmpfs.directory() as other, holder(other, "f = open('f', 'wb')"):
        assert by_path(tmp_path) == {} and by_path(other) == {b"f": False}
        ino = (other / "f").stat().st_ino
        assert ino not in {one.ino for one in found(tmp_path)}


def test_our_own_files_are_not_told(place: Path) -> None:
    with (place / "f").open("w+b") as file:
        file.truncate(10)
        with mmap.mmap(file.fileno(), 10):
            assert by_path(place) == {}


def test_a_small_buffer_is_enough_in_the_end(place: Path) -> None:
    with holder(place, "f = [open(f'{i}', 'wb') for i in range(100)]"):
        assert {one.path for one in found(place, room=64)} == {b"%d" % i for i in range(100)}


@needs_root
def test_a_mapping_in_another_mount_namespace(tmp_path: Path) -> None:
    """There the file has another path."""
    (tmp_path / "there").mkdir()
    (tmp_path / "tree" / "d").mkdir(parents=True)
    script = 'mount --bind tree/d there && cd there && exec "$@"'
    unshared = ("unshare", "--mount", "sh", "-c", script, "sh")
    with holder(tmp_path, MAPPED.format(name="f", flags=""), *unshared):
        ino = (tmp_path / "tree" / "d" / "f").stat().st_ino
        assert Held(ino, True, b"d/f") in found(tmp_path / "tree")


def test_after_writing_back_the_next_write_through_a_mapping_moves_the_time(place: Path) -> None:
    with holder(place, MAPPED.format(name="f", flags="")) as process:
        file = place / "f"
        process.do("m[0] = 1")
        fd = os.open(file, os.O_RDONLY)
        try:
            if not write_back(fd):
                assert place.is_relative_to("/dev/shm")
                return
            before = settled(file)
            process.do("m[0] = 2")
            moved = settled(file)
            assert moved > before
            process.do("m[0] = 3")  # of a page that is dirty already
            assert settled(file) == moved
            assert write_back(fd)
            process.do("m[0] = 4")
            assert settled(file) > moved
        finally:
            os.close(fd)


def settled(file: Path) -> int:
    """The file's ctime, when any later one will be another."""
    probe = file.with_name("probe")
    ctime = file.stat().st_ctime_ns
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > ctime:
            return file.stat().st_ctime_ns
        probe.unlink()
