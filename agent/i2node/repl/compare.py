"""Compares the two trees of a rule, name by name: both sides list, the source judges.

Without `strict`: kind, size, mtime, mode, owner, symlink target, extended attributes and hard-link
groups; owners as far as the rule carries them. With it the content of every regular file too, read
in full on both sides. Nothing is changed on either. A tree that changes meanwhile differs where it
changes.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from i2node.config import Config
from i2node.errors import SessionError, UsageError
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.model import MOUNT, Entry, Kind, Target, show
from i2node.mover import batch, listing
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.repl.embedded import EmbeddedAgent
from i2node.repl.plan import join
from i2node.repl.remote import Remote
from i2node.repl.rules import excludes_of, owners_of, rule_home, rule_id

DIRS_AT_A_TIME = 64
_GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same on both sides. what: missing, extra, kind, size, content, mode,
    owner, mtime, device, attributes, links."""

    path: bytes
    what: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Names that were compared. equal, different: of those that are on both sides; missing, extra:
    of those that are on one alone, a directory with all that is in it as one. files: all but
    directories; bytes: of regular files; both as the source has them, with its root."""

    directories: int = 1
    files: int = 0
    bytes: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def apart(self) -> int:
        """How many are not the same on both sides."""
        return self.different + self.missing + self.extra

    def judged(self, found: list[Difference]) -> None:
        """Counts one name, by what is not the same of it."""
        whats = {one.what for one in found}
        if not whats:
            self.equal += 1
        elif "missing" in whats:
            self.missing += 1
        elif "extra" in whats:
            self.extra += 1
        else:
            self.different += 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """differences: all, or the first of them, as it was asked for."""

    tally: Tally
    differences: list[Difference]

    @property
    def equal(self) -> bool:
        return not self.tally.apart


def compare(
    config: Config, source: Path, target: Target, strict: bool, identity: Identity
) -> Comparison:
    """Compares source with target. Raises UsageError, Refused, SessionError when it cannot."""
    real = os.path.realpath(os.fsencode(source))
    if not os.path.isdir(real):
        raise UsageError(f"{show(real)} is not a directory", "name the directory that is mirrored")
    rule = rule_id(identity.node_id, real, str(target))
    home = rule_home(config.var, rule)
    paths, owners = PathSet(real, excludes_of(home)), owners_of(home)
    with ExitStack() as held:
        host, port, expected = target.host, target.port, None
        if host is None:
            agent = EmbeddedAgent(config.etc.parent, target.path)
            held.callback(agent.close)
            host, port, expected = "127.0.0.1", agent.port, identity.node_id
        channel = connect(host, port, identity, expected, beat=config.heartbeat_s)
        with opened(channel, rule, real, target.path, paths, strict, owners) as comparing:
            comparing.look()
            return comparing.result()


@contextmanager
def opened(
    channel: Channel,
    rule: str,
    source: bytes,
    target: bytes,
    paths: PathSet,
    strict: bool,
    owners: bool,
) -> Iterator[Comparing]:
    """What compares the trees of a rule, over a channel to the target's node that is its own: it
    disturbs no session. source: a real path; paths: what of it is compared; owners: whether the
    rule carries them."""
    with ExitStack() as held:
        remote = Remote(channel)
        held.callback(remote.close)
        root = Root(source, owners)
        held.callback(root.close)
        remote.open(rule, target, [], "", read_only=True, owners=owners)
        yield Comparing(root, paths, remote, strict)
        remote.bye()


class Comparing:
    """`look` once; where the trees live `look_again`, which leaves of the differences what is not
    the same then either. most: how many differences are kept. stopped: whether it is to end early,
    with a SessionError."""

    def __init__(self, root: Root, paths: PathSet, remote: Remote, strict: bool) -> None:
        self.most = sys.maxsize
        self.stopped: Callable[[], bool] = lambda: False
        self._root = root
        self._paths = paths
        self._remote = remote
        self._strict = strict
        self._tally = Tally()
        self._found: list[Difference] = []
        self._here: dict[int, bytes] = {}
        self._there: dict[int, bytes] = {}
        self._unseen: Set[bytes] = frozenset()

    def result(self) -> Comparison:
        """What came of it so far."""
        return Comparison(self._tally, self._found)

    def look(self) -> None:
        """Compares all. Raises SessionError when it cannot."""
        self._walk([b""], None)

    def look_again(self) -> None:
        """Compares once more what differs, where all of that was kept."""
        before, tally = self._found, self._tally
        if not before or tally.apart > len({one.path for one in before}):
            return
        again = {b"" if one.path == b"." else one.path for one in before}
        self._found, self._tally = [], Tally()
        # Of these what is below was not compared yet.
        self._unseen = {one.path for one in before if one.what in ("missing", "extra", "kind")}
        self._walk(sorted({path.rpartition(b"/")[0] for path in again}), again)
        now = self._tally
        equal = tally.equal + tally.apart - now.apart
        counts = (tally.directories, tally.files, tally.bytes, max(0, equal))
        self._tally = Tally(*counts, now.different, now.missing, now.extra)

    def _walk(self, dirs: list[bytes], only: Set[bytes] | None) -> None:
        """only: of the names in these directories, those are compared, with all below them."""
        stack = [(path, only) for path in reversed(dirs)]
        while stack:
            if self.stopped():
                raise SessionError("the comparison was stopped")
            some = [stack.pop() for _ in range(min(DIRS_AT_A_TIME, len(stack)))]
            requests = [(path, self._paths.skip(path)) for path, _ in some]
            root = self._root
            answers = root.list_dirs(requests, threads=4)
            told = self._remote.probe(requests, self._strict)
            for (path, those), answer, theirs in zip(some, answers, told, strict=True):
                if answer.status in _GONE and path:
                    continue  # since the one above was listed
                if answer.status:
                    cause = os.strerror(answer.status)
                    raise SessionError(f"cannot list {show(path) or 'the source'}: {cause}")
                if not path and (those is None or b"" in those):
                    self._note(list(_roots(answer.own, self._remote.root)))
                if theirs is None:
                    self._note([Difference(path, "missing", "no such directory on the target")])
                    continue
                below = self._compare(path, answer.entries, theirs, those)
                stack += [(each, None) for each in below]

    def _compare(
        self, path: bytes, entries: bytes, theirs: bytes, only: Set[bytes] | None
    ) -> Iterator[bytes]:
        """Compares one directory; gives those in it that are on both sides."""
        ours = _digested(self._root, path, entries, self._strict)
        pairs = _pairs(_entries(ours, self._paths, path), _entries(theirs, self._paths, path))
        for name, a, b in pairs:
            full = join(path, name)
            if only is not None and full not in only:
                continue
            if a is not None:
                self._count(a)
            found = list(_judge(full, a, b, self._strict))
            if a is not None and b is not None and a.kind == b.kind:
                if a.kind == Kind.DIR and not a.flags & MOUNT:
                    if only is None or full in self._unseen:
                        yield full
                elif a.kind != Kind.DIR and (a.nlink > 1 or b.nlink > 1):
                    found += _linked(full, a, b, self._here, self._there)
            self._tally.judged(found)
            self._note(found, counted=True)

    def _count(self, entry: Entry) -> None:
        self._tally.directories += entry.kind == Kind.DIR
        self._tally.files += entry.kind != Kind.DIR
        self._tally.bytes += entry.size if entry.kind == Kind.FILE else 0

    def _note(self, found: list[Difference], counted: bool = False) -> None:
        if found and not counted:
            self._tally.judged(found)
        self._found += found[: max(0, self.most - len(self._found))]


def _digested(root: Root, path: bytes, entries: bytes, strict: bool) -> bytes:
    if not entries:
        return entries
    group = bytearray(batch.group(path, entries))
    batch.digest_files(root.fd, root.dev, group, content=strict, threads=4)
    ((_, filled),) = batch.groups(group)
    return filled


def _entries(entries: bytes, paths: PathSet, path: bytes) -> Iterator[Entry]:
    for entry in listing.entries(entries):
        if not (paths.has_globs and paths.matches(path, entry.name)):
            yield entry


def _pairs(
    ours: Iterator[Entry], theirs: Iterator[Entry]
) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    a = {e.name: e for e in ours}
    b = {e.name: e for e in theirs}
    for name in sorted(a.keys() | b.keys()):
        yield name, a.get(name), b.get(name)


def _roots(own: bytes, told: bytes | None) -> Iterator[Difference]:
    """What differs between the two roots themselves; their attributes are not told."""
    theirs = next(listing.entries(told), None) if told else None
    if theirs is not None:
        yield from _judge(b".", listing.decode(own)._replace(attrs=0), theirs._replace(attrs=0))


def _judge(
    path: bytes, a: Entry | None, b: Entry | None, strict: bool = False
) -> Iterator[Difference]:
    """What differs between the two entries of one name."""
    if a is None or b is None:
        side = a or b
        assert side is not None
        yield Difference(path, "missing" if b is None else "extra", side.kind.name.lower())
        return
    if a.kind != b.kind:
        yield Difference(path, "kind", f"{a.kind.name.lower()} / {b.kind.name.lower()}")
        return
    if a.flags & MOUNT:
        return
    if a.kind == Kind.FILE and a.size != b.size:
        yield Difference(path, "size", f"{a.size} / {b.size}")
    elif strict and a.kind == Kind.FILE and not (any(a.content) and any(b.content)):
        where = "there" if any(a.content) else "here"
        yield Difference(path, "content", f"could not be read {where}")
    elif a.content != b.content and any(a.content) and any(b.content):
        yield Difference(path, "content", "same size, other bytes")
    if a.mode != b.mode and a.kind != Kind.SYMLINK:
        yield Difference(path, "mode", f"{a.mode:04o} / {b.mode:04o}")
    if (a.uid, a.gid) != (b.uid, b.gid):
        yield Difference(path, "owner", f"{a.uid}:{a.gid} / {b.uid}:{b.gid}")
    if (a.mtime_s, a.mtime_ns) != (b.mtime_s, b.mtime_ns):
        ours, theirs = (f"{e.mtime_s}.{e.mtime_ns:09d}" for e in (a, b))
        yield Difference(path, "mtime", f"{ours} / {theirs}")
    if a.rdev != b.rdev:
        yield Difference(path, "device", f"{a.rdev:#x} / {b.rdev:#x}")
    if a.attrs != b.attrs:
        what = "symlink target or attributes" if a.kind == Kind.SYMLINK else "extended attributes"
        yield Difference(path, "attributes", what)


def _linked(
    path: bytes, a: Entry, b: Entry, here: dict[int, bytes], there: dict[int, bytes]
) -> Iterator[Difference]:
    """Names of one file here must be names of one file there, by the first name seen of each."""
    ours, theirs = here.setdefault(a.ino, path), there.setdefault(b.ino, path)
    if ours != theirs:
        yield Difference(path, "links", f"same file as {show(ours)} / {show(theirs)}")
