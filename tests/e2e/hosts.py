"""Two hosts on one machine: a network namespace each, a cable between them, a home each.

Without root both stand on the loopback device, and what needs the cable cannot be asked of them.
Everything that was started here is ended here, also when a test fails.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import witness

from i2node.node import rpc
from i2node.repl.report import RuleReport

PATIENCE_S = 60.0
"""How long anything may take before a test fails; nothing is measured by it."""
PORT = 26821

_serial = itertools.count()


def until(what: str, holds: Callable[[], Any], patience: float = PATIENCE_S) -> Any:
    """What `holds` gives once it is true; fails loudly after patience."""
    deadline = time.monotonic() + patience
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:.0f} s: {what}")
        select.select([], [], [], 0.005)
    return found


def must(*words: object) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Program:
    """A command that runs; its output goes to files, so that it never waits for a reader."""

    def __init__(self, words: list[str], out: Path) -> None:
        self.out, self.log = out.with_suffix(".out"), out.with_suffix(".log")
        with self.out.open("wb") as stdout, self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text("utf-8", "backslashreplace")

    def lines(self) -> list[dict[str, Any]]:
        """The whole JSON lines it has printed so far."""
        text, _, _ = self.out.read_text().rpartition("\n")
        return [json.loads(line) for line in text.splitlines()]

    def last(self, kind: str) -> dict[str, Any]:
        """The last line of a kind; empty when there was none."""
        return next((line for line in reversed(self.lines()) if line["t"] == kind), {})

    def wait(self, patience: float = PATIENCE_S) -> int:
        """The exit status."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired as error:
            tail = self.said()[-2000:]
            raise AssertionError(f"{self.process.args} goes on and on\n{tail}") from error

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and gives the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, to the program and nothing it started."""
        if self.running:
            self.process.kill()
            self.process.wait()

    def sweep(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Host:
    """A node: a home, an address, and the programs that run there."""

    def __init__(self, name: str, area: Path, space: str | None, address: str) -> None:
        self.name = name
        self.home = area / f"home-{name}"
        self.address = address
        self.space = space
        self.programs: list[Program] = []
        self._area = area
        self.home.mkdir(parents=True)

    def words(self, *words: object) -> list[str]:
        inside = ["nsenter", f"--net=/run/netns/{self.space}"] if self.space else []
        command = [sys.executable, "-m", "i2node", "--home", self.home, *words]
        return [*inside, *map(str, command)]

    def configure(self, **values: object) -> None:
        """Writes i2node.toml."""
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        (self.home / "etc").mkdir(exist_ok=True)
        (self.home / "etc" / "i2node.toml").write_text(text)

    def told(self, code: str) -> Path:
        """A file of this host's owner that holds a code."""
        path = self._area / f"{self.name}-code"
        path.touch(mode=0o600)
        path.write_text(code)
        return path

    def start(self, *words: object) -> Program:
        program = Program(self.words(*words), self._area / f"{self.name}-{next(_serial)}")
        self.programs.append(program)
        return program

    def run(self, *words: object, status: int = 0) -> Program:
        """A command run to its end, which is as expected."""
        program = self.start(*words)
        found = program.wait()
        shown = program.said() + program.out.read_text("utf-8", "backslashreplace")
        assert found == status, f"exit status {found}, expected {status}\n{shown[-4000:]}"
        return program

    def status(self) -> RuleReport | None:
        """The report of the one rule that runs here."""
        reports = rpc.status(self.home / "var" / "run")
        return reports[0] if len(reports) == 1 else None


class Hosts:
    """`source` and `target`; the target's agent allows everything below `backup`."""

    def __init__(self, area: Path) -> None:
        self.area = area
        self.backup = area / "backup"
        self.backup.mkdir(parents=True)
        self.wired = os.geteuid() == 0
        self.port = PORT
        spaces: list[str | None] = [None, None]
        addresses = ["127.0.0.1", "127.0.0.1"]
        if self.wired:
            mark = f"i2t{os.getpid()}n{next(_serial)}"
            spaces = [mark + "s", mark + "t"]
            addresses = ["10.77.0.1", "10.77.0.2"]
        else:
            self.port = _free_port()
        self.source, self.target = (
            Host(name, area, space, address)
            for name, space, address in zip(("wk", "bk"), spaces, addresses, strict=True)
        )
        self.agent: Program | None = None
        self._anchor: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------ the network

    def wire(self) -> None:
        """Makes the two namespaces and the cable."""
        if not self.wired:
            return
        one, other = self.source, self.target
        for host in (one, other):
            must("ip", "netns", "add", host.space)
            must("ip", "-n", host.space, "link", "set", "lo", "up")
        peer = ("peer", "name", "eth0", "netns", other.space)
        must("ip", "link", "add", "eth0", "netns", one.space, "type", "veth", *peer)
        for host in (one, other):
            must("ip", "-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
            must("ip", "-n", host.space, "link", "set", "eth0", "up")
        # /proc/PID/net is the network of that process: the counters can be read at any time.
        self._anchor = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{other.space}", "sleep", "infinity"]
        )
        until("the cable", lambda: "eth0" in self._devices())

    def unwire(self) -> None:
        for host in (self.source, self.target):
            for program in host.programs:
                program.sweep()
        if self._anchor is not None:
            self._anchor.kill()
            self._anchor.wait()
        for host in (self.source, self.target):
            if host.space and Path("/run/netns", host.space).exists():
                subprocess.run(["ip", "-n", host.space, "link", "del", "eth0"], capture_output=True)
                must("ip", "netns", "del", host.space)

    def cut(self) -> None:
        """Pulls the plug at the target."""
        must("ip", "-n", self.target.space, "link", "set", "eth0", "down")

    def heal(self) -> None:
        must("ip", "-n", self.target.space, "link", "set", "eth0", "up")

    def cable(self) -> tuple[int, int]:
        """Bytes that came to the target's end of the cable and went from it, headers included."""
        row = next(line for line in self._devices().splitlines() if "eth0:" in line)
        numbers = row.partition(":")[2].split()
        return int(numbers[0]), int(numbers[8])

    def received(self) -> int:
        """Bytes that have come to the target's end of the cable, headers included."""
        return self.cable()[0]

    def _devices(self) -> str:
        assert self._anchor is not None
        return Path(f"/proc/{self._anchor.pid}/net/dev").read_text()

    # ------------------------------------------------------------------ the nodes

    def serve(self, *roots: Path) -> Program:
        """Starts the target's agent, and waits until it listens."""
        allowed = itertools.chain.from_iterable(
            ("--allow-root", root) for root in (self.backup, *roots)
        )
        place = f"{self.target.address}:{self.port}"
        agent = self.target.start("agent", "--listen", place, *allowed)
        until("the agent to listen", lambda: "agent-listens" in agent.said() or not agent.running)
        assert agent.running, agent.said()
        self.agent = agent
        return agent

    def pair(self) -> None:
        code = self.target.run("code").out.read_text()
        place = f"{self.target.address}:{self.port}"
        self.source.run("pair", place, "--code-file", self.source.told(code))

    def place(self, path: Path) -> str:
        """The path as a target of `mirror`."""
        return f"{self.target.address}:{self.port}:{path}"

    def mirror(self, source: Path, target: Path, *words: object) -> Program:
        """A mirror that goes on."""
        return self.source.start("mirror", source, self.place(target), "--json", *words)

    def once(self, source: Path, target: Path, *words: object, status: int = 0) -> Program:
        """A mirror with --once, run to its end."""
        place = self.place(target)
        return self.source.run("mirror", source, place, "--once", "--json", *words, status=status)

    def litter(self, target: Path) -> list[Path]:
        """What of ours stands in or beside a target, or waits in the state directory."""
        near = [*target.glob(".i2node*"), *target.parent.glob(".i2node*")]
        staged = self.target.home / "var" / "stage"
        return [*near, *(p for p in staged.rglob("*") if not p.is_dir())]

    def tidy(self, target: Path) -> None:
        """Nothing of ours is left; the target may still be about it when the source has ended."""
        until("what was staged to go", lambda: not self.litter(target))


@contextlib.contextmanager
def two_hosts(area: Path) -> Iterator[Hosts]:
    """Wired, paired, and the target's agent listening."""
    hosts = Hosts(area)
    try:
        hosts.wire()
        hosts.serve()
        hosts.pair()
        yield hosts
    finally:
        hosts.unwire()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------------- equality


def rsync(source: Path, target: Path) -> str:
    """What rsync would do to make the two equal; nothing when they are."""
    flags = "-nacHAX" if os.geteuid() == 0 else "-nacHX"
    return must("rsync", flags, "--delete", "--itemize-changes", f"{source}/", f"{target}/")


def assert_equal(source: Path, target: Path) -> None:
    """By our own witness and by rsync, which know nothing of each other."""
    assert witness.differences(source, target)[1] == []
    assert rsync(source, target) == ""


def same(source: Path, target: Path) -> bool:
    """Equal at this moment; a tree that changes under the eyes is not."""
    try:
        return not witness.differences(source, target)[1]
    except OSError:
        return False
