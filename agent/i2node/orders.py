"""What the controller wants of a node, and what the node tells of it: plain data, in the words of
the RPC between them. The API's own words are translated into these once, in controller.terms.

The controller pushes all that it wants of a node at once, as Orders. The node keeps them on disk,
acknowledges, carries them out, and goes on with them when the controller is away. Texts are names
of files too: paths of the API are UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

from i2node.errors import ProtocolError
from i2node.model import State
from i2node.schedule import Plan

PARTS_MOST = 256
CHARGES_MOST = 1024
_NUMBER_MAX = 1 << 53
_SUM_MAX = 1 << 62
"""Of what reports count: of any parts there are, the sum is a number too."""
_TEXT_MAX = 64 << 10


class Want(StrEnum):
    """What is to become of a rule."""

    RUN = "run"
    STOP = "stop"
    FINISH = "finish"  # one last pass, so that the tree at the target is complete; then no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tree of a rule: an absolute directory of the work node, and where it goes. target is
    absolute, or, of a rule that has a `base`, empty."""

    source: str
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A rule, as its work node carries it out. rule: the uuid; version: a text that changes with
    each edit.

    base: directory of the backup node for the runs of this rule, each of which has a directory of
    its own there, named after the local time at which it began (20190111113656), that holds the
    whole path of each part; empty: the parts say where they go, and all runs go there.

    want counts for the run that is under way or due. run: a number that a `start` after FINISH
    raises, so that another run begins. plan: when runs begin; None: now, and it goes on until
    FINISH. A planned run makes one pass, ends, and waits for the next.

    excludes, check, compress, encrypt, secret_key, bwlimit are as in MirrorOptions. strict_source:
    the first pass stops at the first path that cannot be read. before, after: scripts of the work
    node that are run when the rule finishes, before the last pass and after it.
    """

    rule: str
    version: str
    name: str
    want: Want
    run: int = 1
    host: str
    port: int
    peer: str
    """node id of the backup node."""
    certificate: str
    """of the backup node, PEM."""
    base: str = ""
    parts: tuple[Part, ...]
    excludes: tuple[str, ...] = ()
    check: Literal["quick", "strict"] = "quick"
    compress: Literal["auto", "off"] | int = "auto"
    encrypt: bool = True
    secret_key: str = field(default="", repr=False)
    bwlimit: str = ""
    strict_source: bool = False
    plan: Plan | None = None
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a backup node allows: this peer may mirror below these directories. keep: of the runs of
    this rule in `base` (see Charge) the newest so many stay, 0: all."""

    rule: str
    peer: str
    certificate: str
    name: str
    roots: tuple[str, ...]
    base: str = ""
    keep: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All that the controller wants of a node. number: rises with each change."""

    number: int
    charges: tuple[Charge, ...] = ()
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A pass that is over: from when to when (seconds since 1970), and what came of it. error: the
    code of errors.py that ended it."""

    stamp: str
    began: float
    ended: float
    files: int
    changed: int
    bytes_read: int
    bytes_sent: int
    problems: int
    error: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a charge stands at one moment. progress: whole percent of the pass. version: of the
    charge that it goes by. stamp: of the run, see Charge; while none is under way that of the last.
    next_run: seconds since 1970. reports: those of the parts that run (repl.report.plain). passes:
    how many are over; last: the last, or the one that failed."""

    rule: str
    version: str
    run: int
    state: State
    since: float
    progress: int = 0
    cause: str = ""
    remedy: str = ""
    blocked_on: str = ""
    stamp: str = ""
    next_run: float | None = None
    reports: tuple[Mapping[str, Any], ...] = ()
    passes: int = 0
    last: Run | None = None


def plain(data: Orders | Standing) -> dict[str, Any]:
    """As dictionaries, lists, strings and numbers, for a message or a file."""
    return asdict(data)


def read_orders(table: Mapping[str, Any]) -> Orders:
    """The orders that `plain` was made of. ProtocolError: it is none."""
    try:
        charges = tuple(_charge(one) for one in table.get("charges", ()))
        grants = tuple(Grant(**_known(Grant, one)) for one in table.get("grants", ()))
        orders = Orders(**_known(Orders, table) | {"charges": charges, "grants": grants})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"orders are malformed: {error!r:.200}") from error
    if len(orders.charges) > CHARGES_MOST or len(orders.grants) > CHARGES_MOST:
        raise ProtocolError(f"orders for more than {CHARGES_MOST} rules")
    return orders


def _charge(table: Mapping[str, Any]) -> Charge:
    values = _known(Charge, table)
    values["want"] = Want(values["want"])
    values["parts"] = tuple(Part(**_known(Part, part)) for part in values["parts"])
    if values.get("plan") is not None:
        values["plan"] = Plan.read(values["plan"])
    if not values["parts"] or len(values["parts"]) > PARTS_MOST:
        raise ValueError(f"{len(values['parts'])} parts")
    return Charge(**values)


def read_standing(table: Mapping[str, Any]) -> Standing:
    """The standing that `plain` was made of. ProtocolError: it is none, or holds what databases
    and JSON do not: a node may say anything."""
    try:
        values = _known(Standing, table)
        if not all(isinstance(one, Mapping) for one in values.get("reports", ())):
            raise TypeError("a report is no map")
        if not _is_sound(values):
            raise ValueError("it holds what is neither text nor a number")
        values["state"] = State(values["state"])
        if values.get("last") is not None:
            values["last"] = Run(**_known(Run, values["last"]))
        return Standing(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"a standing is malformed: {error!r:.200}") from error


def _known(kind: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Its fields; what another version wrote beside them is passed over. TypeError where one is of
    another type; of those that are made of several fields the caller sees to it."""
    hints = get_type_hints(kind)
    values = {key: table[key] for key in hints if key in table}
    for key, value in values.items():
        hint = hints[key]
        if get_origin(hint) is tuple:
            if not isinstance(value, list | tuple):
                raise TypeError(f"{key} is {value!r:.40}")
            if get_args(hint)[0] is str and not all(isinstance(one, str) for one in value):
                raise TypeError(f"{key} holds what is no text")
            values[key] = tuple(value)
        elif not _fits(value, hint):
            raise TypeError(f"{key} is {value!r:.40}")
    return values


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, one) for one in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and abs(value) <= _NUMBER_MAX  # type: ignore[arg-type]
    if hint is int:
        return type(value) is int and abs(value) <= _NUMBER_MAX
    if hint in (str, bool, type(None)):
        return type(value) is hint
    return isinstance(value, str if issubclass(hint, str) else Mapping)


def _is_sound(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _TEXT_MAX and "\0" not in value
    if isinstance(value, int | float):
        return abs(value) <= _SUM_MAX  # not-a-number is not either
    if isinstance(value, Mapping):
        return all(map(_is_sound, value)) and all(map(_is_sound, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_sound, value))
    return value is None
