"""Runs a session while it is shown, asked for its status, and interrupted.

The session works in a thread of its own; the main thread belongs to signals and the screen. A
signal handler could interrupt the main thread while it holds a lock of the session, so handlers
do nothing: the interpreter writes the signal's number into a pipe, and the loop reads it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from i2node.cli.display import Screen
from i2node.node.rpc import StatusServer, Verb, path_of
from i2node.repl.report import Outcome, RuleReport, plain

REFRESH_S = 0.25
QUIET_S = 1.0
"""Between two looks at a session in which nothing happens."""
_STOPS = (signal.SIGINT, signal.SIGTERM)


class Runs(Protocol):
    """What a session is to the command line (repl.session.Session)."""

    def run(self) -> Outcome:
        """Works until done or stopped; I2Error when it cannot."""

    def report(self) -> RuleReport:
        """The picture of now, from any thread, at any time."""

    def explain(self, path: bytes) -> dict[str, Any] | None:
        """The life of a path (repl.life), None where it is not this rule's; as report()."""

    def stop(self) -> None:
        """Asks run() to bring under way what is dirty, and to return."""


def drive(session: Runs, screen: Screen, run: Path, once: bool) -> int:
    """Runs the session to its end and gives the exit status.

    run is the directory of the status sockets. SIGINT and SIGTERM stop the session gracefully; a
    second one raises KeyboardInterrupt. Errors of the session are raised.
    """
    with _Signals() as signals, StatusServer(run, verbs_of(session)), screen:
        work = _Work(session, signals.wake)
        work.start()
        asked = 0
        report = session.report()
        while not work.over.is_set():
            for number in signals.wait(QUIET_S if report.in_sync else REFRESH_S):
                if asked:
                    raise KeyboardInterrupt
                asked = number
                screen.draining()
                session.stop()
            report = session.report()
            screen.show(report, time.monotonic())
        outcome = work.outcome()
        screen.finish(session.report(), outcome)
    if not once:
        return 0
    # An interrupted pass is not a complete one.
    return outcome.exit_status or (128 + asked if asked and not outcome.in_sync else 0)


def verbs_of(session: Runs) -> dict[str, Verb]:
    """What a process that runs a session answers at its status socket."""
    return {
        "status": lambda _: [plain(session.report())],
        "explain": lambda question: session.explain(path_of(question)),
    }


class _Work(threading.Thread):
    """The session's thread. A daemon: a second Ctrl-C does not wait for it."""

    def __init__(self, session: Runs, wake: Callable[[], None]) -> None:
        super().__init__(name="session", daemon=True)
        self._session = session
        self._wake = wake
        self._result: Outcome | BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._session.run()
        except BaseException as error:
            self._result = error
        self.over.set()
        self._wake()

    def outcome(self) -> Outcome:
        """What the session gave, once it is over; raises what it raised."""
        self.join()
        if isinstance(self._result, Outcome):
            return self._result
        assert self._result is not None
        raise self._result


class _Signals:
    """SIGINT and SIGTERM as bytes in a pipe, while entered. Main thread only."""

    def __enter__(self) -> _Signals:
        self._lock = threading.Lock()
        self._closed = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _noted) for number in _STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        with self._lock:
            self._closed = True
            os.close(self._read)
            os.close(self._write)

    def wake(self) -> None:
        """Ends a wait; from any thread, at any time. A session that was abandoned ends after the
        pipe, whose number may be another file's by then."""
        with self._lock:
            if not self._closed:
                os.write(self._write, b"\0")

    def wait(self, timeout_s: float) -> list[int]:
        """The stop signals that came, after at most timeout_s."""
        if not self._poll.poll(timeout_s * 1000):
            return []
        return [number for number in os.read(self._read, 64) if number in _STOPS]


def _noted(number: int, frame: FrameType | None) -> None:
    """A handler must stand for the wakeup descriptor to be written to."""
