"""Block signatures: the vector version against the scalar one, and the meaning of each field."""

import struct

import blake3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from i2node.mover import blocks
from i2node.mover._mover import ffi, lib

MOD = 1 << 32


def scalar(data: bytes, block: int) -> bytes:
    n = -(-len(data) // block)
    out = ffi.new("struct i2_block[]", n)
    assert lib.i2_blocks_scalar(data, len(data), block, out, n) == n
    return bytes(ffi.buffer(out))


def weak(data: bytes) -> int:
    """The sum as native/src/blocks.h defines it."""
    a = sum(data)
    b = sum((len(data) - i) * x for i, x in enumerate(data))
    return (0x85EBCA77 * a + 0x9E3779B1 * b) % MOD


@st.composite
def contents(draw: st.DrawFn, block: int) -> bytes:
    """Runs of zero, of one byte and of noise, not aligned to the blocks."""
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from(["zero", "byte", "noise"]), st.integers(0, 3 * block)),
            max_size=8,
        )
    )
    seed = draw(st.integers(0, 255))
    made = {
        "zero": bytes,
        "byte": lambda n: bytes([seed]) * n,
        "noise": lambda n: blake3.blake3(bytes([seed, n % 256])).digest(length=n),
    }
    return b"".join(made[kind](n) for kind, n in parts)


@pytest.mark.parametrize("block", [1, 7, 64, 512, 1024, 1536, 2048, 4096, 8192, 65536])
@given(data=st.data())
def test_vector_and_scalar_agree(block: int, data: st.DataObject) -> None:
    content = data.draw(contents(block))
    assert blocks.signature(content, block) == scalar(content, block)


@pytest.mark.parametrize("block", [1024, 4096, 16384, 262144, 524288])
def test_many_blocks_fill_every_lane(block: int) -> None:
    noise = bytearray(blake3.blake3(b"lanes").digest(length=min(130 * block, 1 << 22)))
    noise[2 * block : 3 * block] = bytes(block)
    data = bytes(noise)
    got = blocks.signature(data, block)
    for i, at in enumerate(range(0, len(data), block)):
        part = data[at : at + block]
        strong = got[20 * i + 4 : 20 * i + 20]
        assert strong == (blake3.blake3(part).digest()[:16] if any(part) else bytes(16))


@given(st.binary(max_size=5000))
@example(b"\xff" * 5000)
@example(b"\xff" * 1024)
def test_weak_is_the_defined_sum(data: bytes) -> None:
    (got,) = struct.unpack_from("<I", blocks.signature(data + b"\x01", 8192))
    assert got == weak(data + b"\x01")


def test_last_block_may_be_short() -> None:
    data = b"x" * 4096 + b"yz"
    sig = blocks.signature(data, 4096)
    assert len(sig) == 40
    assert sig[24:] == blake3.blake3(b"yz").digest()[:16]


def test_zero_blocks_have_zero_records() -> None:
    assert blocks.signature(bytes(5000), 4096) == bytes(40)
    assert blocks.signature(b"", 4096) == b""


def test_no_room_is_an_error() -> None:
    out = ffi.new("struct i2_block[1]")
    assert lib.i2_blocks(b"ab", 2, 1, out, 1) < 0
    assert lib.i2_blocks_scalar(b"ab", 2, 1, out, 1) < 0
    assert lib.i2_blocks(b"ab", 2, 0, out, 1) < 0


@given(st.integers(0, 3000), st.integers(0, 70), st.booleans())
def test_is_zero(n: int, offset: int, hit: bool) -> None:
    data = bytearray(offset + n)
    if hit and n:
        data[offset + (n * 7919) % n] = 1
        data[offset + n // 2] = 1
    assert blocks.is_zero(memoryview(data)[offset:]) == (not any(data))


@pytest.mark.parametrize("n", [1, 8, 63, 64, 65, 511, 576, 577, 4096, 4100])
def test_is_zero_sees_each_byte(n: int) -> None:
    for i in range(n):
        data = bytearray(n)
        data[i] = 128
        assert not blocks.is_zero(data)


def item(run: int) -> bytes:
    return struct.pack("<QQ", 0, run)


def test_digest_of_one_block_is_its_strong_hash() -> None:
    assert blocks.digest(blocks.signature(b"hello", 4096)) == blake3.blake3(b"hello").digest()[:16]


def test_digest_of_nothing_and_of_zeros() -> None:
    assert blocks.digest(b"") == blake3.blake3(item(0)).digest()[:16]
    assert blocks.digest(bytes(20)) == blake3.blake3(item(1)).digest()[:16]
    assert blocks.digest(bytes(20 * 1000)) == blake3.blake3(item(1000)).digest()[:16]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), min_size=2, max_size=5))
@example([(True, 4096), (True, 1)])
@example([(True, 8192), (False, 3), (True, 4096)])
def test_digest_is_the_hash_of_the_items(runs: list[tuple[bool, int]]) -> None:
    records, items, held = b"", b"", 0
    for full, n in runs:
        if full:
            strong = blake3.blake3(bytes([n % 256])).digest()[:16]
            records += (b"wwww" + strong) * n
            items += (item(held) if held else b"") + strong * n
            held = 0
        else:
            records += bytes(20) * n
            held += n
    items += item(held) if held else b""
    if len(records) > 20:
        assert blocks.digest(records) == blake3.blake3(items).digest()[:16]


def test_a_signature_is_whole_records_and_need_not_be_aligned() -> None:
    with pytest.raises(ValueError, match="21"):
        blocks.digest(bytes(21))
    sig = blocks.signature(b"a" * 9000, 4096)
    assert blocks.digest(memoryview(b"x" + sig)[1:]) == blocks.digest(sig)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (0, 4096),
        (4 << 30, 4096),
        ((4 << 30) + 1, 8192),
        (8 << 30, 8192),
        (1 << 40, 1 << 20),
        (1 << 51, 1 << 31),
        (1 << 53, 1 << 31),
        ((1 << 64) - 1, 1 << 31),
    ],
)
def test_block_size(size: int, want: int) -> None:
    assert blocks.block_size(size) == want
