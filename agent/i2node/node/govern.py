"""The node's side of the RPC with a controller: one channel, from `govern` until it is closed.

    controller                         node
    govern {}                       →  governed {number}          of the orders that it holds
    orders {body, left}     →  held {number, refused}, or refused {number, cause, remedy}, once
                                   no bytes are left; refused are the rules of theirs that are not
                                   carried out: [{rule, cause, remedy}]
    ask {id, verb, arguments}       →  answer {id, value}, or answer {id, error, cause, remedy}
                                    ←  standings {rules}          at each change, else every TOLD_S

Nothing waits for a controller: standings are pictures of the moment in which they are sent, and
what cannot be sent any more is lost with the channel. Several controllers may be connected.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from i2node import log
from i2node.errors import I2Error, PeerLost, ProtocolError, SessionError, UsageError
from i2node.net.channel import Channel
from i2node.node.charges import Charges
from i2node.node.inventory import Verb
from i2node.orders import Gathered, Standing, plain, unpacked

_log = logging.getLogger(__name__)

TOLD_S = 2.0
"""Between two standings in which nothing changed."""
PAUSE_S = 0.05
"""Between any two: what changes within is told as one."""
FRESH_S = 60.0
"""How long a new channel is told every note."""
RECENT_S = 600.0
"""How old a note is that is told still, then."""
ANSWERING = 32
"""Questions of one channel that are answered beside each other; more are refused."""
STANDINGS_BYTES = 1 << 20
"""About as much goes in one message; a rule with many parts has much to tell."""
STANDINGS_ITEMS = 48 << 10
"""Keys and values of one message; the wire takes some more."""


class Governor:
    """Serves one channel; `run` returns when it is closed."""

    def __init__(self, channel: Channel, charges: Charges, verbs: Mapping[str, Verb]) -> None:
        self._channel = channel
        self._charges = charges
        self._verbs = verbs
        self._gathered = Gathered()
        self._over = threading.Event()
        self._slots = threading.BoundedSemaphore(ANSWERING)

    def run(self) -> None:
        """From behind the first message."""
        peer = self._channel.peer_id[:12]
        log.event(_log, logging.INFO, "controller-here", peer=peer)
        teller = threading.Thread(target=self._tell, name="standings", daemon=True)
        try:
            self._channel.send({"t": "governed", "number": self._charges.number})
            teller.start()
            while True:
                self._handle(self._channel.recv(None))
        except PeerLost as error:
            log.event(_log, logging.INFO, "controller-gone", peer=peer, cause=error.cause)
        except I2Error as error:
            fields = {"cause": error.cause, "remedy": error.remedy}
            log.event(_log, logging.WARNING, "controller-refused", peer=peer, **fields)
            with suppress(I2Error):
                self._channel.send({"t": "error", "code": error.code, **fields})
        finally:
            self._over.set()
            self._channel.close()

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message["t"]
        if kind == "orders":
            body = self._gathered.take(message)
            if body is not None:
                self._channel.send(self._held(body))
        elif kind == "ask":
            self._asked(message)
        else:
            raise ProtocolError(f"unexpected message {kind!r:.40}")

    def _held(self, body: bytes) -> dict[str, Any]:
        number = 0
        try:
            orders = unpacked(body)
            number = orders.number
            faults = self._charges.hold(orders, self._channel.peer_id)
        except I2Error as error:
            fields = {"cause": error.cause, "remedy": error.remedy}
            log.event(_log, logging.WARNING, "orders-refused", **fields)
            return {"t": "refused", "number": number, **fields}
        refused = [
            {"rule": rule, "cause": error.cause, "remedy": error.remedy}
            for rule, error in faults.items()
        ]
        return {"t": "held", "number": number, "refused": refused}

    # ------------------------------------------------------------------ questions

    def _asked(self, message: Mapping[str, Any]) -> None:
        number = message.get("id")
        if not isinstance(number, int | str):
            raise ProtocolError("a question without an id")
        if self._slots.acquire(blocking=False):
            # A daemon: the end of the agent does not wait for what may take an hour.
            threading.Thread(
                target=self._answer, args=(number, message), name="answer", daemon=True
            ).start()
        else:
            busy = SessionError("the node is busy with other questions", "ask again in a moment")
            self._channel.send(_failure(number, busy))

    def _answer(self, number: int | str, message: Mapping[str, Any]) -> None:
        try:
            try:
                answer = {"t": "answer", "id": number, "value": self._value(message)}
            except I2Error as error:
                answer = _failure(number, error)
            except Exception as error:
                verb = repr(message.get("verb"))[:80]
                log.event(_log, logging.ERROR, "verb-failed", verb=verb, error=repr(error))
                failed = SessionError(f"the node failed: {error!r:.200}", "see its log")
                answer = _failure(number, failed)
            try:
                self._channel.send(answer)
            except ProtocolError as error:  # more, or other things, than a message holds
                self._channel.send(_failure(number, error))
        except I2Error:
            pass  # whoever asked is gone
        finally:
            self._slots.release()

    def _value(self, message: Mapping[str, Any]) -> Any:
        verb, arguments = message.get("verb"), message.get("arguments", {})
        answer = self._verbs.get(verb) if isinstance(verb, str) else None
        if answer is None:
            known = ", ".join(sorted(self._verbs))
            raise UsageError(f"the node cannot be asked for {verb!r:.80}", f"one of: {known}")
        if not isinstance(arguments, dict):
            raise UsageError(f"the arguments of {verb} are no table", "send a map")
        return answer(arguments)

    # ------------------------------------------------------------------ standings

    def _tell(self) -> None:
        """The newest, as long as the channel stands."""
        seen, told, began = -1, False, time.monotonic()
        try:
            while not self._over.is_set():
                seen = self._charges.wait(seen, TOLD_S)
                # Who was away hears all; of what was said long ago one tells that nothing is new.
                fresh = time.monotonic() < began + FRESH_S
                since = 0.0 if fresh else time.time() - RECENT_S
                rules = [plain(recent(one, since)) for one in self._charges.standings()]
                if rules or told:
                    for some in portions(rules):
                        self._channel.send({"t": "standings", "rules": some})
                told = bool(rules)
                self._over.wait(PAUSE_S)
        except PeerLost:
            pass
        except I2Error as error:
            # A channel on which nothing new is told would pass for a node where nothing changes.
            log.event(_log, logging.ERROR, "standings-untold", cause=error.cause)
            self._channel.close()


def recent(standing: Standing, since: float) -> Standing:
    """With the notes since a moment alone, but the newest at least."""
    notes = [note for note in standing.notes[:-1] if note.at >= since]
    return replace(standing, notes=(*notes, *standing.notes[-1:]))


def _failure(number: int | str, error: I2Error) -> dict[str, Any]:
    fields = {"error": error.code, "cause": error.cause, "remedy": error.remedy}
    return {"t": "answer", "id": number, **fields}


def portions(rules: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """In messages that the wire takes; at least one."""
    some: list[dict[str, Any]] = []
    size = items = 0
    for rule in rules:
        weight, count = _weight(rule)
        if some and (size + weight > STANDINGS_BYTES or items + count > STANDINGS_ITEMS):
            yield some
            some, size, items = [], 0, 0
        some.append(rule)
        size, items = size + weight, items + count
    yield some


def _weight(rule: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes, and no fewer keys and values than it has: before each there is one of these."""
    text = json.dumps(rule)
    return len(text), sum(map(text.count, ",:[{"))
