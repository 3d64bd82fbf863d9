"""A tree with everything that a file system can hold and a mirror can get wrong."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import must

KIB, MIB = 1024, 1024 * 1024

ODD_NAMES = (
    b"-rf",
    b" blank ",
    b"new\nline",
    b"tab\tand\\backslash",
    b"latin-\xe9\xff",
    "größe-日本-🙂".encode(),
    b"*",
    b"...",
    b".hidden",
    b".i2node-stage-not-ours",
    b"n" * 255,
)


def plant(root: Path, small: int = 1500, seed: int = 1) -> None:
    """Fills root; what only root may make is left out without it."""
    rng = random.Random(seed)
    _names(root / "names")
    _contents(root / "contents", rng)
    _links(root / "links")
    _kinds(root / "kinds")
    _metadata(root / "metadata")
    _many(root / "many", small, rng)
    (root / "empty").mkdir()
    os.utime(root / "empty", ns=(5, 1_234_567_890_987_654_321))
    os.utime(root, ns=(7, 1_111_111_111_222_222_222))


def _names(top: Path) -> None:
    top.mkdir()
    for number, name in enumerate(ODD_NAMES):
        path = Path(os.fsdecode(os.fsencode(top) + b"/" + name))
        path.write_bytes(b"%d\n" % number)
        path.with_name(f"directory {number}").mkdir()
    deep = top
    for _ in range(30):
        deep = deep / ("d" * 100)
    os.makedirs(deep)
    (deep / "bottom").write_text("deep")


def _contents(top: Path, rng: random.Random) -> None:
    top.mkdir()
    for size in (0, 1, 4095, 4096, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB, 3 * MIB + 7):
        (top / f"random {size}").write_bytes(rng.randbytes(size))
    (top / "text").write_bytes(b"the same line again\n" * 200_000)
    (top / "zeros").write_bytes(bytes(600 * KIB))
    with (top / "sparse").open("wb") as file:
        file.seek(10 * MIB + 13)
        file.write(b"middle")
        file.seek(40 * MIB)
        file.write(rng.randbytes(9 * KIB))
        file.truncate(64 * MIB)
    with (top / "only a hole").open("wb") as file:
        file.truncate(5 * MIB)


def _links(top: Path) -> None:
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    for name, content in (("small", b"small"), ("large", os.urandom(700 * KIB))):
        (top / "a" / name).write_bytes(content)
        for place in ("a/second", "b/third", "fourth"):
            (top / f"{place} {name}").hardlink_to(top / "a" / name)
    for name, aim in (
        ("dangling", "nowhere/at/all"),
        ("absolute", "/etc/passwd"),
        ("directory", "a"),
        ("up", "../.."),
        ("itself", "itself"),
        ("long", "x/" * 1500),
    ):
        (top / name).symlink_to(aim)
    os.link(top / "dangling", top / "b" / "same dangling", follow_symlinks=False)


def _kinds(top: Path) -> None:
    top.mkdir()
    os.mkfifo(top / "fifo", 0o640)
    os.link(top / "fifo", top / "same fifo")
    held = os.open(top, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{held}/socket")
    finally:
        os.close(held)
    if os.geteuid() == 0:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(7, 200))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it in an extended attribute: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_ANY = 0xFFFFFFFF
ACL = acl((1, 7, _ANY), (2, 5, 4711), (4, 4, _ANY), (16, 5, _ANY), (32, 0, _ANY))


def _metadata(top: Path) -> None:
    top.mkdir()
    for mode in (0o000, 0o444, 0o600, 0o777, 0o1644, 0o4755, 0o2755, 0o6711):
        path = top / f"mode {mode:04o}"
        path.write_text("mode")
        path.chmod(mode)
    for mode in (0o1777, 0o2770, 0o500):
        path = top / f"directory {mode:04o}"
        path.mkdir()
        (path / "inside").write_text("inside")
        path.chmod(mode)
    for moment in (-86_400_000_000_001, 0, 1, 1_700_000_000_123_456_789, 3_000_000_000_000_000_001):
        path = top / f"time {moment}"
        path.write_text("time")
        os.utime(path, ns=(1, moment))
    marked = top / "attributes"
    marked.write_text("marked")
    os.setxattr(marked, "user.empty", b"")
    os.setxattr(marked, "user.binary", bytes(range(256)))
    os.setxattr(marked, "user.long", b"v" * 2000)
    os.setxattr(top / "directory 1777", "user.of a directory", b"1")
    guarded = top / "acl"
    guarded.write_text("acl")
    os.setxattr(guarded, "system.posix_acl_access", ACL)
    heirs = top / "default acl"
    heirs.mkdir()
    (heirs / "made before").write_text("no acl")
    os.setxattr(heirs, "system.posix_acl_default", ACL)
    (heirs / "inherits").write_text("acl")
    (heirs / "sub").mkdir()
    if os.geteuid() == 0:
        _owned(top)


def _owned(top: Path) -> None:
    for uid, gid in ((1, 2), (65534, 65534), (3_000_000_000, 4_000_000_000)):
        path = top / f"owner {uid}"
        path.write_text("owned")
        path.chmod(0o4755)
        os.chown(path, uid, gid)
        path.chmod(0o4755)
    (top / "owned link").symlink_to("x")
    os.chown(top / "owned link", 12, 34, follow_symlinks=False)
    os.setxattr(top / "attributes", "trusted.ours", b"t")
    # cap_net_raw+ep, version 2 (capabilities(7))
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    able = top / "capable"
    able.write_text("able")
    os.setxattr(able, "security.capability", capability)


def _many(top: Path, count: int, rng: random.Random) -> None:
    for number in range(count):
        directory = top / f"{number % 25:02}" / f"{number % 3}"
        if number < 75:
            directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file {number}").write_bytes(rng.randbytes(rng.randrange(3000)))


def bulk(root: Path, mib: int, seed: int = 2) -> None:
    """Incompressible content of about that size, half in small files and half in large ones."""
    rng = random.Random(seed)
    for number in range(mib * 8):
        directory = root / f"small {number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").write_bytes(rng.randbytes(64 * KIB))
    for number in range(max(1, mib // 8)):
        (root / f"large {number}").write_bytes(rng.randbytes(4 * MIB))


@contextmanager
def loop_mount(image: Path, at: Path, mib: int, *words: str) -> Iterator[Path]:
    """A small file system of its own at a directory; by root only. words: for mkfs.ext4."""
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    must("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", *words, image)
    at.mkdir(parents=True, exist_ok=True)
    must("mount", "-o", "loop", image, at)
    try:
        (at / "lost+found").rmdir()
        yield at
    finally:
        # Lazily: after a failure a session may still hold it.
        must("umount", "--lazy", at)
