"""The RPC itself: what is held, what is refused, and that nothing which is said ends the agent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ends import until
from master import HOST, LONG, RULE, House

from i2node.errors import I2Error
from i2node.model import State
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.net.wire import MESSAGE_MAX, encode_message
from i2node.node.govern import portions
from i2node.orders import (
    CHARGES_MOST,
    ORDERS_MOST,
    Orders,
    Part,
    Standing,
    Tally,
    Want,
    packed,
    pieces,
    plain,
    read_standing,
)

Table = dict[str, Any]


@pytest.fixture
def running(house: House) -> House:
    """With a rule that is live."""
    (house.source / "a").write_text("content")
    house.begin().state(State.REPLICATION)
    return house


def charge(change: Table) -> Callable[[Table], None]:
    return lambda table: table["charges"][0].update(change)


def grant(change: Table) -> Callable[[Table], None]:
    return lambda table: table["grants"][0].update(change)


SLOT = {"every": 0, "days": [], "times": [], "start": 0, "end": 1440, "gap": 0, "keep": 0}
HOSTILE: dict[str, Callable[[Table], Any]] = {
    "no number": lambda t: t.pop("number"),
    "a number that is text": lambda t: t.update(number="7"),
    "charges that are a number": lambda t: t.update(charges=7),
    "a charge that is text": lambda t: t.update(charges=["x"]),
    "twice the same rule": lambda t: t["charges"].append(t["charges"][0]),
    "a rule that is a path": charge({"rule": "../../etc"}),
    "a want that is none": charge({"want": "explode"}),
    "no parts": charge({"parts": []}),
    "half a character": charge({"name": "\ud800"}),
    "a port that is text": charge({"port": "22"}),
    "excludes that are no texts": charge({"excludes": [1]}),
    "an exclude with a NUL": charge({"excludes": ["a\0b"]}),
    "a check that is none": charge({"check": "no"}),
    "a plan that is a number": charge({"plan": 7}),
    "a plan without slots": charge({"plan": {"once_at": None}}),
    "a flag that is a number": charge({"encrypt": 1}),
    "a root that is a number": grant({"roots": [5]}),
}
"""Orders that are none."""

UNSOUND: dict[str, Callable[[Table], Any]] = {
    "a part that is relative": charge({"parts": [{"source": "etc"}]}),
    "a part above the root": charge({"parts": [{"source": "/etc/../.."}]}),
    "a target beside a base": charge({"parts": [{"source": "/etc", "target": "/t"}]}),
    "no target": charge({"base": ""}),
    "the same part twice": charge({"parts": [{"source": "/etc"}, {"source": "/etc/"}]}),
    "a port beyond all": charge({"port": 1 << 20}),
    "no host": charge({"host": ""}),
    "another's certificate": charge({"peer": "0" * 64}),
    "a certificate that is none": charge({"certificate": "x"}),
    "a rate that is none": charge({"bwlimit": "fast"}),
    "a level that is none": charge({"compress": 77}),
    "a plan of a day that is too long": charge(
        {"plan": {"once_at": None, "slots": [SLOT | {"end": 1 << 40, "gap": 1}]}}
    ),
    "a root that is relative": grant({"roots": ["etc"]}),
    "a base that is not below": grant({"base": "/elsewhere"}),
    "a negative keep": grant({"keep": -1}),
}
"""Rules that cannot be carried out."""


def test_hostile_orders_are_refused_and_nothing_is_lost(running: House) -> None:
    here = running.link(running.work)
    good = Orders(number=99, charges=(running.charge(),), grants=(running.grant(),))
    for name, change in HOSTILE.items():
        table = json.loads(json.dumps(plain(good)))
        change(table)
        said = here.order(table)
        assert said["t"] == "refused", name
        assert said["cause"], name
    assert running.link(running.work).number == running.number
    stood = here.state(State.REPLICATION)
    (running.source / "b").write_text("still live")
    running.becomes_alike(running.copy(stood))


def test_a_rule_that_is_refused_holds_up_no_other(running: House) -> None:
    here = running.link(running.work)
    other = RULE[:-1] + "2"
    charges = (running.charge(), running.charge(rule=other))
    good = Orders(number=99, charges=charges, grants=(running.grant(rule=other),))
    for number, (name, change) in enumerate(UNSOUND.items(), 100):
        table = json.loads(json.dumps(plain(replace(good, number=number))))
        table["charges"].reverse()
        change(table)
        said = here.order(table)
        assert (said["t"], said["number"]) == ("held", number), name
        (refused,) = said["refused"]
        assert refused["rule"] == other and refused["cause"] and refused["remedy"], name
    fast = running.charge(rule=other, version="2", bwlimit="fast", run=7)
    said = here.order(plain(Orders(number=1000, charges=(running.charge(), fast))))
    stood = here.stands(lambda one: one.version == "2", other)
    assert (stood.state, stood.run) == (State.STOP, 7)
    assert "fast" in stood.cause and stood.remedy
    (running.source / "b").write_text("the other goes on")
    running.becomes_alike(running.copy(here.state(State.REPLICATION)))
    running.work.stop(signal.SIGTERM)
    running.work.start()
    here = running.link(running.work)
    assert "fast" in here.state(State.STOP, other).cause
    here.state(State.REPLICATION)
    halted = replace(fast, want=Want.STOP)
    here.order(plain(Orders(number=1001, charges=(running.charge(), halted))))
    assert "fast" in here.state(State.M_STOP, other).cause  # so it can be deleted
    here.order(plain(Orders(number=1002, charges=(running.charge(),))))
    until("it is gone", lambda: other not in here.standings)


def test_orders_of_many_rules_come_in_pieces(running: House) -> None:
    """A message takes a quarter of these, and far fewer of their paths."""
    here = running.link(running.work)
    excludes = tuple(f"/data/{n:04}/{'x' * 90}/" for n in range(4096))
    halted = running.charge(want=Want.STOP, excludes=excludes)
    others = [replace(halted, rule=f"{RULE[:-4]}{n:04}") for n in range(100, 140)]
    body = packed(Orders(number=50, charges=(running.charge(), *others)))
    assert len(body) > 3 * MESSAGE_MAX
    several = list(pieces(body))
    for piece in several:
        here.channel.send({"t": "orders", **piece})
    assert here.hear("held", "refused") == {"t": "held", "number": 50, "refused": []}
    until("all are told", lambda: len(here.standings) == 41)
    here.channel.send({"t": "orders", **several[0]})
    here.channel.send({"t": "orders", **several[2]})
    assert "missing" in here.hear("error")["cause"]
    other = running.link(running.work)
    other.channel.send({"t": "orders", "body": b"{", "left": ORDERS_MOST})
    assert "more than" in other.hear("error")["cause"]


def test_orders_that_are_older_are_refused(running: House) -> None:
    here = running.link(running.work)
    running.number += 5
    running.order(here, (running.charge(),))
    said = here.order(plain(Orders(number=running.number - 1)))
    assert said["t"] == "refused" and "older" in said["cause"]
    assert said["number"] == running.number - 1 and said["remedy"]
    assert here.order(plain(Orders(number=running.number)))["t"] == "held"
    until("gone", lambda: not here.standings)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"orders": 7}', os.urandom(500)])
def test_a_damaged_file_of_orders_is_told_and_begins_with_none(
    running: House, content: bytes
) -> None:
    running.work.stop(signal.SIGTERM)
    file = running.work.home / "var" / "orders.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(content)
    running.work.start()
    assert "orders-lost" in running.work.said()
    here = running.link(running.work)
    assert here.number == 0
    running.number = 0
    running.order(here, (running.charge(),))
    stood = here.state(State.REPLICATION)
    assert running.stamps() == [stood.stamp], "the same run goes on"


def test_questions_are_answered_beside_each_other_and_errors_end_nothing(running: House) -> None:
    here = running.link(running.work)
    assert "cannot be asked" in here.ask("explode")["cause"]
    here.channel.send({"t": "ask", "id": 1000, "verb": ["x"], "arguments": {}})
    here.channel.send({"t": "ask", "id": 1001, "verb": "wipe", "arguments": 5})
    here.channel.send({"t": "ask", "id": 1002, "verb": "host"})
    until("all are answered", lambda: {1000, 1001, 1002} <= here._answers.keys())
    assert here._answers[1001]["error"] == "usage"
    assert here._answers[1002]["value"]["hostname"] == os.uname().nodename
    for n in range(300):
        here.channel.send({"t": "ask", "id": 2000 + n, "verb": "host", "arguments": {}})
    until("all are answered", lambda: set(range(2000, 2300)) <= here._answers.keys())
    told = [here._answers[2000 + n] for n in range(300)]
    assert all("value" in one or "busy" in one["cause"] for one in told)
    assert here.state(State.REPLICATION)


@pytest.mark.parametrize(
    "message",
    [
        {"t": "nonsense"},
        {"t": "ask"},
        {"t": "ask", "id": [1]},
        {"t": "open"},
        {"t": "orders", "number": 7},
        {"t": "orders", "body": b"", "left": -1},
    ],
)
def test_nonsense_ends_the_channel_and_nothing_else(running: House, message: Table) -> None:
    here = running.link(running.work)
    here.channel.send(message)
    assert here.hear("error")["code"] == "protocol"
    assert running.link(running.work).state(State.REPLICATION)


def test_only_a_controller_governs(running: House) -> None:
    mallory = Identity.load(running.place / "mallory")
    mallory.trust(running.work.identity.cert_pem)
    running.work.identity.trust(mallory.cert_pem, role="node")
    channel = connect(HOST, running.work.port, mallory)
    channel.send({"t": "govern"})
    said = channel.recv(LONG)
    assert said["t"] == "error" and said["code"] == "protocol"
    channel.close()


def test_a_controller_may_still_compare(running: House) -> None:
    """Its channel begins with another message then."""
    channel = connect(HOST, running.backup.port, running.identity)
    channel.send(
        {"t": "open", "rule": "0" * 16, "root": b"/", "tokens": [], "next": "", "read_only": True}
    )
    said = channel.recv(LONG)
    assert said["t"] == "error" and "not below a root" in said["cause"]
    channel.close()


def test_standings_come_at_once_and_without_a_change(running: House) -> None:
    here, other = running.link(running.work), running.link(running.work)
    here.state(State.REPLICATION)
    heard = other.heard
    until("told again", lambda: other.heard > heard + 1)
    running.order(here, (running.charge(want=Want.STOP),))
    other.state(State.M_STOP)
    here.close()
    other.close()
    with pytest.raises(I2Error):
        here.channel.recv(LONG)
    assert running.link(running.work).state(State.M_STOP)


def test_parts_are_many(house: House) -> None:
    """A message holds what 40 of them tell."""
    parts = []
    for n in range(40):
        (house.source / str(n)).mkdir()
        (house.source / str(n) / "file").write_text("content")
        parts.append(house.source / str(n))
    here = house.begin(*parts)
    stood = here.state(State.REPLICATION)
    assert stood.tally is not None and stood.tally.files_total == 40
    assert all(house.alike(house.copy(stood, part), part) for part in parts)


def test_a_part_of_another_file_is_told_by_its_name(house: House) -> None:
    """Sources that nest through a symlink are the same tree, and nest at the target too."""
    (house.source / "real" / "deep").mkdir(parents=True)
    (house.source / "real" / "deep" / "file").write_text("content")
    (house.source / "link").symlink_to("real")
    charge = house.charge(house.source)
    charge = replace(
        charge, parts=(*charge.parts, Part(source=str(house.source / "link" / "deep")))
    )
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(),))
    house.order(here, (charge,))
    stood = here.state(State.REPLICATION)
    assert house.alike(house.copy(stood))
    Path(house.source / "real" / "deep" / "live").write_text("live")
    house.becomes_alike(house.copy(stood))
    assert RULE in here.standings


def test_all_that_a_node_may_run_goes_over_the_wire() -> None:
    made = Standing(
        rule=RULE,
        version="v",
        run=1,
        state=State.REPLICATION,
        since=1.0,
        cause="c" * 4096,
        tally=Tally(problems=20),
    )
    messages = list(portions([plain(made)] * CHARGES_MOST))
    for some in messages:
        encode_message({"t": "standings", "rules": some})
    heard = [read_standing(one) for some in messages for one in some]
    assert heard == [made] * CHARGES_MOST
