"""Messages, frames, sealing: what is taken, and that everything else is refused."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from i2node.errors import ProtocolError, SessionError
from i2node.net import seal, wire
from i2node.net.seal import Direction, Level, Opener, Pays, Sealer, derive_key
from i2node.net.wire import CLEAR, FRAME_MAX, HEADER_SIZE, TAG_SIZE, ZSTD, parse_header

GOLDEN = Path(__file__).parent.parent / "data" / "golden-frames"
SECRET, SESSION = bytes(range(32)), bytes(range(100, 116))
KEY = derive_key(SECRET, SESSION, Direction.OUT, 3)
TEXT = b"the same words again and again, " * 40


def sealer(level: Level = "auto", encrypt: bool = True, key: bytes = KEY) -> Sealer:
    return Sealer(key, 3, Direction.OUT, level=level, encrypt=encrypt)


def opener(encrypt: bool = True, key: bytes = KEY) -> Opener:
    return Opener(key, 3, Direction.OUT, encrypt=encrypt)


def frame(s: Sealer, type_: int, payload: bytes) -> bytes:
    return b"".join(bytes(b) for b in s.seal(type_, payload))


def open_frame(o: Opener, packed: bytes) -> tuple[int, bytes]:
    type_, payload = o.open(parse_header(packed[:HEADER_SIZE]), packed[HEADER_SIZE:])
    return type_, bytes(payload)


# ------------------------------------------------------------------ messages

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda v: st.lists(v, max_size=20) | st.dictionaries(st.text(max_size=9), v, max_size=20),
    max_leaves=40,
)


@given(st.dictionaries(st.text(max_size=9), values, max_size=8), st.text(max_size=20))
def test_message_round_trip(content: dict[str, Any], name: str) -> None:
    message = {**content, "t": name}
    packed = wire.encode_message(message)
    assert wire.message_length(packed[:4]) == len(packed) - 4
    assert wire.decode_message(packed[4:]) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    try:
        assert isinstance(wire.decode_message(body)["t"], str)
    except ProtocolError as e:
        assert e.cause


@given(st.dictionaries(st.text(max_size=9), values, max_size=8), st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(
    content: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(wire.encode_message({**content, "t": "x"})[4:])
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(wire.decode_message(bytes(body))["t"], str)
    except ProtocolError as e:
        assert e.cause


@given(st.dictionaries(st.text(max_size=9), values, max_size=8), st.data())
def test_a_cut_message_is_an_error(content: dict[str, Any], data: st.DataObject) -> None:
    body = wire.encode_message({**content, "t": "x"})[4:]
    with pytest.raises(ProtocolError):
        wire.decode_message(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(ProtocolError, match="behind the message"):
        wire.decode_message(body + b"\0")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "cut off"),
        (msgpack.packb([1]), "no map"),
        (msgpack.packb({"a": 1}), '"t"'),
        (msgpack.packb({"t": b"x"}), '"t"'),
        (msgpack.packb({"t": "x", b"b": 1}), "not text"),
        (msgpack.packb({"t": "x", 5: 1}), "cannot be decoded"),
        (msgpack.packb({"t": "x", "e": msgpack.ExtType(5, b"x")}), "not allowed"),
        (msgpack.packb({"t": "x", "e": msgpack.Timestamp(1, 1)}), "not allowed"),
        (b"\xc1", "not allowed"),
        (msgpack.packb({"t": "x", "a": nested(16)}), "deeper"),
        (msgpack.packb({"t": "x", "a": [0] * 65536}), "items"),
        (b"\x82\xa1t\xa1x\xa1a\xdd\xff\xff\xff\xff", "cut off"),  # 4 Gi items in 4 bytes
        (b"\x82\xa1t\xa1x\xa1a\xdf\x00\x01\x00\x00\x00", "cut off"),
        (b"\x82\xa1t\xa1x\xa1a\xc6\xff\xff\xff\xff", "cut off"),
        (b"\x81\xa1t\xa1\xff", "cannot be decoded"),  # no UTF-8
    ],
)
def test_what_a_message_may_not_be(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        wire.decode_message(body)


def test_message_limits_hold_for_the_sender_too() -> None:
    assert wire.decode_message(wire.encode_message({"t": "x", "a": nested(15)})[4:])
    with pytest.raises(ProtocolError, match="deeper"):
        wire.encode_message({"t": "x", "a": nested(16)})
    with pytest.raises(ProtocolError, match="limit"):
        wire.encode_message({"t": "x", "a": bytes(wire.MESSAGE_MAX)})
    with pytest.raises(ProtocolError, match="cannot be encoded"):
        wire.encode_message({"t": "x", "a": object()})
    for length in (0, wire.MESSAGE_MAX + 1, 2**32 - 1):
        with pytest.raises(ProtocolError, match="announced"):
            wire.message_length(length.to_bytes(4, "big"))


# ------------------------------------------------------------------ frames


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("level", ["auto", "off", 3, 19])
@given(payloads=st.lists(st.binary(max_size=2000) | st.just(TEXT), max_size=8))
def test_frames_round_trip(payloads: list[bytes], level: Level, encrypt: bool) -> None:
    s, o = sealer(level, encrypt), opener(encrypt)
    for type_, payload in enumerate(payloads):
        packed = frame(s, type_, payload)
        assert open_frame(o, packed) == (type_, payload)
        assert len(packed) <= HEADER_SIZE + len(payload) + TAG_SIZE
        if encrypt and len(payload) > 16:
            assert payload not in packed


def test_compression_is_used_where_it_pays() -> None:
    header = parse_header(frame(sealer(), 1, TEXT)[:HEADER_SIZE])
    assert header.flags == ZSTD
    assert header.raw == len(TEXT) > header.length
    assert parse_header(frame(sealer("off"), 1, TEXT)[:HEADER_SIZE]).flags == 0
    assert parse_header(frame(sealer(), 1, os.urandom(5000))[:HEADER_SIZE]).flags == 0
    assert parse_header(frame(sealer(encrypt=False), 1, TEXT)[:HEADER_SIZE]).flags == ZSTD | CLEAR


def test_largest_frame() -> None:
    payload = os.urandom(FRAME_MAX)
    s = sealer()
    packed = frame(s, 1, payload)
    assert open_frame(opener(), packed) == (1, payload)
    with pytest.raises(ProtocolError, match="a frame takes"):
        s.seal(1, payload + b"x")


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("payload", [b"plain", TEXT])
def test_no_bit_of_a_frame_can_change(payload: bytes, encrypt: bool) -> None:
    good = frame(sealer(encrypt=encrypt), 7, payload)
    assert open_frame(opener(encrypt), good) == (7, payload)
    for at in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            with pytest.raises(ProtocolError):
                open_frame(opener(encrypt), bytes(bad))


@pytest.mark.parametrize("encrypt", [True, False])
def test_cut_and_padded_frames(encrypt: bool) -> None:
    good = frame(sealer(encrypt=encrypt), 7, b"payload")
    for size in range(len(good)):
        with pytest.raises(ProtocolError):
            open_frame(opener(encrypt), good[:size])
    with pytest.raises(ProtocolError):
        open_frame(opener(encrypt), good + b"\0")


@pytest.mark.parametrize("encrypt", [True, False])
def test_order(encrypt: bool) -> None:
    s = sealer(encrypt=encrypt)
    frames = [frame(s, 1, bytes([n])) for n in range(4)]
    for order in ([1], [0, 0], [0, 2], [0, 1, 0], [0, 1, 3]):
        o = opener(encrypt)
        for n in order[:-1]:
            open_frame(o, frames[n])
        with pytest.raises(ProtocolError, match="lost or replayed"):
            open_frame(o, frames[order[-1]])
        with pytest.raises(ProtocolError):  # and it stays closed
            open_frame(o, frames[max(order[:-1], default=-1) + 1])


def test_other_keys_do_not_open() -> None:
    keys = {
        derive_key(SECRET, SESSION, Direction.OUT, 3),
        derive_key(SECRET, SESSION, Direction.BACK, 3),
        derive_key(SECRET, SESSION, Direction.OUT, 4),
        derive_key(SECRET, SESSION, Direction.OUT, 3, b"rule"),
        derive_key(SECRET, SESSION, Direction.OUT, 3, b"other rule"),
        derive_key(SECRET[::-1], SESSION, Direction.OUT, 3),
        derive_key(SECRET, SESSION[::-1], Direction.OUT, 3),
    }
    assert len(keys) == 7
    for encrypt in (True, False):
        packed = frame(sealer(encrypt=encrypt), 1, b"secret")
        for key in keys - {KEY}:
            with pytest.raises(ProtocolError, match="altered, or the keys differ"):
                open_frame(opener(encrypt, key), packed)
        with pytest.raises(ProtocolError, match="altered"):
            open_frame(Opener(KEY, 3, Direction.BACK, encrypt=encrypt), packed)
        with pytest.raises(ProtocolError, match="of stream 3 on stream 4"):
            open_frame(Opener(KEY, 4, Direction.OUT, encrypt=encrypt), packed)


def test_nobody_can_switch_encryption_off() -> None:
    with pytest.raises(ProtocolError, match="encrypted frames are agreed"):
        open_frame(opener(encrypt=True), frame(sealer(encrypt=False), 1, b"x"))
    with pytest.raises(ProtocolError, match="clear frames are agreed"):
        open_frame(opener(encrypt=False), frame(sealer(encrypt=True), 1, b"x"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"magic": b"x2"}, "begins with"),
        ({"version": 2}, "version 2"),
        ({"flags": 4}, "reserved"),
        ({"zero": 1}, "reserved"),
        ({"zeros": 1}, "reserved"),
        ({"length": 15}, "limit"),
        ({"length": FRAME_MAX + 17}, "limit"),
        ({"length": 2**32 - 1}, "limit"),
        ({"raw": FRAME_MAX + 1}, "limit"),
        ({"raw": 99}, "sends 84 bytes for 99"),
        ({"flags": ZSTD}, "sends 84 bytes for 84"),
        ({"flags": ZSTD, "raw": 83}, "sends 84 bytes for 83"),
        ({"flags": ZSTD, "length": 16}, "sends 0 bytes"),
    ],
)
def test_headers_that_are_refused(change: dict[str, Any], why: str) -> None:
    good: dict[str, Any] = {
        "magic": b"i2",
        "version": 1,
        "type": 1,
        "flags": 0,
        "zero": 0,
        "stream": 3,
        "length": 100,
        "raw": 84,
        "seq": 0,
        "zeros": 0,
    }
    assert parse_header(wire._HEADER.pack(*good.values())).raw == 84
    with pytest.raises(ProtocolError, match=why):
        parse_header(wire._HEADER.pack(*(good | change).values()))


@given(st.binary(min_size=32, max_size=32) | st.binary(max_size=40))
def test_any_bytes_are_a_header_or_a_protocol_error(packed: bytes) -> None:
    for start in (packed, b"i2\x01" + packed[3:]):
        try:
            header = parse_header(start)
        except ProtocolError:
            continue
        assert header.length <= FRAME_MAX + TAG_SIZE
        assert header.raw <= FRAME_MAX


def forged(packed: bytes, raw: int) -> bytes:
    """A frame that a paired but hostile peer could send: sealed well, with this as zstd."""
    header = wire.pack_header(1, ZSTD, 3, len(packed) + TAG_SIZE, raw, 0)
    nonce = Direction.OUT.prefix + b"\0\3" + bytes(8)
    return header + AESGCM(KEY).encrypt(nonce, packed, header)


def test_zstd_bombs() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(200 << 20))
    with pytest.raises(ProtocolError, match="another size"):
        open_frame(opener(), forged(bomb, FRAME_MAX))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(ProtocolError, match="another size"):
        open_frame(opener(), forged(silent, 1 << 20))
    good = zstandard.ZstdCompressor().compress(bytes(1000))
    assert open_frame(opener(), forged(good, 1000)) == (1, bytes(1000))
    for bad in (good + b"x", good + good, good[:-1], b"junk", b"\x50\x2a\x4d\x18\0\0\0\0"):
        with pytest.raises(ProtocolError):
            open_frame(opener(), forged(bad, 1000))


def test_a_number_seals_once() -> None:
    s = sealer()
    seq = s.ticket()
    s.seal(1, b"x", seq)
    for bad in (seq, seq + 1, -1):
        with pytest.raises(ProtocolError, match="not given out, or is used"):
            s.seal(1, b"y", bad)
    s._next = seal.SEQ_MAX
    with pytest.raises(SessionError, match="keys"):
        s.seal(1, b"z")


def test_threads_seal_and_open_at_once() -> None:
    s, o = sealer(), opener()
    payloads = [os.urandom(50) * 1000 if n % 2 else os.urandom(50000) for n in range(64)]
    sealed: dict[int, bytes] = {}
    opened: dict[int, bytes] = {}
    queue = list(range(64))

    def work() -> None:
        while True:
            try:
                n = queue.pop()
            except IndexError:
                return
            sealed[n] = b"".join(bytes(b) for b in s.seal(1, payloads[n], n))

    def unseal(n: int) -> None:
        header = parse_header(sealed[n][:HEADER_SIZE])
        opened[n] = bytes(o.unseal(header, sealed[n][HEADER_SIZE:])[1])

    assert [s.ticket() for _ in range(64)] == list(range(64))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(64):
        o.expect(parse_header(sealed[n][:HEADER_SIZE]))
    threads = [threading.Thread(target=unseal, args=(n,)) for n in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [opened[n] for n in range(64)] == payloads


def test_pays_gives_up_and_comes_back() -> None:
    pays = Pays(patience=2)
    seen = []
    for _ in range(12):
        plan = pays.ask()
        seen.append(plan)
        if plan != "no":
            pays.learn(100, 99)
    assert seen == ["all", "all", "no", "probe", "no", "no", "probe"] + ["no"] * 4 + ["probe"]
    assert [pays.ask() for _ in range(9)] == ["no"] * 8 + ["probe"]
    assert pays.learn(100, 50)
    assert pays.ask() == "all"


def test_the_longest_pause_of_compression() -> None:
    pays = Pays()
    longest = run = 0
    for _ in range(500):
        if pays.ask() == "no":
            run += 1
            longest = max(longest, run)
        else:
            run = 0
            pays.learn(100, 100)
    assert longest == 64


# ------------------------------------------------------------------ preface, golden bytes


def test_preface() -> None:
    made = seal.make_preface(SECRET, SESSION, 3, Direction.OUT)
    assert wire.parse_preface(made.pack()) == made
    assert seal.preface_is_proven(made, SECRET, Direction.OUT)
    assert not seal.preface_is_proven(made, SECRET, Direction.BACK)
    assert not seal.preface_is_proven(made, bytes(32), Direction.OUT)
    packed = made.pack()
    for at in range(len(packed)):
        bad = bytearray(packed)
        bad[at] ^= 1
        try:
            preface = wire.parse_preface(bytes(bad))
        except ProtocolError:
            continue
        assert not seal.preface_is_proven(preface, SECRET, Direction.OUT)
    with pytest.raises(ProtocolError):
        wire.parse_preface(packed[:-1])


def golden() -> dict[str, bytes]:
    """What these modules put on the wire for fixed keys; zstd's output may change, so not it."""
    clear, sealed = sealer("off", encrypt=False), sealer("off")
    return {
        "message.bin": wire.encode_message(
            {"t": "example", "path": b"caf\xe9", "n": 300, "ok": True, "none": None, "l": [1, "a"]}
        ),
        "preface.bin": seal.make_preface(SECRET, SESSION, 3, Direction.OUT).pack(),
        "answer.bin": seal.make_preface(SECRET, SESSION, 3, Direction.BACK).pack(),
        "sealed.bin": frame(sealed, 1, b"first") + frame(sealed, 2, b""),
        "clear.bin": frame(clear, 1, b"first") + frame(clear, 2, b""),
        "secret.bin": seal.session_secret(SESSION, SECRET, SECRET[::-1]),
    }


@pytest.mark.parametrize("name", sorted(golden()))
def test_golden_bytes(name: str) -> None:
    assert golden()[name] == (GOLDEN / name).read_bytes()


def test_golden_zstd_frame_opens() -> None:
    assert open_frame(opener(), (GOLDEN / "zstd.bin").read_bytes()) == (1, TEXT)


if __name__ == "__main__":  # writes the golden bytes anew: the wire has changed
    for name, content in golden().items():
        (GOLDEN / name).write_bytes(content)
    (GOLDEN / "zstd.bin").write_bytes(frame(sealer(), 1, TEXT))
