"""A local user who never rests: a directory is a symlink to outside, and a directory again."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names at once (renameat2(2)); whether both were there."""
    return not _libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _EXCHANGE)


class Renamer:
    """Swaps `place` and a symlink to `outside`, which stands at `beside` first, until stopped."""

    def __init__(self, place: Path, outside: Path, beside: Path) -> None:
        self.swaps = 0
        self._place, self._beside, self._outside = place, beside, outside
        beside.symlink_to(outside)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.swaps += exchange(self._place, self._beside)

    def stop(self) -> None:
        """Ends it, with the directory in its place."""
        self._over.set()
        self._thread.join()
        if self._place.is_symlink():
            self._place.unlink()
            if os.path.lexists(self._beside):
                self._beside.rename(self._place)
        elif self._beside.is_symlink():
            self._beside.unlink()
