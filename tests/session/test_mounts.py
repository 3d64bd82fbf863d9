"""File systems that stand in the source when it is mirrored first: what is mounted there has inode
numbers that belong to others in the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import Hosts, until
from nursery import Nursery

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture
def hosts(nursery: Nursery, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    place = Path(tempfile.mkdtemp(prefix="i2node-mounts-", dir="/var/tmp"))
    made = Hosts(place, nursery, request.param)
    try:
        yield made
    finally:
        made.close()
        for point in sorted(mounted(place), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(place)


EACH_ENGINE = pytest.mark.parametrize("hosts", ["inotify", "fanotify"], indirect=True)


def mounted(place: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{place}/")]


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def disk(image: Path, point: Path) -> None:
    """An ext4, of which the root has the same number as that of any other."""
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mount("-o", "loop", image, point)
    (point / "lost+found").rmdir()


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def arrives(hosts: Hosts, name: str, text: str) -> None:
    there = hosts.target / name
    until(
        f"{name} did not arrive: {hosts.tail('here')}",
        lambda: there.is_file() and there.read_text() == text,
    )


def goes(hosts: Hosts, name: str) -> None:
    until(f"{name} did not go", lambda: not os.path.lexists(hosts.target / name))


def lives_on(hosts: Hosts, directory: str) -> None:
    """Changes in a directory, of which the numbers are not its own, arrive."""
    top = hosts.source / directory
    write(top / "old", "changed")
    write(top / "new", "new")
    (top / "gone").unlink()
    write(top / "sub" / "deep", "changed")
    for name, text in (("old", "changed"), ("new", "new"), ("sub/deep", "changed")):
        arrives(hosts, f"{directory}/{name}", text)
    goes(hosts, f"{directory}/gone")
    hosts.quiesce()


@EACH_ENGINE
def test_a_directory_that_is_bound_to_a_second_place(hosts: Hosts) -> None:
    for name in ("old", "gone", "sub/deep"):
        write(hosts.source / "x" / name, "first")
    hosts.quiesce()
    assert hosts.stop_source() == 0
    (hosts.source / "y").mkdir()
    mount("--bind", hosts.source / "x", hosts.source / "y")
    hosts.quiesce()
    lives_on(hosts, "x")
    subprocess.run(["umount", hosts.source / "y"], check=True)
    write(hosts.source / "y" / "own", "its own")
    arrives(hosts, "y/own", "its own")
    write(hosts.source / "x" / "gone", "back")
    lives_on(hosts, "x")
    assert hosts.differences() == []


@EACH_ENGINE
def test_a_disk_in_a_disk(hosts: Hosts) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    disk(hosts.place / "outer", hosts.source)
    for name in ("old", "gone", "sub/deep"):
        write(hosts.source / name, "first")
    (hosts.source / "m").mkdir()
    disk(hosts.place / "inner", hosts.source / "m")
    hosts.quiesce()
    lives_on(hosts, ".")
    subprocess.run(["umount", hosts.source / "m"], check=True)
    write(hosts.source / "m" / "own", "its own")
    arrives(hosts, "m/own", "its own")
    write(hosts.source / "gone", "back")
    lives_on(hosts, ".")
    assert hosts.differences() == []
