"""Nodes behind a controller: real agents, each with a home and a port of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from console import Born, Console, cradle
from ends import free_port

PATIENCE_S = 90.0
FSP = "info2soft.fsp.FspBackup.FspBackup"
NODE = "info2soft.resource.v20181227.Node.Node"


def until(what: str, holds: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Waits for something that is true, and gives it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Agent:
    """A node as its administrator has it. home: its directories, as the agent sees them; root: that
    of its processes, None: as everybody's. uuid: of the registered node."""

    name: str
    home: Path
    log: Path
    root: Path | None = None
    port: int = field(default_factory=free_port)
    process: Born | subprocess.Popen[bytes] | None = None
    uuid: str = ""

    @property
    def code(self) -> str:
        """What pairs with it."""
        home = self.home if self.root is None else self.root / self.home.relative_to("/")
        found = re.search(r"^id=(\w{32})$", (home / "etc/i2id.conf").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    @property
    def address(self) -> dict[str, Any]:
        return {"config_addr": "127.0.0.1", "config_port": str(self.port)}

    @property
    def record(self) -> dict[str, Any]:
        """The least that registers it."""
        return {"node_name": self.name, "i2id": self.code, **self.address}

    def register(self, by: Console | Sdk, **fields: Any) -> str:
        """Makes it a node of a controller; gives its uuid."""
        record = self.record | fields
        if isinstance(by, Sdk):
            by.done(NODE, "createNode", node=record)
            listed = by.done(NODE, "listNode")["info_list"]
        else:
            made = by.data("POST", "/api/node", {"node": record})
            assert made["code"] == 0, made
            listed = by.data("GET", "/api/node")["info_list"]
        self.uuid = next(one["node_uuid"] for one in listed if one["node_name"] == self.name)
        return self.uuid

    def start(self) -> None:
        words = ["--home", str(self.home), "agent", "--listen", f"127.0.0.1:{self.port}"]
        if self.root is not None:
            command = ["chroot", str(self.root), sys.executable, "-m", "i2node", *words]
            with self.log.open("ab") as out:
                self.process = subprocess.Popen(command, stdout=out, stderr=out)
        else:
            self.process = Born(cradle().bear(self.log, *words))
        until(f"the agent in {self.home}", self.answers)

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)
        self.process = None

    def told(self, *words: str) -> str:
        """What a command of this home prints."""
        command = [sys.executable, "-m", "i2node", "--home", str(self.home), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def agents(place: Path, *names: str) -> Iterator[list[Agent]]:
    """Nodes that run."""
    with ExitStack() as held:
        made = [Agent(name, place / f"home-{name}", place / f"{name}.log") for name in names]
        for one in made:
            held.callback(one.stop)
            one.start()
        yield made


class Sdk:
    """The vendor's SDK, logged in, call by call."""

    def __init__(self, sdk: Path, console: Console) -> None:
        env = os.environ | {"PYTHONPATH": str(sdk), "I2HOST": console.url}
        voice = Path(__file__).with_name("voice.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(voice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=sdk,
            env=env,
            text=True,
        )

    def data(self, of: str, call: str, **values: Any) -> dict[str, Any]:
        """The payload of a call, its code included."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"of": of, "call": call, "with": values}),
            file=self._process.stdin,
            flush=True,
        )
        for line in self._process.stdout:
            if line.startswith("="):
                envelope = json.loads(line[1:])
                assert envelope["ret"] == 200, envelope
                found: dict[str, Any] = envelope["data"]
                return found
        raise AssertionError(f"the SDK ended at {call}: {values}")

    def done(self, of: str, call: str, **values: Any) -> dict[str, Any]:
        """The same of a call that succeeds."""
        found = self.data(of, call, **values)
        assert found["code"] == 0, found
        return found

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
