"""System calls that fail, or kill the process that makes them (strace(1), --inject)."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ends import until

CALLS_OF_THE_TARGET = (
    "fsync",
    "fdatasync",
    "syncfs",
    "renameat",
    "renameat2",
    "linkat",
    "unlinkat",
    "pwrite64",
    "utimensat",
    "mkdirat",
    "symlinkat",
    "mknodat",
    "fchownat",
    "fsetxattr",
    "ftruncate",
    "openat",
)
CALLS_OF_THE_SOURCE = ("fsync", "fdatasync", "rename", "unlink", "pwrite64")


class Injection:
    """What was injected, by the log of strace."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def hits(self) -> int:
        """Calls that failed or killed."""
        text = self.log.read_text(errors="replace")
        return len(re.findall(r"\(INJECTED\)|killed by SIGKILL", text))


@contextmanager
def injected(pid: int, call: str, what: str, log: Path) -> Iterator[Injection]:
    """While it is entered, `what` happens to a call of the process and all of its threads, as in
    `error=EIO:when=3` (each thread counts for itself)."""
    words = ["strace", "-f", "-o", str(log), "-p", str(pid)]
    words += ["-e", f"trace={call}", "-e", f"inject={call}:{what}", "-e", "signal=none"]
    said = log.with_suffix(".said")
    with open(said, "wb") as out:
        tracer = subprocess.Popen(words, stderr=out, stdin=subprocess.DEVNULL)
    try:
        until(
            "strace to attach",
            lambda: b"attached" in said.read_bytes() or tracer.poll() is not None,
        )
        assert tracer.poll() is None, said.read_text()
        yield Injection(log)
    finally:
        # It lets go of the process, which goes on.
        tracer.send_signal(signal.SIGTERM)
        tracer.wait(30)
