"""The record of a node: every field, its type and what it is where nobody sent it."""

from __future__ import annotations

from typing import Any

import pytest

from i2node.controller import node
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.nodes import gigabytes, sound
from i2node.controller.store.nodes import Kept
from i2node.controller.store.tables import Node, User

HOST = {
    "os_type": 0,
    "phy_type": 2,
    "cache_path": "/var/i2data/cache/",
    "log_path": "/var/i2data/log/",
    "os_version": "Red Hat 9.4 x86_64",
}
LEAST = {"node_name": "N4_72.76", "config_addr": "192.168.72.76"}


def read(values: dict[str, Any], kept: dict[str, Any] | None = None) -> node.Sent:
    form = Form(values, "node")
    sent = node.read(form, values, kept)
    form.check()
    return sent


def record(values: dict[str, Any]) -> dict[str, Any]:
    """What GET tells of a node that was added so."""
    sent = read(LEAST | values)
    row = Node(
        id=18,
        uuid="U",
        name=sent.name,
        random_str="T",
        created=1547002250,
        updated=1547002250,
        config_addr=sent.host,
        config_port=sent.port,
        data_addr=sent.data_addr,
        os_version="Red Hat 9.4 x86_64",
        fields=sent.fields | node.facts(HOST),
    )
    return node.whole(Kept(row, User(uuid="O", name="admin")))


DEFAULTS: dict[str, Any] = {
    "id": "18",
    "node_uuid": "U",
    "node_name": "N4_72.76",
    "random_str": "T",
    "user_uuid": "O",
    "username": "admin",
    "create_time": "1547002250",
    "created_at": "1547002250",
    "updated_at": None,
    "config_addr": "192.168.72.76",
    "config_port": "26821",
    "data_addr": "192.168.72.76",
    "data_port": "26831",
    "node_role": "3",
    "node_type": 0,
    "phy_type": 2,
    "cloud_type": "0",
    "os_type": 0,
    "os_version": "Red Hat 9.4 x86_64",
    "os_user": "",
    "cache_path": "/var/i2data/cache/",
    "allow_modify_cache_path": 0,
    "log_path": "/var/i2data/log/",
    "mem_limit": "256",
    "disk_limit": "10240",
    "rep_path": ["/"],
    "rep_excl_path": [],
    "vg": "",
    "en_snap_switch": 0,
    "security_check": 0,
    "proxy_switch": 0,
    "reboot_sys": "0",
    "comment": "",
    "bind_lic_list": [],
    "biz_grp_list": [],
    "biz_grp_name": [],
    "monitor_switch": 0,
    "mon_send_interval": "10",
    "mon_data_path": None,
    "mon_save_day": "5",
    "db_save_day": "3",
    "chart_config": "0",
    "bak_client_max": "100",
    "bak_user_max": "100",
    "bak_root": "",
    "bak_service_type": "",
    "status": None,
    "info": None,
    "hardware_code": None,
    "tc_uuid": None,
    "cls_disk": None,
    "cls_node": None,
    "cls_is_local": None,
    "i2id": "",
}


def test_every_field_has_its_type_and_default() -> None:
    found = record({})
    assert found == DEFAULTS
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in DEFAULTS.items()
    }


def test_what_is_sent_empty_is_as_if_it_were_not_sent() -> None:
    empty: dict[str, Any] = {field.name: "" for field in node.FIELDS}
    assert record(empty) == record({field.name: None for field in node.FIELDS}) == DEFAULTS
    assert record({"rep_path": [], "biz_grp_list": []}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "sent", "given"),
    [
        ("config_port", 26822, "26822"),
        ("config_port", "26822", "26822"),
        ("data_addr", "10.0.0.1", "10.0.0.1"),
        ("data_port", 26832, "26832"),
        ("node_role", 1, "1"),
        ("node_role", "2", "2"),
        ("os_user", "root", "root"),
        ("mem_limit", 819, "819"),
        ("disk_limit", "0", "0"),
        ("rep_path", ["/srv"], ["/srv"]),
        ("rep_excl_path", ["/srv/x/"], ["/srv/x/"]),
        ("vg", "vg0", "vg0"),
        ("en_snap_switch", "0", 0),
        ("security_check", "1", 1),
        ("security_check", 1, 1),
        ("comment", "in rack 7", "in rack 7"),
        ("bind_lic_list", ["A"], ["A"]),
        ("biz_grp_list", ["G"], ["G"]),
        ("mon_send_interval", 60, "60"),
        ("mon_data_path", "/var/log/", "/var/log/"),
        ("mon_save_day", 9, "9"),
        ("db_save_day", "7", "7"),
        ("chart_config", "1", "1"),
        ("bak_client_max", 5, "5"),
        ("bak_user_max", 5, "5"),
        ("bak_root", "/b", "/b"),
        ("bak_service_type", "x", "x"),
    ],
)
def test_what_is_sent_is_given_back_in_the_same_type(name: str, sent: Any, given: Any) -> None:
    found = record({name: sent})
    assert found == DEFAULTS | {name: given} and type(found[name]) is type(given)


@pytest.mark.parametrize(
    ("sent", "name", "given"),
    [
        ("monitor_interval", "mon_send_interval", "60"),
        ("moni_log_keep_node", "mon_save_day", "60"),
        ("moni_log_keep_server", "db_save_day", "60"),
    ],
)
def test_some_fields_have_two_names(sent: str, name: str, given: str) -> None:
    assert record({sent: 60}) == DEFAULTS | {name: given}


def test_passwords_and_codes_are_never_given_back() -> None:
    found = record({"os_pwd": "secret", "i2id": "c" * 32})
    assert found == DEFAULTS
    assert read(LEAST | {"i2id": "c" * 32}).code == "c" * 32


@pytest.mark.parametrize(
    ("sent", "clause"),
    [
        ({"node_name": ""}, "Lost: node[node_name]"),
        ({"config_addr": None}, "Lost: node[config_addr]"),
        ({"config_port": 0}, "The node[config_port] field must contain a number greater"),
        ({"config_port": "x"}, "The node[config_port] field must contain a number"),
        ({"node_role": "4"}, "The node[node_role] field must be one of: 1,2,3"),
        ({"en_snap_switch": 1}, "The node[en_snap_switch] field must be one of: 0"),
        ({"monitor_switch": 1}, "The node[monitor_switch] field must be one of: 0"),
        ({"proxy_switch": 1}, "The node[proxy_switch] field must be one of: 0"),
        ({"mem_limit": -1}, "The node[mem_limit] field must contain a number"),
        ({"rep_path": "/"}, "Not array: node[rep_path]"),
        ({"rep_path": [1]}, "The node[rep_path] field must hold"),
        ({"biz_grp_list": ["\ud800"]}, "The node[biz_grp_list] field must hold"),
        ({"comment": {}}, "Not string: node[comment]"),
        ({"comment": "x" * 5000}, "The node[comment] field must be at most 4096 characters"),
        ({"node_name": "x" * 256}, "The node[node_name] field must be at most 255 characters"),
    ],
)
def test_what_cannot_be_is_named(sent: dict[str, Any], clause: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(LEAST | sent)
    assert refused.value.number == 10001002 and clause in refused.value.cause


def test_what_is_not_sent_of_a_change_stays() -> None:
    kept = read(LEAST | {"comment": "old", "mem_limit": 7, "rep_path": ["/srv"]}).fields
    assert read(LEAST, kept).fields == kept
    changed = read(LEAST | {"comment": "", "mem_limit": 8}, kept).fields
    assert changed == kept | {"comment": "", "mem_limit": "8"}


def test_the_agent_keeps_its_directories_where_it_is_installed() -> None:
    fields = node.facts(HOST)
    node.check_paths(read(LEAST | {"cache_path": "/var/i2data/cache", "log_path": ""}), fields)
    with pytest.raises(Refusal, match="must be /var/i2data/cache/"):
        node.check_paths(read(LEAST | {"cache_path": "/elsewhere/"}), fields)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (63018038272, "58.69GB"),
        (1592348672, "1.483GB"),
        (100 << 30, "100GB"),
        (5 << 40, "5120GB"),
        (123456 << 30, "123456GB"),
        (1 << 20, "0.0009766GB"),
        (5, "0GB"),
        (0, "0GB"),
    ],
)
def test_sizes_have_four_digits(size: int, text: str) -> None:
    assert gigabytes(size) == text


@pytest.mark.parametrize("answer", [None, [], {}, {"free": "x"}, {"free": None}])
def test_a_node_that_answers_nonsense_is_told_of(answer: Any) -> None:
    with pytest.raises(Refusal, match="not understood") as refused, sound():
        gigabytes(answer["free"])
    assert refused.value.number == 10001015
