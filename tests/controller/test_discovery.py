"""What is found out of two real hosts before there is a rule between them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import Console
from field import Agent, agents

UUID = "990E2F2B-9983-A734-2CD3-9D298DBB365A"
SUCCESS = {"code": 0, "message": "[0] success"}


@pytest.fixture
def two(console: Console, tmp_path: Path) -> Iterator[tuple[Agent, Agent]]:
    """Two registered nodes."""
    console.log_in()
    with agents(tmp_path, "wk", "bk") as (wk, bk):
        for agent in (wk, bk):
            agent.register(console)
        yield wk, bk


def call(console: Console, name: str, **values: Any) -> dict[str, Any]:
    """A discovery; GET where its name is a list's."""
    path = f"/api/fsp/backup/{name}"
    if name.startswith("verify"):
        return console.data("POST", path, values)
    return console.data("GET", path + "?" + "&".join(f"{k}={v}" for k, v in values.items()))


def test_the_interfaces_of_both(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    found = call(console, "nic_list", wk_uuid=wk.uuid, bk_uuid=bk.uuid)
    assert {*found} == {*SUCCESS, "wk_nic_list", "bk_nic_list"}
    assert found["wk_nic_list"] == found["bk_nic_list"] != []  # both are this host
    for nic in found["wk_nic_list"]:
        assert [*nic] == ["name", "type", "ip", "gw", "dns"] and nic["type"] == "0"
        assert re.fullmatch(r"[0-9.]+/[0-9.]+", nic["ip"])
    names = {nic["name"] for nic in found["wk_nic_list"]}
    assert names == {*os.listdir("/sys/class/net")} - {"lo", "bonding_masters"}


def test_what_a_whole_server_is(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, _ = two
    found = call(console, "dir_list", wk_uuid=wk.uuid, fsp_uuid="")
    assert found["hd_list"] == [{"label": "/", "is_system": 1}] and found["os_type"] is None
    rows = found["dir_list"]
    assert rows[0] == {"wk_path": "/", "type": "1"}
    assert rows == sorted(rows, key=lambda row: row["wk_path"].encode())
    left_out = [row["wk_path"] for row in rows if row["type"] == "2"]
    assert len(left_out) == 19 and {"/proc/", "/tmp/", "/etc/X11/xorg.conf/"} < {*left_out}
    assert {f"{wk.home}/etc/", f"{wk.home}/var/"} < {*left_out}


def test_the_systems_of_both(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    both = {"wk_uuid": wk.uuid, "bk_uuid": bk.uuid}
    found = call(console, "verify_os_version", **both)
    assert {*found} == {*SUCCESS, "wk_os_ver", "bk_os_ver"}
    assert found["wk_os_ver"].endswith(os.uname().machine)
    assert call(console, "verify_license", wk_uuid=wk.uuid) == SUCCESS
    paths = {"wk_path": ["/", "/etc/"], "cbt_switch": 0, "task_type": 0}
    assert call(console, "verify_environment", **both, **paths) == SUCCESS
    paths["wk_path"] = ["/", "/nowhere/"]
    found = call(console, "verify_environment", **both, **paths)
    assert found["code"] == 10001002 and "node wk has no /nowhere/" in found["message"]


def test_the_room_that_is_needed(
    console: Console, two: tuple[Agent, Agent], tmp_path: Path
) -> None:
    wk, bk = two
    tree = tmp_path / "tree"
    for name in ("a", "out/b"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes(1000))
    asked: dict[str, Any] = {
        "wk_uuid": wk.uuid,
        "bk_uuid": bk.uuid,
        "wk_path": [f"{tree}/"],
        "excl_path": [f"{tree}/out/"],
        "bk_path": ["fsp_bk"],
    }
    while (found := call(console, "verify_coopy_space", **asked))["estimated"]:
        assert found["code"] == 0
    free = os.statvfs("/")
    assert found["bk_disk_need_bytes"] == 1000 and found["bk_disk_need"] == 1
    assert type(found["bk_disk_free"]) is int
    assert abs(found["bk_disk_free_bytes"] - free.f_bavail * free.f_frsize) < 1 << 34
    everything = asked | {"wk_path": ["/"], "bk_path": [f"{tmp_path}/x/", "/y/"]}
    assert call(console, "verify_coopy_space", **everything)["bk_disk_need"] > 0
    for wrong, told in (
        ({"wk_path": ["/nowhere/"]}, "node wk has no /nowhere"),
        ({"wk_path": []}, "Lost: wk_path[0]"),
        ({"bk_path": []}, "Lost: bk_path[0]"),
        ({"bk_path": [f"{tree}/a"]}, "is not a directory"),
        ({"excl_path": "x"}, "Not array: excl_path"),
        ({"excl_path": [7]}, "excl_path field must hold"),
        ({"wk_path": ["/x"] * 300}, "wk_path field must hold"),
    ):
        found = call(console, "verify_coopy_space", **asked | wrong)
        assert found["code"] == 10001002 and told in found["message"], found


@pytest.mark.parametrize(
    "name", ["nic_list", "verify_os_version", "verify_coopy_space", "verify_environment"]
)
def test_two_nodes_are_needed(console: Console, two: tuple[Agent, Agent], name: str) -> None:
    wk, bk = two
    paths = {"wk_path": ["/"], "bk_path": ["/b/"]} if name.startswith("verify") else {}
    found = call(console, name, wk_uuid=wk.uuid, bk_uuid=wk.uuid.lower(), **paths)
    assert found["code"] == 10001002 and "another node than wk_uuid" in found["message"]
    assert call(console, name, wk_uuid=wk.uuid, bk_uuid=UUID, **paths)["code"] == 10011001
    found = call(console, name, wk_uuid="", bk_uuid="x", **paths)
    assert "Lost: wk_uuid" in found["message"] and "Not uuid: bk_uuid" in found["message"]
    bk.stop()
    found = call(console, name, wk_uuid=wk.uuid, bk_uuid=bk.uuid, **paths)
    assert found["code"] == 11110001 and "wk_nic_list" not in found


def test_one_node_is_needed(console: Console, two: tuple[Agent, Agent]) -> None:
    for name, field in (
        ("dir_list", "wk_uuid"),
        ("verify_license", "wk_uuid"),
        ("device_info", "node_uuid"),
    ):
        assert call(console, name, **{field: UUID})["code"] == 10011001
        assert f"Lost: {field}" in call(console, name, **{field: ""})["message"]
