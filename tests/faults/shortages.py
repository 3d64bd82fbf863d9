"""Trials: a target that has no room, no inodes, no quota left, or is read-only, and heals again."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from ends import NotSettledError, until
from ground import MIB, Ground
from kills import Trial

from i2node.repl.report import RuleReport

CAUSES = ("No space left", "quota", "Read-only", "Input/output")


@contextmanager
def full(ground: Ground) -> Iterator[None]:
    """Not a block is free."""
    ballast = ground.rooms / "ballast"
    with open(ballast, "wb") as file:
        at, step = 0, 64 * MIB
        while step >= 4096:
            try:
                os.posix_fallocate(file.fileno(), at, step)
                at += step
            except OSError as error:
                assert error.errno == errno.ENOSPC
                step //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def no_inodes(ground: Ground) -> Iterator[None]:
    """Nothing more can be made, though there is room."""
    ballast = ground.rooms / "ballast"
    ballast.mkdir()
    with suppress(OSError):
        for number in range(1 << 20):
            os.mknod(ballast / str(number))
    try:
        yield
    finally:
        for path in ballast.iterdir():
            path.unlink()
        ballast.rmdir()


@contextmanager
def read_only(ground: Ground) -> Iterator[None]:
    """As an administrator does it, or a file system that found an error."""
    _mount(ground.rooms, "ro")
    try:
        yield
    finally:
        _mount(ground.rooms, "rw")


@contextmanager
def over_quota(ground: Ground) -> Iterator[None]:
    """On btrfs, whose quotas bind root too: the file system as a whole may not grow."""
    _btrfs("quota", "enable", ground.rooms)
    _btrfs("quota", "rescan", "-w", ground.rooms)
    _btrfs("qgroup", "limit", str(MIB), "0/5", ground.rooms)
    try:
        yield
    finally:
        _btrfs("quota", "disable", ground.rooms)


def _btrfs(*words: object) -> None:
    done = subprocess.run(["btrfs", *map(str, words)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def _mount(rooms: Path, how: str) -> None:
    """Remounts; where a file is open for writing at this moment, a little later."""

    def done() -> bool:
        # The file system is to be so, not only this mount of it.
        words = ["mount", "-o", f"remount,{how}", str(rooms)]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    until(f"{rooms} to be {how}", done)


def endure(
    ground: Ground,
    shortage: Callable[[Ground], AbstractContextManager[None]],
    again: bool,
    rng: random.Random,
) -> Trial:
    """Work while there is a shortage, until the status tells of it. again: the agent is killed and
    started meanwhile. Then there is none any more, and nobody does anything."""
    wrong = []
    with shortage(ground):
        ground.stir(rng)
        told = _told(ground)
        if again:
            ground.hosts.kill_target()
            until("the loss to be noticed", lambda: not cause_of(ground.hosts.report()))
            ground.hosts.start_target()
            told = _told(ground)
        if told.in_sync:
            wrong.append("lost: in sync, it says")
        wrong += ground.whole()
    return Trial(True, (*wrong, *ground.settled()))


def _told(ground: Ground) -> RuleReport:
    """The report that tells of it, with cause and remedy."""
    try:
        until("the status to tell", lambda: bool(cause_of(ground.hosts.report())))
    except NotSettledError as error:
        raise AssertionError(
            f"{error}: {ground.hosts.report()}\n{ground.hosts.tail('here')}"
        ) from None
    report = ground.hosts.report()
    assert report is not None
    return report


def cause_of(report: RuleReport | None) -> str:
    if report is None:
        return ""
    problems = [f"{p.cause} ({p.remedy})" for p in report.problems.first]
    told = [report.blocked_on, f"{report.cause} ({report.remedy})", *problems]
    return next((t for t in told if any(c in t for c in CAUSES) and "()" not in t), "")
