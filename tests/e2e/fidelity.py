"""What replicas keep of a source on {ext4, xfs, btrfs}: i2node's, and rsync's, asked by probes.py.

    python tests/e2e/fidelity.py        as root; prints the table that stands in FIDELITY.md

A tree of probes is made on one file system, replicated to another, changed, and replicated again:
by i2node live, by rsync with a second run. A probe is `exact` if what can be seen of it was the
same on both sides both times; `aside` if it was the same with what the agent keeps aside at the
target; else it is `lost`.
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
from inode import allocated, digest, flag, flags_of, project_of
from oddities import inside, put, seen
from probes import PROBES, Probe
from told import Entries, agree, told

from i2node import __version__
from i2node.fs.tree import SHELF_PREFIX
from i2node.node import rpc

sys.path.append(str(Path(__file__).resolve().parents[1]))
from disks import disk

VERDICTS = EXACT, ASIDE, LOST = "exact", "aside", "lost"
TARGETS = ("ext4", "xfs", "btrfs")
SYNCED = ("rsync", "-aHAXS", "--delete")
ENDLESS = {"a file of 1 TiB"}
"""What rsync is not asked for: it reads every byte of a hole."""
SLOW_SWEEP_S = 1.0
FENCE = b"fence"
HEAD = """\
# What is kept of each attribute

Printed by `make fidelity`: each row is made on XFS (symlinks of 4,095 bytes: on ext4), replicated,
changed, replicated again, and looked at both times; the worse time counts.

- exact: nothing that is to be seen of it differs.
- aside: the target's file system refuses some of it, which the agent there keeps in a directory of
  its own. With that laid over, nothing differs, as the agent itself reads both sides.
- lost: something of it is neither there nor aside.
"""
NOTES = f"""\
What is aside of i2node's: times behind those that ext4 has; attributes that do not fit into a block
of ext4 or a leaf of btrfs; project ids on btrfs, and on ext4 as it is made by default. `i2node
doctor` tells of each before the first pass.

What is lost of i2node's: a symlink that the target's file system has no room for, which is a
problem with its cause, and nothing stands in its place; room that is reserved and not written,
which reads as a hole and is made as one; and access times, since who reads the source is not of
interest to the target.

The kernel tells nobody of a change of flags or projects alone: it is found within `slow_sweep_s`,
by default an hour. Their rows are of a run with `slow_sweep_s = {SLOW_SWEEP_S:g}`, looked at when
that sweep was through; all others are of one with the defaults.

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

    def told(self, name: bytes) -> tuple[Entries, Entries] | None:
        """What it holds a name in both roots for; None where it keeps nothing aside."""


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

    def told(self, name: bytes) -> None:
        return None


class I2node:
    """Live: it is started once. unheard: it is waited for what the slow sweep finds."""

    def __init__(self, source: Path, target: Path, home: Path, unheard: bool) -> None:
        self._source, self._target, self._unheard = source, target, unheard
        self._run = home / "var" / "run"
        words = ["--home", home, "mirror", source, target, "--json"]
        (home / "etc").mkdir(parents=True)
        if unheard:
            (home / "etc" / "i2node.toml").write_text(f"slow_sweep_s = {SLOW_SWEEP_S}\n")
            with inside(source) as here:
                put(here, FENCE)
        self._log = home / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "i2node", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def keep(self) -> None:
        self._durable()
        if self._unheard:
            # Each is found by a later round than the one before: the second round began after the
            # change, and the third tells that it has ended.
            for _ in range(3):
                self._pass_fence()
            self._durable()

    def _durable(self) -> None:
        moment = time.time()
        until(f"durable; see {self._log}", lambda: self._durable_as_of() > moment)

    def _pass_fence(self) -> None:
        """Changes what the kernel tells nobody of, and waits until it has arrived."""

        def flags(root: Path) -> object:
            with open(os.fsencode(root / os.fsdecode(FENCE)), "rb") as file:
                return flags_of(file.fileno())

        with inside(self._source) as here:
            flag(here, FENCE, "" if flags(self._source) else "d")
        until(f"the fence; see {self._log}", lambda: flags(self._source) == flags(self._target))

    def _durable_as_of(self) -> float:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        reports = rpc.status(self._run)
        return (reports[0].durable_as_of or 0.0) if reports else 0.0

    def told(self, name: bytes) -> tuple[Entries, Entries] | None:
        # In the target itself: nothing else on its file system is the agent's to write to.
        shelves = list(self._target.glob(f"{SHELF_PREFIX}*"))
        if not shelves:
            return None
        (shelf,) = shelves
        return told(self._source, name), told(self._target, name, shelf)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def verdict(keeper: Keeper, source: Path, target: Path, name: str, wanted: tuple[str, ...]) -> str:
    """What has become at the target of the facts of a probe."""
    here, there = facts(source / name, wanted), facts(target / name, wanted)
    if here == there:
        return EXACT
    both = keeper.told(os.fsencode(name)) if here.keys() == there.keys() else None
    if both is None:
        return LOST
    other = [
        (path, fact)
        for path in here
        for fact in here[path].keys() | there[path].keys()
        if here[path].get(fact) != there[path].get(fact)
    ]
    return ASIDE if all(agree(*(side[p] for side in both), fact) for p, fact in other) else LOST


def kept(keeper: Keeper, source: Path, target: Path, probes: list[Probe]) -> dict[str, str]:
    """What has become of the probes that were made in `source`, by what they are called, at the
    worse of two times; all are changed."""

    def verdicts() -> list[str]:
        keeper.keep()
        return [verdict(keeper, source, target, str(i), p.facts) for i, p in enumerate(probes)]

    first = verdicts()
    for i, probe in enumerate(probes):
        with inside(source / str(i)) as here:
            probe.change(here)
    both = zip(first, verdicts(), strict=True)
    return {p.what: max(two, key=VERDICTS.index) for p, two in zip(probes, both, strict=True)}


def asked(program: str, kind: str, area: Path, probes: list[Probe]) -> dict[str, str]:
    """What a program keeps on a target file system, for probes of one group."""
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
        i2node = I2node(source, target, home, probes[0].unheard)
        held.callback(i2node.close)
        return kept(i2node, source, target, probes)


def grouped() -> list[list[Probe]]:
    """The probes, those together that have one source, and one way of being heard of: what has
    events is not to be found by a slow sweep that seldom comes."""
    groups: dict[tuple[str, bool], list[Probe]] = {}
    for probe in PROBES:
        groups.setdefault((probe.source, probe.unheard), []).append(probe)
    return list(groups.values())


def main() -> None:
    area = Path(tempfile.mkdtemp(prefix="i2node-fidelity-", dir="/var/tmp"))
    columns = [(program, kind) for program in ("i2node", "rsync") for kind in TARGETS]
    found: dict[tuple[str, str], dict[str, str]] = {}
    try:
        for program, kind in columns:
            found[program, kind] = {}
            for probes in grouped():
                some = [p for p in probes if program != "rsync" or p.what not in ENDLESS]
                found[program, kind] |= asked(program, kind, area, some)
    finally:
        shutil.rmtree(area)
    rsync = must("rsync", "--version").split()[2]
    print(HEAD)
    print(f"i2node {__version__}, live; rsync {rsync} `{' '.join(SYNCED[1:])}`,")
    print(f"a run for each row, each time; Linux {os.uname().release}.\n")
    print("| | " + " | ".join(f"{program}, {kind}" for program, kind in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for probe in PROBES:
        print(f"| {probe.what} |" + "".join(f" {found[c].get(probe.what, '-')} |" for c in columns))
    print(f"\n{NOTES}")


if __name__ == "__main__":
    main()
