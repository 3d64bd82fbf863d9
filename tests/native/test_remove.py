"""Taking trees down: wide, deep, with mounts and links in them."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import kernel
import pytest
from test_apply import Target, make_dir, put
from test_walk import deep, in_namespace
from trees import open_files

from i2node.mover import batch
from i2node.mover.batch import Op, step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_tree_deeper_than_anything_open(place: Path) -> None:
    target = Target(place)
    path = deep(target.fds[0], 1500, "level")
    assert target.apply(put(path + b"/" + b"f" * 255)) == []
    first = path.split(b"/")[0]
    before = open_files()
    assert target.apply(step(Op.REMOVE, first)) == []
    assert os.listdir(target.root) == [] and open_files() == before
    target.close()


def test_a_tree_wide_at_every_level(place: Path) -> None:
    target = Target(place)
    steps = [make_dir(b"w")]
    for i in range(200):
        steps.append(make_dir(b"w/%d" % i))
        steps += [put(b"w/%d/%d" % (i, j), b"") for j in range(i % 7)]
        steps += [make_dir(b"w/%d/d" % i), put(b"w/%d/d/f" % i)]
    steps += [put(b"w/f%d" % i, b"") for i in range(3000)]
    assert target.apply(*steps) == []
    assert len(os.listdir(target.root / "w")) == 3200
    assert target.apply(step(Op.REMOVE, b"w")) == []
    assert os.listdir(target.root) == []
    target.close()


def test_links_are_removed_and_not_followed(place: Path) -> None:
    target = Target(place)
    outside = place / "outside"
    (outside / "kept").mkdir(parents=True)
    (target.root / "d" / "e").mkdir(parents=True)
    (target.root / "d" / "link").symlink_to(outside)
    (target.root / "d" / "e" / "up").symlink_to("../..")
    assert target.apply(step(Op.REMOVE, b"d")) == []
    assert os.listdir(target.root) == [] and os.listdir(outside) == ["kept"]
    target.close()


MOUNT = """
import errno, os, subprocess, sys
from pathlib import Path
from test_apply import Target, make_dir, put
from i2node.model import Kind
from i2node.mover.batch import Op, step

target = Target(Path(sys.argv[1]))
r = target.root
(r / "d" / "a").mkdir(parents=True)
(r / "d" / "m").mkdir()
(r / "source" / "s").mkdir(parents=True)
(r / "d" / "bound").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", r / "d" / "m"], check=True)
subprocess.run(["mount", "--bind", r / "source", r / "d" / "bound"], check=True)
(r / "d" / "m" / "kept").write_bytes(b"kept")
for path in (b"d", b"d/m", b"d/bound"):
    (fault,) = target.apply(step(Op.REMOVE, path))
    assert fault.status in (errno.EBUSY, errno.EXDEV), fault
assert (r / "d" / "m" / "kept").read_bytes() == b"kept"
assert os.listdir(r / "source") == ["s"]
for path in (b"d/m", b"d/bound"):
    for s in (put(path + b"/f"), make_dir(path + b"/x"), step(Op.REMOVE, path + b"/s"),
              step(Op.SET_META, path, kind=Kind.DIR, mode=0o700)):
        (fault,) = target.apply(s)
        assert fault.status == errno.EXDEV, fault
(fault,) = target.apply(put(b"d/m"))
assert fault.status == errno.EBUSY, fault
(fault,) = target.apply(make_dir(b"d/m"))
assert fault.status == errno.EXDEV, fault
assert os.listdir(r / "source") == ["s"] and os.listdir(r / "d" / "m") == ["kept"]
assert os.listdir(target.stage) == []
"""


@needs_root
def test_a_mount_is_neither_entered_nor_emptied(tmp_path: Path) -> None:
    in_namespace(MOUNT, tmp_path)


def test_the_stage_is_out_of_reach(place: Path) -> None:
    """Where the stage stands beneath the root, no step can touch it."""
    target = Target(place)
    stage = target.root / "d" / "stage"
    stage.mkdir(parents=True)
    (stage / "0000000000000001").write_bytes(b"staged")
    fd = os.open(stage, os.O_RDONLY)
    payload = b"".join(
        (
            put(b"d/stage/f"),
            step(Op.REMOVE, b"d/stage/0000000000000001"),
            step(Op.REMOVE, b"d/stage"),
            step(Op.RENAME, b"d/stage", b"d/other"),
            put(b"d/stage"),
            step(Op.LINK, b"d/f", b"d/stage/0000000000000001"),
            step(Op.REMOVE, b"d"),
        )
    )
    done = batch.apply(target.fds[0], fd, payload)
    assert [f.step for f in done.faults] == list(range(7))
    assert {f.status for f in done.faults} <= {errno.EPERM, errno.EBUSY}
    assert os.listdir(stage) == ["0000000000000001"]
    os.close(fd)
    target.close()


def test_an_older_kernel_takes_trees_down_too(place: Path) -> None:
    def work() -> None:
        target = Target(place)
        deep(target.fds[0], 100, "x")
        assert target.apply(step(Op.REMOVE, b"x")) == []
        assert os.listdir(target.root) == []

    kernel.without([("openat2", errno.ENOSYS, None, 0)], work)


@needs_root
def test_what_cannot_be_removed_is_a_fault_and_the_rest_goes_on(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
from pathlib import Path
from test_apply import Target, put
from i2node.mover.batch import At, Op, step
target = Target(Path(sys.argv[1]))
(target.root / "busy").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", target.root / "busy"], check=True)
faults = target.apply(put(b"a"), step(Op.REMOVE, b"busy"), put(b"b"))
assert [(f.step, f.what, f.fatal) for f in faults] == [(1, At.REMOVE, False)], faults
assert sorted(os.listdir(target.root)) == ["a", "b", "busy"]
"""
    in_namespace(script, tmp_path)
    assert subprocess.run(["ls", tmp_path], check=True, capture_output=True).stdout
