"""A paired peer that says whatever it likes to a real agent."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ends import free_port, until
from nursery import Child, Nursery

from i2node.errors import I2Error
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.seal import Sealer
from i2node.net.stream import DataStream
from i2node.net.transport import connect, open_stream
from i2node.repl.remote import FLUSH

HOST = "127.0.0.1"
LONG = 30.0
RULE = "0123456789abcdef"
Message = dict[str, Any]


class Agent:
    """A real agent process, which allows `room`; that is made in `place` where none is given."""

    def __init__(
        self, place: Path, nursery: Nursery, *more: str, config: str = "", room: Path | None = None
    ) -> None:
        self.home, self.log = place / "agent", place / "agent.log"
        self.room = room or place / "room"
        self.room.mkdir(parents=True)
        self.identity = Identity.load(self.home / "etc")
        (self.home / "etc" / "i2node.toml").write_text(config)
        self.port = free_port()
        self.child: Child = nursery.bear(
            self.log,
            *("--home", str(self.home), "agent", "--listen", f"{HOST}:{self.port}"),
            *("--allow-root", str(self.room), *more),
        )
        until("the agent did not listen", lambda: "agent-listens" in self.said())

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory(self, anew: bool = False) -> int:
        """The most that it ever had, in KiB; anew: from now on (proc_pid_clear_refs(5))."""
        if anew:
            Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def peer(self, home: Path, role: str = "node") -> Identity:
        """Somebody who is paired with it."""
        made = Identity.load(home)
        made.trust(self.identity.cert_pem)
        self.identity.trust(made.cert_pem, role="controller" if role == "controller" else "node")
        return made

    def close(self) -> None:
        self.child.kill()


class Peer:
    """One connection to an agent. What it answers comes by `hear`."""

    def __init__(self, agent: Agent, identity: Identity) -> None:
        self.channel: Channel = connect(HOST, agent.port, identity)
        self.stream: DataStream | None = None
        self.sealer: Sealer | None = None

    def say(self, kind: str, **fields: Any) -> None:
        self.channel.send({"t": kind, **fields})

    def hear(self) -> Message:
        return self.channel.recv(LONG)

    def open(self, root: Path | bytes, rule: str = RULE, **fields: Any) -> Message:
        """Asks for a root; gives the answer."""
        path = root if isinstance(root, bytes) else bytes(root)
        known = {"tokens": [], "next": "n", "source": "s:/s", "origin": "o"}
        self.say("open", rule=rule, root=path, **{**known, **fields})
        return self.hear()

    def begin(self, secret: bytes = b"") -> None:
        """Opens the data stream."""
        self.say("stream", number=0, encrypt=True, secret=secret)
        self.stream = open_stream(self.channel, 0)
        self.sealer = self.stream.sealer(level="off", rule_secret=secret)

    def send(self, payload: bytes) -> list[Message]:
        """Sends a frame of steps; gives what the agent says until that is durable."""
        assert self.stream is not None and self.sealer is not None
        self.stream.send(self.sealer.seal(FLUSH, payload))
        said: list[Message] = []
        while not said or said[-1]["t"] not in ("durable", "error"):
            said.append(self.hear())
        return said

    def ask(self, kind: str, **fields: Any) -> list[Message]:
        """Asks a question; gives all parts of its answer."""
        self.say(kind, n=1, **fields)
        said = [self.hear()]
        while not said[-1].get("last") and said[-1]["t"] != "error":
            said.append(self.hear())
        return said

    def close(self) -> None:
        with suppress(I2Error):
            self.say("bye")
        self.channel.close()


def faults(said: list[Message]) -> list[list[Any]]:
    return [row for message in said if message["t"] == "faults" for row in message["faults"]]
