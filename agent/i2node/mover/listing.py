"""Listings: the packed entries of one directory, as native/include/mover.h defines them.

A listing is bytes: records of a multiple of 8 bytes, sorted by name, each name once; b"" is an
empty directory. Every function that hands one to C raises ProtocolError when it is not sound,
because listings also come from peers and from the journal. Nothing is decoded that need not be: a
directory in which nothing changed costs one call.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from i2node.errors import ProtocolError
from i2node.model import PROBED, Entry, Kind, Verdict
from i2node.mover._mover import ffi, lib

Data = bytes | bytearray | memoryview

HEAD: Final = struct.Struct("<IHBBIIIIQQQqIHHqqQQ16s")
NAME_MAX: Final = 255
_LENGTHS: Final = struct.Struct("<IH")  # of a record: length, name_len
_UP_TO_INO: Final = struct.Struct("<IHBBIIIIQ")
_JUDGED: Final = struct.Struct("<IHBB52xHH")  # length, name_len, kind, verdict, flags, status

_KINDS: Final = {int(k): k for k in Kind}
_VERDICTS: Final = {int(v): v for v in Verdict}

# Every field that stands in the head of a record: where, and how.
_FIELDS: Final = {
    "kind": (6, "<B"),
    "verdict": (7, "<B"),
    "mode": (8, "<I"),
    "uid": (12, "<I"),
    "gid": (16, "<I"),
    "nlink": (20, "<I"),
    "ino": (24, "<Q"),
    "size": (32, "<Q"),
    "rdev": (40, "<Q"),
    "mtime_s": (48, "<q"),
    "mtime_ns": (56, "<I"),
    "flags": (60, "<H"),
    "status": (62, "<H"),
    "ctime": (64, "<q"),
    "birth": (72, "<q"),
    "blocks": (80, "<Q"),
    "attrs": (88, "<Q"),
    "content": (96, "<16s"),
}

# C fills what it returns; clearing room for two whole listings would cost more than comparing them.
_room = ffi.new_allocator(should_clear_after_alloc=False)
_BYTES: Final = ffi.typeof("uint8_t[]")
_SUMS: Final = ffi.typeof("uint64_t[2]")


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two listings of a directory, by how it is handled; each a listing.

    gone: entries only the old one has, as it has them. The rest are entries of the new one: dirs;
    linked: other kinds with more than one name; large: regular files above the small limit or with
    holes; bulk: all else. Their verdict says how they differ.
    """

    gone: bytes
    dirs: bytes
    bulk: bytes
    large: bytes
    linked: bytes


def encode(entry: Entry) -> bytes:
    """The record of an entry. Raises ValueError when a field is out of its range."""
    name = entry.name
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"a name has 1..{NAME_MAX} bytes, not {len(name)}")
    length = HEAD.size + len(name) + 7 & ~7
    try:
        head = HEAD.pack(length, len(name), *entry[1:])
    except struct.error as e:
        raise ValueError(f"entry {name!r}: {e}") from e
    return (head + name).ljust(length, b"\0")


def entries(listing: Data) -> Iterator[Entry]:
    """The entries, decoded, in order. Checks the whole listing before the first one."""
    check(listing)
    return _decode(listing)


def _decode(listing: Data) -> Iterator[Entry]:
    at, end = 0, len(listing)
    while at < end:
        length, name_len, kind, verdict, *fields = HEAD.unpack_from(listing, at)
        name = bytes(listing[at + HEAD.size : at + HEAD.size + name_len])
        yield Entry(name, _KINDS[kind], _VERDICTS[verdict], *fields)
        at += length


def with_fields(record: bytes, **fields: int | bytes) -> bytes:
    """A copy of a record with some fields of its head replaced, by the names of `Entry`.

    Raises KeyError for a name that is no such field, ValueError for a value out of range.
    """
    patched = bytearray(record)
    for name, value in fields.items():
        at, form = _FIELDS[name]
        try:
            struct.pack_into(form, patched, at, value)
        except struct.error as e:
            raise ValueError(f"{name} = {value!r}: {e}") from e
    return bytes(patched)


def check(listing: Data) -> int:
    """The number of entries of a listing that may come from anywhere."""
    view = _view(listing)
    return _sound(lib.i2_listing_check(view, len(view)), "check")


def diff(old: Data, now: Data, small_max: int) -> Changes | None:
    """What changed from `old` to `now`; None when nothing did.

    `small_max`: the size in bytes above which a regular file is large.
    """
    a, b = _view(old), _view(now)
    cap = len(a) + len(b)
    out, used = _room(_BYTES, cap), ffi.new("uint64_t[5]")
    if _sound(lib.i2_diff(a, len(a), b, len(b), small_max, out, cap, used), "diff") == 0:
        return None
    ends = [sum(used[0 : s + 1]) for s in range(5)]
    data = ffi.buffer(out, cap)
    return Changes(*(bytes(data[e - n : e]) for e, n in zip(ends, used, strict=True)))


def merge(base: Data, change: Data) -> bytes:
    """`base` with the entries of `change` laid over it.

    Verdict GONE removes, an entry with a status is passed over, any other replaces or adds.
    """
    a, b = _view(base), _view(change)
    cap = len(a) + len(b)
    out = _room(_BYTES, cap)
    used = _sound(lib.i2_merge(a, len(a), b, len(b), out, cap), "merge")
    return bytes(ffi.buffer(out, used))


def sort(records: Data) -> bytes:
    """A listing from records in any order. Raises ProtocolError when a name is doubled."""
    view = _view(records)
    size = len(view)
    out, scratch = _room(_BYTES, size), _room(_BYTES, size)
    ffi.memmove(out, view, size)
    _sound(lib.i2_sort(out, size, scratch), "sort")
    return bytes(ffi.buffer(out, size))


def find(listing: Data, name: bytes) -> Entry | None:
    """The entry of that name."""
    view = _view(listing)
    at = lib.i2_find(view, len(view), name, len(name))
    if at == -errno.ENOENT:
        return None
    return next(_decode(memoryview(listing)[_sound(at, "find") :]))


def cut(listing: Data, max_entries: int, max_bytes: int) -> tuple[int, int, int]:
    """How much of the front of a listing makes one batch: (end offset, entries, bytes in files).

    At most `max_entries` entries of together at most `max_bytes` bytes, but at least one entry.
    """
    view = _view(listing)
    n, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    end = _sound(lib.i2_cut(view, len(view), max_entries, max_bytes, n, size), "cut")
    return end, int(n[0]), int(size[0])


def decode(record: Data) -> Entry:
    """The one entry of a record that the mover made; it may be the root's, which has no name."""
    _, name_len, kind, verdict, *fields = HEAD.unpack_from(record)
    name = bytes(record[HEAD.size : HEAD.size + name_len])
    return Entry(name, _KINDS[kind], _VERDICTS[verdict], *fields)


def first(listing: Data, at: int = 0) -> bytes:
    """The name of the first record, or of the one at an offset."""
    start = at + HEAD.size
    return bytes(listing[start : start + _LENGTHS.unpack_from(listing, at)[1]])


def sole(listing: Data) -> bytes | None:
    """The name of a listing of one record; None where there are more, or none."""
    alone = listing and _LENGTHS.unpack_from(listing)[0] == len(listing)
    return first(listing) if alone else None


def before(listing: Data, name: bytes) -> int:
    """How many bytes of a listing stand before a name's place."""
    at = 0
    while at < len(listing) and first(listing, at) < name:
        at += _LENGTHS.unpack_from(listing, at)[0]
    return at


def directories(listing: Data) -> Iterator[int]:
    """The inode numbers of the directories, as far as the source knows them."""
    return (entry.ino for entry in kept(listing, Kind.DIR) if not entry.flags & PROBED)


def kept(listing: Data, kind: Kind) -> Iterator[Entry]:
    """The entries of one kind."""
    return _decode(_pick(listing, lib.I2_PICK_KIND, kind)[0])


def single(listing: Data) -> list[int]:
    """The inode numbers of files with one name."""
    found: list[int] = []
    at = 0
    while at < len(listing):
        length, _, kind, _, _, _, _, nlink, ino = _UP_TO_INO.unpack_from(listing, at)
        if nlink == 1 and kind != Kind.DIR:
            found.append(ino)
        at += length
    return found


def retyped(listing: Data) -> list[bytes]:
    """The names that are of another kind than they were."""
    return [e.name for e in _decode(_pick(listing, lib.I2_PICK_RETYPED)[0])]


def troubled(listing: Data) -> Iterator[Entry]:
    """The entries that came back from a batch call with a status."""
    return _decode(_pick(listing, lib.I2_PICK_TROUBLED)[0])


def overwritten(listing: Data) -> list[bytes]:
    """The names of files of which the target has another version."""
    found = _pick(listing, lib.I2_PICK_KIND | lib.I2_PICK_OVER, Kind.FILE)[0]
    return [e.name for e in _decode(found)]


def linked(listing: Data) -> Iterator[Entry]:
    """The entries, directories left out, that have more than one name."""
    return _decode(_pick(listing, lib.I2_PICK_LINKED)[0])


def probed(listing: Data) -> bool:
    """Whether any entry is one that the target told of."""
    return _pick(listing, lib.I2_PICK_PROBED, copy=False)[1] > 0


def told(listing: Data) -> bool:
    """Whether every entry is one that the target told of, and none is judged or in trouble. Of a
    sound listing."""
    at = 0
    while at < len(listing):
        length, _, _, verdict, flags, status = _JUDGED.unpack_from(listing, at)
        if verdict or status or not flags & PROBED:
            return False
        at += length
    return True


def younger(listing: Data, since: int) -> bytes:
    """The entries with a ctime, in nanoseconds since 1970, of `since` or later."""
    return _pick(listing, lib.I2_PICK_SINCE, since=since)[0]


def totals(listing: Data) -> tuple[int, int]:
    """(entries, bytes in regular files)."""
    _, count, size = _pick(listing, 0, copy=False)
    return count, size


def cleared(listing: Data) -> bytes:
    """The listing with every status taken out."""
    patched = bytearray(listing)
    at = 0
    while at < len(patched):
        struct.pack_into("<H", patched, at + 62, 0)
        at += HEAD.unpack_from(patched, at)[0]
    return bytes(patched)


def _pick(
    listing: Data, what: int, kind: int = 0, copy: bool = True, since: int = 0
) -> tuple[bytes, int, int]:
    if not listing:
        return b"", 0, 0
    view = _view(listing)
    cap = len(view) if copy else 0
    out = _room(_BYTES, cap) if copy else ffi.NULL
    sums = ffi.new(_SUMS)
    used = _sound(lib.i2_pick(view, len(view), what, kind, since, out, cap, sums, sums + 1), "pick")
    return (bytes(ffi.buffer(out, used)) if used else b""), int(sums[0]), int(sums[1])


def _view(data: Data) -> Any:
    """The bytes as C sees them; copied only where they are not aligned as records must be, which
    an object of type bytes is."""
    view = ffi.from_buffer(_BYTES, data)
    if type(data) is not bytes and int(ffi.cast("uintptr_t", view)) % 8 and len(view):
        copy = _room(_BYTES, len(view))
        ffi.memmove(copy, view, len(view))
        return copy
    return view


def _sound(result: int, operation: str) -> int:
    if result == -errno.ENOMEM:
        raise MemoryError(f"{operation}: no memory for a listing")
    if result < 0:
        raise ProtocolError(f"{operation}: the listing is not sound")
    return result
