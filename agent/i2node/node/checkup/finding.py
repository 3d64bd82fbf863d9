"""One thing that was looked at, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fine", "look", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """what: the subject, such as kernel or limits. verdict: fine; look: something is to be done;
    unknown: it could not be told. text: what was found. remedy: the command or edit that mends it,
    ready to type; empty where nothing is to be done."""

    what: str
    verdict: Verdict
    text: str
    remedy: str = ""


def fine(what: str, text: str) -> Finding:
    return Finding(what, "fine", text)


def look(what: str, text: str, remedy: str) -> Finding:
    return Finding(what, "look", text, remedy)


def unknown(what: str, text: str, remedy: str = "") -> Finding:
    return Finding(what, "unknown", text, remedy)
