"""Two hosts on disks of their own, and the ills that can befall them and be healed again.

The target stands on a drive that fails and forgets; the source on a file system of its own, which
can go and come back. An ill is a context: while it is entered, it lasts.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import shortages
from ends import NotSettledError, until
from ground import Ground
from injection import injected
from machine import Disk, Process, booted, plugged
from nursery import Nursery

from disks import disk
from inodes import unlock

SIZES = {"ext4": 64, "xfs": 320, "btrfs": 240}
SOURCE_MIB = 64
STATE_MIB = 24
CALLS = {
    "target": (
        *("openat", "openat2", "fsync", "fdatasync", "syncfs", "renameat", "renameat2", "linkat"),
        *("unlinkat", "pwrite64", "utimensat", "mkdirat", "fchownat", "fsetxattr", "ftruncate"),
        *("pread64", "read", "getdents64", "statx", "symlinkat", "fchmod"),
    ),
    "source": (
        *("openat", "openat2", "pread64", "read", "getdents64", "statx", "readlinkat"),
        *("fsync", "fdatasync", "pwrite64", "fgetxattr", "flistxattr"),
    ),
}
WHENS = ("1", "2..4", "3+7", "1+2")
ERRORS = {"target": ("EIO", "ENOSPC", "EROFS"), "source": ("EIO", "EACCES")}
OF_THE_DISK = ("full", "no_inodes", "over_quota", "read_only", "writes", "reads")
BRAKE_FLOOR = 10


class Frail(Ground):
    """`disk` is the target's. Whatever it takes away comes back with `heal`; close with `close`."""

    def __init__(self, place: Path, nursery: Nursery, engine: str, kind: str) -> None:
        place.mkdir(parents=True)
        self.kind = kind
        self._ills: dict[str, ExitStack] = {}
        self._undo = ExitStack()
        self._boot: list[str] = []
        with ExitStack() as undo:
            mount = undo.enter_context(disk("ext4", place, "", SOURCE_MIB))
            self.disk: Disk = undo.enter_context(plugged(kind, place, SIZES[kind]))
            self._image = place / "ext4.image"
            self._mount = mount
            # What stands there while it is not mounted: nothing of the tree.
            super().__init__(place, nursery, engine, mount / "source")
            for node in ("here", "there"):
                state = self.hosts.homes[node] / "var"
                undo.enter_context(_small(state))
            subprocess.run(["sync", "-f", str(self.rooms)], check=True)
            self._undo = undo.pop_all()
        self.hosts.patience = 180.0

    # ------------------------------------------------------------------ ills

    def ill(self) -> list[str]:
        return sorted(self._ills)

    def befall(self, what: str, rng: random.Random) -> str:
        """An ill begins: one of OF_THE_DISK, half_open or loss, source or target (their system
        calls), state. Gives how it is called; "": not this one now."""
        disk = set(OF_THE_DISK) & set(self._ills)
        if what in self._ills or (what in OF_THE_DISK and disk):
            return ""
        if (what, self.kind) in UNFIT:
            return ""
        name, ill = self._made(what, rng)
        held = ExitStack()
        try:
            held.enter_context(ill)
        except (NotSettledError, AssertionError, OSError):
            held.close()
            return ""
        self._ills[what] = held
        return name

    def _made(self, what: str, rng: random.Random) -> tuple[str, AbstractContextManager[object]]:
        if what in ("target", "source"):
            hosts = self.hosts
            victim = hosts.agent if what == "target" else hosts.mirror
            if victim is None or not victim.alive():
                return "", _nothing()
            call, when = rng.choice(CALLS[what]), rng.choice(WHENS)
            error = rng.choice(ERRORS[what])
            told = f"{call}:error={error}:when={when} at the {what}"
            log = hosts.place / f"strace-{what}"
            return told, injected(victim.pid, call, f"error={error}:when={when}", log)
        if what in ("writes", "reads"):
            return what, self._failing(what)
        if what == "state":
            node = rng.choice(("here", "there"))
            return f"state of {node} full", _filled(self.hosts.homes[node] / "var" / "ballast")
        if what == "half_open":
            return what, self._half_open()
        if what == "loss":
            return what, _loss()
        if what == "read_only":
            return what, self._read_only()
        return what, getattr(shortages, what)(self)

    def heal(self, what: str = "") -> None:
        """This ill ends, or all of them, and the target's disk is as good as it was."""
        for each in [what] if what else list(self._ills):
            held = self._ills.pop(each, None)
            if held is not None:
                held.close()
        if not set(OF_THE_DISK) & set(self._ills) and not self._sound():
            self.replug()

    def replug(self) -> None:
        """The target's disk is unmounted, checked and mounted, as nothing else helps one that has
        shut itself down."""
        self.hosts.kill_target()
        self.disk.unplug()
        self.disk.check()
        self.disk.plug()
        self.start_target()

    def _sound(self) -> bool:
        """Whether the target's disk takes what is written; one that saw an error may take nothing
        any more until it is mounted again."""
        probe = self.rooms / "ballast"
        try:
            with open(probe, "wb") as file:
                file.write(b"x" * 4096)
                os.fsync(file.fileno())
            probe.unlink()
        except OSError:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            return False
        return True

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        self.disk.ask("fail", **{what: True})
        try:
            yield
        finally:
            self.disk.ask("fail")

    @contextmanager
    def _half_open(self) -> Iterator[None]:
        """Both ends stand, and what they send comes to nobody."""
        self.hosts.relay.pause()
        try:
            yield
        finally:
            self.hosts.relay.cut()
            self.hosts.relay.resume()

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        """Where nothing is open for writing at this moment."""
        words = ["mount", "-o", "remount,ro", str(self.rooms)]
        until("read-only", lambda: not subprocess.run(words, capture_output=True).returncode, 3.0)
        try:
            yield
        finally:
            words = ["mount", "-o", "remount,rw", str(self.rooms)]
            subprocess.run(words, check=False, capture_output=True)
            if (agent := self.hosts.agent) is not None and agent.alive():
                # One that was booted meanwhile has mounts of its own, which were made read-only.
                within = ["nsenter", "--mount", "--target", str(agent.pid), *words]
                subprocess.run(within, check=False, capture_output=True)

    # ------------------------------------------------------------------ the target's machine

    def power_cut(self, seed: str) -> float:
        """The power of the target goes and comes back; the wire waits, resume it. Gives up to when
        the source says that all was durable."""
        hosts = self.hosts
        self.disk.cut(seed)
        hosts.relay.pause()
        hosts.kill_target()
        report = hosts.report()
        hosts.relay.cut()
        self.disk.unplug()
        self.disk.ask("on")
        self.disk.plug()
        self._booted(fresh=True)
        return (report and report.durable_as_of) or 0.0

    def start_target(self) -> None:
        """As Hosts.start_target, on the machine as it was booted last."""
        hosts = self.hosts
        if hosts.agent is None or not hosts.agent.alive():
            if (hosts.place / "boot_id").exists():
                self._booted(fresh=False)
            else:
                hosts.start_target()

    def _booted(self, fresh: bool) -> None:
        hosts = self.hosts
        words = ["--home", str(hosts.homes["there"]), "agent"]
        words += ["--listen", f"127.0.0.1:{hosts._port}", "--allow-root", str(self.rooms)]
        hosts.agent = booted(hosts.place, *words, fresh=fresh)  # type: ignore[assignment]
        until("the target's agent to listen", hosts._listens)

    # ------------------------------------------------------------------ the source's machine

    def unmount(self) -> None:
        """The source's file system goes, whoever has it open."""
        subprocess.run(["umount", "--lazy", str(self._mount)], check=True)

    def mount(self) -> None:
        words = ["mount", "-o", "loop", str(self._image), str(self._mount)]
        subprocess.run(words, check=True)

    def state(self, node: str) -> list[Path]:
        """The files in which a node remembers the rule."""
        home = self.hosts.homes[node] / "var"
        if node == "there":
            return list(home.glob("targets/*.json"))
        return [p for p in home.glob("rules/*/*.db*") if "damaged" not in p.name]

    # ------------------------------------------------------------------ the end

    def unsound(self) -> list[str]:
        """Processes that ended by themselves when they should not have."""
        found = []
        agent, mirror = self.hosts.agent, self.hosts.mirror
        if isinstance(agent, Process):
            ended = agent._process.poll() if agent else None
            if ended is not None and ended != -9:
                found.append(f"the target's agent ended with {ended}")
        elif agent is not None and not agent.alive() and (told := agent.wait(1.0)) is not None:
            found.append(f"the target's agent ended with {told}")
        if mirror is not None and not mirror.alive() and mirror.wait(1.0) == 70:
            found.append("the source ended with 70")
        return found

    def close(self) -> None:
        for held in self._ills.values():
            with suppress(Exception):
                held.close()
        self._ills.clear()
        super().close()
        unlock(self.source)
        unlock(self.target)
        self._undo.close()


UNFIT = {
    ("over_quota", "ext4"),
    ("over_quota", "xfs"),
    ("no_inodes", "xfs"),  # takes its inodes where there is room, which is to fill it
    ("no_inodes", "btrfs"),
    ("full", "btrfs"),  # cannot always be emptied again
}


@contextmanager
def _nothing() -> Iterator[None]:
    raise NotSettledError("there is nobody")
    yield


@contextmanager
def _small(state: Path) -> Iterator[None]:
    """A small file system of its own for the state of a node."""
    state.mkdir(exist_ok=True)
    words = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={STATE_MIB}m,mode=700",
        "i2node-state",
        str(state),
    ]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


@contextmanager
def _filled(ballast: Path) -> Iterator[None]:
    with suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _loss() -> Iterator[None]:
    """One packet of 20 goes, in a network of our own (nft(8)); else none."""
    chain = "{ type filter hook input priority 0; }"
    drop = "numgen random mod 100 < 5 drop"
    done = subprocess.run(
        ["nft", f"add table ip i; add chain ip i i {chain}; add rule ip i i {drop}"],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        raise OSError(done.stderr)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete table ip i"], check=False)


def data(path: Path) -> list[int]:
    """The blocks of 4096 bytes of a file that are no hole."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # XFS takes what was read of a hole for data, where it keeps room for copies on write.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found: list[int] = []
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            try:
                first = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, first, os.SEEK_HOLE)
            found += range(first // 4096, -(-at // 4096))
        return found
    finally:
        os.close(fd)


def pairs(source: Path, target: Path, kind: int) -> Iterator[tuple[Path, Path]]:
    """The paths of this kind (S_IFREG, ...) below the source, and what stands for them."""
    for path, _, files in os.walk(source):
        for each in [Path(path), *(Path(path, name) for name in files)]:
            if stat.S_IFMT(each.lstat().st_mode) == kind:
                yield each, target / each.relative_to(source)
