"""The target as the source sees it, and the messages between the two on the control channel.

    source                            target
    examine {rule, root, whole}       → examined {version, clock, kind, free, found}   before open
    open   {rule, root, tokens,       → opened  {status, parts, owner, boot}
            next, adopt, read_only,   → error   {code, cause, remedy}
            whole}
    stream {number, encrypt, secret}    (a data stream is opened beside; frames flow one way)
    probe  {n, content, dirs}         → probed  {n, i, status, own, part, last}   in order
    sign   {n, path}                  → signed  {n, size, mtime: [s, ns], block, part, last}
                                      ← applied {seq}            done, visible
                                      ← durable {seq}            will survive a power cut
                                      ← faults  {seq, faults}    [[path, other, op, errno, at]]
                                      ← stalled {cause, remedy}  the disk refuses; tried again
    complete {n}                      → completed {n, part}     of a whole, nothing more is to come
    bye    {}                           ends the session

Paths and listings are bytes; a listing or signature longer than PART goes in several parts, all but
the last of just that length. What a target tells is checked as it comes (told.py): one that lies
costs its own session, by a ProtocolError, and nothing else.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from i2node.errors import (
    Halt,
    I2Error,
    PeerLeft,
    PeerLost,
    ProtocolError,
    Refused,
    SafetyStop,
    SessionError,
    TargetFault,
    UsageError,
)
from i2node.fs.tree import host_id
from i2node.model import Whole, show
from i2node.net.channel import Channel
from i2node.net.seal import SEQ_MAX
from i2node.repl import told
from i2node.repl.delta import Basis
from i2node.repl.told import Fault, Opened

STEPS, FLUSH = 1, 2
"""Types of data frames, both a payload of steps. FLUSH: nothing comes behind for now, make it
durable."""

FAULTS_A_STEP = 8
"""One step can fail at its owner, mode, attributes, times and more."""

PART = 1 << 20
"""Bytes of a listing or signature in one message."""

BLOCK_MAX = 1 << 31
_COST = 1024
"""Bytes that an answer takes here beside its content."""

OF_ONE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EACCES, errno.ENAMETOOLONG}
)
"""Why one directory cannot be listed that says nothing of the others: a mount on it, for one."""

ANSWER_TIMEOUT = 600.0
"""Seconds for one answer: a strict probe of a large directory reads all of it."""
LAST_WORDS_S = 0.5
"""How long a target that was lost on one connection is listened to on the other."""
LISTINGS_MAX = 1 << 30
"""Bytes of all listings that answer one probe. A million entries with names of usual length are an
eighth of it."""
SIGNATURE_MAX = 32 << 20
"""Bytes of the block signatures of one file (mover.h, i2_block_size)."""


ERRORS: dict[str, type[I2Error]] = {
    kind.code: kind
    for kind in (
        Halt,
        UsageError,
        SafetyStop,
        Refused,
        SessionError,
        PeerLost,
        TargetFault,
        ProtocolError,
    )
}


def error_message(error: I2Error) -> dict[str, object]:
    return {"t": "error", "code": error.code, "cause": error.cause, "remedy": error.remedy}


def _told(whole: Whole | None) -> object:
    return None if whole is None else [whole.name, [list(part) for part in whole.parts]]


@dataclass(slots=True)
class _Question:
    """One that was asked: answers not taken yet, and bytes that may still come."""

    room: int
    answers: deque[dict[str, object]] = field(default_factory=deque)


class Remote:
    """One session's target. Its thread receives; the handlers are called from it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.on_applied: Callable[[int, bool], None] = lambda seq, waits: None
        self.on_durable: Callable[[int], None] = lambda seq: None
        self.on_faults: Callable[[int, list[Fault]], None] = lambda seq, faults: None
        self.on_stalled: Callable[[str, str], None] = lambda cause, remedy: None
        self.on_lost: Callable[[I2Error], None] = lambda error: None
        self.error: I2Error | None = None
        self.root: bytes | None = None
        """The target root's own record, as the last probe of it told."""
        self._lock = threading.Condition()
        self._asked = 0
        self._questions: dict[int, _Question] = {}
        self._thread: threading.Thread | None = None

    def examine(self, rule: str, root: bytes, whole: Whole | None = None) -> dict[str, object]:
        """What the target's file system keeps of a file, found by trying (repl.fidelity); before
        `open`. Raises Refused, SafetyStop or SessionError with the target's reason."""
        self.channel.send({"t": "examine", "rule": rule, "root": root, "whole": _told(whole)})
        return self._reply()

    def open(
        self,
        rule: str,
        root: bytes,
        tokens: list[str],
        following: str,
        *,
        adopt: bool = False,
        read_only: bool = False,
        owners: bool = True,
        source: str = "",
        origin: str = "",
        path: bytes = b"",
        left_out: bool = False,
        whole: Whole | None = None,
    ) -> Opened:
        """Asks the target to take the rule. Raises SafetyStop or Refused with its reason.

        source names the source for people, origin tells which directory it is; path is where, and
        left_out whether the target's place is excluded from it, should both be on one host. owners:
        whether its answers tell whose a file is. whole: what the rule is a part of.
        """
        self.channel.send(
            {
                "t": "open",
                "rule": rule,
                "root": root,
                "tokens": tokens,
                "next": following,
                "adopt": adopt,
                "read_only": read_only,
                "owners": owners,
                "source": source,
                "origin": origin,
                "host": host_id(),
                "path": path,
                "left_out": left_out,
                "whole": _told(whole),
            }
        )
        opened = told.opened(self._reply())
        self._thread = threading.Thread(target=self._receive, name="remote", daemon=True)
        self._thread.start()
        return opened

    def stream(self, number: int, encrypt: bool, secret: bytes) -> None:
        """Announces a data stream, before it is connected. secret: the rule's secret_key, b"" where
        it has none; it travels inside TLS and goes into the stream's keys on both sides."""
        self.channel.send({"t": "stream", "number": number, "encrypt": encrypt, "secret": secret})

    def probe(
        self, dirs: list[tuple[bytes, tuple[bytes, ...]]], content: bool
    ) -> list[bytes | None]:
        """What the target holds in directories; None where it holds no such directory, or something
        is in the way there: then what is sent below it is refused, path by path."""
        found: list[bytes | None] = [None] * len(dirs)
        question = {"t": "probe", "content": content, "dirs": [[p, list(s)] for p, s in dirs]}
        with self._asking(question, len(dirs), LISTINGS_MAX) as n:
            for i, (path, _) in enumerate(dirs):
                parts: list[bytes] = []
                last = False
                while not last:
                    answer = self._answer(n)
                    told.number(answer, "i", i, i)
                    status = told.number(answer, "status", told.STATUS_MAX)
                    own = told.data(answer, "own")
                    last = _part(answer, parts)
                    if not path and own:
                        self.root = own
                if status == 0:
                    found[i] = told.entries(b"".join(parts))
                elif status not in OF_ONE_PATH:
                    cause = os.strerror(status)
                    raise SessionError(
                        f"the target cannot list {show(path) or 'its root'}: {cause}"
                    )
        return found

    def sign(self, path: bytes) -> Basis | None:
        """The block signatures of a file the target holds; None where it holds none."""
        parts: list[bytes] = []
        last = False
        with self._asking({"t": "sign", "path": path}, 1, SIGNATURE_MAX) as n:
            while not last:
                answer = self._answer(n)
                size = told.number(answer, "size", told.SIZE_MAX)
                block = told.number(answer, "block", BLOCK_MAX)
                mtime = told.moment(answer)
                last = _part(answer, parts)
        records = told.signature(b"".join(parts), size, block)
        return Basis(records, size, block, mtime) if block else None

    def complete(self) -> None:
        """All that the source has is durable there, and nothing more is to come: returns when the
        target has noted it."""
        with self._asking({"t": "complete"}, 1, 0) as n:
            self._answer(n)

    def bye(self) -> None:
        """Ends the session in good order."""
        with suppress(I2Error):
            self.channel.send({"t": "bye"})

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Closes it. Raises what the target said before it hung up, where all that the caller has
        seen is that it did."""
        if isinstance(error, PeerLost) and self._thread is not None:
            self._thread.join(LAST_WORDS_S)
        self.close()
        if isinstance(error, PeerLost) and self._knows_more_than(error):
            assert self.error is not None
            raise self.error from error

    def _knows_more_than(self, error: PeerLost) -> bool:
        """Whether the control channel's end says more than that of the stream."""
        if isinstance(self.error, PeerLeft):
            return not isinstance(error, PeerLeft)
        return not isinstance(self.error, PeerLost | None)

    def close(self) -> None:
        self.channel.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # ------------------------------------------------------------------ asking

    def _reply(self) -> dict[str, object]:
        """The answer to what was asked before anything runs beside."""
        answer = self.channel.recv(ANSWER_TIMEOUT)
        _raise_error(answer)
        return answer

    @contextmanager
    def _asking(self, message: dict[str, object], answers: int, most: int) -> Iterator[int]:
        """Asks a question; gives its number, under which its answers are waited for until this is
        left: so many, with `most` bytes in all."""
        with self._lock:
            self._asked += 1
            n = self._asked
            self._questions[n] = _Question(most + answers * _COST)
        try:
            self.channel.send({**message, "n": n})
            yield n
        finally:
            with self._lock:
                del self._questions[n]

    def _answer(self, n: int) -> dict[str, object]:
        with self._lock:
            waiting = self._questions[n].answers
            while not waiting:
                if self.error is not None:
                    raise self.error
                if not self._lock.wait(ANSWER_TIMEOUT):
                    raise PeerLost("the target did not answer in time")
            return waiting.popleft()

    # ------------------------------------------------------------------ receiving

    def _receive(self) -> None:
        try:
            while True:
                self._handle(self.channel.recv(None))
        except I2Error as error:
            lost = error
        except Exception as error:
            lost = SessionError(f"handling a message of the target failed: {error!r}")
        with self._lock:
            self.error = lost
            self._lock.notify_all()
        self.on_lost(lost)

    def _handle(self, message: dict[str, object]) -> None:
        kind = message.get("t")
        if kind in ("probed", "signed", "completed"):
            self._heard(message)
        elif kind == "applied":
            self.on_applied(_seq(message), message.get("waits") is True)
        elif kind == "durable":
            self.on_durable(_seq(message))
        elif kind == "faults":
            self.on_faults(_seq(message), told.faults(message))
        elif kind == "stalled":
            self.on_stalled(told.text(message, "cause"), told.text(message, "remedy"))
        else:
            _raise_error(message)
            raise ProtocolError(f"unexpected message {show(str(kind).encode())[:40]}")

    def _heard(self, message: dict[str, object]) -> None:
        n, size = told.number(message, "n", told.SIZE_MAX), len(told.data(message, "part"))
        with self._lock:
            question = self._questions.get(n)
            if question is None:
                raise ProtocolError(f"the target answers what was not asked: question {n}")
            question.room -= size if size == PART else size + _COST
            if question.room < 0:
                raise ProtocolError("the target's answer has no end", "see what it holds there")
            question.answers.append(message)
            self._lock.notify_all()


def _part(answer: dict[str, object], parts: list[bytes]) -> bool:
    """Takes one part of an answer; whether it is the last."""
    part, last = told.data(answer, "part"), answer.get("last") is True
    if not last and len(part) != PART:
        raise ProtocolError("the target's answer comes in parts that are too short")
    parts.append(part)
    return last


def _seq(message: dict[str, object]) -> int:
    return told.number(message, "seq", SEQ_MAX)


def _raise_error(message: dict[str, object]) -> None:
    if message.get("t") == "error":
        kind = ERRORS.get(told.text(message, "code"), SessionError)
        raise kind(told.text(message, "cause"), told.text(message, "remedy"))
