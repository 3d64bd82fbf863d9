"""Deltas: what the ops say must rebuild the new file, whatever was done to the old one."""

import random

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2node.mover import blocks
from i2node.mover._mover import ffi, lib
from i2node.mover.blocks import LITERAL, ZERO, Matcher, Op

BLOCK = 64


def noise(n: int, seed: int) -> bytes:
    return blake3.blake3(seed.to_bytes(8, "big")).digest(length=n)


def delta(old: bytes, new: bytes, block: int = BLOCK, window: int | None = None) -> list[Op]:
    """All ops, from windows of `window` bytes; checks what every answer must hold to."""
    m = Matcher(blocks.signature(old, block), len(old), block)
    ops: list[Op] = []
    at, size = 0, window or max(len(new), 1)
    while at < len(new):
        part = memoryview(new)[at : at + size]
        end = at + len(part) == len(new)
        got, used = m.match(part, at, end)
        assert sum(op.span for op in got) == used
        assert used == len(part) if end else len(part) - used < block
        assert used > 0 or size < block
        if used == 0:
            size += 1
        at += used
        ops += got
    return ops


def apply(old: bytes, new: bytes, ops: list[Op]) -> bytes:
    """The file the ops make; literals come from `new`."""
    out = bytearray()
    for op in ops:
        assert op.at == len(out)
        assert op.span > 0
        if op.source == LITERAL:
            out += new[op.at : op.at + op.span]
        elif op.source == ZERO:
            out += bytes(op.span)
        else:
            assert op.source + op.span <= len(old)
            out += old[op.source : op.source + op.span]
    return bytes(out)


def literals(ops: list[Op]) -> int:
    return sum(op.span for op in ops if op.source == LITERAL)


pieces = st.lists(
    st.one_of(
        st.integers(0, 400).map(lambda n: noise(n, n)),
        st.integers(0, 300).map(bytes),
        st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 100)).map(
            lambda t: t[0] * t[1]
        ),
        st.binary(max_size=20),
    ),
    max_size=8,
).map(b"".join)


@st.composite
def edited(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An old file and what some edits make of it."""
    old = draw(pieces)
    new = bytearray(old)
    for _ in range(draw(st.integers(0, 5))):
        a = draw(st.integers(0, len(new)))
        b = draw(st.integers(a, min(len(new), a + 200)))
        fresh = draw(st.one_of(st.binary(max_size=100), st.integers(0, 150).map(bytes)))
        match draw(st.sampled_from(["insert", "delete", "write", "move", "append", "truncate"])):
            case "insert":
                new[a:a] = fresh
            case "delete":
                del new[a:b]
            case "write":
                new[a : a + len(fresh)] = fresh
            case "move":
                part = new[a:b]
                del new[a:b]
                c = draw(st.integers(0, len(new)))
                new[c:c] = part
            case "append":
                new += fresh
            case "truncate":
                del new[b:]
    return old, bytes(new)


@settings(max_examples=400)
@given(
    edited(),
    st.sampled_from([1, 5, 16, 64, 100, 4096]),
    st.sampled_from([None, 1, 63, 64, 129, 500, 8193]),
)
def test_ops_rebuild_the_new_file(
    pair: tuple[bytes, bytes], block: int, window: int | None
) -> None:
    old, new = pair
    assert apply(old, new, delta(old, new, block, window)) == new


@given(pieces, st.sampled_from([None, 2 * BLOCK + 1, 300]))
def test_an_unchanged_file_has_no_literals(data: bytes, window: int | None) -> None:
    ops = delta(data, data, BLOCK, window)
    assert literals(ops) == 0
    assert all(op.source in (op.at, ZERO) for op in ops)


def test_an_unchanged_file_without_zeros_is_one_op() -> None:
    data = noise(1000 * BLOCK + 7, 1)
    assert delta(data, data) == [Op(0, 0, len(data))]


def test_overwritten_blocks_are_the_only_literals() -> None:
    block, n = 4096, 1000
    old = noise(n * block, 2)
    new = bytearray(old)
    hit = list(range(17, n, 100))
    for i in hit:
        new[i * block : (i + 1) * block] = noise(block, 1000 + i)
    ops = delta(old, bytes(new), block, 1 << 20)
    assert apply(old, bytes(new), ops) == new
    assert [op.at for op in ops if op.source == LITERAL] == [i * block for i in hit]
    assert literals(ops) == len(hit) * block


@pytest.mark.parametrize("extra", [1 << 20, (1 << 20) + 13])
def test_an_insertion_at_the_front_costs_itself(extra: int) -> None:
    block = 4096
    old = noise(4 << 20, 3)
    new = noise(extra, 4) + old
    ops = delta(old, new, block, 3 << 18)
    assert apply(old, new, ops) == new
    assert literals(ops) == extra


def test_a_deletion_at_the_front_costs_at_most_a_block() -> None:
    old = noise(1 << 20, 5)
    new = old[1000:]
    ops = delta(old, new, 4096, 1 << 18)
    assert apply(old, new, ops) == new
    assert literals(ops) < 4096


def test_growth_of_a_file_with_a_short_last_block_costs_what_was_added() -> None:
    old = noise(10 * 4096 + 100, 6)
    for added in (1, 50, 4096, 9000):
        new = old + noise(added, 7)
        ops = delta(old, new, 4096)
        assert apply(old, new, ops) == new
        assert literals(ops) == added


def test_a_displaced_short_last_block_is_found() -> None:
    old = noise(10 * 4096 + 100, 8)
    new = noise(777, 9) + old
    assert delta(old, new, 4096) == [Op(0, LITERAL, 777), Op(777, 0, len(old))]
    tail = noise(777, 10) + old[-100:]
    assert delta(old, tail, 4096) == [Op(0, LITERAL, 777), Op(777, 10 * 4096, 100)]


def test_swapped_halves() -> None:
    old = noise(64 * BLOCK, 11)
    new = old[32 * BLOCK :] + old[: 32 * BLOCK]
    assert delta(old, new) == [Op(0, 32 * BLOCK, 32 * BLOCK), Op(32 * BLOCK, 0, 32 * BLOCK)]


def test_zero_blocks_are_zero_even_where_the_old_file_has_them() -> None:
    old = noise(BLOCK, 12) + bytes(3 * BLOCK) + noise(BLOCK, 13) + bytes(BLOCK // 2)
    ops = delta(old, old)
    assert [(op.source == ZERO, op.span) for op in ops] == [
        (False, BLOCK),
        (True, 3 * BLOCK),
        (False, BLOCK),
        (True, BLOCK // 2),
    ]


def test_nothing_old_and_nothing_new() -> None:
    new = noise(1000, 14)
    assert delta(b"", new) == [Op(0, LITERAL, 1000)]
    m = Matcher(b"", 0, BLOCK)
    assert m.match(b"", 0, True) == ([], 0)
    assert Matcher(blocks.signature(new, BLOCK), 1000, BLOCK).match(b"", 0, True) == ([], 0)


def test_more_ops_than_one_call_returns() -> None:
    old = b"".join(noise(BLOCK, i) for i in range(20000))
    new = b"".join(noise(BLOCK, i if i % 2 else i + (1 << 20)) for i in range(20000))
    ops = delta(old, new)
    assert apply(old, new, ops) == new
    assert len(ops) == 20000
    assert literals(ops) == len(new) // 2


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_few_ops_a_call_make_the_same_delta(cap: int) -> None:
    old = noise(100 * BLOCK, 15)
    new = old[: 10 * BLOCK] + b"ins" + old[10 * BLOCK : 50 * BLOCK] + bytes(300) + old[51 * BLOCK :]
    sig = blocks.records(blocks.signature(old, BLOCK))
    size = lib.i2_match_size(len(sig))
    table = ffi.new("uint8_t[]", size)
    assert lib.i2_match_init(table, size, sig, len(sig), len(old), BLOCK) == 0
    shift, used = ffi.new("int64_t *"), ffi.new("uint64_t *")
    found = ffi.new("struct i2_op[]", cap)
    ops: list[Op] = []
    at = 0
    while at < len(new):
        part = new[at:]
        n = lib.i2_match(
            table, sig, len(sig), BLOCK, part, len(part), at, 1, shift, found, cap, used
        )
        assert 0 < n <= cap
        ops += [Op(op.at, getattr(op, "from"), op.span) for op in found[0:n]]
        at += used[0]
    assert apply(old, new, ops) == new
    assert literals(ops) == literals(delta(old, new))


DEGENERATE = {
    "one byte": b"A" * (1 << 20),
    "zeros": bytes(1 << 20),
    "period 3": b"abc" * (1 << 18),
    "period 100": noise(100, 16) * 10000,
    "period of a block and one": noise(4097, 17) * 200,
    "two bytes by chance": bytes(random.Random(18).choices(b"ab", k=1 << 20)),
}


@pytest.mark.parametrize("content", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("front", [b"", b"x", b"x" * 5000])
def test_degenerate_content(content: bytes, front: bytes) -> None:
    new = front + content
    ops = delta(content, new, 4096, 1 << 18)
    assert apply(content, new, ops) == new
    assert literals(ops) <= len(front) + 2 * 4096


def test_alike_weak_sums_do_not_match() -> None:
    """Two blocks of one weak sum: bytes changed by a multiple of (1, -2, 1) keep both its parts."""
    block = 64
    first = bytes([9] * block)
    second = bytearray(first)
    second[10] += 1
    second[11] -= 2
    second[12] += 1
    sigs = [blocks.signature(b, block) for b in (first, second)]
    assert sigs[0][:4] == sigs[1][:4]
    assert sigs[0] != sigs[1]
    new = b"!" + bytes(second)
    assert delta(first * 2, new, block) == [Op(0, LITERAL, block + 1)]
    assert delta(first + second, new, block) == [Op(0, LITERAL, 1), Op(1, block, block)]


def test_a_file_of_false_weak_hits_is_still_covered() -> None:
    block = 64
    base = noise(block, 19).translate(bytes(b & 0x7F | 0x10 for b in range(256)))
    old = bytearray(base)
    old[10] += 1
    old[11] -= 2
    old[12] += 1
    new = b"." + base * 3000
    assert apply(bytes(old), new, delta(bytes(old), new, block, 5000)) == new


@given(st.binary(min_size=1, max_size=300), st.integers(1, 100))
def test_rolling_is_the_sum_of_every_window(data: bytes, block: int) -> None:
    """Every position is found: an old file of one block, which stands anywhere in the new one."""
    for at in range(0, len(data) - block + 1, 7):
        old = data[at : at + block]
        if any(old):
            ops = delta(old, b"\x01" + data, block)
            assert any(op.source == 0 for op in ops)


def test_constants_are_the_headers() -> None:
    assert (LITERAL, ZERO) == (lib.I2_LITERAL, lib.I2_ZERO)


def test_a_signature_that_does_not_fit_is_refused() -> None:
    sig = blocks.signature(b"a" * 1000, BLOCK)
    for size, block in ((1100, BLOCK), (100, BLOCK), (1000, 32), (1000, 0)):
        with pytest.raises(ValueError, match="signature"):
            Matcher(sig, size, block)
    with pytest.raises(ValueError, match="window"):
        Matcher(sig, 1000, BLOCK).match(b"abc", (1 << 63) - 1, True)
