"""Each attribute is exact on each file system, but for those that stand here with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fidelity import ASIDE, EXACT, LOST, TARGETS, asked, grouped

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, devices and owners need root"),
]

ANYWHERE = {
    "room reserved, not written": LOST,  # what is reserved and reads as a hole is made as one
    "access time": LOST,  # who reads the source is not of interest to the target
}
THERE = {
    "ext4": {
        "mtime behind 2446": ASIDE,  # its times end there
        "user.* of 64 KiB": ASIDE,  # an attribute must fit into a block
        "project id, inherited": ASIDE,  # made without them
    },
    "xfs": {},
    "btrfs": {
        "user.* of 64 KiB": ASIDE,  # an attribute must fit into a leaf
        "project id, inherited": ASIDE,  # it has none
    },
}


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_not_exact_is_known(kind: str, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    for i, probes in enumerate(group for group in grouped() if group[0].source == "xfs"):
        (tmp_path / str(i)).mkdir()
        found |= asked("i2node", kind, tmp_path / str(i), probes)
    other = {what: outcome for what, outcome in found.items() if outcome != EXACT}
    assert other == ANYWHERE | THERE[kind]
