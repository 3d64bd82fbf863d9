"""The live benchmarks: python live.py [--runs N] [--scale X] [--peers NAME,...] [--results FILE]
[CASE]...

Each case makes a tree on a file system of its own, then lets the followers take turns (A B C, C B
A): each gets a fresh source and target, has its first pass, comes to rest, and is measured. Needs
root. Prints the figures, and adds them to --results as JSON, from which LIVE.md is written
(`live_results.py`).
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arena import Arena
from hosts import until
from live_cases import CASES, Case, Figures, Stage
from live_followers import FOLLOWERS, Follower, Ours
from live_ground import ground
from live_trees import Chase


def measure(ring: Arena, case: Case, one: Follower, scale: float) -> Figures:
    """One follower, once."""
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
        stage = Stage(ring, one, source, target, scale)
        if Chase(source, target).over(1800) is None:
            raise SystemExit(f"{one.label}: no end of the first pass")
        if isinstance(one, Ours):
            until("in sync", one.in_sync)
        stage.rest()
        return case.measure(stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--peers", default=",".join(FOLLOWERS))
    parser.add_argument("--area", type=Path, default=Path("/var/tmp/i2node-live"))
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    chosen = parser.parse_args()
    with ground(chosen.area) as ring:
        for name in chosen.cases or CASES:
            case = CASES[name]
            contenders = [FOLLOWERS[peer](ring, case.held) for peer in chosen.peers.split(",")]
            for turn in range(chosen.runs):
                for one in contenders[:: -1 if turn % 2 else 1]:
                    if one.lacks:
                        print(f"{name}: {one.label} is left out: no {one.lacks} here")
                        continue
                    figures = measure(ring, case, one, chosen.scale)
                    print(name, one.label, figures, flush=True)


if __name__ == "__main__":
    main()
