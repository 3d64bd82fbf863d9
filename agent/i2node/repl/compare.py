"""Compares the two trees of a rule, name by name: both sides list, the source judges.

Without `strict`: kind, size, mtime, mode, owner, symlink target, extended attributes and hard-link
groups; owners as far as the rule carries them. With it the content of every regular file too, read
in full on both sides. Nothing is changed on either. A tree that changes meanwhile differs where it
changes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from i2node.config import Config
from i2node.errors import SessionError, UsageError
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.model import MOUNT, Entry, Kind, Target, show
from i2node.mover import batch, listing
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.repl.embedded import EmbeddedAgent
from i2node.repl.plan import join
from i2node.repl.remote import Remote
from i2node.repl.rules import excludes_of, owners_of, rule_home, rule_id

DIRS_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same on both sides. what: missing, extra, kind, size, content, mode,
    owner, mtime, device, attributes, links."""

    path: bytes
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Comparison:
    equal: bool
    differences: list[Difference]
    counts: Mapping[str, int]


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
        root = Root(real, owners)
        held.callback(root.close)
        host, port, expected = target.host, target.port, None
        if host is None:
            agent = EmbeddedAgent(config.etc.parent, target.path)
            held.callback(agent.close)
            host, port, expected = "127.0.0.1", agent.port, identity.node_id
        remote = Remote(connect(host, port, identity, expected, beat=config.heartbeat_s))
        held.callback(remote.close)
        remote.open(rule, target.path, [], "", read_only=True, owners=owners)
        differences, counts = _walk(root, paths, remote, strict)
        remote.bye()
    return Comparison(not differences, differences, counts)


def _walk(
    root: Root, paths: PathSet, remote: Remote, strict: bool
) -> tuple[list[Difference], Counter[str]]:
    found: list[Difference] = []
    counts: Counter[str] = Counter(directories=1, files=0, bytes=0, differences=0)
    here: dict[int, bytes] = {}
    there: dict[int, bytes] = {}
    stack = [b""]
    while stack:
        dirs = [stack.pop() for _ in range(min(DIRS_AT_A_TIME, len(stack)))]
        requests = [(d, paths.skip(d)) for d in dirs]
        answers = root.list_dirs(requests, threads=4)
        told = remote.probe(requests, strict)
        for path, answer, theirs in zip(dirs, answers, told, strict=True):
            if answer.status:
                cause = os.strerror(answer.status)
                raise SessionError(f"cannot list {show(path) or 'the source'}: {cause}")
            if not path:
                found += _roots(answer.own, remote.root)
            if theirs is None:
                found.append(Difference(path, "missing", "no such directory on the target"))
                continue
            ours = _digested(root, path, answer.entries, strict)
            pairs = _pairs(_entries(ours, paths, path), _entries(theirs, paths, path))
            for name, a, b in pairs:
                full = join(path, name)
                if a is not None:
                    counts["directories" if a.kind == Kind.DIR else "files"] += 1
                    counts["bytes"] += a.size if a.kind == Kind.FILE else 0
                found += _judge(full, a, b, strict)
                if a is not None and b is not None:
                    if a.kind == b.kind == Kind.DIR and not a.flags & MOUNT:
                        stack.append(full)
                    elif a.kind == b.kind and (a.nlink > 1 or b.nlink > 1):
                        found += _linked(full, a, b, here, there)
    counts["differences"] = len(found)
    return found, counts


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
