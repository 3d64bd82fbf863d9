"""The target as the source sees it, and the messages between the two on the control channel.

    source                            target
    open   {rule, root, tokens,       → opened  {status, token, parts, owner}
            next, adopt, read_only}   → error   {code, cause, remedy}
    stream {number, encrypt, secret}    (a data stream is opened beside; frames flow one way)
    probe  {n, content, dirs}         → probed  {n, i, status, own, part, last}
    sign   {n, path}                  → signed  {n, size, mtime: [s, ns], block, part, last}
                                      ← applied {seq}            done, visible
                                      ← durable {seq}            will survive a power cut
                                      ← faults  {seq, faults}    [[path, other, op, errno, at]]
                                      ← stalled {cause, remedy}  the disk refuses; tried again
    bye    {}                           ends the session

Paths and listings are bytes; a listing or signature longer than PART goes in several parts.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from i2node.errors import (
    Halt,
    I2Error,
    PeerLost,
    ProtocolError,
    Refused,
    SafetyStop,
    SessionError,
    TargetFault,
    UsageError,
)
from i2node.fs.tree import host_id
from i2node.model import show
from i2node.mover import listing
from i2node.net.channel import Channel
from i2node.repl.delta import Basis

STEPS, FLUSH = 1, 2
"""Types of data frames, both a payload of steps. FLUSH: nothing comes behind for now, make it
durable."""

PART = 1 << 20
"""Bytes of a listing or signature in one message."""

OF_ONE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EACCES, errno.ENAMETOOLONG}
)
"""Why one directory cannot be listed that says nothing of the others: a mount on it, for one."""

ANSWER_TIMEOUT = 600.0
"""Seconds for one answer: a strict probe of a large directory reads all of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A step that the target could not do."""

    path: bytes
    other: bytes
    op: int
    status: int
    at: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The target's answer: `status` is fresh (nothing was there), known (the tree this rule left,
    to go on with), or unknown (something is there that must be compared)."""

    status: str
    parts: dict[int, int]
    owner: bool


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
        self._answers: dict[int, list[dict[str, object]]] = {}
        self._thread: threading.Thread | None = None

    def open(
        self,
        rule: str,
        root: bytes,
        tokens: list[str],
        following: str,
        *,
        adopt: bool = False,
        read_only: bool = False,
        source: str = "",
        origin: str = "",
        path: bytes = b"",
        left_out: bool = False,
    ) -> Opened:
        """Asks the target to take the rule. Raises SafetyStop or Refused with its reason.

        source names the source for people, origin tells which directory it is; path is where, and
        left_out whether the target's place is excluded from it, should both be on one host.
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
                "source": source,
                "origin": origin,
                "host": host_id(),
                "path": path,
                "left_out": left_out,
            }
        )
        answer = self.channel.recv(ANSWER_TIMEOUT)
        _raise_error(answer)
        if answer.get("t") != "opened":
            raise ProtocolError(f"expected opened, got {answer.get('t')!r}")
        parts = answer.get("parts")
        found = {int(k): int(v) for k, v in parts} if isinstance(parts, list) else {}
        opened = Opened(str(answer.get("status")), found, bool(answer.get("owner")))
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
        n = self._ask({"t": "probe", "content": content, "dirs": [[p, list(s)] for p, s in dirs]})
        found: list[bytes | None] = [None] * len(dirs)
        parts: list[bytes] = []
        left = len(dirs)
        while left:
            answer = self._answer(n)
            i, status, part = answer.get("i"), answer.get("status"), answer.get("part")
            if not (isinstance(i, int) and 0 <= i < len(dirs) and isinstance(part, bytes)):
                raise ProtocolError("the target's answer to a probe is malformed")
            parts.append(part)
            if not dirs[i][0] and isinstance(own := answer.get("own"), bytes) and own:
                self.root = own
            if not answer.get("last"):
                continue
            told = b"".join(parts)
            parts = []
            left -= 1
            if status == 0:
                listing.check(told)
                found[i] = told
            elif status not in OF_ONE_PATH:
                cause = os.strerror(status) if isinstance(status, int) else "no status"
                raise SessionError(
                    f"the target cannot list {show(dirs[i][0]) or 'its root'}: {cause}"
                )
        return found

    def sign(self, path: bytes) -> Basis | None:
        """The block signatures of a file the target holds; None where it holds none."""
        n = self._ask({"t": "sign", "path": path})
        parts: list[bytes] = []
        while True:
            answer = self._answer(n)
            size, block, part = answer.get("size"), answer.get("block"), answer.get("part")
            mtime = _moment(answer.get("mtime"))
            if not (isinstance(size, int) and isinstance(block, int) and isinstance(part, bytes)):
                raise ProtocolError("the target's answer to sign is malformed")
            parts.append(part)
            if answer.get("last"):
                return Basis(b"".join(parts), size, block, mtime) if block else None

    def bye(self) -> None:
        """Ends the session in good order."""
        with suppress(I2Error):
            self.channel.send({"t": "bye"})

    def close(self) -> None:
        self.channel.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # ------------------------------------------------------------------ asking

    def _ask(self, message: dict[str, object]) -> int:
        with self._lock:
            self._asked += 1
            n = self._asked
            self._answers[n] = []
        self.channel.send({**message, "n": n})
        return n

    def _answer(self, n: int) -> dict[str, object]:
        with self._lock:
            while not self._answers[n]:
                if self.error is not None:
                    raise self.error
                if not self._lock.wait(ANSWER_TIMEOUT):
                    raise PeerLost("the target did not answer in time")
            return self._answers[n].pop(0)

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
        if kind in ("probed", "signed"):
            n = message.get("n")
            with self._lock:
                if not isinstance(n, int) or n not in self._answers:
                    raise ProtocolError(f"an answer to nothing that was asked: {n!r}")
                self._answers[n].append(message)
                self._lock.notify_all()
        elif kind == "applied":
            self.on_applied(_int(message, "seq"), bool(message.get("waits")))
        elif kind == "durable":
            self.on_durable(_int(message, "seq"))
        elif kind == "faults":
            self.on_faults(_int(message, "seq"), _faults(message))
        elif kind == "stalled":
            self.on_stalled(str(message.get("cause")), str(message.get("remedy")))
        else:
            _raise_error(message)
            raise ProtocolError(f"unexpected message {kind!r}")


def _faults(message: dict[str, object]) -> list[Fault]:
    rows = message.get("faults")
    if not isinstance(rows, list):
        raise ProtocolError("faults without a list")
    try:
        return [Fault(bytes(p), bytes(o), int(op), int(s), int(at)) for p, o, op, s, at in rows]
    except (TypeError, ValueError) as error:
        raise ProtocolError("a malformed fault") from error


def _moment(pair: object) -> int:
    """Nanoseconds since 1970; they are more than 64 bits in some years that file systems know."""
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(i, int) for i in pair)):
        raise ProtocolError("the target's answer to sign has no mtime")
    return int(pair[0]) * 10**9 + int(pair[1])


def _int(message: dict[str, object], key: str) -> int:
    value = message.get(key)
    if not isinstance(value, int):
        raise ProtocolError(f"{message.get('t')!r} without {key}")
    return value


def _raise_error(message: dict[str, object]) -> None:
    if message.get("t") == "error":
        kind = ERRORS.get(str(message.get("code")), SessionError)
        raise kind(str(message.get("cause")), str(message.get("remedy") or ""))
