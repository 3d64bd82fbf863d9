"""The log of operations, over HTTP and in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from ruled import WK, body
from served import Served, served

from i2node.controller import operations
from i2node.controller.operations import described
from i2node.controller.store.database import Database
from i2node.controller.store.operations import KEPT_S, Asked, Operations
from i2node.controller.store.tables import Operation


def rows(made: Served, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.data("GET", f"/api/op_log?{urlencode(asked)}")["logs"]
    return found


def test_each_change_is_noted_with_who_and_what_came_of_it(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        assert made.data("POST", "/api/fsp/backup", {"fsp_backup": body()})["code"] == 0
        (first, login) = rows(made)
        assert login["description"] == "log in" and login["user"] == "admin"
        assert first["user"] == "admin" and first["address"] == "127.0.0.1"
        assert first["description"] == 'create rule [ name : "test" ]'
        assert (first["result"], first["failure_reason"]) == ("0", "")
        assert first["op_time"] == first["start"] <= first["end"]
        (rule,) = made.data("GET", "/api/fsp/backup")["info_list"]
        told = {"fsp_uuids": [rule["fsp_uuid"]]}
        made.data("POST", "/api/fsp/backup/operate", told | {"operate": "stop"})
        path = f"/api/fsp/backup/{rule['fsp_uuid']}"
        made.data("PUT", path, {"fsp_backup": {"random_str": WK}})
        made.data("DELETE", "/api/node", {"node_uuids": [WK]})
        made.data("POST", "/api/node", {"node": {"node_name": "no\0de"}})
        made.data("POST", "/api/fsp/backup/verify_old_rule", {"wk_uuid": WK, "bk_uuid": WK})
        found = rows(made, limit=4)
        assert [one["description"] for one in found] == [
            'create node [ name : "no de" ]',
            f'delete node [ uuid : "{WK}" ]',
            f'modify rule [ uuid : "{rule["fsp_uuid"]}" ]',
            f'stop rule [ uuid : "{rule["fsp_uuid"]}" ]',
        ]
        assert [one["result"] for one in found][2:] == ["10001013", "0"]
        assert "refresh" in found[2]["failure_reason"]
        assert rows(made, description="stop") == [found[3]]
        assert [one["result"] for one in rows(made, level=2)] == ["0"] * 3
        assert {one["result"] for one in rows(made, level=0)} & {"0"} == set()
        assert rows(made, username="nobody") == rows(made, end=1) == rows(made, level=1) == []
        assert rows(made, page=2, limit=1) == [found[1]]
        assert made.data("GET", "/api/op_log?limit=1")["total"] == 6


def test_who_is_not_known_changes_nothing_and_notes_little(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        token, made.console.token = made.console.token, "x"
        assert made.console.ask("DELETE", "/api/node", {"node_uuids": [WK]})[0] == 403
        wrong = {"username": "gu\ud800est", "pwd": "x" * 9}
        for _ in range(operations.TRIES + 3):
            assert made.data("POST", "/api/auth/token", wrong)["code"] != 0
        made.console.token = token
        found = rows(made)
        assert len(found) == operations.TRIES + 1
        assert found[0]["user"] == "gu?est" and found[0]["description"] == "log in"
        assert found[0]["result"] != "0" and found[0]["failure_reason"]


@pytest.mark.parametrize(
    ("words", "values", "place", "says"),
    [
        ("log out", {}, {}, "log out"),
        ("operate rule", {"operate": 7}, {}, "7 rule"),
        (
            "delete rule",
            {"fsp_uuids": [str(n) for n in range(12)]},
            {},
            'delete rule [ uuid : "0", "1", "2", "3", "4", "5", "6", "7", "8", "9" and 2 more ]',
        ),
        (
            "create node",
            {"base_info_list": [{"node_name": "a"}, 7]},
            {},
            'create node [ name : "a" ]',
        ),
        ("authenticate node", {"config_addr": "h"}, {}, 'authenticate node [ name : "h:" ]'),
        ("modify node", {"node": "x"}, {"node_uuid": "a-b"}, 'modify node [ uuid : "A-B" ]'),
    ],
)
def test_what_was_done_is_told_in_words(
    words: str, values: dict[str, Any], place: dict[str, Any], says: str
) -> None:
    assert described(words, values, place) == says


def test_the_oldest_go(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2node.controller.store.operations.MOST", 3)
    kept = Operations(database)

    def note(at: float) -> None:
        about = {"user": "u", "address": "a", "description": "50%", "result": 0, "reason": ""}
        kept.note(Operation(began=at, ended=at, **about))

    def times() -> list[float]:
        return [row.began for row in kept.page(Asked())[0]]

    note(10.0)
    note(11.0)
    note(10.0 + KEPT_S + 1)
    assert times() == [10.0 + KEPT_S + 1, 11.0]
    for hour in (1, 2):
        note(KEPT_S + 3601.0 * hour)
    assert len(times()) == 3
    assert kept.page(Asked(words="0%"))[1] == 3 and kept.page(Asked(words="_%"))[1] == 0
