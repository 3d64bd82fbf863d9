"""The live picture of a running mirror. In a module of its own, since what draws it takes longer to
load than a small mirror to run."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from i2node.cli.arguments import shown
from i2node.cli.display import PASSES, amounts, coverage, duration, size, standing, summary, trouble
from i2node.repl.report import Outcome, RuleReport


class Terminal:
    """The live picture; log lines scroll above it, the summary stays below the last picture."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._note = ""

    def show(self, report: RuleReport, now: float) -> None:
        self._live.update(picture(report, self._note), refresh=True)

    def draining(self) -> None:
        self._note = "finishing what is under way; once more to leave at once"

    def finish(self, report: RuleReport, outcome: Outcome) -> None:
        self._note = ""
        self._live.update(picture(report, ""), refresh=True)
        self._live.stop()
        for line in summary(outcome):
            self._console.print(Text(shown(line)), soft_wrap=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def picture(report: RuleReport, note: str) -> RenderableType:
    """A report as a few lines for a terminal: in a pass its progress, later its lag."""
    rows: list[RenderableType] = [_line("bold", f"{report.source} → {report.target}")]
    if report.state in PASSES:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"{report.state} {report.phase}",
            ProgressBar(total=100, completed=report.progress, width=30),
            f"{report.progress:.0f} %",
            f"{size(report.rate)}/s",
            f"{duration(report.eta_s)} left",
        )
        rows.append(bar)
        rows.append(_line("", f"{amounts(report)}, sent {size(report.bytes_sent)}"))
    else:
        rows.append(_line("green" if report.in_sync else "yellow", standing(report)))
    rows.append(_line("dim", coverage(report)))
    for problem in report.problems.first[:3]:
        rows.append(_line("yellow", f"{problem.path}: {problem.cause}"))
    rows.extend(_line("red", line) for line in trouble(report))
    if note:
        rows.append(_line("bold", note))
    return Group(*rows)


def _line(style: str, text: str) -> Text:
    return Text(shown(text), style=style, no_wrap=True, overflow="ellipsis")
