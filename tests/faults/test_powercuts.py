"""The power of the target goes: what it acknowledged is there, and the rest comes by itself."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from disk_errors import disk_errors
from ends import until
from ground import MIB, Ground, area, rooms_on
from injection import injected
from machine import plugged
from nursery import Nursery
from powercuts import boot, power_cut

from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import Op, step
from i2node.repl.ledger import Ledger, Record

SIZES = {"ext4": 96, "xfs": 320, "btrfs": 320}
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
]


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_what_was_acknowledged_is_there(nursery: Nursery, kind: str) -> None:
    with area() as place, plugged(kind, place, SIZES[kind]) as disk:
        ground = Ground(place, nursery)
        try:
            ground.plant()
            for seed in range(2):
                trial = power_cut(ground, disk, random.Random(f"{kind} {seed}"))
                assert trial.wrong == (), seed
        finally:
            ground.close()


def test_a_disk_that_fails_is_written_to_anew(nursery: Nursery) -> None:
    """What it refused counts as written the next time: no second try of fsync(2) tells of it."""
    with area() as place, plugged("btrfs", place, SIZES["btrfs"]) as disk:
        ground = Ground(place, nursery)
        try:
            ground.plant()
            for reads in (False, True):
                trial = disk_errors(ground, disk, reads, random.Random(str(reads)))
                assert trial.wrong == (), reads
        finally:
            ground.close()


@pytest.mark.parametrize("way", [Op.PUT_FILE, Op.RENAME, Op.LINK, Op.EXCHANGE, Op.STAGED])
def test_an_old_file_goes_only_for_one_that_lasts(way: Op) -> None:
    """XFS makes the new name durable with the next log, whether the content is there or not."""
    new = random.Random(1).randbytes(MIB)
    with area() as place, plugged("xfs", place, SIZES["xfs"]) as disk:
        root, stage = place / "rooms" / "root", place / "rooms" / "stage"
        for path in (root, stage):
            path.mkdir()
        (root / "f").write_bytes(b"acknowledged")
        os.sync()
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, stage)]
        put: dict[str, Any] = {"kind": Kind.FILE, "mode": 0o600, "size": MIB}
        other = step(Op.PUT_FILE, b"g", data=new, **put)
        given = {
            Op.PUT_FILE: [step(Op.PUT_FILE, b"f", data=new, **put)],
            Op.STAGED: [
                step(Op.STAGE, b"f", kind=Kind.FILE, stage=7),
                step(Op.WRITE, b"", kind=Kind.FILE, stage=7, data=new),
                step(Op.STAGED, b"f", stage=7, **put),
            ],
            Op.LINK: [other, step(Op.LINK, b"f", b"g", kind=Kind.FILE)],
            Op.RENAME: [other, step(Op.RENAME, b"g", b"f", kind=Kind.FILE)],
            Op.EXCHANGE: [other, step(Op.EXCHANGE, b"g", b"f", kind=Kind.FILE)],
        }
        assert batch.apply(*fds, b"".join(given[way])).faults == []
        os.fsync(fds[0])
        for fd in fds:
            os.close(fd)
        disk.cut(lose=True)
        disk.unplug()
        disk.ask("on")
        disk.plug()
        assert (root / "f").read_bytes() in (b"acknowledged", new)


def test_whose_a_tree_is_is_known_after_it() -> None:
    """Else a target that holds all of a rule would be refused to it as somebody else's."""
    record = Record("0123456789abcdef", "peer", "here:/s", "1", "/t", 2, 3, "4", "token", "boot")
    with area() as place, plugged("ext4", place, SIZES["ext4"]) as disk:
        ledger = Ledger(place / "rooms" / "targets")
        ledger.directory.mkdir()
        os.sync()
        ledger._write(record)
        disk.cut(lose=True)
        disk.unplug()
        disk.ask("on")
        disk.plug()
        assert ledger.records() == [record]


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_what_was_not_acknowledged_is_compared_by_content_after_a_boot(nursery: Nursery) -> None:
    """A new file of the right size and time whose content the power cut took."""
    with area() as place, rooms_on("ext4", place, 48):
        ground = Ground(place, nursery)
        hosts = ground.hosts
        try:
            ground.plant()
            victim = hosts.agent
            assert victim is not None
            with injected(victim.pid, "syncfs", "signal=KILL:when=1", place / "strace"):
                ground.deeds.write(ground.source / "new", 150_000)
                until("the kill", lambda: not victim.alive())
            hosts.relay.pause()
            hosts.relay.cut()
            _blank(ground.target / "new")
            boot(ground)
            hosts.relay.resume()
            assert ground.settled() == []
        finally:
            ground.close()


def _blank(path: Path) -> None:
    times = path.stat()
    path.write_bytes(bytes(times.st_size))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
