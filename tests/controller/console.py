"""A controller, as a user starts it: a process of its own, reached over HTTP."""

from __future__ import annotations

import atexit
import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nursery import Child, Nursery

PASSWORD = "Info1234"  # what the tests of the SDK log in with
DEADLINE = 30.0


class Born:
    """A process of the nursery, asked and told as a Popen."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.pid = child.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and not self._child.alive():
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        self._child.signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        if self.returncode is None:
            status = self._child.wait(seconds)
            self.returncode = -signal.SIGKILL if status is None else status
        return self.returncode


@cache
def cradle() -> Nursery:
    """Where the processes of these tests are born: what a controller loads takes a second."""
    from nursery import Nursery

    made = Nursery("i2node.controller.server")
    atexit.register(made.close)
    return made


@dataclass
class Console:
    """home: its directories. log: what it wrote so far goes there."""

    home: Path
    log: Path
    process: Born
    http: int
    https: int
    enroll: int = 0
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/api"

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """HTTP status, envelope."""
        data = None if body is None else json.dumps(body).encode()
        told = {"Authorization": self.token} | dict(headers or {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}", data, told, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                assert error.headers["Content-Type"].startswith("application/json")
                return error.code, json.load(error)

    def data(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The payload of a call that is HTTP 200, its code included."""
        status, envelope = self.ask(method, path, body)
        assert (status, envelope["ret"], envelope["msg"]) == (200, 200, ""), envelope
        found: dict[str, Any] = envelope["data"]
        return found

    def log_in(self, name: str = "admin", password: str = PASSWORD) -> dict[str, Any]:
        found = self.data("POST", "/api/auth/token", {"username": name, "pwd": password})
        assert found["code"] == 0, found
        self.token = found["token"]
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


def started(home: Path, http: int = 0, more: str = "") -> Console:
    """A controller with this home, whose HTTP port is free to choose or this one; the
    administrator's password is PASSWORD. more: lines of its configuration."""
    etc = home / "etc" / "controller"
    etc.mkdir(parents=True, exist_ok=True)
    ports = f"http_port = {http}\nhttps_port = 0\nenroll_port = 0\n"
    if http or not (etc / "controller.toml").exists():
        (etc / "controller.toml").write_text(ports + more)
    password = home / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD + "\n")
    log = home / "controller.log"
    log.write_bytes(b"")  # its ports are read there
    words = ("--home", str(home), "controller", "--password-file", str(password))
    process = Born(cradle().bear(log, *words))
    deadline = time.monotonic() + DEADLINE
    listens = r"http_port=(\d+) https_port=(\d+) enroll_port=(\d+)"
    while not (ports := re.search(listens, log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return Console(home, log, process, *map(int, ports.groups()))
