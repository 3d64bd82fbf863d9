"""Nodes that enrol themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from console import Console
from field import agents, until


def told(home: Path, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "i2node", "--home", str(home), *words]
    return subprocess.run(command, input=said, check=False, capture_output=True, text=True)


def test_a_node_enrols_itself_and_is_there(console: Console, tmp_path: Path) -> None:
    console.log_in()
    code = told(console.home, "controller", "code").stdout
    where = f"127.0.0.1:{console.enroll}"
    with agents(tmp_path, "node") as (node,):
        (node.home / "etc" / "i2node.toml").write_text(f"listen_port = {node.port}\n")
        wrong = told(node.home, "enroll", where, said="x" * 32)
        assert wrong.returncode == 4 and "code is wrong" in wrong.stderr, wrong.stderr
        assert console.data("GET", "/api/node")["total"] == 0
        done = told(node.home, "enroll", where, said=code)
        assert done.returncode == 0, done.stderr
        until("it to be registered", lambda: console.data("GET", "/api/node")["total"])
        (found,) = console.data("GET", "/api/node")["info_list"]
        assert (found["config_addr"], found["username"]) == ("127.0.0.1", "admin")
        uuid = found["node_uuid"]

        def online() -> bool:
            (status,) = console.data("GET", f"/api/node/status?node_uuids[]={uuid}")["status"]
            return bool(status["status"] == "ONLINE")

        until("it to be online", online)
        again = told(node.home, "enroll", where, said=code)
        assert again.returncode == 0, again.stderr
        until("both to be noted", lambda: console.log.read_text().count(" enrolled ") == 2)
        assert console.data("GET", "/api/node")["total"] == 1
