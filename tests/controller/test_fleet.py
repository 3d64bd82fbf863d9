"""Links of a fleet: in which order they are made, and what a database that fails now and then may
not take from them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from field import agents, until
from ruled import WK, Ground
from sqlalchemy import delete, update

from i2node.controller.dialer import AT_ONCE, Dialer
from i2node.controller.fleet import Fleet
from i2node.controller.link import Link
from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.controller.store.heard import Heard, Presence
from i2node.controller.store.leases import Leases
from i2node.controller.store.links import Links, Wanted
from i2node.controller.store.tables import Node
from i2node.net.identity import Identity
from i2node.net.pairing import pair


class Host:
    """To be dialled: takes until `gate` is open."""

    def __init__(self, failures: int, gate: threading.Event, dialled: list[int]) -> None:
        self.failures = failures
        self._gate = gate
        self._dialled = dialled

    def dial(self) -> None:
        self._dialled.append(self.failures)
        self._gate.wait(60)


def test_who_was_there_a_moment_ago_does_not_stand_in_line_with_hosts_that_hang() -> None:
    gate, one, dialled = threading.Event(), threading.Event(), list[int]()
    hosts = [Host(4, gate if n else one, dialled) for n in range(AT_ONCE)]
    dialer = Dialer()
    for host in hosts:
        dialer.dial(cast(Link, host))
    dialer.start()
    until("as many as may be", lambda: len(dialled) == AT_ONCE)
    for failures in (4, 3, 1, 2):
        dialer.dial(cast(Link, Host(failures, gate if failures == 2 else one, dialled)))
    one.set()
    until("the others", lambda: len(dialled) >= AT_ONCE + 2)
    assert dialled[AT_ONCE:][:2] == [1, 2]
    gate.set()
    until("all", lambda: len(dialled) == AT_ONCE + 4)
    dialer.close()


class Away:
    """Whether the database is, and how often it was missed."""

    now = False
    missed = 0

    def check(self) -> None:
        if self.now:
            self.missed += 1
            raise RuntimeError("the database is away")


class Moody(Links):
    def __init__(self, database: Database, away: Away) -> None:
        super().__init__(database)
        self.away = away

    def wanted(self, node: str) -> Wanted | None:
        self.away.check()
        return super().wanted(node)


class Forgetful(Heard):
    def __init__(self, database: Database, away: Away) -> None:
        super().__init__(database)
        self.away = away
        self.written: list[Presence] = []

    def note_presence(self, presence: Sequence[Presence], now: float) -> None:
        self.away.check()
        super().note_presence(presence, now)
        self.written += presence


def test_what_a_database_that_was_away_did_not_take_is_made_up_for(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'controller.db'}")
    identity = Identity.load(tmp_path / "controller")
    away, heard_away = Away(), Away()
    links, heard = Moody(database, away), Forgetful(database, heard_away)

    def wants(number: int) -> None:
        with database.writing() as session:
            session.execute(update(Node).values(orders=number))

    vault = Vault(tmp_path / "vault.key")
    Ground(database, vault)
    fleet = Fleet(identity, links, Leases(database), heard, vault, own_port=0)
    with agents(tmp_path, "node") as (node,):
        peer = pair("127.0.0.1", node.port, node.code, identity, role="controller")
        there = {"config_addr": "127.0.0.1", "config_port": node.port, "peer": peer.node_id}
        with database.writing() as session:
            session.execute(update(Node).where(Node.uuid == WK).values(orders=1, **there))
            session.execute(delete(Node).where(Node.uuid != WK))

        def holds(number: int) -> None:
            until(number, lambda: f"orders-held number={number} " in node.log.read_text())

        heard_away.now = True
        fleet.start()
        try:
            holds(1)
            until("it is missed", lambda: heard_away.missed)
            heard_away.now = False
            until("it is written down", lambda: heard.written)
            assert [(one.node, one.online) for one in heard.written] == [(WK, True)]
            away.now = True
            wants(5)
            until("it is missed", lambda: away.missed)
            away.now = False
            holds(5)
        finally:
            fleet.close()
    database.close()
