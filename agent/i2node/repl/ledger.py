"""What a target remembers of the rules it serves: one small file each, in the state directory.

A record binds a rule to the source that made it, to the directory that is its root, and to a token
that changes with every session. A source whose token is not the one kept here does not know what
this tree holds (its state or ours was lost, or restored from an older copy): then both sides are
compared.

A rule belongs to the node that made it: another one neither gets it, nor ends its session, nor may
read what it mirrors, whatever it calls itself; to adopt a tree is for its own node.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from i2node.errors import Refused, SafetyStop, SessionError
from i2node.fs.tree import TargetTree, boot_id, within
from i2node.model import Whole, show
from i2node.mover import batch, listing
from i2node.repl.plan import join

HANDOVER_S = 10.0
"""How long a new session of a rule waits for the old one to let go."""


@dataclass(frozen=True, slots=True)
class Record:
    """A rule as the target knows it. source is for people, origin tells which directory that is.
    root is text with undecodable bytes escaped as surrogates. whole: the name of what the rule is
    one of so many parts of, empty: of nothing; beside: where it works, see `beside`, empty: beside
    its root. complete: its source brought all, and is done. as_of: of a copy of a run the moment
    (seconds since 1970) up to which it has all changes, 0: it is none."""

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
    whole: str = ""
    parts: int = 1
    beside: str = ""
    complete: bool = False
    as_of: float = 0.0

    @property
    def home(self) -> bytes:
        """The directory where what the rule works with may stand, if not in the agent's own."""
        return os.fsencode(self.beside or os.path.dirname(self.root))


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who has a rule: by a lock on its file, for which node, and how it is asked to let go."""

    fd: int
    peer: str
    give_way: Callable[[], None]


class Ledger:
    """The records of one node. Sessions of one rule exclude each other; the newer one wins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rebooted = False
        self._losses: dict[str, str] = {}
        self._lock = threading.Condition()
        self._holders: dict[str, _Holder] = {}
        self._stills: dict[str, threading.Lock] = {}

    def still(self, rule: str) -> threading.Lock:
        """What whoever changes the tree of a rule holds meanwhile; and who needs it to stand
        still."""
        with self._lock:
            return self._stills.setdefault(rule, threading.Lock())

    def lock(self, rule: str, peer: str, give_way: Callable[[], None]) -> None:
        """Takes the rule for a session of its node, until `unlock`. An older session of this
        process is asked to give way; one of another process is a SessionError. Refused when the
        rule is another node's."""
        self._owned(rule, peer)
        with self._lock:
            held = self._holders.get(rule)
            if held is not None:
                if held.peer != peer:
                    raise _foreign(rule)
                held.give_way()
                if not self._lock.wait_for(lambda: rule not in self._holders, HANDOVER_S):
                    raise SessionError(
                        f"rule {rule} is still busy with an earlier session",
                        "tried again by itself",
                    )
            self._holders[rule] = _Holder(self._lock_file(rule), peer, give_way)

    def unlock(self, rule: str) -> None:
        """Gives back what `lock` took. Of a rule that was not admitted nothing stays."""
        with self._lock:
            held = self._holders.pop(rule)
            if not os.path.exists(self.directory / f"{rule}.json"):
                with suppress(FileNotFoundError):
                    os.unlink(self.directory / f"{rule}.lock")
            os.close(held.fd)
            self._lock.notify_all()

    def _lock_file(self, rule: str) -> int:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._locked_file(rule)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise SessionError(
                f"cannot use the target's state directory {self.directory}: {why}",
                "make it writable, with free space; tried again by itself",
            ) from error

    def _locked_file(self, rule: str) -> int:
        path = self.directory / f"{rule}.lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise SessionError(
                    f"rule {rule} is in use by another agent on this host",
                    "stop the other agent; tried again by itself",
                ) from error
            # Whoever had it before may have taken the file away.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            os.close(fd)

    def _owned(self, rule: str, peer: str) -> None:
        record = self._read(rule)
        if record is not None and record.peer != peer:
            raise _foreign(rule)

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
        whole: Whole | None = None,
    ) -> str:
        """Whether the rule, which is locked, may have this root, and how it starts: fresh, known or
        unknown.

        Raises Refused when the rule is another node's, and SafetyStop, unless `adopt` is asked for,
        when the directory holds what this rule did not put there, when the file system it was on is
        not mounted, and when the source is another directory than before (what the source knows of
        that itself may be lost). The roots of other parts of the same whole may stand in it.
        """
        self._owned(rule, peer)
        root = os.fsdecode(tree.root.path)
        record = self._read(rule)
        identity = tree.root.identity
        held = [
            n
            for n in os.listdir(tree.root.fd)
            if n.encode("utf-8", "surrogateescape") not in tree.skip
        ]
        boot = self.boot(rule)
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
        elif whole is not None and _only_ways(tree, whole):
            status = "fresh"
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
                *(("", 1) if whole is None else (whole.name, len(whole.parts))),
                os.fsdecode(beside(tree.root.path, whole)),
            )
        )
        return status

    def completed(self, rule: str) -> None:
        """The source of a rule, which is locked, is done with it, and all is durable."""
        record = self._read(rule)
        if record is not None and record.whole:
            self._write(replace(record, complete=True))

    def keep(self, record: Record) -> None:
        """Remembers a tree that no session brought. SessionError: the disk refuses."""
        self._write(record)

    def forget(self, rule: str) -> None:
        """Of a rule, which is locked, the tree is no more."""
        for kind in ("json", "unwritten"):
            with suppress(FileNotFoundError):
                os.unlink(self.directory / f"{rule}.{kind}")

    def private(self, path: bytes, peer: str) -> None:
        """Refused when a directory holds what another node mirrors, or is held by it: who may keep
        a mirror here may not read those of others."""
        for other in self.records():
            theirs = os.fsencode(other.root)
            if other.peer != peer and (within(path, theirs) or within(theirs, path)):
                raise Refused(
                    f"target {show(path)} holds what another node mirrors",
                    "compare a directory that this node mirrors itself",
                )

    def apart(self, rule: str, peer: str, path: bytes, whole: Whole | None = None) -> None:
        """SafetyStop when the roots of two rules would be one or nest: each would delete what the
        other puts there. Asked before the directory is made, which may be inside the other's. Those
        of one whole and one node may nest: the outer one leaves the other out at its source."""
        family = {rule for rule, _ in whole.parts} if whole else set()
        for other in self.records():
            if other.rule == rule:
                continue
            theirs = os.fsencode(other.root)
            if other.rule in family and other.peer == peer and theirs != path:
                continue
            if (within(path, theirs) or within(theirs, path)) and os.path.isdir(theirs):
                # Where another node's source is, is none of this one's business.
                source = other.source if other.peer == peer else ""
                raise SafetyStop(
                    f"target {show(path)} overlaps {show(theirs)}, "
                    f"which belongs to rule {other.rule} of {source or other.peer[:12]}",
                    f"choose another directory, or remove {other.rule}.json from "
                    f"{self.directory} if that rule is no more",
                )

    def unwritten(self, rule: str) -> None:
        """The disk lost what was written for a rule: from now on it is as after a boot."""
        self._losses[rule] = secrets.token_hex(8)
        path = self.directory / f"{rule}.unwritten"
        with suppress(OSError), open(path, "w", opener=_private) as file:
            file.write(self._losses[rule])
            file.truncate()

    def boot(self, rule: str) -> str:
        """Since when the system has all that was written for a rule, if not on disk: another text
        after each boot, and each loss."""
        if rule not in self._losses:
            try:
                kept = (self.directory / f"{rule}.unwritten").read_text("ascii")[:16]
            except (OSError, ValueError):
                kept = ""
            self._losses[rule] = kept
        return f"{boot_id()} {self._losses[rule]}".strip()

    def records(self) -> list[Record]:
        if not self.directory.is_dir():
            return []
        found = (self._read(p.stem) for p in sorted(self.directory.glob("*.json")))
        return [r for r in found if r is not None]

    def _read(self, rule: str) -> Record | None:
        try:
            record = Record(**json.loads((self.directory / f"{rule}.json").read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):
            return None
        # A damaged record knows nothing: the tree is compared, or refused if it is not empty.
        return record if record.rule == rule and _is_sound(record) else None

    def _write(self, record: Record) -> None:
        path = self.directory / f"{record.rule}.json"
        beside = path.with_suffix(".new")
        try:
            with open(beside, "w", opener=_private) as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            _settle(self.directory)
        except OSError as error:
            raise SessionError(
                f"cannot write {path}: {error.strerror}", "free space in the state directory"
            ) from error


def beside(path: bytes, whole: Whole | None) -> bytes:
    """The directory above a root that lies in that of another part of the same whole, and above
    that: what is put right beside it would be in the other's tree. Empty where none has it."""
    tops = [root for _, root in whole.parts if within(path, root)] if whole else []
    top = min(tops, key=len, default=path)
    return b"" if top == path else os.path.dirname(top)


def _only_ways(tree: TargetTree, whole: Whole) -> bool:
    """Whether all that a root holds is the roots of other parts and the directories that lead
    there, which hold nothing else."""
    top = tree.root.path.rstrip(b"/") + b"/"
    below = {path[len(top) :] for _, path in whole.parts if path.startswith(top)}
    ways = {b"/".join(path.split(b"/")[:n]) for path in below for n in range(path.count(b"/") + 1)}
    for way in {b""} | ways - below:
        (listed,) = batch.list_dirs(
            tree.root.fd, tree.root.dev, [(way, tree.skip if not way else ())]
        )
        names = {join(way, entry.name) for entry in listing.entries(listed.entries)}
        if listed.status not in (0, errno.ENOENT) or not names <= ways | below:
            return False
    return bool(below)


def _foreign(rule: str) -> Refused:
    return Refused(
        f"rule {rule} belongs to another node",
        "mirror from that node; or, where it is no more, remove its record on the target",
    )


def _settle(directory: Path) -> None:
    """The names in it are as durable as what they lead to."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_sound(record: Record) -> bool:
    texts: tuple[object, ...]
    texts = (record.rule, record.peer, record.source, record.origin, record.root)
    texts += (record.fs, record.token, record.boot, record.whole, record.beside)
    if not all(isinstance(t, str) for t in texts) or type(record.parts) is not int:
        return False
    if type(record.as_of) not in (int, float):
        return False
    try:
        path = os.fsencode(record.root)
    except UnicodeEncodeError:
        return False
    return path[:1] == b"/" and b"\0" not in path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
