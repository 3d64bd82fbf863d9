"""Calls about rules of full-server protection."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from i2node.controller.app import Answer, AtDesk, Given, Known
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal
from i2node.controller.form import Form
from i2node.controller.items import answered
from i2node.controller.protection import SWITCHES, VERBS
from i2node.controller.rule import listed, shown
from i2node.controller.store.rules import ORDERS, Page

routes = APIRouter(prefix="/fsp/backup", tags=["fsp"])
TYPES = ("3", "5", "10", "11")
_OURS = 3


@routes.post("")
def create(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Makes a rule (`fsp_backup`). A second of the same name is refused, so a call may be repeated
    whose answer was lost. The rule's uuid is found by the list."""
    desk.protection.create(call.form.object("fsp_backup"), caller)
    return {}


@routes.post("/batch")
def create_batch(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Makes a rule for each of `node_list`, with `base_info_list` in common; its name is its own
    `fsp_name`, or `batch_name` and the work node's, between rep_prefix and rep_sufix."""
    form = call.form
    base, common = (form.raw(name) or {} for name in ("base_info_list", "common_params"))
    nodes = form.items("node_list")
    for name, value in (("base_info_list", base), ("common_params", common)):
        if not isinstance(value, dict):
            form.fault(f"Lost: {name}")
    if not nodes:
        form.fault("Lost: node_list[0]")
    form.check()
    return answered(desk.protection.create_batch(base, common, nodes, caller))


@routes.get("")
def find(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """A list of the rules: `limit`, `page`, `order_by`, `direction`, `search_field` and
    `search_value` or like_args and where_args, `type`."""
    form = call.form
    kind = form.choice("type", TYPES, "") if form.given("type") else ""
    page = _page(form)
    form.check()
    if kind not in ("", str(_OURS)):
        return {"info_list": [], "total": 0}
    rules, total = desk.rules.page(page)
    return {"info_list": [listed(rule) for rule in rules], "total": total}


@routes.get("/status")
def status(call: Given, caller: Known, desk: AtDesk) -> Answer:
    """How rules stand (`fsp_uuids`), as far as they are known here."""
    form = call.form
    uuids = form.uuids("fsp_uuids")
    form.check()
    return Answer({"status": desk.board.status(uuids)})  # asked too often to be gone over again


@routes.post("/operate")
def operate(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Does start, stop, finish or start_immediately (`operate`) for rules (`fsp_uuids`)."""
    form = call.form
    verb = form.choice("operate", (*VERBS, *SWITCHES))
    uuids = form.uuids("fsp_uuids")
    form.check()
    if verb in SWITCHES:
        raise Refusal(
            Code.NOT_ENABLED,
            f"{verb}: the backup node does not take over; finish the rule, and restore from there",
        )
    return answered(desk.protection.operate(verb, uuids))


@routes.delete("")
def delete(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Deletes rules (`fsp_uuids`). del_policy 1: and what they wrote on the backup node; force 1:
    also where a node cannot be reached."""
    form = call.form
    uuids = form.uuids("fsp_uuids")
    policy = form.choice("del_policy", ("0", "1"), "0")
    wipe = policy == "1" if form.given("del_policy") else None
    force = form.number("force", 0, high=1) == 1
    form.check()
    return answered(desk.protection.delete(uuids, wipe, force), lists_success=False)


@routes.post("/verify_old_rule")
def verify_old_rule(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Whether neither node is of any rule yet."""
    form = call.form
    nodes = (form.uuid("wk_uuid"), form.uuid("bk_uuid"))
    form.check()
    if desk.rules.takes_part(*nodes):
        raise Refusal(Code.OLD_RULE)
    return {}


@routes.get("/{uuid:uuid}")
def describe(uuid: UUID, caller: Known, desk: AtDesk) -> Payload:
    """A rule, whole."""
    kept = desk.rules.find(str(uuid).upper())
    if kept is None:
        raise Refusal(Code.NO_SUCH_RULE)
    return {"fsp_backup": shown(kept)}


@routes.put("/{uuid:uuid}")
def modify(uuid: UUID, call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Changes a rule; what is not sent stays. `random_str` must be that of the last GET."""
    desk.protection.modify(str(uuid).upper(), call.form.object("fsp_backup"))
    return {}


def _page(form: Form) -> Page:
    order = form.choice("order_by", tuple(ORDERS), "create_time")
    direction = form.choice("direction", ("ASC", "DESC", "asc", "desc"), "ASC")
    contains, equals = (_searched(form, name) for name in ("like_args", "where_args"))
    if form.given("search_value"):
        field = form.choice("search_field", tuple(ORDERS), "fsp_name")
        contains[field] = form.text("search_value")
    return Page(
        order=order,
        descending=direction.upper() == "DESC",
        limit=form.number("limit", 0, high=100_000),
        page=form.number("page", 1, low=1, high=10**9),
        contains={key: text for key, text in contains.items() if key in ORDERS},
        equals={key: text for key, text in equals.items() if key in ORDERS},
    )


def _searched(form: Form, name: str) -> dict[str, str]:
    """Values to search for, by the field; the empty ones count as none."""
    values = form.raw(name)
    if not isinstance(values, dict):
        return {}
    part = form.part(values, form.named(name))
    for field in values:
        if field not in ORDERS:
            form.fault(f"The {name} field must be of: {','.join(ORDERS)}")
    return {field: part.text(field) for field in values if part.given(field)}
