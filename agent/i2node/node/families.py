"""The rules of a home, and its agent, in numbers for Prometheus.

Names and units are by its conventions: base units, `_total` for what only grows, and moments, not
ages. What is not known has no sample. A rule has a series for each side that this host has of it;
its paths stand in `i2node_rule_info` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import i2node
from i2node.model import State
from i2node.net.listener import Statistics
from i2node.repl.report import RuleReport

_OF_A_RULE = ("rule", "side")


def registry_of(
    reports: Callable[[], Iterable[RuleReport]], statistics: Callable[[], Statistics]
) -> CollectorRegistry:
    """Asks these whenever it is asked. reports: of all processes of the home; one that did not
    answer has no rule in it. statistics: of the agent's listener."""
    registry = CollectorRegistry()
    registry.register(_Rules(reports))
    registry.register(_Agent(statistics))
    ProcessCollector(registry=registry)
    return registry


def page_of(registry: CollectorRegistry, accepted: str) -> tuple[str, bytes]:
    """Its numbers in a format that the header Accept allows, which is the first of these."""
    encoder, kind = choose_encoder(accepted)
    return kind, encoder(registry)


@dataclass(frozen=True, slots=True)
class _Number:
    """One of a rule. of: its value, None where that is not known. grows: a counter. side: the one
    that tells it; empty: both do."""

    name: str
    help: str
    of: Callable[[RuleReport], float | None]
    grows: bool = False
    side: str = "source"


def _watched(number: Callable[[RuleReport], float]) -> Callable[[RuleReport], float | None]:
    """One that is 0 too while no session watches the rule, and so nobody knows."""
    return lambda report: number(report) or (0 if report.watch.engine != "none" else None)


def _counted(number: Callable[[RuleReport], float]) -> Callable[[RuleReport], float | None]:
    """One that is 0 too while nothing of the source was counted yet."""

    def of(report: RuleReport) -> float | None:
        some = report.files_total or report.bytes_total
        known = some or (report.watch.engine != "none" and not report.counting)
        return number(report) if known else None

    return of


_NUMBERS = (
    _Number(
        "state_entered_timestamp_seconds",
        "When the rule entered its state, since 1970.",
        lambda report: report.since or None,
        side="",
    ),
    _Number(
        "blocked",
        "1: the rule waits for what is not its own work (network, disk, bandwidth plan, a person "
        "who releases what the brake holds); i2node status says for what.",
        lambda report: bool(report.blocked_on),
        side="",
    ),
    _Number(
        "in_sync",
        "1: every change is durable at the target, nothing waits, and nothing was missed.",
        lambda report: report.in_sync,
    ),
    _Number(
        "lag_seconds",
        "How far the target is behind the source, measured end to end.",
        lambda report: report.lag_s,
    ),
    _Number(
        "durable_timestamp_seconds",
        "Moment, since 1970, up to which every change is durable at the target: when it was last "
        "in sync. Its age: time() - i2node_rule_durable_timestamp_seconds.",
        lambda report: report.durable_as_of,
    ),
    _Number(
        "last_compare_timestamp_seconds",
        "When the content of both sides was last compared in full, since 1970.",
        lambda report: report.last_compare,
    ),
    _Number(
        "progress_ratio",
        "Part of the pass that is done, 0 to 1.",
        lambda report: report.progress / 100,
    ),
    _Number(
        "source_files",
        "Files of the source, as of the last pass; in the first one as far as they are counted.",
        _counted(lambda report: report.files_total),
    ),
    _Number(
        "source_bytes",
        "Size of the source's files, as of the last pass; in the first one as far as counted.",
        _counted(lambda report: report.bytes_total),
    ),
    _Number(
        "done_files",
        "Files that the pass is done with.",
        _counted(lambda report: report.files_done),
    ),
    _Number(
        "done_bytes",
        "Size of the files, or parts of them, that the pass is done with.",
        _counted(lambda report: report.bytes_done),
    ),
    _Number(
        "sent_bytes_total",
        "Sent to the target, after difference and compression.",
        _watched(lambda report: report.bytes_sent),
        grows=True,
    ),
    _Number(
        "problems",
        "Paths that are in trouble now; i2node status names the first.",
        lambda report: report.problems.count,
    ),
    _Number(
        "dirty_names",
        "Queue: names that changed and are not on their way yet.",
        _watched(lambda report: report.dirty),
    ),
    _Number(
        "in_flight_frames",
        "Queue: frames of changes, and large files, that are not durable at the target yet.",
        _watched(lambda report: report.in_flight),
    ),
    _Number(
        "watch_coverage_ratio",
        "Part of the source's directories whose changes are seen at once, 0 to 1.",
        _watched(lambda report: report.watch.coverage),
    ),
    _Number(
        "watch_overflows_total",
        "How often the kernel lost events; what they told of is searched for.",
        _watched(lambda report: report.watch.overflows),
        grows=True,
    ),
    _Number(
        "watch_max_undetected_seconds",
        "Bound of the age of a change that raises no event; none where there is no bound.",
        lambda report: report.watch.max_undetected_s,
    ),
    _Number(
        "target_entries",
        "Entries that the target holds of the rule.",
        lambda report: report.files_total or None,
        side="target",
    ),
)


@dataclass(frozen=True, eq=False)
class _Rules(Collector):
    reports: Callable[[], Iterable[RuleReport]]

    def collect(self) -> Iterator[Metric]:
        reports = list(self.reports())
        yield GaugeMetricFamily(
            "i2node_silent_processes",
            "Processes of i2node here that did not say how their rules stand.",
            value=sum(1 for report in reports if not report.rule),
        )
        told = _one_each(reports)
        yield from _standings(told)
        for number in _NUMBERS:
            yield _family(number, told)


def _one_each(reports: Iterable[RuleReport]) -> list[RuleReport]:
    """One of each rule and side: two series of the same name would spoil all of them. An agent
    tells of what it received once, also while another process of its home receives it."""
    found: dict[tuple[str, str], RuleReport] = {}
    for report in reports:
        key = (report.rule, report.side)
        if report.rule and (key not in found or found[key].state is State.UNKNOWN):
            found[key] = report
    return list(found.values())


def _standings(reports: Iterable[RuleReport]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "i2node_rule_info",
        "Which rules there are, each side with its paths as shown by i2node status.",
        labels=(*_OF_A_RULE, "source", "target"),
    )
    state = GaugeMetricFamily(
        "i2node_rule_state",
        "1 for the state that the rule is in, 0 for each of the others.",
        labels=(*_OF_A_RULE, "state"),
    )
    for report in reports:
        rule = (report.rule, report.side)
        info.add_metric((*rule, report.source, report.target), 1)
        for one in State:
            state.add_metric((*rule, one.value), report.state is one)
    yield info
    yield state


def _family(number: _Number, reports: Iterable[RuleReport]) -> Metric:
    kind = CounterMetricFamily if number.grows else GaugeMetricFamily
    family = kind(f"i2node_rule_{number.name}", number.help, labels=_OF_A_RULE)
    for report in reports:
        if number.side in ("", report.side) and (value := number.of(report)) is not None:
            family.add_metric((report.rule, report.side), value)
    return family


@dataclass(frozen=True, eq=False)
class _Agent(Collector):
    """Its version, and what came to its door."""

    statistics: Callable[[], Statistics]

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("i2node_build_info", "What runs here.", labels=("version",))
        build.add_metric((i2node.__version__,), 1)
        yield build
        now = self.statistics()
        for name, told, value in (
            ("connections_total", "Connections to the agent's port.", now.accepted),
            ("channels_total", "Those of peers that proved who they are.", now.authenticated),
            ("streams_total", "Those that joined a channel, to carry its content.", now.streams),
            ("pairings_total", "Peers that were paired.", now.paired),
        ):
            yield CounterMetricFamily(f"i2node_listener_{name}", told, value)
        refused = CounterMetricFamily(
            "i2node_listener_refused_total",
            "Connections that were shut out: the peer is not paired, gave a wrong pairing code, "
            "sent what is not i2node's, said nothing, or made room for others.",
            labels=("reason",),
        )
        for reason in ("not_paired", "wrong_code", "garbage", "silent", "shed"):
            refused.add_metric((reason,), getattr(now, reason))
        yield refused
        for name, told, value in (
            ("open_channels", "Peers that are connected.", now.channels),
            ("pending_connections", "Connections that have proven nothing yet.", now.pending),
        ):
            yield GaugeMetricFamily(f"i2node_listener_{name}", told, value)
