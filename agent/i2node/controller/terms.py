"""The API's words, translated into what the nodes are told (i2node.orders), in this one place.
Pure.

With encrypt_switch 0 content travels in clear, but nobody can alter it: what is said about it, and
what proves it, goes through TLS all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from i2node.controller.fields import script
from i2node.controller.form import Form
from i2node.controller.paths import normal
from i2node.controller.store.rules import NOW
from i2node.controller.store.tables import Node, Rule
from i2node.controller.timetable import read_plan
from i2node.orders import Charge, Comparing, Copying, Grant, Part, Want
from i2node.schedule import Plan

SKIPS: Mapping[str, Literal["", "files", "all"]] = {"0": "", "1": "all", "2": "files"}
"""What is not mirrored of what is there at first, for `mirr_skip`."""
LEVELS = {"1": 1, "2": 6, "3": 12}
"""Of zstd, for the levels of `compress`."""


def charge(rule: Rule, wk: Node, bk: Node, secret: str, certificate: str) -> Charge:
    """What the work node is to do. secret: the rule's key, opened; certificate: of the backup node,
    PEM."""
    fields = rule.fields
    encrypted = fields["encrypt_switch"] == "1"
    return Charge(
        rule=rule.uuid,
        version=f"{rule.random_str}.{rule.updated}",
        name=rule.name,
        want=Want(rule.want),
        run=rule.run,
        host=bk.data_addr or bk.config_addr,
        port=bk.config_port,
        peer=bk.peer,
        certificate=certificate,
        base=base(fields, wk),
        parts=_parts(fields),
        excludes=tuple(fields["excl_path"]),
        check="strict" if fields["mirr_file_check"] == "1" else "quick",
        owners=fields["mirr_sync_attr"] == "1",
        skip=SKIPS[fields["mirr_skip"]],
        compress=_compress(fields),
        encrypt=encrypted,
        secret_key=secret if encrypted else "",
        bwlimit=fields["band_width"],
        strict_source=fields["mirr_sync_flag"] == "0",
        plan=plan(fields),
        before=script(fields["pre_over_script"]),
        after=script(fields["post_over_script"]),
        comparing=_comparing(fields),
        copying=_copying(fields),
    )


def grant(rule: Rule, wk: Node, certificate: str) -> Grant:
    """What the backup node is to allow. certificate: of the work node, PEM."""
    planned = plan(rule.fields)
    return Grant(
        rule=rule.uuid,
        peer=wk.peer,
        certificate=certificate,
        name=wk.name,
        roots=roots(rule.fields, wk),
        base=base(rule.fields, wk),
        keep=planned.keep if planned else 0,
        copies=int(rule.fields["snapshot_limit"]) if _copying(rule.fields) else 0,
        drop=rule.fields["snapshot_policy"] == "0",
    )


def base(fields: Mapping[str, Any], wk: Node) -> str:
    """The directory of the backup node that holds the runs of a rule; empty where each path has its
    own."""
    if fields["bk_path_policy"] == "0":
        return ""
    return f"{normal(fields['bk_path'][0])}/{wk.config_addr}_{wk.config_port}"


def roots(fields: Mapping[str, Any], wk: Node) -> tuple[str, ...]:
    """The directories of the backup node that are the rule's."""
    below = base(fields, wk)
    return (below,) if below else tuple(normal(path) for path in fields["bk_path"])


def plan(fields: Mapping[str, Any]) -> Plan | None:
    """When its runs begin; None: now."""
    at_once = fields.get(NOW)
    if fields["bkup_policy"] == 0:
        return Plan(once_at=at_once or int(fields["bkup_one_time"]))
    if fields["bkup_policy"] == 1:
        return replace(_slots(fields, "bkup_schedule"), once_at=at_once)
    return None


def _slots(fields: Mapping[str, Any], name: str) -> Plan:
    form = Form({})
    found = read_plan(form, name, fields[name])
    form.check()
    return found


def _comparing(fields: Mapping[str, Any]) -> Comparing | None:
    if fields["cmp_switch"] != "1":
        return None
    plan = _slots(fields, "cmp_schedule")
    return Comparing(plan=plan, strict=fields["cmp_file_check"] == "1")


def _copying(fields: Mapping[str, Any]) -> Copying | None:
    if fields["snapshot_switch"] != "1":
        return None
    start = int(fields.get("snapshot_start") or 0)  # rules of before may have none
    return Copying(every_s=int(fields["snapshot_interval"]) * 3600, start=start)


def _parts(fields: Mapping[str, Any]) -> tuple[Part, ...]:
    sources = [normal(path) for path in fields["wk_path"]]
    if fields["bk_path_policy"] == "1":
        return tuple(Part(source=source) for source in sources)
    pairs = zip(sources, fields["bk_path"], strict=True)
    return tuple(Part(source=source, target=normal(target)) for source, target in pairs)


def _compress(fields: Mapping[str, Any]) -> Literal["auto", "off"] | int:
    """Later consoles switch it beside its level; on without a level is as the line allows."""
    switch = str(fields.get("compress_switch", ""))
    level = LEVELS.get(fields["compress"])
    if switch == "0" or (level is None and switch != "1"):
        return "off"
    return "auto" if level is None else level
