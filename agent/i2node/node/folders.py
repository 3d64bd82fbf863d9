"""Directories of this host, as the API browses and checks them.

Texts of the API are UTF-8. A name that is not is shown with its odd bytes escaped, as everywhere;
such a directory cannot be entered by that text.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator
from typing import Any

from i2node.errors import UsageError
from i2node.fs.mounts import is_local, parsed, table
from i2node.model import show

ROWS_MOST = 10_000
"""Entries of an answer; the items of a message are bounded."""
BYTES_MOST = 3 << 20

Row = list[Any]


def named(path: bytes) -> str:
    """A path as text."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return show(path)


def listing(path: bytes, files: bool) -> dict[str, Any]:
    """The entries of a directory: rows of name, time (local, `2026-11-23 10:00:00`), size (of
    files, in bytes, as text), whether it is a directory; directories first, then by name. more: how
    many did not fit. files: whether others than directories are told of. UsageError: not a
    directory that can be read."""
    try:
        with os.scandir(path) as found:
            entries = [(not _is_directory(entry), entry.name, entry) for entry in found]
    except OSError as error:
        raise _cannot("read", path, error) from error
    wanted = [entry for entry in entries if files or not entry[0]]
    rows = list(_rows(path, heapq.nsmallest(ROWS_MOST, wanted, key=lambda entry: entry[:2])))
    return {"rows": rows, "more": len(wanted) - len(rows)}


def _rows(path: bytes, entries: list[tuple[bool, bytes, os.DirEntry[bytes]]]) -> Iterator[Row]:
    elsewhere = {mount.point for mount in parsed(table()) if not is_local(mount)}
    room = BYTES_MOST
    for is_file, name, entry in entries:
        text = named(name)
        room -= len(text.encode()) + 64
        if room < 0:
            return
        when = size = ""
        # A server that does not answer holds up whoever asks for more than the name.
        if os.path.join(os.path.abspath(path), name) not in elsewhere:
            try:
                seen = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone meanwhile
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen.st_mtime))
            size = str(seen.st_size) if is_file else ""
        yield [text, when, size, not is_file]


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def make(path: bytes) -> None:
    """Makes a directory, and those above it; one that is there is left as it is. UsageError: it
    cannot be made."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise _cannot("make", path, error) from error


def check(path: bytes) -> dict[str, Any]:
    """Whether a directory is there or could be made, and written to: exists, and bytes free and
    total. UsageError: it could not."""
    above = _existing(path)
    if not os.path.isdir(above):
        raise UsageError(f"{named(above)} is not a directory", "name another path")
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(
            f"{named(above)} cannot be written to", "see its mode, and whether it is read-only"
        )
    return {"exists": os.path.lexists(path)} | free(path)


def free(path: bytes) -> dict[str, Any]:
    """Bytes free (to whoever is not root) and total where a path is or would be; at: the part of it
    that exists. UsageError: that cannot be told."""
    above = _existing(path)
    try:
        told = os.statvfs(above)
    except OSError as error:
        raise _cannot("see the room of", above, error) from error
    return {
        "at": named(above),
        "free": told.f_bavail * told.f_frsize,
        "total": told.f_blocks * told.f_frsize,
    }


def _existing(path: bytes) -> bytes:
    """The nearest ancestor that exists; the path itself, without the `/` behind it, if it does."""
    path = os.path.normpath(path)
    while not os.path.lexists(path) and path not in (b"/", b"//"):
        path = os.path.dirname(path)
    return path


def _cannot(what: str, path: bytes, error: OSError) -> UsageError:
    cause = f"{what} {named(path)}: {os.strerror(error.errno or 0)}"
    return UsageError(cause, "correct the path, or see its owner and mode")
