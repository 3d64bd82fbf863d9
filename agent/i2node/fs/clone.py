"""Snapshots of single files, where the file system can make them (XFS with reflink, btrfs).

A clone (ioctl_ficlonerange(2)) shares all it is made of with the file, until that is written to:
made in an instant, of one moment, and read at leisure. Of two clones of one file the file system
tells where they differ (ioctl_fiemap(2)), so that nothing else has to be read. They have no name:
nobody sees them in the tree, and they go when they are closed, with the process at the latest.

What it costs the owner of the file: what it has in memory is written back; whoever writes to it
waits while it is cloned, on XFS 20 microseconds for each extent; what is overwritten afterwards
goes to another place, so that the file is cut into more extents, and the old content takes room
until the next clone replaces this one. Therefore only files that are written to again and again are
cloned, none of more than MOST_EXTENTS, none of an owner who wants it in one piece (chattr +C, which
refuses), and none where room is short.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from i2node.mover import extents

MOST_EXTENTS = 1 << 14
"""To clone a file of more takes a third of a second or more, and its owner would feel it."""
ROOM = 20
"""One part in so many of the file system is to be free."""

_FICLONE = 0x40049409
_FIEMAP = 0xC020660B
_HEAD = struct.Struct("<QQIIII")  # of struct fiemap


class Cloner:
    """Makes clones of the files below one directory, held as a descriptor."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._unable = False

    def clone(self, fd: int) -> int | None:
        """A clone of an open file, the caller's to close; None where there can be none now."""
        if self._unable or self.is_full():
            return None
        made = -1
        try:
            if _extents(fd) > MOST_EXTENTS:
                return None
            made = os.open(
                f"/proc/self/fd/{self._directory}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
            fcntl.ioctl(made, _FICLONE, fd)
            return made
        except OSError as error:
            if made >= 0:
                os.close(made)
            self._unable = error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EROFS)
            return None

    def prepare(self, fd: int) -> None:
        """Writes back what an open file has in memory, where it can be cloned then: whoever writes
        to it does not wait for this. Raises OSError."""
        if not self._unable:
            os.fdatasync(fd)

    def is_full(self) -> bool:
        """Whether the owner may need the room that clones take."""
        found = os.fstatvfs(self._directory)
        return found.f_bavail * ROOM < found.f_blocks


def changed(old: int, new: int, size: int) -> list[tuple[int, int]] | None:
    """The ranges of bytes (from, to), up to size, in which a clone may differ from an older one of
    the same file; None where nobody tells."""
    try:
        return extents.changed(old, new, size)
    except OSError:
        return None


def _extents(fd: int) -> int:
    """Of how many extents an open file is; to count them keeps nobody waiting."""
    asked = _HEAD.pack(0, (1 << 64) - 1, 0, 0, 0, 0)
    return int(_HEAD.unpack(fcntl.ioctl(fd, _FIEMAP, asked))[3])
