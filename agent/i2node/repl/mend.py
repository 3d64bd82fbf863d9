"""What a crash of the target left half changed, finished before anybody looks at it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from i2node import log
from i2node.errors import I2Error
from i2node.fs.root import Root
from i2node.fs.tree import TargetTree, journals, remedy_for, resolve_target
from i2node.model import show
from i2node.mover import batch
from i2node.repl.ledger import Ledger, Record

_log = logging.getLogger(__name__)


def apply_flags(tree: TargetTree) -> int:
    """For applying: only root can give files to others, and what a file system refuses is kept
    aside where it can be. Where not it was told before the rule started, and is no problem of each
    file."""
    owner = 0 if os.geteuid() == 0 else batch.APPLY_NO_OWNER
    return owner | (batch.APPLY_ASIDE if tree.shelf.able else batch.APPLY_LOSE)


def mend(tree: TargetTree, rule: str) -> None:
    """No file may be seen that an earlier session left half changed. Raises SessionError when the
    disk refuses."""
    for path, done in tree.redo(apply_flags(tree)):
        event = "redo-replayed" if done else "redo-dropped"
        log.event(_log, logging.INFO, event, rule=rule, path=show(path))


def mend_all(ledger: Ledger, state: Path, allowed: Sequence[Path]) -> None:
    """The same for every rule that was ever served here, when the agent starts: the source may be
    what is lost. What cannot be done now is told, and done when the rule's next session opens."""
    for record in ledger.records():
        path = os.fsencode(record.root)
        if not any(journals(path, record.rule, state, record.home)):
            continue
        try:
            resolve_target(path, allowed)
            if _is_there(path, record):
                _mend_locked(ledger, record, state, allowed)
        except I2Error as error:
            _failed(record.rule, error.cause, error.remedy)
        except OSError as error:
            _failed(record.rule, str(error), remedy_for(error.errno or 0))


def _failed(rule: str, cause: str, remedy: str) -> None:
    log.event(_log, logging.WARNING, "redo-failed", rule=rule, cause=cause, remedy=remedy)


def _is_there(path: bytes, record: Record) -> bool:
    root = Root(path)
    try:
        found = root.identity
        return (found.ino, found.birth, found.fs) == (record.ino, record.birth, record.fs)
    finally:
        root.close()


def _mend_locked(ledger: Ledger, record: Record, state: Path, allowed: Sequence[Path]) -> None:
    ledger.lock(record.rule, record.peer, lambda: None)
    try:
        root = os.fsencode(record.root)
        tree = TargetTree(root, record.rule, state, allowed, beside=record.home)
        try:
            mend(tree, record.rule)
        finally:
            tree.close()
    finally:
        ledger.unlock(record.rule)
