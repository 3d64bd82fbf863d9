"""What a case is, and what it gets to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena import Arena
from live_followers import FOLLOWERS, Follower, Ours
from live_meter import Use, at_rest, use
from live_trees import differences

GIB = 1 << 30
MIB = 1 << 20
NEVER = "never"
"""Stands for a time that did not come while it was waited for."""

Figures = dict[str, Any]
"""What stands at the head of a table → a number, or a text; in `series` rows of the same kind, and
in `differences` what is wrong with a target."""


@dataclass(frozen=True)
class Stage:
    """A follower of a source, with a target; at rest when a case gets it.

    scale: of counts and durations, 1 for what is asked for. minutes: of the soak; without: names of
    stressors that it leaves out.
    """

    ring: Arena
    follower: Follower
    source: Path
    target: Path
    scale: float = 1.0
    minutes: float = 60.0
    without: tuple[str, ...] = ()

    def rest(self) -> None:
        at_rest(self.follower.sides())

    def use(self) -> tuple[Use, Use]:
        """Of the source's and of the target's side."""
        source, target = self.follower.sides()
        return use(source), use(target)

    def wire(self) -> int:
        """Bytes on the cable so far."""
        return self.ring.on_the_cable()

    def equality(self) -> Figures:
        """Whether somebody else finds the trees equal; and where not."""
        found = differences(self.source, self.target, exact=isinstance(self.follower, Ours))
        return {"equal": "no", "differences": found[:4000]} if found else {"equal": "yes"}


def since(began: float, ended: float | None) -> float | str:
    """Seconds between two readings of one clock; NEVER without the second."""
    return NEVER if ended is None else round(ended - began, 3)


def cost(before: tuple[Use, Use], after: tuple[Use, Use]) -> Figures:
    source, target = (b.cpu - a.cpu for a, b in zip(before, after, strict=True))
    return {
        "CPU s": round(source + target, 2),
        "source CPU s": round(source, 2),
        "target CPU s": round(target, 2),
    }


@dataclass(frozen=True)
class Case:
    """fill makes the source, by the scale. shown: the figures that the goal is about, the first of
    them is what followers are ranked by. held: files stay open in it. peer_scale: of what peers
    are measured by, where the full length would tell nothing more. disk, inodes, kind: of each of
    the two file systems (arena.disk), at scale 1.
    """

    title: str
    goal: str
    fill: Callable[[Path, float], None]
    measure: Callable[[Stage], Figures]
    shown: tuple[str, ...]
    followers: tuple[str, ...] = tuple(FOLLOWERS)
    held: bool = False
    peer_scale: float = 1.0
    disk: int = 2 * GIB
    inodes: int = 50_000
    kind: str = "ext4"
