"""The local status socket: every process of a home answers on `<var>/run/<pid>.sock`.

The directory is 0700 and the socket 0600, so who may ask is a matter of file permissions. A
connection is answered with one JSON list of rule reports and closed; nothing is read from it.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from i2node.errors import UsageError
from i2node.log import event
from i2node.model import State
from i2node.repl.report import RuleReport, plain, read

ANSWER_MAX = 16 * 1024 * 1024
"""Bytes of an answer; more is not a status."""
SEND_DEADLINE_S = 2.0
"""A client that does not read its answer is dropped after this."""

_HOME = "run as the owner of this home, or choose another with --home"

_log = logging.getLogger(__name__)


class StatusServer:
    """Answers with what `reports` gives at the moment of the question, from a thread of its own.

    `reports` must be callable from any thread. UsageError when the directory cannot be had.
    """

    def __init__(self, run: Path, reports: Callable[[], Sequence[RuleReport]]) -> None:
        self._reports = reports
        self._name = f"{os.getpid()}.sock"
        self._directory = _directory(run, create=True)
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind()
        except OSError as error:
            self._release()
            raise UsageError(f"{run}: bind status socket: {error}", _HOME) from error
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)
        self._thread.start()

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
            except OSError:
                # Out of descriptors: the question stays in the queue, so wait instead of spinning.
                ended.poll(100)
                continue
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        try:
            text = json.dumps([plain(report) for report in self._reports()])
        except Exception:
            event(_log, logging.ERROR, "status-failed")
            return
        peer.settimeout(SEND_DEADLINE_S)
        with contextlib.suppress(OSError):
            peer.sendall(text.encode())

    def close(self) -> None:
        """Ends the thread and removes the socket."""
        os.write(self._woken, b"\0")
        self._thread.join()
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


def ask(run: Path, timeout_s: float = 3.0) -> list[RuleReport]:
    """The rules of all processes of a home, in the order of their process ids.

    Sockets whose process is gone are removed. A process that does not answer within timeout_s
    appears as one report of state UNKNOWN with the cause. UsageError when the directory may not be
    read.
    """
    try:
        directory = _directory(run, create=False)
    except FileNotFoundError:
        return []
    try:
        found: list[RuleReport] = []
        for pid in sorted(_pids(directory)):
            found.extend(_ask_one(directory, pid, timeout_s))
        return found
    finally:
        os.close(directory)


def _pids(directory: int) -> Iterator[int]:
    for name in os.listdir(directory):
        stem, dot, suffix = name.partition(".")
        if dot and suffix == "sock" and stem.isascii() and stem.isdigit():
            yield int(stem)


def _ask_one(directory: int, pid: int, timeout_s: float) -> list[RuleReport]:
    name = f"{pid}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(_address(directory, name))
            table = json.loads(_received(connection, time.monotonic() + timeout_s))
            return [read(item) for item in table]
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
            return []
        except FileNotFoundError:
            return []
        except TimeoutError:
            return [_silent(pid, f"process {pid} does not answer")]
        except OSError as error:
            return [_silent(pid, f"process {pid}: ask for status: {error}")]
        except (ValueError, TypeError, AttributeError) as error:
            return [_silent(pid, f"process {pid} answers with something else: {error}")]


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


def _silent(pid: int, cause: str) -> RuleReport:
    return RuleReport(
        rule="",
        source="",
        target="",
        pid=pid,
        state=State.UNKNOWN,
        last_error="no-answer",
        cause=cause,
        remedy=f"look at what process {pid} does, and at its log",
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
