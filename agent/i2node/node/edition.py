"""Which release the state directory belongs to: a release never works with what a newer one wrote
there in a form that it does not know."""

from __future__ import annotations

from pathlib import Path

import i2node
from i2node.errors import UsageError
from i2node.node import kept

FORMAT = 1
"""Of all that stands in the state directory, together. A release that changes a form that older
ones would misread counts on, and brings what it finds to its own form. The packages refuse to take
the place of a release with a higher one; so %pre reads the file too."""


def claim(var: Path, own: int = FORMAT) -> None:
    """Says in VAR/format who writes there from now on. UsageError: see `foreign`; SessionError: it
    cannot be written."""
    wrong = foreign(var, own)
    if wrong is not None:
        raise wrong
    if _told(var) != (own, i2node.__version__):
        kept.keep(var / "format", {"format": own, "version": i2node.__version__})


def foreign(var: Path, own: int = FORMAT) -> UsageError | None:
    """What is wrong where a newer release wrote there in another form. A file that is damaged says
    nothing: each store knows its own form besides."""
    theirs, version = _told(var)
    if isinstance(theirs, int) and theirs > own:
        return UsageError(
            f"{var} was written by i2node {version:.40} in format {theirs}; this is i2node "
            f"{i2node.__version__}, which knows {own}",
            f"install i2node {version:.40} or later again; to begin anew, and compare all rules, "
            f"move {var} away",
        )
    return None


def _told(var: Path) -> tuple[object, str]:
    try:
        found = kept.kept(var / "format") or {}
    except ValueError:
        found = {}
    return found.get("format"), str(found.get("version", ""))
