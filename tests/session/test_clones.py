"""Hot files on file systems that clone: little is read, what is read is of one moment, and after
every shipment the target is the source."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from edits import BLOCK, MIB, histories, lay, lay_about, noise, wait_until_not_racy
from ends import until
from test_hot import Log, read_by
from way import Way, same

from disks import disk
from i2node.fs import clone as clones
from i2node.model import RACY
from i2node.repl import hot, large, staging
from i2node.repl.large import LargeReader

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
SIZE = 16 * MIB + 100
LITTLE = 3 * MIB


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with disk(request.param, tmp_path_factory.mktemp("disk"), mib=1024) as mount:
        yield mount


@pytest.fixture
def way(spot: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The file is fresh, and so hot from the first."""
    monkeypatch.setattr(large, "HOT_FROM", MIB)
    monkeypatch.setattr(hot, "FRESH_FROM", MIB)
    place = spot / "way"
    place.mkdir()
    with closing(Way(place)) as made:
        (made.source / "f").write_bytes(noise(7, SIZE)[:SIZE])
        made.ship()
        same(made)
        yield made
        made.reader.close()
    subprocess.run(["rm", "-rf", place], check=True)


def free(path: Path) -> int:
    """Bytes, once what was freed is told (syncfs(2))."""
    subprocess.run(["sync", "-f", path], check=True)
    found = os.statvfs(path)
    return found.f_bfree * found.f_frsize


def test_only_what_was_written_is_read_and_sent(way: Way) -> None:
    path = way.source / "f"
    chance = random.Random(1)
    for _ in range(5):
        lay_about(path, chance)
        way.sent = 0
        assert read_by(way.ship) < LITTLE
        assert 20 * BLOCK <= way.sent < 30 * BLOCK
        same(way)
    assert way.asked == 0
    assert sorted(os.listdir(way.source)) == ["f"]


def test_blocks_that_are_written_as_they_were_are_not_sent(way: Way) -> None:
    lay(way.source / "f", 5 * BLOCK, noise(7, SIZE)[5 * BLOCK : 9 * BLOCK])
    way.sent = 0
    assert read_by(way.ship) < LITTLE
    assert way.sent < BLOCK
    same(way)


def test_any_history_arrives(way: Way) -> None:
    for _ in histories(way.source / "f", 40):
        way.ship()
        same(way, holes=False)


def test_what_is_read_is_of_one_moment(way: Way) -> None:
    """What is written once it has begun is the next version's, and no reason to read again."""
    path = way.source / "f"
    lay(path, 0, b"one")
    lay(path, 9 * MIB, b"one")
    size = path.stat().st_size
    for i, steps in enumerate(way.steps(b"f")):
        if i == 0:
            lay(path, 9 * MIB, b"two")
            lay(path, 0, b"two")
            os.truncate(path, 12 * MIB)
        assert way.apply(steps) == []
    outcome = way.note()
    assert outcome.status == 0 and outcome.flags & RACY
    target = (way.target / "f").read_bytes()
    assert (target[:3], target[9 * MIB :][:3], len(target)) == (b"one", b"one", size)
    assert read_by(way.ship) < LITTLE
    same(way)


def test_a_write_while_it_is_cloned_is_not_taken_for_known(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = way.source / "f"
    clone = clones.Cloner.clone

    def slowly(self: clones.Cloner, fd: int) -> int | None:
        made = clone(self, fd)
        lay(path, 5 * MIB, b"behind its back")
        return made

    lay(path, 0, b"before")
    wait_until_not_racy(path)
    with monkeypatch.context() as patched:
        patched.setattr(clones.Cloner, "clone", slowly)
        outcome = way.ship()
    assert outcome.flags & RACY and outcome.status == 0
    assert b"behind" not in (way.target / "f").read_bytes()
    way.ship()
    same(way)


def test_a_clone_made_too_soon_after_a_write_proves_nothing(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write may carry the same time, and be in the clone or not."""
    path = way.source / "f"
    for patience, racy in ((staging.RACY_NS, 0), (10**18, RACY)):
        lay(path, 0, os.urandom(8))
        wait_until_not_racy(path)
        monkeypatch.setattr(staging, "RACY_NS", patience)
        assert way.ship().flags & RACY == racy
        same(way)


def test_a_file_that_only_grew_is_not_cloned_and_the_clone_stays_good(way: Way) -> None:
    log = Log(way.source / "f")
    held = way.reader.hot.get(log.path.stat().st_ino)
    assert held is not None
    way.ship()
    before = held.clone
    for seed in range(3):
        log.add(seed)
        assert read_by(way.ship) < LITTLE
        same(way)
    assert held.clone == before is not None
    with open(log.path, "r+b") as file:
        file.write(b"in the middle of it")
    assert read_by(way.ship) < LITTLE
    same(way)
    assert held.clone != before
    os.close(log.fd)


def test_what_failed_leaves_nothing_to_compare_with(way: Way) -> None:
    path = way.source / "f"
    lay(path, MIB, b"one")
    found = way.steps(b"f")
    next(found)
    found.close()
    for name in os.listdir(way.stage):
        (way.stage / name).unlink()
    lay(path, 2 * MIB, b"two")
    way.ship()
    same(way)


def test_most_of_it_rewritten(way: Way) -> None:
    """It is read as a whole: what only moved is found."""
    path = way.source / "f"
    path.write_bytes(b"0123" + path.read_bytes())
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent < MIB
    lay(path, 5, b"x")
    assert read_by(way.ship) < LITTLE
    same(way)


def test_room_is_given_back(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    path = way.source / "f"
    # The old content is held by the clone alone.
    path.write_bytes(noise(9, SIZE)[:SIZE])
    before = free(path)
    with monkeypatch.context() as patched:
        patched.setattr(clones, "ROOM", 1)
        way.reader.rest()
        until("the room was not freed", lambda: free(path) > before + SIZE // 2)
        lay(path, 0, b"without")
        assert read_by(way.ship) > SIZE
        same(way)
    way.ship()
    lay(path, 0, b"with")
    way.ship()
    same(way)
    before = free(path)
    path.unlink()
    way.reader.rest()
    until("the room was not freed", lambda: free(path.parent) > before + SIZE // 2)


def test_room_is_given_back_while_something_is_shipped(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = way.source / "f", way.source / "g"
    held = way.reader.hot.get(path.stat().st_ino)
    assert held is not None and held.clone is not None
    other.write_bytes(noise(3, SIZE))
    found = way.steps(b"g")
    assert way.apply(next(found)) == []
    with monkeypatch.context() as patched:
        patched.setattr(clones, "ROOM", 1)
        way.reader.rest()
    assert held.clone is None
    path.unlink()
    other.unlink()
    before = len(os.listdir("/proc/self/fd"))
    way.reader.rest()
    # The one that is read is held until then.
    assert len(os.listdir("/proc/self/fd")) == before - 1
    for steps in found:
        assert way.apply(steps) == []
    way.reader.rest()
    assert not way.reader.holds()


def test_nothing_is_cloned_where_it_would_take_long(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = way.source / "f"
    monkeypatch.setattr(clones, "MOST_EXTENTS", 0)
    lay(path, 0, b"x")
    assert read_by(way.ship) > SIZE
    same(way)
    held = way.reader.hot.get(path.stat().st_ino)
    assert held is not None and held.clone is None


def test_another_session_knows_of_no_clone(way: Way) -> None:
    way.reader.close()
    way.reader = LargeReader(way.root, way.journal, {}, way._ask)
    lay(way.source / "f", 0, b"x")
    assert read_by(way.ship) > SIZE
    assert way.asked == 0
    same(way)
