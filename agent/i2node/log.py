"""One line per transition: `2026-03-01T12:00:00.123+01:00 info event key=value ...`, on stderr.

Values are quoted and escaped where they need it, so that a file name can neither begin a line nor
pass for another field. Nothing is logged per file or per block; what is counted stands in the
status (repl.report).
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TextIO

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_KEY = re.compile(r"[a-z][a-z0-9_]*")
_MISLEADING = frozenset(' "=\\')


def quoted(value: object) -> str:
    """The text of a value in a line: bare where nothing in it could mislead, else in quotes.

    Quoted text is escaped as in a Python string; bytes are paths, what is not UTF-8 in them shows
    as \\udcXX. None is `-`, which as a text is quoted.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if text not in ("", "-") and text.isprintable() and _MISLEADING.isdisjoint(text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def line(event: str, fields: Mapping[str, object]) -> str:
    """`event key=value ...`; an event or key that could be misread is a programming error."""
    for key in (event.replace("-", "_"), *fields):
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a name for an event or a field: {key!r}")
    return " ".join([event, *(f"{key}={quoted(value)}" for key, value in fields.items())])


class Formatter(logging.Formatter):
    """Time and level before the line. Foreign records and tracebacks become fields of a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end, local time with its offset to UTC, to the millisecond."""
        moment = datetime.fromtimestamp(record.created).astimezone()
        fields: dict[str, object] = getattr(record, "fields", {})
        if hasattr(record, "fields"):
            text = record.msg
        else:
            text = line("message", {"logger": record.name, "text": record.getMessage()})
        if record.exc_info and "trace" not in fields:
            text += " trace=" + quoted("".join(traceback.format_exception(*record.exc_info)))
        stamp = moment.isoformat(timespec="milliseconds")
        return f"{stamp} {record.levelname.lower()} {text}"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: the live display borrows it while it draws."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")


def start(level: str = "info") -> None:
    """Sends the package's log to stderr, from this level on; a second call only sets the level.

    level is one of LEVELS (KeyError otherwise: config and command line check it before).
    """
    root = logging.getLogger("i2node")
    root.setLevel(LEVELS[level])
    root.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr()
        handler.setFormatter(Formatter())
        root.addHandler(handler)


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Logs one transition.

    name is lower case with dashes; fields are paths (bytes), numbers, texts, None. Inside an
    `except` the traceback is added where level is ERROR or above.
    """
    if not logger.isEnabledFor(level):
        return
    failed = level >= logging.ERROR and sys.exc_info()[0] is not None
    text = line(name, fields)
    logger.log(level, text, extra={"fields": fields}, exc_info=failed, stacklevel=2)


class Seldom:
    """Events that others bring about, as often as they like: of each of them a few lines a minute,
    of all together not many, so that nobody fills a disk. What was left unsaid is counted in the
    next line. `clock` gives seconds. Safe to use from several threads."""

    SPAN, ALL, KEPT = 60.0, 120, 1024

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._since, self._all, self._unsaid = -self.SPAN, 0, 0

    def event(self, level: int, name: str, /, who: str, most: int = 1, **fields: object) -> None:
        """Logs as `event` does, where there were fewer than `most` lines because of `who` in the
        last minute."""
        with self._lock:
            if not self._worth(who, most):
                self._unsaid += 1
                return
            unsaid, self._unsaid = self._unsaid, 0
        event(self._logger, level, name, **fields, **({"unsaid": unsaid} if unsaid else {}))

    def _worth(self, who: str, most: int) -> bool:
        now = self._clock()
        if now - self._since >= self.SPAN:
            self._since, self._all = now, 0
        since, said = self._said.get(who, (now, 0))
        if now - since >= self.SPAN:
            since, said = now, 0
        if said >= most or self._all >= self.ALL:
            return False
        self._all += 1
        self._said[who] = (since, said + 1)
        self._said.move_to_end(who)
        if len(self._said) > self.KEPT:
            self._said.popitem(last=False)
        return True
