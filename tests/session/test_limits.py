"""Files of more names than the target lets one file have, and of very many."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import until
from nursery import Nursery
from scene import Scene

from disks import disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
LIMIT = 65_000  # EXT4_LINK_MAX


@pytest.fixture
def on_xfs(tmp_path: Path, nursery: Nursery) -> Iterator[Scene]:
    with disk("xfs", tmp_path) as mount:
        made = Scene(mount, nursery, "auto")
        yield made
        made.hosts.close()


@pytest.fixture
def on_ext4(tmp_path: Path, nursery: Nursery) -> Iterator[Scene]:
    with disk("ext4", tmp_path) as mount:
        made = Scene(mount, nursery, "auto")
        yield made
        made.hosts.close()


def crowd(scene: Scene, name: str, room: int) -> Path:
    """Names beside the target, so many that its file takes only `room` more."""
    there = scene.target / name
    names = scene.hosts.outside / "names"
    names.mkdir()
    fd = os.open(names, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i in range(LIMIT - room - there.stat().st_nlink):
            os.link(there, f"{i}", dst_dir_fd=fd)
    finally:
        os.close(fd)
    return names


def files(scene: Scene) -> list[int]:
    """How many of the target's names of "n…" are of one file each, in order."""
    names = scene.target.glob("n*")
    return sorted(Counter(path.stat().st_ino for path in names).values())


def test_names_that_the_target_has_no_room_for(on_ext4: Scene) -> None:
    scene = on_ext4
    scene.deeds.write(scene.source / "n0", 9000)
    for i in range(1, 4):
        scene.deeds.link(scene.source / "n0", scene.source / f"n{i}")
    scene.equal()
    elsewhere = crowd(scene, "n0", room=1)
    for i in range(4, 8):
        scene.deeds.link(scene.source / "n0", scene.source / f"n{i}")
    scene.hosts.quiesce()
    # Said, and no trouble: it is in sync, as far as the target can be.
    report = scene.hosts.report()
    assert report is not None and report.in_sync and not report.problems.count
    assert len(report.problems.split) == 1
    assert len(files(scene)) == 2
    assert {what for _, what in scene.hosts.differences()} == {"hard links"}
    # What is written through one name reaches all, whichever file they are of.
    scene.deeds.change(scene.source / "n3", 3, 20)
    scene.deeds.mode(scene.source / "n5", 0o600)
    scene.hosts.quiesce()
    assert {what for _, what in scene.hosts.differences()} <= {"hard links"}
    # And when there is room again, the next that is sent is of all names.
    shutil.rmtree(elsewhere)
    scene.deeds.remove(scene.source / "n1")
    scene.deeds.change(scene.source / "n2", 3, 20)
    scene.equal()
    assert files(scene) == [7]


def test_very_many_names_are_linked_together_in_a_first_mirror(scene: Scene) -> None:
    """Not in a frame each, nor with a look at all names for each."""
    names = 3000
    (scene.source / "n0").write_text("x")
    for i in range(1, names):
        os.link(scene.source / "n0", scene.source / f"n{i}")
    scene.hosts.start_target()
    scene.hosts.start_source()
    until("not mirrored", scene.connected)
    report = scene.hosts.report()
    assert report is not None and report.bytes_sent < 60 * names
    assert files(scene) == [names]
    scene.equal()


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_file_of_holes_beyond_all_disks_is_a_problem_of_its_own(
    on_xfs: Scene, mirrored: bool
) -> None:
    """Anybody who may write there can make one; what is computed for each of its blocks would take
    all memory."""
    scene = on_xfs
    huge = scene.source / "huge"
    scene.deeds.write(huge, 100)
    scene.deeds.write(scene.source / "beside", 100)
    scene.hosts.start_target()
    if mirrored:
        scene.equal()
    scene.deeds.write(scene.source / "more", 100)
    os.truncate(huge, 1 << 60)
    scene.hosts.start_source()
    until("no problem", lambda: scene.problems() == 1)
    report = scene.hosts.report()
    assert report is not None
    (problem,) = report.problems.first
    assert problem.path == "huge" and "256 TiB" in problem.remedy
    until("not beside it", lambda: (scene.target / "more").exists())
    assert (scene.target / "huge").exists() == mirrored
    scene.deeds.write(huge, 5000)
    scene.equal()
    assert scene.problems() == 0
