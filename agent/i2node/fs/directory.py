"""Directories opened so that nobody who may write on the way to them leads elsewhere."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from i2node.errors import SafetyStop
from i2node.model import show


def open_directory(path: bytes, make: bool = False) -> int:
    """A descriptor of the directory at an absolute path of which no part is a symlink; make: those
    that are missing are made. Raises OSError, ENOTDIR where a symlink stands."""
    held = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, path.split(b"/")):
            try:
                below = _open_below(held, part, os.O_PATH)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=held)
                below = _open_below(held, part, os.O_PATH)
            os.close(held)
            held = below
        return _open_below(held, b".", os.O_RDONLY)
    finally:
        os.close(held)


def open_own(home: int, name: bytes, make: bool = False) -> int:
    """A descriptor of a directory of the agent's own in an open one; make: made if it is not there.
    Raises OSError, and SafetyStop where somebody else's stands in its place."""
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, mode=0o700, dir_fd=home)
    found = os.stat(name, dir_fd=home, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        fd = _open_below(home, name, os.O_RDONLY)
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return fd
        os.close(fd)
    where = show(os.fsencode(os.readlink(f"/proc/self/fd/{home}")))
    raise SafetyStop(
        f"{show(name)} in {where} is not the agent's own", "see who made it, and remove it"
    )


def _open_below(fd: int, name: bytes, flags: int) -> int:
    return os.open(name, flags | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)


def remove_empty(path: bytes, above: bytes) -> None:
    """Removes the directory at an absolute path, and those above it, as long as they are empty and
    lie below another one. Symlinks are not followed. What cannot be removed stays."""
    while path.startswith(above.rstrip(b"/") + b"/"):
        parent, name = os.path.split(path)
        try:
            held = open_directory(parent)
        except OSError:
            return
        try:
            os.rmdir(name, dir_fd=held)
        except FileNotFoundError:
            pass
        except OSError:
            return
        finally:
            os.close(held)
        path = parent
