"""Whether those answer that this node is to reach, each asked as a session would ask it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import i2node
from i2node.errors import I2Error, PeerLost, ProtocolError
from i2node.model import show
from i2node.net.identity import Identity, Peer
from i2node.net.transport import PORT, connect
from i2node.node.checkup.asking import beside
from i2node.node.checkup.finding import Finding, fine, look, unknown
from i2node.node.checkup.host import Host, quoted
from i2node.node.kept import kept
from i2node.orders import Orders, read_orders
from i2node.repl.ledger import Ledger

DIAL_S = 3.0
"""For each of connecting, TLS and hello."""
ANSWER_S = 10.0
"""For all of it, the look-up of its name too."""


@dataclass(frozen=True, slots=True)
class Reach:
    """One that is to be asked. ordered: a rule of the controller goes there. sources: how many
    rules it keeps here."""

    node: str
    name: str
    host: str
    port: int
    ordered: bool
    sources: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        named = f"{self.name} at " if self.name and self.name != self.host else ""
        return f"{named}{host}:{self.port} ({self.node[:12]})"


Answer = str | I2Error | None
"""The version that runs there, or why none was told; None: nothing came in time."""


def peers(host: Host) -> list[Finding]:
    """A line for each, and one for each controller that this node is enrolled with."""
    if host.identity is None:
        return [unknown("peers", "without keys nobody can be asked")]
    try:
        controller, orders = _orders(host)
    except (ValueError, KeyError, I2Error) as error:
        file = host.config.var / "orders.json"
        told = f"{file} cannot be used, and the controller tells it anew: {error}"
        return [look("peers", told, f"mv {quoted(file)} {quoted(f'{file}.damaged')}")]
    known = host.identity.peers()
    sources = Counter(record.peer for record in Ledger(host.config.var / "targets").records())
    wanted = whom(known, orders, sources)
    answers = beside([partial(_ask, host.identity, one) for one in wanted], ANSWER_S)
    found = [of_controller(p, orders, controller) for p in known if p.role == "controller"]
    found += [of_peer(host, *both) for both in zip(wanted, answers, strict=True)]
    return found or [fine("peers", "no node is paired with this one that has an address")]


def _orders(host: Host) -> tuple[str, Orders]:
    table = kept(host.config.var / "orders.json")
    if table is None:
        return "", Orders(number=0)
    return str(table["controller"]), read_orders(table["orders"])


def whom(known: Iterable[Peer], orders: Orders, sources: Counter[str]) -> list[Reach]:
    """Where rules go, and peers that have an address. No controller: it is who connects."""
    names = {peer.node_id: peer for peer in known}
    found: dict[tuple[str, str, int], Reach] = {}
    for charge in orders.charges:
        name = names[charge.peer].name if charge.peer in names else ""
        kept_here = sources[charge.peer]
        one = Reach(charge.peer, name, charge.host, charge.port, True, kept_here)
        found[one.node, one.host, one.port] = one
    ordered = {charge.peer for charge in orders.charges}
    for peer in names.values():
        host, _, port = peer.address.rpartition(":")
        if peer.role == "node" and peer.node_id not in ordered and host and port.isdecimal():
            place = host.strip("[]"), int(port)
            one = Reach(peer.node_id, peer.name, *place, False, sources[peer.node_id])
            found[one.node, one.host, one.port] = one
    return list(found.values())


def _ask(identity: Identity, one: Reach) -> Answer:
    try:
        channel = connect(one.host, one.port, identity, one.node, DIAL_S)
    except I2Error as error:
        return error
    # It is told that nothing more is to come: its log is not to speak of a session that failed.
    with suppress(I2Error):
        channel.send({"t": "bye"})
    channel.close()
    return channel.version


def of_controller(peer: Peer, orders: Orders, controller: str) -> Finding:
    """It is not asked: it connects to its nodes, and nobody to it."""
    named = " ".join(filter(None, (peer.name, peer.address, f"({peer.node_id[:12]})")))
    told = f"enrolled with controller {show(named.encode())}"
    if peer.node_id == controller:
        told += f", whose orders {orders.number} are held"
    return fine("peers", told)


def of_peer(host: Host, one: Reach, answer: Answer) -> Finding:
    """What came of asking it."""
    where = show(str(one).encode())
    if isinstance(answer, str):
        same = "" if answer == i2node.__version__ else f", {i2node.__version__} here"
        return fine("peers", f"{where}: i2node {answer}{same}")
    if one.sources and not one.ordered and (answer is None or isinstance(answer, PeerLost)):
        told = f"{where}: does not listen, and need not: it is a source (rules here: {one.sources})"
        return fine("peers", told)
    if answer is None:
        told = f"{where}: no answer within {ANSWER_S:.0f} s"
        return look("peers", told, f"getent hosts {one.host}; ping -c 3 {one.host}")
    cause = show(answer.cause.encode())
    if "i2node pair" in answer.remedy:
        place = one.host if one.port == PORT else f"{one.host}:{one.port}"
        return look("peers", f"{where}: {cause}", host.typed(f"pair {place}"))
    if isinstance(answer, PeerLost | ProtocolError) or not answer.remedy:
        remedy = f"ssh {one.host} 'service i2node status; firewall-cmd --list-all'"
        return look("peers", f"{where}: {cause}", remedy)
    return look("peers", f"{where}: {cause}", answer.remedy)
