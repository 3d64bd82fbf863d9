"""The batch calls of the mover: list, stat, pack, digest, apply.

Bytes in, bytes out; the records are those of native/include/mover.h. What is done here is done per
batch, or per directory where that is the unit; nothing is done per file. A trouble of one path is
told in its record (`status`, `Fault`), never raised; what is raised is the trouble of a whole call.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from i2node.errors import ProtocolError, SessionError
from i2node.mover._mover import ffi, lib

LISTING = struct.Struct("<IIiiiIIIQQQ")
DIR = struct.Struct("<IIII")
GROUP = struct.Struct("<IIQ")
STEP = struct.Struct("<IBBHIIIIIIIIqQQQQ16s")
ENTRY_SIZE = 112
"""Bytes of an entry before its name."""

PACK_ALL = 0
PACK_META = 1
PACK_STAGED = 2

LIST_PARTIAL = 1
LIST_UNOWNED = 2

STEP_CLONE = 1
STEP_SPARSE = 2
STEP_NO_XATTR = 4
STEP_KEEP = 8
STEP_DROP = 16

APPLY_NO_OWNER = 1
APPLY_VERIFY = 2
APPLY_ASIDE = 4
APPLY_LOSE = 8

UNKNOWN = bytes(16)
"""The content digest that says nothing is known."""

Record = bytes

_ROOM = 4 << 20
PATH_MAX = 1 << 20
"""Bytes of the longest path that is taken (native/src/path.h)."""
_ERR_BUFFER = 105  # ENOBUFS, the mover's "give me a larger one"
_NOTHING = b"\0" * 8

# Memory that is not cleared first: most of a large buffer is never touched.
_raw = ffi.new_allocator(should_clear_after_alloc=False)


class Op(IntEnum):
    """What a step does; numbers as in mover.h."""

    MAKE_DIR = 1
    PUT_FILE = 2
    PUT_LINK = 3
    PUT_NODE = 4
    LINK = 5
    SET_META = 6
    RENAME = 7
    EXCHANGE = 8
    REMOVE = 9
    STAGE = 10
    WRITE = 11
    COPY = 12
    HOLE = 13
    STAGED = 14


class At(IntEnum):
    """Where in a step a fault arose; numbers as in mover.h."""

    OPEN = 1
    CREATE = 2
    WRITE = 3
    OWNER = 4
    MODE = 5
    XATTR = 6
    TIMES = 7
    NAME = 8
    REMOVE = 9
    CHECK = 10
    LINKS = 11
    DISK = 12
    ASIDE = 13


@dataclass(frozen=True, slots=True)
class Listing:
    """One directory as it was read.

    `status` is an errno: not 0 means that nothing is known of the content, and then `own` and
    `entries` are empty. `wd` is the inotify watch (-1: none), `wd_status` the errno of not getting
    it. `n` entries, of which `dirs` directories; `bytes` is the sum of the sizes of regular files.
    `unread` of the entries have a status, and else only their name (see list_dirs). `own` is the
    directory's own entry, with an empty name.
    """

    ticket: int
    status: int
    wd: int
    wd_status: int
    n: int
    dirs: int
    dev: int
    bytes: int
    unread: int
    own: Record
    entries: Record


@dataclass(frozen=True, slots=True)
class Fault:
    """A step that could not be done, or not in full: its number, an errno, and where it arose."""

    step: int
    status: int
    what: At
    fatal: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a payload: `done` steps gone through (all, unless a fault was fatal), the
    faults noted, and how many `more` there were than room. gained: names that came new, lost: those
    that went, shrunk: files that were cut to less than half; counted where a spare was given.
    wanted: what the step needs that was refused for lack of it, as far as that was counted; else
    0."""

    done: int
    faults: list[Fault]
    more: int
    gained: int = 0
    lost: int = 0
    shrunk: int = 0
    wanted: int = 0


def _failed(call: str, result: int) -> SessionError:
    err = OSError(-result, os.strerror(-result))
    failure = SessionError(f"{call}: {err.strerror}")
    failure.__cause__ = err
    return failure


def _pad(n: int) -> int:
    return -n % 8


def _read_listing(buffer: memoryview, at: int) -> tuple[Listing, int]:
    length, *counts, own_len, dev, size, unread = LISTING.unpack_from(buffer, at)
    ticket, status, wd, wd_status, n, dirs = counts
    own, end = at + LISTING.size, at + length
    records = bytes(buffer[own : own + own_len]), bytes(buffer[own + own_len : end])
    listing = Listing(ticket, status, wd, wd_status, n, dirs, dev, size, unread, *records)
    return listing, end


def _request(path: bytes, skip: Sequence[bytes], ticket: int) -> bytes:
    names = b"".join(name + b"\0" for name in skip)
    used = DIR.size + len(path) + len(names)
    pad = _pad(used)
    return DIR.pack(used + pad, len(path), len(names), ticket) + path + names + bytes(pad)


def list_dirs(
    root_fd: int,
    dev: int,
    requests: Sequence[tuple[bytes, Sequence[bytes]]],
    *,
    notify: int = -1,
    mask: int = 0,
    partial: bool = False,
    unowned: bool = False,
    threads: int = 1,
    room: int = _ROOM,
) -> list[Listing]:
    """Lists directories: `requests` are paths relative to the root (b"" the root) with names to
    leave out. Each is watched before it is read when `notify` is an inotify descriptor. Answers all
    requests, in their order; `ticket` is the number of the request.
    `room` is the size of the buffer to begin with, in bytes.

    A directory on another file system than `dev`, or behind a mount or a symlink, answers with a
    status, and so does one with an entry that stat(2) fails for; partial: only that entry does.
    unowned: no entry tells whose it is (model.UNOWNED).
    Raises SessionError when the call as a whole fails (no memory, an unsound request).
    """
    packed = [_request(path, skip, i) for i, (path, skip) in enumerate(requests)]
    how = notify, mask, LIST_PARTIAL * partial | LIST_UNOWNED * unowned, threads
    answers: list[Listing] = []
    done = ffi.new("uint64_t *")
    out = _raw("uint8_t[]", room)
    while len(answers) < len(packed):
        asked = b"".join(packed[len(answers) :]) if answers else b"".join(packed)
        used = lib.i2_list(root_fd, dev, _aligned(asked), len(asked), *how, out, room, done)
        if used == -_ERR_BUFFER:
            room = max(done[0], room * 2)
            out = _raw("uint8_t[]", room)
            continue
        if used < 0:
            raise _failed("list directories", used)
        at, view = 0, memoryview(ffi.buffer(out, used))
        while at < used:
            listing, at = _read_listing(view, at)
            answers.append(listing)
    return answers


def stat_names(
    root_fd: int,
    dev: int,
    path: bytes,
    names: Iterable[bytes],
    partial: bool = False,
    unowned: bool = False,
) -> Listing:
    """The entries of some names of the directory `path`; names that are not there are absent from
    the listing, whose ticket is 0. Doubled names count once. partial, unowned: see list_dirs."""
    asked = sorted(set(names))
    packed = b"".join(name + b"\0" for name in asked)
    room = LISTING.size + ENTRY_SIZE + sum(ENTRY_SIZE + len(name) + 8 for name in asked)
    out = _raw("uint8_t[]", room)
    flags = LIST_PARTIAL * partial | LIST_UNOWNED * unowned
    used = lib.i2_stat(root_fd, dev, path, len(path), packed, len(packed), flags, out, room)
    if used < 0:
        raise _failed("stat names", used)
    return _read_listing(memoryview(ffi.buffer(out, used)), 0)[0]


def group(path: bytes, entries: bytes | bytearray | memoryview, ino: int = 0) -> bytes:
    """A packed group: entries of one directory, to be read by `pack` or `digest_files`. ino: what
    the directory must be, else its entries are ESTALE."""
    pad = bytes(_pad(len(path)))
    length = GROUP.size + len(path) + len(pad) + len(entries)
    return b"".join((GROUP.pack(length, len(path), ino), path, pad, entries))


def groups(buffer: bytes | bytearray | memoryview) -> list[tuple[bytes, bytes]]:
    """Takes packed groups apart into (path, entries)."""
    view, at, found = memoryview(buffer), 0, []
    while at < len(view):
        length, path_len, _ = GROUP.unpack_from(view, at)
        start = at + GROUP.size
        entries = start + path_len + _pad(path_len)
        found.append((bytes(view[start : start + path_len]), bytes(view[entries : at + length])))
        at += length
    return found


def pack(
    root_fd: int,
    dev: int,
    groups: bytearray,
    *,
    mode: int,
    small_max: int,
    tries: int = 5,
    threads: int = 1,
    cap: int,
    shelf: int = -1,
) -> memoryview:
    """Reads the entries of packed groups into at most `cap` bytes of steps. The entries are brought
    up to date in place: stat fields, attrs, content, status (see i2_pack in mover.h; ENOBUFS means
    ask again for what is left). A file larger than `small_max` bytes is EFBIG. `tries` bounds the
    readings of a file that keeps changing. shelf: where a target keeps aside what its file system
    refused of these files; -1: nowhere.

    Raises SessionError when the call as a whole fails.
    """
    if not groups:
        return memoryview(b"")
    out = _raw("uint8_t[]", cap)
    used = lib.i2_pack(
        root_fd,
        dev,
        shelf,
        ffi.from_buffer(groups, require_writable=True),
        len(groups),
        mode,
        small_max,
        tries,
        threads,
        out,
        cap,
    )
    if used < 0:
        raise _failed("read files", used)
    return memoryview(ffi.buffer(out, used))


def digest_files(
    root_fd: int, dev: int, groups: bytearray, *, content: bool, threads: int = 1, shelf: int = -1
) -> None:
    """Fills attrs of all entries of packed groups and, with `content`, the digest of regular files
    of any size; status and shelf as of `pack`. Raises SessionError when the call as a whole
    fails."""
    if not groups:
        return
    used = lib.i2_digest_files(
        root_fd,
        dev,
        shelf,
        ffi.from_buffer(groups, require_writable=True),
        len(groups),
        int(content),
        threads,
    )
    if used < 0:
        raise _failed("digest files", used)


def step(
    op: Op,
    path: bytes,
    other: bytes = b"",
    *,
    kind: int = 0,
    flags: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    mtime_s: int = 0,
    mtime_ns: int = 0,
    size: int = 0,
    rdev: int = 0,
    span: int = 0,
    stage: int = 0,
    content: bytes = b"",
    xattrs: bytes = b"",
    data: bytes | bytearray | memoryview = b"",
) -> bytes:
    """One packed step; the fields as in `struct i2_step`. What an op does not use stays zero, or
    the step is not sound."""
    used = STEP.size + len(path) + len(other) + len(xattrs) + len(data)
    pad = _pad(used)
    head = STEP.pack(
        used + pad,
        op,
        kind,
        flags,
        len(path),
        len(other),
        len(xattrs),
        len(data),
        mode,
        uid,
        gid,
        mtime_ns,
        mtime_s,
        size,
        rdev,
        span,
        stage,
        content or UNKNOWN,
    )
    return b"".join((head, path, other, xattrs, data, bytes(pad)))


def _aligned(payload: bytes | bytearray | memoryview) -> object:
    """The payload where C may read 64-bit fields: itself, or a copy when it begins elsewhere."""
    if not payload:
        return ffi.from_buffer(_NOTHING)
    data = ffi.from_buffer("uint8_t[]", payload)
    if int(ffi.cast("uintptr_t", data)) % 8 == 0:
        return data
    copy = _raw("uint8_t[]", len(payload))
    ffi.memmove(copy, data, len(payload))
    return copy


def steps_check(payload: bytes | bytearray | memoryview) -> int:
    """How many steps a payload holds. Raises ProtocolError when it is not sound."""
    n = int(lib.i2_steps_check(_aligned(payload), len(payload)))
    if n < 0:
        raise ProtocolError("a payload of steps is not sound")
    return n


def step_at(payload: bytes | bytearray | memoryview, i: int) -> tuple[Op, bytes, bytes]:
    """Op, path and other path (or symlink target) of step `i` of a sound payload, for messages."""
    at = step_offset(payload, i)
    fields = STEP.unpack_from(payload, at)
    start = at + STEP.size
    middle = start + fields[4]
    return Op(fields[1]), bytes(payload[start:middle]), bytes(payload[middle : middle + fields[5]])


def step_offset(payload: bytes | bytearray | memoryview, i: int) -> int:
    """Where step `i` of a sound payload begins."""
    at = 0
    for _ in range(i):
        at += int(STEP.unpack_from(payload, at)[0])
    return at


def apply(
    root_fd: int,
    stage_fd: int,
    payload: bytes | bytearray | memoryview,
    *,
    flags: int = 0,
    room: int = 256,
    shelf: int = -1,
    spare: int | None = None,
) -> Applied:
    """Applies steps beneath the root, in order; `stage_fd` is a directory on the same file system,
    and so is shelf, where with APPLY_ASIDE is kept what it refuses. At most `room` faults are told.
    `spare`: so much more may be lost and shrunk than is gained; the step that would be beyond is
    not begun, and its fault fatal.

    Raises ProtocolError when the payload is not sound (nothing was done), SessionError when the
    root or the stage is not to be had.
    """
    faults = _raw("struct i2_fault[]", max(room, 1))
    count, more = ffi.new("uint64_t *", room), ffi.new("uint64_t *")
    budget = ffi.NULL if spare is None else ffi.new("struct i2_budget *", {"spare": spare})
    done = lib.i2_apply(
        *(root_fd, stage_fd, shelf, _aligned(payload), len(payload), flags, budget),
        *(faults, count, more),
    )
    if done < 0:
        steps_check(payload)
        raise _failed("apply steps", done)
    noted = [
        Fault(f.step, f.status, At(f.what), bool(f.fatal))
        for f in (faults[i] for i in range(count[0]))
    ]
    told = (budget.gained, budget.lost, budget.shrunk, budget.wanted) if budget else ()
    return Applied(int(done), noted, int(more[0]), *map(int, told))


def redo(
    root_fd: int, stage_fd: int, name: bytes, *, flags: int = 0, shelf: int = -1
) -> tuple[bytes, bool]:
    """Looks at the journal `name` that a crash left in the stage: gives the path of the file it
    changes (empty when it does not tell), and whether the change was done again; if not, it had not
    begun, or the file is there no more. Either way the journal is gone. Raises OSError when it
    cannot be done now; the journal stays."""
    path, length = _raw("uint8_t[]", PATH_MAX), ffi.new("uint64_t *")
    those = (name, len(name), flags, path, PATH_MAX, length)
    done = int(lib.i2_redo(root_fd, stage_fd, shelf, *those))
    if done < 0:
        raise OSError(-done, os.strerror(-done), os.fsdecode(bytes(ffi.buffer(path, length[0]))))
    return bytes(ffi.buffer(path, length[0])), bool(done)


def open_file(root_fd: int, dev: int, path: bytes) -> int:
    """A descriptor to read the file at `path` with, opened beneath the root without following a
    link. Raises OSError; the caller closes it."""
    fd = int(lib.i2_open(root_fd, dev, path, len(path)))
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), os.fsdecode(path))
    return fd


def attributes(fd: int, shelf: int = -1, unowned: bool = False) -> bytes:
    """The extended attributes of an open file or directory, as the records of a step, file flags
    and project among them; shelf as of `pack`, unowned as of `list_dirs`. OSError; ENOTSUP where
    the file system has none."""
    room = 4096
    while True:
        out = ffi.new("uint8_t[]", room)
        found = int(lib.i2_attributes(fd, shelf, unowned, out, room))
        if found >= 0:
            return bytes(ffi.buffer(out, found))
        if found != -errno.ENOBUFS:
            raise OSError(-found, os.strerror(-found))
        room *= 16


@contextmanager
def unlocked(fd: int) -> Iterator[None]:
    """An open directory takes names, whatever its flags (chattr(1)), which it has again behind it.
    Raises OSError where that fails."""
    flags = int(lib.i2_unlock_dir(fd))
    try:
        yield
    finally:
        if flags > 0 and (status := int(lib.i2_lock_dir(fd, flags))) < 0:
            raise OSError(-status, os.strerror(-status))


def sync(fd: int) -> None:
    """Waits until the file system of `fd` has everything on disk (syncfs(2)). Raises OSError."""
    result = int(lib.i2_sync(fd))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
