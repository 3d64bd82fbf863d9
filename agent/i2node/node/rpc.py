"""The local status socket: every process of a home answers on `<var>/run/<pid>.sock`.

The directory is 0700 and the socket 0600, so who may ask is a matter of file permissions. A client
sends one line of JSON, an object whose `ask` is a verb of the process (`status`, ...) and whose
other keys are the verb's own; it is answered with one JSON value, and the connection closed. What
the verb could not do is an object with the keys `error` (a code of errors.py), `cause` and
`remedy`. Bytes that are no UTF-8 (names of files) go as surrogate escapes (PEP 383).

AF_UNIX only: what goes over the network belongs to net. The socket is reached through
/proc/self/fd/<directory>, since a socket's path must fit in 107 bytes (unix(7)) and a home's need
not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from i2node.errors import I2Error, NoAnswer, UsageError, of_code
from i2node.log import event
from i2node.model import State
from i2node.repl.report import RuleReport, read

QUESTION_MAX = 1024 * 1024
"""Bytes of a question; a path in it may be longer than PATH_MAX, and escaped."""
QUESTION_DEADLINE_S = 2.0
"""A client that has not asked by then is dropped."""
ANSWER_MAX = 16 * 1024 * 1024
"""Bytes of an answer; more is not a status."""
SEND_DEADLINE_S = 2.0
"""A client that does not read its answer is dropped after this."""
THREADS = 4
"""Questions that are answered beside each other: a slow one does not hold up the next."""
LEAVE_S = 1.0
"""How long the end of the server waits for an answer that is being made."""

Verb = Callable[[Mapping[str, Any]], Any]
"""What answers a question: takes the whole of it, gives plain data for JSON whose top has no key
`error`, or raises I2Error. Called from any thread, several at a time; ends by itself."""

_HOME = "run as the owner of this home, or choose another with --home"

_log = logging.getLogger(__name__)


class StatusServer:
    """Answers each question with what its verb gives at that moment, from threads of its own.

    UsageError when the directory cannot be had.
    """

    def __init__(self, run: Path, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._name = f"{os.getpid()}.sock"
        self._directory = _directory(run, create=True)
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind()
        except OSError as error:
            self._release()
            raise UsageError(f"{run}: bind status socket: {error}", _HOME) from error
        self._threads = [
            threading.Thread(target=self._serve, name=f"status-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _bind(self) -> None:
        """A refused connection means a dead owner, so the name appears only once it listens."""
        passing = f".{self._name}"
        for name in (passing, self._name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)
        os.fchmod(self._socket.fileno(), 0o600)
        self._socket.bind(_address(self._directory, passing))
        self._socket.listen(16)
        self._socket.setblocking(False)
        os.rename(passing, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _serve(self) -> None:
        asked, ended = select.poll(), select.poll()
        asked.register(self._socket, select.POLLIN)
        for poll in (asked, ended):
            poll.register(self._wake, select.POLLIN)
        while True:
            if any(descriptor == self._wake for descriptor, _ in asked.poll()):
                return
            try:
                peer, _ = self._socket.accept()
            except BlockingIOError:
                continue  # another thread has it
            except OSError:
                # Out of descriptors: the question stays in the queue, so wait instead of spinning.
                ended.poll(100)
                continue
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        try:
            line = self._question(peer)
            answer = json.dumps(self._result(line)).encode() if line else b""
        except Exception:
            event(_log, logging.ERROR, "status-failed")
            return
        peer.settimeout(SEND_DEADLINE_S)
        with contextlib.suppress(OSError):
            peer.sendall(answer)

    def _question(self, peer: socket.socket) -> bytes:
        """The line, as much of it as may be; empty: none came in time."""
        deadline = time.monotonic() + QUESTION_DEADLINE_S
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        line = bytearray()
        while len(line) <= QUESTION_MAX and b"\n" not in line[-(1 << 16) :]:
            ready = poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
            if not ready or any(descriptor == self._wake for descriptor, _ in ready):
                return b""
            try:
                piece = peer.recv(1 << 16)
            except OSError:
                return b""
            if not piece:
                return b""
            line += piece
        return bytes(line).partition(b"\n")[0]

    def _result(self, line: bytes) -> Any:
        try:
            verb, question = self._verb(line)
            return verb(question)
        except I2Error as error:
            return {"error": error.code, "cause": error.cause, "remedy": error.remedy}

    def _verb(self, line: bytes) -> tuple[Verb, Mapping[str, Any]]:
        try:
            if len(line) > QUESTION_MAX:
                raise ValueError(f"more than {QUESTION_MAX} bytes")
            question = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a question: {error}", "send one line of JSON") from error
        name = question.get("ask") if isinstance(question, dict) else None
        verb = self._verbs.get(name) if isinstance(name, str) else None
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            cause = f"process {os.getpid()} cannot be asked for {json.dumps(name)[:100]}"
            raise UsageError(cause, f'send {{"ask": VERB}} with one of: {known}')
        return verb, question

    def close(self) -> None:
        """Ends the threads and removes the socket. An answer that is still being made after LEAVE_S
        is left to its thread."""
        os.write(self._woken, b"\0")
        deadline = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory)
        self._release()

    def _release(self) -> None:
        self._socket.close()
        for descriptor in (self._wake, self._woken, self._directory):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def path_of(question: Mapping[str, Any]) -> bytes:
    """The absolute path that a question names."""
    path = question.get("path")
    wrong = UsageError(f"not an absolute path: {path!r:.100}", 'send {"path": "/..."} with it')
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise wrong
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise wrong from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process said: a value (plain data), or the error that it or the asking met, which is
    NoAnswer where it said nothing of use."""

    pid: int
    value: Any = None
    error: I2Error | None = None


def ask(run: Path, verb: str, timeout_s: float = 3.0, **more: Any) -> list[Answer]:
    """What the processes of a home answer to the same question, in the order of their process ids.

    more: what else the question holds, plain data. Sockets whose process is gone are removed. Each
    process has timeout_s. UsageError when the directory may not be read.
    """
    line = json.dumps({"ask": verb, **more}).encode() + b"\n"
    try:
        directory = _directory(run, create=False)
    except FileNotFoundError:
        return []
    try:
        asked = (_ask_one(directory, pid, line, timeout_s) for pid in sorted(_pids(directory)))
        return [answer for answer in asked if answer is not None]
    finally:
        os.close(directory)


def status(run: Path, timeout_s: float = 3.0) -> list[RuleReport]:
    """The rules of all processes of a home. A process that does not answer appears as one report of
    state UNKNOWN with the cause. UsageError when the directory may not be read."""
    return reports(ask(run, "status", timeout_s))


def reports(answers: Iterable[Answer]) -> list[RuleReport]:
    """The rules that these answers to `status` tell of; the same."""
    found: list[RuleReport] = []
    for answer in answers:
        error = answer.error
        if error is None:
            try:
                found += [read(item) for item in answer.value]
            except (ValueError, TypeError, AttributeError) as wrong:
                error = _strange(answer.pid, wrong)
        if error is not None:
            found.append(_unknown(answer.pid, error))
    return found


def _pids(directory: int) -> Iterator[int]:
    for name in os.listdir(directory):
        stem, dot, suffix = name.partition(".")
        if dot and suffix == "sock" and stem.isascii() and stem.isdigit():
            yield int(stem)


def _ask_one(directory: int, pid: int, line: bytes, timeout_s: float) -> Answer | None:
    """None where no process is any more."""
    name = f"{pid}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(_address(directory, name))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(line)
            value = json.loads(_received(connection, time.monotonic() + timeout_s))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
            return None
        except FileNotFoundError:
            return None
        except TimeoutError:
            return Answer(pid, error=_silent(pid, f"process {pid} does not answer"))
        except OSError as error:
            return Answer(pid, error=_silent(pid, f"process {pid}: ask: {error}"))
        except (ValueError, RecursionError) as error:
            return Answer(pid, error=_strange(pid, error))
    if isinstance(value, dict) and "error" in value:
        told = (str(value.get(key, "")) for key in ("error", "cause", "remedy"))
        return Answer(pid, error=of_code(*told))
    return Answer(pid, value)


def _received(connection: socket.socket, deadline: float) -> bytes:
    answer = bytearray()
    while True:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(1 << 16)
        if not piece:
            return bytes(answer)
        answer += piece
        if len(answer) > ANSWER_MAX:
            raise ValueError("too long")


def _silent(pid: int, cause: str) -> NoAnswer:
    return NoAnswer(cause, f"look at what process {pid} does, and at its log")


def _strange(pid: int, error: Exception) -> NoAnswer:
    return _silent(pid, f"process {pid} answers with something else: {error}")


def _unknown(pid: int, error: I2Error) -> RuleReport:
    return RuleReport(
        rule="",
        source="",
        target="",
        pid=pid,
        state=State.UNKNOWN,
        last_error=error.code,
        cause=error.cause,
        remedy=error.remedy,
    )


def _directory(run: Path, create: bool) -> int:
    """A descriptor of the directory, made 0700 where it is to be made."""
    try:
        if create:
            run.parent.mkdir(parents=True, exist_ok=True)
            run.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if create:
            os.fchmod(directory, 0o700)
        return directory
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise
        raise UsageError(f"{run}: open directory of status sockets: {error}", _HOME) from error


def _address(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"
