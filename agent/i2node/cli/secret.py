"""Codes and keys: read from a file that is its owner's alone, from standard input, or asked for
without an echo; never from the command line, which every user of the host can read."""

from __future__ import annotations

import getpass
import os
import re
import stat
import sys
from pathlib import Path

from i2node.errors import UsageError

KEY_FILE_MAX = 64 * 1024
"""Bytes of a secret key file; a longer one is a mistake in its name."""

_CODE = re.compile(r"[A-Za-z0-9]{32}")
_CODE_MAX = 256
_PASSWORD_MAX = 1024


def key_of(path: Path) -> bytes:
    """The secret key in a file, without the end of its last line. UsageError: it cannot be used."""
    text = _read(path, "secret key file", KEY_FILE_MAX)
    secret = text.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or len(text) > KEY_FILE_MAX:
        raise UsageError(
            f"secret key file {path} is {'too long' if secret else 'empty'}",
            f"it holds a key of 1 to {KEY_FILE_MAX} bytes",
        )
    return secret


def code_of(path: Path | None, peer: str, where: str = "i2node code prints it there") -> str:
    """The pairing code of a peer: from a file, else from whoever sits at the terminal, else from
    the first line of standard input. where: it is found. UsageError: it is none."""
    if path is not None:
        code = _read(path, "code file", _CODE_MAX).decode("ascii", "replace")
    elif sys.stdin.isatty():
        code = getpass.getpass(f"pairing code of {peer} ({where}): ")
    else:
        code = sys.stdin.readline(_CODE_MAX)
    code = code.strip()
    if not _CODE.fullmatch(code):
        raise UsageError(
            "that is no pairing code" if code else "no pairing code was given",
            f"it has 32 letters and digits; of {peer}: {where}",
        )
    return code


def password_of(path: Path) -> str:
    """The password in the first line of a file. UsageError: it cannot be used."""
    text = _read(path, "password file", _PASSWORD_MAX)
    password = text.decode("utf-8", "replace").partition("\n")[0].removesuffix("\r")
    if not password or len(text) > _PASSWORD_MAX:
        raise UsageError(
            f"password file {path} is {'too long' if password else 'empty'}",
            "its first line is the password",
        )
    return password


def _read(path: Path, what: str, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                raise UsageError(f"{what} {path} is open to others", f"run: chmod 600 {path}")
            return stream.read(most + 1)
    except OSError as error:
        raise UsageError(f"read {what} {path}: {error.strerror}", "name a readable file") from error
