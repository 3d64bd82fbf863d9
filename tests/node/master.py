"""A controller's side of the RPC, as small as can be, and two agents that it governs."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ends import CONFIG, free_port, until
from nursery import Child, Nursery
from witness import differences

from i2node.errors import I2Error
from i2node.model import State
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.node import rpc
from i2node.orders import (
    Charge,
    Grant,
    Orders,
    Part,
    Standing,
    Want,
    pieces,
    plain,
    read_standing,
)
from i2node.repl.report import RuleReport

HOST = "127.0.0.1"
LONG = 60.0
RULE = "A1B2C3D4-0000-4000-8000-000000000001"
Message = dict[str, Any]


class Agent:
    """A real agent, which may be down."""

    def __init__(self, place: Path, name: str, nursery: Nursery) -> None:
        self.home, self.log = place / name, place / f"{name}.log"
        self.nursery = nursery
        (self.home / "etc").mkdir(parents=True)
        self.identity = Identity.load(self.home / "etc")
        self.port = free_port()
        self.configure("")
        self.child: Child | None = None

    def configure(self, text: str) -> None:
        """In force when it starts, or reloads."""
        at = f'listen_host = "{HOST}"\nlisten_port = {self.port}\n'
        (self.home / "etc" / "i2node.toml").write_text(CONFIG + at + text)

    def reload(self) -> str:
        """Gives what it says of it."""
        assert self.child is not None
        said = len(self.said())
        self.child.signal(signal.SIGHUP)
        word = re.compile(r" (agent-reloaded|reload-refused) .*\n")
        until("no word of the reload", lambda: bool(word.search(self.said(), said)))
        return self.said()[said:]

    def start(self, *more: str) -> None:
        said = len(self.said())
        self.child = self.nursery.bear(self.log, "--home", str(self.home), "agent", *more)
        until("the agent did not listen", lambda: "agent-listens" in self.said()[said:])

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self, number: int) -> None:
        assert self.child is not None
        self.child.signal(number)
        self.child.wait(LONG)

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()


class Link:
    """One channel of the controller to an agent. What it hears is put where it is looked for."""

    def __init__(self, identity: Identity, agent: Agent) -> None:
        self.channel: Channel = connect(HOST, agent.port, identity, agent.identity.node_id)
        self._lock = threading.Condition()
        self._said: list[Message] = []
        self._answers: dict[int, Message] = {}
        self._asked = 0
        self.standings: dict[str, Standing] = {}
        self.seen: list[tuple[str, State, int]] = []
        self.heard = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.channel.send({"t": "govern"})
        self._thread.start()
        self.number: int = self.hear("governed")["number"]

    def _listen(self) -> None:
        with suppress(I2Error):
            while True:
                message = self.channel.recv(None)
                with self._lock:
                    self._take(message)
                    self._lock.notify_all()

    def _take(self, message: Message) -> None:
        if message["t"] == "standings":
            self.heard += 1
            told = [read_standing(one) for one in message["rules"]]
            self.standings = {one.rule: one for one in told}
            for one in told:
                now = (one.rule, one.state, one.progress)
                if not self.seen or self.seen[-1] != now:
                    self.seen.append(now)
        elif message["t"] == "answer":
            self._answers[message["id"]] = message
        else:
            self._said.append(message)

    def hear(self, *kinds: str) -> Message:
        with self._lock:
            if not self._lock.wait_for(lambda: bool(self._said), LONG):
                raise AssertionError(f"nothing is said where one of {kinds} is due")
            message = self._said.pop(0)
        assert message["t"] in kinds, message
        return message

    def order(self, table: Mapping[str, Any]) -> Message:
        for piece in pieces(json.dumps(table).encode()):
            self.channel.send({"t": "orders", **piece})
        return self.hear("held", "refused")

    def ask(self, verb: str, **arguments: Any) -> Message:
        """The answer, whole."""
        self._asked += 1
        number = self._asked
        self.channel.send({"t": "ask", "id": number, "verb": verb, "arguments": arguments})
        with self._lock:
            if not self._lock.wait_for(lambda: number in self._answers, LONG):
                raise AssertionError(f"no answer to {verb}")
            return self._answers.pop(number)

    def stands(self, holds: Callable[[Standing], bool], rule: str = RULE) -> Standing:
        """Waits for a standing that is as wanted."""
        with self._lock:
            ok = self._lock.wait_for(
                lambda: rule in self.standings and holds(self.standings[rule]), LONG
            )
            if not ok:
                raise AssertionError(f"it stands so: {self.standings.get(rule)}")
            return self.standings[rule]

    def state(self, state: State, rule: str = RULE) -> Standing:
        return self.stands(lambda one: one.state is state, rule)

    def close(self) -> None:
        self.channel.close()


class House:
    """`work` mirrors `source` to `backup`, below `base`, as soon as it is ordered."""

    def __init__(self, place: Path, nursery: Nursery, room: Path | None = None) -> None:
        """room: where it is to be, if not in place."""
        self.place = place
        self.source, self.room = place / "source", room or place / "room"
        self.base = self.room / f"{HOST}_26821"
        for directory in (self.source, self.room):
            directory.mkdir(exist_ok=True)
        self.work = Agent(place, "work", nursery)
        self.backup = Agent(place, "backup", nursery)
        self.identity = Identity.load(place / "controller")
        for agent in (self.work, self.backup):
            self.identity.trust(agent.identity.cert_pem)
            agent.identity.trust(self.identity.cert_pem, role="controller")
            agent.start()
        self.number = 0
        self._links: list[Link] = []

    def link(self, agent: Agent) -> Link:
        made = Link(self.identity, agent)
        self._links.append(made)
        return made

    def reports(self) -> list[RuleReport]:
        """What the work node itself tells of the sessions that it runs."""
        told = rpc.status(self.work.home / "var" / "run")
        return [one for one in told if one.side == "source"]

    def charge(self, *parts: Path, **other: Any) -> Charge:
        """Of one part, unless others are named."""
        base = other.pop("base", str(self.base))
        made = tuple(Part(source=str(part)) for part in parts or (self.source,))
        charge = Charge(
            rule=RULE,
            version="1",
            name="all of it",
            want=Want.RUN,
            host=HOST,
            port=self.backup.port,
            peer=self.backup.identity.node_id,
            certificate=self.backup.identity.cert_pem,
            base=base,
            parts=made,
        )
        return replace(charge, **other)

    def grant(self, **other: Any) -> Grant:
        grant = Grant(
            rule=RULE,
            peer=self.work.identity.node_id,
            certificate=self.work.identity.cert_pem,
            name="work",
            roots=(str(self.base),),
            base=str(self.base),
        )
        return replace(grant, **other)

    def order(
        self, link: Link, charges: tuple[Charge, ...] = (), grants: tuple[Grant, ...] = ()
    ) -> None:
        self.number += 1
        held = link.order(plain(Orders(number=self.number, charges=charges, grants=grants)))
        assert held == {"t": "held", "number": self.number, "refused": []}

    def begin(self, *parts: Path, **other: Any) -> Link:
        """The backup node grants what the work node is ordered; gives the link to that one."""
        there, here = self.link(self.backup), self.link(self.work)
        self.order(there, grants=(self.grant(),))
        self.order(here, (self.charge(*parts, **other),))
        return here

    def copy(self, standing: Standing, source: Path | None = None) -> Path:
        """Where a run has its copy of a source."""
        assert standing.stamp
        return Path(f"{self.base}/{standing.stamp}{source or self.source}")

    def alike(self, copy: Path, source: Path | None = None) -> bool:
        with suppress(FileNotFoundError):  # what is removed while it is looked at
            return copy.is_dir() and not differences(source or self.source, copy)[1]
        return False

    def becomes_alike(self, copy: Path, source: Path | None = None) -> None:
        until("the copy is not equal", lambda: self.alike(copy, source))

    def stamps(self) -> list[str]:
        return sorted(path.name for path in self.base.iterdir()) if self.base.exists() else []

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.work.close()
        self.backup.close()
