"""How a diagnosis is shown: a table for people, a JSON object a line for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from i2node.cli.arguments import shown
from i2node.repl.doctor import Diagnosis

_HEAD = ("attribute", "source", "target", "")


def lines(found: Diagnosis) -> Iterator[dict[str, Any]]:
    """The objects, each with its type `t`: attribute, note, and at the end done."""
    for attribute in found.attributes:
        yield {"t": "attribute", **asdict(attribute)}
    for note in found.notes:
        yield {"t": "note", **asdict(note)}
    yield {"t": "done", "lost": list(found.lost)}


def text(found: Diagnosis) -> str:
    """Without an end of line. What is not possible at the source is `no` there."""
    rows = [_HEAD]
    for a in found.attributes:
        rows.append((a.name, "yes" if a.possible else "no", a.verdict, a.why))
    wide = [max(len(row[i]) for row in rows) for i in range(3)]
    table = ["  ".join((*(w.ljust(n) for w, n in zip(r, wide, strict=False)), r[3])) for r in rows]
    notes = [f"{'' if n.sound else 'look at '}{n.what}: {n.text}" for n in found.notes]
    end = "lost: " + ", ".join(found.lost) if found.lost else "nothing would be lost"
    return "\n".join(shown(line.rstrip()) for line in (*table, "", *notes, end))
