"""Names that leave the tree without the kernel telling more than that they left."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import Hosts
from nursery import Nursery

from i2node.repl.moves import MISSED
from queues import usual_queue

DIRS = 3


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """With inotify: it says of a file that left no more than that."""
    nursery = Nursery()
    place = Path(tempfile.mkdtemp(prefix="i2node-leaving-", dir="/var/tmp"))
    made = Hosts(place, nursery, "inotify")
    yield made
    made.close()
    nursery.close()
    shutil.rmtree(place)


def test_all_of_very_many_files_that_are_moved_out_at_once_are_deleted(hosts: Hosts) -> None:
    """Of each directory as many as are remembered for being gone, which is what a round takes: none
    is to be forgotten for those of the next."""
    away = hosts.place / "away"
    away.mkdir()
    names = [f"{number}" for number in range(DIRS * MISSED)]
    for at in range(DIRS):
        (hosts.source / f"d{at}").mkdir()
    for number, name in enumerate(names):
        (hosts.source / f"d{number % DIRS}" / name).touch()
    with usual_queue():
        hosts.quiesce()
    assert hosts.differences() == [] and hosts.mirror is not None
    hosts.mirror.signal(signal.SIGSTOP)
    for number, name in enumerate(names):
        (hosts.source / f"d{number % DIRS}" / name).rename(away / name)
    hosts.mirror.signal(signal.SIGCONT)
    hosts.quiesce()
    assert [len(list((hosts.target / f"d{at}").iterdir())) for at in range(DIRS)] == [0] * DIRS
    assert hosts.differences() == []
