"""What the end-to-end tests stand on. Hosts are made once for a module: its tests use directories
of their own."""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Hosts, two_hosts


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[Hosts]:
    area = tmp_path_factory.mktemp("hosts")
    with two_hosts(area) as pair:
        yield pair
    shutil.rmtree(area, ignore_errors=True)


_serial = itertools.count()


@dataclass(frozen=True)
class Trees:
    """An empty source, and a target that does not exist yet."""

    source: Path
    target: Path


@pytest.fixture
def trees(hosts) -> Iterator[Trees]:
    name = f"tree {next(_serial)}"
    source, target = hosts.area / "source" / name, hosts.backup / name
    source.mkdir(parents=True)
    yield Trees(source, target)
    for host in (hosts.source, hosts.target):
        for program in host.programs:
            if program is not hosts.agent:
                program.sweep()
