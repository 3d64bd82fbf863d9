"""Small files of JSON that outlive a kill and a power cut: each is there as a whole, old or new."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from i2node.errors import SessionError


def keep(path: Path, table: dict[str, Any]) -> None:
    """Written, durable, for the owner alone. SessionError when the disk refuses."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            beside.unlink()
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            json.dump(table, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        _settle(path.parent)
    except OSError as error:
        raise SessionError(
            f"cannot write {path}: {error.strerror}", "free space in the state directory"
        ) from error


def kept(path: Path) -> dict[str, Any] | None:
    """What was kept; None: nothing. ValueError: the file is damaged."""
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(table, dict):
        raise ValueError("not an object")
    return table


def _settle(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
