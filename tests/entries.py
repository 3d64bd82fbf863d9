"""The entry of a plain file, of which a test says what matters to it."""

from __future__ import annotations

from i2node.model import Entry, Kind, Verdict

PLAIN = Entry(
    name=b"f",
    kind=Kind.FILE,
    verdict=Verdict.SAME,
    mode=0o644,
    uid=0,
    gid=0,
    nlink=1,
    ino=7,
    size=5,
    rdev=0,
    mtime_s=1000,
    mtime_ns=0,
    flags=0,
    status=0,
    ctime=1,
    birth=1,
    blocks=8,
    attrs=0,
    content=bytes(16),
)
