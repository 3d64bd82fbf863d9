"""The packages as they are built, installed, run, installed anew and taken away."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpmroot import HOUSE, PYTHON, Machine, until

from i2node import __version__ as VERSION

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="installs packages: needs root"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not to be had here"),
]
INIT = "/etc/rc.d/init.d/i2node"
BOUNDS = "/etc/sysctl.d/90-i2node.conf"
CONTROLLER = "/etc/rc.d/init.d/i2node-controller"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine")) as there:
        yield there


def asked(package: Path, *words: str) -> list[str]:
    return subprocess.check_output(["rpm", "-qp", *words, package], text=True).splitlines()


def listed(package: Path) -> dict[str, tuple[str, str]]:
    """Of each file its mode and owner, and the letters of what rpm takes it for."""
    form = (
        "[%{FILENAMES}\t%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME}\t%{FILEFLAGS:fflags}\n]"
    )
    found = (line.split("\t") for line in asked(package, "--qf", form))
    return {name: (mode, flags) for name, mode, flags in found}


def test_what_is_in_the_packages(built):
    assert set(built) == {"i2node", "i2node-controller"}
    agent, controller = listed(built["i2node"]), listed(built["i2node-controller"])
    assert not set(agent) & set(controller)
    expected = {
        "/etc/sdata": ("drwx------", ""),
        "/etc/sdata/i2node.toml": ("-rw-r--r--", "cn"),
        "/etc/sdata/i2port.conf": ("-rw-r--r--", "cn"),
        "/etc/sdata/scripts": ("drwx------", ""),
        "/etc/sysctl.d/90-i2node.conf": ("-rw-r--r--", "cng"),
        "/etc/rc.d/init.d/i2node": ("-rwxr-xr-x", ""),
        "/usr/lib/systemd/system/i2node.service": ("-rw-r--r--", ""),
        "/usr/local/sdata/i2node/bin/i2node": ("-rwxr-xr-x", ""),
        "/var/i2data": ("drwx------", ""),
        "/var/i2data/cache": ("drwx------", ""),
        "/var/i2data/log": ("drwxr-x---", ""),
    }
    for name, (mode, flags) in expected.items():
        assert agent[name] == (f"{mode} root:root", flags), name
    assert controller["/etc/sdata/controller"] == ("drwx------ root:root", "")
    assert controller["/etc/sdata/controller/controller.toml"] == ("-rw------- root:root", "cn")
    site = f"/usr/local/sdata/i2node/lib/{Path(PYTHON).name}/site-packages"
    assert f"{site}/i2node/node/daemon.py" in agent
    assert f"{site}/i2node/controller/server.py" in controller
    assert any(name.startswith(f"{site}/fastapi/__pycache__/") for name in controller)
    for name, (mode, _) in (agent | controller).items():
        assert (mode.endswith(" root:root") and mode[8] == "-") or mode[0] == "l", f"{name}: {mode}"
    # Only what hosts look for in places of their own is outside of what the documents name.
    ours = ("/etc/sdata", "/usr/local/sdata", "/var/i2data")
    files = {name for name, (mode, _) in agent.items() if mode[0] != "d"}
    others = {name for name in files if not name.startswith((*ours, "/usr/share/"))}
    assert {os.path.dirname(name) for name in others} == {
        "/etc/logrotate.d",
        "/etc/rc.d/init.d",
        "/etc/sysconfig",
        "/etc/sysctl.d",
        "/usr/bin",
        "/usr/lib/firewalld/services",
        "/usr/lib/systemd/system",
    }


def test_what_the_packages_need_and_give(built):
    for name, package in built.items():
        needed = asked(package, "--requires")
        provided = {line for line in asked(package, "--provides") if not line.startswith("config(")}
        bundled = {line for line in provided if line.startswith("bundled(")}
        assert len(bundled) > 5
        assert bundled == set(map(as_bundled, distributions(package) - {("i2node", VERSION)}))
        assert {line.split()[0] for line in provided - bundled} <= {
            name,
            f"{name}({os.uname().machine.replace('_', '-')})",
        }
        # What a wheel brings with it, nobody else has to have.
        assert not [word for word in needed if re.match(r"lib.*-[0-9a-f]{8}\.so", word)]
        assert "libc.so.6()(64bit)" in needed
        assert asked(package, "--qf", "%{VERSION}\n") == [VERSION]
        licenses = asked(package, "--qf", "%{LICENSE}\n")[0].split(" AND ")
        assert {"Apache-2.0", "BSD-3-Clause", "MIT"} <= set(licenses)
    assert PYTHON in asked(built["i2node"], "--requires")
    release = asked(built["i2node"], "--qf", "%{VERSION}-%{RELEASE}\n")[0]
    assert f"i2node = {release}" in asked(built["i2node-controller"], "--requires")


def distributions(package: Path) -> set[tuple[str, str]]:
    """Name and version of the Python distributions in it, as their own files say."""
    places = (re.search(r"/([^/]+)-([^/]+)\.dist-info/METADATA$", name) for name in listed(package))
    return {(found[1], found[2]) for found in places if found}


def as_bundled(distribution: tuple[str, str]) -> str:
    name, version = distribution
    return f"bundled(python3dist({re.sub('[-_.]+', '-', name).lower()})) = {version}"


def test_the_life_of_an_installation(built, machine):
    installs(built, machine)
    units(machine)
    runs(machine)
    controls(machine)
    installs_anew(built, machine)
    leaves(machine)


def installs(built, machine: Machine) -> None:
    machine.rpm("-i", "--nodeps", *machine.takes(built.values()))
    assert machine.rpm("-Va", "--nodeps") == ""
    assert machine.does("i2node", "version") == f"i2node {VERSION}\n"
    assert "sound" in machine.does("i2node", "check-config")
    # Enabled, not started: what it may write to is to be said first.
    assert machine.tries(INIT, "status").returncode == 3
    if shutil.which("systemctl"):
        wanted = machine.sees("etc/systemd/system/multi-user.target.wants")
        assert {path.name for path in wanted.iterdir()} >= {
            "i2node.service",
            "i2node-controller.service",
        }
    bounds = machine.sees(BOUNDS).read_text()
    assert re.search(r"^fs\.inotify\.max_user_watches = \d{5,}$", bounds, re.MULTILINE)
    assert machine.does("/etc/init.d/i2node", "condrestart") == ""


def units(machine: Machine) -> None:
    if shutil.which("systemd-analyze") is None:
        return
    for name in ("i2node", "i2node-controller"):
        unit = f"/usr/lib/systemd/system/{name}.service"
        done = machine.tries("systemd-analyze", "verify", "--man=no", unit)
        ours = [line for line in done.stderr.splitlines() if "i2node" in line]
        assert (done.returncode, ours) == (0, []), done.stderr


def runs(machine: Machine) -> None:
    """Every exit status of the LSB that an installed, configured service can have; those of a
    broken one are in test_init.py."""

    def init(*words: str) -> int:
        return machine.tries(INIT, *words).returncode

    config = machine.sees("etc/sdata/i2node.toml")
    config.write_text('allow_roots = ["/srv/backup"]\n')
    machine.sees("etc/sdata/i2port.conf").write_text("rpc = 26899\n")
    machine.does("mkdir", "-p", "/srv/backup", "/var/lock/subsys")
    assert (init("status"), init("reload"), init("condrestart"), init("stop")) == (3, 7, 0, 0)
    assert (init(), init("fly")) == (2, 2)
    nobody = machine.tries("setpriv", "--reuid=65534", "--clear-groups", INIT, "start")
    assert nobody.returncode == 4
    assert init("start") == 0
    assert init("start") == 0
    assert init("status") == 0
    log = machine.sees("var/i2data/log/i2node.log")
    assert " agent-listens " in log.read_text() and "port=26899" in log.read_text()
    assert oct(log.stat().st_mode)[-3:] == "640"
    machine.mirrors("first")
    pid = pid_of(machine)
    assert init("reload") == 0
    until("reloaded", lambda: " agent-reloaded " in log.read_text())
    assert pid_of(machine) == pid and init("status") == 0
    machine.mirrors("second")
    config.write_text("nonsense = 1\n")
    assert (init("reload"), init("restart"), init("force-reload")) == (6, 6, 6)
    assert init("status") == 0 and pid_of(machine) == pid
    config.write_text('allow_roots = ["/srv/backup"]\n')
    machine.does("kill", "-KILL", pid)
    until("dead", lambda: init("status") == 1)
    machine.does("rm", "/var/run/i2node.pid")
    assert init("status") == 2
    assert init("restart") == 0
    machine.mirrors("third")
    assert init("stop") == 0 and init("status") == 3
    assert "i2node" not in machine.does("ps", "-eo", "args").replace("ps -eo", "")
    config.write_text("nonsense = 1\n")
    assert init("start") == 6
    config.write_text('allow_roots = ["/srv/backup"]\n')


def pid_of(machine: Machine) -> int:
    return int(machine.sees("run/i2node.pid").read_text())


def controls(machine: Machine) -> None:
    def init(word: str) -> int:
        return machine.tries(CONTROLLER, word).returncode

    assert (init("status"), init("start"), init("status"), init("reload")) == (3, 0, 0, 3)
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:58080/api/docs').status)"
    assert machine.does(PYTHON, "-c", ask) == "200\n"
    # The first password is nobody's until somebody asks for one.
    assert "password" not in machine.sees("var/i2data/log/i2node-controller.log").read_text()
    told = machine.does("i2node", "controller", "user", "password", "admin")
    assert told.startswith("user admin, password ")
    assert (init("condrestart"), init("stop"), init("status")) == (0, 0, 3)


def installs_anew(built, machine: Machine) -> None:
    """What an upgrade does: the same scriptlets, with the same numbers."""
    machine.does(INIT, "start")
    pid, kept = pid_of(machine), keeps(machine)
    machine.rpm("-U", "--nodeps", "--replacepkgs", *machine.takes(built.values()))
    assert pid_of(machine) != pid and machine.tries(INIT, "status").returncode == 0
    assert machine.tries(CONTROLLER, "status").returncode == 3
    assert keeps(machine) == kept
    machine.mirrors("fourth")


def keeps(machine: Machine) -> dict[str, bytes]:
    """What is the administrator's or the node's own."""
    names = ("i2node.toml", "i2port.conf", "i2id.conf")
    files = [machine.sees(f"etc/sdata/{name}") for name in names]
    files += sorted(machine.sees("etc/sdata").rglob("*.pem"))
    assert len(files) > len(names)
    return {path.name: path.read_bytes() for path in files}


def leaves(machine: Machine) -> None:
    """Programs and services go; what is the administrator's or of the mirrors stays."""
    pid, kept = pid_of(machine), keeps(machine)
    state = {path.name for path in machine.sees("var/i2data").iterdir()}
    done = machine.tries("rpm", "--dbpath", "/var/lib/rpm", "-e", "i2node", "i2node-controller")
    assert done.returncode == 0, done.stderr
    assert not machine.sees(f"proc/{pid}").exists()
    for gone in ("usr/local/sdata", "usr/bin/i2node", INIT, "etc/init.d/i2node", BOUNDS):
        assert not os.path.lexists(machine.sees(gone)), gone
    assert not any(machine.sees("etc/systemd/system").rglob("i2node*"))
    assert machine.sees(f"{BOUNDS}.rpmsave").exists()
    for saved in ("i2node.toml", "i2port.conf"):
        path = machine.sees(f"etc/sdata/{saved}.rpmsave")
        path.rename(path.with_suffix(""))
    assert keeps(machine) == kept
    assert {path.name for path in machine.sees("var/i2data").iterdir()} >= state - {"run", "cache"}
    assert machine.sees("srv/backup/data/deep/file").read_text() == "fourth"


def test_rpmlint_finds_nothing_that_is_not_explained(built):
    """packaging/rpmlint.toml has the explanations."""
    if shutil.which("rpmlint") is None:
        pytest.skip("rpmlint is not to be had here")
    words = ["rpmlint", "--config", HOUSE / "packaging" / "rpmlint.toml"]
    done = subprocess.run([*words, *built.values()], capture_output=True, text=True, check=False)
    found = re.findall(r"^\S+: [EW]: .*", done.stdout, re.MULTILINE)
    assert (found, done.returncode) == ([], 0), done.stdout + done.stderr
