"""A source that is lost under a rule that follows it: emptied, unmounted, covered, unreadable. The
rule stops, says why, and nothing is deleted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ends import PATIENCE_S, Hosts, until
from nursery import Nursery

from queues import short_queue, usual_queue

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
ENTRIES = 150


@pytest.fixture
def hosts(nursery: Nursery, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    place = Path(tempfile.mkdtemp(prefix="i2node-emptied-", dir="/var/tmp"))
    made = Hosts(place, nursery, getattr(request, "param", "auto"))
    try:
        yield made
    finally:
        made.close()
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((p for p in points if p.startswith(f"{place}/")), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(place)


EACH_ENGINE = pytest.mark.parametrize("hosts", ["inotify", "fanotify"], indirect=True)


def plant(hosts: Hosts, entries: int = ENTRIES) -> set[str]:
    """So many entries, mirrored; what the target holds then."""
    (hosts.source / "d").mkdir()
    for n in range(entries - 1):
        (hosts.source / ("d" if n % 2 else "") / f"f{n}").touch()
    with usual_queue():
        hosts.quiesce()
    return held(hosts)


def held(hosts: Hosts) -> set[str]:
    return {str(path.relative_to(hosts.target)) for path in hosts.target.rglob("*")}


def stops(hosts: Hosts, cause: str, remedy: str) -> None:
    """By a safety rule, which says so."""
    assert hosts.mirror is not None
    assert hosts.mirror.wait(PATIENCE_S) == 3, hosts.tail("here")
    said = hosts.tail("here")
    assert '"STOP"' in said and cause in said and remedy in said


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.root
@needs_root
@EACH_ENGINE
def test_emptied_at_once_while_it_is_followed(hosts: Hosts) -> None:
    before = plant(hosts)
    assert hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    empty(hosts.source)
    hosts.mirror.signal(signal.SIGCONT)
    stops(hosts, "is empty, and held 1", "--adopt")
    assert held(hosts) == before


def test_emptied_while_nobody_followed_it(hosts: Hosts) -> None:
    before = plant(hosts)
    assert hosts.stop_source() == 0
    empty(hosts.source)
    for _ in range(2):
        hosts.start_source()
        stops(hosts, "is empty, and held 1", "--adopt")
        assert held(hosts) == before
    with usual_queue():
        hosts.start_source("--adopt")
        hosts.quiesce()
    assert len(held(hosts)) == 1
    # It was said of that once: from now on it is as it was.
    for n in range(ENTRIES):
        (hosts.source / f"g{n}").touch()
    hosts.quiesce()
    assert hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    empty(hosts.source)
    hosts.mirror.signal(signal.SIGCONT)
    stops(hosts, "is empty", "--adopt")
    assert len(held(hosts)) == ENTRIES + 1


@pytest.mark.parametrize("left_out", ["out", "*.tmp"])
def test_what_is_left_out_does_not_count(hosts: Hosts, left_out: str) -> None:
    kept = left_out.replace("*", "a")
    (hosts.source / kept).touch()
    with usual_queue():
        hosts.start_target()
        hosts.start_source("--exclude", left_out)
        until("nothing was mirrored", hosts.in_sync)
    before = plant(hosts)
    assert hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    for path in hosts.source.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    hosts.mirror.signal(signal.SIGCONT)
    stops(hosts, "is empty", "--adopt")
    assert held(hosts) == before


def test_a_small_tree_may_be_emptied(hosts: Hosts) -> None:
    plant(hosts, 20)
    assert hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    empty(hosts.source)
    hosts.mirror.signal(signal.SIGCONT)
    until("it is not empty", lambda: not held(hosts))
    hosts.quiesce()


def mount_disk(hosts: Hosts) -> None:
    image = hosts.place / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, hosts.source], check=True)
    (hosts.source / "lost+found").rmdir()


@pytest.mark.root
@needs_root
@EACH_ENGINE
def test_unmounted_while_it_is_followed(hosts: Hosts) -> None:
    """Lazily, as it is held open; what is left of it can still be seen through that."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    mount_disk(hosts)
    before = plant(hosts)
    subprocess.run(["umount", "--lazy", hosts.source], check=True)
    stops(hosts, "was unmounted, moved or removed", "nothing was deleted")
    assert held(hosts) == before


@pytest.mark.root
@needs_root
def test_covered_by_another_directory_while_it_is_followed(hosts: Hosts) -> None:
    before = plant(hosts)
    other = hosts.place / "other"
    other.mkdir()
    (other / "stranger").touch()
    subprocess.run(["mount", "--bind", other, hosts.source], check=True)
    stops(hosts, "was unmounted, moved or removed", "nothing was deleted")
    assert held(hosts) == before


@contextmanager
def unreadable(hosts: Hosts, directory: Path, error: str) -> Iterator[None]:
    """From now on, until left, the kernel refuses to list it to the mirror that runs."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    assert hosts.mirror is not None
    words = ["strace", "-f", "-p", str(hosts.mirror.pid), "-P", str(directory)]
    words += ["-e", "trace=getdents64", "-e", f"inject=getdents64:error={error}"]
    with (hosts.place / "strace.log").open("w") as log:
        tracer = subprocess.Popen(words, stderr=log)
    try:
        until("strace is not there", lambda: traced(hosts) or tracer.poll() is not None)
        assert tracer.poll() is None, (hosts.place / "strace.log").read_text()
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def traced(hosts: Hosts) -> bool:
    """Whether all its threads are."""
    assert hosts.mirror is not None
    tasks = list(Path(f"/proc/{hosts.mirror.pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


@pytest.mark.root
@needs_root
def test_a_root_that_becomes_unreadable(hosts: Hosts) -> None:
    """The slow sweep finds it where nothing else happens."""
    toml = hosts.homes["here"] / "etc" / "i2node.toml"
    toml.write_text(toml.read_text() + "slow_sweep_s = 1.0\n")
    before = plant(hosts)
    with unreadable(hosts, hosts.source, "EACCES"):
        stops(hosts, "cannot list the root of the source", "nothing was deleted")
    assert held(hosts) == before


@pytest.mark.root
@needs_root
@EACH_ENGINE
def test_a_directory_that_becomes_unreadable_loses_nothing(hosts: Hosts) -> None:
    """Of what went from it no event tells: it would be seen only by listing it."""
    with short_queue(4):
        before = plant(hosts)
    assert hosts.mirror is not None
    with unreadable(hosts, hosts.source / "d", "EIO"):
        hosts.mirror.signal(signal.SIGSTOP)
        for n in range(10):
            (hosts.source / f"more{n}").touch()
        empty(hosts.source / "d")
        hosts.mirror.signal(signal.SIGCONT)
        until("no problem was told", lambda: problem(hosts) == ["d"])
        until("the rest did not arrive", lambda: (hosts.target / "more9").exists())
        assert before < held(hosts)
        report = hosts.report()
        assert report is not None and not report.in_sync
    hosts.quiesce()
    assert hosts.differences() == []


def problem(hosts: Hosts) -> list[str]:
    report = hosts.report()
    return [] if report is None else [problem.path for problem in report.problems.first]
