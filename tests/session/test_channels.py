"""Channels between two nodes, over real sockets and TLS."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import pytest
from channels import HOST, LONG, Nodes
from ends import until

from i2node.errors import PeerLeft, PeerLost, Refused
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.net.wire import Message


def test_both_know_each_other(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    mine, theirs = nodes.connect(expected=nodes.server.node_id)
    assert mine.peer_id == nodes.server.node_id
    assert theirs.peer_id == nodes.client.node_id
    assert (mine.peer_role, theirs.peer_role) == ("node", "controller")
    assert mine.session == theirs.session
    assert mine.secret == theirs.secret
    assert len(mine.secret) == 32
    assert mine.address == f"{HOST}:{nodes.port}"
    assert (mine.protocol, mine.version) == (2, theirs.version)
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


def test_a_node_reaches_itself(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(paired=False)
    channel = connect(HOST, nodes.port, Identity.load(nodes.server.etc))
    assert channel.peer_id == nodes.server.node_id == nodes.served.get(timeout=LONG).peer_id
    channel.close()


def test_many_threads_and_large_messages(make_nodes: Callable[..., Nodes]) -> None:
    mine, theirs = make_nodes().connect()
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


def test_last_words_arrive_before_the_end(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
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


def test_who_leaves_says_so_behind_the_last_words(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    mine, theirs = nodes.connect()
    theirs.send({"t": "last"})
    theirs.close(leaving=True)
    assert mine.recv(LONG)["t"] == "last"
    for call in (lambda: mine.recv(LONG), lambda: mine.send({"t": "too late"})):
        with pytest.raises(PeerLeft, match=f"{mine.address}: its agent was stopped, or is being"):
            call()
    mine.close()
    mine, theirs = nodes.connect()
    theirs.close()
    with pytest.raises(PeerLost, match="closed by the peer") as e:
        mine.recv(LONG)
    assert not isinstance(e.value, PeerLeft)
    mine.close()


def test_a_peer_of_protocol_1_is_not_told_that_one_leaves(make_nodes: Callable[..., Nodes]) -> None:
    """It would take that for an error of the protocol."""
    nodes = make_nodes(protocol=(1, 1))
    mine, theirs = nodes.connect()
    theirs.close(leaving=True)
    with pytest.raises(PeerLost, match="closed by the peer") as e:
        mine.recv(LONG)
    assert not isinstance(e.value, PeerLeft)
    mine.close()


def test_recv_times_out(make_nodes: Callable[..., Nodes]) -> None:
    mine, theirs = make_nodes().connect()
    with pytest.raises(PeerLost, match=r"no message within 0\.01 s"):
        mine.recv(0.01)
    theirs.send({"t": "still there"})
    assert mine.recv(LONG)["t"] == "still there"
    mine.close()


def test_close_wakes_who_waits(make_nodes: Callable[..., Nodes]) -> None:
    mine, _ = make_nodes().connect()
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


def test_beats_keep_an_idle_channel(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(beat=0.4)
    mine, theirs = nodes.connect(beat=0.4)
    with pytest.raises(PeerLost, match="no message within"):
        mine.recv(1.6)  # longer than silence may last
    assert mine.alive
    assert theirs.alive
    mine.send({"t": "x"})
    assert theirs.recv(LONG)["t"] == "x"
    mine.close()


def test_silence_is_noticed(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(beat=1000.0)  # the server never beats
    mine, _ = nodes.connect(beat=0.4)
    with pytest.raises(PeerLost, match=r"silent for 1\.2 s"):
        mine.recv(LONG)
    assert not mine.alive
    mine.close()


def test_a_full_inbox_stops_the_sender_and_is_not_silence(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes(beat=0.4)
    mine, theirs = nodes.connect(beat=0.4)
    blob = bytes(1 << 20)
    sent: list[int] = []

    def flood() -> None:
        for n in range(80):
            mine.send({"t": "m", "n": n, "blob": blob})
            sent.append(n)

    thread = threading.Thread(target=flood)
    thread.start()
    until("the inbox did not fill", lambda: theirs._waiting >= 8 << 20)
    with pytest.raises(PeerLost, match="no message within"):
        mine.recv(1.6)
    assert len(sent) < 80
    assert theirs.alive
    assert theirs._waiting < 10 << 20
    assert [theirs.recv(LONG)["n"] for _ in range(80)] == list(range(80))
    thread.join()
    mine.close()


def test_version_skew_names_both(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    with pytest.raises(Refused, match=r"protocols 1 to 2.*protocols 7 to 9") as e:
        connect(HOST, nodes.port, nodes.client, protocol=(7, 9))
    assert e.value.remedy == f"upgrade i2node on {HOST}: it is the older one"
    mine, theirs = nodes.connect(protocol=(1, 3))
    assert mine.protocol == theirs.protocol == 2
    mine.close()


def test_version_skew_is_told_when_the_peer_hung_up_before_the_keys(
    make_nodes: Callable[..., Nodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = make_nodes()
    send = Channel.send

    def late(channel: Channel, message: Message) -> None:
        if channel.client and message["t"] == "keys":
            until("the peer did not hang up", lambda: not channel.alive)
        send(channel, message)

    monkeypatch.setattr(Channel, "send", late)
    with pytest.raises(Refused, match=r"protocols 1 to 2.*protocols 7 to 9"):
        connect(HOST, nodes.port, nodes.client, protocol=(7, 9))


def test_nobody_there(make_nodes: Callable[..., Nodes]) -> None:
    nodes = make_nodes()
    nodes.close()
    with pytest.raises(PeerLost, match="connecting to 127"):
        connect(HOST, nodes.port, nodes.client)
