"""Many channels that one thread serves, and messages that are given instead of fetched."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from channels import LONG, Nodes

from i2node.errors import I2Error, PeerLost, ProtocolError
from i2node.net.channel import Channel
from i2node.net.pump import Pump
from i2node.net.wire import Message, decode_weighed


class Post:
    """Where messages and ends arrive, of several channels."""

    def __init__(self) -> None:
        self.came: queue.Queue[tuple[int, Message]] = queue.Queue()
        self.lost: queue.Queue[tuple[int, I2Error]] = queue.Queue()

    def to(self, channel: Channel, number: int) -> None:
        channel.deliver(
            lambda message: self.came.put((number, message)),
            lambda error: self.lost.put((number, error)),
        )


@pytest.fixture
def nodes(make_nodes: Callable[..., Nodes]) -> Nodes:
    return make_nodes(beat=0.4)


def test_one_thread_serves_many(nodes: Nodes) -> None:
    pump, post = Pump(), Post()
    pairs = [nodes.connect(pump=pump, beat=0.4) for _ in range(12)]
    for number, (mine, theirs) in enumerate(pairs):
        theirs.send({"t": "before"})
        post.to(mine, number)
        theirs.send({"t": "after"})
    came = [post.came.get(timeout=LONG) for _ in range(2 * len(pairs))]
    for number in range(len(pairs)):
        assert [message["t"] for of, message in came if of == number] == ["before", "after"]
    with pytest.raises(PeerLost, match="no message within"):
        pairs[0][1].recv(1.6)  # longer than silence may last
    assert post.lost.empty() and all(mine.alive for mine, _ in pairs), "each has its beats"
    for number, (mine, theirs) in enumerate(pairs):
        if number % 2:
            mine.close(wait=False)
        else:
            theirs.close()
    lost = [post.lost.get(timeout=LONG) for _ in pairs]
    assert sorted(number for number, _ in lost) == list(range(len(pairs)))
    for mine, _ in pairs:
        mine.close()
    assert post.lost.empty(), "each end is told once"


def test_last_words_are_given_before_the_end(nodes: Nodes) -> None:
    mine, theirs = nodes.connect()
    post = Post()
    for number in range(100):
        theirs.send({"t": "word", "n": number})
    theirs.close()
    post.to(mine, 0)
    assert isinstance(post.lost.get(timeout=LONG)[1], PeerLost)
    assert [post.came.get_nowait()[1]["n"] for _ in range(100)] == list(range(100))
    mine.close()


def test_last_words_say_why_it_ended(nodes: Nodes) -> None:
    """Though they come with the end, which is told for itself where there are none."""
    for number in range(20):
        mine, theirs = nodes.connect()
        lost: queue.Queue[I2Error] = queue.Queue()
        late = number % 2
        if not late:
            mine.deliver(_raise, lost.put)
        theirs.send({"t": "go away"})
        theirs.close()
        if late:
            mine.deliver(_raise, lost.put)
        assert isinstance(lost.get(timeout=LONG), ProtocolError)
        mine.close()


def _raise(message: Message) -> None:
    raise ProtocolError(message["t"])


def test_whoever_comes_late_is_told_of_the_end(nodes: Nodes) -> None:
    mine, _ = nodes.connect()
    mine.close()
    post = Post()
    post.to(mine, 7)
    assert post.lost.get(timeout=LONG)[0] == 7 and post.came.empty()


@pytest.mark.parametrize("fault", [ProtocolError("unsound"), ZeroDivisionError("a fault")])
def test_what_one_cannot_take_ends_that_one_alone(nodes: Nodes, fault: Exception) -> None:
    pump, post = Pump(), Post()
    (bad, theirs), (good, other) = (nodes.connect(pump=pump) for _ in range(2))
    post.to(good, 1)
    lost: queue.Queue[I2Error] = queue.Queue()

    def refuse(_: Any) -> None:
        raise fault

    bad.deliver(refuse, lost.put)
    theirs.send({"t": "x"})
    told = lost.get(timeout=LONG)
    assert isinstance(told, ProtocolError if isinstance(fault, ProtocolError) else PeerLost)
    with pytest.raises(PeerLost):
        theirs.recv(LONG)
    other.send({"t": "still"})
    assert post.came.get(timeout=LONG)[1]["t"] == "still"
    good.close()
    bad.close()


def test_a_fault_where_none_is_to_be_ends_that_one_alone(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump, post = Pump(), Post()
    (bad, theirs), (good, other) = (nodes.connect(pump=pump) for _ in range(2))
    post.to(good, 1)
    lost: queue.Queue[I2Error] = queue.Queue()

    def loses(error: I2Error) -> None:
        lost.put(error)
        raise ZeroDivisionError

    def decode(body: bytes) -> tuple[Message, int]:
        if b"garbage" in body:
            raise ZeroDivisionError
        return decode_weighed(body)

    def start(thread: threading.Thread) -> None:
        if thread.name == "i2node-channel-end":
            raise RuntimeError("can't start new thread")
        began(thread)

    bad.deliver(lambda _: None, loses)
    began = threading.Thread.start
    monkeypatch.setattr("i2node.net.channel.decode_weighed", decode)
    monkeypatch.setattr(threading.Thread, "start", start)
    theirs.send({"t": "garbage"})
    assert "a fault here" in lost.get(timeout=LONG).cause
    bad.close()  # who waits for the end has it
    other.send({"t": "still"})
    assert post.came.get(timeout=LONG)[1]["t"] == "still"
    good.close()


def test_a_long_goodbye_holds_up_nobody(nodes: Nodes) -> None:
    """A peer that does not read lets the last words wait for two seconds."""
    pump, post = Pump(), Post()
    (mute, theirs), (good, other) = (nodes.connect(pump=pump) for _ in range(2))
    post.to(good, 1)
    stop, filled = threading.Event(), threading.Event()
    theirs.deliver(partial(_hold, stop), lambda _: None)  # its pump stands still
    blob = bytes(1 << 20)

    def fill() -> None:
        try:
            for _ in range(40):
                mute.send({"t": "m", "blob": blob})
        except PeerLost:
            filled.set()

    threading.Thread(target=fill).start()
    mute.close(wait=False)
    other.send({"t": "meanwhile"})
    assert post.came.get(timeout=LONG)[1]["t"] == "meanwhile"
    assert mute.fileno() != -1, "the goodbye is not over"
    stop.set()
    mute.close()
    assert filled.wait(LONG)
    good.close()


def _hold(stop: threading.Event, _: Message) -> None:
    stop.wait(LONG)


def test_a_pump_ends_with_the_last_and_a_lasting_one_does_not(nodes: Nodes) -> None:
    last, lasting = Pump(), Pump(lasting=True)
    for pump in (last, lasting):
        for mine, _ in [nodes.connect(pump=pump) for _ in range(2)]:
            mine.close()
    last._thread.join(LONG)
    assert not last._thread.is_alive() and lasting._thread.is_alive()
    mine, theirs = nodes.connect(pump=lasting)
    theirs.send({"t": "x"})
    assert mine.recv(LONG)["t"] == "x"
    mine.close()
