"""What a source keeps of a rule beside its journal: its name, its place, its excludes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def rule_id(node: str, source: bytes, target: str) -> str:
    """The name of the rule that mirrors source to target; the same for the same three."""
    text = b"\0".join((node.encode(), source, target.encode("utf-8", "surrogateescape")))
    return hashlib.sha256(text).hexdigest()[:16]


def rule_home(state: Path, rule: str) -> Path:
    """The directory of a rule's state at its source."""
    return state / "rules" / rule


def keep_excludes(home: Path, excludes: tuple[bytes, ...]) -> None:
    """Written at each start, so that a compare leaves out what the mirror left out."""
    beside = home / "excludes.new"
    beside.write_bytes(b"".join(e + b"\0" for e in excludes))
    os.replace(beside, home / "excludes")


def excludes_of(home: Path) -> tuple[bytes, ...]:
    try:
        return tuple((home / "excludes").read_bytes().split(b"\0")[:-1])
    except FileNotFoundError:
        return ()
