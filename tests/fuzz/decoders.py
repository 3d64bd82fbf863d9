"""What is decoded of what others send or wrote: each takes bytes, and raises only where it fails.

A decoder fails when anything else than its own error comes out of it, or when what it let pass is
not what it should be. `run.py` fuzzes one, `test_corpus.py` plays the corpus to all.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from script import Message, Script

from i2node import config
from i2node.cli import drive
from i2node.cli.display import status_text
from i2node.errors import I2Error, PeerLost, ProtocolError, UsageError
from i2node.model import MirrorOptions, Target
from i2node.net import channel, identity, pairing, seal, wire
from i2node.net.stream import DataStream
from i2node.node import rpc
from i2node.node.daemon import Daemon
from i2node.node.vetting import vet
from i2node.orders import packed, unpacked
from i2node.repl import told
from i2node.repl.ledger import Ledger
from i2node.repl.receiver import Receiver
from i2node.repl.remote import Remote
from i2node.repl.report import RuleReport, plain, read
from i2node.repl.session import Session

RULE = "0123456789abcdef"
KEY = bytes(32)


def of_wire(data: bytes) -> None:
    """A control message as it comes: what passes is a map, and says the same when sent again."""
    with suppress(ProtocolError):
        message = wire.decode_message(data)
        with suppress(ProtocolError):
            assert repr(wire.decode_message(wire.encode_message(message)[4:])) == repr(message)
    if len(data) >= 4:
        with suppress(ProtocolError):
            assert 0 < wire.message_length(data) <= wire.MESSAGE_MAX


def of_frame(data: bytes) -> None:
    """The header of a frame and the preface of a stream."""
    with suppress(ProtocolError):
        header = wire.parse_header(data[:32])
        assert header.length <= wire.FRAME_MAX + wire.TAG_SIZE and header.raw <= wire.FRAME_MAX
        packed = (header.type, header.flags, header.stream, header.length, header.raw, header.seq)
        assert wire.pack_header(*packed) == header.packed
    with suppress(ProtocolError):
        assert wire.parse_preface(data[:40]).pack() == data[:40]


def of_payload(data: bytes) -> None:
    """A frame sealed with the right key, by someone who puts into it what he likes."""
    orders = Script(data)
    flags = orders.byte() & (wire.ZSTD | wire.CLEAR)
    raw = int.from_bytes(bytes(orders.byte() for _ in range(3)), "big")
    body = orders.rest()
    try:
        packed = wire.pack_header(1, flags, 0, len(body) + wire.TAG_SIZE, raw, 0)
        header = wire.parse_header(packed)
        nonce = seal.Direction.OUT.prefix + bytes(10)
        if flags & wire.CLEAR:
            sealed = body + seal._clear_tag(KEY, nonce, packed, body)
        else:
            sealed = seal.AESGCM(KEY).encrypt(nonce, body, packed)
        opener = seal.Opener(KEY, 0, seal.Direction.OUT, encrypt=not flags & wire.CLEAR)
        kind, payload = opener.open(header, sealed)
    except ProtocolError:
        return
    assert kind == 1 and len(payload) == raw


def of_hello(data: bytes) -> None:
    """The first messages of a channel, from a peer whose certificate is known."""
    hello = {"protocol": [1, 1], "version": "1", "features": [], "node": "f" * 64}
    orders = Script(data)
    messages = [
        {"t": "hello", **orders.message(hello)},
        {"t": "keys", **orders.message({"random": bytes(32), "session": bytes(16)})},
    ]
    end = SimpleNamespace(
        client=bool(orders.byte() & 1),
        peer_id="f" * 64,
        address="[::1]:1",
        send=lambda message: None,
        recv=lambda timeout: messages.pop(0),
    )
    with suppress(I2Error):
        channel.agree(cast(channel.Channel, end), "e" * 64, timeout=1, session=bytes(16))
        assert len(end.secret) == 32 and len(end.session) == 16


@cache
def _identity() -> identity.Identity:
    return identity.Identity.load(_scratch() / "etc")


@cache
def _scratch() -> Path:
    made = Path(tempfile.mkdtemp(prefix="i2node-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def of_pairing(data: bytes) -> None:
    """What a stranger says who wants to be paired: he is not."""
    orders = Script(data)
    introduced = {
        "cert": _identity().cert_der,
        "nonce": bytes(32),
        "name": "n",
        "role": "node",
        "port": 1,
    }
    messages = [
        {"t": "pair", **orders.message(introduced)},
        {"t": "proof", **orders.message({"mac": bytes(32), "signature": bytes(70)})},
    ]
    line = SimpleNamespace(
        recv=lambda name: (messages.pop(0), data), send=lambda message: repr(message).encode()
    )
    with suppress(I2Error):
        pairing._serve(cast(Any, line), "::1", _identity(), pairing.Attempts(), "")
        raise AssertionError("a stranger was paired")
    assert not _identity().peers()


def of_certificate(data: bytes) -> None:
    """A certificate in DER, from whoever knocks."""
    with suppress(UsageError):
        assert len(identity.check_certificate(data)) == 64
    with suppress(UsageError):
        identity.node_id_of(data)
    assert not identity.verify_signature(_identity().cert_der, data, b"said")


def of_config(data: bytes) -> None:
    """i2node.toml, i2port.conf and i2id.conf."""
    text = data.decode(errors="replace")
    with suppress(UsageError):
        config.Config(**config._parse(Path("i2node.toml"), text, config.Config))
    etc = _scratch() / "written"
    etc.mkdir(exist_ok=True)
    (etc / "i2port.conf").write_bytes(data)
    with suppress(UsageError):
        port = config._port_file(etc / "i2port.conf")
        assert port is None or 1 <= port <= 65535
    (etc / "i2id.conf").write_bytes(data)
    with suppress(UsageError):
        assert len(identity._load_code(etc / "i2id.conf")) == 32


def of_ledger(data: bytes) -> None:
    """A target's record of a rule, damaged."""
    home = _scratch() / "targets"
    home.mkdir(exist_ok=True)
    (home / f"{RULE}.json").write_bytes(data)
    ledger = Ledger(home)
    records = ledger.records()
    assert len(records) <= 1
    with suppress(I2Error):
        ledger.apart("other" * 3, "p", b"/srv/x")
    with suppress(I2Error):
        ledger.private(b"/srv/x", "p")


def of_report(data: bytes) -> None:
    """What a process of one's own answers when asked for its status."""
    try:
        table = json.loads(data)
        reports = [read(item) for item in table]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    assert json.dumps([plain(report) for report in reports])
    assert all(isinstance(report, RuleReport) for report in reports)
    assert "\x1b" not in status_text(reports)


def of_orders(data: bytes) -> None:
    """What a controller orders, or what is kept of that."""
    try:
        held = unpacked(data)
    except ProtocolError:
        return
    assert unpacked(packed(held)) == held
    with suppress(UsageError):
        vetted = vet(held)
        assert {charge.rule for charge in vetted.refused} <= vetted.faults.keys()
        assert not vet(vetted.orders).faults


@cache
def _server() -> rpc.StatusServer:
    """What an agent and a mirror answer, without their sockets."""
    home = config.Config(etc=_scratch() / "etc", var=_scratch() / "var")
    source = _scratch() / "mirrored"
    source.mkdir()
    target = Target(None, 1, bytes(_scratch() / "copy"))
    session = Session(home, MirrorOptions(source=source, target=target), _identity())
    verbs = {**Daemon(home, _identity())._verbs(), **drive.verbs_of(session)}
    server = object.__new__(rpc.StatusServer)
    server._verbs = verbs
    return server


def of_question(data: bytes) -> None:
    """A question at the status socket: whatever it is, there is an answer."""
    answer = json.loads(json.dumps(_server()._result(data.partition(b"\n")[0])))
    if isinstance(answer, dict) and "error" in answer:
        assert answer["cause"]


# ------------------------------------------------------------------ what a paired peer says

ROW = [b"dir/f", b"", 2, 13, 1]


def of_told(data: bytes) -> None:
    """What a target tells its source: past the checks there is nothing that ends its process."""
    orders = Script(data)
    heard: list[object] = []
    remote = Remote(cast(channel.Channel, SimpleNamespace(send=lambda message: None)))
    remote.on_applied = lambda seq, waits: heard.append((seq, waits))
    remote.on_durable = heard.append
    remote.on_faults = lambda seq, faults: heard.append((seq, faults))
    remote.on_stalled = lambda cause, remedy: heard.append(cause)
    entry = orders.raw()
    part = {"n": 1, "part": entry, "last": True}
    sound: tuple[Message, ...] = (
        {"t": "opened", "status": "known", "parts": [[1, 2]], "owner": True},
        {"t": "probed", "i": 0, "status": 0, "own": entry, **part},
        {"t": "signed", "size": len(entry), "mtime": [1, 2], "block": 4096, **part},
        {"t": "applied", "seq": 1, "waits": True},
        {"t": "durable", "seq": 1},
        {"t": "faults", "seq": 1, "faults": [ROW, ROW]},
        {"t": "stalled", "cause": "full", "remedy": ""},
        {"t": "error", "code": "safety", "cause": "c", "remedy": "r"},
    )
    while not orders.over and len(heard) < 50:
        message = orders.message(orders.pick(sound))
        with suppress(I2Error):
            told.opened(message)
        for ask in (
            lambda: remote.probe([(b"", ()), (b"dir", (b"x",))], True),
            lambda: remote.sign(b"file"),
        ):
            _answered(remote, message, ask)
        with suppress(I2Error):
            remote._handle(message)
    for row in heard:
        if isinstance(row, tuple) and isinstance(row[1], list):
            assert all(b".." not in fault.path.split(b"/") for fault in row[1])


def _answered(remote: Remote, message: Message, ask: Callable[[], object]) -> None:
    """Puts a question to which that is the answer."""

    def answer(question: Message) -> None:
        remote._handle({**message, "n": question["n"]})
        raise PeerLost("that was all")

    # Behind the answer the connection is lost: whoever waits for more does so in vain.
    remote.channel = cast(channel.Channel, SimpleNamespace(send=answer))
    with suppress(I2Error):
        ask()


class _Ear:
    """The channel of a receiver whose peer has no data stream."""

    peer_id = "f" * 64
    peer_role = "node"

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def send(self, message: Message) -> None:
        self.heard.append(wire.decode_message(wire.encode_message(message)[4:]))

    def accept_stream(self, number: int, timeout: float) -> DataStream:
        raise PeerLost("no stream")

    def close(self) -> None:
        pass


@cache
def _ground() -> Path:
    """A root with something of each kind, and beside it what nobody may hear of."""
    ground = _scratch() / "ground"
    outside, root = ground / "outside", ground / "room" / "root"
    for directory in (outside, root / "dir"):
        directory.mkdir(parents=True)
    (outside / "canary").write_bytes(b"secret" * 1000)
    (root / "dir" / "f").write_bytes(b"inside")
    (root / "file").write_bytes(bytes(range(256)) * 100)
    (root / "link").symlink_to("../../outside")
    (root / "up").symlink_to(outside)
    os.mkfifo(root / "fifo")
    return ground


def of_source(data: bytes) -> None:
    """What a source asks of its target: the answer is about the root, and about nothing else."""
    ground = _ground()
    orders = Script(data)
    root = bytes(ground / "room" / "root")
    known = {"tokens": ["n"], "next": "n", "source": "s", "origin": "o", "path": b"/s"}
    sound: tuple[Message, ...] = (
        {"t": "open", "rule": RULE, "root": root, "adopt": True, "read_only": False, **known},
        {"t": "probe", "n": 1, "content": True, "dirs": [[b"", [b"dir"]], [b"dir", []]]},
        {"t": "sign", "n": 2, "path": b"file"},
        {"t": "stream", "number": 0, "encrypt": True, "secret": b""},
        {"t": "complete", "n": 3},
        {"t": "bye"},
    )
    ear = _Ear()
    mouth = cast(channel.Channel, ear)
    receiver = Receiver(mouth, Ledger(_scratch() / "ledger"), ground, [ground / "room"], 1.0)
    try:
        with suppress(I2Error):
            if orders.byte() & 1:
                receiver._handle({**sound[0], "adopt": True})
            for message in _messages(orders, sound):
                receiver._handle(message)
    finally:
        receiver._close()
    for answer in ear.heard:
        if answer["t"] == "probed":
            assert b"canary" not in answer["part"]
        if answer["t"] == "signed":
            assert answer["size"] != 6000
    assert sorted(os.listdir(ground)) in (["outside", "room"], ["outside", "room", "stage"])
    assert os.listdir(ground / "outside") == ["canary"]


def _messages(orders: Script, sound: tuple[Message, ...]) -> Iterator[Message]:
    for _ in range(20):
        if orders.over:
            return
        yield orders.message(orders.pick(sound))


DECODERS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("of_"): decode
    for name, decode in list(globals().items())
    if name.startswith("of_")
}
