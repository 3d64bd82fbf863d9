"""The shelf: where a target keeps aside what its file system refuses of a file (shelf.h).

A directory on the root's file system, so that what is in it is durable when the files are. It
stands where files are staged; one that an earlier session left elsewhere stays where it is. There
is none while nothing is aside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from i2node.errors import SafetyStop
from i2node.fs.directory import open_directory, open_own
from i2node.mover import aside


class Shelf:
    """root: a descriptor. homes: directories where it may be, b"" the root. able: whether there can
    be one. fd is -1 while there is none; inside: it stands in the root. Raises OSError when one
    that is there cannot be opened."""

    def __init__(self, root: int, name: bytes, homes: Sequence[bytes]) -> None:
        self.able = aside.able(root)
        self.name = name
        self.fd = -1
        self.inside = False
        self._root = root
        self._home = -1
        for home in homes:
            # Somebody else's is none.
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError, SafetyStop):
                if self._stands(open_directory(home) if home else os.dup(root)):
                    self.inside = not home
                    return

    def make(self, home: int | None) -> None:
        """Makes it in an open directory, None the root, if there is none. Raises OSError, and
        SafetyStop where somebody else's is in the way."""
        if self.fd < 0:
            self._stands(os.dup(self._root if home is None else home), make=True)
            self.inside = home is None

    def sweep(self) -> None:
        """Takes away what belongs to files that are no more. What cannot be taken away does no
        harm."""
        if self.fd >= 0:
            with suppress(OSError):
                aside.sweep(self._root, self.fd)

    def close(self) -> None:
        """An empty one goes."""
        if self.fd < 0:
            return
        os.close(self.fd)
        with suppress(OSError):
            os.rmdir(self.name, dir_fd=self._home)
        os.close(self._home)
        self.fd = self._home = -1

    def _stands(self, home: int, make: bool = False) -> bool:
        """Whether it is in this open directory, which it holds from then on."""
        with ExitStack() as unused:
            unused.callback(os.close, home)
            fd = open_own(home, self.name, make)
            unused.callback(os.close, fd)
            if os.fstat(fd).st_dev != os.fstat(self._root).st_dev:
                return False
            unused.pop_all()
        self.fd, self._home = fd, home
        return True
