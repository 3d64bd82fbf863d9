"""Rules of full-server protection: made, changed, started, stopped, finished, deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from i2node.controller import terms
from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.fleet import Fleet
from i2node.controller.form import Form, is_storable
from i2node.controller.items import Item
from i2node.controller.rule import SERVICES, Wanted, read, wanted
from i2node.controller.seal import Vault
from i2node.controller.store.rules import Brief, Kept, Rules, Turn
from i2node.controller.store.tables import Rule
from i2node.controller.tokens import Caller
from i2node.model import State
from i2node.orders import Standing, Want

HOLD_S = 8.0
"""How long a call waits until the nodes hold what it changed."""
STOP_S = 30.0
"""How long until a rule that is to be wiped has stopped."""
WIPE_S = 60.0
SERVICES_S = 2.0
SERVICES_MOST = 256
SERVICE_LONGEST = 128
_STILL = (State.M_STOP, State.FINISH)
_WITHIN = ("wk_path", "bk_path", "bk_path_policy")

VERBS = ("start", "stop", "finish", "start_immediately")
SWITCHES = ("failover", "failback")


class Protection:
    """The rules, as calls change them. Safe to use from several threads."""

    def __init__(
        self, rules: Rules, vault: Vault, fleet: Fleet, clock: Callable[[], float] = time.time
    ) -> None:
        self._rules = rules
        self._vault = vault
        self._fleet = fleet
        self._clock = clock

    # ------------------------------------------------------------------ making and changing

    def create(self, form: Form, caller: Caller) -> str:
        """A new rule, of which its nodes are told; gives its uuid. It does not wait for them.
        Refusal: a field is wrong, the name is taken, a node is unknown."""
        now = self._clock()
        asked = read(form, now)
        stays = form.choice("auto_start", ("0", "1"), "1") == "0"
        form.check()
        asked.fields[SERVICES] = self._services(asked.wk)
        rule = Rule(
            uuid=_uuid(),
            user_id=caller.id,
            created=int(now),
            want=Want.STOP if stays else Want.RUN,
            run=1,
            status=State.M_STOP if stays else None,
            **self._columns(asked, None),
        )
        self._rules.add(rule, asked.wk, asked.bk)
        self._fleet.changed(asked.bk, asked.wk)
        return rule.uuid

    def create_batch(
        self, base: Mapping[str, Any], common: Mapping[str, Any], nodes: Sequence[Any], by: Caller
    ) -> list[Item]:
        """A rule for each of several pairs of nodes, from what they have in common."""
        made = []
        for number, own in enumerate(nodes):
            told: dict[str, Any] = {"fsp_name": "", "wk_uuid": ""}
            try:
                if not isinstance(own, Mapping):
                    raise Refusal(Code.INVALID, f"Lost: node_list[{number}]")
                values = {**base, **own}
                told["wk_uuid"] = str(values.get("wk_uuid", ""))
                values["fsp_name"] = told["fsp_name"] = self._batch_name(values, own, common)
                told["fsp_uuid"] = self.create(Form(values, f"node_list[{number}]"), by)
                made.append(Item(told))
            except Refusal as refusal:
                made.append(Item(told, refusal))
        return made

    def _batch_name(
        self, values: Mapping[str, Any], own: Mapping[str, Any], common: Mapping[str, Any]
    ) -> str:
        """What a rule of a batch is called: its own name; or the batch's with its work node's."""
        name = own.get("fsp_name")
        form = Form(common, "common_params")
        parts = [form.text(key, "") for key in ("batch_name", "rep_prefix", "rep_sufix")]
        form.check()
        if not name:
            wk = Form(values).uuid("wk_uuid")
            node = self._rules.node_name(wk) if wk else ""
            name = "-".join(part for part in (parts[0], node) if part)
        return f"{parts[1]}{name}{parts[2]}"

    def modify(self, uuid: str, form: Form) -> None:
        """Changes a rule. Bandwidth, excludes and plan of one that runs change while it does; its
        nodes and paths only while it is stopped. Refusal: see `create`; the edit token is not the
        newest; it runs; it is gone."""
        kept = self._found(uuid)
        token = form.text("random_str").upper()
        form.check()
        if token != kept.rule.random_str:
            raise Refusal(Code.CHANGED)
        before = wanted(kept)
        asked = read(form, self._clock(), before, kept.rule.secret is not None)
        if asked.wk != before.wk:
            asked.fields[SERVICES] = self._services(asked.wk)
        moved = _moved(before, asked)

        def check(now: Kept) -> None:
            if moved and not self._rests(now.rule):
                raise Refusal(
                    Code.FAILED,
                    f"{', '.join(moved)} cannot change while the rule runs: stop it first",
                )

        changed = Rule(uuid=kept.rule.uuid, **self._columns(asked, kept.rule.secret))
        self._rules.replace(token, changed, asked.wk, asked.bk, check)
        # Who allows first, who is allowed then: a work node that comes too early is turned away.
        self._fleet.changed(*dict.fromkeys((asked.bk, before.bk, asked.wk, before.wk)))

    def _services(self, node: str) -> list[str]:
        """What runs on a node, as it says; nothing where it does not within a moment."""
        with suppress(Refusal):
            if self._fleet.online(node):
                told = self._fleet.ask(node, "host", {}, SERVICES_S)
                found = told.get("services") if isinstance(told, Mapping) else None
                return [
                    one
                    for one in (found if isinstance(found, list) else [])
                    if isinstance(one, str) and is_storable(one) and len(one) <= SERVICE_LONGEST
                ][:SERVICES_MOST]
        return []

    def _columns(self, asked: Wanted, secret: bytes | None) -> dict[str, Any]:
        return {
            "name": asked.name,
            "random_str": _uuid(),
            "updated": int(self._clock()),
            "fields": asked.fields,
            "secret": self._vault.sealed(asked.secret) if asked.secret else secret,
        }

    def _rests(self, rule: Rule) -> bool:
        """Whether it is stopped, or done."""
        if rule.want == Want.FINISH:
            return _is_done(self._fleet.standing(rule.uuid), rule.run)
        return rule.want == Want.STOP

    def _found(self, uuid: str) -> Kept:
        kept = self._rules.find(uuid)
        if kept is None:
            raise Refusal(Code.NO_SUCH_RULE, f"there is no rule {uuid}")
        return kept

    # ------------------------------------------------------------------ what is to become of them

    def operate(self, verb: str, uuids: Sequence[str]) -> list[Item]:
        """Carries out a verb for several rules, and returns when their work nodes hold that. What
        an unreachable node was not told yet is kept: it is told when it is back."""
        found = self._turn(verb, uuids)
        return [self._item(uuid, found) for uuid in dict.fromkeys(uuids)]

    def _turn(self, verb: str, uuids: Sequence[str]) -> dict[str, Refusal | None]:
        """Writes down what is wanted now, and waits until it is held; gives what hinders that, by
        rule."""
        standings = {uuid: self._fleet.standing(uuid) for uuid in uuids}
        now = int(self._clock())
        turned = self._rules.turn(
            uuids, now, verb, lambda one: turn(verb, one, standings[one.uuid], now)
        )
        self._fleet.changed(*{brief.bk for brief in turned})
        held = self._held({brief.wk for brief in turned})
        return {brief.uuid: held[brief.wk] for brief in turned}

    def _held(self, nodes: set[str]) -> dict[str, Refusal | None]:
        """What hinders each of these nodes from holding what is wanted of it."""
        hindered: dict[str, Refusal | None] = {}
        until = time.monotonic() + HOLD_S
        self._fleet.changed(*nodes)
        for node in nodes:
            try:
                if not self._fleet.online(node):
                    raise Refusal(Code.UNREACHABLE)
                self._fleet.changed(node, wait_s=max(0.1, until - time.monotonic()))
                hindered[node] = None
            except Refusal as refusal:
                hindered[node] = Refusal(
                    Code.UNREACHABLE,
                    f"{refusal.cause}; it is kept, and told to the work node when it is back",
                )
        return hindered

    def _item(self, uuid: str, found: Mapping[str, Refusal | None]) -> Item:
        unknown = Refusal(Code.NO_SUCH_RULE, f"there is no rule {uuid}")
        return Item({"fsp_uuid": uuid}, found.get(uuid, unknown))

    # ------------------------------------------------------------------ deleting

    def delete(self, uuids: Sequence[str], wipe: bool | None, force: bool) -> list[Item]:
        """Deletes rules. wipe: what they wrote on the backup node too; None: as each rule's
        del_policy says. force: also where a node cannot be reached, which then learns of it when it
        is back; what it holds is not wiped."""
        gone: list[Brief] = []
        asked = list(dict.fromkeys(uuids))
        there = {brief.uuid for brief in self._rules.briefs(asked)}
        items = [
            self._delete(uuid, wipe, force, gone) if uuid in there else self._item(uuid, {})
            for uuid in asked
        ]
        self._fleet.changed(*{brief.bk for brief in gone})
        self._held({brief.wk for brief in gone})
        return items

    def _delete(self, uuid: str, wipe: bool | None, force: bool, gone: list[Brief]) -> Item:
        told = {"fsp_uuid": uuid}
        try:
            kept = self._found(uuid)
            wipes = str(kept.rule.fields.get("del_policy", "0")) == "1" if wipe is None else wipe
            self._check_reached(kept, wipes, force)
            if wipes:
                self._wipe(kept, force)
            brief = self._rules.remove(uuid, int(self._clock()))
            gone += [brief] if brief is not None else []
            self._fleet.forget(uuid)
        except Refusal as refusal:
            return Item(told, refusal)
        return Item(told)

    def _check_reached(self, kept: Kept, wipes: bool, force: bool) -> None:
        for node in (kept.wk, kept.bk) if wipes else (kept.wk,):
            if not force and not self._fleet.online(node.uuid):
                raise Refusal(
                    Code.UNREACHABLE,
                    f"node {node.name} cannot be reached, and would go on with the rule: delete it"
                    " when it is back, or with force 1",
                )

    def _wipe(self, kept: Kept, force: bool) -> None:
        """Stops a rule, and has removed what it wrote. Refusal: that failed; the rule is stopped,
        and still there."""
        hindered = self._turn("stop", [kept.rule.uuid])
        refusal = hindered.get(kept.rule.uuid)
        if refusal is None:
            refusal = self._stopping(kept.rule.uuid)
        if refusal is not None and not force:
            raise refusal
        fields = kept.rule.fields
        arguments = {
            "rule": kept.rule.uuid,
            "base": terms.base(fields, kept.wk),
            "roots": list(terms.roots(fields, kept.wk)),
        }
        try:
            left = self._fleet.ask(kept.bk.uuid, "wipe", arguments, WIPE_S).get("left")
            if left:
                path, cause = left[0]
                raise Refusal(Code.FAILED, f"{len(left)} paths stay there, {path}: {cause}")
        except Refusal as refusal:
            if not force:
                raise Refusal(
                    Code.FAILED,
                    f"{refusal.cause}; the rule is stopped, not deleted: delete it again, or with"
                    " del_policy 0, which leaves the data",
                    number=refusal.number,
                ) from refusal

    def _stopping(self, rule: str) -> Refusal | None:
        """Waits until a rule has stopped, so that nothing is written any more where it is wiped;
        gives what there is to say if it does not."""
        until = time.monotonic() + STOP_S
        while (standing := self._fleet.standing(rule)) and standing.state not in _STILL:
            if time.monotonic() >= until:
                return Refusal(
                    Code.FAILED, "the rule is still being stopped: delete it when it has"
                )
            time.sleep(0.05)
        return None


def turn(verb: str, brief: Brief, standing: Standing | None, now: int) -> Turn:
    """What is wanted of a rule after a verb. A run that is over does not begin again: another does.
    now: seconds since 1970. Pure."""
    done = _is_done(standing, brief.run)
    if verb == "stop":
        if brief.want == Want.FINISH and done:
            return Turn(brief.want, brief.run, None)
        return Turn(Want.STOP, brief.run, State.M_STOP)
    if verb == "finish":
        return Turn(Want.FINISH, brief.run, None)
    at_once = now if verb == "start_immediately" and brief.policy != 2 else None
    return Turn(Want.RUN, brief.run + (done or brief.want == Want.FINISH), None, at_once)


def _is_done(standing: Standing | None, run: int) -> bool:
    return standing is not None and standing.state is State.FINISH and standing.run >= run


def _moved(before: Wanted, asked: Wanted) -> list[str]:
    """The fields in which a rule becomes another place."""
    fields = [name for name in _WITHIN if before.fields[name] != asked.fields[name]]
    nodes = [("wk_uuid", before.wk, asked.wk), ("bk_uuid", before.bk, asked.bk)]
    return [name for name, old, new in nodes if old != new] + fields


def _uuid() -> str:
    return str(uuid.uuid4()).upper()
