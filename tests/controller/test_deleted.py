"""Rules that are deleted, with real agents: what was written goes or stays, as it was said; a node
that cannot be told loses nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console import DEADLINE, Console
from field import Agent, agents


@pytest.fixture
def two(console: Console, tmp_path: Path) -> Iterator[tuple[Agent, Agent]]:
    """Two nodes, and a console that is logged in."""
    console.log_in()
    with agents(tmp_path, "wk", "bk") as (wk, bk):
        for one in (wk, bk):
            one.register(console)
        yield wk, bk


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def mirrored(console: Console, wk: Agent, bk: Agent, place: Path) -> tuple[str, Callable[[], Any]]:
    """A rule whose first pass is over; what gives its files at the backup node."""
    (place / "source").mkdir(exist_ok=True)
    (place / "source" / "file").write_text("content\n")
    sent = {
        "fsp_name": "test",
        "wk_uuid": wk.uuid,
        "bk_uuid": bk.uuid,
        "wk_path": [f"{place}/source/"],
        "bk_path": [f"{place}/backups/"],
        "excl_path": [],
    }
    assert console.data("POST", "/api/fsp/backup", {"fsp_backup": sent})["code"] == 0
    (one,) = console.data("GET", "/api/fsp/backup")["info_list"]
    rule: str = one["fsp_uuid"]
    until(lambda: status(console, rule)["status"] == "REPLICATION")

    def files() -> list[Path]:
        return list((place / "backups").rglob("file"))

    assert len(files()) == 1
    return rule, files


def status(console: Console, rule: str) -> dict[str, Any]:
    (one,) = console.data("GET", f"/api/fsp/backup/status?fsp_uuids[]={rule}")["status"]
    return dict(one)


def test_what_was_written_stays_or_goes(
    console: Console, two: tuple[Agent, Agent], tmp_path: Path
) -> None:
    rule, files = mirrored(console, *two, tmp_path)
    assert console.data("DELETE", "/api/fsp/backup", {"fsp_uuids": [rule]})["code"] == 0
    assert len(files()) == 1
    (tmp_path / "other").mkdir()
    rule, files = mirrored(console, *two, tmp_path / "other")
    sent = {"fsp_uuids": [rule], "del_policy": 1}
    told = console.data("DELETE", "/api/fsp/backup", sent)
    assert told["code"] == 0, told
    assert files() == []
    assert console.data("GET", "/api/fsp/backup")["total"] == 0


def test_a_node_that_is_away_keeps_its_rule(
    console: Console, two: tuple[Agent, Agent], tmp_path: Path
) -> None:
    wk, _ = two
    rule, files = mirrored(console, *two, tmp_path)
    wk.stop(signal.SIGKILL)
    until(lambda: status(console, rule)["status"] == "UNKNOWN")
    assert status(console, rule)["code"] == 11110001
    told = console.data("DELETE", "/api/fsp/backup", {"fsp_uuids": [rule], "del_policy": 1})
    assert told["code"] == 11110001 and told["fail_list"][0]["fsp_uuid"] == rule
    stop = {"operate": "stop", "fsp_uuids": [rule]}
    stopped = console.data("POST", "/api/fsp/backup/operate", stop)
    assert stopped["code"] == 11110001 and "when it is back" in stopped["message"]
    assert console.data("GET", f"/api/fsp/backup/{rule}")["fsp_backup"]["status"] == "M_STOP"
    assert len(files()) == 1
    forced = {"fsp_uuids": [rule], "del_policy": 1, "force": 1}
    assert console.data("DELETE", "/api/fsp/backup", forced)["code"] == 0
    assert console.data("GET", "/api/fsp/backup")["total"] == 0


def test_a_node_that_is_registered_anew_takes_orders(
    console: Console, two: tuple[Agent, Agent], tmp_path: Path
) -> None:
    rule, _ = mirrored(console, *two, tmp_path)
    assert console.data("DELETE", "/api/fsp/backup", {"fsp_uuids": [rule]})["code"] == 0
    for one in two:
        sent = {"node_uuids": [one.uuid]}
        assert console.data("DELETE", "/api/node", sent)["code"] == 0
        one.register(console)
    (tmp_path / "other").mkdir()
    mirrored(console, *two, tmp_path / "other")
