"""Files that other processes may write to without an event (native/src/held.c, proc(5))."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from i2node.errors import SessionError
from i2node.mover._mover import ffi, lib

HEAD: Final = struct.Struct("<IIQII")
_MAPPED: Final = 1
_ERR_BUFFER: Final = 105  # ENOBUFS, the mover's "give me a larger one"

_room = ffi.new_allocator(should_clear_after_alloc=False)


@dataclass(frozen=True, slots=True)
class Held:
    """A file of which some process can change the content: `mapped` shared and writable, or open
    for writing. `path` is relative to the root, and a hint that is to be checked against `ino`;
    b"": the file has several names, and was opened under one that is not below the root."""

    ino: int
    mapped: bool
    path: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What is held; an inode may come several times. refused: processes that this one may not look
    into."""

    files: list[Held]
    refused: int


def held(root_fd: int, dev: int, room: int = 1 << 18) -> Found:
    """The regular files of the file system `dev` that other processes hold and that stand below the
    root, or have several names. `room`: the size of the buffer to begin with, in bytes. Raises
    SessionError when /proc cannot be read."""
    refused, need = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    while True:
        out = _room("uint8_t[]", room)
        used = int(lib.i2_held(root_fd, dev, out, room, refused, need))
        if used != -_ERR_BUFFER:
            break
        room = int(need[0]) * 2
    if used < 0:
        raise SessionError(f"looking through /proc: {os.strerror(-used)}", "mount /proc")
    data = bytes(ffi.buffer(out, used))
    files: list[Held] = []
    at = 0
    while at < used:
        length, flags, ino, path_len, _ = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        files.append(Held(ino, bool(flags & _MAPPED), data[start : start + path_len]))
        at += length
    return Found(files, int(refused[0]))


def write_back(fd: int) -> bool:
    """Writes back all that is dirty of a file: from then on the next write through a mapping moves
    its ctime. False where the file system does not promise that. Raises OSError."""
    result = int(lib.i2_write_back(fd))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return bool(result)
