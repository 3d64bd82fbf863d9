"""A target agent of one's own, for a mirror on the same host: a child process on loopback.

It shares the home, so it trusts the source by its own certificate, and ends with its parent: its
standard input is a pipe that closes when the parent goes, however it goes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from i2node.errors import SessionError

START_TIMEOUT_S = 30.0


class EmbeddedAgent:
    """The child; `port` is where it listens."""

    def __init__(self, home: Path | None, root: bytes) -> None:
        where = ["--home", str(home)] if home else []
        command = [
            sys.executable,
            "-P",
            "-m",
            "i2node",
            *where,
            "agent",
            "--embedded",
            "--allow-root",
        ]
        self._child = subprocess.Popen(
            [*command, os.fsdecode(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        try:
            self.port = int(json.loads(line)["port"])
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise SessionError("the embedded target agent did not start", "see its log") from error

    def alive(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        """Ends the child, first by its input's end, then by force."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
