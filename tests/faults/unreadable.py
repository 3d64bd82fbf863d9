"""Trials: some of what the source has cannot be read for a while: its disk has bad blocks, or its
agent no right to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deeds import digest
from ends import NotSettledError, until
from ground import LARGE, MIB, Ground
from inode import extents
from kills import Trial
from machine import Disk, Process, plugged

from i2node.repl.report import RuleReport

SIZES = (2000, 9000, LARGE, 18 * MIB)
"""Packed with others, streamed, changed in place or on a clone, and held open by its reader."""
DISK_MIB = {"ext4": 200, "xfs": 400}


@contextmanager
def source_disk(kind: str, place: Path) -> Iterator[Disk]:
    """A disk for the source of a Ground in this place, at `field`."""
    with plugged(kind, place, DISK_MIB[kind], "field") as disk:
        yield disk


def bad_blocks(ground: Ground, disk: Disk, again: bool, rng: random.Random) -> Trial:
    """The middle of files is on bad blocks: of new ones, and of ones that were changed, replaced,
    linked. Then the disk is as it was. again: the agent is killed and started meanwhile."""
    deeds = ground.deeds
    place = ground.source / "held" / f"bad{rng.randrange(9999)}"
    deeds.make(place)
    changed = [place / f"changed{size}" for size in SIZES]
    saved = [place / f"saved{size}" for size in SIZES]
    for path, size in zip(changed + saved, SIZES * 2, strict=True):
        deeds.write(path, size)
    deeds.write(place / "linked", 9000)
    deeds.link(place / "linked", place / "other")
    wrong = ground.settled()
    before = contents(ground, place)
    with stopped(ground):
        for path, size in zip(changed, SIZES, strict=True):
            deeds.change(path, size // 2, 100)
        for path, size in zip(saved, SIZES, strict=True):
            deeds.save(path, size)
        new = [place / f"new{size}" for size in SIZES]
        for path, size in zip(new, SIZES, strict=True):
            deeds.write(path, size)
        deeds.change(place / "linked", 4500, 100)
        deeds.write(place / "sound", 9000)
        bad = [*changed, *saved, *new, place / "linked"]
        disk.ask("fail", bad=[block_at(path) for path in bad])
    wrong += endured(ground, [*bad, place / "other"], "Input/output", again)
    sound = digest((place / "sound").read_bytes())
    until("what can be read", lambda: contents(ground, place).get("sound") == sound)
    now = contents(ground, place)
    del now["sound"]
    if now != before:
        wrong.append(f"lost: {sorted(now.items() ^ before.items())}")
    disk.ask("fail")
    wrong += ground.settled() + mended(ground)
    deeds.remove(place)
    return Trial(True, tuple(dict.fromkeys(wrong)))


def bad_at_first(ground: Ground, disk: Disk) -> Trial:
    """The same in the first mirror, of a ground on which nothing runs yet."""
    deeds, place = ground.deeds, ground.source / "first"
    deeds.make(place)
    bad = [place / f"new{size}" for size in SIZES]
    for path, size in zip([*bad, place / "sound"], (*SIZES, 9000), strict=True):
        deeds.write(path, size)
    disk.ask("fail", bad=[block_at(path) for path in bad])
    forget(ground.source)
    ground.hosts.start_target()
    ground.hosts.start_source()
    wrong = endured(ground, bad, "Input/output", True)
    if contents(ground, place) != {"sound": digest((place / "sound").read_bytes())}:
        wrong.append("lost: what could be read")
    disk.ask("fail")
    return Trial(True, (*wrong, *ground.settled(), *mended(ground)))


def no_rights(ground: Ground, again: bool, rng: random.Random) -> Trial:
    """Files and directories that the source's agent, which has no privileges, may not read; then it
    may. again: it is killed and started meanwhile."""
    hosts, deeds = ground.hosts, ground.deeds
    place = ground.source / "held" / f"shut{rng.randrange(9999)}"
    files = [place / f"f{size}" for size in SIZES]
    dirs = [place / name for name in ("shut", "unsearched", "new")]
    for directory in dirs[:2]:
        deeds.make(directory / "below")
        for path in (directory / "f", directory / "below" / "f"):
            deeds.write(path, 3000)
    for path, size in zip(files, SIZES, strict=True):
        deeds.write(path, size)
    wrong = ground.settled()
    before = [contents(ground, each) for each in (place, *dirs[:2])]
    hosts.kill_source()
    _start_unprivileged(ground)
    for path in files:
        os.chmod(path, 0)
        deeds.change(path, 100, 100)
    for directory, mode in zip(dirs, (0o700, 0o744, 0o700), strict=True):
        deeds.make(directory / "below")
        os.chown(directory, 1000, 1000)
        os.chmod(directory, mode)
        deeds.write(directory / "more", 100)
    for directory in dirs[:2]:
        (directory / "f").unlink()
        deeds.remove(directory / "below")
    denied = [*files, *dirs]
    wrong += endured(ground, denied, "Permission denied", False)
    if again:
        hosts.kill_source()
        _start_unprivileged(ground)
        wrong += endured(ground, denied, "Permission denied", False)
    if before != [contents(ground, each) for each in (place, *dirs[:2])]:
        wrong.append("lost: what was there before")
    for path in files:
        os.chmod(path, 0o600)
    for directory in dirs:
        os.chmod(directory, 0o755)
    wrong += ground.settled() + mended(ground)
    hosts.kill_source()
    deeds.remove(place)
    return Trial(True, tuple(dict.fromkeys([*wrong, *ground.settled()])))


def _start_unprivileged(ground: Ground) -> None:
    """The source's agent without a capability: rights hold for it as for anybody (capabilities(7)).
    The interpreter is root's, and need not be open to others."""
    hosts = ground.hosts
    place = f"127.0.0.1:{hosts.relay.port}:{hosts.target}"
    words = ["--home", str(hosts.homes["here"]), "mirror", str(hosts.source), place, "--json"]
    env = dict(os.environ, PYTHONPATH=":".join(sys.path))
    through = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    hosts.mirror = Process(hosts.place / "here.log", words, env, through)  # type: ignore[assignment]


def dead_mounts(ground: Ground, again: bool, rng: random.Random) -> Trial:
    """Where a file and a directory are, one of them in the root, something is mounted that does not
    answer: no name more than these two stands still."""
    hosts, deeds = ground.hosts, ground.deeds
    place = ground.source / "held" / f"dead{rng.randrange(9999)}"
    top = ground.source / place.name
    deeds.make(place / "dir" / "below")
    for path in (place / "dir" / "below" / "f", place / "goes", place / "stays", top):
        deeds.write(path, rng.randrange(9000))
    wrong = ground.settled()
    before = contents(ground, place / "dir" / "below"), contents(ground, ground.source)[top.name]
    hosts.kill_source()
    with dead_mount(place / "dir"), dead_mount(top):
        _change(ground, place)
        hosts.start_source()
        wrong += endured(ground, [place / "dir", top], "not connected", again)
        until("what is beside them", lambda: _arrived(ground, place))
        _change(ground, place)
        wrong += endured(ground, [place / "dir", top], "not connected", False)
        until("what is beside them", lambda: _arrived(ground, place))
        there = contents(ground, ground.source)[top.name]
        if (contents(ground, place / "dir" / "below"), there) != before:
            wrong.append("lost: what was there before")
    wrong += ground.settled() + mended(ground)
    for path in (place, top):
        deeds.remove(path)
    return Trial(True, tuple(dict.fromkeys(wrong)))


def _change(ground: Ground, place: Path) -> None:
    """What is beside one that does not answer goes, comes and changes."""
    (place / "goes").rename(place / "new")
    ground.deeds.write(place / "stays", 5000)
    ground.deeds.write(place / "goes", 3000)
    (place / "new").unlink()


def _arrived(ground: Ground, place: Path) -> bool:
    """Whether all of that is on the target."""
    here = {p.name: digest(p.read_bytes()) for p in place.iterdir() if p.name != "dir"}
    return contents(ground, place) == here


@contextmanager
def dead_mount(path: Path) -> Iterator[None]:
    """As a file system in user space leaves it that was killed (fuse(4))."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    kind = "40000" if path.is_dir() else "100000"
    words = ["mount", "-i", "-t", "fuse", "-o", f"fd={fd},rootmode={kind},user_id=0,group_id=0"]
    subprocess.run([*words, "dead", str(path)], check=True, pass_fds=[fd])
    os.close(fd)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def endured(ground: Ground, paths: Iterable[Path], cause: str, again: bool) -> list[str]:
    """What is wrong while these paths are in trouble, which the status is waited for to tell."""
    hosts = ground.hosts
    names = {str(path.relative_to(ground.source)) for path in paths}
    wrong = []
    for kill in (False, True) if again else (False,):
        if kill:
            hosts.kill_source()
            hosts.start_source()
        try:
            until(f"{len(names)} problems", lambda: told(hosts.report(), names, cause))
        except NotSettledError as error:
            raise NotSettledError(f"{error}, but {hosts.report()}") from None
        fence = ground.source / f"fence-of-{kill}"
        fence.touch()
        until("the rest to go on", (ground.target / fence.name).exists)
        if (report := hosts.report()) is None or report.in_sync:
            wrong.append("lost: in sync, it says")
        wrong += ground.whole()
    return wrong


def told(report: RuleReport | None, names: set[str], cause: str) -> bool:
    """Whether these paths, and no others, are problems with this cause and a remedy for it."""
    if report is None or report.problems.count != len(names):
        return False
    return all(
        p.path in names and cause in p.cause and "source" in p.remedy for p in report.problems.first
    )


def mended(ground: Ground) -> list[str]:
    report = ground.hosts.report()
    return [] if report and not report.problems.count else [f"lost: problems left: {report}"]


@contextmanager
def stopped(ground: Ground) -> Iterator[None]:
    """The source's agent stands still, and then finds on the disk what is in memory now."""
    mirror = ground.hosts.mirror
    assert mirror is not None
    mirror.signal(signal.SIGSTOP)
    yield
    forget(ground.source)
    mirror.signal(signal.SIGCONT)


def forget(place: Path) -> None:
    """What the kernel has in memory of this file system is on the disk, and only there."""
    subprocess.run(["sync", "-f", str(place)], check=True)
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            # A page on its way to the kernel's lists stays when all are dropped, but not here.
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def block_at(path: Path, at: int | None = None) -> tuple[int, int]:
    """Where the block at this offset of a file, else that in its middle, is on the disk, and its
    size, both in bytes; it is written to it before. One of the file system, and no byte more: what
    is beside it is another file's, or a directory's."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        at = os.fstat(fd).st_size // 2 if at is None else at
        block = os.fstatvfs(fd).f_bsize
        for first, there, span, _ in extents(fd):
            if first <= at < first + span:
                return (there + at - first) // block * block, block
    finally:
        os.close(fd)
    raise AssertionError(f"{path} has nothing at {at}")


def contents(ground: Ground, place: Path) -> dict[str, bytes]:
    """What the target has of this directory of the source."""
    there = ground.target / place.relative_to(ground.source)
    found = {}
    for path in there.iterdir():
        with suppress(FileNotFoundError, IsADirectoryError):  # it may go meanwhile
            found[path.name] = digest(path.read_bytes())
    return found
