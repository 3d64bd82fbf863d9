"""An hour of everything at once: stress-ng's stressors of file systems, fio through mmap, and
changes of many small files, while memory, descriptors and threads are written down."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path

import live_churn as churn
from live_followers import Ours
from live_meter import Use
from live_stage import MIB, Figures, Stage, since
from live_trees import when

RATE = 40
"""Changes of small files a second."""
AREA = "stress"
STRESSORS: tuple[tuple[str, ...], ...] = (
    ("--dir", "1", "--dir-ops", "100", "--dir-dirs", "128"),
    ("--rename", "1", "--rename-ops", "2000"),
    ("--link", "1", "--link-ops", "10"),
    ("--symlink", "1", "--symlink-ops", "10"),
    ("--hdd", "1", "--hdd-bytes", "16m", "--hdd-ops", "300"),
    ("--fallocate", "1", "--fallocate-bytes", "32m", "--fallocate-ops", "20"),
    ("--chmod", "1", "--chmod-ops", "300"),
    ("--chown", "1", "--chown-ops", "300"),
    ("--utime", "1", "--utime-ops", "1000"),
    ("--xattr", "1", "--xattr-ops", "10"),
    ("--dentry", "1", "--dentries", "300", "--dentry-ops", "1000"),
    ("--filename", "1", "--filename-ops", "200"),
    ("--touch", "1", "--touch-ops", "1000"),
    ("--dirdeep", "1", "--dirdeep-dirs", "2", "--dirdeep-inodes", "300", "--dirdeep-ops", "300"),
    ("--copy-file", "1", "--copy-file-bytes", "16m", "--copy-file-ops", "10"),
    ("--fpunch", "1", "--fpunch-ops", "10"),
    ("--mknod", "1", "--mknod-ops", "200"),
)
"""Each alone, bounded, and at most for so long; most clean up behind themselves."""
LONGEST_S = "10s"
PAUSE_S = 4.0
SYNC_S = 600.0
"""How long in sync is waited for in the end."""

FIO = (
    *("fio", "--name=mapped", "--ioengine=mmap", "--rw=randrw", "--bs=4k", "--size=64m"),
    *("--rate_iops=50,50", "--time_based", "--runtime=20", "--fallocate=none", "--minimal"),
)


def lacks() -> str:
    return next((name for name in ("stress-ng", "fio") if not shutil.which(name)), "")


def tree(root: Path, scale: float) -> None:
    churn.tree(root, 20_000, 200)
    for name in (AREA, "fio"):
        (root / name).mkdir()
    churn.large(root / "log", 16 * MIB)
    churn.large(root / "image", 64 * MIB)


def _command(words: list[str], order: churn.Order) -> int:
    """Runs to its end, or until the writer is to be still."""
    program = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while program.poll() is None:
        if order.still(0.2):
            program.terminate()
            return program.wait()
    return program.returncode


def _stressed(stage: Stage, order: churn.Order) -> None:
    chosen = [words for words in STRESSORS if words[0].removeprefix("--") not in stage.without]
    for words in cycle(chosen):
        if order.still(PAUSE_S):
            return
        whole = ("nice", "-n", 19, "stress-ng", *words, "--timeout", LONGEST_S, "--quiet")
        inside = stage.ring.inside("source", *whole, "--temp-path", stage.source / AREA)
        if _command(inside, order) == 0:
            order.changed()


def _mapped(stage: Stage, order: churn.Order) -> None:
    """Two files in turn; each comes again and again, and is a new one every other time."""
    for number in cycle(range(4)):
        if order.still(PAUSE_S):
            return
        file = stage.source / "fio" / f"mapped{number % 2}"
        if number >= 2:
            file.unlink(missing_ok=True)
        words = ("nice", "-n", 19, *FIO, f"--filename={file}")
        if _command(stage.ring.inside("source", *words), order) == 0:
            order.changed()


def soak(stage: Stage) -> Figures:
    """At the end all writers stop, what raises no event is waited for as long as the status says,
    and the trees have to be equal."""
    ours = stage.follower
    assert isinstance(ours, Ours)
    root = stage.source
    works: dict[str, Callable[[churn.Order], None]] = {
        "changes": partial(churn.busy, root, RATE, 13),
        "appended": partial(churn.append, root / "log", 2),
        "scattered": partial(churn.scatter, root / "image", 5),
        "stressors": partial(_stressed, stage),
        "fio runs": partial(_mapped, stage),
    }
    series: list[Figures] = []
    with ExitStack() as held:
        writers = {name: held.enter_context(churn.apart(work)) for name, work in works.items()}
        for writer in writers.values():
            writer.go.set()
        for minute in _minutes(stage.minutes):
            series.append(_line(stage, ours, minute, series[-1] if series else {}))
            print("  ".join(f"{k} {v}" for k, v in series[-1].items()), flush=True)
        for writer in writers.values():
            writer.be_still()
    stopped = time.perf_counter()
    report = ours.status()
    time.sleep((report.watch.max_undetected_s if report else None) or 0.0)
    synced = when(ours.in_sync, SYNC_S, pause=0.2)
    first, last = series[len(series) // 6], series[-1]
    kept = ("RSS MiB", "descriptors", "threads")
    return {
        "minutes": round(stage.minutes, 1),
        **{name: writer.count for name, writer in writers.items()},
        **{f"{k}, after a sixth": first[k] for k in kept},
        **{f"{k}, at end": last[k] for k in kept},
        "lag max s": max(line["lag s"] for line in series),
        "overflows": last["overflows"],
        "in sync after s": since(stopped, synced),
        **stage.equality(),
        "series": series,
    }


def _minutes(count: float) -> Iterator[float]:
    """One turn a minute, and one at the end."""
    began = time.monotonic()
    end = began + 60 * count
    while (now := time.monotonic()) < end:
        time.sleep(min(60 - (now - began) % 60, end - now))
        yield round((time.monotonic() - began) / 60, 1)


def _line(stage: Stage, ours: Ours, minute: float, before: Figures) -> Figures:
    both = stage.use()
    report = ours.status()
    assert report is not None, "the mirror has ended"
    spent = round(sum(one.cpu for one in both), 1)

    def of_both(field: Callable[[Use], float]) -> str:
        return " / ".join(f"{field(one):.0f}" for one in both)

    return {
        "minute": minute,
        "RSS MiB": of_both(lambda one: one.rss / MIB),
        "descriptors": of_both(lambda one: one.descriptors),
        "threads": of_both(lambda one: one.threads),
        "CPU s": spent,
        "lag s": round(report.lag_s, 2),
        "dirty": report.dirty,
        "overflows": report.watch.overflows,
        "problems": report.problems.count,
        "wire MB": round(stage.wire() / 1e6, 1),
    }
