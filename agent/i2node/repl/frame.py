"""The frame that is being filled: steps as they are read, until there are enough of them.

The journal is written before a frame goes to the line, and says by the frame's number what the
target may hold another version of until that frame is durable there.
"""

from __future__ import annotations

from collections.abc import Iterable

from i2node.fs.sweep import Name
from i2node.net.wire import FRAME_MAX
from i2node.repl.journal import Journal
from i2node.repl.line import Line
from i2node.repl.remote import FLUSH, STEPS


class Frame:
    """Filled by one thread, one frame after the other, of about `size` bytes each."""

    def __init__(self, journal: Journal, line: Line, size: int) -> None:
        self.since = 0.0
        """Clock reading of the earliest change in it, or of what is read for it; 0: there is none.
        Read by any thread."""
        self._journal = journal
        self._line = line
        self._full = size
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._files = 0
        self._content = 0
        self._unflushed = False
        self._reading_since = 0.0
        self._renamed: Iterable[Name] = ()
        self._overwritten: Name | None = None

    @property
    def number(self) -> int:
        """Under which it will be sent."""
        return self._line.last + 1

    @property
    def reached(self) -> int:
        """The number of the one that has what was appended last: the one at hand, or it was full
        with that."""
        return self._line.last + bool(self._parts)

    def begin(self, since: float, renamed: Iterable[Name]) -> None:
        """A batch is read from here on, about changes since a clock reading; what is `renamed` with
        it is in doubt until the last of it has arrived."""
        self.since = min(self.since or since, since)
        self._reading_since = since
        self._renamed = renamed
        self._suspect()

    def end(self) -> None:
        """The batch is read."""
        self._journal.sent(self.reached)
        self._renamed = ()
        self._reading_since = 0.0

    def overwrite(self, name: Name | None) -> None:
        """The file that is sent from here on, in however many frames, is in doubt until the last of
        them has arrived; None: it was sent, or there was none."""
        self._overwritten = name
        if name is not None:
            self._suspect()

    def count(self, files: int, content: int) -> None:
        """What is appended next stands for so many files and bytes of content."""
        self._files += files
        self._content += content

    def make_room(self, size: int) -> None:
        """So many bytes are to go into one frame with what is noted before they are appended."""
        if self._size + size > FRAME_MAX:
            self.emit()

    def append(self, steps: bytes | memoryview) -> None:
        if not steps:
            return
        self.make_room(len(steps))
        self._parts.append(steps)
        self._size += len(steps)
        if self._size >= self._full:
            self.emit()

    def emit(self, last: bool = False) -> None:
        """Hands it to the line, the journal being written first. last: nothing comes behind it for
        now."""
        if not self._parts and not (last and self._unflushed):
            if self._line.durable >= self._line.last:
                self._journal.settle(self._line.last)
            self._journal.commit()
            self.since = 0.0
            return
        self._journal.commit()
        self._line.put(
            FLUSH if last else STEPS,
            b"".join(self._parts),
            self._files,
            self._content,
            self.since,
        )
        self._unflushed = not last
        self._parts, self._size, self._files, self._content = [], 0, 0, 0
        self.since = self._reading_since
        self._suspect()

    def _suspect(self) -> None:
        for parent, name in self._renamed:
            self._journal.suspect(parent, [name], self.number)
        if self._overwritten is not None:
            parent, name = self._overwritten
            self._journal.suspect(parent, [name], self.number)
