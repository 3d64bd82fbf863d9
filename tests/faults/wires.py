"""Trials: the wire between the two nodes is cut, again and again, or swallows what is sent."""

from __future__ import annotations

import random
import threading

from ends import select_pause, until
from ground import Ground
from kills import Trial


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
