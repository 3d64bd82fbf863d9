"""What is done to a large file, by a test that wants to see it arrive."""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from i2node.mover import blocks

MIB = 1 << 20
BLOCK = 4096


def lay(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def punch(path: Path, at: int, span: int) -> None:
    """Makes a hole (fallocate(2)), the size stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        span = min(span, size - at)
        if span > 0 and libc.fallocate64(
            file.fileno(), 3, ctypes.c_int64(at), ctypes.c_int64(span)
        ):
            raise OSError(ctypes.get_errno(), "fallocate")


def noise(seed: int, span: int) -> bytes:
    return blocks.hash(seed.to_bytes(8, "little"), 32) * (span // 32) + b"tail"[: span % 4]


KINDS = ["write", "zero", "punch", "truncate", "append", "insert", "cut", "touch", "mode"]


def edit(path: Path, what: str, at: int, span: int, seed: int) -> None:
    if what == "write":
        lay(path, at, noise(seed, span))
    elif what == "zero":
        lay(path, at, bytes(span))
    elif what == "punch":
        punch(path, at, span)
    elif what == "truncate":
        os.truncate(path, at)
    elif what == "append":
        lay(path, path.stat().st_size, noise(seed, span))
    elif what == "insert":
        path.write_bytes(noise(seed, span) + path.read_bytes())
    elif what == "cut":
        path.write_bytes(path.read_bytes()[span:])
    elif what == "touch":
        os.utime(path, ns=(0, at * 1_000_000_007))
    else:
        os.chmod(path, span & 0o777 | 0o400)
        os.setxattr(path, "user.note", at.to_bytes(8, "little"))


def histories(path: Path, count: int) -> Iterator[None]:
    """Goes on when something was done to the file."""
    for seed in range(count):
        chance = random.Random(seed)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(path.stat().st_size + MIB)
            edit(path, chance.choice(KINDS), at, chance.choice([1, BLOCK, 70_000]), seed + 1)
        if chance.random() < 0.2:
            new = path.with_name("new")
            new.write_bytes(path.read_bytes() + b"x")
            new.rename(path)
        yield
        if path.stat().st_size < 2 * MIB:
            lay(path, path.stat().st_size, noise(seed, 8 * MIB))


def lay_about(path: Path, chance: random.Random) -> None:
    """Writes to twenty of its blocks."""
    for n in chance.sample(range(path.stat().st_size // BLOCK), 20):
        lay(path, n * BLOCK, chance.randbytes(BLOCK))


def wait_until_not_racy(path: Path) -> None:
    """A file written this moment is never gone on with: a later write may not show in its times."""
    deadline = time.monotonic() + 10
    while time.time_ns() - path.stat().st_ctime_ns < 30_000_000:
        assert time.monotonic() < deadline
