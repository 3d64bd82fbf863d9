"""What is examined: a home, its processes, and the system that they run on."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from i2node.config import ETC, Config
from i2node.net.identity import Identity
from i2node.repl.report import RuleReport

_ENDED = "tail --pid={} -f /dev/null"  # waits until it is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """config: the home's, or the defaults where that is not `sound`. identity: None where there is
    none that can be used. pids: processes of this home that answer, and the rules that they tell
    of. root: of the system's own files, such as proc."""

    config: Config
    sound: bool = True
    identity: Identity | None = None
    pids: frozenset[int] = frozenset()
    reports: tuple[RuleReport, ...] = ()
    root: Path = Path("/")

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def is_system(self) -> bool:
        """Whether it is the home that the service i2node has."""
        return self.config.etc == ETC

    def typed(self, words: str) -> str:
        """A command of i2node for this home, as it is typed."""
        home = "" if self.is_system else f" --home {quoted(self.config.etc.parent)}"
        return f"i2node{home} {words}"

    def service(self, verb: str, pid: int = 0) -> str:
        """start, or restart or reload of process pid: the home's agent, as it is typed."""
        if not self.is_served:
            if verb == "reload":
                return f"kill -HUP {pid}"
            agent = self.typed("agent &")
            return f"kill {pid}; {_ENDED.format(pid)}; {agent}" if pid else agent
        if (self.root / "run/systemd/system").is_dir():
            return f"systemctl {verb} i2node"
        return f"service i2node {verb}"

    @property
    def is_served(self) -> bool:
        """Whether the service i2node is installed, and this home is its own."""
        scripts = (self.root / place for place in ("etc/rc.d/init.d/i2node", "etc/init.d/i2node"))
        return self.is_system and any(script.exists() for script in scripts)

    def as_root(self) -> str:
        """The same examination by whoever may see everything; empty: that is us."""
        return "" if os.geteuid() == 0 else f"sudo {self.typed('doctor')}"


def quoted(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(os.fspath(path))


def text_of(path: Path) -> str:
    """A file of the system's; empty where it is not there or may not be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
