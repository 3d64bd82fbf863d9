"""The benchmarks: python run.py [--runs N] [--area DIR] [--results FILE] [CASE]...

Each case makes its data, lets the contenders run in turn (A B A B), checks after each run that the
trees are equal, and gives the ratio of our time to each peer's: minimum, median and maximum over
the rounds, each round's ratio of runs that followed each other. Needs root. Prints a table, and
adds the cases to --results as JSON, from which RESULTS.md is written (`results.py`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import seeds
from arena import Arena, Measure, Running, arena, check_equal, cool, warm
from contenders import Command, Contender, Ours, Rsync

GIB = 1 << 30
HERE = Path(__file__).resolve().parent
LINE = ("25", str(100_000_000 / 8))
"""50 ms there and back, 100 Mbit/s."""
FREE_LINE = ("0", "1e12")


@dataclass(frozen=True)
class Case:
    """data fills the source, or is a directory that is one. edit changes the source before each
    run, after a first mirror that is not measured; None: what is measured is the first mirror.
    peers: options of rsync, each a contender. floors: commands on this host alone."""

    title: str
    data: Callable[[Path], None] | Path
    edit: seeds.Edit | None = None
    cold: bool = True
    line: bool = False
    peers: tuple[tuple[str, ...], ...] = ((),)
    ours: tuple[tuple[str, ...], ...] = ((),)
    floors: tuple[tuple[str, str], ...] = ()
    disk: int = 4 * GIB
    inodes: int = 200_000


COPY = ("cp -a, synced", "cp -a {source}/. {target}/ && sync -f {target}")
DISK = (
    "dd past the cache",
    "cd {source} && for f in *; do dd if=$f iflag=direct bs=1M status=none"
    " | dd of={target}/$f iflag=fullblock oflag=direct bs=1M status=none"
    " && touch -r $f {target}/$f; done; touch -r . {target}; sync -f {target}",
)
WALK = ("getdents64 + statx", "{walk} {source} >/dev/null")
ZSTD = ("-z", "--zc=zstd")
PLAIN_OURS = ("--no-encrypt", "--compress", "off")

# Not formatted: with an argument a line the table would no longer be seen at a glance.
CASES = {
    "small-cold": Case("100,000 small files, first mirror, cold", seeds.small),
    "small-warm": Case("100,000 small files, first mirror, warm", seeds.small, cold=False),
    "tree": Case(
        "a real tree (/usr), first mirror, cold", Path("/usr"), disk=12 * GIB, inodes=400_000
    ),
    "large": Case(
        "2 x 1 GiB, first mirror, cold", seeds.large, peers=((), ZSTD),
        floors=(COPY, DISK), inodes=10_000,
    ),
    "image": Case(
        "sparse 4 GiB image with 1 GiB of data, first mirror, cold", seeds.image,
        disk=6 * GIB, inodes=10_000,
    ),
    "image-edit": Case(
        "the image after 20 MiB inside it changed, cold", seeds.image, seeds.touch_image,
        disk=8 * GIB, inodes=10_000,
    ),
    "still-warm": Case(
        "100,000 small files, nothing changed, warm", seeds.small, seeds.settle, cold=False,
        floors=(WALK,),
    ),
    "still-cold": Case(
        "100,000 small files, nothing changed, cold", seeds.small, seeds.settle, floors=(WALK,)
    ),
    "rewrite-warm": Case(
        "1 % of the 4 KiB blocks of 2 x 1 GiB rewritten, warm", seeds.large, seeds.rewrite,
        cold=False, disk=6 * GIB, inodes=10_000,
    ),
    "rewrite-cold": Case(
        "1 % of the 4 KiB blocks of 2 x 1 GiB rewritten, cold", seeds.large, seeds.rewrite,
        disk=6 * GIB, inodes=10_000,
    ),
    "insert": Case(
        "1 MiB inserted at the front of 1 GiB, cold", seeds.large, seeds.insert,
        disk=6 * GIB, inodes=10_000,
    ),
    "wan-small": Case(
        "50 ms, 100 Mbit/s: 100,000 small files, first mirror", seeds.small, line=True,
        peers=((), ZSTD),
    ),
    "wan-still": Case(
        "50 ms, 100 Mbit/s: nothing changed, 100,000 files", seeds.small, seeds.settle,
        line=True, cold=False,
    ),
    "bare": Case(
        "100,000 small files, first mirror, cold: what encryption and compression cost",
        seeds.small, ours=((), PLAIN_OURS),
    ),
    "million": Case(
        "1,000,000 small files, first mirror, cold", partial(seeds.small, files=1_000_000),
        disk=16 * GIB, inodes=1_200_000,
    ),
    "ten-thousand": Case(
        "10,000 small files, first mirror, cold", partial(seeds.small, files=10_000)
    ),
    "tenth": Case(
        "0.1 GB in files of 16 MiB, first mirror, cold", partial(seeds.bulk, size=GIB // 10),
        inodes=10_000,
    ),
    "one": Case(
        "1 GB in files of 16 MiB, first mirror, cold", partial(seeds.bulk, size=GIB),
        inodes=10_000,
    ),
    "ten": Case(
        "10 GB in files of 16 MiB, first mirror, cold", partial(seeds.bulk, size=10 * GIB),
        disk=13 * GIB, inodes=10_000,
    ),
}  # fmt: skip


@dataclass
class Result:
    """The runs of one case: label → measures, in order; `changed`: bytes that an edit changed."""

    title: str
    runs: dict[str, list[Measure]] = field(default_factory=dict)
    changed: int = 0


def compete(ring: Arena, name: str, case: Case, rounds: int) -> Result:
    result = Result(case.title)
    source = _source(ring, name, case)
    walk = ring.area / "walk"
    subprocess.run(["cc", "-O2", "-o", walk, HERE / "walk.c"], check=True)
    contenders: list[Contender] = [
        *(Ours(ring, f"{name}-i2node{i}", *options) for i, options in enumerate(case.ours)),
        *(Rsync(ring, f"{name}-rsync{i}", *options) for i, options in enumerate(case.peers)),
        *(
            Command(label, text.replace("{walk}", str(walk)))
            for label, text in (case.floors if case.edit is None else ())
        ),
    ]
    floors = [
        Command(label, text.replace("{walk}", str(walk)))
        for label, text in (case.floors if case.edit else ())
    ]
    with ExitStack() as held:
        targets: dict[str, Path] = {}
        if case.edit:
            for number, one in enumerate(contenders):
                disk = ring.disk(f"disk{number}", case.disk, case.inodes)
                targets[one.label] = held.enter_context(disk) / "target"
                with ExitStack() as once:
                    # By the same way, or it would be another rule.
                    via = _relay(ring, one, once, *FREE_LINE) if case.line else None
                    one.copy(source, targets[one.label], via)
        for turn in range(rounds):
            if edit := case.edit:
                result.changed = _apart(partial(edit, source, 100 + turn))
            order = contenders if turn % 2 == 0 else contenders[::-1]
            for one in order:
                with ExitStack() as once:
                    if one.label in targets:
                        target = targets[one.label]
                    else:
                        disk = ring.disk("disk", case.disk, case.inodes)
                        target = once.enter_context(disk) / "target"
                    measure = _run(ring, case, one, source, target, once)
                    check_equal(source, target)
                result.runs.setdefault(one.label, []).append(measure)
                _say(name, one.label, measure)
            for floor in floors:
                _prepare(case, source)
                measure = floor.copy(source, ring.area / "nowhere" / "target", None)
                result.runs.setdefault(floor.label, []).append(measure)
                _say(name, floor.label, measure)
    return result


def _source(ring: Arena, name: str, case: Case) -> Path:
    (ring.area / "nowhere" / "target").mkdir(parents=True, exist_ok=True)
    if isinstance(case.data, Path):
        return case.data
    source = ring.area / "source"
    if ring.holds != case.data:
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        _apart(lambda: case.data(source) or 0)
    # What an edit leaves is no more what the seed gives.
    ring.holds = case.data if case.edit in (None, seeds.settle) else None
    return source


def _apart(work: Callable[[], int]) -> int:
    """In a process of its own: what this one once held counts as the peak of all it starts."""
    forked = get_context("fork")
    found = forked.Value("q", 0)

    def run() -> None:
        found.value = work()

    child = forked.Process(target=run)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit("making the data failed")
    return found.value


def _prepare(case: Case, source: Path) -> None:
    cool()
    if not case.cold:
        warm(source)


def _run(
    ring: Arena, case: Case, one: Contender, source: Path, target: Path, held: ExitStack
) -> Measure:
    via = _relay(ring, one, held, *LINE) if case.line else None
    _prepare(case, source)
    if not case.cold and case.edit and target.exists():
        warm(target)
    return one.copy(source, target, via)


def _relay(ring: Arena, one: Contender, held: ExitStack, delay: str, rate: str) -> tuple[str, int]:
    """A line of that delay and rate to the contender's port, while held is open."""
    listen = f"{ring.hosts.source.address}:{one.port + 1}"
    to = f"{ring.hosts.target.address}:{one.port}"
    words = (sys.executable, HERE / "wan.py", listen, to, delay, rate)
    relay = Running(ring.inside("source", *words), ring.area / "wan.log")
    held.callback(relay.end)
    relay.listens(one.port + 1)
    return ring.hosts.source.address, one.port + 1


def _say(name: str, label: str, m: Measure) -> None:
    print(
        f"{name:13} {label:32} {m.wall:7.2f} s   CPU {m.source.cpu:6.2f} + {m.target.cpu:6.2f} s   "
        f"peak {m.source.peak >> 20:4} / {m.target.peak >> 20:4} MiB   {m.wire / 1e6:8.1f} MB",
        flush=True,
    )


def ratios(result: Result, ours: str, peer: str) -> tuple[float, float, float]:
    """Minimum, median and maximum of our time over the peer's, round by round."""
    pairs = zip(result.runs[ours], result.runs[peer], strict=True)
    found = sorted(a.wall / b.wall for a, b in pairs)
    return found[0], statistics.median(found), found[-1]


def _compare(name: str, result: Result) -> None:
    ours, *others = result.runs
    for other in others:
        low, middle, high = ratios(result, ours, other)
        print(f"{name:13} {middle:.2f} of {other} ({low:.2f} to {high:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--area", type=Path, default=None)
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.cases if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are: {' '.join(CASES)}")
    area = chosen.area or Path(tempfile.mkdtemp(prefix="i2node-bench-", dir="/var/tmp"))
    area.mkdir(exist_ok=True)
    try:
        with arena(area) as ring:
            for name in chosen.cases or CASES:
                result = compete(ring, name, CASES[name], chosen.runs)
                _compare(name, result)
                if chosen.results:
                    kept = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
                    kept[name] = asdict(result)
                    chosen.results.write_text(json.dumps(kept, indent=1))
    finally:
        if chosen.area is None:
            shutil.rmtree(area, ignore_errors=True)


if __name__ == "__main__":
    main()
