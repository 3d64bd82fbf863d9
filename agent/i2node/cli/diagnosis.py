"""How a diagnosis of a planned mirror, and the findings about a host, are shown: for people, and as
a JSON object a line for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from i2node.cli.arguments import shown
from i2node.node.checkup.finding import Finding

if TYPE_CHECKING:
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


def finding_lines(found: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """The objects, each with its type `t`: finding, and at the end done with the count of each
    verdict."""
    for finding in found:
        yield {"t": "finding", **asdict(finding)}
    counts = Counter(finding.verdict for finding in found)
    yield {"t": "done", **{verdict: counts[verdict] for verdict in ("fine", "look", "unknown")}}


def finding_text(found: Sequence[Finding]) -> str:
    """A line for each, without an end of line: the verdict, what it is about, and what to type."""
    wide = max(len(finding.verdict) for finding in found)
    rows = [
        f"{one.verdict:{wide}}  {one.what}: {one.text}"
        + (f" -> type: {one.remedy}" * bool(one.remedy))
        for one in found
    ]
    return "\n".join(map(shown, rows))


def status_of(found: Sequence[Finding]) -> int:
    """The exit status: 1 where something is to be done, 2 where something could not be told."""
    verdicts = {finding.verdict for finding in found}
    return 1 if "look" in verdicts else 2 if "unknown" in verdicts else 0
