"""The program itself. Needs no C extension, so that it can tell that there is none."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import i2node
from i2node.node.checkup.finding import Finding, fine, look
from i2node.node.edition import foreign

if TYPE_CHECKING:
    from i2node.node.checkup.host import Host


def program(host: Host) -> list[Finding]:
    """What runs here, and whether it knows what was written before it."""
    wrong = foreign(host.config.var)
    if wrong is not None:
        return [look("program", wrong.cause, f"dnf upgrade i2node; {wrong.remedy}")]
    return [fine("program", _told())]


def broken(error: ImportError) -> Finding:
    """A part of it does not load."""
    again = f"{sys.executable} -m pip install --force-reinstall --no-deps ."
    packaged = sys.prefix.startswith("/usr/local/sdata/")
    remedy = "dnf reinstall i2node" if packaged else f"in the source of i2node: {again}"
    return look("program", f"{_told()} does not load: {error}", remedy)


def _told() -> str:
    return f"i2node {i2node.__version__}, Python {platform.python_version()}, in {sys.prefix}"
