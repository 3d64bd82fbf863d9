"""A tree as the agent tells of it to its peer: what the file system has, and what is kept aside of
it laid over."""

from __future__ import annotations

import os
from pathlib import Path

from i2node.fs.root import Root
from i2node.model import Entry, Kind
from i2node.mover import batch, listing

Entries = dict[bytes, Entry]

HOLDS = {
    "kind": ("kind",),
    "device": ("rdev",),
    "mode": ("mode",),
    "owner": ("uid", "gid"),
    "mtime": ("mtime_s", "mtime_ns"),
    "attributes": ("attrs",),
    "flags": ("attrs",),
    "project": ("attrs",),
}
"""The fields of an entry that hold a fact of the table; of others nothing can be aside. attrs is a
hash of attributes, flags and project."""


def told(root: Path, top: bytes, shelf: Path | None = None) -> Entries:
    """The entries of a name in a root, and of all that is below it, by path. shelf: the directory
    of what is kept aside."""
    held = Root(os.fsencode(root))
    aside = -1 if shelf is None else os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found, left = {b"": _listed(held, b"", aside)[top]}, [b""]
        while left:
            path = left.pop()
            below = _listed(held, top + path, aside)
            found |= {path + b"/" + name: entry for name, entry in below.items()}
            left += [path + b"/" + n for n, entry in below.items() if entry.kind == Kind.DIR]
        return found
    finally:
        held.close()
        if aside >= 0:
            os.close(aside)


def _listed(root: Root, path: bytes, shelf: int) -> Entries:
    (answer,) = batch.list_dirs(root.fd, root.dev, [(path, ())])
    assert not answer.status, (path, os.strerror(answer.status))
    group = bytearray(batch.group(path, answer.entries))
    batch.digest_files(root.fd, root.dev, group, content=False, shelf=shelf)
    found = {e.name: e for _, packed in batch.groups(group) for e in listing.entries(packed)}
    assert all(e.attrs and not e.status for e in found.values()), "not all of it can be read"
    return found


def agree(one: Entry, other: Entry, fact: str) -> bool:
    """Whether two entries have a fact in common."""
    fields = HOLDS.get(fact, ())
    return bool(fields) and all(getattr(one, f) == getattr(other, f) for f in fields)
