"""A file of which only some parts can have changed: its signature, brought up to date by reading
those alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from i2node.mover import blocks
from i2node.repl.signatures import BLOCK_RECORD, Signature
from i2node.repl.windows import Window


class Patch:
    """The version of `size` bytes that follows the one whose signature is `old`, in blocks of the
    same size. What is not given to `add` is as it was."""

    def __init__(self, old: Signature, size: int) -> None:
        self._old = old
        self._size = size
        self._block = old.block
        self._read: list[tuple[int, bytes]] = []

    def ranges(self, changed: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """What is to be read, in whole blocks, in order and without overlap, where the bytes in
        `changed`, in order, and those behind the end may differ."""
        block, at = self._block, 0
        old, size = self._old.size, self._size
        edges: list[tuple[int, int]] = []
        if size > old:
            edges.append((old, size))
        elif size < old and size % block:
            edges.append((size - 1, size))  # the last block is another one
        run: tuple[int, int] | None = None
        within = ((start, min(end, old)) for start, end in changed if start < old)
        for start, end in (*within, *edges):
            start = max(at, start // block * block)
            end = min(-(-end // block) * block, size)
            if start >= end:
                continue
            at = end
            if run is not None and run[1] == start:
                run = (run[0], end)
                continue
            if run is not None:
                yield run
            run = (start, end)
        if run is not None:
            yield run

    def add(self, window: Window) -> Iterator[tuple[int, int]]:
        """Signs a window that was read; gives what of it differs, as (from, to) in the file."""
        block, old = self._block, self._old
        n = -(-(window.end - window.at) // block)
        new = bytes(n * BLOCK_RECORD)
        if window.data is not None:
            new = blocks.signature(window.data, block)
        first = window.at // block
        # A last block that is not whole has a like only in a file of the same size.
        last = min(old.size, self._size) // block
        if old.size == self._size:
            last = -(-old.size // block)
        there = max(0, min(first + n, last) - first)
        before = old.blocks[first * BLOCK_RECORD : (first + there) * BLOCK_RECORD]
        self._read.append((first * BLOCK_RECORD, new))
        for i, j in blocks.differing(new[: len(before)], before):
            yield window.at + i * block, min(window.at + j * block, window.end)
        if there < n:
            at = window.at + there * block
            yield self._old.size if self._begins(window, at) else at, window.end

    def _begins(self, window: Window, at: int) -> bool:
        """Whether the block at `at`, which was the last and not whole, begins as it was."""
        size = self._old.size
        if window.data is None or not at < size < min(at + self._block, window.end):
            return False
        data = memoryview(window.data)[at - window.at : size - window.at]
        return blocks.signature(data, self._block) == self._old.blocks[-BLOCK_RECORD:]

    def signature(self) -> bytes:
        """The records of all, once all ranges were added."""
        old, at = memoryview(self._old.blocks), 0
        parts: list[bytes | memoryview] = []
        for start, records in self._read:
            parts += (old[at:start], records)
            at = start + len(records)
        parts.append(old[at : -(-self._size // self._block) * BLOCK_RECORD])
        return b"".join(parts)
