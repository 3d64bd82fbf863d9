"""The calls about rules as they were recorded of a console: each in its order, and an answer of the
same shape and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from console import Console
from field import agents
from ruled import BK, WK, body, standing
from served import filled, misfits, recorded, served

from i2node.controller.rule import EXCLUDED as USUAL
from i2node.model import State
from i2node.node.release import services

OTHER = "00000000-0000-4000-8000-000000000000"
OF_HOSTS = ("nic_list", "dir_list", "verify_coopy_space", "verify_license", "verify_os_version")
"""Calls that ask the hosts themselves."""


def test_the_recorded_calls(tmp_path: Path) -> None:
    names = {"wk": WK, "bk": BK, "user": "", "rule": "", "token": "1" * 36}
    with served(tmp_path) as made:
        for call in recorded():
            if call["path"].endswith(OF_HOSTS):
                continue
            path = "/api" + filled(call["path"], names)
            sent = filled(call["sent"], names)
            told = _asked(made.console, call["method"], path, sent)
            assert told["code"] == 0, (call, told)
            for one in told.get("status", []):
                assert {"cause", "remedy", "blocked_on"} <= one.keys()
            assert not list(misfits(told, call["answer"])), call
            if (call["method"], call["path"]) == ("POST", "/fsp/backup"):
                listed = made.data("GET", "/api/fsp/backup")["info_list"]
                names["rule"] = listed[0]["fsp_uuid"]
                names["token"] = listed[0]["random_str"]
                made.ground.fleet.standings[names["rule"]] = standing(
                    names["rule"], State.MIRROR, progress=2
                )
            if call["path"] == "/fsp/backup/{rule}" and call["method"] == "GET":
                _same_values(told["fsp_backup"], call["answer"]["fsp_backup"])
        assert made.data("GET", "/api/fsp/backup")["total"] == 0


def test_the_recorded_calls_with_real_agents(console: Console, tmp_path: Path) -> None:
    """All of them; the rule mirrors a directory instead of this host."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content\n")
    console.log_in()
    with agents(tmp_path, "work", "backup") as (wk, bk):
        names = {"wk": wk.register(console), "bk": bk.register(console), "user": ""}
        names |= {"rule": "", "token": ""}
        for call in recorded():
            sent = filled(call["sent"], names)
            if "fsp_backup" in sent:
                place = {"wk_path": [f"{tmp_path}/source/"], "bk_path": [f"{tmp_path}/backups/"]}
                held = [path for path in USUAL if not str(tmp_path).startswith(path)]
                sent["fsp_backup"] |= place | {"excl_path": held}
            told = _asked(console, call["method"], "/api" + filled(call["path"], names), sent)
            if call["path"].endswith("/status"):
                while told["status"][0]["status"] == "UNKNOWN":  # it was not heard of yet
                    told = _asked(console, "GET", "/api/fsp/backup/status", sent)
                if told["status"][0]["status"] != "MIRROR":
                    del call["answer"]["status"][0]["progress"]
            assert told["code"] == 0, (call, told)
            if "running_service" in told.get("fsp_backup", {}):
                call["answer"]["fsp_backup"]["running_service"] = services()
            assert not list(misfits(told, call["answer"])), call
            if (call["method"], call["path"]) == ("POST", "/fsp/backup"):
                (listed,) = console.data("GET", "/api/fsp/backup")["info_list"]
                names |= {"rule": listed["fsp_uuid"], "token": listed["random_str"]}
        assert console.data("GET", "/api/fsp/backup")["total"] == 0


def _asked(console: Console, method: str, path: str, sent: dict[str, Any]) -> dict[str, Any]:
    if method != "GET":
        return console.data(method, path, sent)
    listed = [(f"{k}[]", one) for k, v in sent.items() if isinstance(v, list) for one in v]
    plain = [(k, v) for k, v in sent.items() if not isinstance(v, list)]
    return console.data("GET", f"{path}?{urlencode(listed + plain)}")


def _same_values(told: dict[str, Any], recorded: dict[str, Any]) -> None:
    """But for what differs from one console to another."""
    own = ("id", "uuid", "fsp_uuid", "random_str", "create_time", "user_uuid", "wk_ip", "bk_ip")
    own += ("wk_node_name", "bk_node_name", "wk_uuid", "bk_uuid")
    for key in recorded.keys() - set(own):
        assert told[key] == recorded[key], key


@pytest.mark.parametrize(
    ("method", "path", "sent", "code", "clause"),
    [
        ("POST", "", {}, 10001002, "Lost: fsp_backup;"),
        ("POST", "", {"fsp_backup": []}, 10001002, "Lost: fsp_backup;"),
        ("POST", "", {"fsp_backup": body(wk_path=[])}, 10001002, "fsp_backup[wk_path][0]"),
        ("GET", "/" + BK, None, 10031017, ""),
        ("PUT", "/" + BK, {"fsp_backup": body(random_str=WK)}, 10031017, ""),
        ("POST", "/operate", {"operate": "blow", "fsp_uuids": []}, 10001002, "one of: start,stop"),
        ("POST", "/operate", {"fsp_uuids": []}, 10001002, "Lost: operate"),
        ("POST", "/operate", {"operate": "start", "fsp_uuids": "x"}, 10001002, "Not array"),
        ("POST", "/operate", {"operate": "stop", "fsp_uuids": ["x"]}, 10001002, "illegal UUID"),
        ("POST", "/operate", {"operate": "failover", "fsp_uuids": [BK]}, 10001021, "failover"),
        ("POST", "/operate", {"operate": "failback", "fsp_uuids": [BK]}, 10001021, "failback"),
        ("POST", "/operate", {"operate": "stop", "fsp_uuids": [BK]}, 10031017, BK),
        ("DELETE", "", {"fsp_uuids": [BK]}, 10031017, BK),
        ("DELETE", "", {"fsp_uuids": [BK], "del_policy": 3}, 10001002, "one of: 0,1"),
        ("POST", "/batch", {"node_list": 1}, 10001002, "Not array: node_list"),
        ("POST", "/batch", {"base_info_list": 1}, 10001002, "Lost: base_info_list"),
        (
            "POST",
            "/batch",
            {"node_list": [{"wk_uuid": ""}]},
            10001002,
            "Lost: node_list[0][wk_uuid]",
        ),
        ("POST", "/verify_old_rule", {"wk_uuid": WK}, 10001002, "Lost: bk_uuid"),
        ("POST", "/verify_old_rule", {"wk_uuid": WK, "bk_uuid": OTHER}, 10011001, OTHER),
        ("GET", "?type=1", None, 10001002, "one of: 3,5,10,11"),
        ("GET", "?order_by=color", None, 10001002, "one of: create_time"),
        ("GET", "?where_args[color]=1", None, 10001002, "where_args"),
        ("GET", "?limit=-1", None, 10001002, "greater than"),
        ("GET", "/status?fsp_uuids[]=7", None, 10001002, "illegal UUID"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(
    tmp_path: Path, method: str, path: str, sent: Any, code: int, clause: str
) -> None:
    with served(tmp_path) as made:
        told = made.data(method, "/api/fsp/backup" + path, sent)
    assert told["code"] == code and clause in told["message"], told
    assert told["message"].startswith(f"[{code}] ")


def test_lists_and_status_of_several(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        for name in ("one", "two", "three"):
            assert made.data("POST", "/api/fsp/backup", {"fsp_backup": body(fsp_name=name)})
        listed = made.data(
            "GET", "/api/fsp/backup?limit=2&page=1&order_by=fsp_name&direction=DESC&type=3&_=1"
        )
        assert [one["fsp_name"] for one in listed["info_list"]] == ["two", "three"]
        assert listed["total"] == 3
        empty = "&search_field=&search_value=&filter_by_biz_grp=&order_by=&direction=&page="
        found = made.data("GET", "/api/fsp/backup?like_args[fsp_name]=o&type=" + empty)
        assert [one["fsp_name"] for one in found["info_list"]] == ["one", "two"]
        assert made.data("GET", "/api/fsp/backup?type=5")["info_list"] == []
        uuids = [one["fsp_uuid"] for one in found["info_list"]]
        asked = "&".join(f"fsp_uuids%5B{n}%5D={uuid}" for n, uuid in enumerate(uuids))
        told = made.data("GET", f"/api/fsp/backup/status?{asked}")["status"]
        assert [one["fsp_uuid"] for one in told] == uuids
        assert made.data("GET", "/api/fsp/backup/status")["status"] == []
        assert (
            made.data("POST", "/api/fsp/backup/verify_old_rule", {"wk_uuid": WK, "bk_uuid": BK})[
                "code"
            ]
            == 10061104
        )


def test_whoever_is_not_known_gets_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        made.console.token = ""
        calls = [("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/status"), ("GET", "/" + BK)]
        calls += [("POST", "/operate"), ("POST", "/batch"), ("POST", "/verify_old_rule")]
        paths = [(method, f"/api/fsp/backup{path}") for method, path in [*calls, ("PUT", "/" + BK)]]
        paths += [("GET", f"/api/{one}") for one in ("logs", "logs/node", "logs/ha", "statistics")]
        paths += [("GET", "/api/logs/traffic"), ("GET", "/api/dashboard/overall")]
        for method, path in paths:
            assert made.console.ask(method, path, {})[0] == 403, path
