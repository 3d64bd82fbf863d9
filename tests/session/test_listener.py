"""The listener: whom it lets in, whom it refuses, and what garbage and floods do to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from channels import HOST, LONG, Nodes, end_of
from ends import until

from i2node.errors import PeerLost, Refused, UsageError
from i2node.model import show
from i2node.net import wire
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.tls import pairing_client
from i2node.net.transport import Listener, connect, open_stream


def test_port_in_use(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    second = Listener(HOST, nodes.port, nodes.server, on_channel=lambda c: None)
    with pytest.raises(UsageError, match="in use"):
        second.start()
    second.close()


def test_a_door_that_moves_loses_nobody(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    nodes.pair()
    client, server = nodes.connect()
    listener, before = nodes.listener, nodes.port

    def goes_on() -> None:
        client.send({"t": "still"})
        assert server.recv(LONG)["t"] == "still"
        streams = len(server._numbers)
        open_stream(client, streams)
        server.accept_stream(streams)

    with socket.create_server((HOST, 0)) as taken, pytest.raises(UsageError, match="in use"):
        listener.move(HOST, taken.getsockname()[1])
    assert listener.port == before
    nodes.connect()[0].close()
    with pytest.raises(UsageError, match="neither an address nor a name"):
        listener.move("10..0.1", before)
    nodes.connect()[0].close()
    listener.move("", before)  # the same port of all addresses, which is the old one too
    nodes.connect()[0].close()
    goes_on()
    listener.move(HOST, 0)
    assert listener.port != before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, before))
    connect(HOST, listener.port, nodes.client).close()
    nodes.served.get(timeout=LONG)
    server.send({"t": "still"})
    assert client.recv(LONG)["t"] == "still"


def test_unpaired_nodes_refuse_each_other(
    make_nodes: Callable[..., Nodes], logged: list[str]
) -> None:
    nodes = make_nodes(paired=False)
    with pytest.raises(Refused, match="its certificate is not one this node is paired") as e:
        connect(HOST, nodes.port, nodes.client)
    assert e.value.remedy == f"run: i2node pair {HOST}"
    until("the server does not know", lambda: nodes.listener.statistics().not_paired == 1)
    assert logged == ['refused address=127.0.0.1 cause="the client is not paired with this node"']

    nodes.client.trust(nodes.server.cert_pem)  # now only the server does not know the client
    for n in range(20):
        with pytest.raises(Refused, match="it is not paired with this node") as e:
            connect(HOST, nodes.port, nodes.client)
        assert "i2node pair" in e.value.remedy
        until("not counted", lambda n=n: nodes.listener.statistics().not_paired == 2 + n)

    nodes.server.trust(nodes.client.cert_pem)  # and without a restart it does
    mine, _ = nodes.connect()
    mine.close()
    nodes.server.forget(nodes.client.node_id)
    with pytest.raises(Refused):
        connect(HOST, nodes.port, nodes.client)


def test_the_log_says_who_was_refused(make_nodes: Callable[..., Nodes], logged: list[str]) -> None:
    nodes = make_nodes(paired=False)
    nodes.client.trust(nodes.server.cert_pem)
    with pytest.raises(Refused):
        connect(HOST, nodes.port, nodes.client)
    until("not counted", lambda: nodes.listener.statistics().not_paired == 1)
    assert 'refused address=127.0.0.1 cause="certificate not paired' in logged[0]


def test_another_node_than_expected(make_nodes: Callable[..., Nodes], tmp_path: Path) -> None:
    nodes = make_nodes()
    with pytest.raises(Refused, match=r"expected is node 0+, which is not paired"):
        connect(HOST, nodes.port, nodes.client, "00" * 32)
    other = Identity.load(tmp_path / "other")
    nodes.client.trust(other.cert_pem)
    with pytest.raises(Refused, match=f"it is another node than {other.node_id}"):
        connect(HOST, nodes.port, nodes.client, other.node_id)


def test_no_certificate_and_old_tls(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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
    until("one of the two stayed", lambda: nodes.listener.statistics().pending == 0)


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
    make_nodes: Callable[..., Nodes], said: bytes, logged: list[str]
) -> None:
    nodes = make_nodes()
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


def test_garbage_is_logged_once_and_escaped(
    make_nodes: Callable[..., Nodes], logged: list[str]
) -> None:
    nodes = make_nodes()
    for _ in range(5):
        with socket.create_connection((HOST, nodes.port)) as sock:
            sock.sendall(b"\x1b[2J\nfake line")
            assert end_of(sock) == b""
    assert nodes.listener.statistics().garbage == 5
    said = r'"\x1b[2J\nfake line"'
    assert logged == [f'refused address=127.0.0.1 cause="not i2node" said={said}']


def test_slow_visitors_are_shut_out(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(patience=0.3)
    for said in (b"", b"i", b"i2pr\x01\0\0\0\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"):
        with socket.create_connection((HOST, nodes.port)) as sock:
            sock.sendall(said)
            assert end_of(sock) == b""
    until("not all four were silent", lambda: nodes.listener.statistics().silent == 4)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["mute", "half"])
def test_idle_connections_do_not_stop_a_real_peer(
    make_nodes: Callable[..., Nodes], said: bytes
) -> None:
    nodes = make_nodes(patience=LONG)
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


def test_channels_are_bounded(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(most_channels=2)
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
    make_nodes: Callable[..., Nodes], said: bytes, logged: list[str]
) -> None:
    nodes = make_nodes()
    with raw_client(nodes) as tls:
        tls.sendall(said)
        end_of(tls)
    until("the channel stayed", lambda: nodes.listener.statistics().channels == 0)
    until("it was not told", lambda: bool(logged))
    assert nodes.served.empty()
    assert [line.split()[:2] for line in logged] == [["channel-ended", "address=127.0.0.1"]]
    mine, _ = nodes.connect()
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
        until("a channel stayed", lambda: listener.statistics().channels == 0)
        assert logged.count("fault address=127.0.0.1 at=channel") == 2
    finally:
        listener.close()


@pytest.mark.parametrize("host", ["10..0.1", "x" * 64])
def test_what_can_be_no_name_of_a_host(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="neither an address nor a name"):
        connect(host, 1, Identity.load(tmp_path))


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
