"""One line per transition: `2026-03-01T12:00:00.123+01:00 info event key=value ...`, on stderr.

Values are quoted and escaped where they need it, so that a file name can neither begin a line nor
pass for another field. Nothing is logged per file or per block; what is counted stands in the
status (repl.report).
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping
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
