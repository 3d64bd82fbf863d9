"""What replicas keep of a source on {ext4, xfs, btrfs}: i2node's, and rsync's, asked by probes.py.

    python tests/e2e/fidelity.py        as root; prints the table that stands in FIDELITY.md

A tree of probes is made on one file system, replicated to another, changed, and replicated again:
by i2node live, by rsync with a second run. A probe is `exact` if what can be seen of it was the
same on both sides both times, else it is `lost`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from hosts import must, until
from inode import allocated, digest, flags_of, project_of
from oddities import inside, seen
from probes import PROBES, Probe

from i2node import __version__
from i2node.node import rpc

sys.path.append(str(Path(__file__).resolve().parents[1]))
from disks import disk

EXACT, LOST = "exact", "lost"
TARGETS = ("ext4", "xfs", "btrfs")
SYNCED = ("rsync", "-aHAXS", "--delete")
ENDLESS = {"a file of 1 TiB"}
"""What rsync is not asked for: it reads every byte of a hole."""
NOTES = """\
What is lost of i2node's is a symlink that the target's file system has no room for, which is a
problem with its cause; room that is reserved and not written, which reads as a hole and is made as
one; and access times, which it does not keep. A time or an attribute that the file system does not
take is kept aside (`i2node doctor` says so), which is not looked for here. Flags and projects are
kept, but a change of these alone raises no event, and is found within `slow_sweep_s`, later than is
waited for here.

ext4 holds project ids only when made with `-O project`, on a kernel with CONFIG_QUOTA; btrfs has
none. XFS and ext4 end their times in 2486 and 2446.

-: not tried, since rsync reads and hashes every byte of the holes of a sparse file.

More that rsync has: `-U` keeps access times; `-N`, creation times, is not to be had on Linux;
`--preallocate` reserves the room of every file, whatever the source does; there is no option for
inode flags (`--fileflags` is a patch) or projects."""


# ---------------------------------------------------------------------------- what is there

Facts = dict[bytes, dict[str, object]]
MORE: dict[str, Callable[[int], object]] = {
    "hash": digest,
    "flags": flags_of,
    "project": project_of,
    "allocated": allocated,
    "atime": lambda fd: os.fstat(fd).st_atime_ns,
}


def facts(tree: Path, wanted: tuple[str, ...]) -> Facts:
    """What of `wanted` is to be seen in a tree, by path; empty where it is not there."""
    if not tree.is_dir():
        return {}
    found: Facts = {}
    for path, known in seen(tree).items():
        if "content" in known:
            known["holes"] = known["content"][1]  # type: ignore[index]
        found[path] = {fact: known[fact] for fact in wanted if fact in known}
    more = [fact for fact in wanted if fact in MORE]
    for path in found if more else ():
        full = os.fsencode(tree) + path
        status = os.lstat(full)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
            try:
                for fact in more:
                    found[path][fact] = MORE[fact](fd)
            finally:
                os.close(fd)
    return found


# ---------------------------------------------------------------------------- who keeps it


class Keeper(Protocol):
    """A program that keeps `target` as `source` is."""

    def keep(self) -> None:
        """Returns when all that it does for the source as it is now is done."""


class Rsync:
    """A run for each probe, as an error of one keeps it from deleting what others have deleted."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target

    def keep(self) -> None:
        # It takes times of one second for the same: what it makes is not to have such a one.
        moment = int(time.time())
        until("another second", lambda: int(time.time()) > moment)
        for tree in self._source.iterdir():
            words = [*SYNCED, "--mkpath", f"{tree}/", f"{self._target / tree.name}/"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            # 23: something could not be transferred, which the probes will show.
            assert done.returncode in (0, 23), done.stderr


class I2node:
    """Live: it is started once."""

    def __init__(self, source: Path, target: Path, home: Path) -> None:
        self._run = home / "var" / "run"
        words = ["--home", home, "mirror", source, target, "--json"]
        home.mkdir()
        self._log = home / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "i2node", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def keep(self) -> None:
        moment = time.time()
        until(f"durable; see {self._log}", lambda: self._durable_as_of() > moment)

    def _durable_as_of(self) -> float:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        reports = rpc.status(self._run)
        return (reports[0].durable_as_of or 0.0) if reports else 0.0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def kept(keeper: Keeper, source: Path, target: Path, probes: list[Probe]) -> dict[str, str]:
    """Which of the probes that were made in `source` come out exact at the target, by what they
    are called; all are changed."""

    def alike() -> list[bool]:
        keeper.keep()
        return [
            facts(source / str(i), probe.facts) == facts(target / str(i), probe.facts)
            for i, probe in enumerate(probes)
        ]

    first = alike()
    for i, probe in enumerate(probes):
        with inside(source / str(i)) as here:
            probe.change(here)
    both = [one and other for one, other in zip(first, alike(), strict=True)]
    return {p.what: EXACT if same else LOST for p, same in zip(probes, both, strict=True)}


def asked(program: str, kind: str, area: Path, probes: list[Probe]) -> dict[str, str]:
    """What a program keeps on a target file system, for probes with one source file system."""
    with ExitStack() as held:
        # Being looked at must not change what is looked at.
        source, target = (
            held.enter_context(disk(fs, place, "noatime", 1024)) / side
            for side, fs in (("source", probes[0].source), ("target", kind))
            if (place := Path(tempfile.mkdtemp(prefix=side, dir=area)))
        )
        source.mkdir()
        for i, probe in enumerate(probes):
            (source / str(i)).mkdir()
            with inside(source / str(i)) as here:
                probe.make(here)
        if program == "rsync":
            return kept(Rsync(source, target), source, target, probes)
        home = Path(tempfile.mkdtemp(dir=area)) / "home"
        i2node = I2node(source, target, home)
        held.callback(i2node.close)
        return kept(i2node, source, target, probes)


def by_source() -> list[list[Probe]]:
    return [[p for p in PROBES if p.source == kind] for kind in sorted({p.source for p in PROBES})]


def main() -> None:
    area = Path(tempfile.mkdtemp(prefix="i2node-fidelity-", dir="/var/tmp"))
    columns = [(program, kind) for program in ("i2node", "rsync") for kind in TARGETS]
    found: dict[tuple[str, str], dict[str, str]] = {}
    try:
        for program, kind in columns:
            found[program, kind] = {}
            for probes in by_source():
                some = [p for p in probes if program != "rsync" or p.what not in ENDLESS]
                found[program, kind] |= asked(program, kind, area, some)
    finally:
        shutil.rmtree(area)
    rsync = must("rsync", "--version").split()[2]
    print("# What is kept of each attribute\n")
    print("Printed by `make fidelity`: each row is made on XFS (symlinks of 4,095 bytes: on ext4),")
    print(
        "replicated, changed, replicated again, and looked at both times. exact: nothing that is to"
    )
    print("be seen of it differs, either time.\n")
    print(f"i2node {__version__}, live; rsync {rsync} `{' '.join(SYNCED[1:])}`,")
    print(f"a run for each row, each time; Linux {os.uname().release}.\n")
    print("| | " + " | ".join(f"{program}, {kind}" for program, kind in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for probe in PROBES:
        print(f"| {probe.what} |" + "".join(f" {found[c].get(probe.what, '-')} |" for c in columns))
    print(f"\n{NOTES}")


if __name__ == "__main__":
    main()
