"""A crash at any moment of a change in place, and what the next session makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from inplace import (
    JOURNAL,
    MIB,
    MODE,
    NAME,
    SEAL,
    SIZE,
    clone,
    disk,
    example,
    home_of,
    mounted,
    must,
    needs_root,
    noise,
    seal,
    tree_of,
)
from test_apply import Target
from test_stage import ID, staged, write

from i2node.errors import SessionError
from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import Op, step

pytestmark = [pytest.mark.root, needs_root]

CHILD = """
import os, sys
from i2node.mover import batch
root, stage = (os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in sys.argv[1:3])
payload = open(sys.argv[3], "rb").read()
done = batch.apply(root, stage, payload)
assert done.faults == [], done
"""
CALLS = (
    "pwrite64",
    "ftruncate",
    "fdatasync",
    "fsync",
    "fallocate",
    "unlinkat",
    "utimensat",
    "fsetxattr",
)


def after_crash(spot: Path, allowed: list[bytes], new: bytes) -> bytes:
    """What the next session makes of it."""
    tree = tree_of(spot)
    stage = tree.stage()
    names = os.listdir(stage)
    whole = False
    if JOURNAL in names:
        whole = (home_of(tree) / JOURNAL).read_bytes()[-SEAL:].startswith(b"i2redo1\n")
    found = list(tree.redo(0))
    assert [done for _, done in found] == [whole] * (JOURNAL in names)
    assert os.listdir(stage) == []
    path = spot / "root" / "f"
    data = path.read_bytes()
    assert data in allowed, "neither old nor new"
    assert not whole or data == new
    assert path.stat().st_mtime_ns == (5 * 10**9 if data == new else 10**18)
    assert path.stat().st_mode & 0o7777 == MODE
    attrs = os.listxattr(path)
    assert ("user.note" in attrs) == (data == new)
    tree.close()
    return data


def crash(place: Path, number: int, inject: list[str]) -> tuple[bool, set[bytes], bool]:
    """Kills a STAGED step at a call: whether it came to that; what a session finds then, and what
    one finds after a power cut that lost all that was not on disk; whether the file was torn."""
    old = noise(0, SIZE)
    image = place / "image"
    image.unlink(missing_ok=True)
    with open(image, "wb") as f:
        f.truncate(40 * MIB)
    must("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
    model, size = example(old)
    model.end(size)
    note = b"\x09\0\0\0\x01\0\0\0user.notex"
    end = step(
        Op.STAGED, b"f", kind=Kind.FILE, stage=ID, size=size, mode=MODE, mtime_s=5, xattrs=note
    )
    new = bytes(model.data)
    seen: set[bytes] = set()
    with mounted(image, place / "live") as live:
        tree = tree_of(live)
        os.sync()
        stage_fd = tree.stage()
        have = (live / "root" / "f").stat()
        steps = clone(have) + b"".join(model.steps)
        assert batch.apply(tree.root.fd, stage_fd, steps).faults == []
        (place / "payload").write_bytes(end)
        home = home_of(tree)
        tree.close()
        words = [sys.executable, "-c", CHILD, live / "root", home, place / "payload"]
        log = place / "strace"
        done = subprocess.run(
            ["strace", "-f", "-o", log, "-e", "trace=" + ",".join(CALLS), *inject, *words],
            check=False,
            capture_output=True,
        )
        came_through = done.returncode == 0
        assert came_through or "SIGKILL" in log.read_text(), done.stderr
        torn = (live / "root" / "f").read_bytes() not in (old, new)
        for what in ("power cut", "torn on disk"):
            cut = place / f"cut-{number}"
            shutil.copyfile(image, cut)
            with mounted(cut, place / "cut") as spot:
                # What the power cut took was never there: the step is done when it has returned.
                seen.add(after_crash(spot, [new] if came_through else [old, new], new))
            cut.unlink()
            if what == "power cut":
                must("sync", "-f", live)
        seen.add(after_crash(live, [new] if came_through else [old, new], new))
    return not came_through, seen, torn


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_crash_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    killed, seen, torn = crash(tmp_path, 0, [])
    assert not killed and len(seen) == 1 and not torn
    log = (tmp_path / "strace").read_text()
    calls = {name: log.count(f" {name}(") for name in CALLS}
    assert calls["pwrite64"] >= 5 and calls["fdatasync"] == 1 and calls["fsync"] == 2, log
    number = tears = 0
    for name, count in calls.items():
        for nth in range(1, count + 1):
            number += 1
            inject = ["-e", f"inject={name}:signal=SIGKILL:when={nth}"]
            killed, states, torn = crash(tmp_path, number, inject)
            assert killed, (name, nth)
            seen |= states
            tears += torn
    assert len(seen) == 2 and number >= 12 and tears >= 4


# ------------------------------------------------------------------------------- sessions


def test_a_session_begins_with_it(tmp_path: Path) -> None:
    with disk(tmp_path, 48) as spot:
        tree = tree_of(spot)
        stage_fd = tree.stage()
        assert list(tree.redo(0)) == []
        target = Target.__new__(Target)
        target.root, target.stage = spot / "root", home_of(tree)
        model, size = example(noise(0, SIZE))
        seal(target, model.steps, model.end(size))
        (target.stage / "2222222222222222.redo").write_bytes(b"")
        (target.stage / NAME).write_bytes(b"a part")
        assert sorted(tree.redo(0)) == [(b"", False), (b"f", True)]
        assert os.listdir(stage_fd) == [NAME]
        assert (spot / "root" / "f").read_bytes() == model.data
        # A disk that refuses: a session error with a remedy, and the journal stays.
        seal(target, [write(0, b"again")], staged(b"f", size))
        must("mount", "-o", "remount,ro", spot)
        with pytest.raises(SessionError, match="half changed") as told:
            list(tree.redo(0))
        assert "remount" in told.value.remedy
        must("mount", "-o", "remount,rw", spot)
        assert list(tree.redo(0)) == [(b"f", True)]
        assert (spot / "root" / "f").read_bytes() == b"again" + model.data[5:]
        tree.close()
