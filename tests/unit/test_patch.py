"""A patch: what it gives as different makes the new file of the old one, and its signature is that
of the new file, however little of it was read."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from i2node.mover import blocks
from i2node.repl.patch import Patch
from i2node.repl.signatures import BLOCK_RECORD, Signature
from i2node.repl.windows import Extent, Window

BLOCK = 8
sizes = st.integers(0, 70)
bytes_ = st.sampled_from([0, 0, 1, 2])


def made(data: bytes) -> Signature:
    return Signature(len(data), 1, 1, BLOCK, blocks.signature(data, BLOCK))


@given(
    st.lists(bytes_, max_size=70),
    sizes,
    st.lists(st.tuples(sizes, st.lists(bytes_, min_size=1, max_size=20)), max_size=4),
    st.booleans(),
)
@example([1] * 20, 20, [(19, [2])], False)
@example([1] * 12, 40, [(9, [2])], False)
@example([1] * 12, 40, [(30, [2])], True)
@example([1] * 40, 12, [], False)
@example([], 30, [], True)
def test_any_version_follows_any_other(
    before: list[int], size: int, writes: list[tuple[int, list[int]]], holes: bool
) -> None:
    old = bytes(before)
    new = bytearray(old[:size].ljust(size, b"\0"))
    changed = []
    for at, data in writes:
        span = max(0, min(len(data), size - at))
        if span:
            new[at : at + span] = bytes(data[:span])
            changed.append((at, at + span))
    patch = Patch(made(old), size)
    there, end = bytearray(old[:size].ljust(size, b"\0")), 0
    for start, stop in patch.ranges(_joined(changed)):
        assert start % BLOCK == 0 and (stop % BLOCK == 0 or stop == size)
        assert start > end or not end
        end = stop
        data = bytes(new[start:stop])
        whole = holes and not any(data)
        extents = (Extent(start, stop, not whole),)
        for a, b in patch.add(Window(start, stop, None if whole else data, extents)):
            assert start <= a < b <= stop
            there[a:b] = new[a:b]
    assert there == new
    assert patch.signature() == blocks.signature(bytes(new), BLOCK)
    assert len(patch.signature()) == -(-size // BLOCK) * BLOCK_RECORD


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order and without overlap, as they are told."""
    found: list[tuple[int, int]] = []
    for at, end in sorted(ranges):
        if found and at <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((at, end))
    return found


def test_of_what_was_appended_only_that_is_given() -> None:
    old, new = b"a" * 20, b"a" * 20 + b"b" * 10
    patch = Patch(made(old), 30)
    assert list(patch.ranges(())) == [(16, 30)]
    assert list(patch.add(Window(16, 30, new[16:], (Extent(16, 30, True),)))) == [(20, 30)]
    # Unless what was the end is not as it was.
    patch = Patch(made(old), 30)
    assert list(patch.add(Window(16, 30, b"c" + new[17:], (Extent(16, 30, True),)))) == [(16, 30)]


def test_what_is_not_read_costs_nothing() -> None:
    patch = Patch(made(b"a" * 64), 64)
    assert list(patch.ranges([(10, 11), (12, 17), (40, 41)])) == [(8, 24), (40, 48)]
    assert list(patch.add(Window(40, 48, b"a" * 8, (Extent(40, 48, True),)))) == []
    assert patch.signature() == made(b"a" * 64).blocks
