"""All faults, for as long as asked, and the table of what came of them:

    python tests/faults/campaign.py --seconds 600 --seed 1 >tests/faults/FAULTS.md

Each family of faults gets its share of the time, and a ground of its own; each trial's seed is
"SEED FAULT NUMBER". A family ends with the first trial that went wrong, which is told on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "session"))

import pytest
import shortages
import states
from clocks import LIBRARY, clock_steps
from disk_errors import disk_errors
from ground import Ground, area, rooms_on
from injection import CALLS_OF_THE_SOURCE, CALLS_OF_THE_TARGET
from kills import Trial, fail, kill
from machine import Disk, plugged
from moving_files import moving_files
from nursery import Nursery
from powercuts import power_cut
from unreadable import bad_blocks, dead_mounts, no_rights, source_disk
from wires import half_open, losses, resets

KINDS = ("lost", "torn", "outside", "litter", "dead")
SIZES = {"ext4": 96, "xfs": 400, "btrfs": 400}
ERRORS = ("ENOSPC", "EIO", "EDQUOT")
Run = Callable[[random.Random], Trial]
Runs = Iterator[tuple[str, Run]]


@dataclass
class Row:
    """What came of one fault."""

    trials: int = 0
    hits: int = 0
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def kills(ground: Ground, disk: Any) -> Runs:
    """Each call of each side, the first, the second, ... until none of them is the nth."""
    calls = [("target", call) for call in CALLS_OF_THE_TARGET]
    calls += [("source", call) for call in CALLS_OF_THE_SOURCE]
    for nth in range(1, 30):
        for side, call in calls:
            yield (
                f"{side}: kill -9 at a call of {call}",
                lambda rng, s=side, c=call, n=nth: kill(ground, s, c, n, rng),
            )


def errors(ground: Ground, disk: Any) -> Runs:
    for nth in range(1, 10):
        for call, error in itertools.product(CALLS_OF_THE_TARGET, ERRORS):
            yield (
                f"target: {error} from one call",
                lambda rng, c=call, e=error, n=nth: fail(ground, "target", c, e, str(n), rng),
            )


def shortages_of(*names: str) -> Callable[[Ground, Any], Runs]:
    def runs(ground: Ground, disk: Any) -> Runs:
        for name, again in itertools.cycle(itertools.product(names, (False, True))):
            shortage = getattr(shortages, name)
            more = ", its agent killed meanwhile" if again else ""
            yield (
                f"target: {name.replace('_', ' ')}{more}",
                lambda rng, s=shortage, a=again: shortages.endure(ground, s, a, rng),
            )

    return runs


def power(ground: Ground, disk: Disk) -> Runs:
    while True:
        yield f"target: power cut, {disk.kind}", lambda rng: power_cut(ground, disk, rng)


def failing(ground: Ground, disk: Disk) -> Runs:
    for reads in itertools.cycle((False, True)):
        what = "reads and writes" if reads else "writes"
        yield (
            f"target: I/O errors of {what}, {disk.kind}",
            lambda rng, r=reads: disk_errors(ground, disk, r, rng),
        )


def wires(ground: Ground, disk: Any) -> Runs:
    while True:
        yield "wire: 20 resets in 5 s", lambda rng: resets(ground, 20, rng)
        yield "wire: half-open", lambda rng: half_open(ground, rng)


def lossy_wires(ground: Ground, disk: Any) -> Runs:
    while True:
        yield "wire: 5 % loss, 20 resets a minute", lambda rng: losses(ground, 12.0, rng)


def damage(ground: Ground, disk: Any) -> Runs:
    while True:
        for side, patterns in states.FILES.items():
            for pattern, way in itertools.product(patterns, states.WAYS):
                yield (
                    f"{side}: {pattern.rpartition('/')[2]} of its state damaged",
                    lambda rng, s=side, p=pattern, w=way: states.damage(ground, s, p, w, rng),
                )
            for again in (False, True):
                yield (
                    f"{side}: state directory full",
                    lambda rng, s=side, a=again: states.full_state(ground, s, a, rng),
                )
            yield (
                f"{side}: state directory read-only",
                lambda rng, s=side: states.read_only_state(ground, s, rng),
            )


def sources(ground: Ground, disk: Any) -> Runs:
    while True:
        yield "source: files change while they are read", lambda rng: moving_files(ground, rng)
        for side in ("source", "target"):
            if LIBRARY is not None:
                yield (
                    f"{side}: clock a year forward, a day back",
                    lambda rng, s=side: clock_steps(ground, s, rng),
                )


def unreadable(ground: Ground, disk: Disk) -> Runs:
    for again in itertools.cycle((False, True)):
        more = ", its agent killed meanwhile" if again else ""
        yield (
            f"source: bad blocks under its files, {disk.kind}{more}",
            lambda rng, a=again: bad_blocks(ground, disk, a, rng),
        )
        yield (
            f"source: mounts that do not answer{more}",
            lambda rng, a=again: dead_mounts(ground, a, rng),
        )
        yield (
            f"source: no right to read{more}",
            lambda rng, a=again: no_rights(ground, a, rng),
        )


def on(kind: str) -> Callable[[Path], AbstractContextManager[Any]]:
    return lambda place: rooms_on(kind, place, SIZES[kind])


def drive(kind: str) -> Callable[[Path], AbstractContextManager[Any]]:
    return lambda place: plugged(kind, place, SIZES[kind])


def source_drive(kind: str) -> Callable[[Path], AbstractContextManager[Any]]:
    return lambda place: source_disk(kind, place)


@contextmanager
def small(place: Path) -> Iterator[None]:
    with states.small_states(place):
        yield


FAMILIES: list[tuple[Callable[[Path], AbstractContextManager[Any]], Callable[..., Runs]]] = [
    (on("ext4"), kills),
    (on("btrfs"), kills),
    (on("ext4"), errors),
    (on("xfs"), errors),
    (on("ext4"), shortages_of("full", "no_inodes", "read_only")),
    (on("xfs"), shortages_of("full", "read_only")),
    (on("btrfs"), shortages_of("full", "over_quota", "read_only")),
    *((drive(kind), power) for kind in SIZES),
    *((drive(kind), failing) for kind in SIZES),
    (small, wires),
    (small, lossy_wires),
    (small, damage),
    (on("ext4"), sources),
    *((source_drive(kind), unreadable) for kind in ("ext4", "xfs")),
]


def family(
    where: Any, runs: Callable[..., Runs], end: float, seed: str, rows: dict[str, Row]
) -> None:
    """One family until the time is over, or a trial went wrong."""
    nursery = Nursery()
    with ExitStack() as held:
        held.callback(nursery.close)
        place = held.enter_context(area())
        disk = held.enter_context(where(place))
        apart = place / "field"
        ground = Ground(place, nursery, source=apart / "source" if apart.exists() else None)
        held.callback(ground.close)
        ground.plant()
        for number, (fault, run) in enumerate(runs(ground, disk)):
            if time.monotonic() > end:
                return
            row = rows.setdefault(fault, Row())
            try:
                trial = run(random.Random(f"{seed} {fault} {number}"))
            except AssertionError as error:
                trial = Trial(True, (f"lost: {error}",))
            row.trials += 1
            row.hits += trial.hit
            for what in trial.wrong:
                row.wrong[what.partition(":")[0]] += 1
                print(f'seed "{seed} {fault} {number}": {what}', file=sys.stderr, flush=True)
            if trial.wrong:
                kept = Path(f"/var/tmp/{place.name}.logs")
                kept.mkdir()
                for log in place.glob("*.log"):
                    shutil.copy(log, kept)
                print(f"its logs: {kept}", file=sys.stderr, flush=True)
                return


def table(rows: dict[str, Row], seed: str) -> Iterator[str]:
    yield "# What came of faults\n"
    yield "Made by `tests/faults/campaign.py` (there is what each fault is). After each trial both"
    yield "trees are compared by a walker that has nothing of i2node in it. *Came to it*: trials in"
    yield "which the fault met work under way. *Lost*: not equal at the end, or what was"
    yield "acknowledged is not there; *dead*: an agent that ended by itself. The cells count what"
    yield "was wrong.\n"
    yield f"Seed {seed}; that of a trial is made of it, the fault's name and its number.\n"
    yield "| fault | trials | came to it | " + " | ".join(KINDS) + " |"
    yield "|---|" + "---:|" * (2 + len(KINDS))
    for fault, row in sorted(rows.items()):
        wrong = " | ".join(str(row.wrong[kind]) for kind in KINDS)
        yield f"| {fault} | {row.trials} | {row.hits} | {wrong} |"
    trials = sum(row.trials for row in rows.values())
    hits = sum(row.hits for row in rows.values())
    wrong = " | ".join(str(sum(row.wrong[kind] for row in rows.values())) for kind in KINDS)
    yield f"| **all** | {trials} | {hits} | {wrong} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", default="1")
    asked = parser.parse_args()
    rows: dict[str, Row] = {}
    # What is mounted is unmounted then too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for where, runs in FAMILIES:
        end = time.monotonic() + asked.seconds / len(FAMILIES)
        try:
            family(where, runs, end, asked.seed, rows)
        except pytest.skip.Exception as why:
            print(f"left out: {why}", file=sys.stderr)
    print("\n".join(table(rows, asked.seed)))


if __name__ == "__main__":
    main()
