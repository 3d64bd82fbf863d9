"""What tests of rules begin with: a database with a user and nodes, a body as a client sends it,
and a fleet that is told what to say."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.protection import Protection
from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.controller.store.rules import Rules
from i2node.controller.store.tables import Node
from i2node.controller.store.users import Users
from i2node.controller.tokens import Caller
from i2node.model import State
from i2node.orders import Run, Standing

WK = "42614852-BB62-1EF7-FED0-D2354BF3149D"
BK = "F85DFEC0-149E-373D-0B9E-3DA9A5C43940"
NOW = 1_600_000_000.0


class Spoken:
    """A fleet whose nodes say what they are told to. hangs: nodes that are linked and hold
    nothing."""

    def __init__(self, *online: str) -> None:
        self.linked = set(online)
        self.hangs: set[str] = set()
        self.standings: dict[str, Standing] = {}
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []
        self.denial: Refusal | None = None
        self.refused: dict[tuple[str, str], str] = {}
        self.answer: dict[str, Any] = {}
        self.services: Any = ["sshd"]
        self.told: list[str] = []
        self._lock = threading.Lock()

    def ask(
        self, node: str, verb: str, arguments: Mapping[str, Any], timeout_s: float = 10.0
    ) -> Any:
        if verb == "host":
            return {"services": self.services}
        self.asked.append((node, verb, arguments))
        if self.denial is not None:
            raise self.denial
        return self.answer

    def ask_at(
        self,
        host: str,
        port: int,
        verb: str,
        arguments: Mapping[str, Any],
        timeout_s: float = 10.0,
    ) -> Any:
        raise Refusal(Code.UNREACHABLE)

    def pair(self, host: str, port: int, code: str) -> str:
        raise Refusal(Code.UNREACHABLE)

    def reachable(self, host: str, port: int) -> bool:
        return False

    def online(self, node: str) -> bool:
        return node in self.linked

    def standing(self, rule: str) -> Standing | None:
        return self.standings.get(rule)

    def refusal(self, node: str, rule: str) -> str:
        return self.refused.get((node, rule), "")

    def forget(self, rule: str) -> None:
        self.standings.pop(rule, None)

    def changed(self, *nodes: str, wait_s: float = 0.0) -> None:
        with self._lock:
            self.told += nodes
        if wait_s and any(node in self.hangs or node not in self.linked for node in nodes):
            raise Refusal(Code.UNREACHABLE)


class Ground:
    """A controller's rules without its calls."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self.database = database
        Users(database).add("1BCFCAA3-E3C8-3E28-BDC5-BE36FDC2B5DC", "admin", "x", 1)
        user = Users(database).find("admin")
        assert user is not None
        self.caller = Caller(user.id, user.uuid, user.name)
        self.vault = vault
        self.fleet = Spoken(WK, BK)
        self.rules = Rules(database)
        self.protection = Protection(self.rules, vault, self.fleet, lambda: NOW)
        self.add_node(WK, "71.77", "192.168.71.77")
        self.add_node(BK, "71.78", "192.168.71.78")

    def add_node(self, node: str, name: str, address: str) -> None:
        row = Node(
            uuid=node,
            name=name,
            random_str=node,
            user_id=self.caller.id,
            created=1,
            updated=1,
            config_addr=address,
            config_port=26821,
            data_addr=address,
            peer=uuid.UUID(node).hex * 2,
            fields={},
        )
        with self.database.writing() as session:
            session.add(row)

    def create(self, **more: Any) -> str:
        return self.protection.create(Form(body(**more), "fsp_backup"), self.caller)

    def modify(self, rule: str, **more: Any) -> None:
        """With the edit token that counts, unless another is given."""
        kept = self.rules.find(rule)
        token = {"random_str": kept.rule.random_str if kept else ""}
        self.protection.modify(rule, Form(token | more, "fsp_backup"))

    def orders(self) -> tuple[int, int]:
        """The numbers of the orders of work node and backup node."""
        with self.database.reading() as session:
            found = {n.uuid: n.orders for n in session.query(Node).all()}
        return found[WK], found[BK]


def body(**more: Any) -> dict[str, Any]:
    """What makes a rule, and no more."""
    least = {
        "fsp_name": "test",
        "wk_uuid": WK,
        "bk_uuid": BK,
        "wk_path": ["/"],
        "bk_path": ["/fsp_bk/"],
    }
    return least | more


def standing(rule: str, state: State = State.REPLICATION, **more: Any) -> Standing:
    told: dict[str, Any] = {"version": "v", "run": 1, "since": NOW - 5}
    return Standing(rule=rule, state=state, **(told | more))


def a_pass(**more: Any) -> Run:
    told: dict[str, Any] = {
        "stamp": "20190111113656",
        "began": NOW - 60,
        "ended": NOW - 10,
        "files": 10,
        "changed": 4,
        "bytes_read": 4000,
        "bytes_sent": 1000,
        "problems": 1,
    }
    return Run(**(told | more))
