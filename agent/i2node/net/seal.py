"""Sealing and opening data frames: zstd, AES-256-GCM, strict order. Layout and threats: `wire`."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal, NoReturn

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from i2node.errors import ProtocolError, SessionError
from i2node.net.effort import Effort
from i2node.net.wire import CLEAR, FRAME_MAX, TAG_SIZE, ZSTD, Header, Preface, pack_header

Level = int | Literal["auto", "off"]
Buffer = bytes | bytearray | memoryview

# 2^32 frames of 8 MiB keep GCM's advantage of a forger or distinguisher far below 2^-32
# (NIST SP 800-38D §8.3); long before that a session is renewed.
SEQ_MAX: Final = 1 << 32

_SMALLEST: Final = 128  # bytes; below that zstd only adds
_PAYS: Final = 0.97
_PROBE: Final = 32 << 10
_SKIP_MAX: Final = 64


class Direction(StrEnum):
    """Who sends: the side that connected, or the side that listened."""

    OUT = "client"
    BACK = "server"

    @property
    def prefix(self) -> bytes:
        return b"\0\1" if self is Direction.OUT else b"\0\2"


def session_secret(session: bytes, client_random: bytes, server_random: bytes) -> bytes:
    """The secret that all keys of a session come from (32 bytes)."""
    return _derive(client_random + server_random, session, b"i2node session")


def derive_key(
    secret: bytes,
    session: bytes,
    direction: Direction,
    stream: int,
    rule_secret: bytes | None = None,
) -> bytes:
    """The AES-256 key of one direction of one stream; `rule_secret` is the rule's secret_key."""
    info = b"i2node data" + direction.prefix + stream.to_bytes(2, "big")
    if rule_secret:
        info += hashlib.sha256(rule_secret).digest()
    return _derive(secret, session, info)


def make_preface(secret: bytes, session: bytes, stream: int, direction: Direction) -> Preface:
    """The preface (OUT) of a data stream, or the listener's answer to it (BACK)."""
    key = _derive(secret, session, b"i2node preface" + direction.prefix)
    mac = hmac.digest(key, stream.to_bytes(2, "big"), "sha256")[:16]
    return Preface(stream, session, mac)


def preface_is_proven(preface: Preface, secret: bytes, direction: Direction) -> bool:
    """Whether the sender of a preface knows the session's secret."""
    right = make_preface(secret, preface.session, preface.stream, direction)
    return hmac.compare_digest(right.mac, preface.mac)


class Pays:
    """Whether compressing is worth it, learned from the frames that went before.

    After `patience` frames in a row that did not shrink by 3 %, frames are passed over: 1, 2, 4,
    ... up to 64; then the head of a frame is probed again. A frame that shrinks forgets all that.
    """

    def __init__(self, patience: int = 2) -> None:
        self._patience = patience
        self._misses = 0
        self._passing = 0
        self._stride = 1

    def ask(self) -> Literal["all", "probe", "no"]:
        """For the next frame: compress it all, probe its head first, or leave it."""
        if self._misses < self._patience:
            return "all"
        if self._passing > 0:
            self._passing -= 1
            return "no"
        return "probe"

    def learn(self, before: int, after: int) -> bool:
        """Notes what compressing gave; whether it was worth it."""
        if after < before * _PAYS:
            self._misses, self._passing, self._stride = 0, 0, 1
            return True
        self._misses += 1
        if self._misses >= self._patience:
            self._passing = self._stride
            self._stride = min(self._stride * 2, _SKIP_MAX)
        return False


class Sealer:
    """Seals the frames of one direction of one stream. Threads may seal different frames at once.

    Frames must be *sent* in the order of their numbers; a thread takes a number by `ticket`, seals,
    and whoever sends puts them in order. A number seals once: a second use would break GCM.
    `level` is zstd's (1..19, negative ones are faster), "auto" or "off"; for "auto" the stream's
    `effort` decides, and whether the data compress.
    """

    def __init__(
        self, key: bytes, stream: int, direction: Direction, *, level: Level, encrypt: bool
    ) -> None:
        self._aes = AESGCM(key)
        self._key = key
        self._stream = stream
        self._prefix = direction.prefix + stream.to_bytes(2, "big")
        self._level = level
        self._encrypt = encrypt
        self._lock = threading.Lock()
        self._next = 0
        self._tickets: set[int] = set()
        self._pays = Pays()
        self.effort = Effort()
        self._own = threading.local()

    def ticket(self) -> int:
        """The next frame's number, for one `seal`."""
        with self._lock:
            seq = self._next
            if seq >= SEQ_MAX:
                raise SessionError("this session has sent all frames its keys are good for")
            self._next += 1
            self._tickets.add(seq)
            return seq

    def seal(self, type_: int, payload: Buffer, seq: int | None = None) -> list[Buffer]:
        """The buffers to send for a payload of at most 8 MiB, header first.

        They may refer to `payload`: leave it alone until they are sent.
        """
        raw = len(payload)
        if raw > FRAME_MAX:
            raise ProtocolError(f"payload of {raw} bytes, a frame takes {FRAME_MAX}")
        if seq is None:
            seq = self.ticket()
        with self._lock:
            if seq not in self._tickets:
                raise ProtocolError(f"frame number {seq} was not given out, or is used")
            self._tickets.remove(seq)
        packed = self._compress(payload)
        flags = (0 if packed is None else ZSTD) | (0 if self._encrypt else CLEAR)
        body: Buffer = payload if packed is None else packed
        header = pack_header(type_, flags, self._stream, len(body) + TAG_SIZE, raw, seq)
        nonce = self._prefix + seq.to_bytes(8, "big")
        if self._encrypt:
            return [header, self._aes.encrypt(nonce, body, header)]
        return [header, body, _clear_tag(self._key, nonce, header, body)]

    def _compress(self, payload: Buffer) -> bytes | None:
        """The payload as one zstd frame, or None where that does not pay."""
        level = self.effort.level if self._level == "auto" else self._level
        if level == "off" or level == 0 or len(payload) < _SMALLEST:
            return None
        if self._level == "auto":
            with self._lock:
                plan = self._pays.ask()
            if plan == "no":
                return None
            if plan == "probe" and len(payload) > 2 * _PROBE:
                head = memoryview(payload)[:_PROBE]
                size = len(self._compressor(level).compress(head))
                if size >= len(head) * _PAYS:
                    with self._lock:
                        self._pays.learn(len(head), size)
                    return None
        packed = self._compressor(level).compress(payload)
        with self._lock:
            pays = self._pays.learn(len(payload), len(packed))
        return packed if pays else None

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        # A compressor may not be used by two threads, and making one costs more than a frame.
        own: dict[int, zstandard.ZstdCompressor] = self._own.__dict__.setdefault("by_level", {})
        if level not in own:
            own[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True, write_checksum=False
            )
        return own[level]


class Opener:
    """Opens the frames of one direction of one stream, in order and each once.

    `expect` and `unseal` are the two halves of `open`: one thread that reads the stream calls
    `expect` for each header, others may then `unseal` at once. After the first frame that is
    not as it must be nothing is opened any more.
    """

    def __init__(self, key: bytes, stream: int, direction: Direction, *, encrypt: bool) -> None:
        self._aes = AESGCM(key)
        self._key = key
        self._stream = stream
        self._prefix = direction.prefix + stream.to_bytes(2, "big")
        self._clear = 0 if encrypt else CLEAR
        self._next = 0
        self._broken = ""
        self._own = threading.local()

    def open(self, header: Header, body: Buffer) -> tuple[int, bytes | memoryview]:
        """Type and payload of a frame. A payload that came in clear is a view of `body`."""
        self.expect(header)
        return self.unseal(header, body)

    def expect(self, header: Header) -> None:
        """Takes the frame as the next one; ProtocolError when another one is due."""
        if self._broken:
            raise ProtocolError(self._broken)
        if header.stream != self._stream:
            self._fail(f"frame of stream {header.stream} on stream {self._stream}")
        if header.flags & CLEAR != self._clear:
            wanted = "clear" if self._clear else "encrypted"
            self._fail(f"{wanted} frames are agreed, another kind came")
        if header.seq != self._next:
            self._fail(f"frame {header.seq} came where {self._next} is due: lost or replayed")
        self._next += 1

    def unseal(self, header: Header, body: Buffer) -> tuple[int, bytes | memoryview]:
        """Type and payload of an expected frame; ProtocolError when it was altered."""
        if len(body) != header.length:
            self._fail(f"frame {header.seq} has {len(body)} bytes behind it, not {header.length}")
        nonce = self._prefix + header.seq.to_bytes(8, "big")
        payload: bytes | memoryview
        if self._clear:
            view = memoryview(body)
            payload = view[:-TAG_SIZE]
            tag = _clear_tag(self._key, nonce, header.packed, payload)
            if not hmac.compare_digest(tag, view[-TAG_SIZE:]):
                self._fail(f"frame {header.seq} was altered, or the keys differ")
        else:
            try:
                payload = self._aes.decrypt(nonce, body, header.packed)
            except InvalidTag as e:
                self._fail(f"frame {header.seq} was altered, or the keys differ", e)
        if header.flags & ZSTD:
            payload = self._decompress(header, payload)
        return header.type, payload

    def _decompress(self, header: Header, payload: bytes | memoryview) -> bytes:
        try:
            decompress: Callable[..., bytes] = self._own.decompress
        except AttributeError:
            decompress = zstandard.ZstdDecompressor(max_window_size=FRAME_MAX).decompress
            self._own.decompress = decompress
        try:
            # zstandard allocates what the zstd frame claims; the header's word was checked, so
            # both must be the same.
            if zstandard.frame_content_size(payload) != header.raw:
                self._fail(f"frame {header.seq}: zstd claims another size than the header")
            plain = decompress(payload, max_output_size=header.raw, allow_extra_data=False)
        except zstandard.ZstdError as e:
            self._fail(f"frame {header.seq} cannot be decompressed: {e}", e)
        if len(plain) != header.raw:
            self._fail(f"frame {header.seq}: {len(plain)} bytes came out, not {header.raw}")
        return plain

    def _fail(self, cause: str, origin: Exception | None = None) -> NoReturn:
        self._broken = cause
        raise ProtocolError(cause) from origin


def _clear_tag(key: bytes, nonce: bytes, header: bytes, payload: Buffer) -> bytes:
    gcm = Cipher(algorithms.AES256(key), modes.GCM(nonce)).encryptor()
    gcm.authenticate_additional_data(header)
    gcm.authenticate_additional_data(payload)
    gcm.finalize()
    return gcm.tag


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)
