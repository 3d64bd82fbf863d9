"""The nodes, as the calls of the API reach them.

Of several controllers at one database one drives: it holds the lease, has a link to each node, and
pushes what the database wants of it, whoever wrote that there. The others answer calls: what was
heard of the rules they read from the database, questions they ask on connections of their own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from i2node import log
from i2node.controller import terms
from i2node.controller.codes import Code
from i2node.controller.dialer import Dialer
from i2node.controller.envelope import Refusal
from i2node.controller.link import Address, Conversation, Link
from i2node.controller.seal import Vault
from i2node.controller.store.heard import Heard, Presence
from i2node.controller.store.leases import Leases
from i2node.controller.store.links import Links, Paired, Wanted
from i2node.errors import I2Error, PeerLost, Refused, SessionError, UsageError
from i2node.net import pairing
from i2node.net.identity import Identity
from i2node.net.tls import dial
from i2node.net.transport import Pump, connect
from i2node.orders import Orders, Standing

_log = logging.getLogger(__name__)

LEASE = "fleet"
LEASE_S = 9.0
"""So long after its last word a controller that is gone drives no more."""
ROUND_S = 1.0
"""Between two looks at what the database wants, and at what was heard."""
NOTED_S = 5.0
"""How often it is written down which nodes are there ..."""
SEEN_S = 15.0
"""... and how long that counts."""
_DIAL_S = 3.0


class Fleet:
    """Between `start` and `close`; uuids are those of the API. Safe to use from several threads."""

    def __init__(
        self,
        identity: Identity,
        links: Links,
        leases: Leases,
        heard: Heard,
        vault: Vault,
        own_port: int,
    ) -> None:
        """own_port: where nodes find this controller that enrol themselves."""
        self._identity = identity
        self._store = links
        self._leases = leases
        self._heard = heard
        self._vault = vault
        self._own_port = own_port
        self._holder = str(uuid.uuid4()).upper()
        self._lock = threading.Lock()
        self._pump = Pump(lasting=True)
        self._dialer = Dialer()
        self._links: dict[str, Link] = {}
        self._pushed: dict[str, int] = {}
        self._versions: dict[str, str] = {}
        self._here: set[str] = set()
        self._presence: list[Presence] = []
        self._known: set[str] = set()
        self._standings: dict[str, Standing] = {}
        self._fresh: dict[str, Standing] = {}
        self._leads_until = self._noted = 0.0
        self._ending = threading.Event()
        # The lease is kept by a thread that does nothing else: a round of thousands may take long.
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._hold, "i2node-lease"), (self._run, "i2node-fleet"))
        ]

    def start(self) -> None:
        """Begins to drive, or to wait for that."""
        self._recall()
        self._dialer.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends all links, and gives the lease back."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._dialer.close()
        with suppress(Exception):  # it ends by itself, too
            self._leases.give_back(LEASE, self._holder)

    @property
    def drives(self) -> bool:
        """Whether this is the controller that drives."""
        return time.monotonic() < self._leads_until

    # ------------------------------------------------------------------ what calls need

    def ask(
        self,
        node: str,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
    ) -> Any:
        """What a node answers. Refusal: it cannot be reached, or what it said against it."""
        with _refusing():
            link = self._links.get(node)
            if link is not None:
                return link.ask(verb, arguments or {}, timeout_s)
            found = next((one for one in self._paired() if one.uuid == node), None)
            if found is None:
                raise Refusal(Code.NO_SUCH_NODE)
            return self._ask_once(_address(found), verb, arguments or {}, timeout_s)

    def ask_at(
        self,
        host: str,
        port: int,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
    ) -> Any:
        """The same of a host that is paired, and not registered yet."""
        address = Address("", host, port, self.peer_at(host, port))
        with _refusing():
            return self._ask_once(address, verb, arguments or {}, timeout_s)

    def pair(self, host: str, port: int, code: str) -> str:
        """Pairs with the node there by its code, and gives its node id. Refusal: it is not there,
        or the code is wrong."""
        name = os.uname().nodename
        with _refusing():
            return pairing.pair(
                *(host, port, code, self._identity),
                role="controller",
                name=name,
                own_port=self._own_port,
            ).node_id

    def peer_at(self, host: str, port: int) -> str:
        """The node id of the host that was paired at this address; "": none was. Asks nobody."""
        where = _where(host, port)
        here = [peer for peer in self._identity.peers() if peer.address == where]
        return max(here, key=lambda peer: peer.paired).node_id if here else ""

    def reachable(self, host: str, port: int) -> bool:
        """Whether something listens there."""
        with suppress(I2Error):
            dial(host, port, _DIAL_S, "looking for a node").close()
            return True
        return False

    def online(self, node: str) -> bool:
        """Whether there is a link to it now."""
        link = self._links.get(node)
        if link is not None or self.drives:
            return link is not None and link.online
        return self._store.seen(node) > time.time() - SEEN_S

    def standing(self, rule: str) -> Standing | None:
        """The newest that was heard of a rule; None: nothing."""
        return self._standings.get(rule)

    def refusal(self, node: str, rule: str) -> str:
        """Why a node does not take its part in a rule, as far as it told this controller."""
        link = self._links.get(node)
        return link.refusal(rule) if link is not None else ""

    def forget(self, rule: str) -> None:
        """A rule is gone, and what was heard of it with it."""
        self._standings.pop(rule, None)

    def changed(self, *nodes: str, wait_s: float = 0.0) -> None:
        """Another is wanted of these nodes than before, as the database has it: tells them. With
        wait_s it returns when they hold it. Refusal: one of them does not within that time; it is
        told when it is back. A controller that does not drive leaves it to the one that does."""
        if not self.drives:
            return
        if any(node not in self._links for node in nodes):
            self._round()
        pushed = {node: self._push(node) for node in nodes}
        until = time.monotonic() + wait_s
        for node, number in pushed.items() if wait_s else ():
            link = self._links.get(node)
            with _refusing():
                if link is None or number is None:
                    raise PeerLost("there is no connection to it")
                link.wait_held(number, max(0.0, until - time.monotonic()))

    def _push(self, node: str) -> int | None:
        """The number of what was pushed, None: it is told when it is back."""
        link = self._links.get(node)
        if link is None:
            return None
        try:
            number = self._pushed[node] = link.push()
        except I2Error:
            return None
        return number

    # ------------------------------------------------------------------ the one thread

    def _hold(self) -> None:
        while not self._ending.is_set():
            try:
                self._renew()
            except Exception:
                # The database may be away for a while; the lease ends by itself.
                log.event(_log, logging.ERROR, "fault", at="lease")
            self._ending.wait(LEASE_S / 3)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                if self.drives:
                    self._round()
                    self._keep()
                else:
                    self._paired()
                    self._recall()
            except Exception:
                # The same; links go on, and so does this.
                log.event(_log, logging.ERROR, "fault", at="fleet")
            self._ending.wait(ROUND_S)
        self._shut()
        with suppress(Exception):  # the nodes tell it again
            self._keep()

    def _renew(self) -> None:
        """Takes the lease, or keeps it. It ends here before it ends for others."""
        asked, before = time.monotonic(), self.drives
        if self._leases.take(LEASE, self._holder, LEASE_S):
            if not before:
                self._heard.begin()
            self._leads_until = asked + LEASE_S
        else:
            self._leads_until = 0.0
        if self.drives != before:
            log.event(_log, logging.INFO, "controller-drives" if self.drives else "another-drives")
        if not self.drives:
            self._shut()

    def _round(self) -> None:
        """Makes the links those of the database, and pushes what is new in it."""
        paired = self._paired()
        wanted = {node.uuid: _address(node) for node in paired}
        numbers = {node.uuid: node.orders for node in paired}
        with self._lock:
            for node, link in list(self._links.items()):
                if wanted.get(node) != link.address:
                    self._links.pop(node).close()
            made = []
            for node, address in wanted.items():
                if node not in self._links:
                    made.append(self._made(address))
                    self._links[node] = made[-1]
            behind = [
                link
                for node, link in self._links.items()
                if link.online and self._pushed.get(node) != numbers.get(node)
            ]
            # Those are told below; where the database fails there, in the next round.
            self._pushed = numbers | dict.fromkeys((link.address.node for link in behind), -1)
        for link in made:
            self._dialer.dial(link)
        for link in behind:
            self._push(link.address.node)

    def _made(self, address: Address) -> Link:
        node = address.node
        return Link(
            address,
            self._identity,
            self._pump,
            orders=lambda: self._orders(node),
            heard=self._hear,
            greeted=self._greet,
            lost=self._lose,
        )

    def _greet(self, node: str, version: str, number: int) -> None:
        """Written down with the others of a round: a fleet that comes back is many."""
        self._versions[node] = version
        self._here.add(node)
        self._presence.append(Presence(node, True, version))
        if number > self._pushed.get(node, 0):
            self._store.count_on(node, number)

    def _lose(self, link: Link, wait_s: float) -> None:
        node = link.address.node
        if node in self._here:
            self._here.discard(node)
            self._presence.append(Presence(node, False, link.cause.cause))
        self._dialer.dial(link, wait_s)

    def _orders(self, node: str) -> Orders:
        if not self.drives:
            raise SessionError("another controller drives")
        wanted = self._store.wanted(node)
        if wanted is None:
            raise SessionError("the node is not registered any more")
        return self._assembled(wanted, node)

    def _assembled(self, wanted: Wanted, node: str) -> Orders:
        charges, grants = [], []
        for rule, work, backup in wanted.rules:
            sides = (work.peer, backup.peer)
            peers = [self._identity.peer(side) for side in sides]
            if None in peers:
                log.event(
                    _log, logging.WARNING, "rule-left-out", rule=rule.uuid, cause="not paired"
                )
                continue
            certificates = [peer.cert_pem for peer in peers if peer is not None]
            if work.uuid == node:
                secret = self._vault.opened(rule.secret) if rule.secret else ""
                charges.append(terms.charge(rule, work, backup, secret, certificates[1]))
            if backup.uuid == node:
                grants.append(terms.grant(rule, work, certificates[0]))
        return Orders(number=wanted.number, charges=tuple(charges), grants=tuple(grants))

    def _hear(self, standings: list[Standing]) -> None:
        for standing in standings:
            self._standings[standing.rule] = standing
            self._fresh[standing.rule] = standing

    def _keep(self) -> None:
        """What was heard since the last time, into the database."""
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            self._heard.note(list(fresh.values()), time.time())
        if presence := list(self._presence):
            self._heard.note_presence(presence, time.time())
            del self._presence[: len(presence)]  # now that it is written down
        if self._versions:
            versions, self._versions = self._versions, {}
            self._store.greeted(versions, int(time.time()))
        if time.monotonic() >= self._noted + NOTED_S:
            self._noted = time.monotonic()
            here = [node for node, link in self._links.items() if link.online]
            self._store.saw(here, int(time.time()))

    def _recall(self) -> None:
        """What another controller heard, or this one before it was started."""
        self._standings = {rule: last.standing for rule, last in self._heard.last().items()}

    def _shut(self) -> None:
        with self._lock:
            links, self._links, self._pushed = self._links, {}, {}
        for link in links.values():
            link.close()

    # ------------------------------------------------------------------ beside the links

    def _paired(self) -> list[Paired]:
        nodes = self._store.paired()
        self._introduce([node for node in nodes if node.peer not in self._known])
        return nodes

    def _introduce(self, nodes: list[Paired]) -> None:
        """A node that was paired with one of the controllers is known to all of them."""
        certificates = self._store.certificates([node.uuid for node in nodes])
        for node in nodes:
            peer, certificate = self._identity.peer(node.peer), certificates.get(node.uuid)
            if peer is not None and not certificate:
                self._store.certify(node.uuid, node.peer, peer.cert_pem)
            elif peer is None and certificate:
                self._identity.trust(
                    certificate, name=node.name, address=_where(node.host, node.port)
                )
                self._pushed = {}  # what was pushed may have left out its rules
            elif peer is not None:
                self._known.add(node.peer)

    def _ask_once(
        self, address: Address, verb: str, arguments: Mapping[str, Any], timeout_s: float
    ) -> Any:
        channel = connect(address.host, address.port, self._identity, address.peer or None)
        try:
            talk = Conversation(channel)
            reader = threading.Thread(target=_read, args=(talk,), daemon=True)
            reader.start()
            return talk.ask(verb, arguments, timeout_s)
        finally:
            channel.close()


def _read(talk: Conversation) -> None:
    """Hands answers on until the channel is closed."""
    try:
        while True:
            message = talk.channel.recv(None)
            if message["t"] == "answer":
                talk.answered(message)
    except I2Error as error:
        talk.end(error)


def _where(host: str, port: int) -> str:
    """As a pairing writes it down."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(node: Paired) -> Address:
    return Address(node.uuid, node.host, node.port, node.peer)


@contextmanager
def _refusing() -> Iterator[None]:
    """Errors of the network and of nodes, in the codes of the API."""
    try:
        yield
    except Refusal:
        raise
    except I2Error as error:
        kinds = {PeerLost: Code.UNREACHABLE, Refused: Code.NODE_DENIES, UsageError: Code.INVALID}
        code = next((code for kind, code in kinds.items() if isinstance(error, kind)), Code.FAILED)
        raise Refusal(code, f"{code.text}: {error}") from error
