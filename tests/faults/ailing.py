"""The machine of deeds (mirrored.py) on hosts that ail: disks, wires, system calls, what the nodes
remember, and the power; each drawn, lasting for a while, and healed.

python ailing.py SECONDS SEED: a run, in namespaces of its own for mounts and network:
unshare --mount --net python tests/faults/ailing.py 1800 1
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / part) for part in ("", "e2e", "session")]

# ruff: noqa: E402
from ends import NotSettledError, select_pause, until
from frail import BRAKE_FLOOR, OF_THE_DISK, Frail, data, pairs
from ground import LARGE
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from mirrored import Mirrored, anything, drawn, names, numbers, run, sizes
from powercuts import Truth

from i2node.node import rpc
from inodes import APPEND, IMMUTABLE, NOATIME, NODUMP, inode_of

SLOW_SWEEP_S = 3.0
"""Flags alone raise no event: this finds them."""
KINDS = ("ext4", "ext4", "xfs", "btrfs")


class Ailing(Mirrored):
    frail: Frail | None = None
    done: ClassVar[Counter[str]] = Counter()

    def build(self, place: Path, engine: str) -> None:
        rng = random.Random(f"{self.number} {self.examples}")
        self.unsure = self.released = self.refused = self.forgotten = False
        self.frail = Frail(place, self.nursery, engine, rng.choice(KINDS))
        self.hosts, self.deeds = self.frail.hosts, self.frail.deeds
        self.truth = Truth(self.frail)
        self.deeds.history.append(f"! on {self.frail.kind}, by {engine}")
        toml = self.hosts.homes["here"] / "etc" / "i2node.toml"
        toml.write_text(toml.read_text() + f"slow_sweep_s = {SLOW_SWEEP_S}\n")

    def note(self, what: str) -> None:
        self.deeds.history.append(f"! {what}")
        self.done[what.split(":")[0].split(" ")[0]] += 1

    # ------------------------------------------------------------------ ills that last

    @rule(what=st.sampled_from(OF_THE_DISK), n=numbers)
    def ail_disk(self, what: str, n: int) -> None:
        self._befall(what, n)

    @rule(what=st.sampled_from(("half_open", "loss")), n=numbers)
    def ail_wire(self, what: str, n: int) -> None:
        self._befall(what, n)

    @rule(what=st.sampled_from(("source", "target")), n=numbers)
    def ail_calls(self, what: str, n: int) -> None:
        self._befall(what, n)

    @rule(n=numbers)
    def ail_state(self, n: int) -> None:
        self._befall("state", n)

    def _befall(self, what: str, n: int) -> None:
        if self.idle:
            return
        assert self.frail is not None
        self.done["asked"] += 1
        if name := self.frail.befall(what, random.Random(n)):
            self.note(f"{what}: {name}")
            self.unsure = self.unsure or what in ("writes", "reads")
            self.refused = self.refused or what == "writes"

    @rule()
    def heal_one(self) -> None:
        if not self.idle:
            assert self.frail is not None
            if ills := self.frail.ill():
                self.deeds.history.append(f"! heal {ills[0]}")
                self.frail.heal(ills[0])

    def heal(self) -> None:
        assert self.frail is not None
        try:
            self.frail.heal()
            self.frail.start_target()
        except AssertionError as error:
            self.claim(False, f"healing: {error}")
        super().heal()

    # ------------------------------------------------------------------ the target's machine

    @rule(quiet=anything, seed=numbers)
    def power_cut(self, quiet: bool, seed: int) -> None:
        """What was acknowledged is there before the source can help."""
        if self.idle:
            return
        assert self.frail is not None and self.hosts is not None
        if quiet:
            self.settled()
        else:
            self.heal()
        self.note(f"power: cut, quiet {quiet}, {seed}")
        if not quiet:
            self._hustle(seed)
        try:
            acknowledged = self.frail.power_cut(str(seed))
        except AssertionError as error:
            self.claim(False, f"power cut: {error}")
        self.claim(not (lost := self.truth.lost(acknowledged)), f"after a power cut: {lost}")
        if quiet:
            self.equal("durable before the power cut")
        self.unsure = True
        self.hosts.relay.resume()

    @rule(node=st.sampled_from(("source", "target")), seed=numbers)
    def crash(self, node: str, seed: int) -> None:
        """kill -9 in the middle of work."""
        if self.idle:
            return
        assert self.frail is not None and self.hosts is not None
        self.frail.start_target()
        self.hosts.start_source()
        self.note(f"crash: of the {node}")
        self._hustle(seed)
        if node == "target":
            self.hosts.kill_target()
            # Before the source can help.
            self.hosts.relay.pause()
            self.hosts.relay.cut()
            self.frail.start_target()
            self.whole_and_inside()
            self.hosts.relay.resume()
        else:
            self.hosts.kill_source()
            self.hosts.start_source()

    def _hustle(self, seed: int) -> None:
        """Leaves a lot to do, and the two nodes a moment to be in the middle of it."""
        rng = random.Random(seed)
        for _ in range(rng.randrange(1, 5)):
            if rng.random() < 0.5:
                self.swear_large(rng.randrange(LARGE // 4096), rng.choice((4096, 300_000)))
            else:
                self.swear(rng.randrange(4), rng.choice((1, 9000, 1 << 20)), rng.random() < 0.5)
            self.deeds.save(self.deeds.directory(rng.randrange(99)) / "new", 9000)
        select_pause(rng.random() * rng.choice((0.02, 0.1, 0.4)))

    @rule(n=st.integers(0, 3), size=sizes, beside=anything)
    def swear(self, n: int, size: int, beside: bool) -> None:
        """A file of which it is known what was durable when."""
        if not self.idle:
            path = self.deeds.root / f"sworn{n}"
            (self.deeds.save if beside else self.deeds.write)(path, size)
            self.truth.note(path)

    @rule(at=st.integers(0, LARGE // 4096), size=sizes)
    def swear_large(self, at: int, size: int) -> None:
        """One that is changed in place at the target, or cloned and patched."""
        if not self.idle:
            path = self.deeds.root / "sworn"
            if path.exists():
                self.deeds.change(path, at * 4096, size)
            else:
                self.deeds.write(path, LARGE)
            self.truth.note(path)

    @rule()
    def forget_record(self) -> None:
        """Whose the tree is nobody knows: the rule stops, until a person says so."""
        if self.idle:
            return
        assert self.frail is not None and self.hosts is not None
        self.heal()
        self.hosts.kill_source()
        self.hosts.kill_target()
        self.note("record: gone")
        for path in self.frail.state("there"):
            path.unlink()
        held = bool(os.listdir(self.hosts.target)) if self.hosts.target.exists() else False
        self.frail.start_target()
        self.hosts.start_source()
        if held:
            self._stops({3})
            # Where neither side remembers, nothing tells this tree from one that a person made
            # there, and a file of the same size and time passes for the same: a person asks for it.
            strict = ("--check", "strict") if self.forgotten else ()
            self.hosts.start_source("--adopt", *strict)
            try:
                until("it to be adopted", lambda: bool(self.frail.state("there")))
            except NotSettledError as error:
                self.claim(False, f"{error}: {self.hosts.tail('here')}")

    @rule(n=numbers)
    def burst(self, n: int) -> None:
        """Held back, until it is released; what goes soon after that passes too."""
        if self.idle or self.released:
            return
        self.released = True
        assert self.frail is not None and self.hosts is not None
        many = self.deeds.directory(n) / "many"
        self.deeds.make(many)
        for number in range(3 * BRAKE_FLOOR):
            self.deeds.write(many / f"m{number}", 10)
        self.settled()
        there = self.hosts.target / many.relative_to(self.hosts.source)
        if not there.is_dir() or len(os.listdir(there)) < 3 * BRAKE_FLOOR:
            return
        self.note("brake: on")
        self._brake(f"brake_floor = {BRAKE_FLOOR}\nbrake_share = 1.0\n", anew=True)
        self.settled()
        self.deeds.remove(many)
        try:
            until("held back", self._held)
            self.claim(len(os.listdir(there)) > BRAKE_FLOOR, "the brake held nothing back")
            until("released", self._released)
        except (NotSettledError, OSError) as error:
            self.claim(False, f"brake: {error}")
        self.settled()
        self._brake("")

    def _brake(self, lines: str, anew: bool = False) -> None:
        """anew: what went before is forgotten. A kill counts as gone what was let go ahead of it:
        up to budget.LEASE, which is more than a small floor."""
        assert self.frail is not None and self.hosts is not None
        toml = self.hosts.homes["there"] / "etc" / "i2node.toml"
        kept = [line for line in toml.read_text().splitlines() if "brake" not in line]
        toml.write_text("\n".join(kept) + "\n" + lines)
        self.hosts.kill_target()
        for record in toml.parents[1].glob("var/targets/*.brake") if anew else ():
            record.unlink()
        self.frail.start_target()

    def _held(self) -> bool:
        assert self.hosts is not None
        report = self.hosts.report()
        return report is not None and "the brake holds" in report.blocked_on

    def _released(self) -> bool:
        assert self.hosts is not None
        report = self.hosts.report()
        assert report is not None
        answers = rpc.ask(self.hosts.homes["there"] / "var" / "run", "release", rule=report.rule)
        return any(answer.error is None for answer in answers)

    # ------------------------------------------------------------------ the source's machine

    @rule(how=st.sampled_from(("gone", "short", "garbage")), sigs=anything)
    def forget_journal(self, how: str, sigs: bool) -> None:
        """What the source remembers is lost or damaged between two runs."""
        if self.idle:
            return
        assert self.frail is not None and self.hosts is not None
        self.hosts.kill_source()
        self.note(f"journal: {how}, {sigs}")
        self.forgotten = True
        for path in self.frail.state("here"):
            if how == "gone":
                path.unlink()
            elif how == "short":
                os.truncate(path, path.stat().st_size // 3)
            else:
                try:
                    path.write_bytes(random.Random(1).randbytes(max(4096, path.stat().st_size)))
                except OSError:
                    path.unlink()  # no room
        for directory in self.hosts.homes["here"].glob("var/rules/*/sig"):
            if sigs:
                shutil.rmtree(directory)
        self.hosts.start_source()

    @rule(quiet=anything)
    def unmount(self, quiet: bool) -> None:
        """The rule stops and deletes nothing; a person mounts it and starts it anew."""
        if self.idle:
            return
        assert self.frail is not None and self.hosts is not None
        if quiet:
            self.settled()
        else:
            self.heal()
            self.hosts.start_source()
        self.note(f"unmounted: quiet {quiet}")
        self.frail.unmount()
        self._stops({2, 3})
        self.frail.mount()
        if quiet:
            self.equal("before it was unmounted")
        self.hosts.start_source()

    def _stops(self, statuses: set[int]) -> None:
        """The source ends by itself with one of these."""
        assert self.hosts is not None and self.hosts.mirror is not None
        try:
            status = self.hosts.mirror.wait(self.hosts.patience)
        except TimeoutError as error:
            self.claim(False, f"it did not stop: {error}")
        self.claim(status in statuses, f"it ended with {status}, not {statuses}")

    @rule(n=numbers, number=st.integers(1, 4))
    def reset(self, n: int, number: int) -> None:
        """RST, in the middle of a frame as often as not."""
        if self.idle:
            return
        assert self.hosts is not None
        self.note("reset: while it is sent")
        for turn in range(number):
            self._hustle(n + turn)
            self.hosts.relay.cut()

    # ------------------------------------------------------------------ more deeds

    @rule(n=numbers, flags=st.sampled_from((0, 0, IMMUTABLE, APPEND, NODUMP, NOATIME | NODUMP)))
    def flags(self, n: int, flags: int) -> None:
        if not self.idle and (path := self.deeds.pick(n, _file_or_directory)):
            self.deeds.flags(path, flags)

    @rule()
    def unflag(self) -> None:
        """Else in the end nothing could be done to anything."""
        if not self.idle:
            for path in self.deeds.all(_file_or_directory):
                if inode_of(path)[0]:
                    self.deeds.flags(path, 0)

    @rule(n=numbers, at=sizes, size=sizes)
    def punch(self, n: int, at: int, size: int) -> None:
        if not self.idle and (path := self.deeds.pick(n, stat.S_ISREG)):
            self.deeds.punch(path, at, size)

    @rule(n=numbers, to=numbers, name=names, apart=anything)
    def regroup(self, n: int, to: int, name: str, apart: bool) -> None:
        """Names are given to a file, and one of them goes to another file."""
        if self.idle or not (path := self.deeds.pick(n, stat.S_ISREG)):
            return
        for number in range(3):
            self.deeds.link(path, self.new(to, f"{name}{number}"))
        if apart:
            self.deeds.save(self.new(to, f"{name}1"), 4096)

    # ------------------------------------------------------------------ what must hold

    def settled(self) -> None:
        assert self.frail is not None
        super().settled()
        if self.refused:
            # What the kernel has in memory is not what is on the disk.
            self.frail.replug()
            self.equal("in_sync was told after errors of the disk")
        self.unsure = self.refused = self.forgotten = False
        self.claim(not (found := self.frail.litter()), f"{found}")
        self.done["settled"] += 1

    def equal(self, when: str) -> None:
        assert self.hosts is not None
        super().equal(when)
        try:
            until("flags", lambda: not self._unlike(), 60.0)
        except NotSettledError:
            self.claim(False, f"{when}, but: {self._unlike()}")

    def _unlike(self) -> list[str]:
        """Where flags, projects or holes are other ones."""
        assert self.hosts is not None
        trees = self.hosts.source, self.hosts.target
        found = []
        for kind in (stat.S_IFREG, stat.S_IFDIR):
            for here, there in pairs(*trees, kind):
                if inode_of(here) != inode_of(there):
                    found.append(f"flags of {here}: {inode_of(here)} {inode_of(there)}")
        for here, there in pairs(*trees, stat.S_IFREG):
            if data(here) != data(there):
                found.append(f"holes of {here}: {data(here)} {data(there)}")
        return found

    @precondition(lambda self: not self.idle)
    @invariant()
    def whole_and_inside(self) -> None:
        assert self.frail is not None
        found = self.frail.unsound()
        self.claim(not found, f"{found}")
        if "reads" in self.frail.ill():
            return
        try:
            whole = self.frail.whole()
        except OSError:
            if "writes" not in self.frail.ill():
                raise
            return  # the file system gave up, and lists no directory
        wrong = [w for w in whole if not (self.unsure and w.startswith("torn"))]
        self.claim(not wrong, f"{wrong}")

    def raze(self) -> None:
        assert self.hosts is not None and self.frail is not None
        frail, self.hosts, self.frail = self.frail, None, None
        self.done.update({f"history of {frail.kind}": 1, "deeds": len(self.deeds.history)})
        if self.failure:
            (frail.hosts.place / "history").write_text("\n".join(self.deeds.history))
        frail.close()
        if not self.failure:
            shutil.rmtree(frail.hosts.place)


def _file_or_directory(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _alone() -> None:
    """In these namespaces there is nothing of other tests: what they unmount is to be gone."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if "i2node-" in (at := line.split()[1]):
            subprocess.run(["umount", "--lazy", at], check=False, capture_output=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main(seconds: float, number: int) -> None:
    print(f"I2NODE_MACHINE_SEED={number}", flush=True)
    _alone()
    try:
        run(Ailing, seconds, number, 60)
    finally:
        counts = ", ".join(f"{what} {times}" for what, times in sorted(Ailing.done.items()))
        print(f"{Ailing.examples} examples: {counts}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), drawn(sys.argv[2] if len(sys.argv) > 2 else "0"))
