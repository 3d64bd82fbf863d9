"""Two real nodes, and the deeds that are done to the source: the ground of short scenes that a
mirror got wrong once, or easily could."""

from __future__ import annotations

from pathlib import Path

import pytest
from deeds import Deeds
from ends import Hosts
from nursery import Nursery


class Scene:
    """A source and a target in `place`, and what its deeds move away from there."""

    def __init__(self, place: Path, nursery: Nursery, engine: str) -> None:
        self.hosts = Hosts(place, nursery, engine)
        self.source, self.target = self.hosts.source, self.hosts.target
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        self.deeds = Deeds(self.source, elsewhere)

    def equal(self) -> None:
        self.hosts.quiesce()
        assert self.hosts.differences() == []

    def problems(self) -> int:
        report = self.hosts.report()
        return report.problems.count if report else 0

    def in_flight(self) -> bool:
        report = self.hosts.report()
        return report is not None and report.in_flight > 0

    def written_down(self, beyond: int = 0) -> bool:
        """Everything has been looked at, and waits for the wire, more than so much of it."""
        report = self.hosts.report()
        return report is not None and report.in_flight > beyond and report.dirty == 0

    def connected(self) -> bool:
        report = self.hosts.report()
        return report is not None and report.state == "REPLICATION"

    def overflows(self) -> int:
        report = self.hosts.report()
        return report.watch.overflows if report else 0


EACH_ENGINE = pytest.mark.parametrize("scene", ["inotify", "fanotify"], indirect=True)
