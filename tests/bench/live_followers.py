"""Who follows a tree: this product and its peers, each as an administrator would start it, tuned to
be as quick as it can be. The source's program runs on one of two hosts, the target's on the other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from arena import Arena, Running
from hosts import until
from live_meter import below

from i2node.node import rpc
from i2node.repl.report import RuleReport

PORT = 26821
RSYNC_PORT = 8730
SYNCTHING_PORT = 22000
MARKER = ".stfolder"
SYNCTHINGS = (MARKER, ".syncthing.")
"""How names begin that are Syncthing's own: what it wants to stand in a tree, and what it leaves in
a target for a day where a file went while it was fetched. They are not compared."""


class Follower(Protocol):
    """Keeps a target like a source, from `start` to `end`."""

    label: str

    @property
    def lacks(self) -> str:
        """A program that it needs and that is not installed; empty: none."""

    def start(self, source: Path, target: Path) -> None:
        """Returns when it watches; the first pass may be under way."""

    def end(self) -> None:
        """Ends what runs of it."""

    def sides(self) -> tuple[int, int]:
        """The process ids of source and target; what they started is below them."""


class _Pair:
    """The programs of a source and of a target."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, ring: Arena, name: str) -> None:
        self._ring = ring
        self._area = ring.area / name
        self._area.mkdir(parents=True, exist_ok=True)
        self._source: Running | None = None
        self._target: Running | None = None

    @property
    def lacks(self) -> str:
        return next((name for name in self.needs if not shutil.which(name)), "")

    def sides(self) -> tuple[int, int]:
        assert self._source is not None and self._target is not None
        return self._source.process.pid, self._target.process.pid

    def end(self) -> None:
        for program in (self._source, self._target):
            if program is not None:
                started = below(program.process.pid)
                program.end()
                for pid in started:
                    # An rsync under way would hold on to the file systems.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        self._source = self._target = None

    def _run(self, host: str, *words: object) -> Running:
        return Running(self._ring.inside(host, *words), self._area / f"{host}.log")

    def _says(self, program: Running, text: str, patience: float = 600.0) -> None:
        """Returns when the program's log has the text in it."""

        def said() -> bool:
            log = program.log.read_text("utf-8", "replace")
            if program.ended:
                raise SystemExit(f"{program.process.args} has ended: {log[-2000:]}")
            return text in log

        until(f"{text!r} in {program.log.name}", said, patience)


class Ours(_Pair):
    """`i2node mirror` to a paired agent. values: what stands in the i2node.toml of the source."""

    def __init__(self, ring: Arena, name: str = "i2node", **values: object) -> None:
        super().__init__(ring, name)
        self.label = name
        self._homes = {host: self._area / host for host in ("source", "target")}
        self._values = values

    def _words(self, host: str, *words: object) -> tuple[object, ...]:
        return (sys.executable, "-m", "i2node", "--home", self._homes[host], *words)

    def start(self, source: Path, target: Path) -> None:
        for home in self._homes.values():
            shutil.rmtree(home, ignore_errors=True)
            (home / "etc").mkdir(parents=True)
        text = "".join(f"{key} = {value!r}\n" for key, value in self._values.items())
        (self._homes["source"] / "etc" / "i2node.toml").write_text(text)
        place = f"{self._ring.hosts.target.address}:{PORT}"
        words = self._words("target", "agent", "--listen", place, "--allow-root", target.parent)
        self._target = self._run("target", *words)
        self._target.listens(PORT)
        code = subprocess.check_output(
            self._ring.inside("target", *self._words("target", "code")), text=True
        )
        pairing = self._ring.inside("source", *self._words("source", "pair", place))
        subprocess.run(pairing, input=code, text=True, check=True, capture_output=True)
        words = self._words("source", "mirror", source, f"{place}:{target}", "--json")
        self._source = self._run("source", *words)
        until("the first pass", self.in_sync, 1800)

    def status(self) -> RuleReport | None:
        """The report of its rule; None while there is none."""
        reports = rpc.status(self._homes["source"] / "var" / "run")
        return reports[0] if len(reports) == 1 and reports[0].rule else None

    def in_sync(self) -> bool:
        if self._source is not None and self._source.ended:
            raise SystemExit(f"i2node has ended: {self._source.log.read_text()[-2000:]}")
        report = self.status()
        return report is not None and report.in_sync


class Lsyncd(_Pair):
    """lsyncd to an rsync daemon. held: it is to react to writes of files that stay open, which it
    does not do unless told."""

    needs = ("lsyncd", "rsync")

    def __init__(self, ring: Arena, delay: int, held: bool = False) -> None:
        super().__init__(ring, f"lsyncd{delay}")
        self.label = f"lsyncd, delay {delay}"
        self._delay = delay
        self._mode = "CloseWrite or Modify" if held else "CloseWrite"

    def start(self, source: Path, target: Path) -> None:
        daemon = self._area / "rsyncd.conf"
        daemon.write_text(
            "uid = 0\ngid = 0\nuse chroot = yes\nmunge symlinks = no\n"
            f"[m]\npath = {target}\nread only = no\n"
        )
        words = ("rsync", "--daemon", "--no-detach", "--port", RSYNC_PORT, f"--config={daemon}")
        self._target = self._run("target", *words)
        self._target.listens(RSYNC_PORT)
        config = self._area / "lsyncd.lua"
        config.write_text(
            f'settings {{ nodaemon = true, inotifyMode = "{self._mode}" }}\n'
            f'sync {{ default.rsync, source = "{source}", delay = {self._delay},\n'
            f'  target = "rsync://{self._ring.hosts.target.address}:{RSYNC_PORT}/m/",\n'
            "  rsync = { archive = true, hard_links = true, acls = true, xattrs = true,\n"
            # Else rsync takes what was rewritten within a second, at its old size, for unchanged.
            '    _extra = { "--modify-window=-1" } } }\n'
        )
        self._source = self._run("source", "lsyncd", config)
        self._says(self._source, "finished.")


class Syncthing(_Pair):
    """Syncthing with its watcher at the shortest delay that it takes, no scan from time to time,
    nobody asked and nothing told outside."""

    needs = ("syncthing",)
    label = "Syncthing"

    def __init__(self, ring: Arena) -> None:
        super().__init__(ring, "syncthing")

    def start(self, source: Path, target: Path) -> None:
        homes = {host: self._area / host for host in ("source", "target")}
        names: dict[str, str] = {}
        for host, home in homes.items():
            shutil.rmtree(home, ignore_errors=True)
            # Else it asks for free ports, and makes a folder in the user's home.
            make = ("generate", f"--home={home}", "--no-default-folder", "--skip-port-probing")
            self._told(host, *make)
            names[host] = self._told(host, f"--home={home}", "--device-id").strip()
        for host, tree in (("target", target), ("source", source)):
            (tree / MARKER).mkdir(exist_ok=True)
            self._configure(host, homes[host] / "config.xml", tree, names)
            program = self._run(
                host,
                # As if by another one, which it would start otherwise, and be two.
                *("env", "STMONITORED=yes", "syncthing", "serve", f"--home={homes[host]}"),
                *("--no-browser", "--no-restart", "--no-upgrade"),
            )
            if host == "target":
                self._target = program
                program.listens(SYNCTHING_PORT)
            else:
                self._source = program
                self._says(program, "Established secure connection")
                self._says(program, "Completed initial scan")

    def _told(self, host: str, *words: str) -> str:
        whole = self._ring.inside(host, "syncthing", *words)
        done = subprocess.run(whole, capture_output=True, text=True, check=True)
        return done.stdout

    def _configure(self, host: str, file: Path, tree: Path, names: dict[str, str]) -> None:
        config = xml.parse(file)
        root = config.getroot()
        settings = {
            "globalAnnounceEnabled": "false",
            "localAnnounceEnabled": "false",
            "relaysEnabled": "false",
            "natEnabled": "false",
            "crashReportingEnabled": "false",
            "startBrowser": "false",
            "urAccepted": "-1",
            "autoUpgradeIntervalH": "0",
            "stunKeepaliveStartS": "0",
            "reconnectionIntervalS": "1",
            "setLowPriority": "false",
            "listenAddress": f"tcp://{self._address(host)}:{SYNCTHING_PORT}",
        }
        for key, value in settings.items():
            _child(_child(root, "options"), key).text = value
        _child(root, "gui").set("enabled", "false")
        for device in root.findall("device"):
            root.remove(device)
        kind = "sendonly" if host == "source" else "receiveonly"
        folder = xml.SubElement(
            root,
            "folder",
            {
                "id": "m",
                "path": str(tree),
                "type": kind,
                "rescanIntervalS": "0",
                "fsWatcherEnabled": "true",
                "fsWatcherDelayS": "1",
            },
        )
        xml.SubElement(folder, "markerName").text = MARKER
        for other, name in names.items():
            device = xml.SubElement(root, "device", {"id": name, "name": other})
            address = f"tcp://{self._address(other)}:{SYNCTHING_PORT}"
            xml.SubElement(device, "address").text = address
            xml.SubElement(folder, "device", {"id": name})
        config.write(file)

    def _address(self, host: str) -> str:
        found: str = getattr(self._ring.hosts, host).address
        return found


def _child(node: xml.Element, name: str) -> xml.Element:
    found = node.find(name)
    assert found is not None, f"Syncthing's configuration has no {name}"
    return found


Enlist = Callable[[Arena, bool], Follower]
"""Makes one, told whether the case has files that stay open."""

FOLLOWERS: dict[str, Enlist] = {
    "i2node": lambda ring, held: Ours(ring),
    "lsyncd1": lambda ring, held: Lsyncd(ring, 1, held),
    "lsyncd0": lambda ring, held: Lsyncd(ring, 0, held),
    "syncthing": lambda ring, held: Syncthing(ring),
}
