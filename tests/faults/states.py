"""Trials: what an agent keeps for itself is lost, damaged, or another one's."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ends import select_pause, until
from ground import Ground
from kills import Trial
from machine import Process


def cut_short(path: Path, old: bytes) -> None:
    """Half of it is there."""
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path, old: bytes) -> None:
    path.write_bytes(random.Random(1).randbytes(max(4096, path.stat().st_size)))


def older(path: Path, old: bytes) -> None:
    """As of a backup from before."""
    path.write_bytes(old)


def foreign(path: Path, old: bytes) -> None:
    """A database, but of something else."""
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t(a)")
    db.close()


def deleted(path: Path, old: bytes) -> None:
    path.unlink()


WAYS: dict[str, Callable[[Path, bytes], None]] = {
    way.__name__: way for way in (cut_short, garbage, older, foreign, deleted)
}
FILES = {
    "source": ("rules/*/index.db", "rules/*/index.db-wal", "rules/*/sig/*", "rules/*/excludes"),
    "target": ("targets/*.json", "targets/*.lock"),
}
LOSING = ("index.db", ".json")
"""Without these nothing is known of what the target holds."""


def damage(ground: Ground, side: str, pattern: str, way: str, rng: random.Random) -> Trial:
    """Of one file of a node's state, while that node is down. Where that loses what was known of
    the target, a file there is another one by then, of the same size and time."""
    hosts = ground.hosts
    state = _state(ground, side)
    before = {path: path.read_bytes() for path in state.glob(pattern)}
    ground.stir(rng)
    ground.hosts.quiesce()
    hosts.kill_source()
    hosts.kill_target()
    for path in list(before):
        if path.exists():
            WAYS[way](path, before[path])
    if any(str(path).endswith(LOSING) for path in before):
        _alter(ground.target / "held" / "one")
    ground.stir(rng)
    hosts.start_target()
    if pattern.endswith(".json") and way != "older":
        # Whose the tree is nobody knows: a person says so.
        hosts.start_source()
        until("the rule to stop", lambda: not (hosts.mirror and hosts.mirror.alive()))
        assert "reuse it with --adopt" in hosts.tail("here")
        hosts.start_source("--adopt")
    return Trial(bool(before), tuple(ground.settled()))


@contextmanager
def small_states(place: Path) -> Iterator[None]:
    """The state of both nodes of a Ground in this place is in memory, with room for a long log."""
    mounts = [place / name / "var" for name in ("here", "there")]
    try:
        for mount in mounts:
            mount.mkdir(parents=True)
            words = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(mount)]
            subprocess.run(words, check=True)
        yield
    finally:
        for mount in mounts:
            subprocess.run(["umount", "--lazy", str(mount)], check=False)


def full_state(ground: Ground, side: str, again: bool, rng: random.Random) -> Trial:
    """The state directory of one node is full for a while; again: its agent is killed meanwhile,
    and started when there is room."""
    hosts = ground.hosts
    ballast = _state(ground, side) / "ballast"
    with suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for _ in range(3):
        ground.stir(rng)
        select_pause(0.3)
    if again:
        (hosts.kill_source if side == "source" else hosts.kill_target)()
    ballast.unlink()
    return Trial(True, tuple(ground.settled()))


def read_only_state(ground: Ground, side: str, rng: random.Random) -> Trial:
    """A node is started where its state directory is read-only: it says so, and why."""
    hosts = ground.hosts
    state = _state(ground, side)
    (hosts.kill_source if side == "source" else hosts.kill_target)()
    subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
    ground.stir(rng)
    if side == "source":
        hosts.start_source()
        until("it to say so", lambda: "ead-only" in hosts.tail("here"))
        hosts.kill_source()
    else:
        agent = Process(hosts.place / "there.log", ground.agent_words())
        until("it to say so", lambda: "ead-only" in hosts.tail("there"))
        agent.kill()
    subprocess.run(["mount", "-o", "remount,rw", str(state)], check=True)
    return Trial(True, tuple(ground.settled()))


def _state(ground: Ground, side: str) -> Path:
    return ground.hosts.homes["here" if side == "source" else "there"] / "var"


def _alter(path: Path) -> None:
    times = path.stat()
    path.write_bytes(bytes(times.st_size))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
