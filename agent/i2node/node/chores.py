"""When a rule's trees are compared, and copied, while it replicates; and what is said of that.

Pure: the clock is handed in. Moments are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from i2node.errors import I2Error
from i2node.model import show
from i2node.orders import Comparing, Copying, Note
from i2node.repl.compare import Comparison, Difference, Tally

COMPARE, COPY = "compare", "copy"
NAMED = 10
"""Of what differs, so many names are told."""


def comparison_due(wanted: Comparing, done: float) -> float | None:
    """The first moment behind `done` at which they are to be compared."""
    moment = wanted.plan.next(datetime.fromtimestamp(done))
    return None if moment is None else moment.timestamp()


def copy_due(wanted: Copying, done: float | None) -> float:
    """When the next copy is due. done: when the last one was, None: there was none."""
    if done is None or done < wanted.start:
        return float(wanted.start)
    return done + wanted.every_s


def copied(wanted: Copying, due: float, now: float) -> float:
    """What a copy is done for that was due at some moment, or before there was any, and is made
    now: those that were missed meanwhile too."""
    if not due:
        return now
    return due + max(0.0, now - due) // wanted.every_s * wanted.every_s


def compared(parts: Sequence[tuple[bytes, Comparison]], strict: bool, took_s: float) -> Note:
    """What came of comparing the parts of a rule, each with its source. at is left to the
    diary."""
    tallies = [one.tally for _, one in parts]
    how = "by content" if strict else "by size and times"
    count = _sums(tallies)
    told = f"{how}, in {took_s:.0f} s: {count['equal']:,} equal"
    if not any(tally.apart for tally in tallies):
        return Note(at=0.0, what=COMPARE, text=f"source and target are equal, {told}")
    numbers = ", ".join(f"{count[name]:,} {name}" for name in ("different", "missing", "extra"))
    names = _names(parts)
    more = ", ..." if len(names) > NAMED else ""
    text = f"source and target differ, {told}, {numbers}: {', '.join(names[:NAMED])}{more}"
    return Note(at=0.0, what=COMPARE, text=text, sound=False)


def kept(answer: Mapping[str, object], name: str, as_of: float) -> Note:
    """What the backup node did when it was asked for a copy (node.copies)."""
    stay = answer.get("kept")
    if answer.get("t") == "full":
        text = f"no copy was kept: there are {stay} already, and none is to go for another one"
        return Note(at=0.0, what=COPY, text=text, sound=False)
    moment = datetime.fromtimestamp(as_of).astimezone().isoformat(timespec="milliseconds")
    how = "shared with the mirror" if answer.get("shared") else "copied"
    text = f"copy {name} is kept, with all changes until {moment}: {answer.get('files')} files"
    text += f", {how}; {stay} are kept"
    gone, problems = answer.get("gone"), answer.get("problems")
    if isinstance(gone, list) and gone:
        text += f", {', '.join(map(str, gone))} went"
    if problems:
        text += f"; {problems} attributes could not be set"
    return Note(at=0.0, what=COPY, text=text, sound=not problems)


def failed(what: str, error: I2Error) -> Note:
    """It could not be done."""
    done = {COMPARE: "not compared", COPY: "no copy was kept"}[what]
    remedy = f" ({error.remedy})" if error.remedy else ""
    text = f"{done}: {error.cause}{remedy}"
    return Note(at=0.0, what=what, text=text, sound=False, error=error.code)


def _sums(tallies: Sequence[Tally]) -> Mapping[str, int]:
    names = ("equal", "different", "missing", "extra")
    return {name: sum(getattr(tally, name) for tally in tallies) for name in names}


def _names(parts: Sequence[tuple[bytes, Comparison]]) -> list[str]:
    """Of each path that differs, what does; one more at most than are told."""
    found: dict[bytes, list[Difference]] = {}
    for source, one in parts:
        for difference in one.differences:
            below = b"" if difference.path == b"." else difference.path
            path = b"%s/%s" % (source.rstrip(b"/"), below) if below else source
            if path in found or len(found) <= NAMED:
                found.setdefault(path, []).append(difference)
    return [f"{show(path)} ({', '.join(d.what for d in those)})" for path, those in found.items()]
