"""What a source keeps of a rule beside its journal: its name, its place, its excludes, and whether
it carries owners."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TypeGuard

from i2node.errors import UsageError
from i2node.model import MirrorOptions, show
from i2node.repl.journal import Journal

_UNOWNED = "unowned"


def rule_id(node: str, source: bytes, target: str) -> str:
    """The name of the rule that mirrors source to target; the same for the same three."""
    text = b"\0".join((node.encode(), source, target.encode("utf-8", "surrogateescape")))
    return hashlib.sha256(text).hexdigest()[:16]


def place_of(options: MirrorOptions) -> str:
    """Where the target stands, for `rule_id`: on the node that is expected, whatever its address;
    else at that address."""
    return f"{options.peer}:{show(options.target.path)}" if options.peer else str(options.target)


def is_rule(name: object) -> TypeGuard[str]:
    """Whether it can be one: a peer's word that goes into paths."""
    return isinstance(name, str) and 8 <= len(name) <= 64 and name.isascii() and name.isalnum()


def rule_home(state: Path, rule: str) -> Path:
    """The directory of a rule's state at its source."""
    return state / "rules" / rule


def lock_rule(home: Path, held: ExitStack) -> None:
    """One process runs a rule; makes its directory. Given back when held is closed."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(
            "this mirror is already running", "see i2node status; stop it first"
        ) from error


def keep(home: Path, options: MirrorOptions, journal: Journal) -> None:
    """Writes down at each start what the rule leaves out, so that a compare does too."""
    if excludes_of(home) != options.excludes:
        # What is left out from now on stays as it is, and is not to look gone; of what no longer
        # is, nobody knows how it is there: the target is asked.
        journal.doubt_all(journal.all_doubt or "quick")
        journal.commit()
        _keep_excludes(home, options.excludes)
    if options.owners:
        (home / _UNOWNED).unlink(missing_ok=True)
    else:
        (home / _UNOWNED).touch()


def _keep_excludes(home: Path, excludes: tuple[bytes, ...]) -> None:
    beside = home / "excludes.new"
    beside.write_bytes(b"".join(e + b"\0" for e in excludes))
    os.replace(beside, home / "excludes")


def owners_of(home: Path) -> bool:
    """Whether the rule carries owners."""
    return not (home / _UNOWNED).exists()


def excludes_of(home: Path) -> tuple[bytes, ...]:
    try:
        return tuple((home / "excludes").read_bytes().split(b"\0")[:-1])
    except FileNotFoundError:
        return ()
