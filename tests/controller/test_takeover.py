"""Two controllers at one PostgreSQL: one drives, the other takes over."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from console import Console, started
from field import agents, until
from postgres import cluster


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Console, Console]]:
    """Two that share database and keys; the first drives."""
    with cluster() as url, ExitStack() as held:
        database = f'database = "{url}"\n'
        first = started(tmp_path / "first", more=database)
        held.callback(_end, first)
        until("the first drives", lambda: "controller-drives" in first.log.read_text())
        keys = tmp_path / "second" / "etc" / "controller"
        shutil.copytree(first.home / "etc" / "controller", keys)
        second = started(tmp_path / "second")
        held.callback(_end, second)
        yield first, second


def _end(console: Console) -> None:
    if console.process.poll() is None:
        assert console.stop() == 0, console.log.read_text()


def status(console: Console, rule: str) -> str:
    told = console.data("GET", f"/api/fsp/backup/status?fsp_uuids[]={rule}")["status"]
    return str(told[0]["status"]) if told else ""


def test_one_drives_and_the_other_takes_over(pair: tuple[Console, Console], tmp_path: Path) -> None:
    first, second = pair
    source, base = tmp_path / "source", tmp_path / "backups"
    source.mkdir()
    (source / "file").write_text("first\n")
    with agents(tmp_path, "work", "backup") as (work, backup):
        first.log_in()
        second.token = first.token  # a login is good at both
        for one in (work, backup):
            one.register(second)  # either takes calls, and tells the nodes by way of who drives
        listed = second.data("GET", "/api/node")["info_list"]
        uuids = {one["node_name"]: one["node_uuid"] for one in listed}
        body = {"fsp_name": "one", "wk_path": [f"{source}/"], "bk_path": [f"{base}/"]}
        more = {"wk_uuid": uuids["work"], "bk_uuid": uuids["backup"], "fsp_type": 3}
        rest = {"bkup_policy": 2, "excl_path": [], "sync_item": "/"}
        made = second.data("POST", "/api/fsp/backup", {"fsp_backup": body | more | rest})
        assert made["code"] == 0, made
        rule = second.data("GET", "/api/fsp/backup")["info_list"][0]["fsp_uuid"]
        for console in pair:
            until("replication", lambda at=console: status(at, rule) == "REPLICATION")
        assert "controller-drives" not in second.log.read_text()

        first.process.send_signal(signal.SIGKILL)
        first.process.wait(30)
        until("the second drives", lambda: "controller-drives" in second.log.read_text())
        until("the nodes are there", lambda: second.log.read_text().count("node-online") == 2)
        stop = {"operate": "stop", "fsp_uuids": [rule]}
        assert second.data("POST", "/api/fsp/backup/operate", stop)["code"] == 0
        until("the rule stands still", lambda: status(second, rule) == "M_STOP")
        assert work.log.read_text().count("state=REPLICATION") == 1  # nothing was begun twice

        def came() -> list[str]:
            lines = second.data("GET", f"/api/logs/node?uuid={uuids['work']}")["logs"]
            return [line["operation"] for line in lines]

        until("each tells that the node came", lambda: came().count("online") == 2)
        assert "offline" not in came(), "a controller that goes is no node that goes"
