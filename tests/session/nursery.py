"""Bears real i2node processes quickly: one interpreter that has imported everything forks for each.

A state machine kills its nodes hundreds of times; starting an interpreter each time would take
longer than all the rest. This program reads one JSON list a line, [log, argument, ...], forks a
child that runs the command line with these arguments, and answers with its process id. A child
gets a process group of its own, so that it goes with whatever it started.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


class Nursery:
    """The program as a test uses it; `bear` gives a Child. more: modules to load beforehand."""

    def __init__(self, *more: str) -> None:
        self._program = subprocess.Popen(
            [sys.executable, __file__, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def bear(self, log: Path, *arguments: str) -> Child:
        assert self._program.stdin is not None and self._program.stdout is not None
        self._program.stdin.write(json.dumps([str(log), *arguments]) + "\n")
        self._program.stdin.flush()
        return Child(int(self._program.stdout.readline()), log)

    def close(self) -> None:
        """Whoever was born here and lives still is killed first by its owner."""
        assert self._program.stdin is not None and self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(10)
        self._program.stdout.close()


class Child:
    """One process; its exit status stands in its log's neighbour once it has ended by itself."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._fd = os.pidfd_open(pid)

    def alive(self) -> bool:
        return self._fd >= 0 and not select.select([self._fd], [], [], 0)[0]

    def signal(self, number: int) -> None:
        """SIGSTOP has stopped every thread when this returns: the first to take it is scheduled as
        any other, and the rest run until then."""
        if not self.alive():
            return
        os.kill(self.pid, number)
        while number == signal.SIGSTOP and self.alive() and not self._stopped():
            select.select([], [], [], 0.001)

    def _stopped(self) -> bool:
        try:
            told = [(t / "stat").read_text() for t in Path(f"/proc/{self.pid}/task").iterdir()]
        except OSError:
            return False  # one that ended meanwhile
        return all(line.rpartition(")")[2].split()[0] in "Tt" for line in told)

    def wait(self, seconds: float) -> int | None:
        """The exit status; None when it was killed. TimeoutError when it lives on."""
        if self._fd >= 0:
            if not select.select([self._fd], [], [], seconds)[0]:
                raise TimeoutError(f"process {self.pid} lives on; see {self.log}")
            os.close(self._fd)
            self._fd = -1
        try:
            return int(_status(self.log).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def kill(self) -> None:
        """As a power cut would: no handler runs, nothing is written."""
        self.signal(signal.SIGKILL)
        self.wait(30.0)


def _status(log: Path) -> Path:
    return log.with_suffix(".status")


def _bear(log: str, arguments: list[str]) -> None:
    """The child's life; never returns."""
    status = 70
    try:
        # With the program they go too, even when the test was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        from i2node.cli import main

        status = main(arguments)
        sys.stdout.flush()
        _status(Path(log)).write_text(str(status))
    finally:
        os._exit(status)


def _serve() -> None:
    # Loaded once, before the forks.
    import i2node.cli.display
    import i2node.fs.inotify
    import i2node.net.identity
    import i2node.node.daemon
    import i2node.repl.session  # noqa: F401 (loaded for the forks)

    for module in sys.argv[1:]:
        importlib.import_module(module)

    # The kernel reaps; nobody here asks how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        _status(Path(log)).unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _bear(log, arguments)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
