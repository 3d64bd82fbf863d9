"""Where the CPU time of each side goes: python shares.py [small|large] [OPTION]...

One first mirror under perf(1), which has to be installed; OPTIONs are i2node's. Prints, for source
and target, the share of system calls, AES, zstd, hashing, our C code and Python.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import seeds
from arena import Arena, arena, cool
from contenders import Ours

GIB = 1 << 30
DATA = {"small": seeds.small, "large": seeds.large}

# The first that fits says what a symbol of a program is: of (shared object, symbol).
KINDS = (
    ("kernel", re.compile(r"\[(kernel|guest|vdso|k)")),
    ("AES", re.compile(r" .*(aes|gcm|ghash)", re.IGNORECASE)),
    ("zstd", re.compile(r" .*(ZSTD|HUF_|FSE_|HIST_)|^zstd|/_?zstd")),
    (
        "hashing",
        re.compile(r" .*(lanes\d|b3_|sums|start_avx|blake|sha(1|256|512)|i2_(hash|blocks))"),
    ),
    ("mover", re.compile(r"_mover")),
    ("SQLite", re.compile(r"sqlite")),
    ("Python", re.compile(r"python")),
)


def shares(data: Path) -> Counter[str]:
    """Per cent of the samples of a perf.data file, by kind."""
    words = ("perf", "report", "-i", data, "--no-children", "-g", "none", "--sort", "dso,symbol")
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: Counter[str] = Counter()
    for line in told.splitlines():
        if row := re.match(r"\s*([\d.]+)%\s+(\S+)\s+(.*)", line):
            place = f"{row[2]} {row[3]}"
            kind = next((name for name, known in KINDS if known.search(place)), "other")
            found[kind] += float(row[1])
    return found


class Profiled(Ours):
    """i2node with perf around each side."""

    def _words(self, host: str, *words: object) -> list[str]:
        plain = super()._words(host, *words)
        if words[0] not in ("agent", "mirror"):
            return plain
        perf = ("perf", "record", "-q", "-F", "499", "-g", "-o", str(self._area / f"{host}.perf"))
        return [*plain[:2], *perf, *plain[2:]]

    def told(self) -> dict[str, Counter[str]]:
        return {host: shares(self._area / f"{host}.perf") for host in ("source", "target")}


def _profile(ring: Arena, fill: str, options: list[str]) -> None:
    source = ring.area / "source"
    source.mkdir()
    DATA[fill](source)
    with ring.disk("disk", 4 * GIB, 200_000) as mount:
        ours = Profiled(ring, "profiled", *options)
        cool()
        ours.copy(source, mount / "target", None)
    for host, found in ours.told().items():
        shown = ", ".join(f"{kind} {share:.0f} %" for kind, share in found.most_common())
        print(f"{fill} {' '.join(options)} {host}: {shown}")


def main() -> None:
    fill, *options = sys.argv[1:] or ["small"]
    if fill not in DATA:
        raise SystemExit(f"no data {fill!r}; there are: {' '.join(DATA)}")
    area = Path(tempfile.mkdtemp(prefix="i2node-bench-", dir="/var/tmp"))
    try:
        with arena(area) as ring:
            _profile(ring, fill, options)
    finally:
        shutil.rmtree(area, ignore_errors=True)


if __name__ == "__main__":
    main()
