"""A mirror without owners: whose a file is stays behind, all else comes along, and nothing that
differs only by that makes work."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from scene import Scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root"),
]

ACL = "system.posix_acl_access"
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


def _acl(user: int) -> bytes:
    """One that lets this user read (acl(5)): owner, user, group, mask, others."""
    none = 0xFFFFFFFF
    rows = ((1, 7, none), (2, 4, user), (4, 5, none), (16, 5, none), (32, 5, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def _give(path: Path, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def _make(root: Path) -> None:
    below = root / "d"
    below.mkdir()
    small, large, sparse = below / "small", below / "large", root / "sparse"
    small.write_bytes(b"#!/bin/sh\n")
    large.write_bytes(os.urandom(300_000))
    with sparse.open("wb") as file:
        file.write(b"head")
        file.truncate(4 << 20)
    os.link(small, root / "linked")
    (root / "link").symlink_to("d/small")
    os.mkfifo(root / "fifo")
    for path in (root, *root.rglob("*")):
        _give(path, 1001, 1002)
    for path in (small, large):
        path.chmod(0o4755)
        os.setxattr(path, "user.note", b"mine")
        os.setxattr(path, "trusted.note", b"theirs")
        os.setxattr(path, ACL, _acl(1003))
    os.setxattr(large, "security.capability", _CAPABILITY)
    below.chmod(0o2775)
    for path in (root, below):
        os.setxattr(path, "system.posix_acl_default", _acl(1003))
        os.setxattr(path, "user.note", b"mine")


def _attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    kept = (n for n in names if n != "security.selinux")
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in kept}


def _is_carried(scene: Scene) -> None:
    """All but whose it is, of every path."""
    here = sorted([scene.source, *scene.source.rglob("*")])
    there = sorted([scene.target, *scene.target.rglob("*")])
    assert [p.relative_to(scene.source) for p in here] == [
        p.relative_to(scene.target) for p in there
    ]
    for a, b in zip(here, there, strict=True):
        ours, theirs = a.lstat(), b.lstat()
        mine = (os.geteuid(), os.getegid())
        assert (theirs.st_uid, theirs.st_gid) == mine, b
        if not a.is_symlink():
            assert theirs.st_mode == ours.st_mode & ~0o6000, b
        assert theirs.st_mtime_ns == ours.st_mtime_ns, b
        kept = {n: v for n, v in _attributes(a).items() if n.startswith("user.")}
        assert _attributes(b) == kept, b
        if a.is_file():
            assert a.read_bytes() == b.read_bytes(), b
    assert (scene.target / "linked").samefile(scene.target / "d" / "small")
    assert (scene.target / "sparse").stat().st_blocks * 512 < 1 << 20


def _times(root: Path) -> dict[str, int]:
    """When each file last had anything done to it."""
    paths = (p for p in root.rglob("*") if not p.name.startswith("fence"))
    return {str(p): p.lstat().st_ctime_ns for p in paths}


def _compares(scene: Scene, *more: str) -> int | None:
    hosts = scene.hosts
    child = hosts.nursery.bear(
        hosts.place / "compare.log",
        *("--home", str(hosts.homes["here"]), "compare", str(hosts.source)),
        *(f"127.0.0.1:{hosts.relay.port}:{hosts.target}", *more),
    )
    try:
        return child.wait(60)
    finally:
        child.kill()


def test_whose_it_is_stays_behind(scene: Scene) -> None:
    _make(scene.source)
    scene.hosts.start_target()
    scene.hosts.start_source("--no-owners")
    scene.hosts.quiesce()
    _is_carried(scene)

    # Live: what shows in nothing that is carried, and what does beside it.
    small, large = scene.source / "d" / "small", scene.source / "d" / "large"
    for path in (scene.source / "d", small, scene.source / "link", scene.source / "fifo"):
        _give(path, 2001, 2002)
    os.setxattr(small, ACL, _acl(2003))
    with large.open("r+b") as file:
        file.seek(200_000)
        file.write(b"changed")
    large.chmod(0o6750)
    (scene.source / "d" / "new").write_bytes(b"new")
    _give(scene.source / "d" / "new", 2001, 2002)
    scene.hosts.quiesce()
    _is_carried(scene)
    assert scene.problems() == 0
    assert _compares(scene, "--strict") == 0

    # Nothing is done to what is there when the rule begins anew, nor when it asks for all of it.
    # The first time is for what was read so soon after its change that it may have changed again.
    before: dict[str, int] = {}
    for more in ((), (), ("--check", "strict")):
        assert scene.hosts.stop_source() == 0
        scene.hosts.start_source("--no-owners", *more)
        scene.hosts.quiesce()
        assert before in ({}, _times(scene.target)), more
        before = _times(scene.target)


def test_owners_may_come_along_later_and_stay_behind_again(scene: Scene) -> None:
    _make(scene.source)
    scene.hosts.start_target()
    scene.hosts.start_source("--no-owners")
    scene.hosts.quiesce()
    assert scene.hosts.differences() != []
    assert scene.hosts.stop_source() == 0
    scene.hosts.start_source()
    scene.equal()
    assert scene.hosts.stop_source() == 0
    scene.hosts.start_source("--no-owners")
    scene.hosts.quiesce()
    there = scene.target / "d" / "small"
    assert there.stat().st_uid == 1001, "what stands there keeps its owner"
    assert there.stat().st_mode & 0o6000 == 0
    there = scene.source / "d" / "small"
    there.write_bytes(b"anew")
    scene.hosts.quiesce()
    assert _compares(scene) == 0
