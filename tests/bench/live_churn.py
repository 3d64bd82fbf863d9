"""Who changes a tree: seeds of trees, and writers in processes of their own, so that those who look
at the target are not held up by them."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

MIB = 1 << 20
BLOCK = 4096
_TURN = 0.01

_forked = get_context("fork")


def tree(root: Path, files: int, dirs: int, seed: int = 6) -> None:
    """Files of 100 to 1000 random bytes, evenly in that many directories, 100 of which are in
    one."""
    dice = random.Random(seed)
    each = files // dirs
    for number in range(dirs):
        directory = root / f"d{number // 100:02d}" / f"e{number % 100:02d}"
        directory.mkdir(parents=True)
        for name in range(each):
            (directory / f"f{name:04d}").write_bytes(dice.randbytes(dice.randrange(100, 1000)))


def large(path: Path, size: int) -> None:
    """One file of random bytes, nothing of it a hole."""
    dice = random.Random(7)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(dice.randbytes(MIB))


@contextlib.contextmanager
def apart(work: Callable[[Event], None]) -> Iterator[Event]:
    """Does work in another process while the context is open; ends it there by setting the event
    that it was given, and waits. RuntimeError when it fails."""
    over = _forked.Event()
    process = _forked.Process(target=work, args=(over,))
    process.start()
    try:
        yield over
    finally:
        over.set()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"the writer failed: {process.exitcode}")


def _paced(rate: float, over: Event) -> Iterator[None]:
    """One turn for each change, so many a second; who is late makes up for it."""
    began, done = time.monotonic(), 0
    while not over.is_set():
        due = int((time.monotonic() - began) * rate)
        for _ in range(due - done):
            yield
        done = due
        time.sleep(_TURN)


def busy(root: Path, rate: float, seed: int, over: Event) -> None:
    """Of so many changes a second six tenths rewrite a file, and the rest creates, deletes,
    renames and changes modes, so that there are about as many files as before."""
    dice = random.Random(seed)
    files = sorted(str(path) for path in root.glob("d*/e*/*"))
    dirs = sorted({os.path.dirname(path) for path in files})
    made = 0
    for _ in _paced(rate, over):
        kind = dice.random()
        at = dice.randrange(len(files))
        made += 1
        fresh = f"{dice.choice(dirs)}/n{seed}-{made:07d}"
        if kind < 0.6:
            with open(files[at], "r+b", buffering=0) as file:
                file.write(dice.randbytes(dice.randrange(100, 1000)))
        elif kind < 0.7:
            with open(fresh, "xb", buffering=0) as file:
                file.write(dice.randbytes(dice.randrange(100, 1000)))
            files.append(fresh)
        elif kind < 0.8:
            os.unlink(files[at])
            files[at] = files[-1]
            files.pop()
        elif kind < 0.9:
            os.rename(files[at], fresh)
            files[at] = fresh
        else:
            os.chmod(files[at], dice.choice((0o600, 0o640, 0o644)))


def append(path: Path, rate: int, over: Event) -> None:
    """So many bytes a second, a block at a time, to a file that stays open."""
    dice = random.Random(8)
    with path.open("ab", buffering=0) as file:
        for _ in _paced(rate / BLOCK, over):
            file.write(dice.randbytes(BLOCK))


def scatter(path: Path, rate: float, count: list[int], over: Event) -> None:
    """So many random blocks a second into a file that stays open; count[0] is how many were."""
    dice = random.Random(9)
    blocks = path.stat().st_size // BLOCK
    with path.open("r+b", buffering=0) as file:
        for _ in _paced(rate, over):
            os.pwrite(file.fileno(), dice.randbytes(BLOCK), dice.randrange(blocks) * BLOCK)
            count[0] += 1


def through_a_mapping(path: Path, data: bytes, ready: Event, go: Event, over: Event) -> None:
    """Maps a file, waits, writes through the mapping, and keeps it until it is over."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        ready.set()
        while not go.wait(0.1):
            if over.is_set():
                return
        mapped[BLOCK : BLOCK + len(data)] = data
        over.wait()
