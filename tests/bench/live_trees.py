"""When a target is like its source: looked at often and cheaply, so that whoever looks takes little
of the machine from those who are measured."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hosts import rsync
from live_followers import SYNCTHINGS

SHARE = 6
"""Between two looks there is so many times as long a pause as the look took."""
SHORTEST_PAUSE = 0.02


def names(root: Path) -> set[str]:
    """All names below a directory that can be seen now, relative to it."""
    return set(_names(str(root), ""))


def _names(root: str, above: str) -> Iterator[str]:
    try:
        with os.scandir(os.path.join(root, above)) as entries:
            for entry in entries:
                if entry.name.startswith(SYNCTHINGS):
                    continue
                name = f"{above}/{entry.name}" if above else entry.name
                yield name
                if entry.is_dir(follow_symlinks=False):
                    yield from _names(root, name)
    except FileNotFoundError:
        return


class Chase:
    """Waits for a target to hold what its source holds, which changes no more.

    wanted: the names below the source; None: looked up. Equal are names, and of files size and
    modification time: the content is left to `differences`.
    """

    def __init__(self, source: Path, target: Path, wanted: Iterable[str] | None = None) -> None:
        self._source = source
        self._target = target
        self._wanted = names(source) if wanted is None else set(wanted)
        self._open = set(self._wanted)

    def over(self, patience: float) -> float | None:
        """The clock's reading (time.perf_counter) when both were equal, None: not in patience."""
        deadline = time.perf_counter() + patience
        while True:
            began = time.perf_counter()
            if self._caught_up():
                return began
            took = time.perf_counter() - began
            if began > deadline:
                return None
            time.sleep(max(SHORTEST_PAUSE, took * SHARE))

    def _caught_up(self) -> bool:
        found = names(self._target)
        # What was once as it is to be remains so: each file is looked at once, not each time.
        self._open -= {name for name in self._open & found if self._same(name)}
        return not self._open and found == self._wanted

    def _same(self, name: str) -> bool:
        try:
            here, there = (os.lstat(top / name) for top in (self._source, self._target))
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(here.st_mode):
            return stat.S_IFMT(here.st_mode) == stat.S_IFMT(there.st_mode)
        return (here.st_mode, here.st_size, here.st_mtime_ns) == (
            there.st_mode,
            there.st_size,
            there.st_mtime_ns,
        )


def differences(source: Path, target: Path, exact: bool) -> str:
    """What rsync would do to make the trees equal. exact: in all that we promise; else in names,
    kinds and content, which is what all peers keep."""
    if exact:
        return rsync(source, target)
    words = ["rsync", "-nrlc", "--delete", "--itemize-changes"]
    words += [f"--exclude={name}*" for name in SYNCTHINGS]
    told = subprocess.run(
        [*words, f"{source}/", f"{target}/"], capture_output=True, text=True, check=True
    )
    return told.stdout


def when(holds: Callable[[], bool], patience: float, pause: float = 0.0005) -> float | None:
    """The clock's reading when `holds` is found true; None: not in patience."""
    deadline = time.perf_counter() + patience
    while not holds():
        if time.perf_counter() > deadline:
            return None
        time.sleep(pause)
    return time.perf_counter()
