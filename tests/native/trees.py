"""Trees to copy, and a comparer that knows nothing of the mover."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import gc
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from i2node.model import Entry, Kind
from i2node.mover import batch
from i2node.mover.batch import Op

ENTRY = struct.Struct("<IHBBIIIIQQQqIHHqqQQ16s")
SMALL = 1 << 20
Shelves = tuple[int, int]


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it in system.posix_acl_*: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
ACL = acl((1, 7, NO_ID), (2, 5, 4711), (4, 4, NO_ID), (16, 5, NO_ID), (32, 0, NO_ID))


def open_files() -> list[str]:
    """The file descriptors of this process, without those that only wait for the collector."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


def entries(listing: bytes) -> Iterator[Entry]:
    """The entries of a listing, in its order."""
    at = 0
    while at < len(listing):
        length, name_len, kind, verdict, *rest = ENTRY.unpack_from(listing, at)
        start = at + ENTRY.size
        (mode, uid, gid, nlink, ino, size, rdev, mtime_s, mtime_ns) = rest[:9]
        (flags, status, ctime, birth, blocks, attrs, content) = rest[9:]
        yield Entry(
            name=listing[start : start + name_len],
            kind=Kind(kind),
            verdict=verdict,
            mode=mode,
            uid=uid,
            gid=gid,
            nlink=nlink,
            ino=ino,
            size=size,
            rdev=rdev,
            mtime_s=mtime_s,
            mtime_ns=mtime_ns,
            flags=flags,
            status=status,
            ctime=ctime,
            birth=birth,
            blocks=blocks,
            attrs=attrs,
            content=content,
        )
        at += length


def records(listing: bytes) -> list[bytes]:
    """The packed entries of a listing, each for itself."""
    found, at = [], 0
    while at < len(listing):
        length = struct.unpack_from("<I", listing, at)[0]
        found.append(listing[at : at + length])
        at += length
    return found


def with_verdict(listing: bytes, verdict: int) -> bytes:
    """The same entries with another verdict."""
    return b"".join(r[:7] + bytes([verdict]) + r[8:] for r in records(listing))


def snapshot(root: str | bytes) -> dict[bytes, tuple[object, ...]]:
    """All that can be told of a tree with lstat, readlink, listxattr and read."""
    found: dict[bytes, tuple[object, ...]] = {}
    links: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)

    def visit(path: bytes, shown: bytes) -> None:
        st = os.lstat(path)
        attrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in _names(path)}
        content: object = None
        size = 0
        if stat.S_ISREG(st.st_mode):
            size = st.st_size
            content = Path(os.fsdecode(path)).read_bytes() if size < 1 << 26 else None
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        same = b""
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            same = links.setdefault((st.st_dev, st.st_ino), shown)
        rdev = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0
        meta = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns)
        found[shown] = (*meta, size, rdev, attrs, content, same)
        if stat.S_ISDIR(st.st_mode):
            for name in sorted(os.listdir(path)):
                visit(path + b"/" + name, shown + b"/" + name if shown else name)

    visit(top, b"")
    return found


def _names(path: bytes) -> list[str]:
    return [n for n in os.listxattr(path, follow_symlinks=False) if n != "security.selinux"]


def nasty(root: Path) -> None:
    """A tree with all kinds of files, hard names, and everything that metadata can be."""
    top = os.fsencode(root)

    def put(name: bytes, data: bytes = b"x", mode: int = 0o644) -> bytes:
        path = top + b"/" + name
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        os.write(fd, data)
        os.fchmod(fd, mode)
        os.close(fd)
        return path

    os.mkdir(top + b"/dir")
    os.mkdir(top + b"/dir/deeper")
    os.mkdir(top + b"/empty")
    put(b"plain", b"content\n")
    put(b"nothing", b"")
    put(b"new\nline", b"1")
    put(b"\xff\xfe not utf-8", b"2")
    put(b"n" * 255, b"3")
    put(b"-rf", b"4")
    put(b" ", b"5")
    put(b"dir/\x01\x1b[31m", b"6")
    put(b"dir/deeper/last", os.urandom(70000))
    put(b"zeros", bytes(20000))
    os.chown(put(b"suid"), 4711, 4712)
    os.chmod(top + b"/suid", 0o6755)
    put(b"none", mode=0)
    os.utime(put(b"old"), ns=(-1_000_000_001, -86_400_000_000_001))
    os.utime(put(b"late"), ns=(0, 4_000_000_000_123_456_789))
    os.truncate(put(b"hole", b""), 300_000)
    path = put(b"attrs")
    for i in range(20):
        os.setxattr(path, f"user.n{i:02}", os.urandom(i * 5))
    os.setxattr(path, "trusted.t", b"\0\xff")
    os.setxattr(
        path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    os.setxattr(put(b"acl"), "system.posix_acl_access", ACL)
    os.setxattr(top + b"/dir/deeper", "system.posix_acl_access", ACL)
    os.setxattr(top + b"/dir/deeper", "user.dir", b"d")
    os.symlink(b"plain", top + b"/symlink")
    os.symlink(b"t" * 1000, top + b"/dir/long")
    os.symlink(b"/nowhere\n", top + b"/dangling")
    os.chown(top + b"/dangling", 4711, 4712, follow_symlinks=False)
    os.utime(top + b"/dangling", ns=(5, 5), follow_symlinks=False)
    os.setxattr(top + b"/dangling", "trusted.link", b"l", follow_symlinks=False)
    os.mkfifo(top + b"/fifo", 0o620)
    os.mknod(top + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top + b"/block", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    here = os.open(top, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    os.link(put(b"one"), top + b"/dir/two")
    os.utime(top + b"/empty", ns=(7, 7))
    os.chmod(top + b"/empty", 0o1777)


class Copier:
    """Walks, packs and applies, as a session does, but in one process and with nothing left out."""

    def __init__(
        self, source: Path, target: Path, stage: Path, threads: int = 2, shelves: Shelves = (-1, -1)
    ) -> None:
        """shelves: of the source and of the target."""
        self.threads = threads
        self.shelves = shelves
        self.source = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        self.target = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        self.stage = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
        self.dev = os.fstat(self.source).st_dev

    def close(self) -> None:
        for fd in (self.source, self.target, self.stage):
            os.close(fd)

    def walk(self) -> dict[bytes, batch.Listing]:
        found: dict[bytes, batch.Listing] = {}
        wave = [b""]
        while wave:
            asked = [(path, ()) for path in wave]
            listings = batch.list_dirs(self.source, self.dev, asked, threads=self.threads)
            deeper = []
            for path, listing in zip(wave, listings, strict=True):
                assert listing.status == 0, (path, listing)
                found[path] = listing
                prefix = path + b"/" if path else b""
                deeper += [prefix + e.name for e in entries(listing.entries) if e.kind == Kind.DIR]
            wave = deeper
        return found

    def pack(self, mode: int, parts: list[bytes], cap: int = 16 << 20) -> tuple[bytes, list[Entry]]:
        buffer = bytearray(b"".join(parts))
        steps = batch.pack(
            self.source,
            self.dev,
            buffer,
            mode=mode,
            small_max=SMALL,
            threads=self.threads,
            cap=cap,
            shelf=self.shelves[0],
        )
        seen = [e for _, packed in batch.groups(buffer) for e in entries(packed)]
        return bytes(steps), seen

    def apply(self, payload: bytes, flags: int = 0) -> batch.Applied:
        shelf = self.shelves[1]
        flags |= batch.APPLY_ASIDE if shelf >= 0 else 0
        return batch.apply(self.target, self.stage, payload, flags=flags, shelf=shelf)

    def copy(self) -> list[batch.Fault]:
        """Everything anew: directories, content, links, then the directories' metadata."""
        listings = self.walk()
        made, content, last, links = [], [], [], []
        first: dict[int, bytes] = {}
        for path, listing in listings.items():
            new = with_verdict(listing.entries, 1)
            dirs, files = [], []
            for record, entry in zip(records(new), entries(new), strict=True):
                full = path + b"/" + entry.name if path else entry.name
                if entry.kind == Kind.DIR:
                    dirs.append(record)
                elif entry.nlink > 1 and entry.ino in first:
                    links.append(batch.step(Op.LINK, full, first[entry.ino]))
                else:
                    first[entry.ino] = full
                    files.append(record)
            made.append(batch.group(path, b"".join(dirs)))
            content.append(batch.group(path, b"".join(files)))
            last.append(batch.group(path, b"".join(dirs)))
        payload = b""
        for mode, parts in ((batch.PACK_ALL, made), (batch.PACK_ALL, content)):
            steps, seen = self.pack(mode, parts)
            assert [e for e in seen if e.status] == []
            payload += steps
        payload += b"".join(links)
        steps, seen = self.pack(batch.PACK_META, last)
        assert [e for e in seen if e.status] == []
        applied = self.apply(payload + steps)
        assert applied.done == batch.steps_check(payload + steps)
        return applied.faults
