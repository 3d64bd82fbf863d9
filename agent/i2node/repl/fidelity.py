"""How exact a replica can be: each attribute of a source beside what its target makes of it.

An attribute is *exact*, or *aside* (the target's file system refuses it, the agent keeps it for a
restore), or *lost*. What the source cannot have is not missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import i2node
from i2node import log
from i2node.errors import ProtocolError, SafetyStop, SessionError, UsageError
from i2node.fs.ground import Ground
from i2node.fs.trials import ATTRIBUTES, NAMES, OWNERS
from i2node.repl.report import Fidelity

_log = logging.getLogger(__name__)

Verdict = Literal["exact", "aside", "lost"]
_UNTRIED = "what a target keeps is only known by trying: see to the disk there"
_LEVELS: dict[Verdict, int] = {"aside": logging.INFO, "lost": logging.WARNING}
_ASIDE = frozenset(trial.name for trial in ATTRIBUTES if trial.aside)


@dataclass(frozen=True, slots=True)
class Attribute:
    """possible: a file of the source can have it. why: what the target makes of it instead."""

    name: str
    possible: bool
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a target told of itself: the version of its agent, the seconds since 1970 on its clock,
    type and free room of the file system, and its attributes; or why these could not be tried."""

    version: str
    clock: float
    kind: str
    free_bytes: int
    free_inodes: int
    untried: str
    attributes: tuple[Attribute, ...]


def told(ground: Ground) -> dict[str, object]:
    """The message that answers `examine`."""
    can = _ASIDE if ground.shelf else frozenset[str]()
    return {
        "t": "examined",
        "version": i2node.__version__,
        "clock": time.time(),
        "kind": ground.kind,
        "free": [ground.free_bytes, ground.free_inodes],
        "untried": ground.untried,
        "found": [[f.name, _verdict(f.kept, f.name in can), f.why] for f in ground.findings],
    }


def _verdict(kept: bool, aside: bool) -> Verdict:
    return "exact" if kept else "aside" if aside else "lost"


def heard(message: Mapping[str, object], cannot: frozenset[str]) -> Examined:
    """What such a message says. cannot: what no file of the source has (fs.trials). Raises
    ProtocolError when it is malformed."""
    answer = cast(Mapping[str, Any], message)
    try:
        verdicts = {str(n): (_known(v), str(why)) for n, v, why in answer["found"]}
        free_bytes, free_inodes = map(int, answer["free"])
        return Examined(
            str(answer["version"]),
            float(answer["clock"]),
            str(answer["kind"]),
            free_bytes,
            free_inodes,
            str(answer["untried"]),
            tuple(
                Attribute(name, name not in cannot, *verdicts[name])
                for name in NAMES
                if name in verdicts
            ),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError("the target's answer to examine is malformed") from error


def _known(verdict: object) -> Verdict:
    if verdict not in get_args(Verdict):
        raise ValueError(verdict)
    return cast(Verdict, verdict)


def of(attributes: Iterable[Attribute], verdict: Verdict) -> list[Attribute]:
    """Those of this verdict that a file of the source can have."""
    return [a for a in attributes if a.possible and a.verdict == verdict]


def fidelity_of(attributes: Sequence[Attribute]) -> Fidelity:
    aside, lost = of(attributes, "aside"), of(attributes, "lost")
    return Fidelity(tuple(a.name for a in aside), tuple(a.name for a in lost))


def parse_require(text: str, owners: bool = True) -> tuple[str, ...]:
    """`all`, or names separated by commas. Raises UsageError for a name that is none, or of what a
    rule without owners does not carry."""
    asked = [name.strip() for name in text.split(",")]
    if asked == ["all"]:
        return NAMES
    for name in asked:
        if name not in NAMES:
            raise UsageError(
                f"--require {text}: {name!r} is no attribute", "all, or of: " + ", ".join(NAMES)
            )
        if not owners and name in OWNERS:
            raise UsageError(
                f"--require {text}: without owners {name} is not carried",
                "leave out --no-owners, or require less",
            )
    return tuple(asked)


def demand(found: Examined, require: Sequence[str], target: str) -> None:
    """Raises SafetyStop when something that is required would be lost, SessionError when that is
    not known."""
    if require and found.untried:
        raise SessionError(found.untried, _UNTRIED)
    answered = {a.name for a in found.attributes}
    if unknown := [name for name in require if name not in answered]:
        raise SessionError(
            f"{target} does not tell whether it keeps what is required: " + ", ".join(unknown),
            "its agent is of another version: update it, or require less",
        )
    lost = [a for a in of(found.attributes, "lost") if a.name in require]
    if lost:
        raise SafetyStop(
            f"{target} would lose what is required: "
            + "; ".join(f"{a.name} ({a.why})" for a in lost),
            "choose a target on a file system that keeps it, or require less; "
            "`i2node doctor` shows all of it",
        )


def announce(rule: str, attributes: Sequence[Attribute]) -> None:
    """One line for what is kept aside and one for what is lost, not one for every file."""
    for verdict, level in _LEVELS.items():
        if these := of(attributes, verdict):
            names = ",".join(a.name for a in these)
            why = "; ".join(f"{a.name}: {a.why}" for a in these)
            log.event(_log, level, f"attributes-{verdict}", rule=rule, names=names, cause=why)
