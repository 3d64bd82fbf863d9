"""What a target remembers of the rules it serves: one small file each, in the state directory.

A record binds a rule to the source that made it, to the directory that is its root, and to a token
that changes with every session. A source whose token is not the one kept here does not know what
this tree holds (its state or ours was lost, or restored from an older copy): then both sides are
compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from i2node.errors import SafetyStop, SessionError
from i2node.fs.tree import TargetTree, boot_id, within
from i2node.model import show

HANDOVER_S = 10.0
"""How long a new session of a rule waits for the old one to let go."""


@dataclass(frozen=True, slots=True)
class Record:
    """A rule as the target knows it. source is for people, origin tells which directory that is.
    root is text with undecodable bytes escaped as surrogates."""

    rule: str
    peer: str
    source: str
    origin: str
    root: str
    ino: int
    birth: int
    fs: str
    token: str
    boot: str


class Ledger:
    """The records of one node. Sessions of one rule exclude each other; the newer one wins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rebooted = False
        self._lock = threading.Condition()
        self._holders: dict[str, tuple[int, Callable[[], None]]] = {}

    def lock(self, rule: str, give_way: Callable[[], None]) -> None:
        """Takes the rule for a session. An older session of this process is asked to give way; one
        of another process is a SessionError."""
        with self._lock:
            held = self._holders.get(rule)
            if held is not None:
                held[1]()
                if not self._lock.wait_for(lambda: rule not in self._holders, HANDOVER_S):
                    raise SessionError(
                        f"rule {rule} is still busy with an earlier session",
                        "tried again by itself",
                    )
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(
                self.directory / f"{rule}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise SessionError(
                    f"rule {rule} is in use by another agent on this host",
                    "stop the other agent; tried again by itself",
                ) from error
            self._holders[rule] = (fd, give_way)

    def unlock(self, rule: str) -> None:
        with self._lock:
            held = self._holders.pop(rule, None)
            if held is not None:
                os.close(held[0])
            self._lock.notify_all()

    def admit(
        self,
        rule: str,
        peer: str,
        tree: TargetTree,
        tokens: list[str],
        following: str,
        *,
        adopt: bool,
        source: str,
        origin: str,
    ) -> str:
        """Whether the rule may have this root, and how it starts: fresh, known or unknown.

        Raises SafetyStop, unless `adopt` is asked for, when the directory holds what this rule did
        not put there, when the file system it was on is not mounted, and when the source is
        another directory than before (what the source knows of that itself may be lost).
        """
        root = os.fsdecode(tree.root.path)
        record = self._read(rule)
        identity = tree.root.identity
        held = [
            n
            for n in os.listdir(tree.root.fd)
            if n.encode("utf-8", "surrogateescape") not in tree.skip
        ]
        boot = boot_id()
        self.rebooted = record is not None and record.boot != boot
        ours = (
            record is not None
            and record.peer == peer
            and record.root == root
            and (record.ino, record.birth, record.fs) == (identity.ino, identity.birth, identity.fs)
        )
        if record is not None and record.root == root and not adopt:
            if record.fs != identity.fs:
                raise SafetyStop(
                    f"target {show(tree.root.path)} is on another file system than before: its "
                    "own is not mounted, or it was replaced",
                    "mount it; if it was replaced on purpose, run once with --adopt",
                )
            if record.peer == peer and record.origin != origin:
                raise SafetyStop(
                    f"{source} is not the directory that was mirrored to "
                    f"{show(tree.root.path)} before: its file system is not mounted, or it was "
                    "replaced",
                    "mount it; if it was replaced on purpose, run once with --adopt. "
                    "Nothing was deleted",
                )
        if not held:
            status = "fresh"
        elif ours and record is not None:
            status = "known" if record.token in tokens else "unknown"
        elif adopt:
            status = "unknown"
        else:
            some = ", ".join(show(os.fsencode(n)) for n in sorted(held)[:3])
            raise SafetyStop(
                f"target {show(tree.root.path)} holds {len(held)} entries that this rule did "
                f"not put there: {some}{', ...' if len(held) > 3 else ''}",
                "empty it, choose another directory, or compare and reuse it with --adopt",
            )
        self._write(
            Record(
                rule,
                peer,
                source,
                origin,
                root,
                identity.ino,
                identity.birth,
                identity.fs,
                following,
                boot,
            )
        )
        return status

    def apart(self, rule: str, path: bytes) -> None:
        """SafetyStop when the roots of two rules would be one or nest: each would delete what the
        other puts there. Asked before the directory is made, which may be inside the other's."""
        for other in self.records():
            if other.rule == rule:
                continue
            theirs = os.fsencode(other.root)
            if (within(path, theirs) or within(theirs, path)) and os.path.isdir(theirs):
                raise SafetyStop(
                    f"target {show(path)} overlaps {show(theirs)}, "
                    f"which belongs to rule {other.rule} of {other.source or other.peer[:12]}",
                    f"choose another directory, or remove {other.rule}.json from "
                    f"{self.directory} if that rule is no more",
                )

    def records(self) -> list[Record]:
        if not self.directory.is_dir():
            return []
        found = (self._read(p.stem) for p in sorted(self.directory.glob("*.json")))
        return [r for r in found if r is not None]

    def _read(self, rule: str) -> Record | None:
        try:
            return Record(**json.loads((self.directory / f"{rule}.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            # A damaged record knows nothing: the tree is compared, or refused if it is not empty.
            return None

    def _write(self, record: Record) -> None:
        path = self.directory / f"{record.rule}.json"
        beside = path.with_suffix(".new")
        try:
            with open(beside, "w", opener=_private) as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError as error:
            raise SessionError(
                f"cannot write {path}: {error.strerror}", "free space in the state directory"
            ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
