"""How the rules and nodes stand now: from what the fleet hears, and, of what it has not heard since
this controller started, from what was written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from i2node.controller.fleet import Fleet
from i2node.controller.status import element
from i2node.controller.store.heard import Heard, Last
from i2node.controller.store.rules import Brief, Rules

HEARD_S = 60.0
"""A rule that another controller heard of within so many seconds can be heard."""
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

    def __init__(
        self, rules: Rules, heard: Heard, fleet: Fleet, clock: Callable[[], float] = time.time
    ) -> None:
        self._rules = rules
        self._heard = heard
        self._fleet = fleet
        self._clock = clock

    def status(self, uuids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The status of some rules, those that there are, or of all."""
        briefs = self._rules.briefs(uuids) if uuids or uuids is None else []
        standings = {brief.uuid: self._fleet.standing(brief.uuid) for brief in briefs}
        unheard = [uuid for uuid, standing in standings.items() if standing is None]
        kept = self._heard.last(unheard) if unheard else {}
        return [
            self._element(brief, kept[brief.uuid])
            if brief.uuid in kept
            else element(brief, standings[brief.uuid], self._fleet.online(brief.wk))
            for brief in briefs
        ]

    def _element(self, brief: Brief, last: Last) -> dict[str, Any]:
        recent = self._clock() < last.heard + HEARD_S
        return element(brief, last.standing, recent or self._fleet.online(brief.wk))

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
