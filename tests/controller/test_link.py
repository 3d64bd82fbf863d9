"""The link to a node, of a controller in whose own house something fails."""

from __future__ import annotations

from pathlib import Path

from field import agents

from i2node.controller.link import Address, Link
from i2node.net.identity import Identity
from i2node.net.pairing import pair
from i2node.net.transport import Pump
from i2node.orders import Orders


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
