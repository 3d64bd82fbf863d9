"""The record of a node: what a client may send of it, and what it is given back. Pure.

Numbers are texts in some fields and numbers in others, as the API has it. A value that we would
have to pass over, to the harm of who relies on it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from i2node.controller.form import Form, is_storable
from i2node.controller.store.nodes import Kept
from i2node.model import PORT

NAME_MOST = 255
ITEMS_MOST = 1024

Reader = Callable[[Form, str, Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field that is kept as it was sent. default: what there is where it was not; read: gives its
    value of a form, a name and the default, and notes faults in the form; also: other names that
    clients give it."""

    name: str
    default: Any
    read: Reader
    also: tuple[str, ...] = ()


def _text(most: int) -> Reader:
    return lambda form, name, default: form.text(name, default, most)


def _count(high: int = 2**31) -> Reader:
    return lambda form, name, default: str(form.number(name, int(default), high=high))


def _choice(*among: str) -> Reader:
    return lambda form, name, default: form.choice(name, among, default)


def _number(*among: str) -> Reader:
    def read(form: Form, name: str, default: Any) -> int:
        told = form.choice(name, among, str(default))
        return int(told) if told in among else int(default)

    return read


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_storable(value)


def _list(form: Form, name: str, default: Any) -> list[str]:
    found = form.items(name) if form.given(name) else default
    if len(found) > ITEMS_MOST or not all(map(_is_text, found)):
        form.fault(f"The {form.named(name)} field must hold at most {ITEMS_MOST} texts")
        return list(default)
    return list(found)


FIELDS: tuple[Field, ...] = (
    Field("data_port", "26831", _count(65535)),
    Field("node_role", "3", _choice("1", "2", "3")),
    Field("node_type", 0, _number("0")),
    Field("cloud_type", "0", _choice("0")),
    Field("os_user", "", _text(255)),
    Field("mem_limit", "256", _count()),
    Field("disk_limit", "10240", _count()),
    Field("rep_path", ["/"], _list, ("wk_path",)),
    Field("rep_excl_path", [], _list),
    Field("vg", "", _text(255)),
    # Snapshots of volumes, monitoring and proxies are not there: 1 would be waited for in vain.
    Field("en_snap_switch", 0, _number("0")),
    Field("monitor_switch", 0, _number("0")),
    Field("proxy_switch", 0, _number("0")),
    Field("security_check", 0, _number("0", "1")),
    Field("reboot_sys", "0", _choice("0")),
    Field("comment", "", _text(4096)),
    Field("bind_lic_list", [], _list),
    Field("biz_grp_list", [], _list),
    Field("mon_send_interval", "10", _count(), ("monitor_interval",)),
    Field("mon_data_path", None, lambda form, name, _: form.text(name, "") or None),
    Field("mon_save_day", "5", _count(), ("moni_log_keep_node",)),
    Field("db_save_day", "3", _count(), ("moni_log_keep_server",)),
    Field("chart_config", "0", _text(4096)),
    Field("bak_client_max", "100", _count()),
    Field("bak_user_max", "100", _count()),
    Field("bak_root", "", _text(4096)),
    Field("bak_service_type", "", _text(255)),
)
"""Everything that a client sets, and that is no column of the table."""

_NEVER = {
    "info": None,
    "status": None,
    "hardware_code": None,
    "tc_uuid": None,
    "cls_disk": None,
    "cls_node": None,
    "cls_is_local": None,
    # The code is a secret, and the agent has its directories where it was installed.
    "i2id": "",
    "allow_modify_cache_path": 0,
}
_PATHS = ("cache_path", "log_path")
_HOST = {"os_type": 0, "phy_type": 1, "cache_path": None, "log_path": None}


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client sent of a node. code: the pairing code (`i2id`), "" for none. paths: where the
    agent is to have its directories, as far as that was sent."""

    name: str
    host: str
    port: int
    data_addr: str
    code: str
    token: str
    paths: dict[str, str]
    fields: dict[str, Any]


def read(form: Form, names: Collection[str], kept: Mapping[str, Any] | None = None) -> Sent:
    """What was sent of a node. names: of all that was sent, empty or not; kept: the fields that the
    node has, which stay where no others are sent. Notes faults in the form."""
    host = form.text("config_addr", most=255)
    port = form.number("config_port", PORT, 1, 65535)
    fields: dict[str, Any] = {}
    for field in FIELDS:
        sent = next((name for name in (field.name, *field.also) if name in names), field.name)
        if sent not in names and kept is not None:
            fields[field.name] = kept.get(field.name, field.default)
        else:
            fields[field.name] = field.read(form, sent, field.default)
    return Sent(
        name=form.text("node_name", most=NAME_MOST).strip(),
        host=host,
        port=port,
        data_addr=_address(form, host),
        code=form.text("i2id", "", 255),
        token=form.text("random_str", ""),
        paths={name: form.text(name) for name in _PATHS if form.given(name)},
        fields=fields,
    )


def _address(form: Form, host: str) -> str:
    """Where data goes. Nobody dials it here, and work nodes refuse what none can dial."""
    text = form.text("data_addr", host, 255)
    if not text.isprintable() or " " in text:
        form.fault(f"The {form.named('data_addr')} field must be an address or a host's name")
    return text


def check_paths(sent: Sent, fields: Mapping[str, Any]) -> None:
    """Refusal: the agent is to have its directories elsewhere than it has them."""
    for name, path in sent.paths.items():
        has = fields.get(name)
        if has and path.rstrip("/") != has.rstrip("/"):
            form = Form({}, "node")
            form.fault(
                f"The {form.named(name)} field must be {has}: where the agent keeps its files is"
                " settled where it is installed"
            )
            form.check()


def facts(host: Mapping[str, Any]) -> dict[str, Any]:
    """What a host tells of itself that its record holds."""
    return {
        "os_type": int(host.get("os_type", 0)),
        "phy_type": int(host.get("phy_type", 1)),
        "cache_path": str(host.get("cache_path", "")) or None,
        "log_path": str(host.get("log_path", "")) or None,
    }


def whole(kept: Kept) -> dict[str, Any]:
    """All of a node, as the API gives it."""
    node, user = kept
    defaults = {field.name: field.default for field in FIELDS}
    return {
        **_NEVER,
        **_HOST,
        **defaults,
        **node.fields,
        "id": str(node.id),
        "node_uuid": node.uuid,
        "node_name": node.name,
        "random_str": node.random_str,
        "user_uuid": user.uuid,
        "username": user.name,
        "create_time": str(node.created),
        "created_at": str(node.created),
        "updated_at": str(node.updated) if node.updated > node.created else None,
        "config_addr": node.config_addr,
        "config_port": str(node.config_port),
        "data_addr": node.data_addr,
        "os_version": node.os_version,
        "biz_grp_name": [],
    }


_LISTED = (
    *("username", "cache_path", "config_addr", "data_addr", "disk_limit", "log_path", "mem_limit"),
    *("node_name", "node_role", "node_uuid", "os_type", "os_version"),
)


def brief(kept: Kept) -> dict[str, Any]:
    """What a list tells of a node."""
    every = whole(kept)
    return {name: every[name] for name in _LISTED}
