"""A target whose disk refuses in the middle of a frame: it goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from i2node.fs.tree import TargetTree
from i2node.model import Kind
from i2node.mover.batch import Op, step
from i2node.net.channel import Channel
from i2node.repl import receiver as receiving
from i2node.repl.ledger import Ledger
from i2node.repl.receiver import Receiver

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
pytestmark = [pytest.mark.root, needs_root]


class Told:
    """The source's ear: keeps what is sent to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["t"] == kind]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    mount = tmp_path / "mount"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def put(path: bytes, data: bytes) -> bytes:
    return step(Op.PUT_FILE, path, kind=Kind.FILE, mode=0o600, size=len(data), data=data)


def serving(root: Path, state: Path) -> tuple[Receiver, Told]:
    told = Told()
    receiver = Receiver(
        cast(Channel, told), Ledger(state / "ledger"), state, [root], checkpoint_s=1.0
    )
    receiver.tree = TargetTree(os.fsencode(root), "0123456789abcdef", state, [root])
    return receiver, told


def test_what_was_done_before_is_not_done_again(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(receiving, "RETRY_S", 0.01)
    receiver, told = serving(small, tmp_path)
    assert receiver.tree is not None
    faulty = [put(b"nowhere/%d" % i, b"") for i in range(2000)]
    frame = b"".join(
        [
            put(b"a", b"was a"),
            put(b"b", b"was b"),
            put(b"c", b"was c"),
            *faulty,
            step(Op.EXCHANGE, b"a", b"b"),
            step(Op.RENAME, b"c", b"d"),
            put(b"large", os.urandom(4_000_000)),
            put(b"behind", b"behind"),
            put(b"nowhere/last", b""),
        ]
    )
    thread = threading.Thread(target=receiver._apply_frame, args=(7, frame, 0))
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while len(told.of("stalled")) < 5:
            assert thread.is_alive() and time.monotonic() < deadline
            thread.join(0.01)
        assert not (small / "behind").exists()
    finally:
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        thread.join(30)
    assert not thread.is_alive()
    receiver.tree.close()
    # A night of it is one line of the log.
    assert [r.getMessage().split()[0] for r in caplog.records].count("target-stalled") == 1
    assert {p.name for p in small.iterdir()} == {"a", "b", "d", "large", "behind"}
    assert (small / "a").read_bytes() == b"was b" and (small / "b").read_bytes() == b"was a"
    assert (small / "d").read_bytes() == b"was c"
    # Every step that could not be done is told, once, however many there are.
    faults = [row[0] for message in told.of("faults") for row in message["faults"]]
    assert faults == [b"nowhere/%d" % i for i in range(2000)] + [b"nowhere/last"]


def test_a_full_disk_is_tried_less_and_less_and_at_once_when_there_is_room(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "RETRY_S", 0.001)
    monkeypatch.setattr(receiving, "FULL", (1, 2, 1_000_000))
    looks: list[int] = []
    free = TargetTree.free

    def look(tree: TargetTree) -> tuple[int, int]:
        looks.append(len(told.of("stalled")))
        return free(tree)

    monkeypatch.setattr(TargetTree, "free", look)
    receiver, told = serving(small, tmp_path)
    assert receiver.tree is not None
    (small / "old").write_bytes(bytes(500_000))
    frame = put(b"a", b"") + put(b"large", os.urandom(1_700_000))
    thread = threading.Thread(target=receiver._apply_frame, args=(7, frame, 0))
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while len(looks) < 50:
            assert thread.is_alive() and time.monotonic() < deadline
            thread.join(0.01)
    finally:
        (small / "old").unlink()
        thread.join(30)
    assert not thread.is_alive()
    receiver.tree.close()
    assert looks[-1] == len(told.of("stalled")) == 3
    assert {p.name for p in small.iterdir()} == {"a", "large"}
