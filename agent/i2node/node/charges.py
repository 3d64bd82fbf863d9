"""What the controller wants of this node: kept on disk, and carried out with it or without it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from i2node import log
from i2node.config import Config
from i2node.errors import I2Error, SessionError, UsageError
from i2node.model import State
from i2node.node import kept
from i2node.node.grants import Grants
from i2node.node.runner import Runner
from i2node.node.stint import Tools
from i2node.node.vetting import Vetted, still, vet
from i2node.orders import Charge, Orders, Standing, Want, plain, read_orders
from i2node.repl.report import RuleReport

_log = logging.getLogger(__name__)

CLOSE_S = 25.0
"""How long the end of the agent waits for its sessions, all of them together."""
NOTHING = Vetted(Orders(number=0), (), {})


class Charges:
    """All rules of a node. `hold` and the pictures are for any thread; a thread of its own brings
    about what is held, so that a rule that is long in stopping holds up no answer."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._file = grants.config.var / "orders.json"
        self._told = threading.Condition()
        self._news = 0
        self._tools = Tools(grants.config, grants.identity, self._tell)
        self._lock = threading.Condition()
        self._controller = ""
        self._held = NOTHING
        self._due = True
        self._closing = False
        self._runners: dict[str, Runner] = {}
        self._leaving: dict[str, Runner] = {}
        self._thread = threading.Thread(target=self._carry_out, name="charges", daemon=True)

    def start(self) -> None:
        """Carries out what is held, and what will be."""
        self._thread.start()

    def close(self) -> None:
        """Stops all sessions; the rules go on when the agent starts anew."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
            runners = [*self._runners.values(), *self._leaving.values()]
        for runner in runners:
            runner.end()
        until = time.monotonic() + CLOSE_S
        for runner in runners:
            runner.join(max(0.0, until - time.monotonic()))

    def configure(self, config: Config) -> None:
        """In force for sessions that begin from now on."""
        self._tools.config = config

    # ------------------------------------------------------------------ the orders

    @property
    def number(self) -> int:
        """Of the orders that are held, 0: none."""
        return self._held.orders.number

    def hold(self, orders: Orders, controller: str) -> Mapping[str, UsageError]:
        """Keeps the orders of a controller, and begins to carry them out; gives what is wrong with
        those rules that it cannot carry out, which stand still.

        UsageError: none can be carried out; SessionError: they cannot be kept. Then those before
        stay in force.
        """
        vetted = vet(orders)
        with self._lock:
            held = self.number
            if controller == self._controller and orders.number < held:
                raise UsageError(
                    f"orders {orders.number} are older than {held}, which are held",
                    f"number them from {held + 1} on",
                )
            kept.keep(self._file, {"controller": controller, "orders": plain(orders)})
            self._controller = controller
            self._take(vetted)
            self._lock.notify_all()
        for rule, fault in vetted.faults.items():
            log.event(_log, logging.WARNING, "rule-refused", rule=rule, cause=fault.cause)
        log.event(
            _log,
            logging.INFO,
            "orders-held",
            number=orders.number,
            charges=len(orders.charges),
            grants=len(orders.grants),
        )
        return vetted.faults

    def _take(self, vetted: Vetted) -> None:
        # At once: what is granted no more is refused when this is acknowledged, and a work node
        # that is told next finds itself known.
        self._held = vetted
        self._due = True
        self._grants.trust(vetted.orders)
        self._grants.give(vetted.orders.grants)

    def read(self) -> None:
        """What was held when the agent ended is in force again. Where it cannot be read, nothing
        is, until the controller says."""
        try:
            table = kept.kept(self._file)
            if table is None:
                return
            vetted = vet(read_orders(table["orders"]))
            self._controller = str(table["controller"])
            self._take(vetted)
        except (ValueError, KeyError, I2Error) as error:
            cause = error.cause if isinstance(error, I2Error) else repr(error)
            fields = {"file": bytes(self._file), "cause": cause}
            remedy = "the controller tells them again when it connects"
            log.event(_log, logging.WARNING, "orders-lost", remedy=remedy, **fields)

    # ------------------------------------------------------------------ carried out

    def _carry_out(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closing or self._due)
                if self._closing:
                    return
                held, self._due = self._held, False
            try:
                self._apply(held)
            except Exception as error:
                log.event(_log, logging.ERROR, "orders-failed", error=repr(error))

    def _apply(self, held: Vetted) -> None:
        charges = (*held.orders.charges, *map(still, held.refused))
        wanted = {charge.rule: charge for charge in charges}
        for rule in self._runners.keys() - wanted.keys():
            self._leave(rule)
        for rule, charge in wanted.items():
            if rule in self._runners:
                self._runners[rule].order(charge)
        with self._lock:
            leaving = [runner.charge for runner in self._leaving.values()]
        for rule in free(wanted, leaving) - self._runners.keys():
            runner = Runner(self._tools, wanted[rule])
            with self._lock:
                self._runners[rule] = runner
                closing = self._closing
            if closing:
                runner.end()
        with self._lock:
            # Newer ones may trust whom these do not name; who leaves has still to bring what is
            # under way to its peer.
            if held is self._held and not self._leaving:
                self._grants.distrust(held.orders)
        self._grants.prune_beside()
        self._tell()

    def _leave(self, rule: str) -> None:
        """A rule that is wanted no more ends in its own time."""
        with self._lock:
            runner = self._leaving[rule] = self._runners.pop(rule)
        runner.end()
        threading.Thread(
            target=self._left, args=(rule, runner), name="leaving", daemon=True
        ).start()

    def _left(self, rule: str, runner: Runner) -> None:
        runner.join()
        try:
            runner.forget()
        except OSError as error:
            log.event(_log, logging.WARNING, "charge-remains", rule=rule, error=repr(error))
        with self._lock:
            del self._leaving[rule]
            self._due = True
            self._lock.notify_all()
        log.event(_log, logging.INFO, "charge-gone", rule=rule)

    # ------------------------------------------------------------------ told

    def _tell(self) -> None:
        with self._told:
            self._news += 1
            self._told.notify_all()

    def wait(self, seen: int, timeout_s: float) -> int:
        """Until there is other news than those seen, or so long; gives the number of the newest.
        0 before any."""
        with self._told:
            self._told.wait_for(lambda: self._news != seen, timeout_s)
            return self._news

    def standings(self) -> list[Standing]:
        """Of all rules of which this node is the work node."""
        held = self._held
        refused = {charge.rule: charge for charge in held.refused}
        told = [runner.standing() for runner in self._all()]
        return [
            _refused(one, refused[one.rule], held.faults[one.rule]) if one.rule in refused else one
            for one in told
        ]

    def reports(self) -> list[RuleReport]:
        """Of all sessions; of a rule that has none now, of the rule."""
        found: list[RuleReport] = []
        for runner in self._all():
            found += runner.reports()
        return found

    def explain(self, path: bytes) -> dict[str, Any] | None:
        """As Session.explain, of the rule whose source is nearest. UsageError where no rule runs;
        the error of the one that could not tell, where one could not."""
        lives: list[dict[str, Any]] = []
        failed: SessionError | None = None
        runners = [runner for runner in self._all() if runner.runs]
        for runner in runners:
            try:
                if (life := runner.explain(path)) is not None:
                    lives.append(life)
            except SessionError as error:
                failed = error
        if lives:
            return max(lives, key=lambda life: len(life["source"]))
        if failed is not None:
            raise failed
        if not runners:
            raise UsageError("no rule runs in this agent", "see: i2node status")
        return None

    def _all(self) -> list[Runner]:
        with self._lock:
            return [self._runners[rule] for rule in sorted(self._runners)]


def free(wanted: Mapping[str, Charge], leaving: Iterable[Charge]) -> set[str]:
    """Which of these rules can begin while others still end: they are no such rule, and neither
    have a directory of theirs, nor one above or below it. Pure."""
    taken: set[tuple[str, str]] = set()
    above: set[tuple[str, str]] = set()
    gone = set()
    for charge in leaving:
        gone.add(charge.rule)
        for place in _places(charge):
            taken.add(place)
            above.update(_upwards(place))
    if not gone:
        return set(wanted)
    return {
        rule
        for rule, charge in wanted.items()
        if rule not in gone
        and not any(
            place in above or not taken.isdisjoint(_upwards(place)) for place in _places(charge)
        )
    }


def _places(charge: Charge) -> Iterator[tuple[str, str]]:
    """The directories of its parts, here and there. Runs below a base are each in their own."""
    for part in charge.parts:
        yield "", os.path.normpath(part.source)
        if part.target:
            yield charge.peer, os.path.normpath(part.target)


def _upwards(place: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """It, and all above it."""
    peer, path = place
    while True:
        yield peer, path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


def _refused(told: Standing, charge: Charge, fault: UsageError) -> Standing:
    state = State.M_STOP if charge.want is Want.STOP else State.STOP
    told = replace(told, version=charge.version, run=charge.run, state=state)
    return replace(told, cause=fault.cause, remedy=fault.remedy)
