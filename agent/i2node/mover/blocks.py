"""Hashes, block signatures and deltas of bytes in memory; the kernels are in native/src.

Data may be any contiguous buffer; it is not copied, and the GIL is released while C works on it.
A signature is `struct i2_block` records (native/include/mover.h), 20 bytes for each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from i2node.mover._mover import ffi, lib

Data = bytes | bytearray | memoryview

RECORD: Final = 20
HASH_MAX: Final = 32

# Where an op's bytes are when they are not in the old file.
LITERAL: Final = (1 << 64) - 1
ZERO: Final = (1 << 64) - 2

_OPS = 4096
_RUNS = 256

_room = ffi.new_allocator(should_clear_after_alloc=False)


def hash(data: Data, n: int = HASH_MAX) -> bytes:
    """The first `n` (0..32) bytes of the BLAKE3 hash of `data`."""
    if not 0 <= n <= HASH_MAX:
        raise ValueError(f"a hash has 0..{HASH_MAX} bytes, not {n}")
    view = ffi.from_buffer("uint8_t[]", data)
    out = ffi.new("uint8_t[]", HASH_MAX)
    lib.i2_hash(view, len(view), out, n)
    return bytes(ffi.buffer(out, n))


LARGEST = int(lib.I2_SIZE_MAX)
"""Bytes of a file, holes counted; what is larger is EOVERFLOW, and takes nobody's memory."""


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


def differing(a: Data, b: Data) -> list[tuple[int, int]]:
    """The runs of blocks, (first, behind the last), in which two signatures of equal length
    differ."""
    here, there = records(a), records(b)
    if len(here) != len(there):
        raise ValueError(f"signatures of {len(here)} and {len(there)} blocks")
    found: list[tuple[int, int]] = []
    runs = _room("uint64_t[][2]", _RUNS)
    looked, at = ffi.new("uint64_t *"), 0
    while at < len(here):
        n = lib.i2_differ(here + at, there + at, len(here) - at, runs, _RUNS, looked)
        found += ((at + first, at + last) for first, last in runs[0:n])
        at += looked[0]
    return found


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


@dataclass(frozen=True, slots=True)
class Op:
    """`span` bytes at `at` of the new file: LITERAL, ZERO, or those at `source` of the old one."""

    at: int
    source: int
    span: int


class Matcher:
    """Finds what of a new file stands in an old one, given only the old one's signature.

    One object serves one pass over the new file, window by window from its start; it remembers the
    displacement that the window before ended with. Memory: about 32 bytes for each old block.
    """

    def __init__(self, signature: Data, old_size: int, block: int) -> None:
        """`signature` of an old file of `old_size` bytes in blocks of `block`.

        Raises ValueError when the three do not fit together.
        """
        self._old = records(signature)
        self._block = block
        size = lib.i2_match_size(len(self._old))
        self._table = _room("uint8_t[]", size)
        if lib.i2_match_init(self._table, size, self._old, len(self._old), old_size, block) < 0:
            raise ValueError(f"no signature of {old_size} bytes in blocks of {block}")
        self._shift = ffi.new("int64_t *")
        self._ops = _room("struct i2_op[]", _OPS)

    def match(self, data: Data, at: int, end: bool) -> tuple[list[Op], int]:
        """Covers a window: `data` stands at offset `at` of the new file; `end`: nothing follows it.

        Returns ops in order and without gap, and how many bytes of `data` they cover. With `end`
        that is all; without, less than one block is left, to be given again with what follows.
        """
        view = ffi.from_buffer("uint8_t[]", data)
        size, done = len(view), 0
        ops: list[Op] = []
        used = ffi.new("uint64_t *")
        n = _OPS
        while n == _OPS:
            n = lib.i2_match(
                self._table,
                self._old,
                len(self._old),
                self._block,
                view + done,
                size - done,
                at + done,
                end,
                self._shift,
                self._ops,
                _OPS,
                used,
            )
            if n < 0:
                raise ValueError(f"no window of {size} bytes at {at}")
            ops += (Op(op.at, getattr(op, "from"), op.span) for op in self._ops[0:n])
            done += used[0]
        return ops, done


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
