"""How long it takes to begin watching, by each engine, with nobody to follow."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from live_stage import Figures

from i2node.errors import I2Error
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.root import Root
from i2node.fs.watch import Watch
from i2node.model import Kind
from i2node.mover import batch, listing

BATCH = 64  # directories listed at once, as the planner does
THREADS = 4


def directories(root: Path, count: int) -> None:
    """That many, 100 to a directory that has them, none with a file."""
    for number in range(count // 100):
        above = root / f"d{number:04d}"
        above.mkdir()
        for name in range(99):
            (above / f"e{name:02d}").mkdir()


def _fanotify(root: Root, dirty: Dirty) -> Watch:
    module = importlib.import_module("i2node.fs.fanotify")
    made: Watch = module.FanotifyWatch(root, dirty)
    return made


ENGINES: dict[str, Callable[[Root, Dirty], Watch]] = {
    "inotify": lambda root, dirty: InotifyWatch(root.identity.ino, dirty),
    "fanotify": _fanotify,
}


def arm(engine: str, path: Path) -> Figures:
    """Watches a tree that the walk has just been through, and so is in the caches. The figures say
    when each change is told, and when it is known of each directory where it stands."""
    root = Root(os.fsencode(path))
    try:
        _walk(root, None)
        began = time.perf_counter()
        count = _walk(root, None)
        bare = time.perf_counter() - began
        began = time.perf_counter()
        try:
            watch = ENGINES[engine](root, Dirty())
        except (ImportError, OSError, I2Error) as error:
            return {"left out": str(error)}
        try:
            watch.start()
            told = time.perf_counter() - began
            _walk(root, watch)
            known = time.perf_counter() - began
            status = watch.statistics()
        finally:
            watch.close()
    finally:
        root.close()
    return {
        # One that sets watches on the way has all of them at the end of it.
        "armed after s": round(known if engine == "inotify" else told, 4),
        "walked after s": round(known, 3),
        "bare walk s": round(bare, 3),
        "directories": count,
        "watches": status.watches,
        "coverage": status.coverage,
    }


def _walk(root: Root, watch: Watch | None) -> int:
    """The walk of a first pass, without its content; gives the number of directories."""
    stack = [(b"", root.identity.ino, 0, b"")]
    count = 0
    while stack:
        visits = [stack.pop() for _ in range(min(BATCH, len(stack)))]
        notify, mask, asof = (watch.descriptor, watch.mask, watch.mark()) if watch else (-1, 0, 0)
        answers = batch.list_dirs(
            root.fd,
            root.dev,
            [(path, ()) for path, _, _, _ in visits],
            notify=notify,
            mask=mask,
            threads=THREADS,
        )
        for (path, ino, parent, name), answer in zip(visits, answers, strict=True):
            if answer.status:
                raise SystemExit(f"list {os.fsdecode(path)}: {os.strerror(answer.status)}")
            if watch:
                watch.placed(answer.wd, ino, parent, name, asof)
            count += 1
            for entry in listing.kept(answer.entries, Kind.DIR) if answer.dirs else ():
                below = path + b"/" + entry.name if path else entry.name
                stack.append((below, entry.ino, ino, entry.name))
    return count
