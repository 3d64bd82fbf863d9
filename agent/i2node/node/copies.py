"""Copies of a run that a backup node keeps beside it, as the work node asks for them: each is a
directory below the rule's base like that of a run, named by the time at which it was asked for.

    work node                              backup node
    copy {rule, run, name, as_of}       →                    first on a channel of its own
                                        ←  copying {}         every ALIVE_S, while it is made
                                        ←  copied {files, shared, problems, kept, gone}
                                           or full {kept}, or error {code, cause, remedy}

While it is made the trees of the run stand still: what their sessions send waits. It stands under
another name until it is complete and durable; where the work node does not wait for it any more it
is given up. What is left of one that was not finished is removed before the next.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2node import log
from i2node.errors import I2Error, Refused, SessionError, TargetFault, UsageError
from i2node.fs.directory import open_directory
from i2node.fs.root import Root
from i2node.fs.tree import TargetTree, half_changed, journals, make_target, remedy_for, within
from i2node.model import show
from i2node.mover import batch
from i2node.net.channel import Channel
from i2node.orders import Grant
from i2node.repl.clearing import clear
from i2node.repl.duplicate import Duplicate
from i2node.repl.ledger import Record
from i2node.repl.remote import error_message

if TYPE_CHECKING:
    from i2node.node.grants import Grants

_log = logging.getLogger(__name__)

ALIVE_S = 2.0
STILL_S = 60.0
"""How long a step that is under way in a tree is waited for ..."""
WHOLE_S = 60.0
"""... and how long until no file is half changed, which is so where the disk refused a change."""
LOOK_S = 0.5
SPARE = 20
"""One part in so many of a file system stays free."""
STAGING = b".i2node-copy-"
_STAMP = re.compile(r"[0-9]{14}")


@dataclass(slots=True)
class _Made:
    """files: all but directories. shares: it takes no room of its own for what is in them.
    problems: attributes that it could not get."""

    files: int = 0
    shares: bool = True
    problems: int = 0


class Copies:
    """Of one node; any thread. One is made at a time."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._ledger = grants.ledger
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    # ------------------------------------------------------------------ asked for

    def serve(self, channel: Channel, message: Mapping[str, Any]) -> None:
        """Answers `copy` on a channel that is for nothing else."""
        done = threading.Event()
        beside = threading.Thread(target=_alive, args=(channel, done), daemon=True)
        beside.start()
        try:
            answer = self._answer(channel, message)
        except I2Error as error:
            log.event(_log, logging.WARNING, "copy-failed", cause=error.cause)
            answer = error_message(error)
        finally:
            done.set()
            beside.join()
        try:
            with suppress(I2Error):
                channel.send(answer)
        finally:
            channel.close()

    def _answer(self, channel: Channel, message: Mapping[str, Any]) -> dict[str, object]:
        told = [message.get(key) for key in ("rule", "run", "name")]
        rule, run, name = (one if isinstance(one, str) else "" for one in told)
        as_of = message.get("as_of")
        stamps = _STAMP.fullmatch(run) and _STAMP.fullmatch(name)
        if not stamps or not isinstance(as_of, float) or not 0 < as_of < 1 << 35:
            raise UsageError("copy is malformed", "this is a defect of the work node")
        with self._making, self._of_rule(rule):
            # Asked now: another copy may have taken hours, and the rule be gone since.
            grant = self._grants.granted(rule, channel.peer_id)
            if grant is None or not grant.copies:
                raise Refused(f"rule {rule:.64} may have no copies here", "order the grant first")
            if not channel.alive:
                raise SessionError("it was given up")
            self._clear_unfinished(grant)
            kept = self._of(grant)
            if len(kept) >= grant.copies and not grant.drop:
                return {"t": "full", "kept": len(kept)}
            made = self._make(grant, run, name, as_of, channel)
            gone = self._drop(grant)
        counts = {"files": made.files, "shared": made.shares, "problems": made.problems}
        stay = len(self._of(grant))
        return {"t": "copied", **counts, "kept": stay, "gone": gone}

    # ------------------------------------------------------------------ what goes

    def prune(self) -> None:
        """Removes what is left of copies, and those that are to stay no longer; not of a rule of
        which one is made."""
        for grant in self._grants.all():
            busy = self._of_rule(grant.rule)
            if busy.acquire(blocking=False):
                try:
                    self._clear_unfinished(grant)
                    self._drop(grant)
                finally:
                    busy.release()

    def tidy(self, grant: Grant) -> None:
        """What is left of copies of a rule goes. SessionError: one is being made."""
        busy = self._of_rule(grant.rule)
        if not busy.acquire(timeout=STILL_S):
            raise SessionError("a copy of it is being made", "try again in a while")
        try:
            self._clear_unfinished(grant)
        finally:
            busy.release()

    def _of_rule(self, rule: str) -> threading.Lock:
        """Held by who makes or removes copies of it."""
        with self._lock:
            return self._busy.setdefault(rule, threading.Lock())

    def _of(self, grant: Grant, complete: bool = True) -> list[Record]:
        """The copies of a rule, the oldest first."""
        base = _base(grant)
        found = [
            record
            for record in self._ledger.records()
            if (record.whole, record.peer) == (grant.rule, grant.peer)
            and record.as_of
            and record.complete is complete
            and os.path.dirname(os.fsencode(record.root)) == base
        ]
        return sorted(found, key=lambda record: record.root)

    def _drop(self, grant: Grant) -> list[str]:
        """Removes the oldest that are too many; gives their names."""
        if not grant.base or not grant.copies or not grant.drop:
            return []
        return [
            os.path.basename(one.root)
            for one in self._of(grant)[: -grant.copies]
            if self._remove(grant, one)
        ]

    def _clear_unfinished(self, grant: Grant) -> None:
        """Of one that has its name already all is durable."""
        if not grant.base:
            return
        for record in self._of(grant, complete=False):
            path = os.fsencode(record.root)
            if _is(path, record):
                self._ledger.keep(replace(record, complete=True))
            else:
                self._remove(grant, replace(record, root=os.fsdecode(_staging(path))))

    def _remove(self, grant: Grant, record: Record) -> bool:
        grants = self._grants
        roots = tuple(map(Path, grant.roots))
        fields = {"rule": grant.rule, "root": record.root}
        try:
            done = clear(self._ledger, grants.config.var, [record], roots, grants.own, False)
        except I2Error as error:
            log.event(_log, logging.WARNING, "copy-stays", cause=error.cause, **fields)
            return False
        for path, cause in done.left[:1]:
            log.event(_log, logging.WARNING, "copy-stays", path=path, cause=cause, **fields)
        return not done.left

    # ------------------------------------------------------------------ making

    def _make(self, grant: Grant, run: str, name: str, as_of: float, channel: Channel) -> _Made:
        base = _base(grant)
        parts = self._parts(grant, base, run)
        path = b"%s/%s" % (base, name.encode())
        if os.path.lexists(path):
            raise SessionError(f"{show(path)} is there already", "tried again at the next time")
        staged = _staging(path)
        make_target(staged)
        _protect(staged, 0o700)
        record = self._record(parts[0], grant, path, as_of)
        self._ledger.keep(record)
        try:
            with self._still(parts, channel):
                made = self._fill(parts, record, b"%s/%s" % (base, run.encode()), channel)
            self._settle(staged, path)
            if not _is(path, record):
                raise SessionError(f"{show(path)} is not what was made", "see who took its place")
        except BaseException:
            self._remove(grant, replace(record, root=os.fsdecode(staged)))
            raise
        self._ledger.keep(replace(record, complete=True))
        fields = {"rule": grant.rule, "root": show(path), "files": made.files}
        log.event(_log, logging.INFO, "copy-kept", as_of=as_of, shared=made.shares, **fields)
        return made

    def _parts(self, grant: Grant, base: bytes, run: str) -> list[Record]:
        """The trees of a run, the outer ones first."""
        below = b"%s/%s" % (base, run.encode())
        parts = [
            record
            for record in self._ledger.records()
            if (record.whole, record.peer) == (grant.rule, grant.peer)
            and not record.as_of
            and within(os.fsencode(record.root), below)
        ]
        if not parts or len(parts) < parts[0].parts:
            raise SessionError(f"run {run} is not here with all its parts", "start the rule anew")
        return sorted(parts, key=lambda record: len(record.root))

    def _record(self, part: Record, grant: Grant, path: bytes, as_of: float) -> Record:
        root = Root(_staging(path))
        with closing(root):
            found = root.identity
        text = b"\0".join((grant.rule.encode(), grant.peer.encode(), path))
        return Record(
            rule=hashlib.sha256(text).hexdigest()[:16],
            peer=grant.peer,
            source=part.source,
            origin=part.origin,
            root=os.fsdecode(path),
            ino=found.ino,
            birth=found.birth,
            fs=found.fs,
            token="",
            boot="",
            whole=grant.rule,
            as_of=as_of,
        )

    @contextmanager
    def _still(self, parts: list[Record], channel: Channel) -> Iterator[None]:
        """Nothing changes them meanwhile, and nothing is half changed."""
        until = time.monotonic() + WHOLE_S
        while True:
            with ExitStack() as held:
                for part in parts:
                    still = self._ledger.still(part.rule)
                    if not still.acquire(timeout=STILL_S):
                        raise SessionError(
                            f"{part.root} does not hold still", "see what its disk is busy with"
                        )
                    held.callback(still.release)
                half = self._half_changed(parts)
                if half is None:
                    yield
                    return
            if time.monotonic() > until:
                raise SessionError(
                    f"a file of {half.root} is half changed", "see why its disk refuses the rest"
                )
            if not channel.alive:
                raise SessionError("it was given up")
            time.sleep(LOOK_S)

    def _half_changed(self, parts: list[Record]) -> Record | None:
        """The first that has such a file. What changes it has to go on before that is whole."""
        state = self._grants.config.var
        for part in parts:
            found = journals(os.fsencode(part.root), part.rule, state, part.home)
            if any(map(half_changed, found)):
                return part
        return None

    def _fill(self, parts: list[Record], record: Record, run: bytes, channel: Channel) -> _Made:
        made = _Made()
        staged = _staging(os.fsencode(record.root))
        roots = [os.fsencode(part.root) for part in parts]
        with ExitStack() as held:
            filled: list[tuple[Duplicate, bytes]] = []
            for part, root in zip(parts, roots, strict=True):
                there = staged + root[len(run) :]
                make_target(there)
                tree = held.enter_context(closing(self._tree(part, root, read_only=True)))
                with closing(self._tree(record, there)) as copy:
                    inner = _skip(root, roots)
                    one = Duplicate(tree, copy, inner, lambda: not channel.alive)
                    _check_room(one, copy)
                    one.fill()
                filled.append((one, there))
            # The inner ones first: what is put into a directory moves its times.
            _protect(staged, os.stat(run, follow_symlinks=False).st_mode & 0o7777)
            for one, there in reversed(filled):
                with closing(self._tree(record, there)) as copy:
                    one.dress(copy)
                made.files += one.files
                made.problems += one.problems
                made.shares = made.shares and one.shares
        return made

    def _tree(self, record: Record, path: bytes, read_only: bool = False) -> TargetTree:
        grants = self._grants
        state, allowed = grants.config.var, grants.roots(record.peer)
        home = record.home
        return TargetTree(path, record.rule, state, allowed, read_only=read_only, beside=home)

    def _settle(self, staged: bytes, path: bytes) -> None:
        """Durable, then under its name. TargetFault: the disk refuses."""
        above = open_directory(os.path.dirname(path))
        try:
            batch.sync(above)
            names = (os.path.basename(staged), os.path.basename(path))
            os.rename(*names, src_dir_fd=above, dst_dir_fd=above)
            os.fsync(above)
        except OSError as error:
            status = error.errno or 0
            raise TargetFault(
                f"{show(path)} cannot be made durable: {os.strerror(status)}", remedy_for(status)
            ) from error
        finally:
            os.close(above)


def _base(grant: Grant) -> bytes:
    return os.fsencode(os.path.realpath(grant.base))


def _staging(path: bytes) -> bytes:
    """Where a copy is made that is to stand at a path."""
    above, name = os.path.split(path)
    return b"%s/%s%s" % (above, STAGING, name)


def _protect(path: bytes, mode: int) -> None:
    fd = open_directory(path)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _is(path: bytes, record: Record) -> bool:
    """Whether the very directory of a record stands there."""
    try:
        root = Root(path)
    except I2Error:
        return False
    with closing(root):
        found = root.identity
        return (found.ino, found.birth, found.fs) == (record.ino, record.birth, record.fs)


def _skip(root: bytes, roots: list[bytes]) -> Mapping[bytes, tuple[bytes, ...]]:
    """Where the trees of other parts stand in one: names, by the directory."""
    found: dict[bytes, tuple[bytes, ...]] = {}
    for other in roots:
        if other != root and within(other, root):
            above, _, name = other[len(root) + 1 :].rpartition(b"/")
            found[above] = (*found.get(above, ()), name)
    return found


def _check_room(one: Duplicate, copy: TargetTree) -> None:
    """TargetFault where it would not fit, or hardly."""
    room, inodes = one.needs()
    now = os.fstatvfs(copy.root.fd)
    free = max(0, now.f_bavail - now.f_blocks // SPARE) * now.f_frsize
    if room > free or (now.f_files and inodes > now.f_favail):
        raise TargetFault(
            f"a copy takes {room:,} bytes and {inodes:,} inodes, and {free:,} and"
            f" {now.f_favail:,} are to be had",
            "free space on the backup node, or keep fewer copies",
        )


def _alive(channel: Channel, done: threading.Event) -> None:
    """Who waits is told that it is being made; and that who waited is gone shows."""
    with suppress(I2Error):
        while not done.wait(ALIVE_S):
            channel.send({"t": "copying"})
