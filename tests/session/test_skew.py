"""Nodes of different versions beside each other: what they agree upon, what is told when they
cannot, and how each hears that the other's agent was stopped."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from channels import LONG, Nodes
from ends import Hosts, until
from nursery import Nursery
from record import ADDRESS, Ground, settled
from recorded import tree

from i2node import __version__
from i2node.controller.link import Address, Link
from i2node.errors import PeerLeft, PeerLost, Refused, still_away
from i2node.model import State
from i2node.net.channel import Channel
from i2node.net.transport import Pump, connect
from i2node.net.wire import PROTOCOL, Message
from i2node.orders import Orders
from i2node.repl import session as sessions
from i2node.repl.remote import Remote
from i2node.repl.session import Session

OLD, BOTH, NEW = (1, 1), (1, 2), (2, 2)
STOPPED = "its agent was stopped, or is being restarted"
BRING_BACK = "if it does not come back, run there: service i2node start"


@pytest.fixture
def place() -> Iterator[Path]:
    # Below /var/tmp: memory file systems used not to know user attributes.
    made = Path(tempfile.mkdtemp(prefix="i2node-skew-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def ground(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[tuple[int, int], tuple[int, int]], Ground]]:
    """A source and a target of such protocols."""
    made: list[Ground] = []

    def build(source: tuple[int, int], target: tuple[int, int]) -> Ground:
        monkeypatch.setattr(sessions, "connect", partial(connect, protocol=source))
        made.append(Ground(place, target))
        return made[-1]

    yield build
    for one in made:
        one.close()


def running(session: Session) -> threading.Thread:
    def run() -> None:
        with suppress(Refused):  # it stands in the report
            session.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_the_newest_is_spoken_and_the_one_before() -> None:
    assert PROTOCOL[1] - PROTOCOL[0] == 1


@pytest.mark.parametrize("target", [OLD, BOTH, NEW], ids=str)
@pytest.mark.parametrize("source", [OLD, BOTH, NEW], ids=str)
def test_two_versions_mirror_or_say_why_not(
    ground: Callable[[tuple[int, int], tuple[int, int]], Ground],
    source: tuple[int, int],
    target: tuple[int, int],
) -> None:
    made = ground(source, target)
    (made.source / "first").write_text("of the first mirror")
    session = made.session()
    thread = running(session)
    try:
        if {source, target} == {OLD, NEW}:
            until("it goes on", lambda: session.report().state is State.STOP)
            return
        settled(session)
        (made.source / "second").write_text("live")
        settled(session)
        assert tree(made.source) == tree(made.room / "mirror")
        (channel,) = made.listener._channels
        assert channel.protocol == (1 if OLD in (source, target) else 2)
        made.listener.close()
        until("it was not lost", lambda: session.report().state is State.EXCEPTION)
        report = session.report()
        heard = f"{made.target.host}:{made.target.port}: {STOPPED}" in report.cause
        assert heard is (channel.protocol == 2), report.cause
        assert (report.remedy == BRING_BACK) is heard
    finally:
        session.stop()
        thread.join(LONG)


@pytest.mark.parametrize(("source", "target"), [(OLD, NEW), (NEW, OLD)], ids=str)
def test_who_has_nothing_in_common_is_told_whom_to_upgrade(
    ground: Callable[[tuple[int, int], tuple[int, int]], Ground],
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
    source: tuple[int, int],
    target: tuple[int, int],
) -> None:
    made = ground(source, target)
    send = Channel.send

    def of_another_release(channel: Channel, message: Message) -> None:
        told = {"version": "7.7"} if message["t"] == "hello" and not channel.client else {}
        send(channel, {**message, **told})

    monkeypatch.setattr(Channel, "send", of_another_release)
    session = made.session()
    with pytest.raises(Refused) as e:
        session.run()
    there = f"{ADDRESS}:{made.target.port} runs i2node 7.7, which speaks protocol {target[0]}"
    here = f"this is i2node {__version__}, which speaks protocol {source[0]}"
    older = "this host" if source is OLD else ADDRESS
    assert e.value.cause == f"{there}, {here}"
    assert e.value.remedy == f"upgrade i2node on {older}: it is the older one"
    report = session.report()
    assert (report.state, report.cause, report.remedy) == (
        *(State.STOP, e.value.cause),
        e.value.remedy,
    )
    until("the target's log does not have it", lambda: bool(logged))
    older = ADDRESS if source is OLD else "this host"
    assert f"which speaks protocol {source[0]}, this is i2node" in logged[0]
    assert f"upgrade i2node on {older}" in logged[0]


def test_what_the_channel_heard_is_told_where_the_stream_fails_first(
    make_nodes: Callable[..., Nodes],
) -> None:
    mine, theirs = make_nodes().connect()

    def leave() -> None:
        assert theirs.recv(LONG)["t"] == "open"
        theirs.send({"t": "opened", "status": "known", "parts": [], "owner": True})
        theirs.close(leaving=True)

    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    with pytest.raises(PeerLeft, match=STOPPED), Remote(mine) as remote:
        remote.open("0123456789abcdef", b"/", [], "")
        raise PeerLost("stream 0: sending: Broken pipe")
    leaving.join()


@pytest.mark.parametrize("protocol", [OLD, BOTH], ids=str)
def test_a_controller_hears_that_a_node_is_stopped(
    ground: Callable[[tuple[int, int], tuple[int, int]], Ground], protocol: tuple[int, int]
) -> None:
    made = ground(BOTH, protocol)
    address = Address("N", ADDRESS, made.listener.port, made.there.node_id)
    link = Link(
        *(address, made.here, Pump(lasting=True), lambda: Orders(number=1), lambda heard: None),
        *(lambda *_: None, lambda *_: None),
    )
    link.dial()
    link.wait_held(1, LONG)
    made.listener.close()
    until("the link is there", lambda: not link.online)
    assert isinstance(link.cause, PeerLeft) is (protocol is BOTH), link.cause
    for _ in range(2):
        link.dial()
        assert link.cause.cause.count(STOPPED) == (protocol is BOTH)
        assert link.cause.cause.count("connecting to") == 1
    link.close()


def test_of_a_peer_that_left_both_are_told_until_it_is_met() -> None:
    left, away = PeerLeft("h:1: it left", "start it"), PeerLost("connecting to h:1: refused")
    told = still_away(left, away)
    assert (str(told), type(told)) == (
        "h:1: it left; connecting to h:1: refused (start it)",
        PeerLeft,
    )
    again = still_away(told, PeerLost("connecting to h:1: no route"))
    assert again.cause == "h:1: it left; connecting to h:1: no route"
    assert still_away(again, left) is left
    for before, error in ((None, away), (away, away), (left, Refused("another"))):
        assert still_away(before, error) is error


def test_what_was_stopped_and_what_died_are_told_apart(place: Path, nursery: Nursery) -> None:
    """Of real processes, in the log and in the status."""
    with closing(Hosts(place, nursery)) as hosts:
        hosts.quiesce()
        agent = hosts.agent
        assert agent is not None
        agent.signal(signal.SIGTERM)
        agent.wait(LONG)
        until("it is not tried again", lambda: "; " in cause_of(hosts))
        assert f"127.0.0.1:{hosts.relay.port}: {STOPPED}" in cause_of(hosts)
        report = hosts.report()
        assert report is not None and report.remedy == BRING_BACK
        log = place / "here.log"
        assert log.read_text().count(f'{STOPPED}" remedy="{BRING_BACK}"') == 1
        hosts.quiesce()
        assert not cause_of(hosts)
        said = len(log.read_text())
        hosts.kill_target()
        until("its loss is not told", lambda: "state=EXCEPTION" in log.read_text()[said:])
        assert cause_of(hosts) and STOPPED not in cause_of(hosts) + log.read_text()[said:]


def cause_of(hosts: Hosts) -> str:
    report = hosts.report()
    return report.cause if report else ""
