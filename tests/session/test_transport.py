"""Channels, data streams and the listener, over real sockets and TLS."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from i2node.errors import PeerLost, ProtocolError, Refused, UsageError
from i2node.model import show
from i2node.net import seal, wire
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.stream import DataStream
from i2node.net.tls import pairing_client
from i2node.net.transport import Listener, connect, open_stream

HOST = "127.0.0.1"
LONG = 30.0


class Nodes:
    """Two paired nodes, the second of which listens; its channels come through `served`."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.client = Identity.load(path / "client")
        self.server = Identity.load(path / "server")
        self.served: queue.Queue[Channel] = queue.Queue()
        self.listener = Listener(
            HOST, 0, self.server, on_channel=self._serve, **{"beat": 5.0, **options}
        )
        self.listener.start()
        self.port = self.listener.port
        self.over = threading.Event()

    def _serve(self, channel: Channel) -> None:
        self.served.put(channel)
        self.over.wait(LONG)

    def pair(self) -> None:
        self.client.trust(self.server.cert_pem, name="server")
        self.server.trust(self.client.cert_pem, name="client", role="controller")

    def connect(self, **options: Any) -> tuple[Channel, Channel]:
        mine = connect(HOST, self.port, self.client, **options)
        return mine, self.served.get(timeout=LONG)

    def close(self) -> None:
        self.over.set()
        self.listener.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Nodes]]:
    made: list[Nodes] = []

    def build(paired: bool = True, **options: Any) -> Nodes:
        nodes = Nodes(tmp_path / str(len(made)), **options)
        made.append(nodes)
        if paired:
            nodes.pair()
        return nodes

    yield build
    for nodes in made:
        nodes.close()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Warnings of net, whatever other tests did to the log's settings."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.msg)
    logger = logging.getLogger("i2node.net")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for a condition that nothing announces."""
    pause = threading.Event()
    for _ in range(3000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError(f"never: {what}")


def end_of(sock: socket.socket) -> bytes:
    """What still comes until the other side ends the connection, however it does."""
    sock.settimeout(LONG)
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(4096):
            got += chunk
    return got


# ------------------------------------------------------------------ channels


def test_both_know_each_other(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, theirs = nodes.connect(expected=nodes.server.node_id)
    assert mine.peer_id == nodes.server.node_id
    assert theirs.peer_id == nodes.client.node_id
    assert (mine.peer_role, theirs.peer_role) == ("node", "controller")
    assert mine.session == theirs.session
    assert mine.secret == theirs.secret
    assert len(mine.secret) == 32
    assert mine.address == f"{HOST}:{nodes.port}"
    assert (mine.protocol, mine.version) == (1, theirs.version)
    mine.send({"t": "say", "path": b"caf\xe9"})
    assert theirs.recv(LONG) == {"t": "say", "path": b"caf\xe9"}
    theirs.send({"t": "answer"})
    assert mine.recv(LONG) == {"t": "answer"}
    other, _ = nodes.connect()
    assert other.secret != mine.secret
    counted = nodes.listener.statistics()
    assert (counted.accepted, counted.authenticated, counted.channels) == (2, 2, 2)
    mine.close()
    other.close()


def test_a_node_reaches_itself(make: Callable[..., Nodes]) -> None:
    nodes = make(paired=False)
    channel = connect(HOST, nodes.port, Identity.load(nodes.server.etc))
    assert channel.peer_id == nodes.server.node_id == nodes.served.get(timeout=LONG).peer_id
    channel.close()


def test_many_threads_and_large_messages(make: Callable[..., Nodes]) -> None:
    mine, theirs = make().connect()
    blob = os.urandom(3 << 20)

    def talk(channel: Channel, who: int) -> None:
        for n in range(8):
            channel.send({"t": "m", "who": who, "n": n, "blob": blob})

    threads = [
        threading.Thread(target=talk, args=(channel, who))
        for channel in (mine, theirs)
        for who in range(3)
    ]
    for t in threads:
        t.start()
    for channel in (mine, theirs):
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(24):
            message = channel.recv(LONG)
            assert message["blob"] == blob
            got[message["who"]].append(message["n"])
        assert got == {who: list(range(8)) for who in range(3)}
    for t in threads:
        t.join()
    mine.close()


def test_last_words_arrive_before_the_end(make: Callable[..., Nodes]) -> None:
    nodes = make()
    for _ in range(20):
        mine, theirs = nodes.connect()
        mine.send({"t": "unread"})  # which must not turn the end into a reset
        for n in range(50):
            theirs.send({"t": "last", "n": n, "blob": bytes(20000)})
        theirs.close()
        assert [mine.recv(LONG)["n"] for _ in range(50)] == list(range(50))
        with pytest.raises(PeerLost):
            mine.recv(LONG)
        with pytest.raises(PeerLost):
            mine.send({"t": "too late"})
        mine.close()


def test_recv_times_out(make: Callable[..., Nodes]) -> None:
    mine, theirs = make().connect()
    with pytest.raises(PeerLost, match=r"no message within 0\.01 s"):
        mine.recv(0.01)
    theirs.send({"t": "still there"})
    assert mine.recv(LONG)["t"] == "still there"
    mine.close()


def test_close_wakes_who_waits(make: Callable[..., Nodes]) -> None:
    mine, _ = make().connect()
    raised: queue.Queue[Exception] = queue.Queue()

    def wait() -> None:
        try:
            mine.recv(None)
        except PeerLost as e:
            raised.put(e)

    thread = threading.Thread(target=wait)
    thread.start()
    mine.close()
    assert "closed" in str(raised.get(timeout=LONG))
    thread.join()


def test_beats_keep_an_idle_channel(make: Callable[..., Nodes]) -> None:
    nodes = make(beat=0.4)
    mine, theirs = nodes.connect(beat=0.4)
    with pytest.raises(PeerLost, match="no message within"):
        mine.recv(1.6)  # longer than silence may last
    assert mine.alive
    assert theirs.alive
    mine.send({"t": "x"})
    assert theirs.recv(LONG)["t"] == "x"
    mine.close()


def test_silence_is_noticed(make: Callable[..., Nodes]) -> None:
    nodes = make(beat=1000.0)  # the server never beats
    mine, _ = nodes.connect(beat=0.4)
    with pytest.raises(PeerLost, match=r"silent for 1\.2 s"):
        mine.recv(LONG)
    assert not mine.alive
    mine.close()


def test_a_full_inbox_stops_the_sender_and_is_not_silence(make: Callable[..., Nodes]) -> None:
    nodes = make(beat=0.4)
    mine, theirs = nodes.connect(beat=0.4)
    blob = bytes(1 << 20)
    sent: list[int] = []

    def flood() -> None:
        for n in range(80):
            mine.send({"t": "m", "n": n, "blob": blob})
            sent.append(n)

    thread = threading.Thread(target=flood)
    thread.start()
    until(lambda: theirs._waiting >= 8 << 20, "the inbox is full")
    with pytest.raises(PeerLost, match="no message within"):
        mine.recv(1.6)
    assert len(sent) < 80
    assert theirs.alive
    assert theirs._waiting < 10 << 20
    assert [theirs.recv(LONG)["n"] for _ in range(80)] == list(range(80))
    thread.join()
    mine.close()


def test_version_skew_names_both(make: Callable[..., Nodes]) -> None:
    nodes = make()
    with pytest.raises(Refused, match=r"protocol 1 to 1.*protocol 7 to 9") as e:
        connect(HOST, nodes.port, nodes.client, protocol=(7, 9))
    assert "same version" in e.value.remedy
    mine, theirs = nodes.connect(protocol=(1, 3))
    assert mine.protocol == theirs.protocol == 1
    mine.close()


def test_nobody_there(make: Callable[..., Nodes]) -> None:
    nodes = make()
    nodes.close()
    with pytest.raises(PeerLost, match="connecting to 127"):
        connect(HOST, nodes.port, nodes.client)


def test_port_in_use(make: Callable[..., Nodes]) -> None:
    nodes = make()
    second = Listener(HOST, nodes.port, nodes.server, on_channel=lambda c: None)
    with pytest.raises(UsageError, match="in use"):
        second.start()
    second.close()


# ------------------------------------------------------------------ who is refused


def test_unpaired_nodes_refuse_each_other(make: Callable[..., Nodes], logged: list[str]) -> None:
    nodes = make(paired=False)
    with pytest.raises(Refused, match="its certificate is not one this node is paired") as e:
        connect(HOST, nodes.port, nodes.client)
    assert e.value.remedy == f"run: i2node pair {HOST} --code CODE"
    until(lambda: nodes.listener.statistics().not_paired == 1, "the server knows")
    assert logged == ['refused address=127.0.0.1 cause="the client is not paired with this node"']

    nodes.client.trust(nodes.server.cert_pem)  # now only the server does not know the client
    for n in range(20):
        with pytest.raises(Refused, match="it is not paired with this node") as e:
            connect(HOST, nodes.port, nodes.client)
        assert "i2node pair" in e.value.remedy
        until(lambda n=n: nodes.listener.statistics().not_paired == 2 + n, "counted")

    nodes.server.trust(nodes.client.cert_pem)  # and without a restart it does
    mine, _ = nodes.connect()
    mine.close()
    nodes.server.forget(nodes.client.node_id)
    with pytest.raises(Refused):
        connect(HOST, nodes.port, nodes.client)


def test_the_log_says_who_was_refused(make: Callable[..., Nodes], logged: list[str]) -> None:
    nodes = make(paired=False)
    nodes.client.trust(nodes.server.cert_pem)
    with pytest.raises(Refused):
        connect(HOST, nodes.port, nodes.client)
    until(lambda: nodes.listener.statistics().not_paired == 1, "counted")
    assert 'refused address=127.0.0.1 cause="certificate not paired' in logged[0]


def test_another_node_than_expected(make: Callable[..., Nodes]) -> None:
    nodes = make()
    with pytest.raises(Refused, match=f"it is node {nodes.server.node_id}, expected is 00"):
        connect(HOST, nodes.port, nodes.client, "00" * 32)


def test_no_certificate_and_old_tls(make: Callable[..., Nodes]) -> None:
    nodes = make()
    with (
        socket.create_connection((HOST, nodes.port)) as sock,
        pairing_client().wrap_socket(sock) as tls,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        tls.recv(1)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((HOST, nodes.port)) as sock,
        pytest.raises(ssl.SSLError, match="VERSION"),
    ):
        old.wrap_socket(sock)
    until(lambda: nodes.listener.statistics().pending == 0, "both are gone")


# ------------------------------------------------------------------ garbage and floods


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(50),
        b"\x16hello",
        b"i",
        b"i2xx\r\n\x1b" + bytes(50),
        b"i2ds\x01\0\0\x03" + bytes(32),
        b"i2ds\x02\0\0\x03" + bytes(32),
        b"i2pr\x01\0\0\0" + b"not TLS at all",
        b"i2pr\x02\0\0\0",
        bytes(range(255, 127, -1)) * 50,
    ],
    ids=lambda said: show(said[:8]),
)
def test_garbage_ends_and_the_listener_lives(
    make: Callable[..., Nodes], said: bytes, logged: list[str]
) -> None:
    nodes = make()
    with socket.create_connection((HOST, nodes.port)) as sock:
        with contextlib.suppress(OSError):  # it may be shut out by now
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
        answer = end_of(sock)
    assert len(answer) < 100
    mine, theirs = nodes.connect()
    mine.send({"t": "x"})
    assert theirs.recv(LONG)["t"] == "x"
    assert all(line.isprintable() for line in logged)
    mine.close()


def test_garbage_is_logged_once_and_escaped(make: Callable[..., Nodes], logged: list[str]) -> None:
    nodes = make()
    for _ in range(5):
        with socket.create_connection((HOST, nodes.port)) as sock:
            sock.sendall(b"\x1b[2J\nfake line")
            assert end_of(sock) == b""
    assert nodes.listener.statistics().garbage == 5
    said = r'"\x1b[2J\nfake line"'
    assert logged == [f'refused address=127.0.0.1 cause="not i2node" said={said}']


def test_slow_visitors_are_shut_out(make: Callable[..., Nodes]) -> None:
    nodes = make(patience=0.3)
    for said in (b"", b"i", b"i2pr\x01\0\0\0\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"):
        with socket.create_connection((HOST, nodes.port)) as sock:
            sock.sendall(said)
            assert end_of(sock) == b""
    until(lambda: nodes.listener.statistics().silent == 4, "all four were silent")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["mute", "half"])
def test_idle_connections_do_not_stop_a_real_peer(make: Callable[..., Nodes], said: bytes) -> None:
    nodes = make(patience=LONG)
    with contextlib.ExitStack() as stack:
        for _ in range(500 if not said else 60):
            sock = stack.enter_context(socket.create_connection((HOST, nodes.port)))
            sock.sendall(said)
        mine, theirs = nodes.connect()
        mine.send({"t": "x"})
        assert theirs.recv(LONG)["t"] == "x"
        with contextlib.closing(open_stream(mine, 0)) as stream:
            stream.send([b"x"])
        counted = nodes.listener.statistics()
        assert counted.pending <= 64
        if not said:
            assert counted.shed >= 500 - 64
        mine.close()


def test_channels_are_bounded(make: Callable[..., Nodes]) -> None:
    nodes = make(most_channels=2)
    first, _ = nodes.connect()
    second, _ = nodes.connect()
    with pytest.raises(PeerLost):
        connect(HOST, nodes.port, nodes.client)
    assert nodes.listener.statistics().shed == 1
    assert first.alive
    assert second.alive
    first.close()
    second.close()


def raw_client(nodes: Nodes) -> ssl.SSLSocket:
    """A paired client that may say what it likes."""
    context = pairing_client()
    context.load_cert_chain(nodes.client.key_file)
    return context.wrap_socket(socket.create_connection((HOST, nodes.port), LONG))


HELLO = {"t": "hello", "protocol": [1, 1], "version": "1", "features": []}


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x05junk!",
        wire.encode_message({"t": "other"}),
        wire.encode_message({**HELLO, "node": "0" * 64}),
        wire.encode_message({**HELLO, "protocol": ["a", 1], "node": "0" * 64}),
        wire.encode_message({**HELLO, "protocol": [True, True], "node": "0" * 64}),
        wire.encode_message({"t": "hello"}),
    ],
    ids=range(8),
)
def test_a_hostile_peer_is_cut_off(
    make: Callable[..., Nodes], said: bytes, logged: list[str]
) -> None:
    nodes = make()
    with raw_client(nodes) as tls:
        tls.sendall(said)
        end_of(tls)
    until(lambda: nodes.listener.statistics().channels == 0, "the channel is gone")
    assert nodes.served.empty()
    assert [line.split()[:2] for line in logged] == [["channel-ended", "address=127.0.0.1"]]
    mine, _ = nodes.connect()
    mine.close()


# ------------------------------------------------------------------ data streams


def streams(nodes: Nodes, number: int = 0) -> tuple[Channel, DataStream, DataStream]:
    mine, theirs = nodes.connect()
    out = open_stream(mine, number)
    return mine, out, theirs.accept_stream(number, LONG)


@pytest.mark.parametrize("encrypt", [True, False])
def test_frames_both_ways(make: Callable[..., Nodes], encrypt: bool) -> None:
    mine, out, back = streams(make(), 7)
    payloads = [os.urandom(n) for n in (0, 1, 100_000, 1 << 20, wire.FRAME_MAX)] + [b"x" * 99999]
    for sender, receiver in ((out, back), (back, out)):
        sealer = sender.sealer(encrypt=encrypt, rule_secret=b"s")
        opener = receiver.opener(encrypt=encrypt, rule_secret=b"s")

        def send(sender: DataStream = sender, sealer: seal.Sealer = sealer) -> None:
            for payload in payloads:
                sender.send(sealer.seal(5, payload))

        thread = threading.Thread(target=send)
        thread.start()
        for payload in payloads:
            header, body = receiver.recv_frame(LONG)
            assert opener.open(header, body) == (5, payload)
            receiver.reuse(body)
        thread.join()
        assert sender.sent == receiver.received
    mine.close()


def test_a_nonce_is_never_used_twice(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, out, _ = streams(nodes, 3)
    out.sealer()
    out.opener()
    with pytest.raises(ProtocolError, match="sealer already"):
        out.sealer()
    with pytest.raises(ProtocolError, match="opener already"):
        out.opener()
    with pytest.raises(PeerLost, match="not accepted"):
        open_stream(mine, 3)
    out.close()
    with pytest.raises(PeerLost, match="not accepted"):
        open_stream(mine, 3)
    mine.close()


def test_frames_of_a_stream_do_not_fit_another(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, out, back = streams(nodes, 1)
    other = open_stream(mine, 2)
    frame = b"".join(bytes(b) for b in other.sealer().seal(1, b"x"))
    out.send([frame])
    header, body = back.recv_frame(LONG)
    with pytest.raises(ProtocolError, match="of stream 2 on stream 1"):
        back.opener().open(header, body)
    mine.close()


def test_stream_ends_are_told(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, out, back = streams(nodes)
    packed = b"".join(bytes(b) for b in out.sealer().seal(1, b"payload"))
    out.send([packed])
    out.send([packed[:-1]])
    out.close()
    assert back.recv_frame(LONG)[0].raw == 7
    with pytest.raises(PeerLost, match="inside a frame"):
        back.recv_frame(LONG)
    with pytest.raises(PeerLost, match="closed"):
        out.send([b"x"])
    again = open_stream(mine, 1)
    again.close()
    until(lambda: nodes.listener.statistics().streams == 2, "both are counted")
    mine.close()


def test_unsound_header_is_found_before_its_body(make: Callable[..., Nodes]) -> None:
    mine, out, back = streams(make())
    out.send([b"\xff" * wire.HEADER_SIZE])
    with pytest.raises(ProtocolError, match="no frame begins with"):
        back.recv_frame(LONG)
    with pytest.raises(PeerLost, match="no frame within"):
        out.recv_frame(0.01)
    mine.close()


def test_streams_end_with_their_channel(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, theirs = nodes.connect()
    out, back = open_stream(mine, 0), theirs.accept_stream(0, LONG)
    raised: queue.Queue[str] = queue.Queue()

    def wait(stream: DataStream) -> None:
        try:
            stream.recv_frame()
        except PeerLost as e:
            raised.put(str(e))

    threads = [threading.Thread(target=wait, args=(s,)) for s in (out, back)]
    for t in threads:
        t.start()
    theirs.close()
    for t in threads:
        t.join()
    assert raised.qsize() == 2
    with pytest.raises(PeerLost):
        theirs.accept_stream(1, LONG)
    mine.close()


def test_nobody_takes_anothers_stream(make: Callable[..., Nodes]) -> None:
    nodes = make()
    mine, theirs = nodes.connect()
    good = seal.make_preface(mine.secret, mine.session, 4, seal.Direction.OUT)
    for bad in (
        wire.Preface(4, mine.session, bytes(16)),
        wire.Preface(5, mine.session, good.mac),
        wire.Preface(4, bytes(16), good.mac),
        seal.make_preface(mine.secret, mine.session, 4, seal.Direction.BACK),
    ):
        with socket.create_connection((HOST, nodes.port)) as sock:
            sock.sendall(bad.pack())
            assert end_of(sock) == b""
    stream = open_stream(mine, 4)
    assert theirs.accept_stream(4, LONG).number == 4
    with socket.create_connection((HOST, nodes.port)) as sock:  # replayed by who saw it pass
        sock.sendall(good.pack())
        assert end_of(sock) == b""
    stream.send([b"x"])
    with pytest.raises(ProtocolError, match="opens no data streams"):
        open_stream(theirs, 9)
    mine.close()


def test_streams_are_bounded(make: Callable[..., Nodes]) -> None:
    mine, _ = make().connect()
    for n in range(64):
        open_stream(mine, n)
    with pytest.raises(PeerLost, match="not accepted"):
        open_stream(mine, 64)
    mine.close()


def test_accept_stream_times_out(make: Callable[..., Nodes]) -> None:
    mine, theirs = make().connect()
    with pytest.raises(PeerLost, match="no data stream 3 within"):
        theirs.accept_stream(3, 0.01)
    mine.close()


def test_a_fault_in_the_callback_costs_that_channel(tmp_path: Path, logged: list[str]) -> None:
    identity = Identity.load(tmp_path)

    def serve(channel: Channel) -> None:
        if channel.recv(LONG)["t"] == "bad":
            raise ZeroDivisionError

    listener = Listener(HOST, 0, identity, on_channel=serve)
    listener.start()
    try:
        for word in ("bad", "good", "bad"):
            channel = connect(HOST, listener.port, identity)
            channel.send({"t": word})
            with pytest.raises(PeerLost):
                channel.recv(LONG)
            channel.close()
        until(lambda: listener.statistics().channels == 0, "all are gone")
        assert logged.count("fault at=channel address=127.0.0.1") == 2
    finally:
        listener.close()


def test_all_addresses(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path)
    listener = Listener("", 0, identity, on_channel=lambda c: None)
    listener.start()
    try:
        connect(HOST, listener.port, identity).close()
        if socket.has_dualstack_ipv6():
            channel = connect("::1", listener.port, identity)
            assert channel.address == f"[::1]:{listener.port}"
            channel.close()
    finally:
        listener.close()
