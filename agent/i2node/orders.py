"""What the controller wants of a node, and what the node tells of it: plain data, in the words of
the RPC between them. The API's own words are translated into these once, in controller.terms.

The controller pushes all that it wants of a node at once, as Orders. The node keeps them on disk,
acknowledges, carries them out, and goes on with them when the controller is away. Texts are names
of files too: paths of the API are UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

from i2node.errors import ProtocolError
from i2node.model import State
from i2node.schedule import Plan

PARTS_MOST = 256
CHARGES_MOST = 1024
ORDERS_MOST = 32 << 20
"""Bytes of orders, packed."""
PIECE = 1 << 20
"""Bytes of them in one message."""
NUMBER_MAX = 1 << 53
_TEXT_MAX = 64 << 10
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
"""A half of a character, which JSON can hold and no name is made of."""


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
class Comparing:
    """While a rule replicates its trees are compared at these times: by size and times, or, strict,
    by content."""

    plan: Plan
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """While a rule replicates a copy of its run is kept every so many seconds: the first at `start`
    (seconds since 1970), 0: when the first pass is through. How many stay, the Grant says."""

    every_s: int
    start: int = 0


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

    excludes, check, owners, skip, compress, encrypt, secret_key, bwlimit are as in MirrorOptions.
    strict_source: the first pass stops at the first path that cannot be read. before, after:
    scripts of the work node that are run when the rule finishes, before the last pass and after it.
    comparing, copying: what is done beside the replication, None: nothing.
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
    owners: bool = True
    skip: Literal["", "files", "all"] = ""
    compress: Literal["auto", "off"] | int = "auto"
    encrypt: bool = True
    secret_key: str = field(default="", repr=False)
    bwlimit: str = ""
    strict_source: bool = False
    plan: Plan | None = None
    before: str = ""
    after: str = ""
    comparing: Comparing | None = None
    copying: Copying | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a backup node allows: this peer may mirror below these directories. keep: of the runs of
    this rule in `base` (see Charge) the newest so many stay, 0: all. copies: how many copies of a
    run there may be beside it, 0: no more are made; drop: another one takes the place of the
    oldest."""

    rule: str
    peer: str
    certificate: str
    name: str
    roots: tuple[str, ...]
    base: str = ""
    keep: int = 0
    copies: int = 0
    drop: bool = True


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
class Tally:
    """The numbers of a rule that runs, of all its parts together; each as repl.report.RuleReport
    has it of one. problems: paths in trouble. not_mirrored: what any part skipped of what was there
    before, which in_sync does not speak of. last_error: of the first part that has one."""

    files_total: int = 0
    files_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_sent: int = 0
    rate: float = 0.0
    dirty: int = 0
    in_flight: int = 0
    lag_s: float | None = None
    eta_s: float | None = None
    problems: int = 0
    in_sync: bool = False
    not_mirrored: Literal["", "files", "all"] = ""
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What came of something that was done beside the replication, for the rule's log. at: seconds
    since 1970, later than that of the note before. what: compare, copy. sound: nothing is to be
    done about it. error: the code of errors.py of what could not be done."""

    at: float
    what: str
    text: str
    sound: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a charge stands at one moment. progress: whole percent of the pass. version: of the
    charge that it goes by. stamp: of the run, see Charge; while none is under way that of the last.
    next_run: seconds since 1970. tally: while it runs. passes: how many are over; last: the last,
    or the one that failed. notes: the newest, in order."""

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
    tally: Tally | None = None
    passes: int = 0
    last: Run | None = None
    notes: tuple[Note, ...] = ()


def plain(data: Orders | Standing) -> dict[str, Any]:
    """As dictionaries, lists, strings and numbers, for a message or a file."""
    return asdict(data)


def packed(orders: Orders) -> bytes:
    """As they go over the wire: JSON, so that no bound of messages on items is theirs."""
    return json.dumps(plain(orders), ensure_ascii=False, separators=(",", ":")).encode()


def unpacked(body: bytes) -> Orders:
    """The orders that `packed` made this of. ProtocolError: it is none."""
    try:
        if _HALF.search(body):
            raise ValueError("half a character")
        table = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"orders are no JSON: {error!r:.200}") from error
    if not isinstance(table, Mapping):
        raise ProtocolError("orders are no map")
    return read_orders(table)


def pieces(body: bytes) -> Iterator[dict[str, Any]]:
    """Packed orders, as messages carry them; left: bytes that are still to come."""
    for at in range(0, len(body), PIECE):
        some = body[at : at + PIECE]
        yield {"body": some, "left": len(body) - at - len(some)}


class Gathered:
    """Pieces as they come."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._left: int | None = None

    def take(self, piece: Mapping[str, Any]) -> bytes | None:
        """The whole, once it is there. ProtocolError: this is no piece, or not the next."""
        body, left = piece.get("body"), piece.get("left")
        if not isinstance(body, bytes) or type(left) is not int or left < 0:
            raise ProtocolError("a piece of orders is malformed")
        if len(self._body) + len(body) + left > ORDERS_MOST:
            raise ProtocolError(f"orders of more than {ORDERS_MOST} bytes")
        if self._left is not None and self._left != len(body) + left:
            raise ProtocolError("a piece of orders is missing")
        self._body += body
        self._left = left
        if left:
            return None
        whole, self._body, self._left = bytes(self._body), bytearray(), None
        return whole


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
    if (comparing := values.get("comparing")) is not None:
        told = _known(Comparing, comparing)
        values["comparing"] = Comparing(**told | {"plan": Plan.read(told["plan"])})
    if (copying := values.get("copying")) is not None:
        values["copying"] = Copying(**_known(Copying, copying))
    if not values["parts"] or len(values["parts"]) > PARTS_MOST:
        raise ValueError(f"{len(values['parts'])} parts")
    return Charge(**values)


def read_standing(table: Mapping[str, Any]) -> Standing:
    """The standing that `plain` was made of. ProtocolError: it is none: a node may say anything."""
    try:
        values = _known(Standing, table)
        values["state"] = State(values["state"])
        for name, kind in (("tally", Tally), ("last", Run)):
            if values.get(name) is not None:
                values[name] = kind(**_known(kind, values[name]))
        values["notes"] = tuple(Note(**_known(Note, one)) for one in values.get("notes", ()))
        return Standing(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"a standing is malformed: {error!r:.200}") from error


def _known(kind: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Its fields; what another version wrote beside them is passed over. TypeError where one is of
    another type, or is what databases and JSON do not hold; of those that are made of several
    fields the caller sees to it."""
    values = {}
    for key, fits in _FIELDS[kind].items():
        if key in table:
            value = table[key]
            if not fits(value):
                raise TypeError(f"{key} is {value!r:.40}")
            values[key] = tuple(value) if isinstance(value, list) else value
    return values


def _fitting(hint: Any) -> Callable[[object], bool]:
    among = get_args(hint)
    if get_origin(hint) is Literal:
        return lambda value: value in among
    if get_origin(hint) is tuple:
        each = _fitting(among[0])
        return lambda value: isinstance(value, list | tuple) and all(map(each, value))
    if among:
        any_of = [_fitting(one) for one in among]
        return lambda value: any(fits(value) for fits in any_of)
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        # mypy does not follow a type that is looked up among several.
        return lambda value: type(value) in kinds and abs(value) <= NUMBER_MAX  # type: ignore[arg-type]
    if hint in (bool, type(None)):
        return lambda value: type(value) is hint
    return _is_text if issubclass(hint, str) else lambda value: isinstance(value, Mapping)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT_MAX and "\0" not in value


_FIELDS: Mapping[type, Mapping[str, Callable[[object], bool]]] = {
    kind: {name: _fitting(hint) for name, hint in get_type_hints(kind).items()}
    for kind in (
        *(Part, Comparing, Copying, Charge, Grant, Orders),
        *(Run, Tally, Note, Standing),
    )
}
"""By the name of a field: whether a value may stand there."""
