"""An agent tells the service manager that starts it when it serves, reloads, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2node.cli.service import manager


class Heard:
    """The manager's end: an agent with it in its environment, and what it tells."""

    def __init__(self, home: Path, **environment: str) -> None:
        self._home, self._socket = home, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # By an abstract name, which no length of a temporary directory is too much for.
        self._socket.bind("")
        self._socket.settimeout(60)
        name = "@" + self._socket.getsockname()[1:].decode()
        (home / "etc").mkdir(parents=True)
        self.configure("listen_port = 0")
        words = [sys.executable, "-m", "i2node", "--home", str(home), "agent"]
        self._log = home / "log"
        with self._log.open("wb") as log:
            environment = {**os.environ, "NOTIFY_SOCKET": name, **environment}
            self.agent = subprocess.Popen(words, env=environment, stderr=log)

    def configure(self, text: str) -> None:
        (self._home / "etc" / "i2node.toml").write_text('listen_host = "127.0.0.1"\n' + text)

    def until(self, word: str) -> list[str]:
        """The lines that come up to the message that begins so, its own too."""
        lines: list[str] = []
        while word not in lines:
            lines += self._socket.recv(4096).decode().split("\n")
        return lines

    def logs(self, event: str) -> None:
        """Waits until its log has it; the watchdog's beats are the clock."""
        while f" {event} " not in self._log.read_text():
            self.until("WATCHDOG=1")

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        self._socket.close()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    one = Heard(tmp_path, WATCHDOG_USEC="300000")
    yield one
    one.close()


def test_it_tells_of_its_life(heard: Heard) -> None:
    first = heard.until("READY=1")
    assert first[0] == "READY=1"
    assert first[1].startswith("STATUS=port ") and first[1].endswith("; rules: none")
    assert set(heard.until("WATCHDOG=1")) == {"WATCHDOG=1"}
    heard.configure("nonsense = 1")
    heard.agent.send_signal(signal.SIGHUP)
    heard.logs("reload-refused")
    heard.configure("listen_port = 0\nsweep_s = 20.0")
    heard.agent.send_signal(signal.SIGHUP)
    assert set(heard.until("RELOADING=1")) <= {"WATCHDOG=1", "RELOADING=1"}
    assert "STOPPING=1" not in heard.until("READY=1")
    heard.agent.send_signal(signal.SIGTERM)
    heard.until("STOPPING=1")
    assert heard.agent.wait(60) == 0


def test_a_watchdog_of_another_process_is_not_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert manager().beat_s == 1
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert manager().beat_s is None


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_what_is_no_manager_is_told_nothing(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert manager().address == ""


def test_a_manager_that_is_gone_keeps_nothing_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    manager().ready("listens")
