"""Which mounts stand below a root, and when that changes (proc(5), mountinfo)."""

from __future__ import annotations

import os
import re

_TABLE = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_POINT = 4  # the field of a line that says where the mount stands


def points(table: bytes, root: bytes) -> frozenset[bytes]:
    """The mount points of a mountinfo below root, an absolute path, as paths relative to it."""
    below = root.rstrip(b"/") + b"/"
    found: set[bytes] = set()
    for line in table.splitlines():
        fields = line.split(b" ", _POINT + 1)
        if len(fields) <= _POINT:
            continue
        point = _ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), fields[_POINT])
        if point.startswith(below) and point != below:
            found.add(point[len(below) :])
    return frozenset(found)


class Mounts:
    """Those below one root, an absolute path. `descriptor` polls as POLLPRI when the table of this
    mount namespace changed."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self.descriptor = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        self._known = points(self._read(), root)

    def changed(self) -> frozenset[bytes]:
        """The mount points that appeared or went since the last call, or since the beginning."""
        now = points(self._read(), self._root)
        differing, self._known = now ^ self._known, now
        return differing

    def close(self) -> None:
        os.close(self.descriptor)

    def _read(self) -> bytes:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        parts: list[bytes] = []
        while part := os.read(self.descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
