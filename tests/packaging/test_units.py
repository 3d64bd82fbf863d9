"""The packages on a host that systemd runs: its units do what they say, and agree with the init
scripts. test_rpm.py has them on one without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpmroot import PYTHON, QUERY, SYSTEMD, Booted, cgroups, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="installs packages: needs root"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not to be had here"),
    pytest.mark.skipif(not os.path.exists(SYSTEMD), reason="systemd is not to be had here"),
    pytest.mark.skipif(cgroups() is None, reason="no cgroups of version 2 can be made here"),
]
UNITS = ("i2node", "i2node-controller")
SOUND = 'allow_roots = ["/srv/backup"]\n'
WRONG = "nonsense = 1\n"


class Host(Booted):
    """What systemd says there of a service, and what changes it."""

    def shows(self, unit: str, what: str) -> str:
        return self.does("systemctl", "show", "--value", f"--property={what}", unit).strip()

    def pid(self, unit: str = "i2node") -> str:
        return self.shows(unit, "MainPID")

    def systemctl(self, *words: str) -> int:
        return self.tries("systemctl", *words).returncode

    def init(self, word: str, unit: str = "i2node") -> int:
        return self.tries(f"/etc/rc.d/init.d/{unit}", word).returncode

    def journal(self, unit: str) -> str:
        return self.does("journalctl", "--no-pager", "--unit", unit)

    def configures(self, text: str) -> None:
        self.sees("etc/sdata/i2node.toml").write_text(text)

    def changes_unit(self, settings: str) -> None:
        """For this boot; what waits for seconds by the unit does not in a test."""
        place = self.sees("run/systemd/system/i2node.service.d")
        place.mkdir(parents=True, exist_ok=True)
        (place / "test.conf").write_text(f"[Service]\nRestartSec=100ms\n{settings}")
        self.does("systemctl", "daemon-reload")

    def comes_back(self, pid: str) -> None:
        until("started anew", lambda: self.pid() not in ("0", pid) and self.init("status") == 0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as there:
        yield there


def test_the_life_of_the_services(built, host):
    host.rpm("-i", "--nodeps", *host.takes(built.values()))
    for unit in UNITS:
        assert host.systemctl("is-enabled", unit) == 0
        assert (host.systemctl("status", unit), host.init("status", unit)) == (3, 3)
    host.sees("srv/backup").mkdir()
    host.sees("etc/sdata/i2port.conf").write_text("port = 26899\n")
    host.configures(SOUND)
    starts(host)
    reloads(host)
    a_wrong_configuration_ends_nothing(built, host)
    comes_back_by_itself(host)
    is_not_started_in_vain(host)
    controls(host)
    is_installed_anew(built, host)
    leaves(host)


def starts(host: Host) -> None:
    """It is said to be active when it answers, not before."""
    assert host.systemctl("start", "i2node") == 0
    assert host.does("i2node", "status") and " agent-listens " in host.journal("i2node")
    assert 'Status: "port 26899; rules: none"' in host.does("systemctl", "status", "i2node")
    pid = host.pid()
    assert host.init("status") == 0 and host.init("start") == 0 and host.pid() == pid
    host.mirrors("first")


def reloads(host: Host) -> None:
    pid = host.pid()
    host.configures(f"{SOUND}heartbeat_s = 1\n")
    assert host.systemctl("reload", "i2node") == 0
    until("reloaded", lambda: host.journal("i2node").count(" agent-reloaded ") == 1)
    host.configures(f"{SOUND}heartbeat_s = 2\n")
    assert host.init("reload") == 0
    until("reloaded", lambda: host.journal("i2node").count(" agent-reloaded ") == 2)
    until("ready again", lambda: host.shows("i2node", "ActiveState") == "active")
    assert host.pid() == pid


def a_wrong_configuration_ends_nothing(built: dict[str, Path], host: Host) -> None:
    """Told by the init script, that is, and by an upgrade: `systemctl restart` ends it first."""
    pid = host.pid()
    host.configures(WRONG)
    assert host.systemctl("reload", "i2node") != 0 and host.init("reload") != 0
    assert (host.init("restart"), host.init("condrestart"), host.init("force-reload")) == (6, 6, 6)
    package = host.takes([built["i2node"]])
    done = host.tries(*QUERY, "-U", "--nodeps", "--replacepkgs", *package)
    assert done.returncode == 0 and "was not restarted" in done.stderr
    assert "unknown key 'nonsense'" in done.stderr
    assert host.pid() == pid and host.init("status") == 0
    host.configures(SOUND)


def comes_back_by_itself(host: Host) -> None:
    """From a kill, and from a hang, of which the watchdog knows by the agent's silence alone."""
    host.changes_unit("WatchdogSec=3\nTimeoutAbortSec=100ms\n")
    assert host.init("restart") == 0
    pid = host.pid()
    fed = host.shows("i2node", "WatchdogTimestampMonotonic")
    until("feeds", lambda: host.shows("i2node", "WatchdogTimestampMonotonic") != fed)
    host.does("kill", "-STOP", pid)
    host.comes_back(pid)
    assert "Watchdog timeout" in host.journal("i2node")
    host.changes_unit("")
    pid = host.pid()
    host.does("kill", "-KILL", pid)
    host.comes_back(pid)


def is_not_started_in_vain(host: Host) -> None:
    """A configuration that is wrong now is as wrong a moment later."""
    assert host.systemctl("stop", "i2node") == 0 and host.init("status") == 3
    host.configures(WRONG)
    assert host.systemctl("start", "i2node") != 0 and host.init("start") != 0
    assert (
        host.shows("i2node", "ActiveState") == "failed" and host.shows("i2node", "NRestarts") == "0"
    )
    assert "unknown key 'nonsense'" in host.journal("i2node")
    host.configures(SOUND)
    assert host.init("start") == 0 and host.systemctl("is-active", "i2node") == 0


def controls(host: Host) -> None:
    unit = "i2node-controller"
    assert host.init("start", unit) == 0 and host.systemctl("is-active", unit) == 0
    assert 'Status: "ports 58080, 58086, 58084"' in host.does("systemctl", "status", unit)
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:58080/api/docs').status)"
    assert host.does(PYTHON, "-c", ask) == "200\n"
    # It has a first password, which is told to nobody: nobody may be there to read it.
    assert " controller-listens " in host.journal(unit)
    assert "password" not in host.does("journalctl", "--no-pager")
    assert host.systemctl("stop", unit) == 0 and host.init("status", unit) == 3


def is_installed_anew(built: dict[str, Path], host: Host) -> None:
    """What an upgrade does: the same scriptlets, with the same numbers."""
    pid = host.pid()
    host.rpm("-U", "--nodeps", "--replacepkgs", *host.takes(built.values()))
    assert host.pid() not in ("0", pid) and host.init("status") == 0
    assert host.pid("i2node-controller") == "0"
    host.mirrors("second")


def leaves(host: Host) -> None:
    assert host.systemctl("start", "i2node-controller") == 0
    pids = [host.pid(unit) for unit in UNITS]
    host.does(*QUERY, "-e", *UNITS)
    assert not any(host.sees(f"proc/{pid}").exists() for pid in pids)
    for unit in UNITS:
        assert host.shows(unit, "LoadState") == "not-found"
    assert not any(host.sees("etc/systemd/system").rglob("i2node*"))
    assert host.sees("srv/backup/data/deep/file").read_text() == "second"
