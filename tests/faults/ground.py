"""Two real nodes over a wire that can be cut, a tree at work, and what must hold after any fault.

A ground is used for many trials: each begins and ends with equal trees.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deeds import Deeds, torn
from ends import OURS, Hosts, NotSettledError, until
from nursery import Nursery

from disks import disk

MIB = 1 << 20
LARGE = 5 * MIB
"""From 4 MiB on a file is changed in place, by way of a redo journal, where it cannot be cloned."""


class Ground:
    """`hosts`, with the trees below `place`; the target stands in `rooms`, which may be a mount of
    its own, beside a canary that nothing may touch."""

    def __init__(
        self, place: Path, nursery: Nursery, engine: str = "auto", source: Path | None = None
    ) -> None:
        self.hosts = Hosts(place, nursery, engine, source)
        self.source, self.target = self.hosts.source, self.hosts.target
        self.rooms = self.target.parent
        elsewhere = self.source.with_name("elsewhere")
        elsewhere.mkdir()
        self.deeds = Deeds(self.source, elsewhere)
        (self.hosts.outside / "kept").write_text("kept")

    # ------------------------------------------------------------------ work

    def plant(self) -> None:
        """A tree of every kind of thing, mirrored."""
        for name in ("a/b", "c", "d/e", "held"):
            self.deeds.make(self.source / name)
        for number in range(12):
            self.deeds.write(self.source / "a" / f"f{number}", 500 * number)
        for name, size in (("large", LARGE), ("staged", MIB), ("one", 9000), ("two", 100)):
            self.deeds.write(self.source / "held" / name, size)
        self.deeds.link(self.source / "a" / "f3", self.source / "c" / "linked")
        self.deeds.symlink(str(self.hosts.outside), self.source / "d" / "out")
        self.deeds.node(self.source / "d" / "fifo")
        self.hosts.start_target()
        self.hosts.start_source()
        self.hosts.quiesce()

    def stir(self, rng: random.Random) -> None:
        """A few deeds that use each way of changing a target: small and large files, new and in
        place, names, links, attributes, and what goes."""
        deeds, held = self.deeds, self.source / "held"
        some = deeds.directory(rng.randrange(99))
        deeds.change(held / "large", rng.randrange(LARGE), 4096)
        deeds.save(held / "staged", MIB + rng.randrange(MIB))
        deeds.exchange(held / "one", held / "two")
        for made in held.glob("made*"):
            deeds.remove(made)
        made = held / f"made{rng.randrange(9999)}"
        deeds.make(made / "below")
        deeds.symlink(f"../{rng.random()}", made / "symlink")
        deeds.node(made / "node")
        deeds.owner(made / "node", rng.randrange(3), 1)
        for _ in range(4):
            deeds.write(some / f"n{rng.randrange(9)}", rng.choice(SIZES))
        if path := self._pick(rng, _regular):
            deeds.link(path, some / f"l{rng.randrange(9)}")
            deeds.attribute(path, "a", b"%d" % rng.randrange(99))
        for deed in (deeds.times, deeds.remove):
            if path := self._pick(rng):
                deed(path)
        if path := self._pick(rng):
            deeds.move(path, deeds.directory(rng.randrange(99)) / f"m{rng.randrange(9)}")

    def _pick(self, rng: random.Random, kind: Callable[[int], bool] = bool) -> Path | None:
        found = [p for p in self.deeds.all(kind) if self.source / "held" not in (p, *p.parents)]
        return rng.choice(found) if found else None

    # ------------------------------------------------------------------ what must hold

    def whole(self) -> list[str]:
        """What is wrong at any moment at which the target's agent runs: torn files, and whatever
        was done outside the root."""
        found = [f"torn: {path}" for path in torn(self.target, self.deeds.versions)]
        others = {p.name for p in self.rooms.iterdir()} - {
            "target",
            "outside",
            "ballast",
            "lost+found",
        }
        found += [f"outside: {n}" for n in others if not n.startswith(OURS)]
        kept = self.hosts.outside
        if os.listdir(kept) != ["kept"] or (kept / "kept").read_text() != "kept":
            found.append("outside: the canary")
        return found

    def settled(self) -> list[str]:
        """What is wrong once it has gone on by itself: also whatever is lost, and litter."""
        try:
            self.hosts.quiesce()
        except NotSettledError as error:
            return [f"lost: {error}", *self.whole()]
        lost = [f"lost: {path!r}: {what}" for path, what in self.hosts.differences()]
        agent = self.hosts.agent
        dead = [] if agent and agent.alive() else ["dead: the target's agent"]
        return [*lost, *self.whole(), *dead, *self.litter()]

    def litter(self) -> list[str]:
        """Temporary files; those of work that is just over may still be about to go."""
        try:
            until("no litter", lambda: not self._left(), 10.0)
        except NotSettledError:
            return [f"litter: {path}" for path in self._left()]
        return []

    def _left(self) -> list[Path]:
        state = self.hosts.homes["there"] / "var"
        stages = [*self.rooms.glob(".i2node-*"), *(state / "stage").glob("*")]
        files = [p for stage in stages for p in (stage.rglob("*") if stage.is_dir() else [stage])]
        temporary = [p for home in self.hosts.homes.values() for p in home.rglob("*.new")]
        return [*files, *temporary, *self.target.glob(".i2node-*")]

    def agent_words(self) -> list[str]:
        """The command line of the target's agent, for a process that is not of the nursery."""
        home, address = self.hosts.homes["there"], f"127.0.0.1:{self.hosts._port}"
        words = ["--home", str(home), "agent", "--listen", address]
        return [*words, "--allow-root", str(self.rooms)]

    def close(self) -> None:
        self.hosts.close()


SIZES = (0, 1, 700, 4096, 4097, 9000, 150_000)


def _regular(mode: int) -> bool:
    return mode & 0o170000 == 0o100000


@contextmanager
def area(near: str = "/var/tmp") -> Iterator[Path]:
    """An empty directory, gone at the end."""
    place = Path(tempfile.mkdtemp(prefix="i2node-faults-", dir=near))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def rooms_on(kind: str, place: Path, mib: int, options: str = "") -> Iterator[Path]:
    """A file system of its own where a Ground in this place keeps its rooms."""
    with disk(kind, place, options, mib) as mount:
        rooms = place / "rooms"
        rooms.mkdir()
        subprocess.run(["mount", "--bind", str(mount), str(rooms)], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", str(rooms)], check=True)
