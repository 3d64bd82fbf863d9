"""Trials: the clock of one node is set forward by a year and back by a day while it works.

libfaketime sets the clock of one process, by a file that it reads; that of the kernel, which stamps
the files, stays, as it does for what was written before a clock is set.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from ends import until
from ground import Ground
from kills import Trial
from machine import Process

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
STEPS = ("+365d", "-1d", "+0")


def clock_steps(ground: Ground, side: str, rng: random.Random) -> Trial:
    """Of that side's process, which is started anew for it."""
    hosts = ground.hosts
    dial = hosts.place / "clock"
    dial.write_text("+0\n")
    env = dict(os.environ, LD_PRELOAD=str(LIBRARY), FAKETIME_TIMESTAMP_FILE=str(dial))
    # The times of files are the kernel's, and so is the clock that only goes on.
    env |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKETIME_NO_CACHE": "1"}
    env["PYTHONPATH"] = ":".join(sys.path)
    if side == "source":
        hosts.kill_source()
        place = f"127.0.0.1:{hosts.relay.port}:{hosts.target}"
        words = ["--home", str(hosts.homes["here"]), "mirror", str(hosts.source), place, "--json"]
        hosts.mirror = Process(hosts.place / "here.log", words, env)  # type: ignore[assignment]
    else:
        hosts.kill_target()
        log = hosts.place / "there.log"
        hosts.agent = Process(log, ground.agent_words(), env)  # type: ignore[assignment]
        until("the agent to listen", hosts._listens)
    wrong: list[str] = []
    for step in STEPS:
        ground.stir(rng)
        dial.write_text(f"{step}\n")
        ground.stir(rng)
        wrong += ground.settled()
    hosts.kill_source() if side == "source" else hosts.kill_target()
    return Trial(True, (*dict.fromkeys(wrong), *ground.settled()))
