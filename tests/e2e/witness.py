"""Compares two trees with nothing of i2node in it: the second opinion of tests and demo."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20


def beneath(root: bytes, relative: bytes) -> bytes:
    return root + b"/" + relative if root and relative else root or relative


def walk(root: bytes) -> Iterator[bytes]:
    """Every path below root, relative to it, and b"" for root itself."""
    pending = [b""]
    while pending:
        relative = pending.pop()
        yield relative
        full = beneath(root, relative)
        if stat.S_ISDIR(os.lstat(full).st_mode):
            with os.scandir(full) as entries:
                pending += [beneath(relative, entry.name) for entry in entries]


def attributes(path: bytes) -> dict[str, bytes]:
    """Extended attributes; the label of SELinux belongs to the host, not to the file."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in names
            if name != "security.selinux"
        }
    except OSError:
        return {}


def aim(link: bytes) -> Path:
    return Path(os.fsdecode(link)).readlink()


def same_content(one: bytes, other: bytes) -> bool:
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        while True:
            here, there = first.read(CHUNK), second.read(CHUNK)
            if here != there:
                return False
            if not here:
                return True


def unlike(one: bytes, other: bytes, owners: bool) -> str:
    """What two paths differ in, or the empty string."""
    here, there = os.lstat(one), os.lstat(other)
    kind = stat.S_IFMT(here.st_mode)
    if kind != stat.S_IFMT(there.st_mode):
        return "kind"
    if kind == stat.S_IFLNK and aim(one) != aim(other):
        return "symlink"
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and here.st_rdev != there.st_rdev:
        return "device"
    if owners and (here.st_uid, here.st_gid) != (there.st_uid, there.st_gid):
        return "owner"
    if here.st_mode != there.st_mode:
        return "mode"
    if here.st_mtime_ns != there.st_mtime_ns:
        return "mtime"
    if attributes(one) != attributes(other):
        return "attributes"
    if kind == stat.S_IFREG and (here.st_size != there.st_size or not same_content(one, other)):
        return "content"
    return ""


def links(root: bytes, paths: list[bytes]) -> set[frozenset[bytes]]:
    """Which paths are names of one file."""
    groups: dict[tuple[int, int], set[bytes]] = {}
    for relative in paths:
        status = os.lstat(beneath(root, relative))
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), set()).add(relative)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def differences(source: Path, target: Path) -> tuple[int, list[tuple[bytes, str]]]:
    """How many paths the source has, and what differs: (path relative to the root, in what)."""
    one, other = os.fsencode(source), os.fsencode(target)
    here, there = sorted(walk(one)), set(walk(other))
    found = [(path, "only at the target") for path in sorted(there.difference(here))]
    both = [path for path in here if path in there]
    found += [(path, "only at the source") for path in here if path not in there]
    owners = os.geteuid() == 0
    for path in both:
        if what := unlike(beneath(one, path), beneath(other, path), owners):
            found.append((path, what))
    for group in links(one, both) ^ links(other, both):
        found.append((min(group), "hard links"))
    return len(here), found
