"""What the rules of a target may lose, kept for each tree beside the ledger.

What may be lost is written down before it is lost, and what really was when the checkpoint comes:
a kill at any moment makes the brake no weaker. The record goes by the identity of the root, so that
no source gets a new one by calling its rule otherwise, or by taking its root to another place and
back. Nothing is synced but what a person decides: a power cut may forget the last seconds.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from i2node import log
from i2node.config import Limits
from i2node.errors import SafetyStop, SessionError, UsageError
from i2node.fs.tree import TargetTree, boot_id
from i2node.model import Kind, State, show
from i2node.mover import listing
from i2node.mover.batch import Applied
from i2node.repl.brake import Brake, Mark
from i2node.repl.ledger import Ledger, Record
from i2node.repl.report import RuleReport

_log = logging.getLogger(__name__)

LEASE = 64
"""Losses that are written down ahead, at least."""
ANYTHING = 1 << 62
"""It is counted all the same."""
AT_ONCE = 64
"""Directories that are listed at a time."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a rule is held back."""

    cause: str
    remedy: str


class Budget:
    """That of one tree, while a session has it. Calls are for any thread; `spare` and `used` stand
    around one call of batch.apply, and no checkpoint between them."""

    def __init__(
        self, path: Path, rule: str, source: str, tree: TargetTree, limits: Limits
    ) -> None:
        self.rule = rule
        self.source = source
        self.root = tree.root.path
        self.hold: Hold | None = None
        """Set while something is held back."""
        self.wake: Callable[[], None] = lambda: None
        """Called when a person has decided."""
        self._path = path
        self._limits = limits
        self._lock = threading.Lock()
        self._lease = 0
        self._written = True
        self._refused = False
        self._brake, self._exact = read(path)
        if self._brake is not None and self._brake.released:
            # Whoever sends the rest needs a moment to find it again.
            self._brake = replace(self._brake, lost_at=_now())

    @property
    def known(self) -> bool:
        """Whether it is known what the tree holds; else it is to be counted first. It is not where
        a kill came between what was lost and its being written down."""
        return self._brake is not None and self._exact

    def counted(self, entries: int) -> None:
        with self._lock:
            known = None if self._exact else self._brake
            self._brake = replace(known or Brake(entries, entries), entries=entries)
            self._exact = True
            self._write()

    # ------------------------------------------------------------------ applying

    def spare(self) -> int:
        """How much the next call may lose."""
        with self._lock:
            spare = self._known.spare(_now(), self._limits)
            return ANYTHING if spare is None else min(spare, self._lease)

    def used(self, done: Applied) -> None:
        """What that call did."""
        with self._lock:
            if done.gained or done.lost or done.shrunk:
                counts = (done.gained, done.lost, done.shrunk)
                self._brake = self._known.after(*counts, _now(), self._limits)
                self._lease -= min(self._lease, max(0, done.lost + done.shrunk - done.gained))
                self._written = False

    def grant(self, wanted: int) -> bool:
        """Whether so much may be lost by the next call, after what the last one wanted."""
        with self._lock:
            spare = self._known.spare(_now(), self._limits)
            if spare is not None and wanted > spare:
                return False
            if spare is not None:
                self._lease = min(spare, max(4 * wanted, LEASE))
            self._write()
            self.hold = None
            return True

    def hold_back(self, wanted: int, step: str) -> Hold:
        """What is refused is told, and written down. Raises SafetyStop when a person refused it."""
        with self._lock:
            now = _now()
            brake = self._brake = self._known.stand(now)
            minutes = round(self._limits.window_s / 60)
            cause = (
                f"the brake holds: {step} would take at least {wanted:,} of {brake.entries:,} "
                f"entries away, {brake.fallen(now, self._limits):,} went within {minutes} min, and "
                f"{brake.allowed(now, self._limits):,} may"
            )
            if self._refused:
                raise SafetyStop(
                    f"refused on {os.uname().nodename}; {cause}",
                    "bring back what is missing at the source, then start again; "
                    "what is held back was not done",
                )
            choices = f"i2node release {self.rule}, or i2node refuse {self.rule}"
            hold = Hold(cause, f"on {os.uname().nodename}: {choices}")
            if self.hold is None:
                self._write(lasting=True)
                root = show(self.root)
                log.event(
                    _log, logging.WARNING, "brake-holds", rule=self.rule, root=root, cause=cause
                )
            self.hold = hold
            return hold

    def checkpoint(self) -> None:
        """What was done is durable."""
        with self._lock:
            if self._lease or not self._written:
                self._lease = 0
                self._write()

    def quiet(self) -> None:
        """The source has nothing more to send for now, and all it sent is done."""
        with self._lock:
            self._set(self._known.quiet(_now()))

    def close(self, ended: bool) -> None:
        """The session is over; ended: the source said goodbye, and all it sent is done."""
        with self._lock:
            if self._brake is not None:
                if ended and self._brake.released:
                    self._brake = self._brake.quiet(_now(), ended=True)
                self._lease = 0
                self._write(lasting=True, over=self.known)

    def limit(self, limits: Limits) -> None:
        """These are in force from now on; what is held back is judged by them the next time."""
        with self._lock:
            self._limits = limits

    # ------------------------------------------------------------------ a person

    def release(self) -> None:
        """UsageError when nothing is held back, or that was decided; SessionError when it cannot be
        written down, and so is not released."""
        with self._lock:
            self._must_hold()
            before, self._brake = self._brake, self._known.release(_now())
            try:
                self._write(lasting=True)
            except SessionError:
                self._brake = before
                raise
        log.event(_log, logging.INFO, "brake-released", rule=self.rule)
        self.wake()

    def refuse(self) -> None:
        """UsageError as above."""
        with self._lock:
            self._must_hold()
            self._refused = True
        log.event(_log, logging.INFO, "brake-refused", rule=self.rule)
        self.wake()

    @property
    def decided(self) -> bool:
        """Whether a person has."""
        return self._refused or self._known.released

    def report(self) -> RuleReport:
        with self._lock:
            hold, brake = self.hold, self._brake
        return RuleReport(
            rule=self.rule,
            source=self.source,
            target=show(self.root),
            side="target",
            state=State.REPLICATION,
            phase=_phase(brake if self.known else None, hold),
            pid=os.getpid(),
            files_total=brake.entries if brake else 0,
            blocked_on="a person who releases or refuses it" if hold else "",
            cause=hold.cause if hold else "",
            remedy=hold.remedy if hold else "",
        )

    # ------------------------------------------------------------------ within

    @property
    def _known(self) -> Brake:
        assert self._brake is not None
        return self._brake

    def _must_hold(self) -> None:
        if self.hold is None:
            raise UsageError(f"rule {self.rule} holds nothing back", "see: i2node status")
        if self.decided:
            was = "refused" if self._refused else "released"
            raise UsageError(f"rule {self.rule} was {was} a moment ago", "see: i2node status")

    def _set(self, brake: Brake) -> None:
        if brake != self._brake:
            self._brake = brake
            self._written = False

    def _write(self, lasting: bool = False, over: bool = False) -> None:
        """As if all that may be lost until the next writing were lost. over: nothing will be; else
        what the tree holds is to be counted where something may."""
        now = _now()
        brake = self._known.after(0, 0, self._lease, now, self._limits)
        exact = over or (self.known and not self._lease and not brake.released)
        record = {"boot": boot_id(), "at": now, "exact": exact, "brake": asdict(brake)}
        text = json.dumps(record)
        beside = self._path.with_suffix(".new")
        try:
            with open(beside, "w", opener=_private) as file:
                file.write(text)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            raise SessionError(
                f"cannot write {self._path}: {error.strerror}", "free space in the state directory"
            ) from error
        self._written = True


class Budgets:
    """Those of the rules that one process serves."""

    def __init__(self, ledger: Ledger, limits: Callable[[str, str], Limits]) -> None:
        """limits: those of a rule with a root."""
        self._ledger = ledger
        self._limits = limits
        self._open: dict[str, Budget] = {}

    def open(self, rule: str, source: str, tree: TargetTree, fresh: bool) -> Budget:
        """For a session that has the rule in the ledger, until `close`. fresh: the tree is
        empty."""
        path = self._path(str(tree.root.identity))
        limits = self._limits(rule, os.fsdecode(tree.root.path))
        budget = Budget(path, rule, source, tree, limits)
        if fresh:
            budget.counted(0)
        self._open[rule] = budget
        return budget

    def close(self, rule: str, ended: bool) -> None:
        if (budget := self._open.pop(rule, None)) is not None:
            budget.close(ended)

    def limit(self, limits: Callable[[str, str], Limits]) -> None:
        """Others are in force from now on."""
        self._limits = limits
        for rule, budget in dict(self._open).items():
            budget.limit(limits(rule, os.fsdecode(budget.root)))

    def of(self, rule: str) -> Budget | None:
        """That of a rule whose source is connected."""
        return self._open.get(rule)

    def reports(self) -> list[RuleReport]:
        """Of all rules that were ever served here."""
        opened = dict(self._open)
        return [
            opened[record.rule].report() if record.rule in opened else self._away(record)
            for record in self._ledger.records()
        ]

    def _away(self, record: Record) -> RuleReport:
        brake, _ = read(self._path(f"{record.ino}-{record.birth}-{record.fs}"))
        held = brake is not None and brake.stands is not None
        return RuleReport(
            rule=record.rule,
            source=record.source,
            target=show(os.fsencode(record.root)),
            side="target",
            state=State.UNKNOWN,
            phase="no source is connected",
            pid=os.getpid(),
            files_total=brake.entries if brake else 0,
            cause="the brake held something back, which the source has still to do" if held else "",
            remedy="start the source: it asks again" if held else "",
        )

    def _path(self, identity: str) -> Path:
        return self._ledger.directory / f"{identity}.brake"


def read(path: Path) -> tuple[Brake | None, bool]:
    """A record, and whether its entries are exact; None where there is none, or it is damaged."""
    try:
        table = json.loads(path.read_text())
        fields = table["brake"]
        fields["marks"] = tuple(Mark(**mark) for mark in fields["marks"])
        brake = Brake(**fields)
        # Another boot began to count anew: no time is taken to have passed.
        here = table["boot"] == boot_id()
        return brake if here else brake.later(_now() - table["at"]), table["exact"] is True
    except (OSError, ValueError, TypeError, KeyError):
        return None, False


def count(tree: TargetTree, stop: Callable[[], bool]) -> int:
    """The names that a tree holds; those that cannot be listed are not among them."""
    found, left = 0, [b""]
    while left and not stop():
        asked, left = left[-AT_ONCE:], left[:-AT_ONCE]
        wanted = [(path, () if path else tree.skip) for path in asked]
        answers = tree.root.list_dirs(wanted, threads=2)
        for path, answer in zip(asked, answers, strict=True):
            found += answer.n
            above = path + b"/" if path else b""
            left += [above + e.name for e in listing.kept(answer.entries, Kind.DIR)]
    return found


def _phase(brake: Brake | None, hold: Hold | None) -> str:
    if brake is None:
        return "count"
    return "held" if hold else "released" if brake.released else "receive"


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
