"""Where contenders meet: two hosts with a cable, a fresh file system for each target, and a watch.

Wall time is that of the client; CPU and peak memory are those of the programs of each side with
their children, from start to end; bytes are counted on the cable, both ways, headers included.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "e2e"))

from hosts import Hosts, must, rsync


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and peak resident bytes of one side."""

    cpu: float
    peak: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One run: seconds, each side, bytes on the cable, and seconds until the first MiB was."""

    wall: float
    source: Usage
    target: Usage
    wire: int
    first: float = 0.0

    @property
    def cpu(self) -> float:
        return self.source.cpu + self.target.cpu


class Running:
    """A program whose use of the machine is known once it has ended."""

    left: ClassVar[set[Running]] = set()
    """Those that were not waited for, after an error or Ctrl-C."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        self.left.add(self)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def listens(self, port: int) -> None:
        """Returns when somebody in the program's network listens there."""
        wanted = f":{port:04X} 00000000:0000 0A"
        deadline = time.monotonic() + 30
        while wanted not in Path(f"/proc/{self.process.pid}/net/tcp").read_text():
            if time.monotonic() > deadline or self.ended:
                raise SystemExit(f"nobody listens on port {port}: {self.log.read_text()}")
            time.sleep(0.01)

    @property
    def ended(self) -> bool:
        """Whether it has, by itself; what it used can still be asked for."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, how) is not None

    def end(self) -> Usage:
        self.process.send_signal(signal.SIGTERM)
        return self.wait(any_status=True)

    def wait(self, any_status: bool = False) -> Usage:
        _, status, used = os.wait4(self.process.pid, 0)
        self.left.discard(self)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode and not any_status:
            tail = self.log.read_text("utf-8", "replace")[-2000:]
            raise SystemExit(f"{self.process.args}: {self.process.returncode}\n{tail}")
        return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


class Arena:
    """The two hosts, and a directory that may be filled."""

    def __init__(self, area: Path) -> None:
        self.area = area
        self.hosts = Hosts(area / "hosts")
        self.holds: object = None
        """What the source directory was filled with."""

    def inside(self, host: str, *words: object) -> list[str]:
        """A command of one of the hosts, `source` or `target`."""
        space = getattr(self.hosts, host).space
        return ["nsenter", f"--net=/run/netns/{space}", *map(str, words)]

    def on_the_cable(self) -> int:
        return sum(self.hosts.cable())

    @contextlib.contextmanager
    def first_mib(self) -> Iterator[list[float]]:
        """Holds the seconds until a MiB was on the cable, once it was."""
        seen: list[float] = []
        before, began, over = self.on_the_cable(), time.perf_counter(), threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                if self.on_the_cable() - before >= 1 << 20:
                    seen.append(time.perf_counter() - began)
                    return

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def disk(self, name: str, size: int, inodes: int, kind: str = "ext4") -> Iterator[Path]:
        """A fresh file system on a loop mount: what was written and deleted before slows nobody.
        kind: ext4, or xfs, which can clone and makes inodes as it needs them."""
        image, mount = self.area / f"{name}.img", self.area / name
        mount.mkdir(exist_ok=True)
        with image.open("wb") as file:
            file.truncate(size)
        if kind == "ext4":
            features = ["-E", "lazy_itable_init=0,lazy_journal_init=0", "-N", inodes]
            must("mkfs.ext4", "-q", *features, image)
        else:
            must("mkfs.xfs", "-q", "-m", "reflink=1", image)
        # Past the page cache of the host: a target is cached once, and its sync is a sync.
        device = must("losetup", "--direct-io=on", "--find", "--show", image).strip()
        try:
            must("mount", device, mount)
            yield mount
        finally:
            for program in tuple(Running.left):
                program.process.kill()
                program.wait(any_status=True)
            subprocess.run(["umount", mount], capture_output=True, check=False)
            must("losetup", "--detach", device)
            image.unlink()


@contextlib.contextmanager
def arena(area: Path) -> Iterator[Arena]:
    """Wired; taken apart at the end."""
    made = Arena(area)
    try:
        made.hosts.wire()
        yield made
    finally:
        made.hosts.unwire()


def cool() -> None:
    """Nothing is in the page cache, nothing waits to be written."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def warm(root: Path) -> None:
    """Everything below root that fits is in the page cache."""
    os.sync()
    subprocess.run(f"tar -C '{root}' --sparse -cf - . | cat >/dev/null", shell=True, check=True)


def check_equal(source: Path, target: Path) -> None:
    if found := rsync(source, target):
        raise SystemExit(f"the trees differ:\n{found[:2000]}")
