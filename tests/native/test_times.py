"""Times that a file system cannot hold are told of: it sets the nearest, and says nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from disks import disk
from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import At, Op, step

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.mark.parametrize(
    ("kind", "moment", "held"),
    [
        ("ext4", -(2**31), True),
        ("ext4", -(2**31) - 1, False),
        ("ext4", 15_032_385_535, True),
        ("ext4", 15_032_385_536, False),
        ("xfs", 15_032_385_536, True),
        ("btrfs", 2**40, True),
    ],
)
def test_a_time_beyond_what_is_held(tmp_path: Path, kind: str, moment: int, held: bool) -> None:
    with disk(kind, tmp_path) as mount:
        fds: list[int] = []
        for name in ("root", "stage"):
            (mount / name).mkdir()
            fds.append(os.open(mount / name, os.O_RDONLY | os.O_DIRECTORY))
        try:
            done = batch.apply(
                *fds,
                step(Op.PUT_FILE, b"f", kind=Kind.FILE, mode=0o600, mtime_s=moment)
                + step(Op.PUT_LINK, b"s", b"to", kind=Kind.SYMLINK, mtime_s=moment)
                + step(Op.MAKE_DIR, b"d", kind=Kind.DIR, mode=0o700)
                + step(Op.SET_META, b"d", kind=Kind.DIR, mode=0o700, mtime_s=moment),
            )
        finally:
            for fd in fds:
                os.close(fd)
        told = [(f.step, f.status, f.what) for f in done.faults]
        assert told == ([] if held else [(n, errno.ERANGE, At.TIMES) for n in (0, 1, 3)])
        for name in ("f", "s", "d"):
            assert ((mount / "root" / name).lstat().st_mtime_ns // 10**9 == moment) is held
