"""A mirror at work while its disks, its wire, its state and its power fail, all at once and healed.

I2NODE_MACHINE_SEED and _SECONDS repeat a run, or make it a long one; MACHINE.md has what ran.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = float(os.environ.get("I2NODE_MACHINE_SECONDS", "12"))
SEED = os.environ.get("I2NODE_MACHINE_SEED", "0")
TOOLS = ("unshare", "strace", "nft", "ip", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]


@pytest.mark.root
@pytest.mark.timeout(SECONDS + 280)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_equal_after_whatever_fails(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).with_name("ailing.py")
    words = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, str(script)]
    done = subprocess.run([*words, str(SECONDS), SEED], check=False, capture_output=True, text=True)
    with capsys.disabled():
        print(f" {' '.join(done.stdout.splitlines())}", end=" ", flush=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
