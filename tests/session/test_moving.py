"""Large files that change, go or are replaced while they are read: what arrives is one version, and
what was read too soon proves nothing."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from edits import BLOCK, MIB, lay, noise, punch, wait_until_not_racy
from way import Way, attributes, same

from i2node.model import RACY
from i2node.repl import large, shipment, staging


def test_what_was_read_too_soon_after_a_write_proves_nothing(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write may carry the same time, to what was read by then, however long the rest took:
    what counts is when it began."""
    path = way.source / "f"
    path.write_bytes(noise(1, 3 * MIB))
    for change in ("new", "delta", "nothing"):
        if change == "delta":
            lay(path, MIB, b"delta")
        for patience, racy in ((10**18, RACY), (staging.RACY_NS, 0)):
            wait_until_not_racy(path)
            with monkeypatch.context() as patched:
                patched.setattr(staging, "RACY_NS", patience)
                assert way.ship().flags & RACY == racy, change
            same(way)


def test_what_takes_long_to_read_is_read_when_that_proves_something(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "CALM_FROM", MIB)
    path = way.source / "f"
    for seed in range(3):
        path.write_bytes(noise(seed, 3 * MIB))
        assert not way.ship().flags & RACY
        same(way)


def test_a_file_that_another_takes_the_place_of_is_shipped_as_it_was(way: Way) -> None:
    """Under one name there is never the content of the one with what the other may show to whom."""
    path, new = way.source / "f", way.source / "new"
    path.write_bytes(noise(1, 3 * MIB))
    path.chmod(0o600)
    os.setxattr(path, "user.note", b"mine")
    before = path.stat()
    for i, steps in enumerate(way.steps(b"f")):
        if i == 1:
            new.write_bytes(noise(2, 5))
            new.chmod(0o644)
            new.rename(path)
        assert way.apply(steps) == []
    outcome = way.note()
    there = way.target / "f"
    assert there.read_bytes() == noise(1, 3 * MIB)
    assert there.stat().st_mode == before.st_mode
    assert there.stat().st_mtime_ns == before.st_mtime_ns
    assert attributes(there) == {"user.note": b"mine"}
    # It is looked at again, and known for what it is.
    assert (outcome.status, outcome.ino) == (errno.EAGAIN, before.st_ino)
    way.ship()
    same(way)


def test_a_file_that_is_written_while_it_is_read(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(4 * MIB))
    done = threading.Event()
    writes = 0

    def write() -> None:
        nonlocal writes
        while not done.is_set():
            writes += 1
            kind = writes % 5
            at = writes * 1_234_567 % (4 * MIB)
            if kind == 0:
                os.truncate(path, 2 * MIB + at // 2)
            elif kind == 1:
                punch(path, at, 40_000)
            else:
                lay(path, at, os.urandom(9000))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(6):
            assert way.ship().status in (0, errno.EAGAIN)
    finally:
        done.set()
        thread.join()
    way.ship()
    same(way, holes=False)


def test_every_moment_of_a_change(way: Way) -> None:
    """The file changes behind each step in turn, and back again: what arrives is one version."""
    path = way.source / "f"
    for delta in (False, True):
        moment = 0
        while True:
            path.write_bytes(bytes([7]) * (2 * MIB + 100))
            if delta:
                way.ship()
                lay(path, MIB - 5, b"literal, long enough")
                lay(path, 2 * MIB + 3, b"another one")
            for i, steps in enumerate(way.steps(b"f")):
                assert way.apply(steps) == []
                if i == moment:
                    lay(path, MIB - 3, b"changed")
                    lay(path, 100, b"changed")
                    os.truncate(path, MIB + 50)
                if i == moment + 1:
                    os.truncate(path, 2 * MIB + 50)
                    lay(path, 100, b"\7" * 7)
            way.note()
            finished = moment > i
            way.ship()
            same(way, holes=False)
            if finished:
                break
            moment += 1
        assert moment > 2


@pytest.mark.parametrize("kept", [True, False])
def test_a_block_that_changes_and_changes_back(
    way: Way, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A literal that is not kept is read after the match: what was sent, not what was matched,
    counts."""
    if not kept:
        monkeypatch.setattr(shipment, "AT_HAND", 0)
    path = way.source / "f"
    path.write_bytes(bytes(range(256)) * (MIB // 128))
    way.ship()
    lay(path, 5 * BLOCK, b"A" * BLOCK)
    for i, steps in enumerate(way.steps(b"f")):
        if i == 0:
            lay(path, 5 * BLOCK, b"B" * BLOCK)
        elif i == 1:
            assert (b"A" if kept else b"B") * BLOCK in steps
            lay(path, 5 * BLOCK, b"A" * BLOCK)
        assert way.apply(steps) == []
    way.note()
    same(way)


def test_what_vanishes_leaves_nothing(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(3 * MIB))
    for moment in range(4):
        path.write_bytes(os.urandom(3 * MIB))
        for i, steps in enumerate(way.steps(b"f")):
            assert way.apply(steps) == []
            if i == moment:
                path.unlink()
        assert way.note().status or not path.exists()
        path.write_bytes(b"")
    assert not (way.target / "f").exists()


def test_a_file_replaced_by_another_while_it_is_read(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(2 * MIB))
    for i, steps in enumerate(way.steps(b"f")):
        assert way.apply(steps) == []
        if i == 1:
            (way.source / "g").write_bytes(os.urandom(MIB + 9))
            (way.source / "g").rename(path)
    assert way.note().status
    way.ship()
    same(way)


def test_a_replaced_file_has_nothing_to_do_with_the_old_signature(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(2 * MIB))
    way.ship()
    times = path.stat()
    (way.source / "g").write_bytes(os.urandom(2 * MIB))
    os.utime(way.source / "g", ns=(0, times.st_mtime_ns))
    (way.source / "g").rename(path)
    way.ship()
    same(way)
