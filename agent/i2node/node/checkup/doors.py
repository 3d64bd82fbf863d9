"""Who listens where: this home's agent, another program, nobody; and whether the firewall lets
peers in. From proc_pid_net(5) and the descriptors of processes."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import i2node
from i2node.config import Config
from i2node.errors import I2Error
from i2node.model import PORT, show
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.node import rpc
from i2node.node.checkup.finding import Finding, fine, look, unknown
from i2node.node.checkup.host import Host, text_of
from i2node.node.kept import kept

_LISTENS = "0A"
DIAL_S = 3.0
_FIREWALL_S = 5.0
_YES, _NO = 0, 1
"""What firewall-cmd --query-... exits with; anything else: it does not run, or not for us."""


class Door(NamedTuple):
    """A socket that listens."""

    address: str
    port: int
    inode: int

    @property
    def is_for_all(self) -> bool:
        return ipaddress.ip_address(self.address).is_unspecified

    def __str__(self) -> str:
        if self.is_for_all:
            return f"all addresses, port {self.port}"
        return f"[{self.address}]:{self.port}" if ":" in self.address else self.dialled

    @property
    def dialled(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of a home that runs. elsewhere: it was told on its command line where to listen."""

    pid: int
    doors: tuple[Door, ...]
    elsewhere: bool

    @property
    def door(self) -> Door:
        """The one for peers, as far as is known."""
        return self.doors[0]


def doors(table: str) -> Iterator[Door]:
    """Those of a /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:
            address, _, port = fields[1].partition(":")
            yield Door(_address(address), int(port, 16), int(fields[9]))


def _address(words: str) -> str:
    """As the kernel prints it: 32 bits at a time, in the order of bytes that the host has."""
    parts = (int(words[at : at + 8], 16) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(b"".join(part.to_bytes(4, sys.byteorder) for part in parts))
    return str(getattr(address, "ipv4_mapped", None) or address)


def here(host: Host) -> list[Door]:
    """All of this network namespace."""
    return [door for name in ("tcp", "tcp6") for door in doors(text_of(host.proc / "net" / name))]


def sockets_of(proc: Path, pid: int) -> set[int]:
    """The inode numbers of a process's sockets, as far as they may be seen."""
    found: set[int] = set()
    with suppress(OSError):
        for name in os.listdir(proc / str(pid) / "fd"):
            with suppress(OSError):
                target = os.readlink(proc / str(pid) / "fd" / name)
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found


def holder(proc: Path, inode: int) -> int | None:
    """The process that has a socket; None: it is not to be seen."""
    pids = (int(name) for name in os.listdir(proc) if name.isdigit())
    return next((pid for pid in sorted(pids) if inode in sockets_of(proc, pid)), None)


def agent_of(host: Host) -> Agent | None:
    """That of this home. Other processes that answer for the home are mirrors, and the agents that
    these have embedded."""
    listening = here(host)
    for pid in sorted(host.pids):
        words = text_of(host.proc / str(pid) / "cmdline").split("\0")
        sockets = sockets_of(host.proc, pid)
        own = [door for door in listening if door.inode in sockets]
        if own and "--embedded" not in words:
            return Agent(pid, likely(own, host.config), "--listen" in words)
    return None


def likely(own: Iterable[Door], config: Config) -> tuple[Door, ...]:
    """Those of an agent, of which one is for its metrics, and that for peers is likely to be the
    first: either may be configured anew meanwhile, or wrongly."""

    def unlikely(door: Door) -> tuple[bool, bool, bool]:
        is_loopback = ipaddress.ip_address(door.address).is_loopback
        return door.port != config.listen_port, door.port == config.metrics_port, is_loopback

    return tuple(sorted(own, key=unlikely))


def port_of(config: Config) -> int:
    """Where the agent of a home listens now; 0: none runs."""
    pids = frozenset(answer.pid for answer in rpc.ask(config.run, "status"))
    agent = agent_of(Host(config=config, pids=pids))
    return agent.door.port if agent else 0


def is_needed(host: Host) -> bool:
    """Whether anything waits for an agent of this home: peers that may keep mirrors, or rules."""
    if host.config.allow_roots:
        return True
    with suppress(ValueError):
        orders = (kept(host.config.var / "orders.json") or {}).get("orders")
        return isinstance(orders, dict) and bool(orders.get("charges") or orders.get("grants"))
    return False


def is_enabled(host: Host) -> bool:
    """Whether the service is to run since the host was booted."""
    places = ("etc/systemd/system/*.wants/i2node.service", "etc/rc.d/rc[35].d/S*i2node")
    return host.is_served and any(any(host.root.glob(place)) for place in places)


def port(host: Host) -> list[Finding]:
    """Who listens on it."""
    agent = agent_of(host)
    if agent is not None:
        return [_answering(host, agent)]
    wanted = host.config.listen_port
    taken = in_the_way(here(host), host.config.listen_host, wanted)
    if taken is not None:
        pid = holder(host.proc, taken.inode)
        name = text_of(host.proc / str(pid) / "comm").strip() if pid else ""
        return [taken_by(host, taken, pid, show(name.encode()))]
    return [of_nobody(host, is_enabled(host), is_needed(host))]


def in_the_way(listening: Iterable[Door], address: str, wanted: int) -> Door | None:
    """What keeps an agent from listening there; address: as configured, a name too, "" for all."""
    for door in listening:
        with suppress(ValueError):
            other = address and not door.is_for_all and ipaddress.ip_address(address)
            if other and not other.is_unspecified and str(other) != door.address:
                continue
        if door.port == wanted:
            return door
    return None


def taken_by(host: Host, door: Door, pid: int | None, name: str) -> Finding:
    """By a process, None: one that is not to be seen, that is not this home's agent."""
    if pid is None:
        told = f"somebody listens on {door}; who, only root is told"
        return unknown("port", told, host.as_root() or f"ss -ltnp sport = :{door.port}")
    told = f"{door} is taken by process {pid} ({name}), not the agent of this home"
    place = f"another listen_port in {host.config.file}"
    remedy = f"kill {pid}, or set {place}; then: {host.service('start')}"
    return look("port", told, remedy)


def of_nobody(host: Host, enabled: bool, needed: bool) -> Finding:
    """Where nobody listens."""
    told = f"nobody listens on {host.config.listen_port}"
    if enabled or needed:
        why = "the service is enabled" if enabled else "mirrors or rules are waiting"
        return look("port", f"{told}, and {why}", host.service("start"))
    return fine("port", f"{told}; no agent is needed: no allow_roots, no rules of a controller")


def _answering(host: Host, agent: Agent) -> Finding:
    """Asked as a peer would, with the node's own certificate."""
    if host.identity is None:
        return of_agent(host, agent, "")
    causes: list[str] = []
    for door in agent.doors:
        try:
            version = _asked(host.identity, door)
        except I2Error as error:
            causes.append(error.cause)
        else:
            return of_agent(host, replace(agent, doors=(door,)), version)
    told = f"process {agent.pid} listens on {agent.door}, and does not answer: {causes[0]}"
    return look("port", told, host.service("restart", agent.pid))


def _asked(identity: Identity, door: Door) -> str:
    """The version that runs there."""
    name = "127.0.0.1" if door.is_for_all else door.address
    channel = connect(name, door.port, identity, identity.node_id, DIAL_S)
    with suppress(I2Error):
        channel.send({"t": "bye"})
    channel.close()
    return channel.version


def of_agent(host: Host, agent: Agent, version: str) -> Finding:
    """version: the one that runs; empty: it could not be asked."""
    told = f"process {agent.pid}, of this home, listens on {agent.door}"
    if version and version != i2node.__version__:
        told = f"{told}: i2node {version}, and {i2node.__version__} is installed"
        return look("port", told, host.service("restart", agent.pid))
    wanted = host.config.listen_port
    reload = host.service("reload", agent.pid)
    if host.sound and not agent.elsewhere and wanted not in (0, agent.door.port):
        return look("port", f"{told}, and {wanted} is configured", reload)
    return fine("port", f"{told}{f': i2node {version}' if version else ''}")


def firewall(host: Host) -> list[Finding]:
    """Whether peers reach the port; nothing where firewalld does not run, or does not say."""
    agent = agent_of(host)
    program = host.root / "usr/bin/firewall-cmd"
    # Whoever is not root would be asked for a password.
    if agent is None or os.geteuid() != 0 or not program.exists():
        return []
    if ipaddress.ip_address(agent.door.address).is_loopback:
        return []
    return of_firewall(program, agent.door.port)


def of_firewall(program: Path, number: int) -> list[Finding]:
    """What firewall-cmd says of a port."""
    answer = _exit_status(program, f"--query-port={number}/tcp")
    if answer == _NO and number == PORT:
        # Where it does not know the service yet, it exits otherwise.
        answer = min(_NO, _exit_status(program, "--query-service=i2node"))
    if answer == _YES:
        return [fine("firewall", f"firewalld lets port {number} in")]
    return [closed(number)] if answer == _NO else []


def closed(number: int) -> Finding:
    """Where firewalld's default zone does not let the port in."""
    told = f"firewalld does not let port {number} in (default zone)"
    # Both, since a reload would drop what was only added to the one that runs.
    add = f"--add-port={number}/tcp"
    return look("firewall", told, f"firewall-cmd {add} && firewall-cmd --permanent {add}")


def _exit_status(program: Path, words: str) -> int:
    try:
        done = subprocess.run(
            [program, words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FIREWALL_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return -1
    return done.returncode
