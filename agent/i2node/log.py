"""One line per transition: `2026-03-01T12:00:00.123+01:00 info event key=value ...`, on stderr; or
the same as a JSON object: `{"time": ..., "level": "info", "event": ..., "key": value, ...}`.

Values are quoted and escaped where they need it, so that a file name can neither begin a line nor
pass for another field. Nothing is logged per file or per block; what is counted stands in the
status (repl.report). Whatever happens, an event has PER_MINUTE lines a minute at most: no disk is
filled by one that repeats.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TextIO

from i2node.model import show

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

FORMS = ("text", "json")

PER_MINUTE = 600
"""Lines of an event; a day of one that never ceases is some 150 MB."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Those of syslog(3), as the journal reads them at the beginning of a line (sd-daemon(3))."""
_OF_EVERY_LINE = frozenset({"time", "level", "event"})
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
    if taken := _OF_EVERY_LINE & fields.keys():
        raise ValueError(f"not a name for a field, every line has one: {sorted(taken)}")
    return " ".join([event, *(f"{key}={quoted(value)}" for key, value in fields.items())])


def _told(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Event and fields of a record, its traceback among them; a foreign one is a `message`."""
    name = _event_of(record)
    if hasattr(record, "fields"):
        fields = dict(record.fields)
    else:
        fields = {"logger": record.name, "text": record.getMessage()}
    if record.exc_info and "trace" not in fields:
        fields["trace"] = "".join(traceback.format_exception(*record.exc_info))
    return name, fields


def _event_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", "")) if hasattr(record, "fields") else "message"


def _stamp(record: logging.LogRecord) -> str:
    """Local time with its offset to UTC, to the millisecond."""
    moment = datetime.fromtimestamp(record.created).astimezone()
    return moment.isoformat(timespec="milliseconds")


class _Text(logging.Formatter):
    """One line without its end. stamped: with its time."""

    def __init__(self, stamped: bool) -> None:
        super().__init__()
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()} {line(*_told(record))}"
        return f"{_stamp(record)} {text}" if self._stamped else text


class _Json(logging.Formatter):
    """One object, in ASCII and on one line."""

    def format(self, record: logging.LogRecord) -> str:
        name, fields = _told(record)
        head = {"time": _stamp(record), "level": record.levelname.lower(), "event": name}
        return json.dumps(head | {key: _plain(value) for key, value in fields.items()})


def _plain(value: object) -> str | int | float | None:
    """A value as JSON has it. Bytes are paths, as model.show shows them; what has no type there is
    text."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, bytes):
        return show(value)
    # Halves of surrogate pairs, of names that are no UTF-8, are no text to most readers of JSON.
    return str(value).encode("utf-8", "backslashreplace").decode()


class _ForJournal(logging.Formatter):
    """The level before each line, so that `journalctl -p` knows it."""

    def __init__(self, of: logging.Formatter) -> None:
        super().__init__()
        self._of = of

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITIES.get(record.levelname.lower(), 3)}>{self._of.format(record)}"


class Minutes:
    """How many lines each key has had in its minute, which begins with its first; of the KEPT keys
    that had one last. Moments are seconds of any clock that does not go back."""

    SPAN, KEPT = 60.0, 1024

    def __init__(self) -> None:
        self._had: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def had(self, key: str, now: float) -> int:
        """0 once the minute is over."""
        return self._had[key][1] if self.left(key, now) > 0 else 0

    def left(self, key: str, now: float) -> float:
        """Seconds of its minute that are left."""
        return self._had[key][0] + self.SPAN - now if key in self._had else 0.0

    def add(self, key: str, now: float) -> None:
        """One line more."""
        had = self.had(key, now)
        self._had[key] = (self._had[key][0] if had else now, had + 1)
        self._had.move_to_end(key)
        if len(self._had) > self.KEPT:
            self._had.popitem(last=False)


class Ration:
    """Which lines are let through, and how many of each event were not. Moments as in Minutes."""

    def __init__(self, most: int = PER_MINUTE) -> None:
        """most: lines of an event in its minute."""
        self._most = most
        self._minutes = Minutes()
        self._unsaid: Counter[str] = Counter()

    def lets(self, name: str, now: float) -> bool:
        """Whether one more line of the event may be written; it is counted either way."""
        lets = self._minutes.had(name, now) < self._most
        if lets:
            self._minutes.add(name, now)
        else:
            self._unsaid[name] += 1
        return lets

    def over(self, now: float) -> list[tuple[str, int]]:
        """The events whose minute is over, with how many lines were not written; each once."""
        names = [name for name in self._unsaid if self._minutes.left(name, now) <= 0]
        return [(name, self._unsaid.pop(name)) for name in names]

    def due(self, now: float) -> float | None:
        """Seconds until `over` has something; None: there is nothing to come."""
        return min((self._minutes.left(name, now) for name in self._unsaid), default=None)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: the live display borrows it while it draws."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.journal = False
        self.form = "text"
        self._ration = Ration()
        self._timer: threading.Timer | None = None

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")

    def speak(self, form: str, journal: bool) -> None:
        """From now on in this form."""
        self.form, self.journal = form, journal
        of = _Json() if form == "json" else _Text(stamped=not journal)
        self.setFormatter(_ForJournal(of) if journal else of)

    def emit(self, record: logging.LogRecord) -> None:
        """The line, unless its event has had its share. The caller holds the handler's lock."""
        now = time.monotonic()
        self._tell(now)
        if self._ration.lets(_event_of(record), now):
            super().emit(record)
        elif self._timer is None:
            self._wait(now)

    def close(self) -> None:
        """The end of the program: logging sees to it."""
        self.acquire()
        try:
            self._tell(math.inf)
        finally:
            self.release()
        super().close()

    def _tell(self, now: float) -> None:
        for name, unsaid in self._ration.over(now):
            fields = {"name": name, "unsaid": unsaid}
            super().emit(_record(logging.WARNING, "log-limited", fields))

    def _wait(self, now: float) -> None:
        """Until what was left unsaid is to be told, though nothing else may be said by then."""
        due = self._ration.due(now)
        if due is not None:
            self._timer = threading.Timer(due, self._awake)
            self._timer.daemon = True
            with suppress(RuntimeError):  # no more threads to be had: the next line tells it
                self._timer.start()
                return
        self._timer = None

    def _awake(self) -> None:
        self.acquire()
        try:
            now = time.monotonic()
            self._tell(now)
            self._wait(now)
        finally:
            self.release()


def _record(level: int, name: str, fields: dict[str, object]) -> logging.LogRecord:
    what = {"msg": line(name, fields), "event": name, "fields": fields}
    return logging.makeLogRecord(
        {"name": __name__, "levelno": level, "levelname": logging.getLevelName(level), **what}
    )


def start(level: str = "info", form: str = "text", journal: bool | None = None) -> None:
    """Sends the package's log to stderr, from this level on, and what other packages warn of; a
    second call changes level and form.

    level is one of LEVELS, form of FORMS (config and command line check it before: KeyError of a
    level). journal: stderr is systemd's journal, which has a time for each line and reads its level
    from it; None: as it was said last.
    """
    ours = logging.getLogger("i2node")
    ours.setLevel(LEVELS[level])
    ours.propagate = False
    handler = _handler()
    if handler is None:
        handler = _Stderr()
        ours.addHandler(handler)
        logging.getLogger().addHandler(handler)
    handler.speak(form, handler.journal if journal is None else journal)


def _handler() -> _Stderr | None:
    handlers = logging.getLogger("i2node").handlers
    return next((one for one in handlers if isinstance(one, _Stderr)), None)


def for_people() -> bool:
    """Whether who reads stderr is a person: it is plain text there, and not the journal."""
    handler = _handler()
    return handler is None or not (handler.journal or handler.form == "json")


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Logs one transition.

    name is lower case with dashes; fields are paths (bytes), numbers, texts, None. Inside an
    `except` the traceback is added where level is ERROR or above.
    """
    if not logger.isEnabledFor(level):
        return
    failed = level >= logging.ERROR and sys.exc_info()[0] is not None
    text = line(name, fields)
    extra = {"event": name, "fields": fields}
    logger.log(level, text, extra=extra, exc_info=failed, stacklevel=2)


class Seldom:
    """Events that others bring about, as often as they like: of each of them a few lines a minute,
    of all together not many, so that nobody fills a disk. What was left unsaid is counted in the
    next line. `clock` gives seconds. Safe to use from several threads."""

    ALL = 120

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._each, self._all = Minutes(), Minutes()
        self._unsaid = 0

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
        if self._each.had(who, now) >= most or self._all.had("", now) >= self.ALL:
            return False
        self._each.add(who, now)
        self._all.add("", now)
        return True
