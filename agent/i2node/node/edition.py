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
    """Says in VAR/format who writes there from now on. UsageError: a newer release did, in another
    form; SessionError: it cannot be written. A file that is damaged says nothing: each store knows
    its own form besides."""
    path = var / "format"
    try:
        found = kept.kept(path) or {}
    except ValueError:
        found = {}
    theirs, version = found.get("format"), str(found.get("version", ""))
    if isinstance(theirs, int) and theirs > own:
        raise UsageError(
            f"{var} was written by i2node {version:.40} in format {theirs}; this is i2node "
            f"{i2node.__version__}, which knows {own}",
            f"install i2node {version:.40} or later again; to begin anew, and compare all rules, "
            f"move {var} away",
        )
    if (theirs, version) != (own, i2node.__version__):
        kept.keep(path, {"format": own, "version": i2node.__version__})
