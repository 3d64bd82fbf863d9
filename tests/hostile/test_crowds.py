"""Many at once, and slow ones: an honest session goes on, and memory and disk stay as they are."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from channels import Nodes
from ends import until
from nursery import Nursery
from peer import HOST, LONG, Agent, Peer, faults
from test_apply import put

from i2node.errors import I2Error
from i2node.net import wire
from i2node.net.identity import Identity
from i2node.net.seal import Direction, make_preface
from i2node.net.tls import pairing_client

CROWD = 500
ADDRESSES = 100


class Street:
    """An agent, and an honest peer whose session is running."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.place = place
        self.agent = Agent(place, nursery)
        self.identity = self.agent.peer(place / "honest")
        self.honest = Peer(self.agent, self.identity)
        assert self.honest.open(self.agent.room / "root")["status"] == "fresh"
        self.honest.begin()
        self._n = 0
        self.works()

    def works(self) -> None:
        """A file of the honest one arrives."""
        self._n += 1
        name = b"f%d" % self._n
        said = self.honest.send(put(name, name))
        assert not faults(said) and said[-1]["t"] == "durable"
        assert (self.agent.room / "root" / name.decode()).read_bytes() == name

    def stranger(self, n: int) -> socket.socket:
        """A connection from one of many addresses."""
        source = f"127.0.1.{1 + n % ADDRESSES}"
        return socket.create_connection((HOST, self.agent.port), LONG, (source, 0))

    def close(self) -> None:
        self.honest.close()
        self.agent.close()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Street]:
    made = Street(tmp_path_factory.mktemp("crowds"), nursery)
    yield made
    made.close()


def client_hello() -> bytes:
    """The first bytes of a TLS handshake."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        pairing_client().wrap_bio(into, out).do_handshake()
    return out.read()


STAGES: dict[str, Callable[[Street], bytes]] = {
    "nothing": lambda street: b"",
    "half a ClientHello": lambda street: client_hello()[:100],
    "a ClientHello and no more": lambda street: client_hello(),
    "half a preface": lambda street: wire.STREAM_MAGIC + bytes(10),
    "half a pairing": lambda street: wire.PAIRING_PREFACE[:5],
    "a pairing without TLS": lambda street: wire.PAIRING_PREFACE,
    "half a record": lambda street: b"\x16\x03\x01\x40\x00" + bytes(500),
    "a stream of no session": lambda street: wire.Preface(0, bytes(16), bytes(16)).pack(),
    "another protocol": lambda street: b"GET / HTTP/1.1\r\n\r\n",
}


def test_a_crowd_at_the_door(street: Street) -> None:
    """All stages together, 500 at once; whoever is honest gets in as before."""
    words = [say(street) for say in STAGES.values()]
    before = street.agent.memory(anew=True)
    lines = street.agent.said().count("\n")
    with ExitStack() as held:
        for n in range(CROWD):
            stranger = held.enter_context(closing(street.stranger(n)))
            with suppress(OSError):
                stranger.sendall(words[n % len(words)])
            if n % 100 == 0:
                street.works()
        street.works()
        newcomer = Peer(street.agent, street.identity)
        newcomer.close()
    assert street.agent.memory() < before + (100 << 10)
    # One line for each address, however often it comes.
    assert street.agent.said().count("\n") - lines <= ADDRESSES + 10


def test_slow_ones_who_are_paired(street: Street) -> None:
    """Half a hello, half a message, half a frame, and no word more."""
    slow = street.agent.peer(street.place / "slow")
    before = street.agent.memory(anew=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(slow.key_file)
    with ExitStack() as held:
        for n in range(30):
            tls = held.enter_context(closing(context.wrap_socket(street.stranger(n))))
            # As long as may be, announced and begun.
            tls.sendall(wire.MESSAGE_MAX.to_bytes(4, "big") + b"\x81\xa1t\xc6")
        for n in range(10):
            peer = Peer(street.agent, slow)
            held.callback(peer.close)
            assert peer.open(street.agent.room / f"slow{n}", rule=f"slow{n:012}")["t"] == "opened"
            peer.begin()
            assert peer.stream is not None
            head = wire.pack_header(1, 0, 0, wire.FRAME_MAX + 16, wire.FRAME_MAX, 0)
            peer.stream.send([head, bytes(1000)])
        street.works()
        assert street.agent.memory() < before + (150 << 10)
    street.works()


def test_an_inbox_counts_what_it_takes_in_memory(tmp_path: Path) -> None:
    """Messages of 60 KB are 4 MB when they are decoded."""
    nodes = Nodes(tmp_path)
    nodes.pair()
    mine, theirs = nodes.connect()
    body = b"\x82\xa1t\xa1m\xa1v\xdc\xea\x60" + b"\x80" * 60_000
    with mine._lock:
        mine._out += (len(body).to_bytes(4, "big") + body) * 200
        mine._pump.call(mine)
    try:
        until("it takes all", lambda: theirs._waiting >= 8 << 20)
        assert len(theirs._inbox) <= 3
    finally:
        nodes.close()
        mine.close()


def test_nobody_fills_the_log_or_the_state(street: Street) -> None:
    """A stranger who wants to be paired, and a paired one who is refused, again and again."""
    state = street.agent.home / "var"
    before = sorted(state.rglob("*"))
    for _ in range(25):
        with closing(street.stranger(0)) as stranger, suppress(OSError):
            stranger.sendall(wire.PAIRING_PREFACE)
            with pairing_client().wrap_socket(stranger) as tls:
                tls.sendall(wire.encode_message({"t": "pair", "cert": b"x" * 5000}))
                tls.recv(1)
        peer = Peer(street.agent, street.identity)
        assert peer.open(b"/etc", rule="e" * 16)["code"] == "refused"
        peer.close()
    street.works()
    said = street.agent.said()
    assert 0 < said.count(" pairing-failed ") <= 10 and 0 < said.count(" session-ended ") <= 10
    assert sorted(state.rglob("*")) == before


DEEP = {
    "deep": b"\x91" * 100_000 + b"\xc0",
    "deep maps": b"\x81\xa1t" * 1000 + b"\xc0",
    "a count that is none": b"\xdd\xff\xff\xff\xff",
    "a map of counts": b"\x81\xa1t\xdf\xff\xff\xff\xff",
    "a long text": b"\x81\xa1t\xdb\xff\xff\xff\xff",
    "long bytes": b"\x81\xa1t\xc6\xff\xff\xff\xff",
    "an extension": b"\x81\xa1t\xc9\xff\xff\xff\xff\0",
    "a key that is a list": b"\x81\x90\xc0",
    "text that is none": b"\x81\xa1t\xa1\xff",
    "nothing at all": b"\xc1",
}


@pytest.mark.parametrize("name", DEEP)
def test_a_message_that_cannot_be_ends_the_channel(street: Street, name: str) -> None:
    peer = Peer(street.agent, street.identity)
    before = street.agent.memory(anew=True)
    with peer.channel._lock:
        peer.channel._out += len(DEEP[name]).to_bytes(4, "big") + DEEP[name]
        peer.channel._pump.call(peer.channel)
    with pytest.raises(I2Error):
        while True:
            peer.hear()
    peer.close()
    assert street.agent.memory() < before + (20 << 10)
    street.works()


def test_who_is_not_paired_or_not_any_more(street: Street, tmp_path: Path) -> None:
    stranger = Identity.load(tmp_path / "stranger")
    stranger.trust(street.agent.identity.cert_pem)
    with pytest.raises(I2Error, match="not paired"):
        Peer(street.agent, stranger)
    forgotten = street.agent.peer(tmp_path / "forgotten")
    Peer(street.agent, forgotten).close()
    assert street.agent.identity.forget(forgotten.node_id)
    with pytest.raises(I2Error, match="not paired"):
        Peer(street.agent, forgotten)
    street.works()


def test_a_stolen_preface_opens_nothing(street: Street) -> None:
    channel = street.honest.channel
    for number, direction in ((0, Direction.OUT), (1, Direction.BACK)):
        seen = make_preface(channel.secret, channel.session, number, direction)
        with closing(street.stranger(7)) as thief:
            thief.sendall(seen.pack())
            assert thief.recv(1) == b""
    street.works()
