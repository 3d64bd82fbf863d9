"""The packages, and a machine to install them on: this one's file system seen through an overlay,
with process ids, network and an rpm database of its own. Nothing of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[2]
PATIENCE_S = 60.0

# The first process of the machine: takes note of the end of those whose parents have ended.
_ANCHOR = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs {area}
mkdir {area}/upper {area}/work {area}/root
mount -t overlay -o lowerdir=/,upperdir={area}/upper,workdir={area}/work overlay {area}/root
for place in run tmp srv; do mount -t tmpfs -o mode=755 tmpfs {area}/root/$place; done
mount -t proc proc {area}/root/proc
mount --rbind /dev {area}/root/dev
ip link set lo up
rm -rf {area}/root/etc/sdata {area}/root/var/i2data {area}/root/usr/local/sdata
rm -rf {area}/root/var/lib/rpm {area}/root/etc/systemd/system/multi-user.target.wants
mkdir -p {area}/root/var/lib/rpm {area}/root/etc/init.d {area}/root/usr/bin
[ -e {area}/root/{python} ] || ln -s {base} {area}/root/{python}
exec {base} -c 'import signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
while True:
    time.sleep(3600)'
"""

PYTHON = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
QUERY = ("rpm", "--dbpath", "/var/lib/rpm")


def until(what: str, holds: Callable[[], Any]) -> None:
    """Waits for it; AssertionError when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Machine:
    """A context. Files of it are reached below `root`."""

    def __init__(self, area: Path) -> None:
        base = sys._base_executable  # type: ignore[attr-defined]
        script = _ANCHOR.format(area=area, python=PYTHON, base=base)
        words = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c"]
        self._anchor = subprocess.Popen(
            [*words, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._anchor.stdout is not None and self._anchor.stdout.readline() == "up\n"
        children = f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children"
        self._first = Path(children).read_text().split()[0]
        self._area = area
        self._inside = ["nsenter", "-t", self._first, "--mount", "--pid", "--net"]
        self._inside += [f"--root={self.sees('')}", f"--wd={self.sees('')}"]

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

    def sees(self, path: str) -> Path:
        """A file there, from here."""
        return Path(f"/proc/{self._first}/root{self._area}/root/{path.lstrip('/')}")

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.does("i2node", "status", "--json"))
        return found


def packages(out: Path, version: str = "") -> dict[str, Path]:
    """Builds them, with the version of this tree or another one: name to file."""
    # One compiles what is the same in both once, where it is to be had.
    cache = {"CCACHE_DIR": str(HOUSE / "build" / "ccache"), "CCACHE_NOHASHDIR": "1"}
    done = subprocess.run(
        [HOUSE / "packaging" / "make-rpm", sys.executable, out, *([version] if version else [])],
        env=os.environ | cache | {"PATH": f"/usr/lib/ccache:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    made = sorted(path for path in out.glob("*.rpm") if not path.name.endswith(".src.rpm"))
    names = ["rpm", "-qp", "--qf", "%{NAME}\n", *made]
    return dict(zip(subprocess.check_output(names, text=True).split(), made, strict=True))
