"""The data of the benchmarks: made from a seed, so that every machine has the same."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
_WORDS = (
    b"node path error mirror block state volume request 200 404 info warn kernel cache ".split()
)


def _text(dice: random.Random, size: int) -> bytes:
    """What compresses about as well as logs and sources do."""
    return b" ".join(dice.choices(_WORDS, k=size // 5 + 1))[:size]


def small(root: Path, files: int = 100_000) -> None:
    """Files of 0.2 to 16 KiB, 40 to a directory, two levels; half random bytes, half text."""
    dice = random.Random(1)
    pool = _text(dice, 4 * MIB)
    for number in range(files):
        if number % 40 == 0:
            directory = root / f"d{number // 4000:03d}" / f"e{number // 40 % 100:02d}"
            directory.mkdir(parents=True)
        size = int(200 * 80 ** dice.random())
        start = dice.randrange(len(pool) - size)
        data = dice.randbytes(size // 2) + pool[start : start + size - size // 2]
        (directory / f"f{number:07d}").write_bytes(data)


def large(root: Path, size: int = 1024 * MIB) -> None:
    """Two files: random bytes, and text."""
    dice = random.Random(2)
    with (root / "random.bin").open("wb") as file:
        for _ in range(size // MIB):
            file.write(dice.randbytes(MIB))
    pool = _text(dice, 16 * MIB)
    with (root / "text.log").open("wb") as file:
        for _ in range(size // MIB):
            start = dice.randrange(len(pool) - MIB)
            file.write(pool[start : start + MIB])


def bulk(root: Path, size: int) -> None:
    """Files of 16 MiB, half random bytes, half text."""
    dice = random.Random(4)
    half = 8 * MIB
    text = _text(dice, half)
    for number in range(size // (2 * half)):
        (root / f"f{number:04d}").write_bytes(dice.randbytes(half) + text)


def image(root: Path, size: int = 4096 * MIB) -> None:
    """A sparse image of which a quarter is data, in extents of 64 KiB to 4 MiB."""
    dice = random.Random(3)
    pool = _text(dice, 8 * MIB)
    with (root / "disk.img").open("wb") as file:
        file.truncate(size)
        at = 0
        while at < size:
            span = dice.choice((64, 256, 1024, 4096)) << 10
            start = dice.randrange(len(pool) - span // 2)
            file.seek(at)
            file.write((dice.randbytes(span // 2) + pool[start : start + span // 2])[: size - at])
            at += 4 * span


def rewrite(root: Path, seed: int) -> int:
    """1 % of the 4 KiB blocks of each large file get new bytes. Gives how many bytes that are."""
    dice = random.Random(seed)
    changed = 0
    for path in sorted(root.iterdir()):
        with path.open("r+b") as file:
            blocks = path.stat().st_size // 4096
            for block in dice.sample(range(blocks), blocks // 100):
                file.seek(block * 4096)
                file.write(dice.randbytes(4096))
                changed += 4096
    return changed


def insert(root: Path, seed: int) -> int:
    """1 MiB before what was the beginning of a file."""
    path = root / "random.bin"
    beside = root / "beside"
    with path.open("rb") as old, beside.open("wb") as new:
        new.write(random.Random(seed).randbytes(MIB))
        while data := old.read(8 * MIB):
            new.write(data)
    os.replace(beside, path)
    return MIB


def touch_image(root: Path, seed: int) -> int:
    """Twenty files inside the image change: extents of 1 MiB within its data."""
    dice = random.Random(seed)
    path = root / "disk.img"
    with path.open("r+b") as file:
        for _ in range(20):
            at = os.lseek(file.fileno(), dice.randrange(path.stat().st_size // 2), os.SEEK_DATA)
            file.seek(at)
            file.write(dice.randbytes(MIB))
    return 20 * MIB


def settle(root: Path, seed: int) -> int:
    """Nothing changes."""
    return 0


Edit = Callable[[Path, int], int]
