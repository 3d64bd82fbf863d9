"""Writes LIVE.md from what live.py kept: python live_results.py LIVE.json >LIVE.md"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from live import ARM, CASES, OURS
from live_stage import NEVER

LINES = 13
"""Of a series, evenly spread."""


def _middle(runs: list[dict[str, Any]], name: str) -> str:
    """The median over the runs, with minimum and maximum where there are several."""
    values = [run[name] for run in runs if name in run]
    numbers = sorted(v for v in values if isinstance(v, int | float))
    if not values:
        return ""
    if len(numbers) < len(values):
        return ", ".join(dict.fromkeys(map(str, values)))
    middle = f"{statistics.median(numbers):g}"
    if len(numbers) == 1 or numbers[0] == numbers[-1]:
        return middle
    return f"{middle} ({numbers[0]:g} to {numbers[-1]:g})"


def _table(rows: list[tuple[str, list[dict[str, Any]]]]) -> list[str]:
    names = dict.fromkeys(name for _, runs in rows for run in runs for name in run)
    heads = [name for name in names if name not in ("series", "differences")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for label, runs in rows:
        lines.append(f"| {label} | " + " | ".join(_middle(runs, name) for name in heads) + " |")
    return lines


def _series(rows: list[dict[str, Any]]) -> list[str]:
    step = max(1, len(rows) // (LINES - 1))
    chosen = [*rows[:-1:step], rows[-1]]
    heads = list(rows[0])
    lines = ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(str(row[name]) for name in heads) + " |" for row in chosen]


def _best(runs: dict[str, list[dict[str, Any]]], name: str) -> str:
    """The label of the peer with the least of a figure; empty when there is none."""
    found = {
        label: statistics.median(run[name] for run in each)
        for label, each in runs.items()
        if label != OURS and all(isinstance(run.get(name), int | float) for run in each)
    }
    return min(found, key=lambda label: found[label]) if found else ""


def _shown(runs: list[dict[str, Any]], names: list[str]) -> str:
    return "; ".join(f"{name}: {told}" for name in names if (told := _middle(runs, name)))


def _summary(kept: dict[str, Any]) -> list[str]:
    lines = ["| case | to reach | i2node | best peer |", "|---|---|---|---|"]
    for name in [*CASES, ARM]:
        if name not in kept:
            continue
        result = kept[name]
        runs, shown = result["runs"], result["shown"]
        if name == ARM:
            ours = "; ".join(f"{engine}: {_shown(each, shown)}" for engine, each in runs.items())
            peer = ""
        else:
            ours = _shown(runs.get(OURS, []), shown)
            best = _best(runs, shown[0])
            peer = f"{best}: {_shown(runs[best], shown)}" if best else ""
        lines.append(f"| {name} | {result['goal']} | {ours} | {peer} |")
    return [*lines, ""]


def _version(*words: str) -> str:
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "not installed"
    return next((w for w in told.split() if w.lstrip("v")[:1].isdigit()), "?").strip(",")


def page(kept: dict[str, Any]) -> str:
    commit = subprocess.check_output(["git", "log", "-1", "--format=%h"], text=True).strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    lines = [
        "# Live replication: results",
        "",
        f"`live.py` at {commit}, on {os.cpu_count()} cores, {memory} GiB, Linux "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}, lsyncd "
        f"{_version('lsyncd', '--version')} with rsync {_version('rsync', '--version')}, Syncthing "
        f"{_version('syncthing', '--version')}. Two network namespaces; source and target each on "
        "a fresh file system on a loop mount with direct I/O. lsyncd to an rsync daemon, with "
        "`-aHAX --modify-window=-1`, and told of writes to open files where a case has them. "
        "Syncthing with its watcher at a delay of 1 s, the least it takes, and no rescan. Each "
        "has had its first pass and is at rest when a case begins. CPU time is that of both "
        "sides with all that they start, until they are at rest again; wire counts both ways on "
        "the cable, headers included; two values are of source / target. "
        f"`{NEVER}`: not while it was waited for. Where there are several rounds: the median "
        "(minimum to maximum). Trees of i2node are compared by rsync in all that it knows, those "
        "of peers in names, kinds and content.",
        "",
        *_summary(kept),
    ]
    for name in [*CASES, ARM]:
        if name not in kept:
            continue
        result = kept[name]
        rounds = max((len(each) for each in result["runs"].values()), default=0)
        told = [f"To reach: {result['goal']}.", f"Rounds: {rounds}."]
        if result["scale"] != 1:
            told.append(f"All counts, sizes and durations times {result['scale']:g}.")
        told += [f"Left out: {label}, {why}." for label, why in result["left_out"].items()]
        lines += [f"## {result['title']}", "", " ".join(told), ""]
        lines += _table(list(result["runs"].items()))
        for each in result["runs"].values():
            for run in each:
                if run.get("series"):
                    lines += _series(run["series"])
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
