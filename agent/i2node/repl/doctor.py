"""What would become of a mirror of SRC to DST, told before there is one. Nothing is changed on
either side; at the target a few files come and go beside the mirror."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import i2node
from i2node.config import Config
from i2node.errors import SessionError, UsageError
from i2node.fs.coalesce import Dirty
from i2node.fs.engine import INOTIFY, watch_tree
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.fs.trials import NAMES, cannot
from i2node.model import Target, show
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.repl.census import Census
from i2node.repl.embedded import EmbeddedAgent
from i2node.repl.fidelity import Attribute, Examined, demand, fidelity_of, heard
from i2node.repl.remote import Remote
from i2node.repl.rules import excludes_of, owners_of, rule_home, rule_id

SKEW_S = 2.0
"""Clocks that differ by more are worth a word; nothing but what people read goes by them."""
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing beside the attributes; sound: nothing is to be done about it."""

    what: str
    sound: bool
    text: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    attributes: tuple[Attribute, ...]
    notes: tuple[Note, ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """What the source can have and the target would lose."""
        return fidelity_of(self.attributes).lost


def diagnose(config: Config, source: Path, target: Target, identity: Identity) -> Diagnosis:
    """Asks both sides. Raises UsageError, Refused, SafetyStop or SessionError when it cannot."""
    real = os.path.realpath(os.fsencode(source))
    if not os.path.isdir(real):
        raise UsageError(f"{show(real)} is not a directory", "name the directory to mirror")
    rule = rule_id(identity.node_id, real, str(target))
    home = rule_home(config.var, rule)
    paths, owners = PathSet(real, excludes_of(home)), owners_of(home)
    with ExitStack() as held:
        root = Root(real)
        held.callback(root.close)
        host, port, expected = target.host, target.port, None
        if host is None:
            agent = EmbeddedAgent(config.etc.parent, target.path)
            held.callback(agent.close)
            host, port, expected = "127.0.0.1", agent.port, identity.node_id
        remote = Remote(connect(host, port, identity, expected, beat=config.heartbeat_s))
        held.callback(remote.close)
        asked = time.time()
        answer, answered = remote.examine(rule, target.path), time.time()
        found = heard(answer, cannot(root.fd, root.identity.birth != 0, owners))
        remote.bye()
        demand(found, NAMES if found.untried else (), str(target))
        census = Census(root, paths, lambda: False)
        census.join()
        notes = (
            _version(found),
            _clock(_skew(asked, found.clock, answered)),
            _watch(root, paths, config, census),
            _room(found, census),
        )
    return Diagnosis(found.attributes, notes)


def _skew(asked: float, told: float, answered: float) -> float:
    """How far the target's clock is ahead, as far as the time on the way leaves no doubt."""
    return min(told - asked, 0.0) or max(told - answered, 0.0)


def _version(found: Examined) -> Note:
    here, there = i2node.__version__, found.version
    return Note("version", here == there, here if here == there else f"{here} / {there}")


def _clock(skew: float) -> Note:
    told = "alike" if abs(skew) <= SKEW_S else f"the target's is {skew:+.1f} s off"
    return Note("clocks", abs(skew) <= SKEW_S, told)


def _watch(root: Root, paths: PathSet, config: Config, census: Census) -> Note:
    try:
        with closing(watch_tree(root, Dirty(), paths, config.watch, config.sweep_s)) as watch:
            status = watch.statistics()
    except SessionError as error:
        return Note("watch", False, error.cause)
    told = status.engine + (f" ({status.instead})" if status.instead else "")
    if status.engine != INOTIFY:
        return Note("watch", True, told)
    limit = int(_WATCHES.read_text())
    told += f", {census.dirs:,} directories, fs.inotify.max_user_watches {limit:,}"
    return Note("watch", census.dirs < limit, told)


def _room(found: Examined, census: Census) -> Note:
    needs, has = (census.bytes, census.files + census.dirs), (found.free_bytes, found.free_inodes)
    fits = needs[0] <= has[0] and (not has[1] or needs[1] <= has[1])
    told = (
        f"{needs[1]:,} entries and {needs[0]:,} bytes here; "
        f"{has[1]:,} inodes and {has[0]:,} bytes free there ({found.kind})"
    )
    return Note("room", fits, told)
