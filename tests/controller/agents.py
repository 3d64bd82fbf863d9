"""Agents behind a controller: processes of their own, each with a home, on the loopback device."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console import DEADLINE, Born, Console, cradle


@dataclass
class Agent:
    """home: its directories; code: what pairs with it. uuid: of the registered node."""

    name: str
    home: Path
    process: Born
    port: int
    code: str
    uuid: str = ""
    host: str = "127.0.0.1"

    @property
    def address(self) -> dict[str, Any]:
        return {"config_addr": self.host, "config_port": str(self.port)}

    @property
    def record(self) -> dict[str, Any]:
        """The least that registers it."""
        return {"node_name": self.name, "i2id": self.code, **self.address}

    def register(self, console: Console, **fields: Any) -> str:
        """Makes it a node of a controller; gives its uuid."""
        found = console.data("POST", "/api/node", {"node": self.record | fields})
        assert found["code"] == 0, found
        where = f"/api/node?where_args[config_port]={self.port}"
        (node,) = console.data("GET", where)["info_list"]
        self.uuid = node["node_uuid"]
        return self.uuid

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(DEADLINE)


@contextmanager
def agents(area: Path, *names: str) -> Iterator[list[Agent]]:
    """Starts some; each listens on a port of its own."""
    with ExitStack() as held:
        found = []
        for name in names:
            found.append(started(area, name))
            held.callback(found[-1].stop)
        yield found


def started(area: Path, name: str) -> Agent:
    """One that listens."""
    home = area / f"home-{name}"
    log = area / f"{name}.log"
    home.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")  # its port is read there
    words = ("--home", str(home), "agent", "--listen", "127.0.0.1:0")
    process = Born(cradle().bear(log, *words))
    deadline = time.monotonic() + DEADLINE
    while not (port := re.search(r"agent-listens .*\bport=(\d+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    code = re.search(r"^id=(\w{32})$", (home / "etc" / "i2id.conf").read_text(), re.MULTILINE)
    assert code is not None
    return Agent(name, home, process, int(port[1]), code[1])
