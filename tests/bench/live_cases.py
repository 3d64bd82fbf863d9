"""What is measured of a follower. A case gets a stage, on which the follower runs and is at rest,
and gives figures: what stands at the head of the table → a number, or a text where there is none.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import live_churn as churn
from arena import Arena
from live_churn import BLOCK, MIB
from live_followers import Follower, Ours
from live_meter import Use, at_rest, percentile, use
from live_trees import Chase, differences, names, when

GIB = 1 << 30
NEVER = "never"

Figures = dict[str, float | str]


@dataclass(frozen=True)
class Stage:
    """A follower of a source, with a target. scale: of sizes, counts and durations, 1 for what the
    issue asks for."""

    ring: Arena
    follower: Follower
    source: Path
    target: Path
    scale: float = 1.0
    patience: float = 600.0

    def rest(self) -> None:
        at_rest(self.follower.sides())

    def use(self) -> tuple[Use, Use]:
        source, target = self.follower.sides()
        return use(source), use(target)

    def equal(self) -> str:
        """Whether the trees are, asked of somebody else. Not said in time: looked at no more."""
        exact = isinstance(self.follower, Ours)
        found = differences(self.source, self.target, exact)
        if found:
            print(f"the trees differ:\n{found[:2000]}", flush=True)
        return "no" if found else "yes"

    def after(self, began: float, ended: float | None) -> float | str:
        return NEVER if ended is None else round(ended - began, 4)


def latency(stage: Stage) -> Figures:
    """Every other file is new, every other one an old one written anew."""
    dice = random.Random(5)
    waits: list[float] = []
    lost = 0
    deadline = time.monotonic() + 90
    for number in range(max(20, round(200 * stage.scale))):
        if time.monotonic() > deadline:
            break
        name = f"small{number // 2}"
        data = dice.randbytes(BLOCK)
        (stage.source / name).write_bytes(data)
        closed = time.perf_counter()
        written = (stage.source / name).stat().st_mtime_ns
        arrived = when(partial(_holds, stage.target / name, data, written), 30)
        if arrived is None:
            lost += 1
        else:
            waits.append(1000 * (arrived - closed))
        time.sleep(dice.uniform(0.1, 0.2))
    return {
        "p50 ms": round(percentile(waits, 50), 1) if waits else NEVER,
        "p99 ms": round(percentile(waits, 99), 1) if waits else NEVER,
        "max ms": round(max(waits), 1) if waits else NEVER,
        "samples": len(waits),
        "lost": lost,
    }


def _holds(path: Path, data: bytes, written: int) -> bool:
    try:
        return path.stat().st_mtime_ns == written and path.read_bytes() == data
    except FileNotFoundError:
        return False


def burst(stage: Stage) -> Figures:
    """Creates, renames and deletes as fast as one process can."""
    count = round(20_000 * stage.scale)
    dice = random.Random(10)
    data = dice.randbytes(MIB)
    top = stage.source / "burst"
    before, wire = stage.use(), stage.ring.on_the_cable()
    began = time.perf_counter()
    held: list[str] = []
    for number in range(count):
        directory = f"burst/d{number // 100:03d}"
        if number % 100 == 0:
            (stage.source / directory).mkdir(parents=True, exist_ok=True)
        held.append(f"{directory}/f{number:05d}")
        at = dice.randrange(MIB - 8192)
        with open(stage.source / held[-1], "xb", buffering=0) as file:
            file.write(data[at : at + dice.randrange(200, 8000)])
    for number in range(0, count, 10):
        fresh = f"{os.path.dirname(held[-1 - number])}/renamed{number:05d}"
        os.rename(stage.source / held[number], stage.source / fresh)
        held[number] = fresh
    for number in range(5, count, 10):
        os.unlink(stage.source / held[number])
        held[number] = ""
    ended = time.perf_counter()
    wanted = {name for name in held if name}
    wanted |= {os.path.dirname(name) for name in wanted} | {"burst"}
    wanted |= {name for name in names(stage.source) if not name.startswith("burst")}
    arrived = Chase(stage.source, stage.target, wanted).over(stage.patience)
    stage.rest()
    figures = _cost(before, stage.use())
    assert top.exists()
    return {
        "operations s": round(ended - began, 2),
        "converged after s": stage.after(ended, arrived),
        **figures,
        "wire MB": round((stage.ring.on_the_cable() - wire) / 1e6, 2),
        "equal": stage.equal(),
    }


def _cost(before: tuple[Use, Use], after: tuple[Use, Use]) -> Figures:
    source, target = (b.cpu - a.cpu for a, b in zip(before, after, strict=True))
    return {
        "CPU s": round(source + target, 2),
        "source CPU s": round(source, 2),
        "target CPU s": round(target, 2),
    }


def rename_dir(stage: Stage) -> Figures:
    old, new = stage.source / "large", stage.source / "renamed"
    wanted = {"renamed" + name.removeprefix("large") for name in names(stage.source)}
    before, wire = stage.use(), stage.ring.on_the_cable()
    os.rename(old, new)
    began = time.perf_counter()
    # One that does it in one step is not kept waiting by a look at all the files.
    there = (stage.target / "renamed", stage.target / "large")
    when(lambda: there[0].exists() and not there[1].exists(), stage.patience, pause=0.005)
    arrived = Chase(stage.source, stage.target, wanted).over(stage.patience)
    moved = stage.ring.on_the_cable() - wire
    stage.rest()
    return {
        "there after s": stage.after(began, arrived),
        "wire KB": round(moved / 1e3, 1),
        **_cost(before, stage.use()),
        "equal": stage.equal(),
    }


@dataclass(frozen=True)
class Case:
    """fill makes the source, by the scale. held: files stay open in it. inodes: of each of the two
    disks, size and kind as well."""

    title: str
    goal: str
    fill: Callable[[Path, float], None]
    measure: Callable[[Stage], Figures]
    held: bool = False
    disk: int = 2 * GIB
    inodes: int = 50_000
    kind: str = "ext4"


def _few(root: Path, scale: float) -> None:
    churn.tree(root, 1000, 20)


def _one_directory(root: Path, scale: float) -> None:
    churn.tree(root / "large", round(100_000 * scale), 100)


CASES: Mapping[str, Case] = {
    "latency": Case(
        "One file of 4 KiB, closed -> identical and visible on the target",
        "p50 <= 10 ms, p99 <= 50 ms",
        _few,
        latency,
    ),
    "burst": Case(
        "20,000 small files created, 2,000 renamed, 2,000 deleted at full speed",
        "converged in 1/3 of the best peer's time, CPU <= the best peer's",
        _few,
        burst,
    ),
    "rename-dir": Case(
        "A directory of 100,000 files renamed",
        "<= 1 s, <= 100 KB on the wire",
        _one_directory,
        rename_dir,
        inodes=150_000,
    ),
}
