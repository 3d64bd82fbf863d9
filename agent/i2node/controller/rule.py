"""A rule of full-server protection, as the API has it: read from a call, and shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.fields import FIELDS, read_extra
from i2node.controller.form import Form
from i2node.controller.paths import LONGEST, check_apart, check_excludes, normal
from i2node.controller.store.rules import Kept
from i2node.controller.timetable import read_plan
from i2node.orders import Want

LONGEST_NAME = 128
SERVICES = "running_service"
"""Of a rule's fields one that the work node tells when the rule is made."""
_LONGEST_TARGET = LONGEST - 300
"""Bytes of a directory of the backup node: below it is one that names the work node."""
_SECRET_MOST = 1024

EXCLUDED = (
    "/cgroup/",
    "/dev/",
    "/etc/X11/xorg.conf/",
    "/etc/init.d/i2node/",
    "/etc/rc.d/init.d/i2node/",
    "/etc/sdata/",
    "/lost+found/",
    "/media/",
    "/mnt/",
    "/proc/",
    "/run/",
    "/selinux/",
    "/sys/",
    "/tmp/",
    "/usr/local/sdata/",
    "/var/i2/",
    "/var/i2data/",
    "/var/lock/",
    "/var/run/vmblock-fuse/",
)
"""What a server's copy is without, unless excl_path is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client wants a rule to be. wk, bk: uuids of its nodes. fields: the rest, by the API's
    names, typed as GET gives them. secret: the key of the data; empty: as before."""

    name: str
    wk: str
    bk: str
    fields: dict[str, Any]
    secret: str = field(default="", repr=False)


def wanted(kept: Kept) -> Wanted:
    """What was wanted of a rule so far."""
    return Wanted(
        name=kept.rule.name, wk=kept.wk.uuid, bk=kept.bk.uuid, fields=dict(kept.rule.fields)
    )


def read(form: Form, now: float, before: Wanted | None = None, has_secret: bool = False) -> Wanted:
    """The rule that a form asks for. now: seconds since 1970. before: what the rule is, of which
    stays what is not sent; has_secret: it has a key already. Refusal: anything is wrong, all of it
    at once."""
    kept = before.fields if before else {}
    told = set(form.names())
    stays = {one.name for one in FIELDS if one.name in kept and one.name not in told}
    fields = {
        one.name: kept[one.name] if one.name in stays else one.read(form, one.name, one.default)
        for one in FIELDS
    }
    if not before and "excl_path" not in told:
        fields["excl_path"] = _excluded(fields["wk_path"])
    extra = read_extra(form)
    fields |= {key: kept[key] for key in kept if key not in fields} | extra
    found = Wanted(
        name=before.name if before and "fsp_name" not in told else form.text("fsp_name"),
        wk=before.wk if before and "wk_uuid" not in told else form.uuid("wk_uuid"),
        bk=before.bk if before and "bk_uuid" not in told else form.uuid("bk_uuid"),
        fields=fields,
        secret=form.text("secret_key", "", _SECRET_MOST),
    )
    _check_paths(form, fields)
    _check_plan(form, fields)
    _check_beside(form, fields)
    _check_past(form, fields, kept, now)
    if fields["encrypt_switch"] == "1" and not found.secret and not has_secret:
        form.fault(f"Lost: {form.named('secret_key')}")
    form.check()
    _check_name(found.name)
    if found.wk == found.bk:
        raise Refusal(
            Code.INVALID,
            f"wk_uuid and bk_uuid are both {found.wk}: a node is not backed up to itself",
        )
    return found


def _excluded(roots: list[str]) -> list[str]:
    """Of the usual excludes those that leave something of each root."""
    trees = [normal(root).rstrip("/") + "/" for root in roots]
    return [
        path
        for path in EXCLUDED
        if any(path.startswith(tree) for tree in trees)
        and not any(tree.startswith(path) for tree in trees)
    ]


def _check_paths(form: Form, fields: Mapping[str, Any]) -> None:
    roots, targets = fields["wk_path"], fields["bk_path"]
    check_apart(form, "wk_path", roots)
    check_excludes(form, "excl_path", fields["excl_path"], roots)
    for number, path in enumerate(targets):
        if normal(path) == "/":
            form.fault(
                f"The {form.named('bk_path')}[{number}] field is the root of the backup node itself"
            )
        if len(path.encode()) > _LONGEST_TARGET:
            form.fault(
                f"The {form.named('bk_path')}[{number}] field must be at most {_LONGEST_TARGET}"
                " bytes in length"
            )
    if not roots or not targets:
        return
    if fields["bk_path_policy"] == "1" and len(targets) != 1:
        form.fault(
            f"The {form.named('bk_path')} field must hold one directory, for bk_path_policy is 1"
        )
    if fields["bk_path_policy"] == "0":
        check_apart(form, "bk_path", targets)
        if len(targets) != len(roots):
            form.fault(
                f"The {form.named('bk_path')} field must hold {len(roots)} directories, as many as"
                " wk_path, for bk_path_policy is 0"
            )


def _check_plan(form: Form, fields: Mapping[str, Any]) -> None:
    at = fields["bkup_one_time"]
    if fields["bkup_policy"] == 0 and len(str(at or "")) != 10:
        form.fault(
            f"The {form.named('bkup_one_time')} field must be exactly 10 characters in length"
        )
    if fields["bkup_policy"] == 1:
        read_plan(form, "bkup_schedule", fields["bkup_schedule"])
    if fields["bkup_policy"] != 2 and fields["mirr_skip"] != "0":
        form.fault(
            f"The {form.named('mirr_skip')} field must be 0 with bkup_policy 0 and 1: a planned "
            "run is one pass, and would mirror nothing"
        )


def _check_beside(form: Form, fields: Mapping[str, Any]) -> None:
    """What is done beside the replication is done while there is one."""
    compares, copies = (fields[name] == "1" for name in ("cmp_switch", "snapshot_switch"))
    if compares:
        read_plan(form, "cmp_schedule", fields["cmp_schedule"])
    if compares and fields["bkup_policy"] != 2:
        form.fault(
            f"The {form.named('cmp_switch')} field must be 0 unless bkup_policy is 2: a planned run"
            " ends, and with mirr_file_check 1 each compares by content"
        )
    if copies and fields["bkup_policy"] != 2:
        form.fault(
            f"The {form.named('snapshot_switch')} field must be 0 unless bkup_policy is 2: each"
            " planned run is a copy of its own, and `limit` in bkup_schedule says how many stay"
        )
    if copies and fields["bk_path_policy"] != "1":
        form.fault(
            f"The {form.named('snapshot_switch')} field must be 0 unless bk_path_policy is 1:"
            " copies stand beside the mirror, in one directory that is the rule's"
        )
    for name in ("snapshot_interval", "snapshot_limit"):
        if copies and fields[name] == "0":
            form.fault(f"The {form.named(name)} field must be 1 or more, for snapshot_switch is 1")


def _check_past(form: Form, fields: Mapping[str, Any], kept: Mapping[str, Any], now: float) -> None:
    """A time that is past never comes; that of a rule that had it may have been its run."""
    when = ("bkup_policy", "bkup_one_time")
    at = fields["bkup_one_time"]
    if fields["bkup_policy"] != 0 or len(str(at or "")) != 10 or at > now:
        return
    if not kept or any(kept.get(name) != fields[name] for name in when):
        form.fault(
            f"The {form.named('bkup_one_time')} field is past; to start now send bkup_policy 2"
        )


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise Refusal(
            Code.BAD_NAME,
            f"a rule's name has at most {LONGEST_NAME} characters that can be shown, and no blank"
            " before or behind them",
        )


_LISTED = [
    "band_width",
    "bk_path_policy",
    "random_str",
    "wk_node_name",
    "bk_node_name",
    "username",
    "bk_uuid",
    "fsp_name",
    "fsp_type",
    "fsp_uuid",
    "wk_uuid",
]


def shown(kept: Kept) -> dict[str, Any]:
    """All of a rule, as GET of it gives it."""
    return _values(kept)


def listed(kept: Kept) -> dict[str, Any]:
    """What a list tells of a rule."""
    values = _values(kept)
    return {name: values[name] for name in _LISTED}


def _values(kept: Kept) -> dict[str, Any]:
    rule, wk, bk = kept.rule, kept.wk, kept.bk
    return (
        {field.name: field.default for field in FIELDS}
        | {name: value for name, value in rule.fields.items() if not name.startswith("_")}
        | {
            "id": str(rule.id),
            "uuid": rule.uuid,
            "fsp_uuid": rule.uuid,
            "fsp_name": rule.name,
            "random_str": rule.random_str,
            "create_time": str(rule.created),
            "auto_start": "0" if rule.want == Want.STOP else "1",
            "status": rule.status,
            "secret_key": "",
            "wk_uuid": wk.uuid,
            "bk_uuid": bk.uuid,
            "wk_node_name": wk.name,
            "bk_node_name": bk.name,
            "wk_ip": wk.config_addr,
            "bk_ip": bk.config_addr,
            "wk_port": str(wk.config_port),
            "bk_port": str(bk.config_port),
            "username": kept.user.name,
            "user_uuid": kept.user.uuid,
            SERVICES: rule.fields.get(SERVICES, []),
            "biz_grp_name": [],
            "snapshot": "0",
            "boot_time": None,
            "move_type": None,
            "recovery_data_path": None,
            "restore_point": None,
        }
    )
