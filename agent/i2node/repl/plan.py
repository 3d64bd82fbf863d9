"""What is to be done, as plain data, and the small pure decisions about it.

The planner fills a Batch; the sender reads what it names, turns it into steps in the order below
and writes down, in the same order, what the target is then expected to hold:

    before   directories made, names moved or removed
    files    small files, symlinks, nodes: read many at a time, among each other in no order
    large    files that go block by block, in order
    linked   files with several names, each with what makes its other names
    metas    directories whose content is complete: owner, mode, attributes, times
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from i2node.errors import SHORT, I2Error, SafetyStop, SessionError
from i2node.fs.touch import Touch
from i2node.model import ASSUMED, MOUNT, PROBED, RACY, Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.repl.journal import Journal


@dataclass(frozen=True, slots=True)
class Put:
    """The directory's listing with `change` laid over it. agreed: both sides turned out to be so,
    and no step goes with it."""

    dir: int
    change: bytes
    agreed: bool = False

    def note(self, journal: Journal) -> None:
        journal.put(self.dir, self.change)


@dataclass(frozen=True, slots=True)
class Replace:
    """The directory's listing is this, whatever it was."""

    dir: int
    listing: bytes

    def note(self, journal: Journal) -> None:
        journal.replace(self.dir, self.listing)


@dataclass(frozen=True, slots=True)
class Forget:
    """The directory that stood under this name is gone, with all below it. Its inode number may
    be that of another one by now, which stands elsewhere and stays."""

    ino: int
    dir: int
    name: bytes

    def note(self, journal: Journal) -> None:
        journal.unplace(self.ino, self.dir, self.name)
        if not journal.places(self.ino):
            journal.forget(self.ino)


@dataclass(frozen=True, slots=True)
class Place:
    """The target holds this inode of the source under this name; `sole`: under no other."""

    ino: int
    dir: int
    name: bytes
    sole: bool = False

    def note(self, journal: Journal) -> None:
        journal.place(self.ino, self.dir, self.name, self.sole)


@dataclass(frozen=True, slots=True)
class Unplace:
    """It no longer does."""

    ino: int
    dir: int
    name: bytes

    def note(self, journal: Journal) -> None:
        journal.unplace(self.ino, self.dir, self.name)


@dataclass(frozen=True, slots=True)
class Rekey:
    """A directory was replaced at the source by another one of the same name."""

    old: int
    new: int

    def note(self, journal: Journal) -> None:
        journal.rekey(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Settled:
    """What the target told of this directory was compared; this edit is behind all others that
    follow from it, so that a crash in between costs the question once more and no answer."""

    dir: int

    def note(self, journal: Journal) -> None:
        journal.compared(self.dir)


Edit = Put | Replace | Forget | Place | Unplace | Rekey | Settled
# What an edit takes out of the journal is known of nowhere else: its frame must not be lost unseen.
# The directory whose names it changes is among its batch's dirs, so that it is in doubt from before
# the edit is noted until the frame is durable, and else is asked for what it holds:
#   Put of a tombstone, Unplace: the directory itself; for a rename both, with their new names.
#   Forget takes the doubts of all below along: that is gone with its name, or the one above is told
#     of the name, and what is below is asked for anew.
#   Replace by nothing: a directory just made is in doubt itself, and so is the one above.
#   Rekey: the doubts go to the new number; those it had stay.
# Numbers, not paths, say who is in doubt: what was renamed is asked for under its new path. And
# nothing is compared with a listing from before an edit of the same round: what seems new in it
# would be made over what is there, and the content of that taken out with no step that removes it.


def together(edits: Iterable[Edit]) -> Iterator[Edit]:
    """The same edits, where names put into one directory one by one are put there at once: each
    Put rewrites a page of it. No other edit of that listing is passed by."""
    waiting: dict[int, dict[bytes, bytes]] = {}
    for edit in edits:
        single = listing.sole(edit.change) if isinstance(edit, Put) and not edit.agreed else None
        if isinstance(edit, Put) and (name := single) is not None:
            waiting.setdefault(edit.dir, {})[name] = edit.change
            continue
        made = isinstance(edit, Replace) and edit.dir not in waiting
        passes = made or isinstance(edit, Place | Unplace)
        if not passes:
            yield from _gathered(waiting)
            waiting.clear()
        yield edit
    yield from _gathered(waiting)


def _gathered(puts: dict[int, dict[bytes, bytes]]) -> Iterator[Put]:
    for ino, records in puts.items():
        yield Put(ino, b"".join(records[name] for name in sorted(records)))


@dataclass(frozen=True, slots=True)
class Large:
    """One file to go block by block. `trusted`: the watch saw no write, so equal size and mtime
    mean equal content. `live`: the watch told of it, and can be asked to look again."""

    dir: int
    path: bytes
    entry: Entry
    trusted: bool = False
    live: bool = False


@dataclass(frozen=True, slots=True)
class Linked:
    """A file with several names: its content goes under one of them, the others (directory, name,
    path) then become links to that, if it could be read."""

    first: Large
    others: tuple[tuple[int, bytes, bytes], ...]


@dataclass(slots=True)
class Batch:
    """What goes to the sender at a time. `dirs` are the directories it changes: inode → path."""

    before: list[bytes] = field(default_factory=list)
    before_edits: list[Edit] = field(default_factory=list)
    files: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)
    linked: list[Linked] = field(default_factory=list)
    metas: dict[int, tuple[bytes, dict[bytes, bytes]]] = field(default_factory=dict)
    """By the directory above: its path, and name → record, so that they are read together."""
    root: bytes = b""
    """The root's own record."""
    dirs: dict[int, bytes] = field(default_factory=dict)
    suspects: list[tuple[int, bytes]] = field(default_factory=list)
    """Names that get another file or directory by a rename or a link: what was there may look the
    same."""
    entries: int = 0
    bytes: int = 0
    since: float = 0.0
    last: bool = False
    """Nothing comes behind for now: the target is to make durable what it has."""

    def __bool__(self) -> bool:
        return bool(
            self.before
            or self.before_edits
            or self.files
            or self.large
            or self.linked
            or self.metas
            or self.root
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """A directory to be listed. `touched`: its own entry differs; `deep`: visit those below it
    too."""

    path: bytes
    ino: int
    parent: int
    name: bytes
    deep: bool
    touched: bool
    unsure: bool = False
    """Which directory the target holds there is not known, nor are those below it."""
    assumed: bool = False
    """It was there before the rule began, which is to be written down instead of mirrored."""

    @property
    def above(self) -> bytes:
        """The path of the directory that this one is in."""
        return self.path.rpartition(b"/")[0]


@dataclass(slots=True)
class Compared:
    """A directory, or some names of it, beside what the target is expected to hold."""

    ino: int
    path: bytes
    now: bytes
    changes: listing.Changes
    touches: dict[bytes, Touch] | None
    asof: int = 0


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory, both relative to the root."""
    return directory + b"/" + name if directory and name else directory or name


def make_dir(path: bytes, entry: Entry) -> bytes:
    return batch.step(
        Op.MAKE_DIR, path, kind=Kind.DIR, mode=entry.mode, uid=entry.uid, gid=entry.gid
    )


def tombstone(name: bytes) -> bytes:
    """A change that takes a name out of a listing."""
    return listing.encode(_NOTHING._replace(name=name))


def without(entries: bytes, names: Iterable[bytes]) -> bytes:
    """A listing but for these names."""
    return listing.merge(entries, b"".join(map(tombstone, sorted(names))))


ROOT = b"..."
"""The name under which the journal keeps the root's own record."""

_NOTHING = Entry(
    name=b"",
    kind=Kind.FILE,
    verdict=Verdict.GONE,
    mode=0,
    uid=0,
    gid=0,
    nlink=0,
    ino=0,
    size=0,
    rdev=0,
    mtime_s=0,
    mtime_ns=0,
    flags=0,
    status=0,
    ctime=0,
    birth=0,
    blocks=0,
    attrs=0,
    content=bytes(16),
)


def known(entry: Entry) -> bytes:
    """The record as the index keeps it. The number of a mount point is that of what is mounted: in
    the tree it may belong to another directory, even to the root."""
    if entry.flags & MOUNT:
        entry = entry._replace(ino=0, birth=0)
    return listing.encode(entry._replace(verdict=Verdict.SAME, status=0))


def is_assumed(entry: Entry | None) -> bool:
    """Whether it was seen at the source before the rule began, and nobody knows whether the target
    holds it (assumed.py); a target's word for that does not count."""
    return entry is not None and entry.flags & (ASSUMED | PROBED) == ASSUMED


def same_file(a: Entry, b: Entry) -> bool:
    """Whether two entries speak of one inode, as far as inode numbers can be trusted."""
    return (
        a.ino == b.ino
        and a.kind == b.kind
        and a.birth == b.birth
        and not (a.flags | b.flags) & (PROBED | MOUNT | ASSUMED)
    )


def same_content(a: Entry, b: Entry) -> bool:
    """Whether size and mtime say that a regular file was not written between the two."""
    return (a.size, a.mtime_s, a.mtime_ns) == (b.size, b.mtime_s, b.mtime_ns)


def believe(
    told: bytes,
    remembered: bytes,
    suspects: Iterable[bytes] = (),
    one: Callable[[Entry, Entry], bool] = lambda told, before: True,
) -> bytes:
    """The listing to go by when a target in doubt has told what it holds.

    What it told and what was last written down agree on most names; those keep the remembered
    record, which knows the source's inode and times. The others are as told, and so are suspects,
    of which the target may hold another one than was written down. Of files among them neither
    size nor time proves the content: it counts as unknown. Whose number of names is another one,
    is linked otherwise than was written down, and is as told in the same way; so it is where
    one(told, remembered) says that the two have other names too, which are not of one file on both
    sides.
    """
    correction: dict[bytes, bytes] = {}
    heard = listing.entries(remembered) if listing.probed(remembered) else ()
    unproven = [e.name for e in heard if _unproven(e)]
    for name in (*suspects, *unproven):
        found = listing.find(told, name)
        if found is None:
            continue
        correction[name] = _unknown(found)
    changes = listing.diff(told, remembered, 1 << 62)
    if changes is None and not correction:
        return _relinked(told, remembered, correction, one)
    sections = (
        (changes.gone, changes.dirs, changes.bulk, changes.large, changes.linked) if changes else ()
    )
    for section in sections:
        for entry in listing.entries(section):
            if entry.name in correction:
                continue
            as_told = listing.find(told, entry.name)
            correction[entry.name] = known(as_told) if as_told else tombstone(entry.name)
    return _relinked(told, remembered, correction, one)


def _unknown(told: Entry) -> bytes:
    """What the target told, of a file without what would speak for its content."""
    if told.kind == Kind.FILE:
        told = told._replace(mtime_s=0, mtime_ns=0, content=bytes(16))
    return known(told)


def _unproven(entry: Entry) -> bool:
    """Whether this is what `_unknown` made of a file, and nobody has compared it since."""
    return (
        entry.flags & PROBED != 0
        and entry.kind == Kind.FILE
        and not (entry.mtime_s or entry.mtime_ns or any(entry.content))
    )


def _relinked(
    told: bytes,
    remembered: bytes,
    correction: dict[bytes, bytes],
    one: Callable[[Entry, Entry], bool],
) -> bytes:
    """What was remembered with the corrections, and those that the numbers of names ask for."""
    for entry in listing.entries(told):
        if entry.kind == Kind.DIR or entry.name in correction:
            continue
        before = listing.find(remembered, entry.name)
        if before is None:
            continue
        sole = entry.nlink < 2 or before.flags & PROBED
        if before.nlink != entry.nlink or not (sole or one(entry, before)):
            # What is forgotten with the record is when the source's file changed last: a write that
            # put the times back would not be seen.
            correction[entry.name] = _unknown(entry)
    return listing.merge(remembered, b"".join(correction[name] for name in sorted(correction)))


def settled(now: bytes, sections: Iterable[bytes]) -> bytes:
    """`now` without the names in sections: what both sides already agree on."""
    names = sorted({e.name for section in sections for e in listing.entries(section)})
    return listing.merge(now, b"".join(tombstone(name) for name in names))


def unsettled(entry: Entry) -> bytes:
    """The record of a file that changed while it was read: there, but to be looked at again."""
    return listing.encode(entry._replace(verdict=Verdict.SAME, status=0, flags=entry.flags | RACY))


def racy(entries: Iterable[Entry]) -> bytes:
    """The records of these entries, each file to be looked at again whatever stat says of it."""
    return b"".join(
        listing.encode(e._replace(flags=e.flags | (RACY if e.kind == Kind.FILE else 0)))
        for e in entries
    )


def named_root(own: Entry) -> bytes:
    """The root's own record as the journal keeps it: a listing of one name."""
    return known(own._replace(name=ROOT))


def unlisted(status: int) -> I2Error:
    """The root of the source could not be listed. Where its host is short of something, and nothing
    is wrong with the root, that passes by itself."""
    cause = f"cannot list the root of the source: {os.strerror(status)}"
    if status in SHORT:
        return SessionError(cause, "raise the limit of the source's agent, or free memory there")
    return SafetyStop(cause, "mount it or make it readable; nothing was deleted for that")
