"""Large files from the reader to the real apply: after every shipment the target is the source,
byte for byte and hole for hole, and nothing is left in the stage."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from edits import BLOCK, KINDS, MIB, edit, lay, noise, punch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from way import Way, extents, same

from i2node.mover import blocks
from i2node.mover.batch import At, Op
from i2node.repl.plan import Large

offsets = st.one_of(
    st.integers(0, 3 * MIB),
    st.sampled_from([0, 1, BLOCK - 1, BLOCK, MIB - BLOCK, MIB - 1, MIB, MIB + 1, 2 * MIB]),
)
spans = st.one_of(
    st.integers(1, MIB), st.sampled_from([1, BLOCK - 1, BLOCK, BLOCK + 1, MIB, 2 * MIB])
)
edits = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        offsets,
        spans,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=edits,
    rounds=st.lists(
        st.tuples(st.sampled_from(["go on", "lose the books", "drift"]), edits),
        min_size=1,
        max_size=3,
    ),
)
def test_any_history_arrives(place: Path, first: list, rounds: list) -> None:
    with tempfile.TemporaryDirectory(dir=place) as spot, closing(Way(Path(spot))) as way:
        path = way.source / "f"
        path.write_bytes(b"")
        seed = 0
        for what, at, span in first:
            edit(path, what, at, span, seed := seed + 1)
        way.ship()
        same(way)
        for before, changes in rounds:
            for what, at, span in changes:
                edit(path, what, at, span, seed := seed + 1)
            if before == "lose the books":
                way.forget()
            elif before == "drift":
                # Somebody wrote to the target: the delta does not fit, and says so.
                was = (way.target / "f").stat().st_mtime_ns
                lay(way.target / "f", 0, b"drift")
                os.utime(way.target / "f", ns=(0, was + 10**9))
                faults = [f for steps in way.steps(b"f") for f in way.apply(steps)]
                for fault in faults:
                    assert fault.what == At.CHECK
                way.forget()
            way.ship()
            # Which zeros are allocated is left alone where nothing else differs.
            same(way, holes=False)
            if Op.STAGED in way.ops:
                here = extents(path)
                for start, end in extents(way.target / "f"):
                    assert any(a <= start and end <= b for a, b in here), (here, start, end)


SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, MIB - 1, MIB, MIB + 1, 2 * MIB + BLOCK + 7]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_blocks_and_windows(way: Way, size: int) -> None:
    path = way.source / "f"
    path.write_bytes(noise(size, size))
    assert way.ship().size == path.stat().st_size
    same(way)
    lay(path, max(0, path.stat().st_size - 1), b"!!")
    way.ship()
    same(way)


def test_holes_of_every_kind(way: Way) -> None:
    path = way.source / "f"
    with open(path, "wb") as file:
        for at in (0, 3 * BLOCK, MIB - BLOCK, 5 * MIB + 123, 9 * MIB):
            file.seek(at)
            file.write(noise(at, 5000))
        file.truncate(12 * MIB + 17)
    way.ship()
    same(way)
    assert way.written < 60_000
    punch(path, 0, BLOCK)
    punch(path, 9 * MIB, MIB)
    way.ship()
    same(way)
    assert Op.WRITE not in way.ops
    # Zeros that somebody wrote are no hole, here and there.
    lay(path, 2 * MIB, bytes(MIB))
    lay(path, 5 * MIB, b"x")
    way.forget()
    (way.target / "f").unlink()
    way.journal.wipe()
    way.ship()
    same(way)


def test_all_hole_and_a_tebibyte_of_it(way: Way) -> None:
    path = way.source / "f"
    with open(path, "wb") as file:
        file.truncate(5 * MIB + 1)
    way.ship()
    same(way)
    assert way.written == 0
    os.truncate(path, 1 << 40)
    lay(path, (1 << 39) + 4096, b"in the middle")
    way.ship()
    same(way)
    assert way.written < MIB
    lay(path, (1 << 39) + 5 * MIB, b"next to it")
    way.written = 0
    way.ship()
    same(way)
    assert way.written < MIB and way.asked == 0
    way.forget()
    lay(path, 7, b"seven")
    way.ship()
    same(way)
    assert way.asked == 1 and way.written < 2 * MIB


@pytest.mark.parametrize(
    "mtime", [-(10**18) - 1, -1, 2**31 * 10**9 + 7, 9_400_000_000 * 10**9 + 999_999_999]
)
def test_mtimes_of_all_ages(way: Way, mtime: int) -> None:
    path = way.source / "f"
    path.write_bytes(noise(1, 2 * MIB))
    os.utime(path, ns=(0, mtime))
    way.ship()
    same(way)
    lay(path, 5, b"x")
    os.utime(path, ns=(0, mtime - 1))
    way.ship()
    same(way)


def test_only_what_changed_is_sent(way: Way) -> None:
    """Blocks written in place; the books lost; a piece put in front."""
    path = way.source / "f"
    content = bytearray(os.urandom(16 * MIB))
    path.write_bytes(content)
    way.ship()
    changed = range(0, len(content) // BLOCK, 97)
    for n in changed:
        lay(path, n * BLOCK, os.urandom(BLOCK))
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 1.1 * len(changed) * BLOCK and way.asked == 0
    way.forget()
    lay(path, 5 * MIB, os.urandom(BLOCK))
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 2 * BLOCK + 4096 and way.asked == 1
    path.write_bytes(os.urandom(100_001) + path.read_bytes())
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent <= 100_001 + 4 * BLOCK + 4096
    assert Op.COPY in way.ops


def test_a_file_that_outgrows_its_blocks_is_not_sent_as_a_whole(way: Way) -> None:
    """From 4 GiB on they are twice as large; and back."""
    path, size = way.source / "f", (4 << 30) - MIB
    with path.open("wb") as file:
        for at in (0, 1 << 30, size - 3 * MIB):
            file.seek(at)
            file.write(os.urandom(3 * MIB))
    way.ship()
    assert blocks.block_size(size) != blocks.block_size(size + 2 * MIB)
    for change in (lambda: lay(path, size, os.urandom(2 * MIB)), lambda: os.truncate(path, size)):
        change()
        way.sent = 0
        way.ship()
        same(way)
        assert way.sent < 3 * MIB and way.asked == 0
    lay(path, 5, b"x")
    way.sent = 0
    way.ship()
    same(way)
    assert way.sent < MIB


def test_metadata_alone_sends_no_content(way: Way) -> None:
    path = way.source / "f"
    path.write_bytes(os.urandom(MIB))
    way.ship()
    for trusted in (False, True):
        os.chmod(path, 0o640 if trusted else 0o600)
        os.setxattr(path, "user.k", b"%d" % trusted)
        way.ship(trusted=trusted)
        assert way.ops == [Op.SET_META]
        same(way)
    # Trusted was the mtime at the walk; it moved since, so the content is looked at after all.
    lay(path, 3, b"seen")
    entry = way.entry(b"f")
    os.utime(path, ns=(0, 5))
    item = Large(way.root.identity.ino, b"f", entry, True)
    for steps, _ in way.reader.ship(item):
        assert way.apply(steps) == []
    way.note()
    same(way)
