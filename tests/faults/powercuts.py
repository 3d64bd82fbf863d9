"""Trials: the power of the target goes while it works; what it acknowledged has to be there."""

from __future__ import annotations

import random
import time
from pathlib import Path

from deeds import digest
from ends import select_pause, until
from ground import LARGE, MIB, Ground
from kills import Trial
from machine import Disk, booted

SLACK_S = 0.002
"""Between the clock that a deed is noted by and the one that the source tells by."""
SIZES = (10, 3000, 4096, 9000, 150_000, MIB)


class Truth:
    """Which content each file was given, and when that was done; files are only ever written."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.given: dict[Path, list[tuple[float, bytes]]] = {}

    def note(self, path: Path) -> None:
        """What it holds now; nobody else writes to it."""
        self.given.setdefault(path, []).append((time.time(), digest(path.read_bytes())))

    def lost(self, durable_as_of: float) -> list[str]:
        """Files whose version on the target is older than what was durable then."""
        found = []
        for path, versions in self.given.items():
            kept = [
                number
                for number, (done, _) in enumerate(versions)
                if done <= durable_as_of - SLACK_S
            ]
            if not kept:
                continue
            there = self.ground.target / path.relative_to(self.ground.source)
            allowed = {version for _, version in versions[kept[-1] :]}
            try:
                held = digest(there.read_bytes())
            except OSError as error:
                found.append(f"lost: {path.name}: {error.strerror}")
                continue
            if held not in allowed:
                found.append(f"lost: {path.name}: is no version since the acknowledged one")
        return found


def power_cut(ground: Ground, disk: Disk, rng: random.Random) -> Trial:
    """Writes for a while, cuts, boots; the agent alone makes files whole, the source the rest."""
    hosts, deeds, truth = ground.hosts, ground.deeds, Truth(ground)
    held = ground.source / "held"
    (held / "many").mkdir(exist_ok=True)
    pause = rng.choice((0.0, 0.001, 0.01, 0.05))
    for _ in range(rng.randrange(2, 60)):
        which = rng.random()
        if which < 0.2:
            path = held / "large"
            deeds.change(path, rng.randrange(LARGE // 4096) * 4096, 4096)
        else:
            name = f"new{rng.randrange(10**6)}" if which < 0.6 else f"old{rng.randrange(5)}"
            path = held / "many" / name
            deeds.save(path, rng.choice(SIZES))
        truth.note(path)
        select_pause(rng.random() * pause)
    select_pause(rng.random() * rng.choice((0.0, 0.05, 0.3)))
    seen = disk.cut(str(rng.random()))
    hosts.relay.pause()
    hosts.kill_target()
    report = hosts.report()
    acknowledged = (report and report.durable_as_of) or 0.0
    hosts.relay.cut()
    disk.unplug()
    disk.ask("on")
    disk.plug()
    boot(ground)
    # What was not acknowledged may be torn until the source is back.
    wrong = [w for w in ground.whole() if not w.startswith("torn")] + truth.lost(acknowledged)
    hosts.relay.resume()
    return Trial(seen["pending"] > 0, tuple(dict.fromkeys([*wrong, *ground.settled()])))


def boot(ground: Ground) -> None:
    """Starts the target's agent as after a boot."""
    hosts = ground.hosts
    hosts.agent = booted(hosts.place, *ground.agent_words())  # type: ignore[assignment]
    until("the agent to listen", hosts._listens)
