"""Whatever stands in the source stands in the target, to the last bit that can be asked for: on
each file system, as root and as nobody, and whatever stood there before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from oddities import differences, grow, inside, put, seen

from inodes import APPEND, IMMUTABLE, give

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, devices and owners need root")
pytestmark = [pytest.mark.root, needs_root]

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs", "tmpfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A fresh file system, mounted."""
    kind = str(request.param)
    mount = tmp_path_factory.mktemp(kind)
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=600m", "none", str(mount)]
    else:
        if shutil.which(MAKE[kind][0]) is None:
            pytest.skip(f"no {MAKE[kind][0]} here")
        image = tmp_path_factory.mktemp("image") / kind
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        subprocess.run([*MAKE[kind], str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{kind} cannot be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def mirror(home: Path, source: Path, target: Path, *more: str, code: int = 0) -> dict[str, object]:
    """One mirror, once, by the command line; what it said last."""
    command = [sys.executable, "-m", "i2node", "--home", str(home), "mirror", str(source)]
    done = subprocess.run(
        [*command, str(target), "--once", "--json", *more], capture_output=True, check=False
    )
    assert done.returncode == code, (done.stdout[-2000:], done.stderr[-2000:])
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return last


def trees(disk: Path, name: str) -> tuple[Path, Path]:
    source, target = disk / name, disk / (name + "-target")
    source.mkdir()
    return source, target


def test_the_oddest_tree(disk: Path, tmp_path: Path) -> None:
    source, target = trees(disk, "odd")
    grow(source)
    before = seen(source)
    mirror(tmp_path / "home", source, target)
    assert differences(before, seen(target)) == []
    assert differences(before, seen(source)) == []
    # Once more: nothing is sent, nothing changes. And once more by content.
    again = mirror(tmp_path / "home", source, target)
    assert again["changed"] == 0
    mirror(tmp_path / "home", source, target, "--check", "strict")
    assert differences(before, seen(target)) == []
    compared = subprocess.run(
        [
            *(sys.executable, "-m", "i2node", "--home", str(tmp_path / "home"), "compare"),
            *(str(source), str(target), "--strict"),
        ],
        capture_output=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout


def test_twenty_thousand_files_in_one_directory(tmp_path: Path) -> None:
    source, target = trees(tmp_path, "wide")
    with inside(source) as top:
        for i in range(20_000):
            put(top, b"%x" % (i * 2_654_435_761 % 2**32))
    mirror(tmp_path / "home", source, target)
    assert sorted(os.listdir(source)) == sorted(os.listdir(target))
    for name in sorted(os.listdir(source))[::5]:  # more would be for the brake to hold
        (source / name).unlink()
    mirror(tmp_path / "home", source, target)
    assert differences(seen(source), seen(target)) == []


def test_flags_in_the_way(disk: Path, tmp_path: Path) -> None:
    source, target = trees(disk, "flags")
    names = ("rewrite", "remove", "retype", "chmod", "grow")
    for name in names:
        (source / name).write_text("first")
        (source / f"in-{name}").mkdir()
        (source / f"in-{name}" / "f").write_text("first")
    mirror(tmp_path / "home", source, target)
    for i, name in enumerate(names):
        for path in (target / name, target / f"in-{name}" / "f", target / f"in-{name}"):
            if not give(path, IMMUTABLE if i % 2 else APPEND):
                pytest.skip("no such flags here")
    for path in (source, *(source / f"in-{name}" for name in names)):
        top = path == source
        (path / ("rewrite" if top else "f")).write_text("second")
        if top:
            (path / "remove").unlink()
            (path / "retype").unlink()
            (path / "retype").mkdir()
            (path / "chmod").chmod(0o600)
            (path / "grow").write_bytes(b"g" * 3_000_000)
    shutil.rmtree(source / "in-remove")
    (source / "in-grow" / "new").write_text("new")
    (source / "in-chmod").chmod(0o700)
    mirror(tmp_path / "home", source, target)
    assert differences(seen(source), seen(target)) == []


def test_directories_swapped_for_links_under_our_hands(tmp_path: Path) -> None:
    """Somebody who can write to the target replaces directories by links out of it."""
    source, target = trees(tmp_path, "swapped")
    canary = tmp_path / "canary"
    (canary / "below").mkdir(parents=True)
    for name in ("f0", "f1", "below/f0"):
        (canary / name).write_text("untouched")
    before = seen(canary)
    for i in range(60):
        (source / f"d{i}" / "below").mkdir(parents=True)
        for n in range(8):
            (source / f"d{i}" / f"f{n}").write_bytes(os.urandom(2000))
            (source / f"d{i}" / "below" / f"f{n}").write_bytes(b"")
        with open(source / f"d{i}" / "large", "wb") as file:
            file.truncate(2_000_000)
    mirror(tmp_path / "home", source, target)
    for i in range(60):
        shutil.rmtree(source / f"d{i}" / "below")
        for n in range(8):
            os.utime(source / f"d{i}" / f"f{n}")
            (source / f"d{i}" / f"f{n}").write_bytes(os.urandom(3000))
        with open(source / f"d{i}" / "large", "r+b") as file:
            file.write(b"change")
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            for i in range(60):
                here, aside = target / f"d{i}", tmp_path / "aside"
                try:
                    here.rename(aside)
                    here.symlink_to(canary)
                    here.unlink()
                    aside.rename(here)
                    swaps += 1
                except OSError:
                    # The mirror made the directory anew in between.
                    if here.is_symlink():
                        here.unlink()
                    shutil.rmtree(aside, ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        command = [sys.executable, "-m", "i2node", "--home", str(tmp_path / "home"), "mirror"]
        done = subprocess.run(
            [*command, str(source), str(target), "--once"], capture_output=True, check=False
        )
    finally:
        over.set()
        thread.join()
    assert done.returncode in (0, 1), done.stderr[-2000:]
    assert swaps > 0
    assert differences(before, seen(canary)) == []
    mirror(tmp_path / "home", source, target, "--check", "strict")
    assert differences(seen(source), seen(target)) == []
    assert differences(before, seen(canary)) == []


def test_as_nobody(tmp_path: Path) -> None:
    """Without root: what is one's own arrives in full; that owners are lost is said once."""
    nobody, python = 65534, interpreter()
    place = Path(tempfile.mkdtemp())
    try:
        source, target, home = place / "source", place / "target", place / "home"
        home.mkdir()
        (source / "d").mkdir(parents=True)
        (source / "link").symlink_to("d")
        for name in ("a", "b", "d/c"):
            (source / name).write_text(name)
        os.link(source / "a", source / "hard")
        (source / "large").write_bytes(os.urandom(2_000_000))
        for path in (place, home, source, *source.rglob("*")):
            os.lchown(path, nobody, nobody)
        (source / "a").chmod(0o4750)
        (source / "d").chmod(0o2750)
        (source / "of root").write_text("readable")
        (source / "of root").chmod(0o644)
        command = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups"]
        command += [*python, "-m", "i2node", "--home", str(home), "mirror", str(source)]
        done = subprocess.run(
            [*command, str(target), "--once", "--json"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count(b" names=owner,") == 1
        assert differences(seen(source, owners=False), seen(target, owners=False)) == []
        assert (target / "of root").stat().st_uid == nobody
    finally:
        shutil.rmtree(place)


def interpreter() -> list[str]:
    """This Python, or one like it, as somebody else can run it."""
    shared = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    path = "PYTHONPATH=" + ":".join(p for p in sys.path if p)
    for executable in (sys.executable, shared):
        command = ["env", path, "PYTHONDONTWRITEBYTECODE=1", executable]
        test = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        done = subprocess.run([*test, "-c", "import i2node.cli"], capture_output=True, check=False)
        if done.returncode == 0:
            return command
    pytest.skip("nobody can run this Python: it stands where only root can read")


def allocated(disk: Path) -> int:
    """Bytes in use on a file system, once everything is written."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        os.fsync(fd)
        subprocess.run(["sync", "-f", str(disk)], check=True)
        state = os.fstatvfs(fd)
        return (state.f_blocks - state.f_bfree) * state.f_frsize
    finally:
        os.close(fd)


def test_a_delta_costs_what_changed(disk: Path, tmp_path: Path) -> None:
    """On the wire; and on the disk, which clones the old version or is changed in place."""
    source, target = trees(disk, "delta")
    size, block = 48 << 20, 4096
    (source / "f").write_bytes(os.urandom(size))
    mirror(tmp_path / "home", source, target)
    with open(source / "f", "r+b") as file:
        for n in range(0, size // block, 100):
            file.seek(n * block)
            file.write(os.urandom(block))
    changed = -(-size // block // 100) * block
    before = allocated(disk)
    held = os.open(target / "f", os.O_RDONLY)
    try:
        done = mirror(tmp_path / "home", source, target)
        # The old version is held open: what the new one shares with it costs nothing.
        grown = allocated(disk) - before
    finally:
        os.close(held)
    assert isinstance(done["bytes_sent"], int) and done["bytes_sent"] <= 1.1 * changed
    # XFS takes more than a block at a time where a clone is written to.
    assert grown < size // 2
    with open(source / "f", "r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(os.urandom(1 << 20) + content)
    done = mirror(tmp_path / "home", source, target)
    assert isinstance(done["bytes_sent"], int) and done["bytes_sent"] <= 4 << 20
    assert differences(seen(source), seen(target)) == []
    for tree in (source, target):
        shutil.rmtree(tree)


def test_a_target_that_drifted_is_not_patched(tmp_path: Path) -> None:
    """Somebody wrote to a large file of the target: the delta is refused, and made anew."""
    source, target = trees(tmp_path, "drift")
    (source / "f").write_bytes(os.urandom(8 << 20))
    mirror(tmp_path / "home", source, target)
    for tree, at in ((target, 5 << 20), (source, 3 << 20)):
        with open(tree / "f", "r+b") as file:
            file.seek(at)
            file.write(b"written")
    done = mirror(tmp_path / "home", source, target)
    assert done["problem_count"] == 0
    assert isinstance(done["bytes_sent"], int) and done["bytes_sent"] < 1 << 20
    assert differences(seen(source), seen(target)) == []
