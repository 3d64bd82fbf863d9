"""The machine: deeds and ills drawn by hypothesis, done to a real tree and to two real processes.

After every deed: no file on the target that is not one complete version, nothing outside the
target. After every quiet moment: equal trees. What more can happen is drawn by subclasses.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from deeds import Deeds, torn
from ends import OURS, Hosts
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nursery import Nursery

names = st.sampled_from(["a", "b", "c", "d", "e"])
numbers = st.integers(0, 999)
# Around the border between small and large, a page, a block, and nothing at all.
sizes = st.sampled_from([0, 1, 100, 4095, 4096, 4097, 9000, 40_000, 150_000])
modes = st.sampled_from([0o600, 0o644, 0o700, 0o755, 0o4755, 0o000, 0o1777])
anything = st.booleans()


class Mirrored(RuleBasedStateMachine):
    nursery: ClassVar[Nursery]
    place: ClassVar[Path]
    over: ClassVar[float]
    failure: ClassVar[str] = ""
    examples: ClassVar[int] = 0
    number: ClassVar[int] = 0

    @initialize(engine=st.sampled_from(("fanotify", "inotify")))
    def begin(self, engine: str) -> None:
        self.hosts: Hosts | None = None
        if time.monotonic() > self.over:
            return
        type(self).examples += 1
        self.build(self.place / str(self.examples), engine)
        assert self.hosts is not None
        for path in ("a/b", "c"):
            self.deeds.make(self.hosts.source / path)
        self.deeds.write(self.hosts.source / "a" / "d", 9000)
        self.hosts.start_target()
        self.hosts.start_source()

    def build(self, place: Path, engine: str) -> None:
        """The two hosts, on nothing yet."""
        self.hosts = Hosts(place, self.nursery, engine)
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        self.deeds = Deeds(self.hosts.source, elsewhere)
        (self.hosts.outside / "kept").write_text("kept")

    def heal(self) -> None:
        """Whatever is in the way of a mirror ends."""
        assert self.hosts is not None
        self.hosts.relay.resume()

    def raze(self) -> None:
        """Nothing of the hosts runs or is mounted any more; their files stay where it failed."""
        assert self.hosts is not None
        hosts, self.hosts = self.hosts, None
        hosts.close()
        if not self.failure:
            shutil.rmtree(hosts.place)

    @property
    def idle(self) -> bool:
        """The time is over: hypothesis goes on drawing, and nothing is done."""
        return getattr(self, "hosts", None) is None or time.monotonic() > self.over

    def new(self, number: int, name: str) -> Path:
        return self.deeds.directory(number) / name

    # ------------------------------------------------------------------ content

    @rule(n=numbers, name=names, size=sizes, beside=anything)
    def write(self, n: int, name: str, size: int, beside: bool) -> None:
        if not self.idle:
            (self.deeds.save if beside else self.deeds.write)(self.new(n, name), size)

    @rule(n=numbers, at=sizes, size=sizes, back=anything)
    def change(self, n: int, at: int, size: int, back: bool) -> None:
        if not self.idle and (path := self.deeds.pick(n, _regular)):
            self.deeds.change(path, at, min(size, 4096), back)

    @rule(n=numbers, size=sizes)
    def truncate(self, n: int, size: int) -> None:
        if not self.idle and (path := self.deeds.pick(n, _regular)):
            self.deeds.truncate(path, size)

    # ------------------------------------------------------------------ names

    @rule(n=numbers, first=names, second=names)
    def make(self, n: int, first: str, second: str) -> None:
        if not self.idle:
            self.deeds.make(self.new(n, first) / second)

    @rule(n=numbers, to=numbers, name=names)
    def move(self, n: int, to: int, name: str) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.move(path, self.new(to, name))

    @rule(n=numbers, m=numbers)
    def move_over(self, n: int, m: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)) and (to := self.deeds.pick(m)):
            self.deeds.move(path, to)

    @rule(n=numbers, m=numbers)
    def exchange(self, n: int, m: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)) and (to := self.deeds.pick(m)):
            self.deeds.exchange(path, to)

    @rule(n=numbers)
    def rotate(self, n: int) -> None:
        """A chain, as logs are turned over: the last first, and a new one at its head."""
        if self.idle:
            return
        base = self.deeds.directory(n)
        for old, new in (("c", "e"), ("b", "c"), ("a", "b")):
            self.deeds.move(base / old, base / new)
        self.deeds.write(base / "a", 100)

    @rule(n=numbers, to=numbers, name=names)
    def link(self, n: int, to: int, name: str) -> None:
        if not self.idle and (path := self.deeds.pick(n, _not_directory)):
            self.deeds.link(path, self.new(to, name))

    @rule(n=numbers, name=names, out=anything)
    def symlink(self, n: int, name: str, out: bool) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.symlink(str(self.hosts.outside) if out else "../a", self.new(n, name))

    @rule(n=numbers, name=names)
    def node(self, n: int, name: str) -> None:
        if not self.idle:
            self.deeds.node(self.new(n, name))

    @rule(n=numbers)
    def remove(self, n: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.remove(path)

    @rule(n=numbers, name=names, back=anything)
    def leave_and_come(self, n: int, name: str, back: bool) -> None:
        if self.idle:
            return
        if back:
            self.deeds.come(self.new(n, name))
        elif path := self.deeds.pick(n):
            self.deeds.leave(path)

    @rule(n=numbers, size=sizes, same=anything)
    def become(self, n: int, size: int, same: bool) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            (self.deeds.renew if same else self.deeds.become)(path, size)

    # ------------------------------------------------------------------ metadata

    @rule(n=numbers, bits=modes)
    def mode(self, n: int, bits: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.mode(path, bits)

    @rule(n=numbers, uid=st.integers(0, 2), gid=st.integers(0, 2))
    def owner(self, n: int, uid: int, gid: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.owner(path, uid, gid)

    @rule(n=numbers)
    def times(self, n: int) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.times(path)

    @rule(n=numbers, name=names, value=st.sampled_from([None, b"", b"1", b"x" * 300]))
    def attribute(self, n: int, name: str, value: bytes | None) -> None:
        if not self.idle and (path := self.deeds.pick(n)):
            self.deeds.attribute(path, name, value)

    # ------------------------------------------------------------------ the two nodes

    @rule(again=anything)
    def kill_source(self, again: bool) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append(f"! kill source, again {again}")
            self.hosts.kill_source()
            if again:
                self.hosts.start_source()

    @rule(again=anything)
    def kill_target(self, again: bool) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append(f"! kill target, again {again}")
            self.hosts.kill_target()
            if again:
                self.hosts.start_target()

    @rule()
    def start(self) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append("! start")
            self.hosts.start_target()
            self.hosts.start_source()

    @rule()
    def cut(self) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append("! cut")
            self.hosts.relay.cut()

    @rule(on=anything)
    def pause(self, on: bool) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append(f"! pause {on}")
            (self.hosts.relay.pause if on else self.hosts.relay.resume)()

    @rule()
    def stop(self) -> None:
        """A person stops it while all is well: what was dirty is drained, and it ends with 0."""
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append("! stop")
            self.settled()
            self.claim(self.hosts.stop_source() == 0, "stopping it did not end well")
            self.equal("after it was stopped")

    @rule()
    def once(self) -> None:
        """After a kill a single pass ends by itself with everything there."""
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append("! once")
            self.hosts.kill_source()
            self.heal()
            self.hosts.start_target()
            self.claim(self.hosts.once() == 0, "--once did not end well")
            self.equal("after --once")

    @rule()
    def settle(self) -> None:
        if not self.idle:
            assert self.hosts is not None
            self.deeds.history.append("! settle")
            self.settled()

    # ------------------------------------------------------------------ what must hold

    def settled(self) -> None:
        assert self.hosts is not None
        self.heal()
        try:
            self.hosts.quiesce()
        except AssertionError as error:
            self.claim(False, str(error))
        self.equal("in_sync was told")

    def equal(self, when: str) -> None:
        assert self.hosts is not None
        found = self.hosts.differences()
        self.claim(not found, f"{when}, but: {found}")

    def claim(self, holds: bool, what: str) -> None:
        """The first thing that does not hold ends the run: what it was drawn from is not drawn
        again, because the same deeds seldom meet the same moment twice."""
        if not holds:
            type(self).failure = type(self).failure or f"{what}\n{self.told()}"
            type(self).over = 0.0
            raise AssertionError(type(self).failure)

    def told(self) -> str:
        assert self.hosts is not None
        deeds = "\n".join(self.deeds.history[-80:])
        return f"SEED {self.number}, example {self.examples}\n{self.hosts.tail('here')}\n{deeds}"

    @precondition(lambda self: not self.idle)
    @invariant()
    def whole_and_inside(self) -> None:
        assert self.hosts is not None
        found = torn(self.hosts.target, self.deeds.versions)
        self.claim(not found, f"no version of the source: {found}")
        rooms = self.hosts.target.parent
        others = {p.name for p in rooms.iterdir()} - {"target", "outside"} - _stages(rooms)
        self.claim(not others, f"beside the target: {others}")
        outside = [p.name for p in self.hosts.outside.iterdir()]
        self.claim(outside == ["kept"], f"outside the target: {outside}")
        self.claim((self.hosts.outside / "kept").read_text() == "kept", "written outside")

    def teardown(self) -> None:
        if getattr(self, "hosts", None) is None:
            return
        try:
            if not self.failure:
                self.deeds.history.append("! end")
                self.settled()
        finally:
            self.raze()


def _regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


def _not_directory(mode: int) -> bool:
    return mode & 0o170000 != 0o040000


def _stages(rooms: Path) -> set[str]:
    return {p.name for p in rooms.iterdir() if p.name.startswith(OURS)}


def run(machine: type[Mirrored], seconds: float, number: int, steps: int = 40) -> None:
    """Examples of so many steps each, drawn from this number, until the time is over."""
    machine.nursery = Nursery()
    machine.number = number
    machine.over = time.monotonic() + seconds
    machine.examples = 0
    machine.failure = ""
    # Kept where it failed: the journals and logs in it are what there is to learn from.
    machine.place = Path(tempfile.mkdtemp(prefix="i2node-machine-"))
    bound = settings(
        max_examples=max(40, int(seconds)),
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(machine), settings=bound)
    except BaseException:
        if not machine.failure:
            raise
        raise AssertionError(f"see {machine.place}: {machine.failure}") from None
    finally:
        machine.nursery.close()
    shutil.rmtree(machine.place)


def drawn(asked: str) -> int:
    """The number that was asked for, or any."""
    return int(asked) or random.SystemRandom().getrandbits(32)
