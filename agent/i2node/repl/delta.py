"""What of a file the target already holds, found while the file is read once.

Blocks that stand where they stood are known by the signature that is made of the file anyhow; only
what differs is searched for elsewhere in the old file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from i2node.mover import blocks
from i2node.mover.blocks import LITERAL, ZERO, Op
from i2node.repl.signatures import BLOCK_RECORD
from i2node.repl.windows import WINDOW, Signing, Window

HOLE = -1
"""As the source of an op: a hole here."""
SEARCHED = 8
"""Changed blocks side by side from which on it pays to search: in fewer, hardly anything stands
that only moved."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What the target holds under the file's name: its size, its mtime (nanoseconds since 1970),
    and signatures in blocks of `block` bytes."""

    signature: bytes
    size: int
    block: int
    mtime: int

    def zero(self, op: Op) -> bool:
        """Whether the old file is zero where op is."""
        first = op.at // self.block * BLOCK_RECORD
        last = -(-(op.at + op.span) // self.block) * BLOCK_RECORD
        return op.at + op.span <= self.size and not any(self.signature[first:last])

    def unchanged(self, ops: Iterable[Op], size: int) -> bool:
        """Whether a new file of that size, which ops cover, has the old one's content."""
        return self.size == size and all(
            self.zero(op) if op.source in (ZERO, HOLE) else op.source == op.at for op in ops
        )


def moved(op: Op) -> bool:
    """Whether this stood elsewhere in the old file."""
    return op.source not in (LITERAL, ZERO, HOLE, op.at)


class Differ:
    """One pass over a new file of `size` bytes; `signing`, of the basis' block, signs it on the
    way."""

    def __init__(self, basis: Basis, size: int, signing: Signing) -> None:
        self._basis = basis
        self._size = size
        self._signing = signing
        self._matcher: blocks.Matcher | None = None
        self._changed = b""
        self._changed_at = 0
        self._holed = False

    def ops(self, windows: Iterable[Window]) -> Iterator[Op]:
        """How the file is had from the old one: in order and without gap, each op once what it
        covers has been read."""
        for window in windows:
            first = len(self._signing.records)
            self._signing.add(window)
            if window.data is None:
                yield from self._search()
                yield Op(window.at, HOLE, window.end - window.at)
                continue
            at = window.at
            for start, stop in self._differing(window, first):
                yield from self._still(at, start)
                yield from self._differs(window, start, stop)
                at = stop
            yield from self._still(at, window.end)
        yield from self._search()

    def content(self, op: Op) -> bytes | None:
        """The bytes of a literal, the op that was given last; None where some of it may be hole."""
        if op.source != LITERAL or self._holed:
            return None
        at = op.at - self._changed_at
        return self._changed[at : at + op.span]

    def _differing(self, window: Window, first: int) -> Iterator[tuple[int, int]]:
        """Where a window, whose records begin at `first`, is not as the old file at this place."""
        basis, block = self._basis, self._basis.block
        # Files of two sizes have no short block in common: only whole ones are compared.
        end = window.end if self._size == basis.size else window.end // block * block
        there = max(0, min(end, basis.size) - window.at)
        whole = there // block
        # Files of one size have the last: it is compared though it is short.
        if there % block and window.at + there == basis.size == self._size:
            whole += 1
        new = self._signing.records[first : first + whole * BLOCK_RECORD]
        runs = blocks.differing(new, basis.signature[first : first + len(new)])
        # All behind what is compared differs.
        beyond = min(window.at + whole * block, window.end)
        for i, j in runs:
            start, stop = window.at + i * block, min(window.at + j * block, window.end)
            # A change that reaches up to there is one with it.
            if stop == beyond:
                beyond = start
            else:
                yield start, stop
        if beyond < window.end:
            yield beyond, window.end

    def _still(self, at: int, end: int) -> Iterator[Op]:
        if at < end:
            yield from self._search()
            yield Op(at, at, end - at)

    def _differs(self, window: Window, at: int, end: int) -> Iterator[Op]:
        """Keeps what is to be searched until as much is there as is searched at a time."""
        assert window.data is not None
        if not self._changed:
            self._changed_at, self._holed = at, False
        self._changed += memoryview(window.data)[at - window.at : end - window.at]
        self._holed |= len(window.extents) > 1
        if len(self._changed) >= WINDOW:
            found, used = self._match(end == self._size)
            yield from found
            self._changed = self._changed[used:]
            self._changed_at += used

    def _search(self) -> Iterator[Op]:
        """All that is left of what differs: something known comes behind it, or nothing."""
        if not self._changed:
            return
        if len(self._changed) < SEARCHED * self._basis.block and self._matcher is None:
            yield Op(self._changed_at, LITERAL, len(self._changed))
        else:
            yield from self._match(True)[0]
        self._changed = b""

    def _match(self, end: bool) -> tuple[list[Op], int]:
        basis = self._basis
        if self._matcher is None:
            self._matcher = blocks.Matcher(basis.signature, basis.size, basis.block)
        return self._matcher.match(self._changed, self._changed_at, end)
