"""A journal that turns out to be damaged while it is used."""

from __future__ import annotations

import os

from scene import Scene


def test_it_is_rebuilt_while_the_rule_runs(scene: Scene) -> None:
    """The end was orderly, so nothing is checked at the start; nobody starts it once more."""
    for number in range(1200):
        path = scene.source / str(number // 100) / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
    scene.equal()
    assert scene.hosts.stop_source() == 0
    (journal,) = scene.hosts.homes["here"].glob("var/rules/*/index.db")
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(os.urandom(size - 8 * 4096))
    for name in ("3/new", "7/new"):
        (scene.source / name).write_text("new")
    (scene.source / "5" / "500").unlink()
    # Where nothing is known any more, of the same size and time is not the same.
    other = scene.target / "9" / "900"
    times = other.stat()
    other.write_text("009")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    scene.equal()
    assert "malformed" in scene.hosts.tail("here")
    assert journal.with_name("index.db.damaged").exists()
