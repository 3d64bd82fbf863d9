"""Data streams beside a channel, over real sockets and TLS."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable

import pytest
from channels import HOST, LONG, Nodes, end_of
from ends import until

from i2node.errors import PeerLost, ProtocolError
from i2node.net import seal, wire
from i2node.net.channel import Channel
from i2node.net.stream import DataStream
from i2node.net.transport import open_stream


def streams(nodes: Nodes, number: int = 0) -> tuple[Channel, DataStream, DataStream]:
    mine, theirs = nodes.connect()
    out = open_stream(mine, number)
    return mine, out, theirs.accept_stream(number, LONG)


@pytest.mark.parametrize("encrypt", [True, False])
def test_frames_both_ways(make_nodes: Callable[..., Nodes], encrypt: bool) -> None:
    mine, out, back = streams(make_nodes(), 7)
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


def test_a_nonce_is_never_used_twice(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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


def test_frames_of_a_stream_do_not_fit_another(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    mine, out, back = streams(nodes, 1)
    other = open_stream(mine, 2)
    frame = b"".join(bytes(b) for b in other.sealer().seal(1, b"x"))
    out.send([frame])
    header, body = back.recv_frame(LONG)
    with pytest.raises(ProtocolError, match="of stream 2 on stream 1"):
        back.opener().open(header, body)
    mine.close()


def test_stream_ends_are_told(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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
    until("not both are counted", lambda: nodes.listener.statistics().streams == 2)
    mine.close()


def test_unsound_header_is_found_before_its_body(make_nodes: Callable[..., Nodes]) -> None:
    mine, out, back = streams(make_nodes())
    out.send([b"\xff" * wire.HEADER_SIZE])
    with pytest.raises(ProtocolError, match="no frame begins with"):
        back.recv_frame(LONG)
    with pytest.raises(PeerLost, match="no frame within"):
        out.recv_frame(0.01)
    mine.close()


def test_streams_end_with_their_channel(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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


def test_nobody_takes_anothers_stream(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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


def test_streams_are_bounded(make_nodes: Callable[..., Nodes]) -> None:
    mine, _ = make_nodes().connect()
    for n in range(64):
        open_stream(mine, n)
    with pytest.raises(PeerLost, match="not accepted"):
        open_stream(mine, 64)
    mine.close()


def test_accept_stream_times_out(make_nodes: Callable[..., Nodes]) -> None:
    mine, theirs = make_nodes().connect()
    with pytest.raises(PeerLost, match="no data stream 3 within"):
        theirs.accept_stream(3, 0.01)
    mine.close()
