"""Cases of files that stay open: no close says that a write is complete."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import live_churn as churn
from live_followers import Ours
from live_stage import Figures, Stage, cost, since
from live_trees import Chase, when

FILE = "large"
APPENDED = 16
"""Blocks a second: 64 KiB."""
SCATTERED = 100
UNSEEN_S = 150.0
"""A write through a mapping that is not seen within this time is given up."""


def append(stage: Stage) -> Figures:
    return _written(stage, partial(churn.append, stage.source / FILE, APPENDED))


def scatter(stage: Stage) -> Figures:
    return _written(stage, partial(churn.scatter, stage.source / FILE, SCATTERED))


def _written(stage: Stage, work: Callable[[churn.Order], None]) -> Figures:
    """For a minute. Bytes are counted until the target has all of them; CPU, during the minute."""
    seconds = 60 * stage.scale
    here, there = stage.source / FILE, stage.target / FILE
    before, wire = stage.use(), stage.wire()
    with churn.apart(work) as writer:
        time.sleep(seconds)
        during = stage.use()
        writer.be_still()
        stilled = time.perf_counter()
        held = when(lambda: _alike(here, there), 60, pause=0.005)
    closed = time.perf_counter()
    arrived = Chase(stage.source, stage.target).over(300)
    moved = stage.wire() - wire
    after = stage.use()
    written = writer.count * churn.BLOCK
    source, target = (b.cpu - a.cpu for a, b in zip(before, during, strict=True))
    return {
        "written MB": round(written / 1e6, 2),
        "wire / written": round(moved / written, 2),
        "source CPU %": round(100 * source / seconds, 1),
        "target CPU %": round(100 * target / seconds, 1),
        "source reads / written": round((after[0].read - before[0].read) / written, 2),
        "target reads / written": round((after[1].read - before[1].read) / written, 2),
        "there while open after s": since(stilled, held),
        "there when closed after s": since(closed, arrived),
        **stage.equality(),
    }


def _alike(here: Path, there: Path) -> bool:
    try:
        one, other = here.stat(), there.stat()
    except FileNotFoundError:  # Syncthing's target is for a moment without a file that it replaces
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def mapped(stage: Stage) -> Figures:
    """One block, written to memory."""
    data, at = random.Random(12).randbytes(churn.BLOCK), 5 * churn.BLOCK
    here, there = stage.source / FILE, stage.target / FILE
    with churn.apart(partial(churn.through_a_mapping, here, at, data)) as writer:
        writer.ready.wait()
        stage.rest()
        before = stage.use()
        writer.go.set()
        when(lambda: writer.count == 1, 10)
        began = time.perf_counter()
        arrived = when(partial(_has, there, at, data), UNSEEN_S, pause=0.02)
        figures: Figures = {"seen after s": since(began, arrived)}
        if isinstance(stage.follower, Ours) and (report := stage.follower.status()):
            bound = report.watch.max_undetected_s
            figures["bound in the status s"] = "none" if bound is None else round(bound, 1)
        return {**figures, **cost(before, stage.use())}


def _has(path: Path, at: int, data: bytes) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(len(data)) == data
    except FileNotFoundError:
        return False
