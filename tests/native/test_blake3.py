"""BLAKE3 against the reference package, at every place where the tree changes shape."""

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.mover import blocks
from i2node.mover._mover import ffi, lib

CHUNK = 1024


def pattern(n: int, seed: int = 0) -> bytes:
    return (bytes((i + seed) % 251 for i in range(251)) * (n // 251 + 1))[:n]


def edges() -> list[int]:
    """Lengths around blocks, chunks, lane widths, the fold of 256 chunks, and one tree above it."""
    around = [0, 64, 128, 960]
    around += [CHUNK * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 255, 256, 257)]
    around += [CHUNK * n for n in (511, 512, 513, 700)]
    return sorted({n + d for n in around for d in (-1, 0, 1) if n + d >= 0})


def scalar(data: bytes, n: int = 32) -> bytes:
    out = ffi.new("uint8_t[32]")
    lib.i2_hash_scalar(data, len(data), out, n)
    return bytes(ffi.buffer(out, n))


@pytest.mark.parametrize("n", edges())
def test_agrees_with_the_reference_at_edges(n: int) -> None:
    data = pattern(n)
    want = blake3.blake3(data).digest()
    assert blocks.hash(data) == want
    assert scalar(data) == want


def test_every_short_length() -> None:
    data = pattern(5 * CHUNK, 3)
    for n in range(0, 5 * CHUNK, 7):
        assert blocks.hash(data[:n]) == blake3.blake3(data[:n]).digest()


@given(st.binary(max_size=9 * CHUNK), st.integers(1, 40))
def test_random_content(data: bytes, times: int) -> None:
    data *= times
    assert blocks.hash(data) == blake3.blake3(data).digest() == scalar(data)


@given(st.integers(0, 32), st.integers(0, 63))
def test_short_output_and_unaligned_input(n: int, offset: int) -> None:
    data = pattern(20 * CHUNK)
    view = memoryview(data)[offset:]
    assert blocks.hash(view, n) == blake3.blake3(data[offset:]).digest()[:n]


def test_output_is_at_most_32_bytes() -> None:
    with pytest.raises(ValueError, match="33"):
        blocks.hash(b"", 33)
