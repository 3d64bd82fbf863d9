"""Large files changed in place through the redo journal: what is written, what is refused, and what
a full disk does to it."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inplace import (
    JOURNAL,
    MIB,
    MODE,
    NAME,
    SIZE,
    Model,
    begin,
    clone,
    disk,
    example,
    fresh,
    leave,
    must,
    needs_root,
    noise,
    redo,
    seal,
    spot,
    target,
)
from test_apply import Target
from test_stage import copy, digest, stage, staged, write

from i2node.mover.batch import APPLY_VERIFY, STEP_CLONE, STEP_DROP, STEP_KEEP, At

__all__ = ["spot", "target"]

pytestmark = [pytest.mark.root, needs_root]


def written(spot: Path) -> int:
    """Bytes that the disk was given so far (Documentation/block/stat.rst of the kernel)."""
    must("sync", "-f", spot)
    dev = spot.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}/stat").read_text()
    return int(stat.split()[6]) * 512


def test_only_what_changes_is_written(tmp_path: Path) -> None:
    with disk(tmp_path) as spot, fresh(spot) as target:
        old = noise(0, SIZE)
        have = begin(target, old)
        model = Model(bytearray(old), [])
        before = written(spot)
        assert target.apply(clone(have)) == []
        for at in (0, 4096 * 77, 4 * MIB):
            model.write(at, noise(at, 4096))
        assert target.apply(*model.steps) == [] and leave(target) == [JOURNAL]
        assert (target.root / "f").read_bytes() == old
        assert target.apply(model.end(SIZE)) == []
        assert written(spot) - before < 300_000
        now = (target.root / "f").stat()
        assert (target.root / "f").read_bytes() == model.data and leave(target) == []
        assert now.st_ino == have.st_ino and now.st_mtime_ns == 5 * 10**9


def test_it_grows_and_shrinks_and_holes_are_holes(target: Target) -> None:
    old = noise(0, SIZE)
    for size in (SIZE + 2 * MIB, SIZE - MIB - 1, 3 * MIB, 0):
        have = begin(target, old)
        model, _ = example(old)
        assert target.apply(clone(have), *model.steps, model.end(size)) == []
        path = target.root / "f"
        assert path.read_bytes() == model.data and path.stat().st_ino == have.st_ino
        assert path.stat().st_blocks * 512 <= have.st_size - min(size, 2 * MIB) + 64 * 1024
        assert leave(target) == []


def test_what_is_small_is_copied(target: Target) -> None:
    have = begin(target, noise(0, MIB))
    assert target.apply(clone(have), write(0, b"new")) == [] and leave(target) == [NAME]
    assert target.apply(staged(b"f", MIB)) == []
    assert (target.root / "f").stat().st_ino != have.st_ino


@pytest.mark.parametrize("at", ["at once", "meanwhile"])
def test_another_name_keeps_the_old_content(target: Target, at: str) -> None:
    old = noise(0, SIZE)
    have = begin(target, old)
    model, size = example(old)
    if at == "at once":
        os.link(target.root / "f", target.root / "other")
    assert target.apply(clone(have), *model.steps) == []
    assert leave(target) == [NAME if at == "at once" else JOURNAL]
    if at == "meanwhile":
        os.link(target.root / "f", target.root / "other")
    assert target.apply(model.end(size)) == [] and leave(target) == []
    assert (target.root / "f").read_bytes() == model.data
    assert (target.root / "other").read_bytes() == old
    assert (target.root / "other").stat().st_mtime_ns == have.st_mtime_ns


def test_another_owner_or_mode_or_path_gets_a_new_file(target: Target) -> None:
    old = noise(0, SIZE)
    for more in ({"mode": 0o600}, {"uid": 4711}, {"gid": 4711}):
        have = begin(target, old)
        model, size = example(old)
        model.end(size)
        end = staged(b"f", size, **more)
        assert target.apply(clone(have), *model.steps, end) == [] and leave(target) == []
        now = (target.root / "f").stat()
        assert now.st_ino != have.st_ino and (target.root / "f").read_bytes() == model.data
        assert (now.st_mode & 0o7777, now.st_uid, now.st_gid) == (
            more.get("mode", MODE),
            more.get("uid", 0),
            more.get("gid", 0),
        )
        (target.root / "f").unlink()
    have = begin(target, old)
    assert target.apply(clone(have), *model.steps, staged(b"g", size)) == []
    assert (target.root / "g").read_bytes() == model.data and leave(target) == []
    assert (target.root / "f").read_bytes() == old


def test_a_file_that_is_run_is_replaced(target: Target) -> None:
    old = Path("/bin/sleep").read_bytes().ljust(SIZE, b"\0")
    have = begin(target, old)
    (target.root / "f").chmod(0o755)
    try:
        running = subprocess.Popen([target.root / "f", "100"])
    except PermissionError:
        pytest.skip("nothing is run from here")
    try:
        end = staged(b"f", SIZE, mode=0o755)
        assert target.apply(clone(have), write(SIZE - 3, b"new"), end) == []
        assert (target.root / "f").read_bytes() == old[:-3] + b"new" and leave(target) == []
        assert running.poll() is None
        assert Path(f"/proc/{running.pid}/exe").read_bytes() == old
    finally:
        running.kill()
        running.wait()


def test_flags_are_no_obstacle(tmp_path: Path) -> None:
    with disk(tmp_path) as spot, fresh(spot) as target:
        for flag in ("+i", "+a"):
            old = noise(0, SIZE)
            have = begin(target, old)
            must("chattr", flag, target.root / "f")
            model, size = example(old)
            assert target.apply(clone(have), *model.steps, model.end(size)) == []
            assert (target.root / "f").read_bytes() == model.data
            assert (target.root / "f").stat().st_ino == have.st_ino and leave(target) == []


def test_what_is_to_be_verified_is_verified_first(target: Target) -> None:
    old = noise(0, SIZE)
    (target.root / "want").write_bytes(b"new" + old[3:])
    content = digest(target.root, b"want")
    for flags in ((APPLY_VERIFY, APPLY_VERIFY), (0, APPLY_VERIFY)):
        have = begin(target, old)
        for data, faulty in ((b"bad", True), (b"new", False)):
            assert target.apply(clone(have), write(0, data), flags=flags[0]) == []
            faults = target.apply(staged(b"f", SIZE, content), flags=flags[1])
            assert [(f.what, f.status) for f in faults] == [(At.CHECK, errno.EBADMSG)] * faulty
            assert (target.root / "f").read_bytes() == (old if faulty else data + old[3:])
            assert leave(target) == []


def test_the_old_file_must_stay_what_it_was(target: Target) -> None:
    old = noise(0, SIZE)

    def touch() -> None:
        os.utime(target.root / "f", ns=(0, 7))

    def cut() -> None:
        os.truncate(target.root / "f", SIZE - 1)
        os.utime(target.root / "f", ns=(0, 10**18))

    def replace() -> None:
        begin(target, old, b"other")
        os.rename(target.root / "other", target.root / "f")

    def link() -> None:
        (target.root / "f").unlink()
        (target.root / "f").symlink_to(target.root / "g")

    for meddle in (touch, cut, replace, link):
        with suppress(FileNotFoundError):
            (target.root / "f").unlink()
        have, other = begin(target, old), begin(target, old, b"g")
        assert target.apply(clone(have), write(0, b"new")) == []
        meddle()
        before = (target.root / "f").read_bytes()
        (fault,) = target.apply(staged(b"f", SIZE))
        assert (fault.what, fault.status, fault.fatal) == (At.CHECK, errno.ESTALE, False)
        assert (target.root / "f").read_bytes() == before and leave(target) == []
        assert (target.root / "g").stat().st_mtime_ns == other.st_mtime_ns


def test_steps_that_a_journal_does_not_hold(target: Target) -> None:
    old = noise(0, SIZE)
    have = begin(target, old)
    assert target.apply(clone(have), write(0, b"1")) == []
    assert target.apply(stage(b"f", STEP_CLONE | STEP_KEEP, have), write(1, b"2")) == []
    assert leave(target) == [JOURNAL]
    # From elsewhere in the old file: it has to be there to be copied to.
    assert target.apply(copy(b"f", 100, 2, 50, have), write(60, b"3")) == []
    assert leave(target) == [NAME]
    assert target.apply(staged(b"f", SIZE)) == [] and leave(target) == []
    want = bytearray(old)
    want[:52] = b"12" + old[100:150]
    want[60:61] = b"3"
    assert (target.root / "f").read_bytes() == want
    have = (target.root / "f").stat()
    assert target.apply(clone(have), write(0, b"x"), stage(flags=STEP_DROP)) == []
    assert leave(target) == []
    assert target.apply(clone(have), write(0, b"x"), stage(), write(0, b"y")) == []
    assert leave(target) == [NAME]
    assert target.apply(staged(b"f", 1)) == [] and (target.root / "f").read_bytes() == b"y"


OPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "hole"]),
        st.integers(0, SIZE + MIB),
        st.one_of(st.integers(0, 20_000), st.integers(0, 2 * MIB)),
    ),
    max_size=8,
)


def build(old: bytes, changes: list[tuple[str, int, int]], size: int) -> tuple[Model, bytes]:
    model = Model(bytearray(old), [])
    for what, at, span in changes:
        if what == "write":
            model.write(at, b"%c" % (at % 255 + 1) * span)
        else:
            model.hole(at, span)
    return model, model.end(size)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=OPS, size=st.integers(0, SIZE + 2 * MIB), broken=st.integers(0, 8))
def test_any_change_is_what_a_buffer_says(
    spot: Path, changes: list[tuple[str, int, int]], size: int, broken: int
) -> None:
    old = noise(0, SIZE)
    model, end = build(old, changes, size)
    with fresh(spot) as target:
        have = begin(target, old)
        path = target.root / "f"
        assert target.apply(clone(have), *model.steps, end) == []
        assert path.read_bytes() == model.data and path.stat().st_ino == have.st_ino
        # Broken off anywhere, and done again.
        have = begin(target, old)
        seal(target, model.steps, end)
        os.truncate(path, size)
        with open(path, "r+b") as f:
            for what, at, span in changes[:broken]:
                if at < size:
                    f.seek(at)
                    f.write((b"%c" % (at % 255 + 1) if what == "write" else b"\0") * span)
            f.truncate(size)
        assert redo(target) == (b"f", True)
        assert path.read_bytes() == model.data and leave(target) == []
        assert path.stat().st_mtime_ns == 5 * 10**9


def test_a_full_disk_stops_it_and_it_goes_on(tmp_path: Path) -> None:
    with disk(tmp_path, 48) as spot, fresh(spot) as target:
        path, filler = target.root / "f", spot / "filler"
        for again in ("the step", "a crash"):
            old = noise(0, SIZE) + bytes(8 * MIB)
            have = begin(target, old)
            with open(path, "r+b") as f:
                f.truncate(SIZE)
                f.truncate(len(old))
            os.utime(path, ns=(0, 10**18))
            model = Model(bytearray(old), [])
            model.write(0, noise(1, 4096))
            model.write(SIZE + 4096, noise(2, 6 * MIB))
            end = model.end(len(old))
            assert target.apply(clone(have), *model.steps) == []
            os.sync()
            free = os.statvfs(spot).f_bavail * 4096 - 3 * MIB
            must("fallocate", "-l", free, filler)
            (fault,) = target.apply(end)
            assert (fault.status, fault.fatal) == (errno.ENOSPC, True)
            assert leave(target) == [JOURNAL]
            # Not torn for as long as that takes: what is to be written has its room before.
            assert path.read_bytes() == old and path.stat().st_mtime_ns == 10**18
            if again == "a crash":
                with pytest.raises(OSError, match="No space"):
                    redo(target)
                assert leave(target) == [JOURNAL]
            filler.unlink()
            if again == "a crash":
                assert redo(target) == (b"f", True)
            else:
                assert target.apply(end) == []
            assert path.read_bytes() == model.data and leave(target) == []
            assert path.stat().st_ino == have.st_ino
            assert path.stat().st_mtime_ns == 5 * 10**9
