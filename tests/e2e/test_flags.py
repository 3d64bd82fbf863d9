"""File flags and project ids arrive, are no obstacle, and survive a crash at any moment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Program, until
from oddities import differences, seen
from test_exact import mirror, trees

import disks
import tmpfs
from inodes import (
    APPEND,
    DIRSYNC,
    HEIR,
    IMMUTABLE,
    NOATIME,
    NODUMP,
    SYNC,
    give,
    inode_of,
    into_project,
    unlock,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and flags need root"),
]
PLAIN = {"sync": SYNC, "nodump": NODUMP, "noatime": NOATIME}
KILLS = int(os.environ.get("I2NODE_KILLS", "2"))
"""How often the crash test kills."""


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A fresh file system, mounted."""
    with disks.disk(request.param, tmp_path_factory.mktemp("disk")) as mount:
        yield mount


@pytest.fixture
def source(disk: Path) -> Iterator[Path]:
    """With a target beside it."""
    here, there = trees(disk, "flagged")
    try:
        yield here
    finally:
        for tree in (here, there):
            unlock(tree)
            shutil.rmtree(tree, ignore_errors=True)


def target_of(source: Path) -> Path:
    return source.with_name(source.name + "-target")


def open_there(source: Path) -> list[Path]:
    """What has other flags or another project at the target."""
    there = target_of(source)
    pairs = ((p, there / p.relative_to(source)) for p in (source, *source.rglob("*")))
    return [p for p, q in pairs if not q.exists() or inode_of(p) != inode_of(q)]


def same(source: Path) -> None:
    assert differences(seen(source), seen(target_of(source))) == []
    assert open_there(source) == []


def test_flags_and_projects_arrive(source: Path, tmp_path: Path) -> None:
    """Of files and directories, small and large, and change there without the content."""
    target, home = target_of(source), tmp_path / "home"
    for name in (*PLAIN, "i", "a", "project", "none"):
        (source / name).write_text(name)
    for name in ("in i", "in a", "in p"):
        (source / name).mkdir()
        (source / name / "f").write_text("f")
    (source / "large").write_bytes(os.urandom(3_000_000))
    (source / "large a").write_bytes(os.urandom(3_000_000))
    assert give(source / "i", IMMUTABLE)
    held = [name for name, number in PLAIN.items() if give(source / name, number)]
    assert "nodump" in held
    for name in ("a", "in a", "large a"):
        assert give(source / name, APPEND)
    for name in ("in i/f", "in i", "large"):
        assert give(source / name, IMMUTABLE)
    projects = into_project(source / "project", 4711) and into_project(source / "in p", 12)
    # A file of another project than its directory hands on.
    projects = projects and give(source / "in p", HEIR) and into_project(source / "in p" / "f", 13)
    assert projects or "xfs" not in str(source)
    give(source / "in p", DIRSYNC)

    mirror(home, source, target)
    same(source)
    assert mirror(home, source, target)["changed"] == 0
    # What is locked is changed, moved and removed all the same, and locked again.
    unlock(source)
    with open(source / "large a", "ab") as file:
        file.write(b"more")
    with open(source / "large", "r+b") as file:
        file.write(b"changed")
    (source / "a").rename(source / "moved")
    (source / "in a" / "g").write_text("g")
    (source / "in i" / "f").write_text("changed")
    (source / "in p" / "f").write_text("changed")
    os.link(source / "i", source / "another name of i")
    os.link(source / "i", source / "in i" / "one more")
    for name in ("moved", "in a", "large a"):
        assert give(source / name, APPEND)
    for name in ("i", "in i/f", "in i", "large"):
        assert give(source / name, IMMUTABLE)
    mirror(home, source, target)
    same(source)
    # A change of what stands in a locked directory leaves that locked.
    give(source / "in i" / "f", less=IMMUTABLE)
    (source / "in i" / "f").write_text("once more")
    # So does one in a locked root; and none at all are taken away.
    for more in ((), ("--check", "strict")):
        assert give(source, IMMUTABLE)
        mirror(home, source, target, *more)
        same(source)
        give(source, less=IMMUTABLE)
        (source / "in an immutable root").write_text("".join(more))
    unlock(source)
    for path in (source, *source.rglob("*")):
        give(path, less=SYNC | NODUMP | NOATIME | HEIR | DIRSYNC)
        assert not projects or into_project(path, 0)
    mirror(home, source, target)
    same(source)
    assert {inode_of(p) for p in target.rglob("*")} == {(0, 0)}


def test_a_target_that_holds_part_of_them(tmp_path: Path) -> None:
    """The rest is kept aside, and is no problem of each file; a comparison finds it."""
    with disks.disk("ext4", tmp_path) as disk, tmpfs.directory() as place:
        source, target = trees(disk, "source")[0], place / "target"
        for name in ("both", "sync", "nodump"):
            (source / name).write_text(name)
        assert give(source / "both", SYNC | NODUMP) and give(source / "sync", SYNC)
        assert give(source / "nodump", NODUMP)
        (target.parent / "probe").write_text("")
        if not give(target.parent / "probe", NODUMP):
            pytest.skip("this tmpfs holds no flags at all")
        for more in ((), (), ("--check", "strict")):
            said = mirror(tmp_path / "home", source, target, *more)
            assert (said["problem_count"], said["in_sync"]) == (0, True)
            assert [inode_of(target / n)[0] for n in ("both", "sync", "nodump")] == [
                NODUMP,
                0,
                NODUMP,
            ]
            compare(tmp_path / "home", source, target)
        give(source / "sync", less=SYNC)
        give(source / "both", less=NODUMP)
        compare(tmp_path / "home", source, target, code=1)
        mirror(tmp_path / "home", source, target, "--check", "strict")
        compare(tmp_path / "home", source, target)
        assert [inode_of(target / n)[0] for n in ("both", "sync")] == [0, 0]


def compare(home: Path, source: Path, target: Path, code: int = 0) -> None:
    command = [sys.executable, "-m", "i2node", "--home", str(home), "compare"]
    done = subprocess.run(
        [*command, str(source), str(target), "--strict"], capture_output=True, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)


def change(source: Path, number: int) -> None:
    """What opens up much of the target on the way."""
    unlock(source)
    for path in list(source.rglob("f*")):
        path.write_text(f"{path.name} {number}")
    (source / "i" / "moves").rename(source / "j" / "moves")
    (source / "j").rename(source / "moved")
    (source / "i").rename(source / "j")
    (source / "moved").rename(source / "i")
    os.link(source / "i" / "moves", source / "j" / f"name {number}")
    lock(source)


def lock(source: Path) -> None:
    for path in sorted(source.rglob("*"), reverse=True):
        if not inode_of(path)[0] & IMMUTABLE:
            assert give(path, IMMUTABLE)


def killed(home: Path, source: Path, log: Path, inject: str = "") -> list[str]:
    """Mirrors, and is killed at a call of a thread; without, those calls that do again what was
    refused, behind what was opened up for them."""
    names = "trace=linkat,renameat,renameat2,unlinkat"
    more = ["-e", f"inject={inject}"] if inject else []
    words = [sys.executable, "-m", "i2node", "--home", str(home), "mirror", "--once"]
    words = ["strace", "-f", "-o", str(log), "-e", names, *more, *words]
    log.write_text("")
    running = Program([*words, str(source), str(target_of(source))], log.with_name("said"))
    try:
        # The target's agent is begun anew, and would be killed at the same call again.
        until("an end", lambda: not running.running or (inject and "SIGKILL" in log.read_text()))
    finally:
        running.sweep()
    assert inject or running.process.returncode == 0, running.said()
    assert not inject or "SIGKILL" in log.read_text(), running.said()
    counts: dict[tuple[str, str], int] = {}
    refused = set()
    found = []
    for line in log.read_text().splitlines():
        thread, call = line.split()[:2]
        if name := re.match(r"(\w+)\(", call):
            at = counts[thread, name[1]] = counts.get((thread, name[1]), 0) + 1
            if thread in refused:
                found.append(f"{name[1]}:signal=SIGKILL:when={at}")
        refused.discard(thread)
        if " EPERM " in line:
            refused.add(thread)
    return found


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_what_a_crash_leaves_open_is_locked_by_the_next_session(tmp_path: Path) -> None:
    """Killed between taking a flag and setting it again, source and target alike."""
    home = tmp_path / "home"
    with disks.disk("ext4", tmp_path) as disk:
        source, target = trees(disk, "crashed")
        for d in ("i", "j"):
            (source / d).mkdir()
            for name in ("f1", "f2"):
                (source / d / name).write_text(name)
        (source / "i" / "moves").write_text("moves")
        lock(source)
        mirror(home, source, target)
        same(source)
        change(source, 0)
        calls = killed(home, source, tmp_path / "log")
        same(source)
        assert len(calls) >= 8
        left_open = 0
        for i in range(KILLS):
            change(source, 1 + i)
            at = (2 * i + 1) * len(calls) // (2 * KILLS)
            killed(home, source, tmp_path / "log", calls[at])
            left_open += any(inode_of(p) == (0, 0) for p in target.rglob("*"))
            mirror(home, source, target)
            same(source)
        assert left_open
