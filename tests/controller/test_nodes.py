"""Nodes, over HTTP: authenticated, registered, listed, changed, removed; real agents behind it."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import Console
from field import Agent, agents

UUID = "990E2F2B-9983-A734-2CD3-9D298DBB365A"
LISTED = {
    *("username", "cache_path", "config_addr", "data_addr", "disk_limit", "log_path", "mem_limit"),
    *("node_name", "node_role", "node_uuid", "os_type", "os_version"),
}


@pytest.fixture
def two(console: Console, tmp_path: Path) -> Iterator[tuple[Agent, Agent]]:
    """Two agents that are not registered, and a console that is logged in."""
    console.log_in()
    with agents(tmp_path, "wk", "bk") as (wk, bk):
        yield wk, bk


def refusal(console: Console, method: str, path: str, body: dict[str, Any] | None = None) -> str:
    """Code and message of a call that is refused."""
    found = console.data(method, path, body)
    assert found["code"] != 0 and found["message"].startswith(f"[{found['code']}] "), found
    text: str = found["message"]
    return text


def test_a_node_is_added_step_by_step(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, _ = two
    query = f"?ip=127.0.0.1&port={wk.port}"
    assert console.data("GET", f"/api/node/hello{query}")["ip"] == "127.0.0.1"
    where = f"?config_addr=127.0.0.1&config_port={wk.port}"
    for call in (f"check_capacity{where}&cache_path=", f"vg{where}", f"version{query}"):
        assert "[10011203]" in refusal(console, "GET", f"/api/node/{call}")

    sent = {"os_user": "root", "os_pwd": "secret", "i2id": "", "node_uuid": "", **wk.address}
    text = refusal(console, "POST", "/api/node/auth", sent)
    assert text.startswith("[10011203]") and "i2id.conf" in text
    wrong = sent | {"i2id": "0" * 32}
    assert refusal(console, "POST", "/api/node/auth", wrong).startswith("[10011203]")
    told = console.data("POST", "/api/node/auth", sent | {"i2id": wk.code})
    assert told["code"] == 0 and told["os_type"] == 0
    assert told["log_path"] == f"{wk.home}/var/log/"
    assert told["cache_path"] == f"{wk.home}/var/cache/"
    assert Path(told["root"]).is_dir()

    room = console.data("GET", f"/api/node/check_capacity{where}&cache_path=/var/")
    held = os.statvfs("/var")
    assert room["hd_total"] == str(held.f_blocks * held.f_frsize >> 20)
    assert all(room[key].isdigit() for key in ("mem_total", "mem_free", "hd_free"))
    assert isinstance(console.data("GET", f"/api/node/vg{where}")["vg_list"], list)

    record = wk.record | {"i2id": "", "cache_path": told["cache_path"], "comment": "new"}
    assert console.data("POST", "/api/node", {"node": record})["code"] == 0  # paired by then
    (node,) = console.data("GET", "/api/node")["info_list"]
    assert node["os_version"].endswith(f" {os.uname().machine}")
    assert console.data("GET", f"/api/node/version{query}")["version"]


def test_what_cannot_be_registered_is_told(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    create = ("POST", "/api/node")
    assert "Lost: node;" in refusal(console, *create, {})
    text = refusal(console, *create, {"node": {"node_role": "9"}})
    for clause in ("Lost: node[node_name]", "Lost: node[config_addr]", "node[node_role]"):
        assert clause in text
    assert "i2id.conf" in refusal(console, *create, {"node": wk.record | {"i2id": ""}})
    assert "[10011203]" in refusal(console, *create, {"node": wk.record | {"i2id": bk.code}})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    gone = wk.record | {"config_port": free}
    assert "[11110001]" in refusal(console, *create, {"node": gone})
    assert "[10011202]" in refusal(console, "GET", f"/api/node/hello?ip=127.0.0.1&port={free}")
    elsewhere = wk.record | {"cache_path": "/elsewhere/"}
    assert "node[cache_path] field must be" in refusal(console, *create, {"node": elsewhere})
    assert console.data("GET", "/api/node") == {
        "code": 0,
        "message": "[0] success",
        "info_list": [],
        "total": 0,
    }

    wk.register(console)
    other = bk.record | {"node_name": wk.name}
    assert "[10001009]" in refusal(console, *create, {"node": other})
    again = wk.record | {"node_name": "again"}
    assert "as node wk" in refusal(console, *create, {"node": again})
    same = again | {"config_addr": "localhost"}
    text = refusal(console, *create, {"node": same})
    assert text.startswith("[10011109]") and "this host is registered already, as node wk" in text
    assert console.data("GET", "/api/node")["total"] == 1


def test_a_batch_registers_what_it_can(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    body = {
        "base_info_list": [wk.record, bk.record | {"i2id": "x"}, "nonsense", wk.record],
        "node": {"mem_limit": "819", "monitor_interval": "60", "node_role": "3"},
    }
    found = console.data("POST", "/api/node/batch", body)
    assert found["success_list"] == [
        {"code": 0, "message": "[0] success", "node_name": "wk", "config_addr": "127.0.0.1"}
    ]
    assert [one["code"] for one in found["fail_list"]] == [10011203, 10001002, 10001009]
    assert found["fail_list"][0]["node_name"] == "bk"
    assert found["code"] == 10011203 and found["message"] == found["fail_list"][0]["message"]
    (node,) = console.data("GET", "/api/node")["info_list"]
    whole = console.data("GET", f"/api/node/{node['node_uuid']}")["node"]
    assert (whole["mem_limit"], whole["mon_send_interval"]) == ("819", "60")
    for wrong in ({}, {"base_info_list": []}, {"base_info_list": [{}] * 300}):
        assert "base_info_list" in refusal(console, "POST", "/api/node/batch", wrong)


def test_nodes_are_listed_and_told_of(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    for agent, role in ((wk, "1"), (bk, "2")):
        agent.register(console, node_role=role, comment=f"the {agent.name}")
    found = console.data("GET", "/api/node")
    assert found["total"] == 2 and {*found["info_list"][0]} == LISTED
    for query, names in (
        ("limit=1", ["wk"]),
        ("limit=1&direction=DESC", ["bk"]),
        ("limit=1&page=2&order_by=node_name", ["wk"]),
        ("search_field=node_name&search_value=K", ["wk", "bk"]),
        ("search_field=node_name&search_value=b&limit=10&page=1&type=&filter_by_biz_grp=", ["bk"]),
        ("search_field=&search_value=x&order_by=&direction=", ["wk", "bk"]),
        ("like_args[comment]=the+w", ["wk"]),
        ("where_args%5Bnode_role%5D=2&where_args[node_name]=", ["bk"]),
    ):
        rows = console.data("GET", f"/api/node?{query}")["info_list"]
        assert [row["node_name"] for row in rows] == names, query
    for query in ("order_by=x", "search_field=x&search_value=y", "where_args[x]=1", "limit=x"):
        assert "[10001002]" in refusal(console, "GET", f"/api/node?{query}")

    whole = console.data("GET", f"/api/node/{wk.uuid.lower()}")["node"]
    assert (whole["node_uuid"], whole["config_port"]) == (wk.uuid, str(wk.port))
    assert whole["username"] == "admin" and whole["cache_path"] == f"{wk.home}/var/cache/"
    missing = console.data("GET", f"/api/node/{UUID}")
    assert missing["code"] == 10011001 and missing["node"] == {"random_str": ""}
    assert "Not uuid" in console.data("GET", "/api/node/nonsense")["message"]


def test_who_is_there_is_told(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    for agent in two:
        agent.register(console)
    asked = "&".join(f"node_uuids[]={uuid}" for uuid in (bk.uuid, UUID, wk.uuid))
    found = console.data("GET", f"/api/node/status?{asked}")["status"]
    assert [(one["node_uuid"], one["status"]) for one in found] == [
        (bk.uuid, "ONLINE"),
        (wk.uuid, "ONLINE"),
    ]
    assert all(one["version"] for one in found)
    assert console.data("GET", "/api/node/status")["status"] == []
    assert "Contains illegal UUID" in refusal(console, "GET", "/api/node/status?node_uuids[]=x")
    (first, _) = console.data("GET", "/api/dashboard/node?limit=10&page=1&type=1")["info_list"]
    assert {*first} == LISTED | {"n_status", "n_role", "time"}
    assert (first["n_status"], first["n_role"]) == ("ONLINE", None) and first["time"].isdigit()
    wk.stop()
    path = f"/api/node/status?node_uuids[0]={wk.uuid}"
    while (one := console.data("GET", path)["status"][0])["status"] == "ONLINE":
        pass
    assert (one["status"], one["code"]) == ("OFFLINE", 11111001)
    assert "[11110001]" in refusal(console, "GET", f"/api/node/{wk.uuid}/device_info")
    (first, _) = console.data("GET", "/api/dashboard/node")["info_list"]
    assert first["n_status"] == "OFFLINE" and first["time"].isdigit()


def test_the_disks_of_a_node(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, _ = two
    wk.register(console, node_role="1")
    path = f"/api/node/{wk.uuid}/device_info"
    found = console.data("GET", path)
    assert found["node_uuid"] == wk.uuid
    for one in found["device_info"]:
        assert all(isinstance(value, str) for value in one.values())
        assert base64.b64decode(one["nodeName"]) == b"wk" and one["nodeType"] == "1"
        assert one["devTotal"].endswith("GB") and one["devType"] == "block"
        assert os.path.ismount(one["devMount"])
    assert {*found["device_info"][0]} == {
        *("devEnbcompress", "devEnbdewight", "devFree", "devMount", "devName", "devSaverate"),
        *("devTotal", "devType", "devUsedSz", "nodeName", "nodeType"),
    }
    same = console.data("GET", f"/api/fsp/backup/device_info?node_uuid={wk.uuid}")
    assert [one["devMount"] for one in same["device_info"]] == [
        one["devMount"] for one in found["device_info"]
    ]


def test_a_node_is_changed_by_who_saw_it_last(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, _ = two
    wk.register(console, comment="old", mem_limit=7)
    path = f"/api/node/{wk.uuid}"
    seen = console.data("GET", path)["node"]
    change = {"node": seen | {"node_name": "wk2", "comment": "", "os_pwd": "x"}}
    assert console.data("PUT", path, change)["code"] == 0
    now = console.data("GET", path)["node"]
    assert (now["node_name"], now["comment"], now["mem_limit"]) == ("wk2", "", "7")
    assert now["random_str"] != seen["random_str"] and "os_pwd" not in now
    assert now["create_time"] == seen["create_time"] and now["id"] == seen["id"]
    assert refusal(console, "PUT", path, change).startswith("[10001013]")
    bare = {"node_name": "x", "config_addr": "127.0.0.1"}
    assert "Lost: node[random_str]" in refusal(console, "PUT", path, {"node": bare})
    assert "[10011001]" in refusal(console, "PUT", f"/api/node/{UUID}", change)
    status = f"/api/node/status?node_uuids[]={wk.uuid}"
    assert console.data("GET", status)["status"][0]["status"] == "ONLINE"


def test_a_node_is_removed_and_comes_again(console: Console, two: tuple[Agent, Agent]) -> None:
    wk, bk = two
    for agent in two:
        agent.register(console)
    assert "Lost: node_uuids" in refusal(console, "DELETE", "/api/node", {})
    both = {"node_uuids": [wk.uuid, UUID]}
    assert "[10011001]" in refusal(console, "DELETE", "/api/node", both)
    assert console.data("GET", "/api/node")["total"] == 2
    assert console.data("DELETE", "/api/node", {"node_uuids": [wk.uuid]})["code"] == 0
    (left,) = console.data("GET", "/api/node")["info_list"]
    assert left["node_uuid"] == bk.uuid
    first = wk.uuid
    assert wk.register(console) != first


def test_directories_of_nodes(console: Console, two: tuple[Agent, Agent], tmp_path: Path) -> None:
    wk, bk = two
    wk.register(console)
    tree = tmp_path / "tree"
    (tree / "in" / "deep").mkdir(parents=True)
    (tree / "file").write_bytes(b"12345")
    os.mkdir(os.fsencode(tree) + b"/\xff")
    asked = f"node_uuid={wk.uuid}&path={tree}&show_file=1&dev=0&rep_uuid=&bs_time="
    found = console.data("GET", f"/api/dir?{asked}")
    assert [(one["name"], one["size"], one["is_dir"]) for one in found["dir_list"]] == [
        ("in", "", True),
        ("\\xff", "", True),
        ("file", "5", False),
    ]
    assert found["more"] == 0 and found["message"] == ""
    for path in ("", "/"):
        roots = console.data("GET", f"/api/dir?node_uuid={wk.uuid}&path={path}")["dir_list"]
        assert {"etc", "proc"} <= {one["name"] for one in roots}

    new = {"node_uuid": wk.uuid, "path": f"{tree}/new/below/"}
    told = console.data("POST", "/api/dir/check", new)
    assert (told["code"], told["exists"]) == (0, False) and told["free_bytes"] > 0
    assert console.data("POST", "/api/dir", new)["code"] == 0
    assert (tree / "new" / "below").is_dir()
    assert console.data("POST", "/api/dir/check", new)["exists"]
    for path in ("E:\\test2\\", f"{tree}/file", f"{tree}/file/x", "/a\0b"):
        body = {"node_uuid": wk.uuid, "path": path}
        for call in ("/api/dir", "/api/dir/check"):
            assert refusal(console, "POST", call, body)
    assert refusal(console, "GET", f"/api/dir?node_uuid={wk.uuid}&path={tree}/file")
    assert "[10011001]" in refusal(console, "GET", f"/api/dir?node_uuid={UUID}&path=")

    where = f"ip=127.0.0.1&port={bk.port}&path={tree}&account=root&password=x"
    for call in ("dir", "dir2"):
        assert "i2id.conf" in refusal(console, "GET", f"/api/{call}?{where}&i2id=")
    for query in (f"dir2?{where}&i2id={bk.code}", f"dir?{where}", f"dir2?{where}"):
        assert len(console.data("GET", f"/api/{query}")["dir_list"]) == 4
    assert console.data("GET", f"/api/dir2?ip=127.0.0.1&port={wk.port}&path={tree}")["dir_list"]


def test_what_there_is_not_says_what_there_is(console: Console) -> None:
    console.log_in()
    body = {"node_uuids": [UUID], "operate": "upgrade"}
    assert "[10001021]" in refusal(console, "POST", "/api/node/operate", body)
    for call in ("node/package_list", "node/mysql_info", f"node/{UUID}/driver_letter"):
        assert "[10001021]" in refusal(console, "GET", f"/api/{call}")
    assert "[10001021]" in refusal(console, "DELETE", "/api/dir", {"path": "/"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "node"),
        ("GET", "node/status"),
        ("GET", f"node/{UUID}"),
        ("GET", "node/hello"),
        ("POST", "node/auth"),
        ("POST", "node"),
        ("DELETE", "node"),
        ("GET", "dir"),
        ("POST", "dir"),
        ("GET", "fsp/backup/nic_list"),
        ("POST", "fsp/backup/verify_coopy_space"),
        ("GET", "node/package_list"),
    ],
)
def test_nobody_unknown_is_answered(console: Console, method: str, path: str) -> None:
    status, envelope = console.ask(method, f"/api/{path}", None if method == "GET" else {})
    assert (status, envelope["ret"]) == (403, 403)
