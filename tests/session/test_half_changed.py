"""A target that stopped with a file half changed: the next session makes it whole before it is told
anything of the tree."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from ends import until

from i2node.errors import TargetFault
from i2node.fs.tree import half_changed, journals
from i2node.model import Kind
from i2node.mover.batch import STEP_CLONE, Op, step
from i2node.net.channel import Channel
from i2node.repl.ledger import Ledger
from i2node.repl.mend import mend_all
from i2node.repl.receiver import Receiver

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20
RULE = "0123456789abcdef"
OLD = os.urandom(5 * MIB)
SIZE = len(OLD) + 8 * MIB
LATE = os.urandom(6 * MIB)
STAGE = 0xABC


class Told:
    """The source's ear, and who it is."""

    peer_id = "peer"

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def close(self) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["t"] == kind]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 48 MiB."""
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False).returncode:
        pytest.skip("no loop mounts here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def opened(disk: Path, home: Path, token: int) -> Receiver:
    receiver = Receiver(
        cast(Channel, Told()), Ledger(home / "ledger"), home, [disk], checkpoint_s=1.0
    )
    try:
        receiver._open(
            {
                "rule": RULE,
                "root": os.fsencode(disk / "root"),
                "tokens": [f"token {token}"],
                "next": f"token {token + 1}",
            }
        )
    except BaseException:
        receiver._close()
        raise
    return receiver


def steps(have: os.stat_result) -> bytes:
    def write(at: int, data: bytes) -> bytes:
        return step(Op.WRITE, b"", stage=STAGE, size=at, data=data)

    seconds, ns = divmod(have.st_mtime_ns, 10**9)
    return b"".join(
        [
            step(
                *(Op.STAGE, b"f"),
                stage=STAGE,
                flags=STEP_CLONE,
                size=SIZE,
                mtime_s=seconds,
                mtime_ns=ns,
            ),
            write(0, b"new"),
            write(len(OLD), LATE),
            step(Op.STAGED, b"f", kind=Kind.FILE, stage=STAGE, size=SIZE, mode=0o600, mtime_s=7),
        ]
    )


@pytest.mark.parametrize("then", ["session", "session after a reboot", "agent"])
def test_a_file_left_half_changed_is_whole_before_anybody_looks(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, then: str
) -> None:
    caplog.set_level(logging.INFO, logger="i2node")
    path = disk / "root" / "f"
    first = opened(disk, tmp_path, 0)
    path.write_bytes(OLD)
    path.chmod(0o600)
    os.truncate(path, SIZE)
    os.sync()
    # Room for the journal, and for half of what it says.
    filler = disk / "filler"
    room = os.statvfs(disk).f_bavail * 4096 - 9 * MIB
    subprocess.run(["fallocate", "-l", str(room), filler], check=True)
    thread = threading.Thread(target=first._apply_frame, args=(0, steps(path.stat()), 0))
    thread.start()
    told = cast(Told, first.channel)
    until("the target did not stall", lambda: bool(told.of("stalled")))
    with first._wake:
        first._over = True
        first._wake.notify_all()
    thread.join(30)
    first._close()
    (journal,) = journals(bytes(path.parent), RULE, tmp_path, bytes(disk))
    assert half_changed(journal)
    sealed = Path(os.fsdecode(journal)).read_bytes()
    (tmp_path / "unsealed").write_bytes(sealed[:-48])
    assert not half_changed(bytes(tmp_path / "unsealed"))
    assert path.read_bytes() == OLD + bytes(8 * MIB)
    # What a crash would leave that came later.
    with path.open("r+b") as file:
        file.write(b"new")
    # While the disk is full no session begins.
    with pytest.raises(TargetFault, match="half changed") as failed:
        opened(disk, tmp_path, 1)
    assert "free space" in failed.value.remedy
    # Nor while the place where the journal is cannot be tried.
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(TargetFault, match="Read-only"):
        opened(disk, tmp_path, 1)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    if then == "agent":
        mend_all(Ledger(tmp_path / "ledger"), tmp_path, [disk])
    filler.unlink()
    if then == "agent":
        mend_all(Ledger(tmp_path / "ledger"), tmp_path, [disk])
    if then == "session after a reboot":
        record = tmp_path / "ledger" / f"{RULE}.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot": "another"}))
    second = opened(disk, tmp_path, 2) if then != "agent" else None
    if second is not None:
        assert [m["status"] for m in cast(Told, second.channel).of("opened")] == ["known"]
    assert path.read_bytes() == b"new" + OLD[3:] + LATE + bytes(2 * MIB)
    assert path.stat().st_mtime_ns == 7 * 10**9
    lines = [r.getMessage() for r in caplog.records if "redo" in r.getMessage()]
    if then == "agent":
        said = lines.pop(0)
        assert said.startswith(f"redo-failed rule={RULE} ") and 'remedy="free space' in said
    assert lines == [f"redo-replayed rule={RULE} path=f"]
    if second is not None:
        second._close()
    with suppress(FileNotFoundError):
        assert os.listdir(tmp_path / "stage") == []
