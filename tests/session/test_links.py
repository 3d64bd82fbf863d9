"""Files of several names, on whichever side and however they came to them: short scenes with real
nodes."""

from __future__ import annotations

import os

import pytest
from ends import until
from scene import Scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners and links need root"),
]


def test_names_linked_otherwise_at_the_target_are_linked_anew(scene: Scene) -> None:
    """An adopted tree of equal files that are not equal names."""
    for side in (scene.source, scene.target):
        for name in ("a", "b", "c", "d"):
            (side / name).write_text("the same")
    (scene.source / "b").unlink()
    os.link(scene.source / "a", scene.source / "b")
    (scene.target / "d").unlink()
    os.link(scene.target / "c", scene.target / "d")
    for side in (scene.source, scene.target):
        for name in ("a", "b", "c", "d"):
            os.utime(side / name, ns=(1, 1))
    scene.hosts.start_target()
    scene.hosts.start_source("--adopt")
    scene.equal()


def test_links_that_were_lost_with_what_they_lead_to(scene: Scene) -> None:
    """Each of the two is written down and not there: neither may be made from the other."""
    scene.deeds.make(scene.source / "c")
    scene.equal()
    scene.hosts.relay.pause()
    scene.deeds.write(scene.source / "e", 100)
    scene.deeds.link(scene.source / "e", scene.source / "c" / "e")
    until("the change was not taken up", scene.written_down)
    scene.hosts.kill_source()
    scene.hosts.relay.cut()
    scene.hosts.relay.resume()
    assert scene.hosts.once() == 0
    assert scene.hosts.differences() == []


def test_a_linked_name_that_went_to_another_file_stays_with_it(scene: Scene) -> None:
    scene.deeds.node(scene.source / "b")
    scene.deeds.link(scene.source / "b", scene.source / "e")
    scene.equal()
    scene.hosts.kill_source()
    scene.deeds.symlink("e", scene.source / "c")
    scene.deeds.exchange(scene.source / "c", scene.source / "b")
    scene.equal()


def test_a_third_name_joins_two_that_were_adopted(scene: Scene) -> None:
    for side in (scene.source, scene.target):
        (side / "d").mkdir()
        (side / "d" / "b").write_bytes(bytes(9000))
        os.link(side / "d" / "b", side / "d" / "e")
    for name in ("d/c", "z"):
        os.link(scene.source / "d" / "b", scene.source / name)
    for side in (scene.source, scene.target):
        os.utime(side / "d" / "b", ns=(1, 1))
    scene.hosts.start_target()
    scene.hosts.start_source("--adopt")
    scene.equal()


def test_a_name_that_is_linked_later_and_written_through(scene: Scene) -> None:
    scene.deeds.write(scene.source / "x", 100)
    scene.equal()
    scene.deeds.link(scene.source / "x", scene.source / "a")
    scene.equal()
    for name in ("a", "x"):
        scene.deeds.change(scene.source / name, 3, 20)
        scene.equal()


def test_a_linked_file_that_changes_as_it_moves(scene: Scene) -> None:
    """Its name is new, so it is linked; what else changed must not be taken for done by that."""
    for name in ("x", "y"):
        scene.deeds.write(scene.source / name, 100)
        scene.deeds.leave(scene.source / name)
        kept = max(scene.deeds.elsewhere.iterdir())
        os.link(kept, scene.source / name)
    scene.deeds.node(scene.source / "p")
    scene.deeds.link(scene.source / "p", scene.source / "q")
    scene.equal()
    scene.deeds.move(scene.source / "x", scene.source / "a")
    scene.deeds.mode(scene.source / "a", 0o600)
    scene.deeds.move(scene.source / "y", scene.source / "b")
    scene.deeds.change(scene.source / "b", 5, 10)
    scene.deeds.link(scene.source / "p", scene.source / "c")
    scene.deeds.owner(scene.source / "q", 1, 2)
    scene.equal()


def test_a_change_through_a_name_that_goes_at_once(scene: Scene) -> None:
    """The watch tells of it under that name alone, and there it is not found any more."""
    source, other = scene.source / "a", scene.source / "b"
    names = ("unlinked", "moved", "mode", "replaced", "renamed")
    for path in (source, other, source / "below" / "deep", source / "turned"):
        scene.deeds.make(path)
    for name in names:
        scene.deeds.write(source / name, 100)
        scene.deeds.link(source / name, other / name)
    for directory in ("below/deep", "turned"):
        scene.deeds.write(source / directory / "f", 100)
        scene.deeds.link(source / directory / "f", other / directory.replace("/", "-"))
    scene.deeds.write(scene.source / "other", 100)
    scene.equal()
    for name in ("unlinked", "moved", "replaced", "renamed", "below/deep/f", "turned/f"):
        scene.deeds.change(source / name, 100, 10)
    scene.deeds.mode(source / "mode", 0o600)
    for name in ("unlinked", "mode", "below", "turned"):
        scene.deeds.remove(source / name)
    scene.deeds.leave(source / "moved")
    scene.deeds.move(scene.source / "other", source / "replaced")
    scene.deeds.move(source / "renamed", source / "new")
    scene.deeds.write(source / "turned", 10)
    scene.equal()


def test_names_that_were_to_be_linked_and_look_alike(scene: Scene) -> None:
    """The one name is sent anew: what the target has of the other is not that file."""
    for name in ("a", "b"):
        scene.deeds.make(scene.source / name)
        for file in ("f", "g"):
            scene.deeds.write(scene.source / name / file, 100)
            os.utime(scene.source / name / file, ns=(1, 1))
    scene.equal()
    scene.hosts.relay.pause()
    # Whichever of the two directories is asked first.
    for old, new in (("a/f", "b/f"), ("b/g", "a/g")):
        (scene.source / new).unlink()
        os.link(scene.source / old, scene.source / new)
    until("the change was not taken up", scene.written_down)
    scene.hosts.relay.cut()
    scene.equal()


@pytest.mark.parametrize("size", [0, 100, 9000])
def test_a_file_put_over_one_of_two_names_leaves_the_other(scene: Scene, size: int) -> None:
    """With the same content, so that nothing but the times seems to differ."""
    for name in ("a", "b"):
        (scene.source / name).write_bytes(b"x" * size)
        scene.deeds.link(scene.source / name, scene.source / f"{name}-other")
    scene.equal()
    for name in ("a", "b"):
        (scene.source / "new").write_bytes(b"x" * size)
        (scene.source / "new").rename(scene.source / name)
    scene.equal()
