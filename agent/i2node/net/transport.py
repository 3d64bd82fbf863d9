"""Getting to a peer: connect to it, open data streams to it, listen for it.

listener = Listener("", PORT, identity, on_channel=serve); listener.start()
channel = connect(host, PORT, identity)             the other side's serve(channel) runs
stream = open_stream(channel, 0)                    there: channel.accept_stream(0)
"""

from __future__ import annotations

import ssl

from i2node.errors import PeerLost, ProtocolError, Refused
from i2node.net.channel import BEAT, Channel, agree
from i2node.net.identity import Identity
from i2node.net.listener import Listener, Statistics
from i2node.net.pump import Pump
from i2node.net.seal import Direction, make_preface, preface_is_proven
from i2node.net.stream import DataStream
from i2node.net.tls import Contexts, client_of, dial, translate
from i2node.net.wire import PORT, PREFACE_SIZE, PROTOCOL, parse_preface

__all__ = [
    "PORT",
    "Channel",
    "DataStream",
    "Listener",
    "Pump",
    "Statistics",
    "connect",
    "open_stream",
]


def connect(
    host: str,
    port: int,
    identity: Identity,
    expected: str | None = None,
    timeout: float = 10.0,
    *,
    beat: float = BEAT,
    protocol: tuple[int, int] = PROTOCOL,
    pump: Pump | None = None,
) -> Channel:
    """A channel to a paired node; `expected` is its node id, None: any paired one will do.

    `timeout` is for each of connecting, TLS and hello; `beat` seconds between signs of life, three
    of which may be missed; `pump` serves it, with others. PeerLost: not to be had. Refused: either
    does not know the other, it is not the expected one, or no protocol is spoken by both.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    doing = f"connecting to {where}"
    remedy = f"correct the address, or run: i2node pair {host}"
    known = identity.peer(expected) if expected is not None else None
    if expected is not None and known is None:
        raise Refused(f"{doing}: expected is node {expected}, which is not paired", remedy)
    sock = dial(host, port, timeout, doing)
    try:
        context = client_of(identity, known.cert_der) if known else Contexts(identity).client()
        tls = context.wrap_socket(sock)
    except OSError as e:
        sock.close()
        if known and isinstance(e, ssl.SSLCertVerificationError):
            raise Refused(f"{doing}: it is another node than {expected}", remedy) from e
        raise translate(e, doing, host) from e
    try:
        der = tls.getpeercert(binary_form=True) or b""
        peer = identity.peer_of(der)
        if peer is None:
            raise Refused(
                f"{doing}: its certificate is not one this node is paired with",
                f"run: i2node pair {host}",
            )
        channel = Channel(tls, host, port, peer, client=True, beat=beat, pump=pump)
    except OSError as e:
        tls.close()
        raise translate(e, doing, host) from e
    except Refused:
        tls.close()
        raise
    try:
        agree(channel, identity.node_id, timeout=timeout, protocol=protocol)
    except BaseException:
        channel.close()
        raise
    return channel


def open_stream(channel: Channel, number: int, timeout: float = 10.0) -> DataStream:
    """Opens a data stream of the channel's session; the other side gets it by accept_stream.

    `number` 0..65535, each once in a session, 64 in all. PeerLost: not to be had, or not accepted.
    """
    if not channel.client:
        raise ProtocolError("the side that listened opens no data streams")
    doing = f"data stream {number} to {channel.address}"
    preface = make_preface(channel.secret, channel.session, number, Direction.OUT)
    sock = dial(channel.host, channel.port, timeout, doing)
    try:
        sock.sendall(preface.pack())
        said = b""
        while len(said) < PREFACE_SIZE:
            chunk = sock.recv(PREFACE_SIZE - len(said))
            if not chunk:
                raise PeerLost(f"{doing}: not accepted")
            said += chunk
        answer = parse_preface(said)
        if (answer.session, answer.stream) != (channel.session, number) or not preface_is_proven(
            answer, channel.secret, Direction.BACK
        ):
            raise ProtocolError(f"{doing}: whoever answered does not know the session")
        stream = DataStream(sock, number, channel.secret, channel.session, client=True)
        if not channel.reserve(number) or not channel.adopt(number, stream):
            raise PeerLost(f"{doing}: the channel is closed, or the number was used")
    except OSError as e:
        sock.close()
        raise translate(e, doing, channel.host) from e
    except BaseException:
        sock.close()
        raise
    return stream
