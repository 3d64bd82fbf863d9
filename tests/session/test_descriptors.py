"""A source that runs out of descriptors, wherever it is: it tells that, and goes on."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ends import Hosts, until
from nursery import Child, Nursery


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    nursery = Nursery()
    place = Path(tempfile.mkdtemp(prefix="i2node-descriptors-", dir="/var/tmp"))
    made = Hosts(place, nursery)
    yield made
    made.close()
    nursery.close()
    shutil.rmtree(place)


def limit(mirror: Child, more: int) -> tuple[int, int]:
    """From now on it has so many descriptors more than now; gives the limits as they were."""
    taken = max(int(fd) for fd in os.listdir(f"/proc/{mirror.pid}/fd"))
    before = resource.prlimit(mirror.pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(mirror.pid, resource.RLIMIT_NOFILE, (taken + more, before[1]))


def starved(hosts: Hosts, more: int, lose: Callable[[], None]) -> None:
    """It loses the target, and tries again with this much too little; then all is well."""
    assert hosts.mirror is not None
    mirror, log = hosts.mirror, hosts.place / "here.log"
    said = log.read_text().count("rule-state")
    before = limit(mirror, more)
    lose()
    until(
        "it to try again",
        lambda: log.read_text().count("rule-state") >= said + 2 or not mirror.alive(),
    )
    assert mirror.alive(), log.read_text()[-2000:]
    resource.prlimit(mirror.pid, resource.RLIMIT_NOFILE, before)
    hosts.quiesce()


def test_an_attempt_that_finds_no_descriptor_is_tried_again(hosts: Hosts) -> None:
    """The limit is set so that each call of an attempt that takes one meets it in its turn."""
    hosts.start_target()
    hosts.start_source()
    hosts.quiesce()
    for more in range(10):
        starved(hosts, more, hosts.relay.cut)
    assert "Too many open files" in (hosts.place / "here.log").read_text()
    assert hosts.differences() == []


def test_a_first_attempt_that_finds_no_descriptor_is_tried_again(hosts: Hosts) -> None:
    log = hosts.place / "here.log"
    for more in range(2, 10):
        hosts.kill_target()
        hosts.kill_source()
        said = log.read_text().count("rule-state") if log.exists() else 0
        hosts.start_source()
        until(
            "it to miss the target",
            lambda said=said: log.exists() and log.read_text().count("rule-state") > said,
        )
        starved(hosts, more, hosts.start_target)
    assert "a call to this host's kernel failed" in log.read_text()
    assert hosts.differences() == []
