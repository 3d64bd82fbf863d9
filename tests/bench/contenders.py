"""Who runs: this product and its peers, each as an administrator would start it."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from arena import Arena, Measure, Running, Usage

import i2node

PORT = 26821
RSYNC_PORT = 8730


class Contender(Protocol):
    """Copies a directory to a target, again and again; `label` names it in the tables."""

    label: str
    port: int

    def copy(self, source: Path, target: Path, via: tuple[str, int] | None) -> Measure:
        """One run, from a client's start to its end. via: the relay to go through."""


class Ours:
    """`i2node mirror --once` to a paired agent: TLS 1.3, AES-256-GCM, durable before it ends."""

    port = PORT

    def __init__(self, arena: Arena, name: str, *options: str) -> None:
        self.arena = arena
        self.label = " ".join(("i2node", *options))
        self._options = options
        self._area = arena.area / name
        self._area.mkdir(parents=True)
        self._homes = {host: self._area / host for host in ("source", "target")}
        self._paired = False
        # Like an installed one, whatever the environment says of writing it.
        for package in i2node.__path__:
            compileall.compile_dir(package, quiet=1)

    def _words(self, host: str, *words: object) -> list[str]:
        python = (sys.executable, "-m", "i2node", "--home", self._homes[host])
        return self.arena.inside(host, *python, *words)

    def copy(self, source: Path, target: Path, via: tuple[str, int] | None) -> Measure:
        address = self.arena.hosts.target.address
        if not target.exists():
            # A target on a new disk is not the one that is remembered; both sides begin anew.
            for home in self._homes.values():
                shutil.rmtree(home / "var", ignore_errors=True)
        listen = f"{address}:{self.port}"
        agent = Running(
            self._words("target", "agent", "--listen", listen, "--allow-root", target.parent),
            self._area / "agent.log",
        )
        agent.listens(self.port)
        if not self._paired:
            code = subprocess.check_output(self._words("target", "code"), text=True).strip()
            subprocess.run(
                self._words("source", "pair", listen),
                input=code,
                text=True,
                check=True,
                capture_output=True,
            )
            self._paired = True
        host, port = via or (address, self.port)
        words = ("mirror", source, f"{host}:{port}:{target}", "--once", "--json", *self._options)
        before, began = self.arena.on_the_cable(), time.perf_counter()
        with self.arena.first_mib() as first:
            client = Running(self._words("source", *words), self._area / "mirror.log").wait()
        wall = time.perf_counter() - began
        wire = self.arena.on_the_cable() - before
        return Measure(wall, client, agent.end(), wire, *first)


class Rsync:
    """`rsync -aHAXS --delete` to a plain daemon, which neither encrypts nor syncs."""

    port = RSYNC_PORT

    def __init__(self, arena: Arena, name: str, *options: str) -> None:
        self.arena = arena
        self.label = " ".join(("rsync", *options))
        self._options = options
        self._area = arena.area / name
        self._area.mkdir(parents=True)

    def copy(self, source: Path, target: Path, via: tuple[str, int] | None) -> Measure:
        target.mkdir(exist_ok=True)
        config = self._area / "rsyncd.conf"
        config.write_text(
            "uid = 0\ngid = 0\nuse chroot = yes\nmunge symlinks = no\n"
            f"[m]\npath = {target}\nread only = no\n"
        )
        serve = ("rsync", "--daemon", "--no-detach", "--port", self.port, f"--config={config}")
        daemon = Running(self.arena.inside("target", *serve), self._area / "daemon.log")
        daemon.listens(self.port)
        host, port = via or (self.arena.hosts.target.address, self.port)
        place = f"rsync://{host}:{port}/m/"
        words = ("rsync", "-aHAXS", "--delete", *self._options, f"{source}/", place)
        before, began = self.arena.on_the_cable(), time.perf_counter()
        with self.arena.first_mib() as first:
            client = Running(self.arena.inside("source", *words), self._area / "client.log").wait()
        wall = time.perf_counter() - began
        wire = self.arena.on_the_cable() - before
        return Measure(wall, client, daemon.end(), wire, *first)


class Command:
    """A command on this host alone, as a floor: `{source}` and `{target}` stand for the trees."""

    port = 0

    def __init__(self, label: str, command: str) -> None:
        self.label = label
        self._command = command

    def copy(self, source: Path, target: Path, via: tuple[str, int] | None) -> Measure:
        target.mkdir(exist_ok=True)
        command = self._command.format(source=source, target=target)
        began = time.perf_counter()
        used = Running(["sh", "-c", command], target.parent.parent / "command.log").wait()
        return Measure(time.perf_counter() - began, used, Usage(0.0, 0), 0)
