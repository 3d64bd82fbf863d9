"""File systems of our own, on a loop device each; only for root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MAKERS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@contextmanager
def disk(
    kind: str, place: Path, options: str = "", mib: int = 512, make: tuple[str, ...] = ()
) -> Iterator[Path]:
    """A fresh one, mounted below place; skips where that cannot be. make: words for its maker."""
    image, mount = place / f"{kind}.image", place / kind
    with open(image, "wb") as file:
        os.truncate(file.fileno(), mib << 20)
    mount.mkdir()
    words = ["mount", "-o", ",".join(filter(None, ["loop", options])), str(image), str(mount)]
    try:
        made = subprocess.run([*MAKERS[kind], *make, str(image)], check=False, capture_output=True)
        if made.returncode or subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip(f"no {kind} here")
        try:
            yield mount
        finally:
            # Lazily: after a failure a descriptor may still hold it.
            subprocess.run(["umount", "--lazy", str(mount)], check=True)
    finally:
        image.unlink()
