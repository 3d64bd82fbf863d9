"""A mirror at work while everything happens to its tree and to its two nodes.

The deeds are drawn by hypothesis and done to a real tree; both nodes are real processes that are
killed without warning; the wire between them is cut. After every deed: no file on the target that
is not one complete version, nothing outside the target. After every quiet moment: equal trees.

SEED and SECONDS in the environment (I2NODE_MACHINE_...) repeat a run, or make it a long one.
"""

from __future__ import annotations

import os

import pytest
from mirrored import Mirrored, drawn, run

SECONDS = float(os.environ.get("I2NODE_MACHINE_SECONDS", "40"))
SEED = drawn(os.environ.get("I2NODE_MACHINE_SEED", "0"))


@pytest.mark.root
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.skipif(os.geteuid() != 0, reason="owners can be changed by root only")
def test_equal_after_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f" I2NODE_MACHINE_SEED={SEED}", end=" ", flush=True)
    run(Mirrored, SECONDS, SEED)
    assert Mirrored.examples > 2
