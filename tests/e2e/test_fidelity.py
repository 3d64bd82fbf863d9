"""Each attribute is exact on each file system, but for those that stand here with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fidelity import EXACT, LOST, TARGETS, asked
from probes import PROBES

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, devices and owners need root"),
]

ANYWHERE = {
    "room reserved, not written": "what is reserved and reads as a hole is made as one",
    "access time": "who reads the source is not of interest to the target",
    "chattr +i +a +d +A +S": "found by the slow sweep, which is not waited for",
    "project id, inherited": "found by the slow sweep, which is not waited for",
}
THERE: dict[str, dict[str, str]] = {
    "ext4": {
        "mtime behind 2446": "its times end there; kept aside, which is not looked for",
        "user.* of 64 KiB": "an attribute must fit into a block; kept aside",
    },
    "xfs": {},
    "btrfs": {"user.* of 64 KiB": "an attribute must fit into a leaf; kept aside"},
}


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_lost_is_known(kind: str, tmp_path: Path) -> None:
    probes = [probe for probe in PROBES if probe.source == "xfs"]
    found = asked("i2node", kind, tmp_path, probes)
    lost = {what for what, outcome in found.items() if outcome == LOST}
    assert lost == (ANYWHERE | THERE[kind]).keys()
    assert set(found.values()) == {EXACT, LOST}
