"""The link to one node: kept up, what is wanted of the node pushed, what it tells heard, questions
asked and answered. The controller dials; node.govern is the other end.

    -> govern              <- governed {number}
    -> orders {body, left} <- held {number, refused} | refused {number, cause, remedy}
    -> ask {id, verb}      <- answer {id, value} | answer {id, error, cause, remedy}
                           <- standings {rules}
                           <- error {code, cause, remedy}: the node ends it
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from i2node import log
from i2node.errors import I2Error, PeerLost, ProtocolError, Refused, of_code, still_away
from i2node.model import State, show
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import Pump, connect
from i2node.orders import Charge, Orders, Standing, packed, pieces, read_standing

_log = logging.getLogger(__name__)

BACKOFF_S = (1.0, 2.0, 5.0, 10.0)
LASTING_S = 60.0
"""A connection that held so long was not one of those that fail again and again."""
GREETING_S = 10.0
_TOLD_MOST = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is, and who it must be. node: its uuid; peer: its node id, "" any that is
    paired."""

    node: str
    host: str
    port: int
    peer: str


class Conversation:
    """Questions over one channel, several at a time. Safe to use from several threads."""

    def __init__(self, channel: Channel) -> None:
        """Says what this channel is for. PeerLost, ProtocolError: the node does not take it so."""
        self.channel = channel
        self._changed = threading.Condition()
        self._next = 0
        self._open: dict[int, Mapping[str, Any] | None] = {}
        self._over: I2Error | None = None
        channel.send({"t": "govern"})
        self.number = _number(_due(channel.recv(GREETING_S), "governed"))

    def ask(self, verb: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """What the node answers. PeerLost: nothing in time; else the node's own error."""
        with self._changed:
            self._next += 1
            number = self._next
            self._open[number] = None
        try:
            self.channel.send({"t": "ask", "id": number, "verb": verb, "arguments": arguments})
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._open[number], timeout_s)
                answer = self._open[number]
                if answer is None:
                    lost = PeerLost(f"{self.channel.address}: no answer within {timeout_s:g} s")
                    raise self._over or lost
        finally:
            with self._changed:
                del self._open[number]
        if "error" in answer:
            raise of_code(*_told(answer, "error", "cause", "remedy"))
        return answer.get("value")

    def answered(self, message: Mapping[str, Any]) -> None:
        """Hands an answer to who asked."""
        with self._changed:
            number = message.get("id")
            if isinstance(number, int) and number in self._open:
                self._open[number] = message
                self._changed.notify_all()

    def end(self, error: I2Error) -> None:
        """Who still waits waits in vain."""
        with self._changed:
            self._over = error
            self._changed.notify_all()


class Link:
    """One node's, from its first `dial` to `close`. Safe to use from several threads. Who makes it
    dials, again and again."""

    def __init__(
        self,
        address: Address,
        identity: Identity,
        pump: Pump,
        orders: Callable[[], Orders],
        heard: Callable[[list[Standing]], None],
        greeted: Callable[[str, str, int], None],
        lost: Callable[[Link, float], None],
    ) -> None:
        """orders gives what is wanted now; heard takes what the node tells; greeted its uuid,
        version, and the number of the orders that it holds, at each connection; lost is told when
        there is none, and in how many seconds it is to be dialled."""
        self.address = address
        self._identity = identity
        self._pump = pump
        self._orders = orders
        self._heard = heard
        self._greeted = greeted
        self._lost = lost
        self._changed = threading.Condition()
        self._pushing = threading.Lock()
        self._talk: Conversation | None = None
        self._held = -1
        self._refusal: I2Error | None = None
        self._closed = False
        self.cause: I2Error = PeerLost("there was no connection yet")
        self._tried = False
        self._failures = 0
        self._began = 0.0
        self._refused: tuple[I2Error, float] | None = None
        self._left_out: Mapping[str, str] = {}
        self._charges: Mapping[str, Charge] = {}
        self._told: dict[str, Standing] = {}

    def dial(self) -> None:
        """Makes the connection; what becomes of it is told to `lost`. Takes as long as it takes."""
        if self._closed:
            return
        address, channel, talk = self.address, None, None
        try:
            channel = connect(
                address.host, address.port, self._identity, address.peer or None, pump=self._pump
            )
            talk = Conversation(channel)
            self._begin(talk)
            self._greeted(address.node, channel.version, talk.number)
            self.push()
        except Exception as error:  # the database's, above all: no link is said to be that is not
            if channel is not None:
                channel.close()
            self._end(talk, self._known(error))
        else:
            channel.deliver(partial(self._take, talk), partial(self._end, talk))

    def _known(self, error: Exception) -> I2Error:
        if isinstance(error, I2Error):
            return error
        log.event(_log, logging.ERROR, "fault", at="link", node=self.address.node)
        return PeerLost("a fault of the controller: its log has more")

    def close(self) -> None:
        """Ends the link; does not wait for it."""
        with self._changed:
            self._closed = True
            talk = self._talk
        if talk is not None:
            talk.end(PeerLost("the link is closed"))
            talk.channel.close(wait=False)

    @property
    def online(self) -> bool:
        """Whether the node is connected."""
        return self._talk is not None

    @property
    def failures(self) -> int:
        """How often in a row there was none, or none that lasted; no more than make a difference to
        when it is dialled."""
        return min(self._failures, len(BACKOFF_S))

    def refusal(self, rule: str) -> str:
        """Why the node does not take its part in a rule, "": it does, or has not said."""
        whole = self._refused
        return whole[0].cause if whole is not None else self._left_out.get(rule, "")

    def ask(self, verb: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """See Conversation.ask; without a connection the cause of that is raised."""
        talk = self._talk
        if talk is None:
            raise type(self.cause)(self.cause.cause, self.cause.remedy) from self.cause
        return talk.ask(verb, arguments, timeout_s)

    def push(self) -> int:
        """Tells the node what is wanted of it now, if it is connected; gives the number of that."""
        with self._pushing:
            orders = self._orders()
            self._charges = charges = {charge.rule: charge for charge in orders.charges}
            self._told = {rule: one for rule, one in list(self._told.items()) if rule in charges}
            talk = self._talk
            if talk is not None:
                with self._changed:
                    self._refusal = None
                for piece in pieces(packed(orders)):
                    talk.channel.send({"t": "orders", **piece})
            return orders.number

    def wait_held(self, number: int, timeout_s: float) -> None:
        """Until the node holds orders of this number or a higher one. PeerLost: not within this
        time; Refused: it does not take them."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._held >= number or self._refusal or self._is_lost, timeout_s
            )
            if self._held >= number:
                return
            if self._refusal is not None:
                raise self._refusal
        cause = "it does not say that it took it" if self.online else self.cause.cause
        raise PeerLost(f"{self.address.host}: {cause}")

    @property
    def _is_lost(self) -> bool:
        return self._tried and not self.online

    def _begin(self, talk: Conversation) -> None:
        with self._changed:
            if self._closed:
                raise PeerLost("the link is closed")
            self._held = -1
            self._talk = talk
            self._began = time.monotonic()
        log.event(_log, logging.INFO, "node-online", node=self.address.node)

    def _end(self, talk: Conversation | None, error: I2Error) -> None:
        with self._changed:
            error = still_away(self.cause, error) if talk is None else error
            is_news = talk is not None or not self._tried or self.cause.cause != error.cause
            self._talk = None
            self._tried = True
            self.cause = error
            lasted = talk is not None and time.monotonic() - self._began > LASTING_S
            self._failures = 1 if lasted else self._failures + 1
            closed = self._closed
            self._changed.notify_all()
        if talk is not None:
            talk.end(error)
        if is_news and not closed:
            fields = {"node": self.address.node, "cause": error.cause}
            log.event(_log, logging.WARNING, "node-offline", **fields)
        if not closed:
            self._lost(self, BACKOFF_S[self.failures - 1] * random.uniform(0.5, 1.0))

    def _take(self, talk: Conversation, message: Mapping[str, Any]) -> None:
        kind = message["t"]
        if kind == "answer":
            talk.answered(message)
        elif kind == "standings":
            rules = message.get("rules")
            if not isinstance(rules, list) or not all(isinstance(one, dict) for one in rules):
                raise ProtocolError(f"{talk.channel.address}: unsound standings")
            standings = [read_standing(one) for one in rules]
            # A node speaks of the rules that are its own to carry out, and of no others.
            own = [one for one in standings if one.rule in self._charges]
            self._told |= {one.rule: one for one in own}
            self._heard([self._as_refused(one) for one in own])
        elif kind in ("held", "refused"):
            self._judged(kind, message)
        else:
            _raise_told(message)
            raise ProtocolError(f"{talk.channel.address}: unexpected message {kind!r:.40}")

    def _judged(self, kind: str, message: Mapping[str, Any]) -> None:
        with self._changed:
            if kind == "held":
                self._held = _number(message)
                self._refused = None
                self._note_refused(message.get("refused"))
            else:
                self._refusal = Refused(*_told(message, "cause", "remedy"))
                self._refused = (self._refusal, time.time())
                cause = self._refusal.cause
                log.event(
                    _log, logging.ERROR, "orders-refused", node=self.address.node, cause=cause
                )
            self._changed.notify_all()
        if self._refused is not None:
            known = [
                self._told.get(charge.rule) or _unheard(charge) for charge in self._charges.values()
            ]
            self._heard([self._as_refused(one) for one in known])

    def _note_refused(self, rules: object) -> None:
        """The node tells of its own rules how they stand; of those that it is the backup node of,
        nobody else does."""
        told = [one for one in rules if isinstance(one, dict)] if isinstance(rules, list) else []
        before = self._left_out
        texts = [_told(one, "rule", "cause") for one in told]
        self._left_out = {text[0]: text[1] for text in texts}
        for rule, cause in self._left_out.items() - before.items():
            fields = {"rule": rule, "cause": cause}
            log.event(_log, logging.ERROR, "rule-refused", node=self.address.node, **fields)

    def _as_refused(self, told: Standing) -> Standing:
        """How a rule stands while the node refuses its orders: it may go on as it was ordered
        before."""
        charge = self._charges.get(told.rule)
        if self._refused is None or charge is None:
            return told
        error, since = self._refused
        return replace(
            told,
            version=charge.version,
            run=charge.run,
            state=State.EXCEPTION,
            since=since,
            cause=f"the work node refuses its orders, and goes by those before: {error.cause}",
            remedy=error.remedy,
        )


def _unheard(charge: Charge) -> Standing:
    return Standing(
        rule=charge.rule,
        version=charge.version,
        run=charge.run,
        state=State.UNKNOWN,
        since=time.time(),
    )


def _due(message: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    if message["t"] != kind:
        _raise_told(message)
        raise ProtocolError(f"{message['t']!r:.40} came where {kind} is due")
    return message


def _raise_told(message: Mapping[str, Any]) -> None:
    """What a node ends a link for it tells with its last message."""
    if message["t"] == "error":
        raise of_code(*_told(message, "code", "cause", "remedy"))


def _told(message: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """What a node says, as any log and database takes it: it may say anything."""
    return tuple(show(str(message.get(key, "")).encode())[:_TOLD_MOST] for key in keys)


def _number(message: Mapping[str, Any]) -> int:
    number = message.get("number")
    if type(number) is not int:
        raise ProtocolError(f"{message['t']} has no number")
    return number
