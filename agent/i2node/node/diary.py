"""What the work node tells for a rule's log of what it does beside the replication, and up to when
it has done that: kept, so that a controller that is away hears of it later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

from i2node import log
from i2node.errors import SessionError
from i2node.node import kept
from i2node.orders import Note

_log = logging.getLogger(__name__)

NOTES = 24
"""So many are kept: copies of a day, where one is made each hour."""
TEXT_MOST = 2000
_APART_S = 0.001


class Diary:
    """Of one rule; any thread. `done`: the moment (seconds since 1970) that each kind of work has
    come to; None: it is not begun."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._notes: tuple[Note, ...] = ()
        self._done: Mapping[str, float] = MappingProxyType({})
        try:
            table = kept.kept(file) or {}
            self._notes = tuple(Note(**one) for one in table.get("notes", ()))
            self._done = {str(k): float(v) for k, v in table.get("done", {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            log.event(_log, logging.WARNING, "diary-lost", file=bytes(file), cause=str(error))

    @property
    def notes(self) -> tuple[Note, ...]:
        """The newest, in order."""
        return self._notes

    def done(self, what: str) -> float | None:
        return self._done.get(what)

    def mark(self, what: str, moment: float | None) -> None:
        """Work of this kind has come to this moment."""
        with self._lock:
            if self._done.get(what) != moment:
                self._keep(self._notes, self._marked(what, moment))

    def add(self, note: Note, done: float | None) -> None:
        """Takes a note, at a moment of its own, of work that has come to this moment."""
        with self._lock:
            last = self._notes[-1].at if self._notes else 0.0
            moved = replace(note, at=max(note.at, last + _APART_S), text=note.text[:TEXT_MOST])
            self._keep((*self._notes, moved)[-NOTES:], self._marked(note.what, done))

    def forget(self) -> None:
        """Of a rule that is no more."""
        self._file.unlink(missing_ok=True)

    def _marked(self, what: str, moment: float | None) -> dict[str, float]:
        others = {key: value for key, value in self._done.items() if key != what}
        return others if moment is None else others | {what: moment}

    def _keep(self, notes: tuple[Note, ...], done: Mapping[str, float]) -> None:
        """Where the disk refuses it, it is known until the agent ends."""
        self._notes, self._done = notes, done
        try:
            kept.keep(self._file, {"notes": [asdict(one) for one in notes], "done": dict(done)})
        except SessionError as error:
            log.event(_log, logging.WARNING, "diary-unkept", cause=error.cause)
