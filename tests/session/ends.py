"""A source and a target as real processes of one machine, with a relay between them."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nursery import Child, Nursery
from relay import Relay
from witness import differences

from i2node.net.identity import Identity
from i2node.node import rpc
from i2node.repl.report import RuleReport

PATIENCE_S = 60.0
OURS = (".i2node-stage-", ".i2node-aside-")
"""What may stand beside a target between two sessions after a crash: the stage, and the shelf."""
CONFIG = """\
small_file_max = 4096
frame_bytes = 262144
heartbeat_s = 2.0
log_level = "info"
"""


class NotSettledError(AssertionError):
    """The mirror did not become quiet in time."""


def until(what: str, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Waits for a condition, however long within reason."""
    end = time.monotonic() + seconds
    pause = 0.002
    while not holds():
        if time.monotonic() > end:
            raise NotSettledError(what)
        select_pause(pause)
        pause = min(pause * 1.5, 0.05)


def select_pause(seconds: float) -> None:
    """The interval between two looks at a condition."""
    signal.sigtimedwait([], seconds)


def free_port() -> int:
    """One below those that the kernel gives to whoever asks for any: such a one would be another's
    by the time that the agent is started again."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.SystemRandom().sample(range(max(1024, first - 16_384), first), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"no free port below {first}")


class Hosts:
    """`source` and `target` are the trees; both nodes may be down. source: where it is to stand, if
    not in place. patience: seconds that a quiet moment may take to come."""

    patience = PATIENCE_S

    def __init__(
        self, place: Path, nursery: Nursery, engine: str = "auto", source: Path | None = None
    ) -> None:
        self.place = place
        self._config = CONFIG + f'watch = "{engine}"\n'
        self.nursery = nursery
        self.source = source or place / "source"
        self.target = place / "rooms" / "target"
        self.outside = place / "rooms" / "outside"
        for directory in (self.source, self.target, self.outside):
            directory.mkdir(parents=True)
        self.homes = {name: place / name for name in ("here", "there")}
        here, there = (self._identity(home) for home in self.homes.values())
        here.trust(there.cert_pem, name="there")
        there.trust(here.cert_pem, name="here", role="controller")
        self._port = free_port()
        self.relay = Relay(self._port)
        self.agent: Child | None = None
        self.mirror: Child | None = None
        self._fences = 0

    def _identity(self, home: Path) -> Identity:
        (home / "etc").mkdir(parents=True)
        (home / "etc" / "i2node.toml").write_text(self._config)
        return Identity.load(home / "etc")

    def start_target(self) -> None:
        if self.agent is None or not self.agent.alive():
            self.agent = self.nursery.bear(
                self.place / "there.log",
                *("--home", str(self.homes["there"]), "agent"),
                *("--listen", f"127.0.0.1:{self._port}"),
                *("--allow-root", str(self.target.parent)),
            )
            until("the target's agent did not listen", self._listens)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1.0).close()
        except OSError:
            return False
        return True

    def _mirror(self, *more: str) -> Child:
        return self.nursery.bear(
            self.place / "here.log",
            *("--home", str(self.homes["here"]), "mirror", str(self.source)),
            *(f"127.0.0.1:{self.relay.port}:{self.target}", "--json", *more),
        )

    def start_source(self, *more: str) -> None:
        if self.mirror is None or not self.mirror.alive():
            self.mirror = self._mirror(*more)

    def kill_source(self) -> None:
        if self.mirror is not None:
            self.mirror.kill()

    def kill_target(self) -> None:
        if self.agent is not None:
            self.agent.kill()

    def stop_source(self) -> int | None:
        """As a person stops it: it drains, and says so by its exit status."""
        assert self.mirror is not None
        self.mirror.signal(signal.SIGTERM)
        return self.mirror.wait(PATIENCE_S)

    def once(self) -> int | None:
        """One full pass of a process of its own; nothing else of the rule may be running."""
        child = self._mirror("--once")
        try:
            return child.wait(2 * PATIENCE_S)
        finally:
            child.kill()

    def report(self) -> RuleReport | None:
        reports = rpc.status(self.homes["here"] / "var" / "run")
        return reports[0] if reports else None

    def in_sync(self) -> bool:
        assert self.mirror is not None
        if not self.mirror.alive():
            raise AssertionError(f"the source died: {self.tail('here')}")
        report = self.report()
        return report is not None and report.in_sync

    def quiesce(self) -> None:
        """Waits until the last change of all has arrived and the source calls itself in sync.

        The fence is made behind everything else, and the kernel tells of changes in order: where
        it has arrived, the source has heard of all that came before, and no excuse is left.
        """
        self.start_target()
        self.relay.resume()
        self.start_source()
        self._fences += 1
        name = f"fence{self._fences}"
        for old in self.source.glob("fence*"):
            old.unlink()
        (self.source / name).touch()
        fence = self.target / name
        try:
            until(
                "the fence did not arrive",
                lambda: os.path.lexists(fence) or not self._lives(),
                self.patience,
            )
            until("not in sync", self.in_sync, self.patience)
        except NotSettledError as error:
            raise NotSettledError(f"{error}: {self.report()}\n{self.tail('here')}") from None

    def _lives(self) -> bool:
        return self.mirror is not None and self.mirror.alive()

    def differences(self) -> list[tuple[bytes, str]]:
        return differences(self.source, self.target)[1]

    def tail(self, name: str) -> str:
        log = self.place / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(line for line in lines if '"progress"' not in line)[-3000:]

    def close(self) -> None:
        for child in (self.mirror, self.agent):
            if child is not None:
                child.kill()
        self.relay.close()
