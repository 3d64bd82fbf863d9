"""Conversations of an earlier protocol, as they were: how they are kept, read, and held against
what is said today. record.py makes them, frozen.py speaks them.

tests/data/protocol-N/SCENE.bin is one control channel with its data stream, in the order in which
the source (the controller, of `govern`) said and heard it:

    "i2 conversation 1\\n", then, compressed (zlib, RFC 1950), records:

    side | kind | type | flags | stream | length | body

    side    "s" the source, "t" the target, "-" neither
    kind    "m" a control message: body is its msgpack, as it stands on the wire behind the length
            "f" a data frame: body is the payload before it was compressed and sealed
            "n" a note: body is JSON, of what happened beside the wire:
                {"event": NAME} was done then, {"tree": [...]} is what the target held in the end
    type    of a frame, as its header says it; 0 of others
    flags   of a frame, as its header says them; 0 of others
    stream  u16, of a frame; 0 of others
    length  u32, of body; both big-endian

Random numbers, keys, inode numbers and times are as they were. Where the trees stood, and the names
of the host and of its mount namespace, were replaced: see record.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from i2node.mover import batch, listing
from i2node.mover.batch import STEP, Op

Message = dict[str, Any]

DATA = Path(__file__).resolve().parents[1] / "data"
PLACE = b"/srv/i2node"
"""Where a recording says that trees stand: `source`, `room/...`."""
HOST, BOOT, NAMESPACE = b"work", b"boot", b"boot/1"
"""What it calls the host, its boot, and both with the mount namespace."""
_MAGIC = b"i2 conversation 1\n"
_STAGE_ID = slice(72, 80)
_HEAD = struct.Struct(">ccBBHI")


@dataclass(frozen=True, slots=True)
class Record:
    """See above."""

    side: str
    kind: str
    body: bytes
    type: int = 0
    flags: int = 0
    stream: int = 0

    @property
    def message(self) -> Message:
        """Of a message."""
        assert self.kind == "m"
        told: Message = msgpack.unpackb(self.body, raw=False)
        return told

    @property
    def note(self) -> dict[str, Any]:
        """Of a note."""
        assert self.kind == "n"
        told: dict[str, Any] = json.loads(self.body)
        return told

    def says(self, side: str, kind: str = "") -> bool:
        """Whether it is a message of this side, of this kind or any."""
        said = self.kind == "m" and self.side == side
        return said and kind in ("", self.message["t"])


def write(path: Path, records: list[Record]) -> None:
    packed = b""
    for r in records:
        head = (r.side.encode(), r.kind.encode(), r.type, r.flags, r.stream, len(r.body))
        packed += _HEAD.pack(*head) + r.body
    path.write_bytes(_MAGIC + zlib.compress(packed, 9))


def read(version: int, scene: str) -> list[Record]:
    """A conversation of that protocol."""
    data = (DATA / f"protocol-{version}" / f"{scene}.bin").read_bytes()
    assert data.startswith(_MAGIC)
    data = zlib.decompress(data.removeprefix(_MAGIC))
    found, at = [], 0
    while at < len(data):
        side, kind, type_, flags, stream, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        body = data[at : at + length]
        found.append(Record(side.decode(), kind.decode(), body, type_, flags, stream))
        at += length
    return found


def messages(records: list[Record], side: str, kind: str = "") -> list[Message]:
    """What a side said, in order."""
    return [r.message for r in records if r.says(side, kind)]


def tree_of(records: list[Record]) -> list[Any]:
    """What the target held in the end."""
    (tree,) = [r.note["tree"] for r in records if r.kind == "n" and "tree" in r.note]
    return list(tree)


def steps(payload: bytes | memoryview) -> Iterator[tuple[Op, bytes]]:
    """Those of a frame, each with its bytes; without the number under which a file is staged, which
    is made of its inode."""
    at = 0
    while at < len(payload):
        end = at + int(STEP.unpack_from(payload, at)[0])
        step = bytearray(payload[at:end])
        step[_STAGE_ID] = bytes(8)
        yield batch.step_at(payload[at:], 0)[0], bytes(step)
        at = end


def replaced(value: Any, swap: Callable[[bytes], bytes]) -> Any:
    """The same with every text and every bytes in it swapped."""
    if isinstance(value, dict):
        return {key: replaced(one, swap) for key, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, swap) for one in value]
    if isinstance(value, bytes):
        return swap(value)
    return swap(value.encode()).decode() if isinstance(value, str) else value


# ------------------------------------------------------------------ trees


def tree(root: Path) -> list[Any]:
    """All that a mirror carries of a tree, as JSON has it; names that are one file by the first."""
    first: dict[int, str] = {}
    return [_one(root, path, first) for path in sorted(_below(root))]


def _below(root: Path) -> Iterator[Path]:
    yield root
    for directory, dirs, files in os.walk(root):
        yield from (Path(directory, name) for name in (*dirs, *files))


def _one(root: Path, path: Path, first: dict[int, str]) -> list[Any]:
    st, name = path.lstat(), str(path.relative_to(root))
    content = ""
    if stat.S_ISREG(st.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(st.st_mode):
        content = str(path.readlink())
    names = [n for n in os.listxattr(path, follow_symlinks=False) if n.startswith("user.")]
    attributes = [[n, os.getxattr(path, n, follow_symlinks=False).hex()] for n in sorted(names)]
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    same = first.setdefault(st.st_ino, name)
    return [name, same, st.st_mode, st.st_uid, st.st_gid, size, st.st_mtime_ns, content, attributes]


# ------------------------------------------------------------------ what is said today, beside it

OF_THE_SESSION = {
    "hello": {"version", "node", "protocol"},
    "keys": {"random", "session"},
    "examined": {"version", "clock", "kind", "free", "found", "untried"},
    "opened": {"boot"},
    "probed": {"own", "part"},  # listings: see `listed`
    "applied": {"seq", "waits"},
    "durable": {"seq"},
    "stalled": {"cause", "remedy"},
    "copied": {"shared"},
    "governed": {"number"},
    "answer": {"value"},
    "standings": {"rules"},
    "pair": {"cert", "nonce"},
    "proof": {"mac", "signature"},
}
"""By the kind of a message: the keys whose values are another session's, host's or moment's."""


def unlike(then: Message, now: Message) -> str:
    """In what today's message is none that a peer of then understands; "": in nothing. It has the
    same keys, and more perhaps; values of the same types, and the same, but for those above."""
    if then["t"] != now["t"]:
        return f"{now['t']} came where {then['t']} did"
    kind, free = then["t"], OF_THE_SESSION.get(then["t"], set())
    if missing := shape(then, now):
        return kind + missing
    for key, value in then.items():
        if key not in free and value != now[key]:
            return f"{kind}: {key} is {now[key]!r}, and was {value!r}"
    if kind == "probed" and then["status"] == 0 and listed(then) != listed(now):
        return f"probed: it lists {listed(now)}, and listed {listed(then)}"
    return ""


def shape(then: Any, now: Any) -> str:
    """What of the shape of a value is not there any more: keys, and types."""
    if then is None or now is None:
        return ""
    if type(then) is not type(now):
        return f" is a {type(now).__name__}, and was a {type(then).__name__}"
    if isinstance(then, dict):
        for key, value in then.items():
            if key not in now:
                return f" has no {key}"
            if missing := shape(value, now[key]):
                return f".{key}{missing}"
    if isinstance(then, list) and then and now:
        return shape(then[0], now[0])
    return ""


def listed(probed: Message) -> list[tuple[Any, ...]]:
    """What a listing says of each name that is not the target's own business."""
    return [
        (e.name, e.kind, e.mode, e.uid, e.gid, e.nlink, e.mtime_s, e.mtime_ns, e.content)
        + ((e.size,) if e.kind != listing.Kind.DIR else ())
        for e in listing.entries(probed["part"])
    ]
