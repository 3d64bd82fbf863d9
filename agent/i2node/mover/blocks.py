"""Hashes and block signatures of bytes in memory; the kernels are native/src/blake3.c, blocks.c.

Data may be any contiguous buffer; it is not copied, and the GIL is released while C works on it.
A signature is `struct i2_block` records (native/include/mover.h), 20 bytes for each block.
"""

from __future__ import annotations

from typing import Any, Final

from i2node.mover._mover import ffi, lib

Data = bytes | bytearray | memoryview

RECORD: Final = 20
HASH_MAX: Final = 32


def hash(data: Data, n: int = HASH_MAX) -> bytes:
    """The first `n` (0..32) bytes of the BLAKE3 hash of `data`."""
    if not 0 <= n <= HASH_MAX:
        raise ValueError(f"a hash has 0..{HASH_MAX} bytes, not {n}")
    view = ffi.from_buffer("uint8_t[]", data)
    out = ffi.new("uint8_t[]", HASH_MAX)
    lib.i2_hash(view, len(view), out, n)
    return bytes(ffi.buffer(out, n))


def block_size(size: int) -> int:
    """The block size, in bytes, for a file of `size` bytes; every node computes the same."""
    return int(lib.i2_block_size(size))


def signature(data: Data, block: int) -> bytes:
    """The records of `data` in blocks of `block` (1..2^32-1) bytes; the last may be short."""
    if not 0 < block < 1 << 32:
        raise ValueError(f"block size out of range: {block}")
    view = ffi.from_buffer("uint8_t[]", data)
    n = -(-len(view) // block)
    out = ffi.new("struct i2_block[]", n)
    lib.i2_blocks(view, len(view), block, out, n)
    return bytes(ffi.buffer(out))


def digest(signature: Data) -> bytes:
    """The 16-byte digest of the content that has this signature."""
    old = records(signature)
    out = ffi.new("uint8_t[16]")
    lib.i2_digest(old, len(old), out)
    return bytes(ffi.buffer(out))


def is_zero(data: Data) -> bool:
    """Whether every byte is zero; true of no bytes."""
    view = ffi.from_buffer("uint8_t[]", data)
    return bool(lib.i2_is_zero(view, len(view)))


def records(signature: Data) -> Any:
    """The signature as `struct i2_block[]`, copied only when it is not aligned.

    Raises ValueError when it is not whole records.
    """
    size = len(memoryview(signature).cast("B"))
    if size % RECORD:
        raise ValueError(f"a signature of {size} bytes is not whole records")
    if int(ffi.cast("uintptr_t", ffi.from_buffer(signature))) % 4:
        signature = bytes(signature)
    return ffi.from_buffer("struct i2_block[]", signature)
