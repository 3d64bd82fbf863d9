"""Trials: files of the source vanish, grow, shrink and are replaced while they are read."""

from __future__ import annotations

import random
import time

from ground import MIB, Ground
from kills import Trial

SECONDS = 1.5


def moving_files(ground: Ground, rng: random.Random) -> Trial:
    """Each of a few large files is one of these over and over; what is sent meanwhile may be any
    moment of it, and what stands there in the end has to be the same."""
    deeds, place = ground.deeds, ground.source / "held" / "moving"
    deeds.make(place)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        path = place / f"f{rng.randrange(4)}"
        what = rng.randrange(5)
        if what == 0:
            deeds.remove(path)
        elif what == 1:
            deeds.change(path, 1 << 40, rng.randrange(MIB))
        elif what == 2:
            deeds.truncate(path, rng.randrange(MIB))
        else:
            (deeds.save if what == 3 else deeds.write)(path, rng.randrange(4 * MIB))
    return Trial(True, tuple(ground.settled()))
