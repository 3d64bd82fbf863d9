"""Trials: a node killed, or told of an error, at one system call after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ends import until
from ground import Ground
from injection import injected

ENOUGH = 3


@dataclass(frozen=True)
class Trial:
    """hit: whether it came to the fault at all. wrong: what did not hold, "kind: what"."""

    hit: bool
    wrong: tuple[str, ...]


def kill(ground: Ground, side: str, call: str, nth: int, rng: random.Random) -> Trial:
    """SIGKILL to one node at its nth call of this name (counted in each thread) while it works;
    then it is started again."""
    hosts = ground.hosts
    victim = hosts.agent if side == "target" else hosts.mirror
    assert victim is not None
    with injected(victim.pid, call, f"signal=KILL:when={nth}", hosts.place / "strace"):
        _work(ground, rng, lambda: not victim.alive())
    hit = not victim.alive()
    if hit and side == "target":
        # Before the source can help: what the agent makes of it alone.
        hosts.relay.pause()
        hosts.relay.cut()
        hosts.start_target()
        early = ground.whole()
        hosts.relay.resume()
    else:
        early = ground.whole()
    return Trial(hit, tuple(dict.fromkeys([*early, *ground.settled()])))


def fail(ground: Ground, side: str, call: str, error: str, when: str, rng: random.Random) -> Trial:
    """An error from these calls of one node, as of a disk that is full or failing."""
    hosts = ground.hosts
    victim = hosts.agent if side == "target" else hosts.mirror
    assert victim is not None
    what = f"error={error}:when={when}"
    with injected(victim.pid, call, what, hosts.place / "strace") as injection:
        # A thread of each new session would meet it again.
        _work(ground, rng, lambda: injection.hits() >= ENOUGH or not victim.alive())
    dead = () if victim.alive() else (f"dead: the {side}",)
    if call == "unlinkat":
        hosts.relay.cut()  # what could not be taken away goes when the next session opens
    return Trial(injection.hits() > 0, (*dead, *ground.settled()))


def _work(ground: Ground, rng: random.Random, over: Callable[[], bool]) -> None:
    """Stirs until that is on the target, or it is over."""
    ground.stir(rng)
    fence = ground.source / "fence-of-work"
    fence.unlink(missing_ok=True)
    until("the fence to go", lambda: over() or not (ground.target / fence.name).exists())
    fence.touch()
    until("the work to be done", lambda: over() or _done(ground, fence.name), 30.0)


def _done(ground: Ground, fence: str) -> bool:
    report = ground.hosts.report()
    return (ground.target / fence).exists() and report is not None and report.in_sync
