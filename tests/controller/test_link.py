"""The link to a node, of a controller in whose own house something fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from field import agents, until

from i2node.controller.link import Address, Link
from i2node.errors import Refused
from i2node.model import State
from i2node.net.identity import Identity
from i2node.net.pairing import pair
from i2node.net.transport import Pump
from i2node.orders import Charge, Grant, Orders, Part, Standing, Want


def test_no_link_is_said_to_be_that_a_fault_ended(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "controller")
    greeted = []

    def fails(node: str, version: str, number: int) -> None:
        greeted.append(node)
        raise RuntimeError("the database is away")

    with agents(tmp_path, "node") as (node,):
        peer = pair("127.0.0.1", node.port, node.code, identity, role="controller")
        address = Address("N", "127.0.0.1", node.port, peer.node_id)
        lost: list[float] = []
        link = Link(
            address,
            identity,
            Pump(),
            orders=lambda: Orders(number=1),
            heard=lambda heard: None,
            greeted=fails,
            lost=lambda _, wait_s: lost.append(wait_s),
        )
        link.dial()
        assert greeted and not link.online and len(lost) == 1
        assert "fault" in link.cause.cause
        link.close()


def test_orders_that_a_node_refuses_show_at_their_rules(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "controller")
    heard: dict[str, Standing] = {}
    with agents(tmp_path, "node") as (node,):
        peer = pair("127.0.0.1", node.port, node.code, identity, role="controller")
        certificate = peer.cert_pem
        charge = Charge(
            rule="R-1",
            version="2",
            name="rule",
            want=Want.STOP,
            run=3,
            host="127.0.0.1",
            port=node.port,
            peer=peer.node_id,
            certificate=certificate,
            base="/base",
            parts=(Part(source="/source"),),
        )
        wanted = Orders(number=1, charges=(charge, charge))
        address = Address("N", "127.0.0.1", node.port, peer.node_id)

        def hear(standings: list[Standing]) -> None:
            heard.update((one.rule, one) for one in standings)

        def stands(state: State) -> Standing:
            until(state, lambda: "R-1" in heard and heard["R-1"].state is state)
            return heard["R-1"]

        link = Link(
            address,
            identity,
            Pump(),
            orders=lambda: wanted,
            heard=hear,
            greeted=lambda *_: None,
            lost=lambda *_: None,
        )
        link.dial()
        stood = stands(State.EXCEPTION)
        assert "has two charges" in stood.cause and stood.remedy
        assert (stood.version, stood.run) == ("2", 3)
        with pytest.raises(Refused, match="two charges"):
            link.wait_held(1, 30)
        wanted = Orders(number=2, charges=(charge,))
        link.push()
        stands(State.M_STOP)
        other = replace(charge, rule="R-2")
        wanted = Orders(number=3, charges=(charge, other, other))
        link.push()
        assert "has two charges" in stands(State.EXCEPTION).cause
        assert heard["R-2"].state is State.EXCEPTION
        rate = replace(charge, want=Want.RUN, bwlimit="fast")
        wanted = Orders(number=4, charges=(rate,))
        link.push()
        assert "fast" in stands(State.STOP).cause
        link.wait_held(4, 30)
        grant = Grant(
            rule="R-3", peer=peer.node_id, certificate=certificate, name="rule", roots=("relative",)
        )
        wanted = Orders(number=5, grants=(grant,))
        link.push()
        link.wait_held(5, 30)
        assert "relative" in link.refusal("R-3") and not link.refusal("R-1")
        wanted = Orders(number=6, grants=(replace(grant, roots=("/backups",)),))
        link.push()
        link.wait_held(6, 30)
        assert not link.refusal("R-3")
        # It may say anything.
        wanted = Orders(number=7, charges=(charge,))
        link.push()
        link.wait_held(7, 30)
        link._judged("refused", {"number": 8, "cause": "no\0 database\n" * 4096})
        told = heard["R-1"].cause
        assert "no\\x00 database" in told and told.isprintable() and len(told) < 8192
        # What it ends the link for is told.
        assert link._talk is not None
        link._talk.channel.send({"t": "nonsense"})
        until("it is over", lambda: not link.online)
        assert "nonsense" in link.cause.cause
        link.close()
