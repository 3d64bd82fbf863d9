"""What a target removes of its own accord: the trees of a rule that is no more, and old runs.

Nothing is removed but what the ledger says a rule put there: from the very directory that the rule
had, below a root that it may use, and without leaving its file system. Symlinks on the way lead
nowhere.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from i2node import log
from i2node.errors import I2Error, SafetyStop
from i2node.fs.directory import remove_empty
from i2node.fs.tree import TargetTree, remedy_for, resolve_target, within
from i2node.model import show
from i2node.mover import batch
from i2node.mover.batch import Op
from i2node.repl.ledger import Ledger, Record
from i2node.repl.plan import join

_log = logging.getLogger(__name__)

AT_ONCE = 256
"""Names that are removed by one call."""
_STAMP = re.compile(rb"[0-9]{14}")


@dataclass(slots=True)
class Cleared:
    """Roots that were removed with all they held; what is left, and why: both for people."""

    removed: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)


def clear(
    ledger: Ledger,
    state: Path,
    records: Iterable[Record],
    roots: Sequence[Path],
    own: Sequence[Path],
    keep_root: bool,
) -> Cleared:
    """Removes what these rules put below roots. Sessions that they have are ended first.

    keep_root: directories above a rule's own stay. own: as of resolve_target. Raises SessionError
    when a rule is busy.
    """
    done = Cleared()
    # The inner ones first, where they nest.
    inner = sorted(records, key=lambda record: len(record.root), reverse=True)
    with ExitStack() as held:
        for record in inner:
            ledger.lock(record.rule, record.peer, lambda: None)
            held.callback(ledger.unlock, record.rule)
        for record in inner:
            path = os.fsencode(record.root)
            try:
                _clear(ledger, state, record, roots, own, keep_root, done)
            except I2Error as error:
                done.left.append((show(path), error.cause))
    return done


def _clear(
    ledger: Ledger,
    state: Path,
    record: Record,
    roots: Sequence[Path],
    own: Sequence[Path],
    keep_root: bool,
    done: Cleared,
) -> None:
    path = os.fsencode(record.root)
    if resolve_target(path, roots, own) != path:
        raise SafetyStop(f"a symlink stands on the way to {show(path)}")
    if os.path.lexists(path):
        tree = TargetTree(path, record.rule, state, roots, beside=record.home)
        try:
            found = tree.root.identity
            if (found.ino, found.birth, found.fs) != (record.ino, record.birth, record.fs):
                raise SafetyStop(f"{show(path)} is not the directory that the rule had")
            left = _emptied(tree)
            tree.shelf.sweep()
        finally:
            tree.close()
        if left:
            done.left += left
            return
        brake = ledger.directory / f"{found}.brake"
        brake.unlink(missing_ok=True)
    real = [os.path.realpath(os.fsencode(root)) for root in roots]
    above = max((root for root in real if within(path, root)), key=len)
    remove_empty(path, os.path.dirname(path) if keep_root and path != above else above)
    ledger.forget(record.rule)
    done.removed.append(show(path))
    log.event(_log, logging.INFO, "target-cleared", rule=record.rule, root=show(path))


def _emptied(tree: TargetTree) -> list[tuple[str, str]]:
    """Removes all that the root holds; gives what could not be."""
    names = [os.fsencode(name) for name in os.listdir(tree.root.fd)]
    names = [name for name in names if name not in tree.skip]
    left: list[tuple[str, str]] = []
    for at in range(0, len(names), AT_ONCE):
        some = names[at : at + AT_ONCE]
        steps = b"".join(batch.step(Op.REMOVE, name) for name in some)
        gone = batch.apply(tree.root.fd, tree.stage(), steps, shelf=tree.shelf.fd)
        for fault in gone.faults:
            path = join(tree.root.path, some[fault.step])
            cause = os.strerror(fault.status)
            left.append((show(path), f"{cause} {remedy_for(fault.status)}".strip()))
    return left


def spent(
    records: Iterable[Record], rule: str, peer: str, base: bytes, keep: int
) -> dict[bytes, tuple[Record, ...]]:
    """Which runs of a rule go when so many of those that are complete stay: by the directory of the
    run, with the records of its parts. Pure."""
    runs: dict[bytes, list[Record]] = {}
    for record in records:
        below = os.fsencode(record.root)[len(base.rstrip(b"/")) + 1 :]
        stamp = below.partition(b"/")[0]
        ours = (record.whole, record.peer) == (rule, peer) and not record.as_of
        if ours and within(os.fsencode(record.root), base) and _STAMP.fullmatch(stamp):
            runs.setdefault(stamp, []).append(record)
    complete = sorted(stamp for stamp, parts in runs.items() if _complete(parts))
    gone = complete[:-keep] if keep > 0 else []
    return {stamp: tuple(runs[stamp]) for stamp in gone}


def _complete(parts: list[Record]) -> bool:
    return all(part.complete for part in parts) and len(parts) == parts[0].parts


def prune(
    ledger: Ledger,
    state: Path,
    rule: str,
    peer: str,
    base: bytes,
    keep: int,
    roots: Sequence[Path],
    own: Sequence[Path],
) -> None:
    """Removes the runs that are to stay no longer. What cannot be removed is told in the log, and
    tried again when another run is complete."""
    for stamp, parts in spent(ledger.records(), rule, peer, base, keep).items():
        fields = {"rule": rule, "run": stamp.decode()}
        try:
            done = clear(ledger, state, parts, roots, own, keep_root=False)
        except I2Error as error:
            log.event(_log, logging.WARNING, "run-stays", cause=error.cause, **fields)
            continue
        for path, cause in done.left[:1]:
            log.event(_log, logging.WARNING, "run-stays", path=path, cause=cause, **fields)
        with suppress(IndexError):
            log.event(_log, logging.INFO, "run-removed", root=done.removed[-1], **fields)
