"""`i2node explain`: the processes of this home are asked for a path, and what they say is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from i2node.cli.arguments import shown
from i2node.cli.display import size
from i2node.config import Config
from i2node.errors import UsageError
from i2node.fs.tree import within
from i2node.model import UNOWNED, show
from i2node.node import rpc
from i2node.repl.ledger import Ledger, Record
from i2node.repl.life import moment

Life = Mapping[str, Any]
"""As repl.life.plain makes it, or `_kept` here, which has `kept_for` instead of a source's side."""

_QUEUES = {
    "memory": "waits in memory",
    "disk": "waits in the backlog on disk",
    "hand": "is being looked at",
    "scout": "is being looked through, beside the others",
    "reading": "is being read and sent",
}


def find(config: Config, path: str) -> list[dict[str, Any]]:
    """The lives of a path, absolute or relative to the working directory; it need not exist. One
    for each rule of a process of this home that covers it, or for each that keeps its mirror there.

    UsageError where there is none; the error of the process that could not tell, where one could
    not.
    """
    if not path or "\0" in path:
        raise UsageError(f"not a path: {path!r}", "name a file or a directory")
    failed: list[Exception] = []
    ran = False
    for real in _readings(os.path.join(os.getcwdb(), os.fsencode(path))):
        asked = real.decode("utf-8", "surrogateescape")
        answers = rpc.ask(config.run, "explain", path=asked)
        # Agents answer too, and know of no such thing.
        answers = [answer for answer in answers if not isinstance(answer.error, UsageError)]
        ran = ran or bool(answers)
        failed += [answer.error for answer in answers if answer.error is not None]
        found = [answer.value for answer in answers if answer.value is not None]
        found += [_kept(record, real) for record in _records(config, real)]
        if found:
            return found
    if failed:
        raise failed[0]
    name = show(os.fsencode(path))
    if not ran:
        raise UsageError(
            f"{name}: no rule is running (asked in {config.run})",
            "start its mirror, or name its home with --home",
        )
    raise UsageError(
        f"{name}: no rule that runs here covers it", "i2node status lists the rules that run"
    )


def _readings(path: bytes) -> list[bytes]:
    """What a path may mean: the last name itself, be it a symlink; where that leads, should that be
    a source."""
    real = os.path.realpath(path)
    above, name = os.path.split(path.rstrip(b"/"))
    own = real if name in (b"", b".", b"..") else os.path.join(os.path.realpath(above), name)
    return list(dict.fromkeys((own, real)))


def _records(config: Config, path: bytes) -> list[Record]:
    """The rules that keep their mirror here, on or above a path."""
    records = Ledger(config.var / "targets").records()
    return [record for record in records if within(path, os.fsencode(record.root))]


def _kept(record: Record, path: bytes) -> dict[str, Any]:
    """What a target knows of a path: whose it is, and where to ask."""
    below = path[len(os.fsencode(record.root)) :]
    host, _, source = record.source.partition(":")
    there = source + show(below)
    return {
        "rule": record.rule,
        "source": record.source,
        "target": show(os.fsencode(record.root)),
        "path": show(path),
        "kept_for": there,
        "verdict": "elsewhere",
        "judgement": f"kept for {there} of {host}; there: i2node explain {there}",
    }


def text(life: Life) -> str:
    """A life for people; without an end of line."""
    lines = [life["path"], _line("rule", f"{life['rule']}, {life['source']} -> {life['target']}")]
    if "kept_for" not in life:
        lines += _facts(life)
    lines.append(life["judgement"])
    return "\n".join(map(shown, lines))


def _facts(life: Life) -> list[str]:
    now, held, looked = life["now"], life["held"], life["looked"]
    lines = [
        _line("now", _entry(now) if now else life["source_error"] or "it is not there"),
        _line("target", _held(held) if held else "is not known to hold it"),
    ]
    if life["all_doubt"] or life["doubt"] is not None:
        lines.append(_line("doubt", _doubt(life)))
    if looked:
        by = ", ".join(looked["by"]) or "its directory was looked at as a whole"
        when = f"since {moment(looked['changed'])}, looked at {moment(looked['at'])}"
        lines.append(_line("change", f"{by}, {when}"))
    if life["queued"]:
        lines.append(_line("queued", _queued(life)))
    if life["excluded"] is None and life["mount"] is None:
        lines.append(_line("sent", _sent(life)))
    if life["above"]:
        carried = f"{life['above']['path']} in frame {life['above']['sent']['frame']}"
        lines.append(_line("above", f"{carried}, not known to be durable"))
    problem = life["problem"]
    if problem:
        lines.append(_line("problem", f"{problem['path']}: {problem['cause']}"))
        if problem["remedy"]:
            lines.append(_line("remedy", problem["remedy"]))
        if problem["retry"] is not None:
            lines.append(_line("", f"tried again at {moment(problem['retry'])}"))
    if life["durable_as_of"] is not None:
        told = f"all that the kernel told of until {moment(life['durable_as_of'])}"
        lines.append(_line("durable", f"{told}, save what is in trouble"))
    return lines


def _line(name: str, value: str) -> str:
    return f"  {name:<8}{value}"


def _entry(entry: Life) -> str:
    links = f", {entry['links']} names" if entry["links"] > 1 and entry["kind"] != "dir" else ""
    owner = f", owner {entry['uid']}:{entry['gid']}" if entry["uid"] != UNOWNED else ""
    return (
        f"{entry['kind']}, {size(entry['size'])} ({entry['size']}), mode {entry['mode']:04o}"
        f"{owner}{links}, mtime {_exact(entry['mtime_ns'])}"
    )


def _exact(mtime_ns: int) -> str:
    """To the nanosecond; years that the calendar does not have as seconds."""
    seconds, rest = divmod(mtime_ns, 10**9)
    try:
        at = datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return f"{seconds}.{rest:09} s since 1970"
    return f"{at:%Y-%m-%d %H:%M:%S}.{rest:09}{at:%z}"


def _held(held: Life) -> str:
    parts = [_entry(held)]
    parts.append(f"content {held['content']}" if held["content"] else "no digest of its content")
    parts.append(f"attributes {'known' if held['attributes'] else 'not known'}")
    parts += ["read so soon after a change that its times prove nothing"] * held["racy"]
    parts += ["as the target told"] * held["told"]
    return ", ".join(parts)


def _doubt(life: Life) -> str:
    if life["all_doubt"]:
        return f"everything, until it was compared: {life['all_doubt']}"
    return "of what the target holds in its directory, until it was asked or tells it is durable"


def _queued(life: Life) -> str:
    queued = life["queued"]
    of = "" if queued["of"] == life["path"] else f"{queued['of']} "
    of = "its directory " if queued["whole"] and not of else of
    by = f", {', '.join(queued['by'])}" if queued["by"] else ""
    due = f", looked at next at {moment(queued['due'])}" if queued["due"] is not None else ""
    return f"{of}{_QUEUES[queued['queue']]} since {moment(queued['since'])}{by}{due}"


def _sent(life: Life) -> str:
    sent = life["sent"]
    since = moment(life["known_since"])
    if not sent:
        return f"not since {since}; what was durable before that is not known any more"
    what = "its removal" if sent["gone"] else "it"
    found = "found by the walk" if sent["walk"] else "after a change"
    steps = [f"{what} in frame {sent['frame']}, {found}, read {moment(sent['read'])}"]
    steps += ["changed while it was read"] * sent["fuzzy"]
    for step in ("sent", "applied", "durable"):
        if sent[step] is not None:
            steps.append(f"{step} {moment(sent[step])}")
    if sent["lost"]:
        steps.append("the connection ended before the target told that it was durable")
    elif sent["durable"] is None:
        steps.append("not durable yet")
    return ", ".join(steps)
