"""Directories that change places, are made anew or get a number that was another's: short scenes
with real nodes."""

from __future__ import annotations

import os

import pytest
from ends import until
from scene import EACH_ENGINE, Scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root"),
]


def test_an_overwritten_file_leaves_the_times_of_its_directory(scene: Scene) -> None:
    scene.deeds.make(scene.source / "d")
    scene.deeds.write(scene.source / "d" / "f", 100)
    scene.equal()
    for size in (100, 9000):
        scene.deeds.write(scene.source / "d" / "f", size)
        scene.equal()


@EACH_ENGINE
def test_directories_that_change_places_take_their_changes_along(scene: Scene) -> None:
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "same")
        scene.deeds.write(scene.source / name / "same" / name, 100)
    scene.equal()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    scene.deeds.write(scene.source / "a" / "same" / "new", 100)
    scene.deeds.write(scene.source / "b" / "new", 100)
    scene.equal()


@pytest.mark.parametrize("at_once", [True, False])
def test_directories_of_one_shape_that_were_to_change_places(scene: Scene, at_once: bool) -> None:
    """The exchange was written down, and lost on its way: names, sizes and times of the two are the
    same, so that only the content tells which of them the target holds."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "deep")
        scene.deeds.write(scene.source / name / "deep" / "f", 5000)
    for path in sorted(scene.source.rglob("*"), reverse=True):
        os.utime(path, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    until("the change was not taken up", scene.in_flight)
    if at_once:
        scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


def test_directories_made_anew_that_change_places_while_the_wire_is_down(scene: Scene) -> None:
    for name in ("a", "c"):
        scene.deeds.make(scene.source / name / "b")
        scene.deeds.write(scene.source / name / "d", 9000)
    scene.equal()
    scene.hosts.relay.pause()
    for name in ("a", "c"):
        scene.deeds.renew(scene.source / name, 9000)
    until("the change was not taken up", scene.in_flight)
    scene.deeds.exchange(scene.source / "a", scene.source / "c")
    scene.hosts.relay.cut()
    scene.equal()


def test_a_directory_made_anew_whose_making_was_lost(scene: Scene) -> None:
    scene.deeds.make(scene.source / "d" / "old")
    scene.deeds.write(scene.source / "d" / "old" / "f", 100)
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.renew(scene.source / "d", 100)
    until("the change was not taken up", scene.in_flight)
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.equal()


def test_a_number_used_again_does_not_cost_its_new_owner_anything(scene: Scene) -> None:
    """On ext4 the directories made last get the numbers of those that went."""
    scene.deeds.make(scene.source / "old" / "below")
    scene.deeds.write(scene.source / "old" / "below" / "f", 100)
    scene.equal()
    scene.deeds.remove(scene.source / "old")
    scene.deeds.make(scene.source / "new" / "below")
    scene.deeds.write(scene.source / "new" / "below" / "g", 100)
    scene.equal()
    scene.deeds.write(scene.source / "new" / "below" / "h", 100)
    scene.equal()


def test_a_directory_made_anew_with_its_old_number(scene: Scene) -> None:
    path = scene.source / "d"
    scene.deeds.make(path)
    scene.deeds.write(path / "f", 100)
    scene.equal()
    scene.hosts.kill_source()
    number = path.stat().st_ino
    scene.deeds.remove(path)
    for n in range(3000):
        other = scene.deeds.elsewhere / f"{n}"
        other.mkdir()
        if other.stat().st_ino == number:
            break
    else:
        pytest.skip("this file system does not use numbers again soon")
    other.rename(path)
    scene.deeds.write(path / "g", 100)
    scene.equal()


def test_a_new_directory_under_an_old_name_while_the_old_one_moves_in_there(scene: Scene) -> None:
    scene.deeds.make(scene.source / "data" / "deep")
    scene.deeds.write(scene.source / "data" / "deep" / "f", 100_000)
    scene.equal()
    before = (scene.target / "data" / "deep" / "f").stat().st_ino
    scene.deeds.move(scene.source / "data", scene.source / "data.old")
    scene.deeds.make(scene.source / "data")
    scene.equal()
    # Renamed, not sent anew.
    assert (scene.target / "data.old" / "deep" / "f").stat().st_ino == before


def test_a_file_that_leaves_a_directory_whose_rename_was_lost(scene: Scene) -> None:
    """The target may have another one of that shape under the name."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name / "deep" / "deeper")
        for file in ("f", "deeper/f"):
            scene.deeds.write(scene.source / name / "deep" / file, 9000)
    for path in sorted(scene.source.rglob("*"), reverse=True):
        os.utime(path, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.exchange(scene.source / "a", scene.source / "b")
    until("the change was not taken up", scene.in_flight)
    scene.hosts.relay.cut()
    scene.deeds.move(scene.source / "a" / "deep" / "f", scene.source / "f")
    scene.deeds.move(scene.source / "a" / "deep" / "deeper", scene.source / "deeper")
    scene.equal()
