"""Cases of many small files: one at a time, many at once, many for long, all of them renamed."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from itertools import islice
from pathlib import Path

import live_churn as churn
from live_followers import Ours
from live_meter import Use, percentile
from live_stage import MIB, NEVER, Figures, Stage, cost, since
from live_trees import Chase, names, when

from i2node.repl.report import RuleReport

SLOWEST_S = 90.0
"""A follower for which the samples of a latency take longer has fewer of them."""
MARKER_S = 0.25
RATE = 1000


def latency(stage: Stage) -> Figures:
    """Every other file is new, every other one is written anew; between two there is quiet."""
    dice = random.Random(5)
    waits: list[float] = []
    lost = 0
    deadline = time.monotonic() + SLOWEST_S
    for number in range(max(20, round(200 * stage.scale))):
        if time.monotonic() > deadline:
            break
        name = f"small{number // 2}"
        data = dice.randbytes(churn.BLOCK)
        (stage.source / name).write_bytes(data)
        closed = time.perf_counter()
        written = (stage.source / name).stat().st_mtime_ns
        arrived = when(partial(_holds, stage.target / name, data, written), patience=30)
        if arrived is None:
            lost += 1
        else:
            waits.append(1000 * (arrived - closed))
        time.sleep(dice.uniform(0.1, 0.2))
    return {**_spread(waits), "samples": len(waits), "lost": lost}


def _holds(path: Path, data: bytes, written: int) -> bool:
    try:
        return path.stat().st_mtime_ns == written and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _spread(waits: list[float]) -> Figures:
    """Of milliseconds."""
    percents = {"p50 ms": 50, "p99 ms": 99, "max ms": 100}
    return {
        name: round(percentile(waits, percent), 1) if waits else NEVER
        for name, percent in percents.items()
    }


def burst(stage: Stage) -> Figures:
    """Creates, renames and deletes as fast as one process can."""
    dice = random.Random(10)
    data = dice.randbytes(MIB)
    count = round(20_000 * stage.scale)
    wanted = names(stage.source)
    before, wire = stage.use(), stage.wire()
    began = time.perf_counter()
    made: list[str] = []
    for number in range(count):
        directory = f"burst{number // 100:03d}"
        if number % 100 == 0:
            (stage.source / directory).mkdir()
            wanted.add(directory)
        made.append(f"{directory}/f{number:05d}")
        at = dice.randrange(MIB - 8192)
        with (stage.source / made[-1]).open("xb", buffering=0) as file:
            file.write(data[at : at + dice.randrange(200, 8000)])
    renamed = {
        made[number]: f"{os.path.dirname(made[-1 - number])}/renamed{number:05d}"
        for number in range(0, count, 10)
    }
    deleted = made[5::10]
    for old, new in renamed.items():
        (stage.source / old).rename(stage.source / new)
    for name in deleted:
        (stage.source / name).unlink()
    ended = time.perf_counter()
    wanted |= ({*made, *renamed.values()} - renamed.keys()).difference(deleted)
    arrived = Chase(stage.source, stage.target, wanted).over(600)
    stage.rest()
    return {
        "operations s": round(ended - began, 2),
        "converged after s": since(ended, arrived),
        **cost(before, stage.use()),
        "wire MB": round((stage.wire() - wire) / 1e6, 2),
        **stage.equality(),
    }


class Markers:
    """Files that are made from time to time, to see how long each takes to the target."""

    def __init__(self, stage: Stage) -> None:
        self._here, self._there = (top / "markers" for top in (stage.source, stage.target))
        self._here.mkdir()
        self._made = 0
        self._waiting: dict[str, float] = {}
        self.lags: list[float] = []
        """Milliseconds of those that came."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def make(self) -> None:
        name = f"m{self._made}"
        (self._here / name).write_text(name)
        self._waiting[name] = time.perf_counter()
        self._made += 1

    def look(self) -> bool:
        """Looks for the oldest of those that did not come yet; gives whether none is left."""
        for name in list(islice(self._waiting, 20)):
            if (self._there / name).exists():
                self.lags.append(1000 * (time.perf_counter() - self._waiting.pop(name)))
        return not self._waiting


def steady(stage: Stage) -> Figures:
    """A thousand changes a second; what is reported of the lag stands beside what markers tell."""
    seconds = 300 * stage.scale
    markers = Markers(stage)
    reports: list[RuleReport] = []
    with churn.apart(partial(churn.busy, stage.source, RATE, 11)) as writer:
        writer.ready.wait()
        stage.rest()
        before, wire = stage.use(), stage.wire()
        writer.go.set()
        began = next_marker = next_report = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            if now >= next_marker:
                markers.make()
                next_marker += MARKER_S
            if now >= next_report and isinstance(stage.follower, Ours):
                reports += filter(None, [stage.follower.status()])
                next_report += 1.0
            markers.look()
            time.sleep(0.002)
        writer.be_still()
        during = stage.use()
    ended = time.perf_counter()
    when(markers.look, 120, pause=0.002)
    arrived = Chase(stage.source, stage.target).over(300)
    stage.rest()
    told: Figures = {}
    if reports:
        told = {
            "reported lag max ms": round(1000 * max(r.lag_s for r in reports)),
            "overflows": reports[-1].watch.overflows,
        }
    return {
        **{f"lag {name}": value for name, value in _spread(markers.lags).items()},
        "markers lost": markers.waiting,
        **told,
        "changes/s": round(writer.count / seconds),
        "cores": round(cost(before, during)["CPU s"] / seconds, 2),
        "RSS MiB at start": _resident(before),
        "at end": _resident(during),
        "wire MB": round((stage.wire() - wire) / 1e6, 1),
        "converged after s": since(ended, arrived),
        **stage.equality(),
    }


def _resident(both: tuple[Use, Use]) -> str:
    return " / ".join(f"{one.rss / MIB:.0f}" for one in both)


def rename_dir(stage: Stage) -> Figures:
    """Of the one directory that there is."""
    old, new = "large", "renamed"
    wanted = {new + name.removeprefix(old) for name in names(stage.source)}
    before, wire = stage.use(), stage.wire()
    (stage.source / old).rename(stage.source / new)
    began = time.perf_counter()
    # Who does it in one step is not kept waiting by a look at all the files.
    here, gone = stage.target / new, stage.target / old
    when(lambda: here.exists() and not gone.exists(), 600, pause=0.002)
    arrived = Chase(stage.source, stage.target, wanted).over(600)
    moved = stage.wire() - wire
    stage.rest()
    return {
        "there after s": since(began, arrived),
        "wire KB": round(moved / 1e3, 1),
        **cost(before, stage.use()),
        **stage.equality(),
    }
