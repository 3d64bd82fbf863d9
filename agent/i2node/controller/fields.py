"""The fields of a rule of full-server protection that a client may send, as a table: what each may
be, and what GET gives where it was not sent. Pure.

Numbers are texts in some fields and numbers in others, as the API has it. A value that we would
have to pass over, to the harm of who relies on it, is refused, with what is there instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2node.controller.form import Form, is_storable
from i2node.controller.paths import LONGEST, read_paths
from i2node.errors import UsageError
from i2node.net.throttle import parse_plan
from i2node.orders import PARTS_MOST

SCRIPTS = "/etc/sdata/scripts"
"""Where the scripts of a node are."""
EXCLUDES_MOST = 4096
EXTRA_MOST = 64 << 10
"""Bytes of what later consoles send beside, as JSON."""

Reader = Callable[[Form, str, Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """read: gives what GET gives, of a form, the field's name and its default, and notes faults in
    the form."""

    name: str
    default: Any
    read: Reader


def _choice(*among: str, because: str = "") -> Reader:
    def read(form: Form, name: str, default: Any) -> str:
        return form.choice(name, among, default, because)

    return read


def _numbered(*among: str, because: str = "") -> Reader:
    def read(form: Form, name: str, default: Any) -> int:
        told = form.choice(name, among, str(default), because)
        return int(told) if told in among else int(default)

    return read


def _text(most: int) -> Reader:
    def read(form: Form, name: str, default: Any) -> str:
        return form.text(name, default, most)

    return read


def _count(high: int) -> Reader:
    def read(form: Form, name: str, default: Any) -> str:
        return str(form.number(name, int(default), high=high))

    return read


def _number(high: int) -> Reader:
    def read(form: Form, name: str, default: Any) -> int | None:
        return form.number(name, 0, high=high) if form.given(name) else default

    return read


def _paths(most: int) -> Reader:
    def read(form: Form, name: str, default: Any) -> list[str]:
        found = read_paths(form, name, most)
        if default is None and not form.given(name):
            form.fault(f"Lost: {form.named(name)}[0]")
        return found

    return read


def _list(form: Form, name: str, default: Any) -> Any:
    """A list as it was sent."""
    found = form.items(name) if form.given(name) else default
    if not _is_plain(found):
        form.fault(f"Not string: {form.named(name)}[]")
        return default
    return found


def _band_width(form: Form, name: str, default: Any) -> str:
    text = form.text(name, default, 65536)
    try:
        parse_plan(text)
    except UsageError as error:
        form.fault(f"The {form.named(name)} field is no bandwidth plan [2104]: {error}")
    return text


def _script(form: Form, name: str, default: Any) -> str:
    text = form.text(name, default, LONGEST // 4)  # of which each may take 4 bytes
    parts = script(text).split("/")
    if text and any(part in ("", ".", "..") for part in parts):
        form.fault(
            f"The {form.named(name)} field must name a script below {SCRIPTS} of the work node"
        )
    return text


def script(text: str) -> str:
    """The name of a script below the directory of scripts; with an empty part where it is
    elsewhere."""
    return text.strip().removeprefix(f"{SCRIPTS}/")


_ONLY_FILES = "1 is files; block devices and disk images are not protected"
_ONLY_FULL = "0 is full; a run takes over only what changed since the one before anyway"
_ONLY_MANUAL = "1, the automatic switch, is not done; 0 and 2 wait for a person"

FIELDS: tuple[Field, ...] = (
    Field("fsp_type", 3, _numbered("3", because="3 is the backup of a full server")),
    Field("wk_path", None, _paths(PARTS_MOST)),
    Field("bk_path", None, _paths(PARTS_MOST)),
    Field("bk_path_policy", "1", _choice("0", "1")),
    Field("excl_path", [], _paths(EXCLUDES_MOST)),
    Field("sync_item", "/", _text(255)),
    Field("wk_data_type", 1, _numbered("1", because=_ONLY_FILES)),
    Field("bk_data_type", 1, _numbered("1", because=_ONLY_FILES)),
    Field("backup_type", "0", _choice("0", because=_ONLY_FULL)),
    Field("bkup_policy", 2, _numbered("0", "1", "2")),
    Field("bkup_one_time", None, _number(2**63 - 1)),
    Field("bkup_schedule", None, _list),
    Field("mirr_file_check", "0", _choice("0", "1")),
    Field("mirr_sync_flag", "0", _choice("0", "1")),
    Field("mirr_open_type", "0", _choice("0", "1", "2")),
    Field("mirr_sync_attr", "1", _choice("0", "1")),
    Field("mirr_skip", "0", _choice("0", "1", "2")),
    Field("encrypt_switch", "0", _choice("0", "1")),
    Field("compress", "0", _choice("0", "1", "2", "3")),
    Field("band_width", "", _band_width),
    Field("snapshot_switch", "0", _choice("0", "1")),
    Field("snapshot_interval", "24", _count(8760)),
    Field("snapshot_limit", "2", _count(64)),
    Field("snapshot_policy", "0", _choice("0", "1")),
    Field("snapshot_start", None, _number(9_999_999_999)),
    Field("cmp_switch", "0", _choice("0", "1")),
    Field("cmp_file_check", "0", _choice("0", "1")),
    Field("cmp_schedule", None, _list),
    Field("failover", "0", _choice("0", "2", because=_ONLY_MANUAL)),
    Field("monitor_type", 0, _numbered("0", "1", "2")),
    Field("monitor_ips", "", _text(4096)),
    Field("heartbeat", "10", _count(86400)),
    Field("max_fail_times", "6", _count(10_000)),
    Field("net_mapping", [], _list),
    Field("net_mapping_type", "0", _choice("0", "1", "2")),
    Field("pre_over_script", "", _script),
    Field("post_over_script", "", _script),
    Field(
        "fsp_wk_shut_flag",
        "2",
        _choice("2", because="2 leaves the work node running; it is not shut down from here"),
    ),
    Field("biz_grp_list", [], _list),
)

_ELSEWHERE = frozenset(
    [
        "fsp_name",
        "wk_uuid",
        "bk_uuid",
        "secret_key",
        "random_str",
        "auto_start",
        "uuid",
        "fsp_uuid",
        "id",
        "create_time",
        "status",
        "wk_node_name",
        "bk_node_name",
        "wk_ip",
        "bk_ip",
        "wk_port",
        "bk_port",
        "username",
        "user_uuid",
        "boot_time",
        "move_type",
        "recovery_data_path",
        "restore_point",
        "snapshot",
        "running_service",
        "biz_grp_name",
        "service_uuid",
        "bk_type",
        "_",
    ]
)
"""Fields that are kept in another way, or are not a client's to set, or mean nothing."""
_SECRETS = ("key", "pwd", "passw", "secret", "token")
_KNOWN = frozenset(field.name for field in FIELDS)


def read_extra(form: Form) -> dict[str, Any]:
    """What later consoles send beside: given back as it came. Secrets are not kept."""
    extra: dict[str, Any] = {}
    for name in form.names():
        hidden = name.startswith("_") or any(part in name for part in _SECRETS)
        if name in _KNOWN or name in _ELSEWHERE or hidden:
            continue
        value = form.raw(name)
        if not is_storable(name) or not _is_plain(value):
            form.fault(f"Not string: {form.named(name)!a}")
        else:
            extra[name] = value
    if len(json.dumps(extra)) > EXTRA_MOST:
        form.fault(f"more than {EXTRA_MOST} bytes in fields that are not known here")
        return {}
    _check_extra(form)
    return extra


def _check_extra(form: Form) -> None:
    form.choice("bk_file_crypt", ("0", ""), "0", "files stand in clear on the backup node")
    form.choice("del_policy", ("0", "1"), "0")
    form.choice("compress_switch", ("0", "1"), "0")


def _is_plain(value: object, depth: int = 8) -> bool:
    """Whether any database holds it as JSON."""
    if isinstance(value, str):
        return is_storable(value)
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        inner = value
    else:
        return value is None or isinstance(value, int)
    return depth > 0 and all(_is_plain(one, depth - 1) for one in inner)
