"""What is made of a redo journal that was left: done where it is whole and fits, dropped else."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inplace import (
    JOURNAL,
    SEAL,
    SIZE,
    begin,
    clone,
    disk,
    example,
    fresh,
    leave,
    needs_root,
    noise,
    redo,
    seal,
    spot,
    target,
    tree_of,
)
from test_apply import Target
from test_stage import ID, hole, stage, staged, write
from trees import entries

from i2node.mover import batch, blocks
from i2node.mover.batch import STEP_DROP, Op, step

__all__ = ["spot", "target"]

pytestmark = [pytest.mark.root, needs_root]


def test_a_journal_is_no_part_to_go_on_with(tmp_path: Path) -> None:
    with disk(tmp_path) as spot:
        tree = tree_of(spot)
        have = (spot / "root" / "f").stat()
        payload = clone(have) + write(0, b"new")
        assert batch.apply(tree.root.fd, tree.stage(), payload).faults == []
        assert os.listdir(tree.stage()) == [JOURNAL] and tree.parts() == {}
        tree.clean(keep_parts=True)
        assert os.listdir(tree.stage()) == []
        tree.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_journal_is_dropped(spot: Path, data: st.DataObject) -> None:
    old = noise(0, 1000)
    with fresh(spot) as target:
        begin(target, old)
        journal = seal(target, [write(0, b"new"), hole(100, 50)], staged(b"f", 1000))
        whole = journal.read_bytes()
        if data.draw(st.booleans()):
            journal.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        else:
            at = data.draw(st.integers(0, len(whole) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            journal.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        _, done = redo(target)
        assert not done and (target.root / "f").read_bytes() == old and leave(target) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_journal_with_a_right_seal_is_still_held_to_the_rules(
    spot: Path, data: st.DataObject
) -> None:
    """Whoever can hash can seal: nothing outside is reached, nothing read that is not there."""
    with fresh(spot) as target:
        begin(target, noise(0, 1000))
        outside = target.root.parent / "outside"
        outside.write_bytes(b"outside")
        bad = [
            step(Op.WRITE, b"", stage=ID + 1, data=b"x"),
            step(Op.REMOVE, b"f"),
            stage(flags=STEP_DROP),
            write(0, b"new")[:-8],
            staged(b"f", 1000),
            b"\xff" * 96,
        ]
        steps = [write(0, b"new"), data.draw(st.sampled_from(bad)), hole(5, 5)]
        seal(target, steps, staged(b"f", 1000))
        assert not redo(target)[1] and leave(target) == []
        assert (target.root / "f").read_bytes() == noise(0, 1000)
        seal(target, [write(0, b"new")], staged(b"../outside", 1000))
        assert not redo(target)[1] and leave(target) == []
        raw = bytearray(seal(target, [write(0, b"n")], staged(b"f", 1000)).read_bytes()[:-SEAL])
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        tail = b"i2redo1\n" + len(raw).to_bytes(8, "little") + blocks.hash(bytes(raw), 32)
        (target.stage / JOURNAL).write_bytes(raw + tail)
        with suppress(OSError):
            redo(target)
        assert outside.read_bytes() == b"outside"


def test_a_journal_of_another_file_is_dropped(target: Target) -> None:
    old = noise(0, 1000)
    end, steps = staged(b"f", 1000), [write(0, b"new")]
    for meddle in ("replaced", "number used again", "gone", "a directory", "moved"):
        begin(target, old)
        seal(target, steps, end, birth=meddle == "number used again")
        if meddle == "replaced":
            begin(target, old, b"other")
            os.rename(target.root / "other", target.root / "f")
        elif meddle != "number used again":
            os.rename(target.root / "f", target.root / "g")
            if meddle == "a directory":
                (target.root / "f").mkdir()
        if meddle == "number used again" and not birth(target):
            (target.stage / JOURNAL).unlink()
            continue
        assert redo(target) == (b"f", False) and leave(target) == [], meddle
        for path in target.root.iterdir():
            assert path.is_dir() or path.read_bytes() == old
            path.rmdir() if path.is_dir() else path.unlink()


def birth(target: Target) -> int:
    fd = os.open(target.root, os.O_RDONLY)
    (old,) = entries(batch.stat_names(fd, os.fstat(fd).st_dev, b"", [b"f"]).entries)
    os.close(fd)
    return old.birth


def test_what_is_not_our_journal_is_dropped(target: Target) -> None:
    old = noise(0, 1000)
    begin(target, old)
    secret = target.root.parent / "secret"
    secret.write_bytes(b"secret")

    def link(journal: Path) -> None:
        journal.rename(secret)
        journal.symlink_to(secret)

    meddling: list[Callable[[Path], object]] = [
        lambda journal: os.chown(journal, 4711, 0),
        lambda journal: journal.chmod(0o620),
        lambda journal: os.link(journal, target.root / "another"),
        link,
    ]
    for meddle in meddling:
        meddle(seal(target, [write(0, b"new")], staged(b"f", 1000)))
        assert not redo(target)[1] and leave(target) == []
        assert (target.root / "f").read_bytes() == old
    wrong = seal(target, [write(0, b"new")], staged(b"f", 1000))
    wrong.rename(target.stage / "1111111111111111.redo")
    assert not redo(target, "1111111111111111.redo")[1] and leave(target) == []
    assert (target.root / "f").read_bytes() == old


def test_another_name_that_came_meanwhile(target: Target) -> None:
    old = noise(0, SIZE)
    begin(target, old)
    model, size = example(old)
    seal(target, model.steps, model.end(size))
    os.link(target.root / "f", target.root / "other")
    assert redo(target) == (b"f", True) and leave(target) == []
    assert (target.root / "f").read_bytes() == model.data
    assert (target.root / "other").read_bytes() == old
