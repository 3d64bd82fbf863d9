"""Fuzzes decoders with atheris: run.py SECONDS FOUND [NAME ...], one after the other.

What is found goes below the directory FOUND, a crash too; the committed corpus is only read.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["i2node"]):
    from decoders import DECODERS

CORPUS = Path(__file__).parent / "corpus"
LIMITS = ("-timeout=60", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1")


def run(seconds: str, found: Path, names: list[str]) -> int:
    """Each in a process of its own; how many failed."""
    failed = 0
    for name in names or list(DECODERS):
        print(f"{name}: {seconds} s", flush=True)
        one = [sys.executable, __file__, "--one", name, str(found), f"-max_total_time={seconds}"]
        failed += subprocess.run([*one, *LIMITS], check=False).returncode != 0
    return failed


def fuzz(name: str, found: Path, options: list[str]) -> None:
    logging.getLogger("i2node").setLevel(logging.CRITICAL + 1)
    mine = found / name
    mine.mkdir(parents=True, exist_ok=True)
    places = [str(mine), str(CORPUS / name)]
    atheris.Setup([name, *options, f"-artifact_prefix={found}/{name}-", *places], DECODERS[name])
    atheris.Fuzz()


if sys.argv[1] == "--one":
    fuzz(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
else:
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
