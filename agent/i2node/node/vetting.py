"""Whether a node can carry out what it is ordered. Pure. Types were checked when the orders were
read; here it is meaning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from i2node.errors import I2Error, UsageError
from i2node.fs.tree import within
from i2node.net.identity import check_certificate, pem_to_der
from i2node.net.throttle import parse_plan
from i2node.orders import Charge, Grant, Orders, Want
from i2node.schedule import Plan

_RULE = re.compile(r"[0-9A-Za-z-]{1,64}")
_EDIT = "correct the rule at the controller"
_PATH_MAX = 4095


@dataclass(frozen=True, slots=True)
class Vetted:
    """orders: what of them can be carried out. refused: the charges that cannot. faults: why, by
    rule, of those and of grants."""

    orders: Orders
    refused: tuple[Charge, ...]
    faults: Mapping[str, UsageError]


def vet(orders: Orders) -> Vetted:
    """A rule that cannot be carried out holds up no other. UsageError: it cannot be told which
    rules these are."""
    _once("charges", [charge.rule for charge in orders.charges])
    _once("grants", [grant.rule for grant in orders.grants])
    several: tuple[Charge | Grant, ...] = (*orders.charges, *orders.grants)
    for each in several:
        if not _RULE.fullmatch(each.rule):
            raise UsageError(f"rule {each.rule!r:.80} is no uuid", "this is a defect over there")
    faults = {each.rule: fault for each in several if (fault := _fault(each)) is not None}
    sound = replace(
        orders,
        charges=tuple(charge for charge in orders.charges if charge.rule not in faults),
        grants=tuple(grant for grant in orders.grants if grant.rule not in faults),
    )
    refused = tuple(charge for charge in orders.charges if charge.rule in faults)
    return Vetted(sound, refused, faults)


def still(charge: Charge) -> Charge:
    """A refused one, with nothing in it that a rule which stands still would be decided by."""
    return replace(charge, want=Want.STOP, plan=None, bwlimit="")


def _fault(each: Charge | Grant) -> UsageError | None:
    try:
        _peer(each)
        _charge(each) if isinstance(each, Charge) else _grant(each)
    except (I2Error, ValueError) as error:
        cause = error.cause if isinstance(error, I2Error) else str(error)
        return UsageError(f"the node refuses the rule: {cause}", _EDIT)
    return None


def _once(kind: str, rules: list[str]) -> None:
    twice = [rule for rule, n in Counter(rules).items() if n > 1]
    if twice:
        raise UsageError(f"rule {twice[0]!r:.80} has two {kind}", "this is a defect over there")


def _peer(each: Charge | Grant) -> None:
    if check_certificate(pem_to_der(each.certificate)) != each.peer:
        raise ValueError("the certificate is not that of the node it names")


def _charge(charge: Charge) -> None:
    if not charge.host or not 0 < charge.port <= 65535 or not charge.host.isprintable():
        raise ValueError(f"no address: {charge.host!r:.80}, port {charge.port}")
    parse_plan(charge.bwlimit)
    if not isinstance(charge.compress, str) and not 1 <= charge.compress <= 22:
        raise ValueError(f"no level of compression: {charge.compress}")
    for exclude in charge.excludes:
        _text("an exclude", exclude)
    for script in (charge.before, charge.after):
        _text("a script", script)
    if charge.base:
        _absolute("the base", charge.base)
    if charge.plan is not None:
        _plan(charge.plan)
    if charge.comparing is not None:
        _plan(charge.comparing.plan)
    if charge.copying is not None:
        _copying(charge)
    for part in charge.parts:
        _absolute("a source", part.source)
        if charge.base and part.target:
            raise ValueError("a target of its own beside a base")
        if not charge.base:
            _absolute("a target", part.target)
    sources = [part.source.rstrip("/") for part in charge.parts]
    if len(set(sources)) < len(sources):
        raise ValueError("the same source twice")


def _copying(charge: Charge) -> None:
    copying = charge.copying
    if copying is not None and not (charge.base and charge.plan is None):
        raise ValueError("copies of what is no run that goes on, below a base")
    if copying is not None and not (0 < copying.every_s < 1 << 35 and 0 <= copying.start < 1 << 35):
        raise ValueError(f"no times for copies: every {copying.every_s} s from {copying.start} on")


def _grant(grant: Grant) -> None:
    for root in grant.roots:
        _absolute("a root", root)
    if grant.base:
        _absolute("the base", grant.base)
        if not any(within(grant.base.encode(), root.encode()) for root in grant.roots):
            raise ValueError(f"the base {grant.base} is below none of its roots")
    if grant.keep < 0:
        raise ValueError(f"{grant.keep} runs cannot be kept")
    if grant.copies < 0 or (grant.copies and not grant.base):
        raise ValueError(f"{grant.copies} copies cannot be kept")


def _plan(plan: Plan) -> None:
    """A plan of which the next moment can always be told."""
    if plan.once_at is not None and not 0 <= plan.once_at < 1 << 35:
        raise ValueError(f"no moment: {plan.once_at}")
    for slot in plan.slots:
        minutes = (*slot.times, slot.start, slot.end)
        if not all(0 <= minute <= 24 * 60 for minute in minutes) or not 0 <= slot.gap <= 24 * 60:
            raise ValueError("a schedule with no times of the day")


def _absolute(what: str, path: str) -> None:
    _text(what, path)
    parts = path.rstrip("/").split("/")[1:]
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{what} is not a plain absolute path: {path!r:.200}")


def _text(what: str, text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is no text: {text!r:.80}") from error
    if b"\0" in raw or len(raw) > _PATH_MAX:
        raise ValueError(f"{what} is no path: {text!r:.80}")
