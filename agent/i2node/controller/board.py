"""How the rules and nodes stand now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2node.controller.fleet import Fleet
from i2node.controller.status import element
from i2node.controller.store.rules import Rules

RULE_WORDS = [
    "UNKNOWN",
    "FINISH",
    "STOP",
    "REPLICATION",
    "MIRROR",
    "EXCEPTION",
    "STALE",
    "SWITCH",
    "WAIT",
    "WAITING",
    "EXECUTING",
    "IDLE",
    "DEAD",
    "EXCPT",
    "M_STOP",
]


class Board:
    """The picture of this moment. Safe to use from several threads."""

    def __init__(self, rules: Rules, fleet: Fleet) -> None:
        self._rules = rules
        self._fleet = fleet

    def status(self, uuids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The status of some rules, those that there are, or of all."""
        briefs = self._rules.briefs(uuids) if uuids or uuids is None else []
        return [
            element(
                brief,
                self._fleet.standing(brief.uuid),
                self._fleet.online(brief.wk),
                self._fleet.refusal(brief.bk, brief.uuid),
            )
            for brief in briefs
        ]

    def overall(self) -> dict[str, Any]:
        """How many rules are in each state, and how many nodes."""
        rules = dict.fromkeys(RULE_WORDS, 0)
        for one in self.status():
            rules[one["status"]] += 1
        nodes = {"UNKNOWN": 0, "OFFLINE": 0, "ONLINE": 0}
        for uuid, is_paired in self._rules.nodes():
            online = "ONLINE" if self._fleet.online(uuid) else "OFFLINE"
            nodes[online if is_paired else "UNKNOWN"] += 1
        return {
            "node_num": sum(nodes.values()),
            "rep_num": sum(rules.values()),
            "fsp_num": sum(rules.values()),
            "ha_num": 0,
            "node": nodes,
            "rep": rules,
            "ha": {"master_status": {}, "master_role": {}},
        }
