"""The port where nodes enrol themselves: whoever knows the controller's code is paired and becomes
one of its nodes. `i2node enroll` is the other end."""

from __future__ import annotations

import logging
import time

from i2node import log
from i2node.controller import node
from i2node.controller.app import Desk
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.nodes import register
from i2node.errors import Refused
from i2node.net.channel import Channel
from i2node.net.identity import Identity, Peer
from i2node.net.listener import Listener

_log = logging.getLogger(__name__)

_PATIENCE_S = 20.0
"""A node that was just paired has still to write that down before it answers."""
_PAUSE_S = 0.5


class Enrolment:
    """Between `start` and `close`."""

    def __init__(self, desk: Desk, identity: Identity, host: str, port: int, owner: int) -> None:
        """owner: the user whose nodes they become."""
        self._desk = desk
        self._owner = owner
        self._listener = Listener(
            *(host, port, identity), on_channel=_refuse, on_paired=self._paired
        )

    def start(self) -> int:
        """Gives the port. UsageError: it cannot be had."""
        self._listener.start()
        return self._listener.port

    def close(self) -> None:
        """Nobody enrols any more."""
        self._listener.close()

    def _paired(self, peer: Peer) -> None:
        host, _, port = peer.address.rpartition(":")
        address = {"config_addr": host.strip("[]"), "config_port": port}
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                name = self._register(peer, address)
            except Refusal as refusal:
                if time.monotonic() > until:
                    fields = {"address": peer.address, "cause": refusal.cause}
                    log.event(_log, logging.WARNING, "not-enrolled", peer=peer.node_id, **fields)
                    return
                time.sleep(_PAUSE_S)
            else:
                log.event(_log, logging.INFO, "enrolled", peer=peer.node_id, name=name)
                return

    def _register(self, peer: Peer, address: dict[str, str]) -> str:
        """Gives the name. One that is registered already is so still."""
        known = self._desk.nodes.of_peer(peer.node_id)
        if known is not None:
            return known
        name = peer.name or address["config_addr"]
        if self._desk.nodes.named(name):
            name = f"{name}-{peer.node_id[:8]}"
        values = {"node_name": name, **address}
        form = Form(values)
        sent = node.read(form, values)
        form.check()
        register(self._desk, self._owner, sent)
        return name


def _refuse(channel: Channel) -> None:
    raise Refused("a controller is no target", "name a node that runs i2node agent")
