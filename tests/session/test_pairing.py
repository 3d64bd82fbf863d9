"""First contact by code, over real sockets and TLS, with liars on either side and in the middle."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels import HOST, LONG
from ends import until
from hypothesis import given, settings
from hypothesis import strategies as st

from i2node.errors import I2Error, PeerLost, ProtocolError, Refused, UsageError
from i2node.net import pairing, wire
from i2node.net.identity import Identity, der_to_pem
from i2node.net.pairing import Attempts, pair
from i2node.net.tls import pairing_client, pairing_server
from i2node.net.transport import Listener, connect


class Node:
    """A node with its listener."""

    def __init__(self, path: Path) -> None:
        self.identity = Identity.load(path)
        self.listener = Listener(HOST, 0, self.identity, on_channel=lambda c: None, name=path.name)
        self.listener.start()
        self.port = self.listener.port
        self.code = self.identity.code


class Door:
    """Where a node is expected; one visitor is received, by `_run` in a thread of its own."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.door = socket.create_server((HOST, 0))
        self.port: int = self.door.getsockname()[1]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        raise NotImplementedError


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "asked")
    yield made
    made.listener.close()


@pytest.fixture
def mine(tmp_path: Path) -> Identity:
    return Identity.load(tmp_path / "mine")


def wrong(code: str) -> str:
    return ("b" if code[0] == "a" else "a") + code[1:]


def test_both_store_each_other(node: Node, mine: Identity) -> None:
    peer = pair(HOST, node.port, node.code, mine, role="controller", name="the boss", own_port=4711)
    assert (peer.node_id, peer.name, peer.role) == (node.identity.node_id, "asked", "node")
    assert peer.address == f"{HOST}:{node.port}"
    assert mine.peers() == (peer,)
    (stored,) = node.identity.peers()
    assert (stored.node_id, stored.cert_der) == (mine.node_id, mine.cert_der)
    assert (stored.name, stored.role) == ("the boss", "controller")
    assert stored.address == f"{HOST}:4711"
    until("not counted", lambda: node.listener.statistics().paired == 1)
    channel = connect(HOST, node.port, mine, node.identity.node_id)
    assert channel.peer_id == node.identity.node_id
    channel.close()


def test_again_is_fine(node: Node, mine: Identity) -> None:
    for name in ("one", "two"):
        pair(HOST, node.port, node.code, mine, name=name)
        assert [p.name for p in node.identity.peers()] == [name]


def test_a_wrong_code(node: Node, mine: Identity, logged: list[str]) -> None:
    with pytest.raises(Refused, match="the pairing code is wrong") as e:
        pair(HOST, node.port, wrong(node.code), mine)
    assert "id=CODE" in e.value.remedy
    assert mine.peers() == node.identity.peers() == ()
    until("the node did not say so", lambda: node.listener.statistics().wrong_code == 1)
    assert logged[-1].startswith("pairing-refused address=127.0.0.1 cause=")
    assert all(node.code not in line for line in logged)
    with pytest.raises(Refused, match="not one this node is paired with"):
        connect(HOST, node.port, mine)


def test_guessing_is_stopped(node: Node, mine: Identity) -> None:
    for _ in range(5):
        with pytest.raises(Refused, match="code is wrong"):
            pair(HOST, node.port, wrong(node.code), mine)
    with pytest.raises(Refused, match="too many wrong pairing codes") as e:
        pair(HOST, node.port, node.code, mine)  # the right one, but it is late for that
    assert "try again in" in e.value.remedy
    until("not counted", lambda: node.listener.statistics().wrong_code == 6)
    assert node.identity.peers() == ()


def test_a_node_does_not_pair_with_itself(node: Node) -> None:
    with pytest.raises(UsageError, match="this node itself"):
        pair(HOST, node.port, node.code, node.identity)
    assert node.identity.peers() == ()


def test_nobody_there(node: Node, mine: Identity) -> None:
    node.listener.close()
    with pytest.raises(PeerLost, match="pairing with"):
        pair(HOST, node.port, node.code, mine)


# ------------------------------------------------------------------ someone in the middle


class Middle(Door):
    """Sits between client and node: shows a certificate of its own, passes messages on.

    `swap` puts its own certificate in place of each side's as well.
    """

    def __init__(self, identity: Identity, port: int, swap: bool) -> None:
        self.server_port = port
        self.swap = swap
        super().__init__(identity)

    def _run(self) -> None:
        with (
            contextlib.suppress(OSError, I2Error),
            self.door,
            self.door.accept()[0] as plain,
            socket.create_connection((HOST, self.server_port)) as far,
        ):
            far.settimeout(LONG)
            plain.settimeout(LONG)
            far.sendall(plain.recv(len(wire.PAIRING_PREFACE), socket.MSG_WAITALL))
            with (
                pairing_server(self.identity).wrap_socket(plain, server_side=True) as client,
                pairing_client().wrap_socket(far) as server,
            ):
                for source, target in ((client, server), (server, client)) * 2:
                    target.sendall(self._pass(self._read(source)))

    def _read(self, source: ssl.SSLSocket) -> bytes:
        got = b""
        while len(got) < 4 or len(got) < 4 + wire.message_length(got):
            chunk = source.recv(65536)
            if not chunk:
                raise ConnectionResetError
            got += chunk
        return got

    def _pass(self, packed: bytes) -> bytes:
        message = wire.decode_message(packed[4:])
        if self.swap and "cert" in message:
            message["cert"] = self.identity.cert_der
        if self.swap and "signature" in message:
            message["signature"] = self.identity.sign(b"whatever")
        return wire.encode_message(message)


@pytest.mark.parametrize("swap", [False, True])
def test_the_man_in_the_middle_gains_nothing(
    node: Node, mine: Identity, tmp_path: Path, swap: bool
) -> None:
    evil = Identity.load(tmp_path / "evil")
    middle = Middle(evil, node.port, swap)
    with pytest.raises(Refused, match="code is wrong" if swap else "another certificate"):
        pair(HOST, middle.port, node.code, mine)
    middle.thread.join()
    assert mine.peers() == ()
    assert node.identity.peers() == ()


# ------------------------------------------------------------------ liars


class Liar:
    """A client that follows the protocol except where `change` changes what it says."""

    def __init__(self, port: int) -> None:
        sock = socket.create_connection((HOST, port), LONG)
        sock.sendall(wire.PAIRING_PREFACE)
        self.tls = pairing_client().wrap_socket(sock)

    def say(self, message: dict[str, Any]) -> bytes:
        packed = wire.encode_message(message)
        self.tls.sendall(packed)
        return packed[4:]

    def hear(self) -> dict[str, Any]:
        return wire.decode_message(self.hear_bytes())

    def hear_bytes(self) -> bytes:
        size = wire.message_length(self._read(4))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            chunk = self.tls.recv(size - len(got))
            assert chunk, "the node said nothing more"
            got += chunk
        return got


def introduction(identity: Identity) -> dict[str, Any]:
    return {
        "t": "pair",
        "cert": identity.cert_der,
        "nonce": bytes(32),
        "name": "n",
        "role": "node",
        "port": 1,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"t": "hello"},
        {"cert": b"junk"},
        {"cert": "text"},
        {"nonce": bytes(31)},
        {"nonce": None},
        {"name": 5},
        {"name": "n" * 256},
        {"name": "n\x1b[2J"},
        {"role": "king"},
        {"role": None},
        {"port": -1},
        {"port": 65536},
        {"port": True},
        {"port": "1"},
    ],
)
def test_unsound_introductions(node: Node, mine: Identity, change: dict[str, Any]) -> None:
    liar = Liar(node.port)
    with liar.tls:
        liar.say({**introduction(mine), **change})
        answer = liar.hear()
    assert answer["t"] == "refused"
    assert node.identity.peers() == ()
    pair(HOST, node.port, node.code, mine)  # and it does not count as a guess, nor harm the door


@pytest.mark.parametrize(
    "change", [{"mac": None}, {"mac": b""}, {"signature": b""}, {"signature": 1}]
)
def test_unsound_proofs(node: Node, mine: Identity, change: dict[str, Any]) -> None:
    liar = Liar(node.port)
    with liar.tls:
        said = liar.say(introduction(mine))
        heard = liar.hear_bytes()
        shown = liar.tls.getpeercert(binary_form=True) or b""
        transcript = pairing._transcript(said, heard, shown)
        mac = pairing._mac(node.code, "client", transcript)
        proof = {"t": "proof", "mac": mac, "signature": mine.sign(transcript)}
        liar.say({**proof, **change})
        assert liar.hear()["t"] == "refused"
    assert node.identity.peers() == ()


def test_someone_elses_certificate(node: Node, mine: Identity, tmp_path: Path) -> None:
    """Who knows the code can enrol himself, but not a key that he does not hold."""
    other = Identity.load(tmp_path / "other")
    liar = Liar(node.port)
    with liar.tls:
        said = liar.say(introduction(other))
        heard = liar.hear_bytes()
        shown = liar.tls.getpeercert(binary_form=True) or b""
        transcript = pairing._transcript(said, heard, shown)
        mac = pairing._mac(node.code, "client", transcript)
        liar.say({"t": "proof", "mac": mac, "signature": mine.sign(transcript)})
        assert "not the client's own" in liar.hear()["cause"]
    assert node.identity.peers() == ()


def test_the_servers_proof_is_of_use_to_nobody_else(node: Node, mine: Identity) -> None:
    """The two sides' proofs differ, so a client that only echoes does not get in."""
    liar = Liar(node.port)
    with liar.tls:
        said = liar.say(introduction(mine))
        transcript = pairing._transcript(said, liar.hear_bytes(), node.identity.cert_der)
        mac = pairing._mac(node.code, "server", transcript)
        liar.say({"t": "proof", "mac": mac, "signature": mine.sign(transcript)})
        assert "code is wrong" in liar.hear()["cause"]


def test_large_and_endless_messages_are_cut(node: Node, mine: Identity) -> None:
    liar = Liar(node.port)
    with liar.tls:
        liar.tls.sendall((pairing.MESSAGE_MAX + 1).to_bytes(4, "big"))
        assert "limit" in liar.hear()["cause"]
    pair(HOST, node.port, node.code, mine)


class FalseNode(Door):
    """Listens and knows no code: it can speak, but not prove."""

    def __init__(self, identity: Identity, last: dict[str, Any]) -> None:
        self.last = last
        super().__init__(identity)

    def _run(self) -> None:
        with self.door, self.door.accept()[0] as plain:
            plain.recv(len(wire.PAIRING_PREFACE), socket.MSG_WAITALL)
            with pairing_server(self.identity).wrap_socket(plain, server_side=True) as tls:
                line = pairing._Line(tls, "false node", HOST, LONG)
                line.recv("pair")
                line.send({**introduction(self.identity), "name": "trust me"})
                line.recv("proof")
                line.send(self.last)
                with contextlib.suppress(OSError):
                    tls.recv(1)


@pytest.mark.parametrize(
    ("last", "error", "why"),
    [
        ({"t": "proof", "mac": bytes(32)}, Refused, "does not know its own code"),
        ({"t": "proof"}, Refused, "does not know its own code"),
        ({"t": "other"}, ProtocolError, "other came where proof is due"),
        ({"t": "refused", "cause": "\x1b[2Jno"}, Refused, r"\\x1b\[2Jno"),
    ],
)
def test_a_false_node_is_not_trusted(
    mine: Identity, tmp_path: Path, last: dict[str, Any], error: type[I2Error], why: str
) -> None:
    false = FalseNode(Identity.load(tmp_path / "false"), last)
    with pytest.raises(error, match=why):
        pair(HOST, false.port, "x" * 32, mine)
    false.thread.join()
    assert mine.peers() == ()


def test_a_paired_authority_would_open_no_door(node: Node, mine: Identity) -> None:
    """Only the pinned certificate itself counts, not what else is signed by its key."""
    pair(HOST, node.port, node.code, mine)
    assert node.identity.peer_of(mine.cert_der) is not None
    assert node.identity.peer_of(node.identity.cert_der) is not None
    assert node.identity.peer_of(b"junk") is None
    assert der_to_pem(mine.cert_der) == node.identity.peers()[0].cert_pem


# ------------------------------------------------------------------ the brake, without sockets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_address_is_shut_out_and_let_in_again() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(5):
        assert attempts.refused("a") == 0
        attempts.failed("a")
        clock.now += 10
    assert attempts.refused("a") == pytest.approx(290)
    assert attempts.refused("b") == 0
    clock.now += 291
    assert attempts.refused("a") == 0
    attempts.failed("a")
    assert attempts.refused("a") == 0  # one failure is not five within a minute


def test_five_failures_in_an_hour_shut_nobody_out() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(20):
        attempts.failed("a")
        clock.now += 16
        assert attempts.refused("a") == 0


def test_many_addresses_shut_out_everyone_for_a_while() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for n in range(50):
        assert attempts.refused("x") == 0
        attempts.failed(f"address {n}")
    assert attempts.refused("x") == pytest.approx(60)
    clock.now += 61
    assert attempts.refused("x") == 0


@settings(deadline=None)
@given(st.integers(1, 20000))
def test_memory_of_attempts_is_bounded(count: int) -> None:
    attempts = Attempts(Clock())
    for n in range(count):
        attempts.failed(str(n))
    assert len(attempts._failed) <= Attempts.KEPT
    assert len(attempts._every) <= Attempts.ALL
