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
from pathlib import Path

MIB = 1 << 20
BLOCK = 4096
_TURN = 0.01

_forked = get_context("fork")


def tree(root: Path, files: int, dirs: int, seed: int = 6) -> None:
    """Files of 100 to 1000 random bytes, evenly in that many directories, of which 100 are in
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


class Order:
    """What a writer is told, and what it tells. It writes from `go` until it is to be still, and
    lets go of its file when it is over, or when who started it is gone. Seen from both sides."""

    def __init__(self) -> None:
        self.ready = _forked.Event()
        self.go = _forked.Event()
        self._still = _forked.Event()
        self._over = _forked.Event()
        self._count = _forked.Value("q", 0)
        self._starter = os.getpid()

    @property
    def count(self) -> int:
        """How many changes were made."""
        return int(self._count.value)

    def changed(self) -> None:
        self._count.value += 1

    def begin(self) -> None:
        """Says that it is ready, and returns when it is to go."""
        self.ready.set()
        while not self.go.wait(1.0) and not self._orphaned:
            pass

    def be_still(self) -> None:
        self._still.set()

    def end(self) -> None:
        self.be_still()
        self.go.set()
        self._over.set()

    def still(self, within: float = 0.0) -> bool:
        """Whether it is to be still now, or will be so many seconds from now."""
        return self._still.wait(within) or self._orphaned

    def hold(self) -> None:
        """Returns when it is over."""
        while not self._over.wait(1.0) and not self._orphaned:
            pass

    @property
    def _orphaned(self) -> bool:
        return os.getppid() != self._starter


@contextlib.contextmanager
def apart(work: Callable[[Order], None]) -> Iterator[Order]:
    """Does work in another process while the context is open, and has it end there. RuntimeError
    when it failed."""
    order = Order()
    process = _forked.Process(target=work, args=(order,))
    process.start()
    try:
        yield order
    finally:
        order.end()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"the writer ended with {process.exitcode}")


def _paced(rate: float, order: Order) -> Iterator[int]:
    """One turn for each change, so many a second; who is late makes up for it."""
    began, done = time.monotonic(), 0
    while not order.still(_TURN):
        due = int((time.monotonic() - began) * rate)
        for number in range(done, due):
            yield number
            order.changed()
        done = due


def busy(root: Path, rate: float, seed: int, order: Order) -> None:
    """Of so many changes a second six tenths rewrite a file, and the rest creates, deletes,
    renames and changes modes, so that there are about as many files as before."""
    dice = random.Random(seed)
    files = sorted(str(path) for path in root.glob("d*/e*/*"))
    dirs = sorted({os.path.dirname(path) for path in files})
    order.begin()
    for number in _paced(rate, order):
        kind = dice.random()
        at = dice.randrange(len(files))
        fresh = f"{dice.choice(dirs)}/n{seed}-{number:07d}"
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


def append(path: Path, rate: float, order: Order) -> None:
    """So many blocks a second to the end of a file that stays open."""
    dice = random.Random(8)
    with path.open("ab", buffering=0) as file:
        for _ in _paced(rate, order):
            file.write(dice.randbytes(BLOCK))
        order.hold()


def scatter(path: Path, rate: float, order: Order) -> None:
    """So many blocks a second somewhere into a file that stays open."""
    dice = random.Random(9)
    blocks = path.stat().st_size // BLOCK
    with path.open("r+b", buffering=0) as file:
        for _ in _paced(rate, order):
            os.pwrite(file.fileno(), dice.randbytes(BLOCK), dice.randrange(blocks) * BLOCK)
        order.hold()


def through_a_mapping(path: Path, at: int, data: bytes, order: Order) -> None:
    """Maps a file, waits for `go`, writes through the mapping, and keeps that until it is over."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        order.begin()
        mapped[at : at + len(data)] = data
        order.changed()
        order.hold()
