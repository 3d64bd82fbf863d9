"""Paths of the API: absolute, UTF-8, with or without a '/' behind them. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from i2node.controller.form import Form, is_storable
from i2node.errors import UsageError
from i2node.fs.pathset import PathSet

LONGEST = 4095
"""Bytes of a path, as Linux takes it and nodes do."""


def absolute(path: object) -> bool:
    """Whether it is the path of something, and means one place only."""
    return (
        isinstance(path, str)
        and path.startswith("/")
        and is_storable(path)
        and ".." not in path.split("/")
        and len(path.encode()) <= LONGEST
    )


def normal(path: str) -> str:
    """Without doubled '/', and without one behind it."""
    return "/" + posixpath.normpath(path).lstrip("/")


def read_paths(form: Form, field: str, most: int) -> list[str]:
    """A list of absolute paths, as they were sent."""
    found = form.items(field)
    if len(found) > most:
        form.fault(f"The {form.named(field)} field must hold at most {most} paths")
        return []
    for number, path in enumerate(found):
        if not absolute(path):
            form.fault(f"The {form.named(field)}[{number}] field must be an absolute path")
    return [path for path in found if absolute(path)]


def check_apart(form: Form, field: str, paths: Sequence[str]) -> None:
    """A fault for each path that is there twice."""
    seen: set[str] = set()
    for number, path in enumerate(paths):
        if normal(path) in seen:
            form.fault(f"The {form.named(field)}[{number}] field is there twice: {path}")
        seen.add(normal(path))


def check_excludes(form: Form, field: str, excludes: Sequence[str], roots: Sequence[str]) -> None:
    """A fault for each exclude that leaves nothing of a root."""
    for number, exclude in enumerate(excludes):
        for root in roots:
            try:
                PathSet(root.encode(), (exclude.encode(),))
            except UsageError as error:
                form.fault(f"The {form.named(field)}[{number}] field cannot be: {error}")
