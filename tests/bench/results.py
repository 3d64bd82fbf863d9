"""Writes RESULTS.md from what run.py kept: python results.py RESULTS.json >RESULTS.md"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import CASES

GOALS = {
    "small-cold": "0.55 of rsync, CPU 0.8",
    "small-warm": "0.5 of rsync",
    "tree": "0.6 of rsync",
    "large": "0.7 of the better rsync",
    "image": "0.25 of rsync",
    "image-edit": "0.15 of rsync",
    "still-warm": "0.2 of rsync, 1.5 of a bare walk",
    "still-cold": "1.5 of a bare walk",
    "rewrite-warm": "0.25 of rsync, wire 1.1 of what changed",
    "rewrite-cold": "0.4 of rsync",
    "insert": "0.5 of rsync, wire 4 MiB",
    "wan-small": "0.8 of the better rsync",
    "wan-still": "0.1 of rsync",
}


GROWTH = ("ten-thousand", "small-cold", "million", "tenth", "one", "ten")


def _middle(runs: list[dict[str, Any]], *keys: str) -> float:
    found = []
    for run in runs:
        value: Any = run
        for key in keys:
            value = value[key]
        found.append(float(value))
    return statistics.median(found)


def _row(label: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    walls = sorted(run["wall"] for run in runs)
    shown = f"{statistics.median(walls):.2f} ({walls[0]:.2f} to {walls[-1]:.2f})"
    ratio = ""
    if runs is not ours:
        each = sorted(a["wall"] / b["wall"] for a, b in zip(ours, runs, strict=True))
        ratio = f"**{statistics.median(each):.2f}** ({each[0]:.2f} to {each[-1]:.2f})"
    source, target = _middle(runs, "source", "cpu"), _middle(runs, "target", "cpu")
    peaks = [int(_middle(runs, side, "peak")) >> 20 for side in ("source", "target")]
    wire = _middle(runs, "wire") / 1e6
    return (
        f"| {label} | {shown} | {ratio} | {source:.1f} + {target:.1f} "
        f"| {peaks[0]} / {peaks[1]} | {wire:.1f} |"
    )


def _growth(kept: dict[str, Any]) -> list[str]:
    """Ours alone, as there is more and more to do."""
    lines = [
        "## How cost grows",
        "",
        "| | wall s | CPU s | peak MiB | first MiB on the cable after s |",
        "|---|---|---|---|---|",
    ]
    for name in GROWTH:
        if name in kept:
            runs = next(iter(kept[name]["runs"].values()))
            cpu = [_middle(runs, side, "cpu") for side in ("source", "target")]
            peak = [int(_middle(runs, side, "peak")) >> 20 for side in ("source", "target")]
            lines.append(
                f"| {kept[name]['title']} | {_middle(runs, 'wall'):.1f} | {cpu[0]:.1f} + "
                f"{cpu[1]:.1f} | {peak[0]} / {peak[1]} | {_middle(runs, 'first'):.2f} |"
            )
    return [*lines, ""]


def page(kept: dict[str, Any]) -> str:
    commit = subprocess.check_output(["git", "log", "-1", "--format=%h"], text=True).strip()
    rsync = subprocess.check_output(["rsync", "--version"], text=True).split()[2]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    lines = [
        "# Results",
        "",
        f"`make bench` at {commit}, on {os.cpu_count()} cores, {memory} GiB, Linux "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"rsync {rsync}. Two network namespaces; each first mirror on a fresh ext4 on a loop "
        "mount with direct I/O. i2node: TLS 1.3, AES-256-GCM, default compression, durable "
        "(`syncfs`) before it ends. rsync: `-aHAXS --delete` to a plain daemon, which does not "
        "sync. Seconds and ratios are medians with minimum and maximum; a ratio is i2node's time "
        "over the peer's in the same round. CPU seconds and peak resident MiB are source and "
        "target; MB counts both ways on the cable.",
        "",
    ]
    for name in CASES:
        if name not in kept:
            continue
        result = kept[name]
        lines += [f"## {result['title']}", ""]
        ours = next(iter(result["runs"].values()))
        told = [f"To reach: {GOALS[name]}."] if name in GOALS else []
        told.append(f"Rounds: {len(ours)}.")
        if result["changed"]:
            told.append(f"Changed bytes: {result['changed'] / 1e6:.1f} MB.")
        lines += [" ".join(told), ""]
        lines += [
            "| | wall s | i2node's share | CPU s | peak MiB | wire MB |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(label, runs, ours) for label, runs in result["runs"].items()]
        lines.append("")
    reasons = Path(__file__).with_name("reasons.md").read_text()
    return "\n".join([*lines, *_growth(kept), reasons])


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
