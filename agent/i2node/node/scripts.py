"""The scripts of a rule: files of <etc>/scripts that nobody but their owner can change."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from i2node.errors import SafetyStop
from i2node.model import show

LIMIT_S = 600.0
"""How long one may take."""
_SAID = 2000
"""Bytes of what it says that are shown."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    etc: Path,
    name: str,
    rule: str,
    stage: str,
    given_up: Callable[[], bool],
    limit_s: float = LIMIT_S,
) -> None:
    """Runs it to its end, with the rule's uuid and the stage as its arguments. given_up: asked now
    and then; when it says so, the script is ended. SafetyStop with the cause when the script may
    not be run, fails, takes longer than limit_s, or was given up."""
    path = _found(etc / "scripts", name)
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                [path, rule, stage],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=etc / "scripts",
                env={"PATH": _PATH, "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as error:
            raise _failed(name, f"cannot be run: {error.strerror}") from error
        why = _waited(child, given_up, limit_s)
        if why:
            raise _failed(name, why, _tail(said.fileno()))


def _waited(child: subprocess.Popen[bytes], given_up: Callable[[], bool], limit_s: float) -> str:
    """What went wrong; empty: nothing."""
    left = limit_s
    while True:
        try:
            status = child.wait(0.2)
        except subprocess.TimeoutExpired:
            left -= 0.2
            if left > 0 and not given_up():
                continue
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"took longer than {limit_s:.0f} s" if left <= 0 else "was ended"
        return "" if status == 0 else f"ended with status {status}"


def _found(scripts: Path, name: str) -> Path:
    """The real file; SafetyStop when it is none that may be run."""
    home = Path(os.path.realpath(scripts))
    path = Path(os.path.realpath(home / name))
    if not path.is_relative_to(home) or path == home:
        raise _failed(name, f"is not below {scripts}")
    for each in (path, *path.parents):
        try:
            found = each.stat()
        except OSError as error:
            raise _failed(name, f"cannot be run: {error.strerror}") from error
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise _failed(name, f"can be changed by others: {each}")
        if each == path and not (stat.S_ISREG(found.st_mode) and found.st_mode & 0o100):
            raise _failed(name, "is no file that can be executed")
        if each == home:
            break
    return path


def _tail(fd: int) -> str:
    size = os.fstat(fd).st_size
    text = os.pread(fd, _SAID, max(0, size - _SAID)).strip()
    return show(text.splitlines()[-1]) if text else ""


def _failed(name: str, why: str, said: str = "") -> SafetyStop:
    cause = f"script {show(name.encode())} {why}"
    return SafetyStop(f"{cause}: {said}" if said else cause, "correct it, then start the rule")
