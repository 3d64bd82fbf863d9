"""Trials: the wire between the two nodes is cut, again and again, or swallows what is sent."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ends import Hosts, select_pause, until
from ground import LARGE, Ground
from kills import Trial

EVERY_S = 3.0
"""Between two resets of a lossy wire: 20 a minute."""


def resets(ground: Ground, times: int, rng: random.Random) -> Trial:
    """RST on each connection at random moments of the work, in the middle of frames too."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            ground.stir(rng)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(times):
            select_pause(random.random() * 0.5)
            ground.hosts.relay.cut()
    finally:
        over.set()
        worker.join()
    return Trial(True, tuple(ground.settled()))


def half_open(ground: Ground, rng: random.Random) -> Trial:
    """Both ends stand, and nothing comes through until the source tells that it is so."""
    hosts = ground.hosts
    hosts.relay.pause()
    ground.stir(rng)
    until("the loss to be told", lambda: (r := hosts.report()) and r.last_error == "peer-lost")
    report = hosts.report()
    wrong = () if report and not report.in_sync else ("lost: in sync, it says",)
    hosts.relay.resume()
    hosts.relay.cut()
    return Trial(True, (*wrong, *ground.settled()))


def losses(ground: Ground, seconds: float, rng: random.Random) -> Trial:
    """A first mirror of another tree and changes to it, over a wire that loses one packet of 20 and
    is reset 20 times a minute; at the end it is only lossy. No problem is left of that."""
    place = Path(tempfile.mkdtemp(dir=ground.hosts.place))
    ground = Ground(place, ground.hosts.nursery)
    deeds, hosts = ground.deeds, ground.hosts
    hosts.patience = 180.0
    try:
        with lossy(hosts) as dropped:
            for number in range(200):
                deeds.make(ground.source / f"many{number % 10}")
                deeds.write(
                    ground.source / f"many{number % 10}" / f"f{number}", rng.randrange(9000)
                )
            for number in range(2):
                deeds.write(ground.source / f"large{number}", LARGE + rng.randrange(LARGE))
            with reset(hosts):
                ground.plant()
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    ground.stir(rng)
                    select_pause(rng.random() * 0.2)
            wrong = ground.settled()
            report = hosts.report()
            if report is None or report.problems.count or report.last_error:
                wrong.append(f"lost: a problem that is none: {report}")
            hit = dropped() > 0
    finally:
        ground.close()
        shutil.rmtree(place, ignore_errors=True)
    return Trial(hit, tuple(dict.fromkeys(wrong)))


@contextmanager
def reset(hosts: Hosts) -> Iterator[None]:
    """RST on each connection every EVERY_S."""
    over = threading.Event()

    def cut() -> None:
        while not over.wait(EVERY_S):
            hosts.relay.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def lossy(hosts: Hosts) -> Iterator[Callable[[], int]]:
    """One of 20 packets between these hosts is lost, either way, on both sides of the relay
    (nft(8)). Gives how to ask how many were."""
    table = f"ip i2node-{os.getpid()}-{hosts.relay.port}"
    ports = f"{{ {hosts.relay.port}, {hosts._port} }}"
    rules = [f"add table {table}", f"add chain {table} i {{ type filter hook input priority 0; }}"]
    for side in ("sport", "dport"):
        rules.append(
            f"add rule {table} i tcp {side} {ports} numgen random mod 100 < 5 counter drop"
        )
    if not shutil.which("nft") or _nft(*rules).returncode:
        pytest.skip("nft makes no rules here")
    try:
        yield lambda: sum(
            map(int, re.findall(r"packets (\d+)", _nft(f"list table {table}").stdout))
        )
    finally:
        _nft(f"delete table {table}")


def _nft(*commands: str) -> subprocess.CompletedProcess[str]:
    words = ["nft", "; ".join(commands)]
    return subprocess.run(words, check=False, capture_output=True, text=True)
