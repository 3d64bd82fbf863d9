"""Small files that replace others where the file system does not wait for content: one sync for
many, and no name before the content lasts."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apply import Target, link, make_dir, put
from test_fresh import any_step, in_three_ways, modes, put_with, set_meta

from disks import disk
from i2node.fs.tree import TargetTree
from i2node.mover import batch
from i2node.mover.batch import Applied, At, Op, step

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")

MOST = 512
"""So many wait for one sync (I2_DRAFTS)."""
MANY = 20
"""More than are synced one by one."""
OLD = b"old " * 500
NEW = b"new " * 400
CHILD = """
import os, sys
from i2node.mover import batch
root, stage = (os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in sys.argv[1:3])
done = batch.apply(root, stage, open(sys.argv[3], "rb").read(), spare=1000)
print([(f.step, f.status, int(f.what), f.fatal) for f in done.faults], done.done, done.shrunk)
"""


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with disk(request.param, tmp_path_factory.mktemp("disk")) as mount:
        yield mount


@contextmanager
def filled(place: Path, count: int) -> Iterator[Target]:
    """A target with so many files, 0, 1, 2.., durable."""
    made = Target(place)
    for n in range(count):
        (made.root / str(n)).write_bytes(OLD)
    os.sync()
    try:
        yield made
        assert os.listdir(made.stage) == []
    finally:
        made.close()


@pytest.fixture
def target(spot: Path) -> Iterator[Target]:
    place = Path(tempfile.mkdtemp(dir=spot))
    with filled(place, MANY) as made:
        yield made
    shutil.rmtree(place)


def puts(*which: int) -> list[bytes]:
    return [put(b"%d" % n, NEW) for n in which]


def new(target: Target) -> list[int]:
    """Which of the files are new; none is anything but old or new."""
    found = {n: (target.root / str(n)).read_bytes() for n in range(MANY)}
    assert set(found.values()) <= {OLD, NEW}
    return [n for n, data in found.items() if data == NEW]


def traced(target: Target, steps: list[bytes], *inject: str) -> tuple[str, str]:
    """What a child prints that applies them, and strace's log of its calls."""
    payload, log = target.root.parent / "payload", target.root.parent / "log"
    payload.write_bytes(b"".join(steps))
    calls = "trace=syncfs,fdatasync,fsync,sync_file_range,linkat,renameat,unlinkat"
    words = ["strace", "-f", "-o", log, "-e", calls, *inject, sys.executable, "-c", CHILD]
    done = subprocess.run(
        [*words, target.root, target.stage, payload], check=False, capture_output=True, text=True
    )
    assert not done.stderr or "SIGKILL" in log.read_text(), done.stderr
    return done.stdout.strip(), log.read_text()


def times(log: str, call: str) -> int:
    return len(re.findall(rf"\b{call}\(", log))


# ---------------------------------------------------------------------------- as one by one


FILES = (b"b", b"a/b", b"a/a/a", b"a/a/b")
files = st.builds(put_with, st.sampled_from(FILES), st.binary(max_size=3), modes, st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([0, MANY]), st.integers(1, 30))
def test_whatever_comes_it_ends_as_one_by_one(
    spot: Path, data: st.DataObject, fill: int, room: int
) -> None:
    """fill: others wait, so that all are synced at once."""
    before = [make_dir(b"a"), make_dir(b"a/a"), *map(put, FILES), *puts(*range(fill))]
    before += data.draw(st.lists(any_step, max_size=3))
    steps = data.draw(st.lists(st.one_of(files, any_step), max_size=14))
    steps = puts(*range(fill)) + steps
    in_three_ways(spot, steps, room, before)


@pytest.mark.parametrize("count", [1, MANY])
def test_what_comes_behind_finds_the_new_file(target: Target, count: int) -> None:
    rest = [set_meta(b""), step(Op.LINK, b"hard", b"0"), step(Op.EXCHANGE, b"0", b"hard")]
    rest += [step(Op.RENAME, b"0", b"moved"), step(Op.REMOVE, b"hard"), put(b"moved", b"last")]
    rest += [put(b"moved", b"very last"), put(b"d/x"), make_dir(b"d"), put(b"d/x")]
    faults = target.apply(*puts(*range(count)), *rest, link(b"moved", b"0"))
    assert [(f.step - count, f.status) for f in faults] == [(7, errno.ENOENT)]
    assert (target.root / "moved").is_symlink() and (target.root / "d/x").read_bytes() == b"new"
    assert not (target.root / "hard").exists() and not (target.root / "0").exists()


def test_a_directory_that_one_of_them_is_in_is_replaced(target: Target) -> None:
    assert target.apply(make_dir(b"d"), put(b"d/x", OLD)) == []
    assert target.apply(*puts(*range(MANY)), put(b"d/x", NEW), put(b"d", b"file")) == []
    assert (target.root / "d").read_bytes() == b"file" and len(new(target)) == MANY


@pytest.mark.parametrize("count", [3, MANY])
def test_what_is_immutable_is_replaced_and_its_directory_is_so_again(
    target: Target, count: int
) -> None:
    subprocess.run(["chattr", "+i", target.root / "1", target.root], check=True)
    try:
        assert target.apply(*puts(*range(count))) == []
        shown = subprocess.check_output(["lsattr", "-d", target.root], text=True)
        assert "i" in shown.split()[0]
    finally:
        subprocess.run(["chattr", "-i", target.root], check=True)
    assert new(target) == list(range(count))


# ---------------------------------------------------------------------------- how many syncs


@needs_strace
@pytest.mark.parametrize(
    ("count", "at_once", "single"), [(1, 0, 1), (8, 0, 8), (9, 1, 0), (MOST + 10, 2, 0)]
)
def test_many_are_one_sync(spot: Path, count: int, at_once: int, single: int) -> None:
    place = Path(tempfile.mkdtemp(dir=spot))
    with filled(place, count) as made:
        # New files among them are none of it.
        steps = [s for n in range(count) for s in (put(b"%d" % n, NEW), put(b"n%d" % n))]
        said, log = traced(made, steps)
        assert said == f"[] {2 * count} 0"
        assert times(log, "syncfs") == at_once and times(log, "fdatasync") == single
        assert {(made.root / str(n)).read_bytes() for n in range(count)} == {NEW}
        # No name before its content.
        order = re.findall(r"(syncfs|fdatasync|renameat)\(", log)
        if count > 8:
            assert order[0] == "syncfs"
        else:
            assert order == ["fdatasync", "renameat"] * count
    shutil.rmtree(place)


# ---------------------------------------------------------------------------- faults


def test_a_fault_carries_the_index_of_its_step(target: Target) -> None:
    """Told in the order of the steps, whichever was met first, also where there is no room."""
    steps = [*puts(*range(12)), put(b"no/x"), *puts(*range(12, MANY)), put(b"no/y")]
    subprocess.run(["mount", "--bind", target.root / "0", target.root / "3"], check=True)
    try:
        for room in (1, 2, 5):
            done = batch.apply(*target.fds, b"".join(steps), room=room)
            wanted = [(3, errno.EBUSY), (12, errno.ENOENT), (21, errno.ENOENT)]
            assert [(f.step, f.status) for f in done.faults] == wanted[:room]
            assert done.more == 3 - len(done.faults) and done.done == len(steps)
    finally:
        subprocess.run(["umount", target.root / "3"], check=True)
    assert new(target) == [n for n in range(MANY) if n != 3]


@needs_strace
@pytest.mark.parametrize("call", ["syncfs", "sync_file_range", "fdatasync"])
def test_a_sync_that_fails_gives_no_name(target: Target, call: str) -> None:
    """The file stays what it was that is not durable, and all behind it."""
    count = 5 if call == "fdatasync" else MANY
    nth = 1 if call == "syncfs" else 4
    (target.root / "0").write_bytes(OLD * 4)
    steps = [put(b"0", b"cut"), *puts(1), put(b"other"), *puts(*range(2, count))]
    said, _ = traced(target, steps, "-e", f"inject={call}:error=EIO:when={nth}")
    step_of = nth - 1 if nth == 1 else nth
    fault = (step_of, errno.EIO, int(At.DISK), True)
    assert said == f"{[fault]} {step_of} {int(nth > 1)}"
    if nth == 1:
        assert (target.root / "0").read_bytes() == OLD * 4
        (target.root / "0").write_bytes(OLD)
    else:
        assert (target.root / "0").read_bytes() == b"cut"
        (target.root / "0").write_bytes(NEW)
    assert new(target) == list(range(nth - 1))
    assert (target.root / "other").read_bytes() == b"new"


@needs_strace
def test_room_that_the_old_files_have_is_had(target: Target) -> None:
    """Files wait when a step finds the disk full: they get their names, and it is done again."""
    said, log = traced(target, puts(*range(15)), "-e", "inject=linkat:error=ENOSPC:when=21")
    assert said == "[] 15 0" and "INJECTED" in log
    assert times(log, "syncfs") == 1 and times(log, "fdatasync") == 5
    assert new(target) == list(range(15))


@needs_strace
def test_a_name_that_the_disk_has_no_room_for_is_where_it_stops(target: Target) -> None:
    """What is behind it comes once more, with the same steps."""
    steps = [*puts(*range(10)), put(b"no/x"), *puts(*range(10, MANY))]
    said, _ = traced(target, steps, "-e", "inject=renameat:error=ENOSPC:when=6")
    assert said == f"{[(5, errno.ENOSPC, int(At.NAME), True)]} 5 0"
    assert new(target) == list(range(5))
    assert [f.step for f in target.apply(*steps[5:])] == [5]
    assert new(target) == list(range(MANY))


def counts(done: Applied) -> tuple[int, int, int, int]:
    return done.done, done.gained, done.shrunk, done.wanted


def test_the_budget_is_spent_in_the_order_of_the_steps(target: Target) -> None:
    for n in (5, 9, 12):
        (target.root / str(n)).write_bytes(OLD * 4)
    steps = puts(*range(MANY))
    # What is gained behind them does not count for them.
    steps.append(put(b"gained"))
    done = batch.apply(*target.fds, b"".join(steps), spare=1)
    assert [(f.step, f.status) for f in done.faults] == [(9, errno.ECANCELED)]
    assert counts(done) == (9, 0, 1, 1)
    rest = b"".join(steps[9:])
    assert counts(batch.apply(*target.fds, rest, spare=1)) == (3, 0, 1, 1)
    assert counts(batch.apply(*target.fds, rest, spare=9)) == (len(steps) - 9, 1, 1, 0)
    assert new(target) == list(range(MANY))


# ---------------------------------------------------------------------------- kills, power cuts


@needs_strace
@pytest.mark.parametrize("call", ["linkat", "syncfs", "sync_file_range", "renameat"])
def test_a_kill_leaves_old_files_or_new_ones(spot: Path, call: str) -> None:
    left = 0
    for nth in (1,) if call == "syncfs" else (1, 7, 15):
        place = Path(tempfile.mkdtemp(dir=spot))
        with filled(place, MANY) as made:
            tree = tree_of(made)
            own, made.stage = made.stage, Path(os.readlink(f"/proc/self/fd/{tree.stage()}"))
            inject = f"inject={call}:signal=SIGKILL:when={nth}"
            said, log = traced(made, puts(*range(MANY)), "-e", inject)
            assert said == "" and "SIGKILL" in log
            named = {"renameat": nth, "sync_file_range": nth - 1}.get(call, 0)
            assert len(new(made)) in (named, named - 1)
            left += len(os.listdir(made.stage))
            # The next session.
            again = tree_of(made)
            again.clean(keep_parts=True)
            assert os.listdir(made.stage) == []
            again.close()
            tree.close()
            made.stage = own
        shutil.rmtree(place)
    assert left


def tree_of(target: Target) -> TargetTree:
    place = target.root.parent
    return TargetTree(os.fsencode(target.root), "rule", place / "state", [])


def test_what_has_its_name_is_on_disk(tmp_path: Path) -> None:
    """XFS logs names without the content they lead to, as soon as anything is synced."""
    with disk("xfs", tmp_path) as mount, filled(mount, 3 * MANY) as made:
        made.apply(*puts(*range(2, 3 * MANY)))
        made.apply(*puts(0, 1))
        with open(mount / "other", "wb") as other:
            os.fsync(other.fileno())
        shutil.copyfile(tmp_path / "xfs.image", tmp_path / "cut")
    # Its log is done again when it is mounted.
    with disk_of(tmp_path / "cut", tmp_path / "after") as after:
        found = {(after / "root" / str(n)).read_bytes() for n in range(3 * MANY)}
    assert found == {NEW}


@contextmanager
def disk_of(image: Path, mount: Path) -> Iterator[Path]:
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop,nouuid", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)
