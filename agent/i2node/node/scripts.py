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

from i2node.errors import I2Error, SafetyStop
from i2node.fs.tree import boot_id
from i2node.model import show
from i2node.node import kept

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
    note: Path,
    limit_s: float = LIMIT_S,
) -> None:
    """Runs it to its end, with the rule's uuid and the stage as its arguments. given_up: asked now
    and then; when it says so, the script is ended. note: a file that is there meanwhile, for
    `end_left`. SafetyStop with the cause when the script may not be run, fails, takes longer than
    limit_s, or was given up."""
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
        try:
            with suppress(I2Error):  # a full disk is no reason to run none
                kept.keep(note, _of(child.pid))
            why = _waited(child, given_up, limit_s)
        finally:
            with suppress(OSError):  # one that stays names a process that is gone
                note.unlink()
        if why:
            raise _failed(name, why, _tail(said.fileno()))


def end_left(note: Path) -> bool:
    """Ends the script that an agent left behind that was killed, with what it started, as one that
    takes too long is; whether there was one."""
    with suppress(ValueError, OSError, KeyError):
        found = kept.kept(note)
        if found is not None:
            note.unlink()
            if found == _of(int(found["pid"])):
                os.killpg(int(found["pid"]), signal.SIGKILL)
                return True
    return False


def _of(pid: int) -> dict[str, object]:
    """Tells a process from a later one with its number (proc(5): its 22nd value, clock ticks since
    the boot). OSError: there is none."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": pid, "began": int(told[19]), "boot": boot_id()}


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
