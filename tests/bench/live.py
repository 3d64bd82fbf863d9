"""The live benchmarks: python live.py [--runs N] [--scale X] [--minutes M] [--without STRESSOR,...]
[--followers NAME,...] [--area DIR] [--results FILE] [CASE]...

In each case the followers take turns (A B C, C B A): each gets a source and a target on fresh file
systems, has its first pass, comes to rest, and is measured. Who is not installed is left out, and
that is said. Needs root. Prints the figures, and adds them to --results as JSON, from which LIVE.md
is written (`live_results.py`). Without a CASE all run but the soak. The exit status is 1 when
i2node failed anywhere, or left trees that differ.
"""

from __future__ import annotations

import argparse
import json
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import live_arm
import live_churn as churn
import live_held
import live_small
import live_soak
from arena import Arena
from hosts import until
from live_followers import FOLLOWERS, Follower, Ours
from live_ground import ground
from live_stage import GIB, MIB, Case, Figures, Stage
from live_trees import Chase

OURS = "i2node"
ARM = "arm"
ARM_TITLE = "100,000 directories, warm: time to begin watching"
ARM_GOAL = "inotify <= 2 s; fanotify <= 0.1 s"


def _few(root: Path, scale: float) -> None:
    churn.tree(root, 1000, 20)


def _many(root: Path, scale: float) -> None:
    churn.tree(root, round(100_000 * scale), 1000)


def _directory(root: Path, scale: float) -> None:
    churn.tree(root / "large", round(100_000 * scale), 100)


def _large(size: int, root: Path, scale: float) -> None:
    churn.large(root / live_held.FILE, round(size * scale))


def _mapped(root: Path, scale: float) -> None:
    churn.large(root / live_held.FILE, 16 * MIB)


_RANDOM = Case(
    "100 random blocks of 4 KiB a second in a file of 4 GiB that stays open, for 60 s; ext4",
    "wire <= 4 x what was written",
    partial(_large, 4 * GIB),
    live_held.scatter,
    ("wire / written", "source reads / written"),
    held=True,
    disk=9 * GIB,
    inodes=10_000,
)

CASES: dict[str, Case] = {
    "latency": Case(
        "One file of 4 KiB, closed, until it is identical and visible on the target",
        "p50 <= 10 ms, p99 <= 50 ms",
        _few,
        live_small.latency,
        ("p50 ms", "p99 ms"),
    ),
    "burst": Case(
        "20,000 small files created, 2,000 renamed, 2,000 deleted at full speed",
        "converged in 1/3 of the best peer's time, with no more CPU time",
        _few,
        live_small.burst,
        ("converged after s", "CPU s"),
    ),
    "steady": Case(
        "1,000 changes a second for 5 minutes in a tree of 100,000 files; peers for 30 s",
        "lag p99 <= 1 s, no overflow left unhealed, memory flat",
        _many,
        live_small.steady,
        ("lag p99 ms", "overflows", "RSS MiB at start", "at end"),
        peer_scale=0.1,
        inodes=200_000,
    ),
    "rename-dir": Case(
        "A directory of 100,000 files renamed",
        "<= 1 s, <= 100 KB on the wire",
        _directory,
        live_small.rename_dir,
        ("there after s", "wire KB"),
        inodes=150_000,
    ),
    "append": Case(
        "64 KiB/s appended for 60 s to a file of 1 GiB that stays open",
        "wire <= 1.1 x what was appended, CPU <= 5 % of a core",
        partial(_large, GIB),
        live_held.append,
        ("wire / written", "source CPU %", "target CPU %"),
        held=True,
        disk=3 * GIB,
        inodes=10_000,
    ),
    "random": _RANDOM,
    "random-xfs": Case(
        "The same on XFS with reflink",
        "wire <= 4 x, source reads <= 8 x what was written",
        _RANDOM.fill,
        _RANDOM.measure,
        _RANDOM.shown,
        held=True,
        disk=9 * GIB,
        kind="xfs",
    ),
    "mmap": Case(
        "A block written through a mapping of a file that stays open, and nothing else",
        "seen within the bound that the status shows, <= 60 s",
        _mapped,
        live_held.mapped,
        ("seen after s", "bound in the status s"),
        held=True,
    ),
    "soak": Case(
        "Mixed churn: stress-ng, fio through mmap, small files, an append, a random writer",
        "memory, descriptors and threads flat, trees equal at the end",
        live_soak.tree,
        live_soak.soak,
        ("minutes", "RSS MiB, after a sixth", "RSS MiB, at end", "equal"),
        followers=(OURS,),
        disk=4 * GIB,
        inodes=200_000,
    ),
}


@dataclass
class Result:
    """The runs of one case: label -> figures, in order; `left_out`: label -> why."""

    title: str
    goal: str
    scale: float
    shown: tuple[str, ...] = ()
    runs: dict[str, list[Figures]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, label: str, figures: Figures) -> None:
        self.runs.setdefault(label, []).append(figures)
        hidden = ("series", "differences")
        shown = ", ".join(f"{k} {v}" for k, v in figures.items() if k not in hidden)
        print(f"{name:11} {label:16} {shown}", flush=True)


def measure(ring: Arena, case: Case, one: Follower, chosen: argparse.Namespace) -> Figures:
    """One follower, once."""
    scale = chosen.scale
    with ExitStack() as held:
        disks = [
            held.enter_context(ring.disk(name, case.disk, case.inodes, case.kind))
            for name in ("source", "target")
        ]
        source, target = (disk / "tree" for disk in disks)
        for top in (source, target):
            top.mkdir()
        case.fill(source, scale)
        held.callback(one.end)
        one.start(source, target)
        if Chase(source, target).over(1800) is None:
            raise SystemExit(f"{one.label}: no end of the first pass")
        if isinstance(one, Ours):
            until("in sync", one.in_sync)
        else:
            scale *= case.peer_scale
        stage = Stage(ring, one, source, target, scale, chosen.minutes, chosen.without)
        stage.rest()
        return case.measure(stage)


def compete(ring: Arena, name: str, chosen: argparse.Namespace) -> Result:
    case = CASES[name]
    result = Result(case.title, case.goal, chosen.scale, case.shown)
    wanted = [who for who in chosen.followers if who in case.followers]
    followers: list[Follower] = []
    for one in (FOLLOWERS[who](ring, case.held) for who in wanted):
        missing = one.lacks or (live_soak.lacks() if name == "soak" else "")
        if missing:
            result.left_out[one.label] = f"no {missing} here"
            print(f"{name:11} {one.label:16} is left out: no {missing} here", flush=True)
        else:
            followers.append(one)
    for turn in range(chosen.runs):
        for one in followers[:: -1 if turn % 2 else 1]:
            try:
                figures = measure(ring, case, one, chosen)
            except (AssertionError, OSError, RuntimeError, SystemExit) as error:
                # The others are measured all the same.
                figures = {"failed": str(error)[-500:]}
            result.add(name, one.label, figures)
    return result


def arm(ring: Arena, chosen: argparse.Namespace) -> Result:
    """The engines, which need no target."""
    shown = ("armed after s",)
    result = Result(ARM_TITLE, ARM_GOAL, chosen.scale, shown)
    count = round(100_000 * chosen.scale)
    with ring.disk("source", 2 * GIB, count + 10_000) as mount:
        top = mount / "tree"
        top.mkdir()
        live_arm.directories(top, count)
        for turn in range(chosen.runs):
            for engine in list(live_arm.ENGINES)[:: -1 if turn % 2 else 1]:
                figures = live_arm.arm(engine, top)
                if why := figures.get("left out"):
                    result.left_out[engine] = why
                    print(f"{ARM:11} {engine:16} is left out: {why}", flush=True)
                else:
                    result.add(ARM, engine, figures)
    return result


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of sizes, counts, durations")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak")
    parser.add_argument("--without", type=_listed, default=(), help="stressors of the soak")
    parser.add_argument("--followers", type=_listed, default=tuple(FOLLOWERS))
    parser.add_argument("--area", type=Path, default=Path("/var/tmp/i2node-live"))
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    chosen = parser.parse_args()
    known = [*CASES, ARM]
    for kind, names, there in (
        ("case", chosen.cases, known),
        ("follower", chosen.followers, [*FOLLOWERS]),
    ):
        if unknown := [name for name in names if name not in there]:
            parser.error(f"no {kind} {unknown[0]!r}; there are: {' '.join(there)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bad: list[str] = []
    with ground(chosen.area) as ring:
        for name in chosen.cases or [name for name in known if name != "soak"]:
            result = arm(ring, chosen) if name == ARM else compete(ring, name, chosen)
            if chosen.results:
                kept = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
                kept[name] = vars(result)
                chosen.results.write_text(json.dumps(kept, indent=1))
            if any(
                run.get("equal") == "no" or "failed" in run for run in result.runs.get(OURS, ())
            ):
                bad.append(name)
    if bad:
        raise SystemExit(f"{OURS} failed, or its trees differed in the end: {' '.join(bad)}")


if __name__ == "__main__":
    main()
