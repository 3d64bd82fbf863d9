"""`i2node doctor` beside real agents: all is fine, then one thing after the other is broken, and
what it says to type mends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ends import free_port, until
from nursery import Child, Nursery

import i2node
from i2node.cli import main
from i2node.config import Config
from i2node.net.identity import Identity
from i2node.node import rpc

MACHINE = ("clock", "limits")
"""Of what they tell, this machine decides."""
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
Line = dict[str, str]


class Node:
    """A home, and its agent, if it runs."""

    def __init__(self, home: Path, nursery: Nursery) -> None:
        self.home, self.port, self._nursery = home, free_port(), nursery
        self.metrics = free_port()
        self.child: Child | None = None
        for part in ("etc", "var", "room"):
            (home / part).mkdir(mode=0o700, parents=True)
        self.configure()

    def configure(self, more: str = "") -> None:
        text = f'listen_host = "127.0.0.1"\nlisten_port = {self.port}\n'
        text += f'allow_roots = ["{self.home}/room"]\nlog_level = "debug"\n'
        text += f"metrics_port = {self.metrics}\n"
        (self.home / "etc" / "i2node.toml").write_text(text + more)

    @property
    def log(self) -> Path:
        return self.home / "log"

    def start(self) -> None:
        self.log.touch()
        said = len(self.log.read_text())
        self.child = self._nursery.bear(self.log, "--home", str(self.home), "agent")
        until("the agent did not listen", lambda: "agent-listens" in self.log.read_text()[said:])

    def stop(self) -> None:
        if self.child is not None:
            self.child.signal(signal.SIGTERM)
            self.child.wait(30)
            self.child = None

    @property
    def identity(self) -> Identity:
        return Identity.load(self.home / "etc")

    def close(self) -> None:
        self.stop()
        for answer in rpc.ask(Config.of(self.home).run, "status"):
            with suppress(ProcessLookupError):
                os.kill(answer.pid, signal.SIGKILL)


@pytest.fixture
def nodes(tmp_path: Path, nursery: Nursery) -> Iterator[tuple[Node, Node]]:
    made = Node(tmp_path / "wk", nursery), Node(tmp_path / "bk", nursery)
    for node, other in (made, made[::-1]):
        certificate, place = other.identity.cert_pem, f"127.0.0.1:{other.port}"
        node.identity.trust(certificate, name=other.home.name, address=place)
        node.start()
    yield made
    for node in made:
        node.close()


def asked(node: Node, capsys: pytest.CaptureFixture[str]) -> list[Line]:
    """What it tells, but for what depends on the machine."""
    status = main(["--home", str(node.home), "doctor", "--json"])
    *lines, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert done["t"] == "done" and not done["unknown"]
    assert status == (1 if done["look"] else 0)
    assert sum(done[verdict] for verdict in ("fine", "look")) == len(lines)
    return [line for line in lines if line["what"] not in MACHINE]


def wrong(node: Node, capsys: pytest.CaptureFixture[str]) -> Line:
    """The one thing that is."""
    lines = [line for line in asked(node, capsys) if line["verdict"] != "fine"]
    assert len(lines) == 1, lines
    return lines[0]


def typed(line: Line, **more: object) -> None:
    subprocess.run(["sh", "-ec", line["remedy"]], env=ENVIRONMENT, check=True, **more)


def is_fine(node: Node, capsys: pytest.CaptureFixture[str]) -> bool:
    return all(line["verdict"] == "fine" for line in asked(node, capsys))


def test_what_is_broken_is_told_and_mended(nodes, capsys):
    wk, bk = nodes
    lines = {line["what"]: line["text"] for line in asked(wk, capsys)}
    assert is_fine(wk, capsys) and is_fine(bk, capsys)
    assert f"process {wk.child.pid}, of this home, listens on 127.0.0.1:{wk.port}" in lines["port"]
    assert f"bk at 127.0.0.1:{bk.port}" in lines["peers"]

    (wk.home / "etc" / "identity" / "node.pem").chmod(0o644)
    said = [line for line in asked_in_doubt(wk, capsys) if line["verdict"] == "look"]
    assert [line["what"] for line in said] == ["keys"]
    typed(said[0])
    assert is_fine(wk, capsys)

    wk.configure("wach = 1\n")
    line = wrong(wk, capsys)
    assert line["what"] == "configuration" and "'wach'" in line["text"]
    assert "did you mean 'watch'?" in line["text"]
    assert line["remedy"] == f"vi {wk.home}/etc/i2node.toml; i2node --home {wk.home} check-config"
    wk.configure()

    # The room is gone, the agent is not.
    (wk.home / "room").rmdir()
    line = wrong(wk, capsys)
    assert line["what"] == "disk" and f"{wk.home}/room is not there" in line["text"]
    typed(line)
    assert is_fine(wk, capsys)

    # The agents were asked often; it left no line in their logs, nor any other trouble.
    for node in nodes:
        lines = node.log.read_text().splitlines()
        assert {line.split()[2] for line in lines} == {"metrics-served", "agent-listens"}


def asked_in_doubt(node: Node, capsys: pytest.CaptureFixture[str]) -> list[Line]:
    """With a key that is not to be used nobody can be asked."""
    assert main(["--home", str(node.home), "doctor", "--json"]) == 1
    *lines, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert done["unknown"] == 1
    return [line for line in lines if line["what"] not in MACHINE]


def test_a_peer_that_is_gone_or_does_not_know_us(nodes, capsys, tmp_path):
    wk, bk = nodes
    bk.stop()
    line = wrong(wk, capsys)
    assert line["what"] == "peers" and "Connection refused" in line["text"]
    assert line["remedy"].startswith("ssh 127.0.0.1 ")
    bk.start()
    assert is_fine(wk, capsys)

    bk.identity.forget(wk.identity.node_id)
    line = wrong(wk, capsys)
    assert line["remedy"] == f"i2node --home {wk.home} pair 127.0.0.1:{bk.port}"
    typed(line, input=bk.identity.code.encode())
    assert is_fine(wk, capsys) and is_fine(bk, capsys)
    (known,) = bk.identity.peers()
    assert known.address == f"127.0.0.1:{wk.port}"

    # One that does not listen when it pairs is never asked.
    wk.stop()
    bk.identity.forget(wk.identity.node_id)
    typed(line, input=bk.identity.code.encode())
    assert [peer.address for peer in bk.identity.peers()] == [""]
    assert is_fine(bk, capsys)


def test_a_port_that_another_program_has(nodes, capsys):
    wk, _ = nodes
    wk.stop()
    line = wrong(wk, capsys)
    assert line["what"] == "port" and line["remedy"] == f"i2node --home {wk.home} agent &"

    code = "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); print(flush=True)"
    words = [sys.executable, "-c", f"{code}; s.accept()", str(wk.port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        taken = wrong(wk, capsys)
        name = Path(f"/proc/{other.pid}/comm").read_text().strip()
        assert taken["what"] == "port" and f"process {other.pid} ({name})" in taken["text"]
        typed(taken | {"remedy": taken["remedy"].partition(",")[0]})
    assert wrong(wk, capsys) == line
    with (wk.home / "begun").open("wb") as log:
        typed(line, stdout=log, stderr=log)
    until("it did not start", lambda: "agent-listens" in (wk.home / "begun").read_text())
    assert is_fine(wk, capsys)


def test_an_agent_that_is_not_as_it_is_configured(nodes, capsys, monkeypatch):
    wk, _ = nodes
    wk.port = free_port()
    wk.configure()
    line = wrong(wk, capsys)
    assert f"and {wk.port} is configured" in line["text"]
    typed(line)
    until("it did not reload", lambda: "agent-reloaded" in wk.log.read_text())
    assert is_fine(wk, capsys)

    # As if it had been upgraded meanwhile.
    with monkeypatch.context() as newer:
        newer.setattr(i2node, "__version__", "0.1.1")
        line = wrong(wk, capsys)
    assert line["what"] == "port" and "and 0.1.1 is installed" in line["text"]
    with (wk.home / "begun").open("wb") as log:
        typed(line, stdout=log, stderr=log)
    until("it did not start", lambda: "agent-listens" in (wk.home / "begun").read_text())
    assert wk.child is not None and not wk.child.alive()
    assert is_fine(wk, capsys)
