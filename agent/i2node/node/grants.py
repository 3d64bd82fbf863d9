"""Whom this node lets keep mirrors, where, and whom it trusts for that: its own configuration, and
what the controller grants."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from i2node import log
from i2node.config import Config
from i2node.errors import SessionError, UsageError
from i2node.fs.directory import remove_empty
from i2node.fs.tree import within
from i2node.net.identity import Identity, Role, pem_to_der
from i2node.node.copies import Copies
from i2node.orders import Grant, Orders
from i2node.repl.budget import Budget, Budgets
from i2node.repl.clearing import clear, prune
from i2node.repl.ledger import Ledger
from i2node.repl.receiver import Receiver

_log = logging.getLogger(__name__)

BY = "controller"
"""Who wanted a trust that goes when nothing the controller ordered needs it any more."""


class Grants:
    """Of one node; any thread."""

    def __init__(
        self, config: Config, identity: Identity, ledger: Ledger, budgets: Budgets
    ) -> None:
        self.config = config
        self.identity = identity
        self.ledger = ledger
        self.budgets = budgets
        self._lock = threading.Lock()
        self._grants: Mapping[str, Grant] = {}
        self._serving: set[Receiver] = set()
        self._pruning = threading.Lock()
        self.copies = Copies(self)

    @property
    def own(self) -> tuple[Path, ...]:
        """Directories of the agent itself."""
        return (self.config.etc, self.config.var)

    # ------------------------------------------------------------------ what is allowed

    def give(self, grants: Iterable[Grant]) -> None:
        """These are in force from now on, and no others: sessions that they do not allow end."""
        with self._lock:
            self._grants = {grant.rule: grant for grant in grants}
            serving = set(self._serving)
        self._confine(serving)

    def _confine(self, serving: Iterable[Receiver]) -> None:
        for receiver in serving:
            receiver.allow(self.roots(receiver.channel.peer_id))

    def configure(self, config: Config) -> None:
        """The same with this node's own configuration."""
        with self._lock:
            self.config = config
            serving = set(self._serving)
        self.budgets.limit(config.limits)
        self._confine(serving)

    def roots(self, peer: str) -> tuple[Path, ...]:
        """Below which a peer may keep mirrors."""
        if self.identity.peer(peer) is None:
            return ()
        granted = [g.roots for g in self._grants.values() if g.peer == peer]
        return self.config.allow_roots + tuple(Path(root) for roots in granted for root in roots)

    def all_roots(self) -> tuple[Path, ...]:
        """Below which anybody may."""
        granted = tuple(Path(root) for g in self._grants.values() for root in g.roots)
        return self.config.allow_roots + granted

    def granted(self, rule: str, peer: str) -> Grant | None:
        """What a rule of a peer may do here."""
        grant = self._grants.get(rule)
        known = self.identity.peer(peer) is not None
        return grant if known and grant is not None and grant.peer == peer else None

    def all(self) -> list[Grant]:
        """Those that are in force."""
        return list(self._grants.values())

    def serve(self, receiver: Receiver, first: dict[str, object] | None) -> None:
        """Runs it to its end."""
        with self._lock:
            self._serving.add(receiver)
        try:
            receiver.allow(self.roots(receiver.channel.peer_id))
            receiver.run(first)
        finally:
            with self._lock:
                self._serving.discard(receiver)
        if receiver.completed:
            self.prune()

    # ------------------------------------------------------------------ trust

    def trust(self, orders: Orders) -> None:
        """The peers that the orders name are trusted as nodes. UsageError: that cannot be kept."""
        for charge in orders.charges:
            self._trust(charge.peer, charge.certificate, "")
        for grant in orders.grants:
            self._trust(grant.peer, grant.certificate, grant.name)

    def _trust(self, node: str, certificate: str, name: str) -> None:
        known = self.identity.peer(node)
        if known is not None and known.cert_der == pem_to_der(certificate):
            return
        role: Role = "node" if known is None else known.role
        by = BY if known is None else known.by
        self.identity.trust(certificate, name=name, role=role, by=by)

    def distrust(self, orders: Orders) -> None:
        """Peers that were trusted for orders only, and that these do not name, are forgotten."""
        needed = {c.peer for c in orders.charges} | {g.peer for g in orders.grants}
        for peer in self.identity.peers():
            if peer.by == BY and peer.node_id not in needed:
                self.identity.forget(peer.node_id)
                log.event(_log, logging.INFO, "peer-forgotten", peer=peer.node_id)

    # ------------------------------------------------------------------ what goes

    def prune_beside(self) -> None:
        """Begins to `prune`: what is removed may be much."""
        threading.Thread(target=self.prune, name="prune", daemon=True).start()

    def prune(self) -> None:
        """Removes the runs that are to stay no longer."""
        with self._pruning:
            for g in self.all():
                if g.base and g.keep > 0:
                    roots = tuple(map(Path, g.roots))
                    base = os.fsencode(os.path.realpath(g.base))
                    those = (self.ledger, self.config.var, g.rule, g.peer, base, g.keep)
                    prune(*those, roots, self.own)
        self.copies.prune()

    def wipe(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """{rule, base, roots}: removes what the rule put below those of these roots that it is
        granted; base: its runs, with their directories, and itself where it is empty then. Gives
        {removed: [path]}. UsageError when the rule has no grant here, or not for one of the roots;
        SessionError when something could not be removed: the rest is."""
        rule, base, roots = (question.get(key) for key in ("rule", "base", "roots"))
        if not isinstance(rule, str) or not isinstance(base or "", str):
            raise UsageError("wipe names no rule", "this is a defect of the controller")
        if not isinstance(roots, list | tuple) or not all(isinstance(r, str) for r in roots):
            raise UsageError("wipe names no roots", "this is a defect of the controller")
        grant = self._grants.get(rule)
        if grant is None:
            raise UsageError(f"rule {rule:.64} has no grant here", "order the grant first")
        for root in roots:
            if not any(_below(root, granted) for granted in grant.roots):
                raise UsageError(
                    f"rule {rule:.64} has no grant for {root!r:.200}", "name a root it is granted"
                )
        self.copies.tidy(grant)
        # By both names: one that a symlink leads elsewhere by now holds nothing of the rule, and
        # what it had there before is told of as left.
        named = [os.path.normpath(os.fsencode(root)) for root in roots]
        below = {*named, *map(os.path.realpath, named)}
        records = [
            record
            for record in self.ledger.records()
            if (record.whole, record.peer) == (rule, grant.peer)
            and any(within(os.fsencode(record.root), root) for root in below)
        ]
        allowed = tuple(map(Path, grant.roots))
        done = clear(self.ledger, self.config.var, records, allowed, self.own, not base)
        if base and not any(g.base == base for g in self._grants.values() if g is not grant):
            own = os.path.normpath(os.fsencode(base))
            remove_empty(own, os.path.dirname(own))
        if done.left:
            path, cause = done.left[0]
            more = f", and {len(done.left) - 1} more" if len(done.left) > 1 else ""
            raise SessionError(f"{path} was not removed: {cause}{more}", "see what stands there")
        return {"removed": done.removed}

    # ------------------------------------------------------------------ the brake

    def release(self, question: Mapping[str, Any]) -> int:
        """{rule}: what the brake holds back of it may be done. Gives of how many parts."""
        return self._decide(question, Budget.release)

    def refuse(self, question: Mapping[str, Any]) -> int:
        """{rule}: it is not to be done."""
        return self._decide(question, Budget.refuse)

    def _decide(self, question: Mapping[str, Any], decide: Any) -> int:
        rule = question.get("rule")
        records = [r for r in self.ledger.records() if isinstance(rule, str) and r.whole == rule]
        budgets = [b for r in records if (b := self.budgets.of(r.rule)) is not None and b.hold]
        done = 0
        for budget in budgets:
            with suppress(UsageError):  # decided a moment ago
                decide(budget)
                done += 1
        if not done:
            raise UsageError(f"rule {rule!r:.80} holds nothing back", "see its state")
        return done


def _below(path: str, root: str) -> bool:
    return within(os.path.normpath(path).encode(), os.path.normpath(root).encode())
