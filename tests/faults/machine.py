"""The target's machine: its disk, which forgets and fails (drive.py), and its boots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ends import NotSettledError, until

from disks import MAKERS


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)


class Disk:
    """One of a kind of file system, mounted at `at`; `make` gives it."""

    def __init__(self, kind: str, place: Path, at: Path, mib: int) -> None:
        self.kind, self.at = kind, at
        self._file = place / "drive"
        self._file.touch()
        self._loop = ""
        words = [sys.executable, str(Path(__file__).with_name("drive.py")), str(self._file)]
        self._server = subprocess.Popen(
            [*words, str(mib << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask("stats")

    def ask(self, what: str, **more: object) -> dict[str, int]:
        """A command to the drive, and its answer."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._server.stdin.flush()
        answer: dict[str, int] = json.loads(self._server.stdout.readline())
        return answer

    def plug(self, make: bool = False) -> None:
        """Mounts it, which replays its journal; make: a new file system first."""
        found = _run("losetup", "--find", "--show", self._file)
        if found.returncode:
            pytest.skip(f"no loop device: {found.stderr}")
        self._loop = found.stdout.strip()
        if make and (made := _run(*MAKERS[self.kind], self._loop)).returncode:
            pytest.skip(f"no {self.kind} here: {made.stderr}")
        done = _run("mount", self._loop, self.at)
        assert done.returncode == 0, done.stderr

    def check(self) -> None:
        """Between `unplug` and `plug`: repairs what errors left unsound, as a boot does."""
        if self.kind == "ext4":
            loop = _run("losetup", "--find", "--show", self._file).stdout.strip()
            _run("e2fsck", "-fy", loop)
            _run("losetup", "--detach", loop)
            until("the device to go", lambda: not _run("losetup", "-n", "-j", self._file).stdout)

    def unplug(self) -> None:
        """Unmounts, whoever has it open still; returns when the device is gone."""
        _run("umount", "--lazy", self.at)
        _run("losetup", "--detach", self._loop)
        until("the loop device to go", lambda: not _run("losetup", "-n", "-j", self._file).stdout)

    def cut(self, seed: str = "", lose: bool = False) -> dict[str, int]:
        """The power goes: from now on nothing reaches it. lose: all that it was not made to keep.
        Tells how many writes were under way, and how many of them it kept."""
        return self.ask("cut", seed=seed, lose=lose)

    def close(self) -> None:
        self.ask("on")
        # While a device stands on a drive that is gone, mkfs.btrfs makes nothing anywhere.
        with suppress(NotSettledError):
            self.unplug()
        _run("umount", "--lazy", self._file)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


@contextmanager
def plugged(kind: str, place: Path, mib: int, at: str = "rooms") -> Iterator[Disk]:
    """A new disk where a Ground in this place keeps its rooms, or elsewhere in it."""
    (place / at).mkdir()
    disk = Disk(kind, place, place / at, mib)
    try:
        disk.plug(make=True)
        yield disk
    finally:
        disk.close()


class Process:
    """A node as a process of its own, with an environment of its own; otherwise as a Child."""

    def __init__(
        self,
        log: Path,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """through: the command that it is run by."""
        # With the test it goes too.
        words = ["setpriv", "--pdeathsig", "KILL", *through, sys.executable, "-m", "i2node"]
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                [*words, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        return self._process.wait(seconds)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait(30)


def booted(place: Path, *arguments: str, fresh: bool = True) -> Process:
    """An agent on a machine that was started anew: the kernel tells another boot. fresh: not the
    one that another agent was started after."""
    boot = place / "boot_id"
    if fresh:
        boot.write_text(f"{uuid.uuid4()}\n")
    script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id; shift; exec "$@"'
    apart = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", str(boot)]
    return Process(place / "there.log", arguments, None, apart)
