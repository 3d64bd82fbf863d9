"""Windows: how much of a large file is in hand at a time, and what is read ahead."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
from edits import BLOCK, MIB
from way import Way

from i2node.fs.past import PastCache, Rooms
from i2node.mover import blocks
from i2node.repl.windows import HELD, WINDOW, Window, ahead, windows


def test_no_step_is_larger_than_a_window_however_large_the_file(way: Way) -> None:
    path, size = way.source / "f", 3 << 40
    block = blocks.block_size(size)
    assert block > WINDOW
    tail = bytearray(os.urandom(2 * block + 5000))
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), size)
        for change in (tail, os.urandom(2 * block - 1)):
            tail[len(tail) - len(change) :] = change
            os.pwrite(file.fileno(), tail, size - len(tail))
            sizes = []
            for steps in way.steps(b"f"):
                assert way.apply(steps) == []
                sizes.append(len(steps))
            way.note()
            assert MIB < max(sizes) < MIB + 4096
            with (way.target / "f").open("rb") as made:
                made.seek(size - len(tail))
                assert made.read() == tail


def test_windows_that_are_read_ahead_are_the_same_and_end_with_their_reader() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(9 * MIB + 77))
        fd, size = file.fileno(), 9 * MIB + 77
        plain = list(windows(fd, 0, size, BLOCK))
        before = threading.active_count()
        assert list(ahead(windows(fd, 0, size, BLOCK))) == plain
        some = ahead(windows(fd, 0, size, BLOCK))
        assert next(some) == plain[0]
        some.close()
        assert threading.active_count() == before

    def slowly() -> Iterator[Window]:
        with (
            tempfile.TemporaryFile() as file,
            PastCache(file.fileno(), size, Rooms(HELD)) as past,
        ):
            file.write(content)
            file.flush()
            for window in ahead(windows(file.fileno(), 0, size, BLOCK, past.read)):
                # All that can be read ahead is read.
                time.sleep(0.02)
                yield window

    content = b"".join(window.data or b"" for window in plain)
    for window, same in zip(slowly(), plain, strict=True):
        assert window == same

    def broken() -> Iterator[Window]:
        yield plain[0]
        raise OSError(errno.EIO, "broken")

    read = ahead(broken())
    assert next(read) == plain[0]
    with pytest.raises(OSError, match="broken"):
        next(read)
