"""What a rule tells of itself: a picture at one moment, plain data, immutable.

The session makes a new RuleReport whenever it is asked; the command line, the local socket and the
controller show the same picture. Facts stand apart: what the watch covers, what waits, what was
last compared. `in_sync` is said only when all of them allow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from i2node.model import State


@dataclass(frozen=True, slots=True)
class PathProblem:
    """One path that could not be handled; `path` is shown text (model.show)."""

    path: str
    cause: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Problems:
    """How many paths are in trouble now, and the first few of them. split: no trouble, names of
    files that have more of them than the target's file system lets one file have, so that they are
    several equal files there; as far as this session was told."""

    count: int = 0
    first: tuple[PathProblem, ...] = ()
    split: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchReport:
    """How changes are seen. coverage is 0..1 of the directories. max_undetected_s bounds the age of
    a change that raises no event, None where there is no bound; but for what hidden_processes do,
    which the sweep may not look into, and for a file that got a name outside the rule meanwhile.
    slow_sweep_s: within so many seconds every directory is compared, None: not yet. instead: why
    this is not the better engine. lost_since: events were lost, and what happened since then
    (seconds since 1970) is being searched for; None: nothing is."""

    engine: str = "none"
    coverage: float = 0.0
    overflows: int = 0
    max_undetected_s: float | None = None
    slow_sweep_s: float | None = None
    hidden_processes: int = 0
    instead: str = ""
    lost_since: float | None = None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The attributes (fs.trials) that the target's file system refuses: its agent keeps them aside,
    or they are lost."""

    aside: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleReport:
    """One rule at one moment. Times in seconds, sizes in bytes, rate in bytes a second."""

    rule: str
    source: str
    target: str
    side: str = "source"
    """Who tells: source; or target, which knows less: the state, what it holds (`files_total`), and
    what it holds back, and why."""
    state: State = State.UNKNOWN
    phase: str = ""
    """What is being done within the state: connect, walk, mirror, live, drain, ..."""
    pid: int = 0
    since: float = 0.0
    """When the state was entered, seconds since 1970."""

    progress: float = 0.0
    """Percent of the pass that is done, 0..100."""
    files_total: int = 0
    """Of the source, as of the last pass; what came and went since then is not counted. A target
    tells the entries that it holds now."""
    files_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_sent: int = 0
    """On the wire, after difference and compression."""
    rate: float = 0.0
    eta_s: float | None = None
    counting: bool = False
    """Whether the totals still grow, or are not known: of what was mirrored before they are not
    counted anew."""

    dirty: int = 0
    """Names that changed and are not on their way yet."""
    in_flight: int = 0
    """Frames of changes, each of one name or of thousands, and large files, that the target has not
    made durable yet."""
    lag_s: float | None = None
    """How far the target is behind: what the last heartbeat took until all before it was durable
    there, or the age of the oldest change or heartbeat that is not, where that is more. None:
    nothing was measured yet."""
    durable_as_of: float | None = None
    """Moment up to which every change that the kernel told of is durable on the target, save those
    of paths in `problems`; as the newest heartbeat that came back says, seconds since 1970."""
    in_sync: bool = False
    assumed: str = ""
    """What was there before the rule began and was not mirrored, which nothing here speaks of:
    files, or all; empty: it was mirrored."""
    watch: WatchReport = field(default_factory=WatchReport)
    mounts: tuple[str, ...] = ()
    """File systems mounted below the source, which are not entered."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    last_compare: float | None = None
    """When the content of both sides was last compared in full, seconds since 1970."""

    problems: Problems = field(default_factory=Problems)
    last_error: str = ""
    """`code` of the last error (errors.py); empty: none since the state was entered."""
    cause: str = ""
    remedy: str = ""
    blocked_on: str = ""
    """What it waits for now: network, target disk, bandwidth plan, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended. exit_status: 0 complete, 1 done with problems. `problems` lists them as
    far as they were kept; problem_count is their number."""

    exit_status: int = 0
    problem_count: int = 0
    problems: tuple[PathProblem, ...] = ()
    files: int = 0
    """Files of the source, as of the last pass."""
    changed: int = 0
    """Files and the like that were sent, content or attributes; not what was renamed or removed."""
    bytes_read: int = 0
    bytes_sent: int = 0
    elapsed_s: float = 0.0
    in_sync: bool = False


def plain(report: RuleReport | Outcome) -> dict[str, Any]:
    """The same as dictionaries, lists, strings and numbers, for JSON."""
    return asdict(report)


_SIMPLE = frozenset({str, bool, int, float, type(None)})
_NUMBER_MAX = 1 << 62
_MOMENTS = ("since", "durable_as_of", "last_compare")
_MOMENT_MAX = 253_402_214_400  # in the year 9999, behind which no date is written


def read(table: Mapping[str, Any]) -> RuleReport:
    """The report that `plain` was made of. Unknown keys are passed over: another version may have
    written it. TypeError or ValueError when it is not a report."""
    values = _known(RuleReport, table)
    if any(not 0 <= (values.get(moment) or 0) <= _MOMENT_MAX for moment in _MOMENTS):
        raise ValueError("a moment that no date can tell")
    values["state"] = State(values.get("state", State.UNKNOWN))
    values["watch"] = WatchReport(**_known(WatchReport, table.get("watch", {})))
    problems = _known(Problems, table.get("problems", {}))
    problems["first"] = tuple(
        PathProblem(**_known(PathProblem, item)) for item in problems.get("first", ())
    )
    problems["split"] = tuple(problems.get("split", ()))
    values["problems"] = Problems(**problems)
    values["mounts"] = tuple(values.get("mounts", ()))
    fidelity = _known(Fidelity, table.get("fidelity", {}))
    values["fidelity"] = Fidelity(**{key: tuple(names) for key, names in fidelity.items()})
    return RuleReport(**values)


def _known(kind: type[Any], table: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    values = {key: value for key, value in dict(table).items() if key in hints}
    for key, value in values.items():
        wanted = {hints[key]} if get_origin(hints[key]) is None else set(get_args(hints[key]))
        if float in wanted:
            wanted.add(int)  # JSON writes a whole one without a point
        wrong = wanted <= _SIMPLE and type(value) not in wanted
        if wrong or (isinstance(value, int | float) and not abs(value) <= _NUMBER_MAX):
            raise TypeError(f"{key} is {value!r:.40}")
    return values
