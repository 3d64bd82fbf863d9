"""What stands on the wire of port 26821.

A connection says by its first bytes what it is:

    16 03 ..        TLS 1.3 ClientHello, both sides authenticated: the control channel
    "i2pr" 01 0*3   pairing: TLS 1.3 follows in which only the server shows a certificate
    "i2ds" ..       a data stream of a session that a control channel has made (40 bytes, Preface)

Control message, inside TLS:

    u32 length (big-endian) | a msgpack map with text keys, "t" names the message

    at most 4 MiB, 16 levels deep, 65536 items in all; no extension types. This is verified on the
    bytes before anything is decoded: it tells what a message will take in memory, which is what an
    inbox counts. Names of files are bin, never text: Linux promises no encoding.

    The first of either side is hello {protocol: [oldest, newest], version, features, node}, then
    keys {random, session}; both go on in the newest protocol that both speak, or, where there is
    none, part with what each of them runs. beat {} keeps a channel alive.

Protocols, and what makes another:

    1   what tests/data/protocol-1 holds
    2   leaving {}: the last message of a side whose agent is stopped or restarted in order

    Within one a message, or a map in it, may get keys that whoever hears it can do without, and a
    hello features: what is not known is passed over. No key goes, and no list that is a row grows.
    Another number is due for a kind of message or of frame that was not there, for another type or
    meaning of a key, a value beyond those it had (states, verdicts, ops), and another layout of
    what is packed in bytes (steps, listings, signatures).

    The protocol before the newest is spoken as well, so that nodes can be upgraded one after the
    other, in any order; what is older may go. Recordings of it, made before the newest was begun
    (tests/session/record.py), hold the program to that, and stay as they are.

Data frame, in clear on TCP, sealed by itself (big-endian):

     0  magic     "i2"
     2  version   1
     3  type      what the payload is; the business of those who send
     4  flags     1 ZSTD: the payload is one zstd frame that says its content size
                  2 CLEAR: the payload is not encrypted; the tag covers it all the same
     5  zero
     6  stream    u16, number of the stream in its session
     8  length    u32, bytes behind the header: payload as sent and the 16 bytes of the tag
    12  raw       u32, bytes of the payload when decompressed; at most 8 MiB, as is what is sent
    16  seq       u64, 0, 1, 2, ... without a gap
    24  zero      8 bytes
    32  payload, tag

    AES-256-GCM (NIST SP 800-38D): the header is additional data; nonce = u16 direction, u16
    stream, u64 seq. With CLEAR the tag is GCM's over nothing, additional data = header, payload.
    Keys: HKDF-SHA256 (RFC 5869) of the session's secret, salt = the session's id,
    info = "i2node data" | direction | stream | SHA-256 of the rule's secret_key, if it has one.
    The secret is made of 32 random bytes of either side, exchanged inside the TLS session.

Whom this withstands: whoever reads, alters, cuts, delays, replays or reorders traffic learns sizes
and times and can stop it, no more; whoever connects without a trusted key gets as far as the TLS
handshake. A paired peer may be hostile: nothing it sends is believed in length, depth, count, order
or compressed size before it is checked. Not withstood: theft of a node's key file, and denial of
service by someone on the path.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from i2node.errors import ProtocolError

PORT: Final = 26821
PROTOCOL: Final = (1, 2)  # oldest and newest control protocol spoken here

MESSAGE_MAX: Final = 4 << 20
DEPTH_MAX: Final = 16
ITEMS_MAX: Final = 65536

FRAME_MAX: Final = 8 << 20
HEADER_SIZE: Final = 32
TAG_SIZE: Final = 16
ZSTD: Final = 1
CLEAR: Final = 2

PREFACE_SIZE: Final = 40
PAIRING_PREFACE: Final = b"i2pr\x01\0\0\0"
TLS_HANDSHAKE: Final = b"\x16\x03"
STREAM_MAGIC: Final = b"i2ds"

Message = dict[str, Any]

_LENGTH: Final = struct.Struct(">I")
_HEADER: Final = struct.Struct(">2sBBBBHIIQQ")
_PREFACE: Final = struct.Struct(">4sBBH16s16s")
_MAGIC: Final = b"i2"
_ITEM_COST: Final = 128  # bytes; an empty map among others takes 73, a message of one item 280
_VERSION: Final = 1


# ------------------------------------------------------------------ control messages


def encode_message(message: Message, limit: int = MESSAGE_MAX) -> bytes:
    """Length and msgpack of a message. ProtocolError when the other side would not take it."""
    try:
        body: bytes = msgpack.packb(message, use_bin_type=True, datetime=False)
    except (TypeError, ValueError, OverflowError) as e:
        raise ProtocolError(f"message {message.get('t')!r} cannot be encoded: {e}") from e
    if len(body) > limit:
        raise ProtocolError(f"message {message.get('t')!r} has {len(body)} bytes, limit {limit}")
    _check(body)
    return _LENGTH.pack(len(body)) + body


def message_length(prefix: bytes | bytearray | memoryview, limit: int = MESSAGE_MAX) -> int:
    """Length of the message that follows a 4-byte prefix; ProtocolError past the limit."""
    (length,) = _LENGTH.unpack_from(prefix)
    if not 0 < length <= limit:
        raise ProtocolError(f"message of {length} bytes announced, limit {limit}")
    return int(length)


def decode_message(body: bytes) -> Message:
    """A message without its length prefix. ProtocolError says what is not allowed."""
    return decode_weighed(body)[0]


def decode_weighed(body: bytes) -> tuple[Message, int]:
    """The same, with the bytes of memory that it takes at most."""
    items = _check(body)
    try:
        message = msgpack.unpackb(body, raw=False, strict_map_key=True, use_list=True)
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise ProtocolError(f"message cannot be decoded: {e}") from e
    if not isinstance(message, dict):
        raise ProtocolError(f"message is no map but {type(message).__name__}")
    if not all(isinstance(key, str) for key in message):
        raise ProtocolError("message has a key that is not text")
    if not isinstance(message.get("t"), str):
        raise ProtocolError('message has no "t" that is text')
    return message, len(body) + _ITEM_COST * items


def _shapes() -> list[tuple[str, int, int] | None]:
    """For each first byte: what follows (kind), width of its length field, fixed length or -1."""
    table: list[tuple[str, int, int] | None] = [None] * 256
    for first in range(256):
        if first <= 0x7F or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
            table[first] = ("bytes", 0, 0)
        elif first <= 0x8F:
            table[first] = ("map", 0, first & 0x0F)
        elif first <= 0x9F:
            table[first] = ("array", 0, first & 0x0F)
        elif first <= 0xBF:
            table[first] = ("bytes", 0, first & 0x1F)
    for first, width in zip((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB), (1, 2, 4) * 2, strict=True):
        table[first] = ("bytes", width, 0)
    numbers = (0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3)
    for first, length in zip(numbers, (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):
        table[first] = ("bytes", 0, length)
    for first, width in ((0xDC, 2), (0xDD, 4)):
        table[first] = ("array", width, 0)
    for first, width in ((0xDE, 2), (0xDF, 4)):
        table[first] = ("map", width, 0)
    return table


_SHAPES: Final = _shapes()


def _check(body: bytes) -> int:
    """Holds the limits against the bytes themselves (github.com/msgpack/msgpack, spec.md); gives
    the number of items.

    The decoder allocates for the lengths that a message claims; here they are compared with what
    is there, without allocating anything.
    """
    at, end, items = 0, len(body), 0
    open_: list[int] = [1]  # values still to come on each level
    while open_:
        if open_[-1] == 0:
            open_.pop()
            continue
        open_[-1] -= 1
        items += 1
        if items > ITEMS_MAX:
            raise ProtocolError(f"message has more than {ITEMS_MAX} items")
        if at >= end:
            raise ProtocolError("message is cut off")
        shape = _SHAPES[body[at]]
        if shape is None:
            raise ProtocolError(f"message holds type {body[at]:#04x}, which is not allowed")
        kind, width, size = shape
        at += 1
        if width:
            if at + width > end:
                raise ProtocolError("message is cut off")
            size = int.from_bytes(body[at : at + width], "big")
            at += width
        if kind == "bytes":
            at += size
            if at > end:
                raise ProtocolError("message is cut off")
            continue
        if len(open_) > DEPTH_MAX:
            raise ProtocolError(f"message is deeper than {DEPTH_MAX} levels")
        open_.append(size * 2 if kind == "map" else size)
        if open_[-1] > end - at:
            raise ProtocolError("message is cut off")
    if at != end:
        raise ProtocolError(f"{end - at} bytes behind the message")
    return items


# ------------------------------------------------------------------ data frames


@dataclass(frozen=True, slots=True)
class Header:
    """A data frame's header that parse_header found sound. `packed` are its 32 bytes."""

    type: int
    flags: int
    stream: int
    length: int
    raw: int
    seq: int
    packed: bytes


def pack_header(type_: int, flags: int, stream: int, length: int, raw: int, seq: int) -> bytes:
    """The 32 bytes of a header; length counts payload as sent and tag."""
    return _HEADER.pack(_MAGIC, _VERSION, type_, flags, 0, stream, length, raw, seq, 0)


def parse_header(packed: bytes | bytearray | memoryview) -> Header:
    """Checks a header before anything is allocated for what it announces; else ProtocolError."""
    if len(packed) != HEADER_SIZE:
        raise ProtocolError(f"frame header has {len(packed)} bytes, not {HEADER_SIZE}")
    magic, version, type_, flags, zero, stream, length, raw, seq, zeros = _HEADER.unpack(packed)
    if magic != _MAGIC:
        raise ProtocolError(f"no frame begins with {magic!r}")
    if version != _VERSION:
        raise ProtocolError(f"frame of version {version}, {_VERSION} is spoken here")
    if zero or zeros or flags & ~(ZSTD | CLEAR):
        raise ProtocolError("frame header: reserved bits are set")
    if not TAG_SIZE <= length <= FRAME_MAX + TAG_SIZE:
        raise ProtocolError(f"frame of {length} bytes, limit {FRAME_MAX} and tag")
    if raw > FRAME_MAX:
        raise ProtocolError(f"frame of {raw} raw bytes, limit {FRAME_MAX}")
    sent = length - TAG_SIZE
    # Compression that does not pay is not sent, so a compressed frame is always the smaller one.
    if not (0 < sent < raw if flags & ZSTD else sent == raw):
        raise ProtocolError(f"frame sends {sent} bytes for {raw}, flags {flags}")
    return Header(type_, flags, stream, length, raw, seq, bytes(packed))


# ------------------------------------------------------------------ preface of a data stream


@dataclass(frozen=True, slots=True)
class Preface:
    """The first 40 bytes of a data stream, and of the answer to them.

    `mac` proves that the sender knows the session's secret; whoever sees it pass cannot use it, as
    each stream number is taken once in a session.
    """

    stream: int
    session: bytes
    mac: bytes

    def pack(self) -> bytes:
        """As it is sent."""
        return _PREFACE.pack(STREAM_MAGIC, _VERSION, 0, self.stream, self.session, self.mac)


def parse_preface(packed: bytes) -> Preface:
    """A preface, not yet proven; ProtocolError when it is none."""
    if len(packed) != PREFACE_SIZE:
        raise ProtocolError(f"stream preface has {len(packed)} bytes, not {PREFACE_SIZE}")
    magic, version, zero, stream, session, mac = _PREFACE.unpack(packed)
    if magic != STREAM_MAGIC or zero:
        raise ProtocolError("not the preface of a data stream")
    if version != _VERSION:
        raise ProtocolError(f"data stream of version {version}, {_VERSION} is spoken here")
    return Preface(stream, session, mac)
