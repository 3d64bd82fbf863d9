"""What a target tells, held against what it can truly tell: pure checks, each a ProtocolError.

A source believes its target in what the target holds, never in numbers, lengths and kinds: nothing
that is told here can make it allocate more than it weighs, or meet a value that nothing expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from i2node.errors import ProtocolError
from i2node.model import show
from i2node.mover import blocks, listing
from i2node.mover.batch import PATH_MAX, At, Op

Message = Mapping[str, object]

TEXT_MAX: Final = 8192
"""Characters of a cause or a remedy that are kept."""
STATUS_MAX: Final = 4095
"""The largest errno (linux/err.h)."""
SIZE_MAX: Final = (1 << 63) - 1
_IDS: Final = 1 << 64
_STATUSES: Final = ("fresh", "known", "unknown")


@dataclass(frozen=True, slots=True)
class Fault:
    """A step that the target could not do."""

    path: bytes
    other: bytes
    op: int
    status: int
    at: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The target's answer: `status` is fresh (nothing was there), known (the tree this rule left,
    to go on with), or unknown (something is there that must be compared). boot: which start of its
    machine this is, "" where it does not tell."""

    status: str
    parts: dict[int, int]
    owner: bool
    boot: str = ""


def number(message: Message, key: str, most: int, least: int = 0) -> int:
    """A whole number of least..most."""
    value = message.get(key)
    if type(value) is not int or not least <= value <= most:
        raise _malformed(message, key)
    return value


def data(message: Message, key: str) -> bytes:
    value = message.get(key)
    if not isinstance(value, bytes):
        raise _malformed(message, key)
    return value


def text(message: Message, key: str) -> str:
    """A text for people, escaped, and not longer than anyone reads; "" where there is none."""
    value = message.get(key)
    return show(value[:TEXT_MAX].encode())[:TEXT_MAX] if isinstance(value, str) else ""


def opened(message: Message) -> Opened:
    status, rows = message.get("status"), message.get("parts")
    if message.get("t") != "opened" or status not in _STATUSES or not isinstance(rows, list):
        raise _malformed(message, "status or parts")
    parts = {}
    for row in rows:
        k, v = _row(message, row, 2, "parts")
        parts[_within(message, k, _IDS - 1, "parts")] = _within(message, v, SIZE_MAX, "parts")
    boot = text(message, "boot")[:64]
    return Opened(str(status), parts, message.get("owner") is True, boot)


def faults(message: Message) -> list[Fault]:
    """The faults of one frame; paths are such as a step may have."""
    rows = message.get("faults")
    if not isinstance(rows, list) or not rows:
        raise _malformed(message, "faults")
    found = []
    for row in rows:
        path, other, op, status, at = _row(message, row, 5, "faults")
        if not (isinstance(path, bytes) and isinstance(other, bytes) and _is_clean(path)):
            raise _malformed(message, "path")
        _within(message, status, STATUS_MAX, "status", 1)
        if type(op) is not int or type(at) is not int or op not in _OPS or at not in _AT:
            raise _malformed(message, "op")
        # Of a symlink it is the target, which may be any text.
        if op in _TWO_PATHS and not _is_clean(other):
            raise _malformed(message, "path")
        found.append(Fault(path, other if op in _TWO_PATHS else b"", op, status, at))
    return found


def moment(message: Message) -> int:
    """Nanoseconds since 1970; they are more than 64 bits in some years that file systems know."""
    seconds, ns = _row(message, message.get("mtime"), 2, "mtime")
    _within(message, seconds, SIZE_MAX, "mtime", -SIZE_MAX - 1)
    return int(seconds) * 10**9 + _within(message, ns, 10**9 - 1, "mtime")


def entries(told: bytes) -> bytes:
    """The listing of a directory of the target: sound, and of nothing but what is the target's, so
    that none of its numbers is taken for one of ours."""
    listing.check(told)
    if not listing.told(told):
        raise ProtocolError("the target's listing has entries that are not its own")
    return told


def signature(records: bytes, size: int, block: int) -> bytes:
    """Block signatures of a file of that size; block 0: there are none."""
    if block and (block != blocks.block_size(size) or len(records) != _signed(size, block)):
        raise ProtocolError("the target's signature of a file does not fit its size")
    return records


def _signed(size: int, block: int) -> int:
    return -(-size // block) * blocks.RECORD


_OPS: Final = frozenset(map(int, Op))
_AT: Final = frozenset(map(int, At))
_TWO_PATHS: Final = frozenset(map(int, (Op.LINK, Op.RENAME, Op.EXCHANGE)))


def _row(message: Message, row: object, n: int, what: str) -> list[Any]:
    if not isinstance(row, list) or len(row) != n:
        raise _malformed(message, what)
    return row


def _within(message: Message, value: Any, most: int, what: str, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _malformed(message, what)
    return value


def _is_clean(path: bytes) -> bool:
    """As i2_path_clean has it (native/src/path.h); b"": the root."""
    if len(path) > PATH_MAX or b"\0" in path:
        return False
    return not path or not any(
        part in (b"", b".", b"..") or len(part) > listing.NAME_MAX for part in path.split(b"/")
    )


def _malformed(message: Message, what: str) -> ProtocolError:
    kind = show(str(message.get("t"))[:40].encode())
    return ProtocolError(f"the target's {kind} has no sound {what}")
