"""The packages, and a machine to install them on: this one's file system seen through an overlay,
with process ids, network, devices and an rpm database of its own. Nothing of it is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[2]
PATIENCE_S = 60.0
PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
SYSTEMD = "/usr/lib/systemd/systemd"
QUERY = ("rpm", "--dbpath", "/var/lib/rpm")
_BASE = sys._base_executable  # type: ignore[attr-defined]

_ROOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs {area}
mkdir {area}/upper {area}/work {area}/root
mount -t overlay -o lowerdir=/,upperdir={area}/upper,workdir={area}/work overlay {area}/root
cd {area}/root
for place in dev run tmp srv; do mount -t tmpfs -o mode=755 tmpfs $place; done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mkdir dev/pts dev/shm run/lock
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
ip link set lo up
rm -rf etc/sdata var/i2data usr/local/sdata var/lib/rpm etc/systemd/system/multi-user.target.wants
mkdir -p var/lib/rpm etc/init.d
[ -e .{python} ] || ln -s {base} .{python}
{prepares}
mkdir run/before
pivot_root . run/before
umount -l run/before
exec {first}
"""


def until(what: str, holds: Callable[[], Any]) -> None:
    """Waits for it; AssertionError when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Machine:
    """A context. `sees` gives what of it is reached from here."""

    def __init__(self, area: Path) -> None:
        words = {"area": area, "python": PYTHON, "base": _BASE}
        script = _ROOT.format(prepares=self.prepares(), first=self.first(), **words)
        apart = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        self._anchor = subprocess.Popen(
            [*apart, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        children = Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children")
        until("it has a first process", children.read_text)
        self._first = children.read_text().strip()
        self._inside = ["nsenter", "-t", self._first, "--all", "--root", "--wd"]
        try:
            self.comes_up()
        except BaseException:
            self.__exit__()
            raise

    def prepares(self) -> str:
        """Lines of shell that are run in the root of its file system before that is the root."""
        return ""

    def first(self) -> str:
        """Its first process, as the shell takes it. This one takes note of the end of those whose
        parents have ended."""
        return f"""{_BASE} -c 'import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()'"""

    def comes_up(self) -> None:
        """Waits until the first process says so."""
        assert self._anchor.stdout is not None and self._anchor.stdout.readline() == "up\n"

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(int(self._first), signal.SIGKILL)
        self._anchor.communicate()

    def tries(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A command there, with what a service is started with."""
        return subprocess.run(
            [*self._inside, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def does(self, *words: object) -> str:
        """What a command prints that has to succeed."""
        done = self.tries(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def rpm(self, *words: object) -> str:
        """Of rpm with the database of that machine; it says nothing of its own unless asked."""
        done = self.tries(*QUERY, *words)
        # Debian's rpm has a word to say before each installation.
        lines = [line for line in done.stderr.splitlines() if not line.startswith("rpm: ")]
        assert (done.returncode, lines) == (0, []), f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def takes(self, files: Collection[Path]) -> list[str]:
        """Copies of files of this machine there."""
        for file in files:
            shutil.copy(file, self.sees(f"tmp/{file.name}"))
        return [f"/tmp/{file.name}" for file in files]

    def mirrors(self, text: str) -> None:
        """From another home of that machine, over the wire, to an agent at port 26899 that takes
        mirrors below /srv/backup."""
        self.sees("srv/data/deep").mkdir(parents=True, exist_ok=True)
        self.sees("srv/data/deep/file").write_text(text)
        code, other = self.sees("srv/code"), ("i2node", "--home", "/srv/wk")
        if not code.exists():
            code.touch(0o600)
            code.write_text(self.does("i2node", "code"))
            self.does(*other, "pair", "127.0.0.1:26899", "--code-file", "/srv/code")
        self.does(*other, "mirror", "--once", "/srv/data", "127.0.0.1:26899:/srv/backup/data")
        assert self.sees("srv/backup/data/deep/file").read_text() == text

    def sees(self, path: str) -> Path:
        """A file there, from here."""
        return Path(f"/proc/{self._first}/root/{path.lstrip('/')}")

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.does("i2node", "status", "--json"))
        return found


class Booted(Machine):
    """One whose first process is systemd, with a journal and none of this machine's services."""

    def __init__(self, area: Path) -> None:
        place = cgroups()
        assert place is not None, "no cgroups here"
        self._cgroup = place / f"i2node-test-{os.getpid()}"
        self._cgroup.mkdir()
        super().__init__(area)

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        for directory, _, _ in os.walk(self._cgroup, topdown=False):
            os.rmdir(directory)

    def prepares(self) -> str:
        # What this machine starts, and what it has once (/proc/sys), is not that one's.
        return f"""
units=usr/lib/systemd/system
rm -rf etc/systemd/system usr/lib/systemd/system-generators $units/*.wants
rm -rf etc/fstab etc/init.d var/log/journal
mkdir -p etc/systemd/system etc/init.d $units/sockets.target.wants
ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket $units/sockets.target.wants
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
echo $$ >{self._cgroup}/cgroup.procs
"""

    def first(self) -> str:
        return f"""unshare --cgroup sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=other {SYSTEMD} --unit=multi-user.target --log-target=journal'"""

    def comes_up(self) -> None:
        comm = Path(f"/proc/{self._first}/comm")
        until("systemd is its first process", lambda: comm.read_text() == "systemd\n")
        until(
            "systemd has booted",
            lambda: self.tries("systemctl", "is-active", "multi-user.target").returncode == 0,
        )


def cgroups() -> Path | None:
    """Where cgroups of version 2 are made here."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    found = (Path(at) for _, at, kind, *_ in mounts if kind == "cgroup2" and os.access(at, os.W_OK))
    return next(found, None)


def packages(out: Path, version: str = "", *options: str) -> dict[str, Path]:
    """Builds them, with the version of this tree or another one, and options of rpmbuild: name to
    file."""
    # Compiles what is the same in both once, where ccache is to be had.
    cache = {"CCACHE_DIR": str(HOUSE / "build" / "ccache"), "CCACHE_NOHASHDIR": "1"}
    done = subprocess.run(
        [HOUSE / "packaging" / "make-rpm", sys.executable, out, version, *options],
        env=os.environ | cache | {"PATH": f"/usr/lib/ccache:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return named(out)


def named(out: Path) -> dict[str, Path]:
    """The packages in a directory: name to file."""
    made = sorted(path for path in out.glob("*.rpm") if not path.name.endswith(".src.rpm"))
    names = ["rpm", "-qp", "--qf", "%{NAME}\n", *made]
    return dict(zip(subprocess.check_output(names, text=True).split(), made, strict=True))
