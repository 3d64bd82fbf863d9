"""A rule that skips its first mirror: of what was there before nothing is sent, and all that
changes from then on, wherever it stands; with real nodes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ends import until
from scene import Scene

from i2node.cli import lives
from i2node.config import Config

LARGE = 300_000


def _make(root: Path) -> None:
    for path in ("d/e/f", "quiet/below", "gone", "asleep"):
        (root / path).mkdir(parents=True)
    for path in (
        "top",
        "d/one",
        "d/two",
        "d/e/f/deep",
        "quiet/below/still",
        "gone/with",
        "asleep/it",
        "asleep/still",
    ):
        (root / path).write_text(f"{path} as it was")
    (root / "d" / "large").write_bytes(os.urandom(LARGE))
    os.link(root / "d" / "one", root / "quiet" / "linked")
    (root / "link").symlink_to("top")
    (root / "d" / "e").chmod(0o750)
    long_ago = 1_500_000_000
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)


def _names(scene: Scene) -> set[str]:
    found = (str(p.relative_to(scene.target)) for p in scene.target.rglob("*"))
    return {name for name in found if not name.startswith("fence")}


def _start(scene: Scene, skip: str) -> None:
    """What was there a moment before the walk may have changed since its time was taken: it is
    looked at once more, and sent. Here the clock has gone on."""
    newest = max(p.lstat().st_ctime_ns for p in scene.source.rglob("*"))
    stamp = scene.hosts.place / "clock"
    until("the clock stands", lambda: _now(stamp) > newest + 200_000_000)
    _begin(scene, skip)


def _begin(scene: Scene, skip: str, *more: str) -> None:
    scene.hosts.start_target()
    scene.hosts.start_source("--skip", skip, *more)
    until("it did not begin", scene.connected)
    scene.hosts.quiesce()


def _now(stamp: Path) -> int:
    stamp.touch()
    return stamp.stat().st_mtime_ns


def _again(scene: Scene, skip: str, *more: str) -> None:
    assert scene.hosts.stop_source() == 0
    scene.hosts.start_source("--skip", skip, *more)
    scene.hosts.quiesce()


def _same(scene: Scene, *names: str) -> None:
    for name in names:
        here, there = scene.source / name, scene.target / name
        a, b = here.lstat(), there.lstat()
        assert (b.st_mode, b.st_mtime_ns, b.st_uid) == (a.st_mode, a.st_mtime_ns, a.st_uid), name
        if here.is_file() and not here.is_symlink():
            assert there.read_bytes() == here.read_bytes(), name


def test_nothing_of_what_was_there_is_sent_and_all_that_changes(scene: Scene) -> None:
    _make(scene.source)
    _start(scene, "all")
    assert _names(scene) == set()
    report = scene.hosts.report()
    assert report is not None and report.assumed == "all" and report.state == "REPLICATION"
    assert "first-mirror-skipped" in scene.hosts.tail("here")
    (life,) = lives.find(Config.load(scene.hosts.homes["here"]), str(scene.source / "top"))
    assert life["verdict"] == "left out" and "before the rule began" in life["judgement"]

    source = scene.source
    (source / "d" / "e" / "f" / "deep").write_text("changed")
    (source / "d" / "new").write_text("new")
    (source / "d" / "two").chmod(0o600)
    (source / "made" / "below").mkdir(parents=True)
    (source / "made" / "below" / "it").write_text("it")
    scene.hosts.quiesce()
    sent = {"d", "d/e", "d/e/f", "d/e/f/deep", "d/new", "d/two"}
    sent |= {"made", "made/below", "made/below/it"}
    assert _names(scene) == sent
    _same(scene, *sent)

    # Renames of what was never sent, removals, links; a large file by its meta data alone.
    os.rename(source / "d" / "one", source / "quiet" / "moved")
    os.rename(source / "quiet" / "below", source / "d" / "below")
    (source / "d" / "large").chmod(0o640)
    os.link(source / "top", source / "top2")
    os.rename(source / "made", source / "quiet" / "made")
    (source / "gone" / "with").unlink()
    (source / "d" / "new").unlink()
    scene.hosts.quiesce()
    _same(scene, "quiet/moved", "d/below/still", "d/large", "top2", "quiet/made/below/it")
    assert not {"d/new", "d/one", "quiet/below", "made", "gone/with"} & _names(scene)
    assert scene.problems() == 0
    names = _names(scene)
    assert "link" not in names

    # It goes on where it was: after a restart, and where the target is asked for everything. The
    # other names of what was sent have changed too, by how many there are; no event tells of that.
    names |= {"top", "quiet/linked"}
    for more in ((), ("--check", "strict")):
        assert scene.hosts.stop_source() == 0
        (source / "d" / "e" / "f" / "deep").write_text(f"while it stood still {more}")
        if more:  # what the target holds of a directory that was never sent does not matter
            (source / "asleep" / "it").write_text("awake")
            names |= {"asleep", "asleep/it"}
        scene.hosts.start_source("--skip", "all", *more)
        scene.hosts.quiesce()
        assert _names(scene) == names
        _same(scene, "d/e/f/deep", "top")
    for one, other in (("top", "top2"), ("quiet/linked", "quiet/moved")):
        assert (scene.target / one).samefile(scene.target / other)
    assert scene.problems() == 0


def test_a_target_that_holds_more_keeps_it(scene: Scene) -> None:
    """What stands there and was never sent is not taken for gone at the source, even when the
    target is asked for all that it holds."""
    _make(scene.source)
    (scene.target / "d").mkdir()
    (scene.target / "d" / "only there").write_text("kept")
    (scene.target / "top").write_text("older")
    _begin(scene, "all", "--adopt")
    (scene.source / "d" / "new").write_text("new")
    scene.hosts.quiesce()
    for more in ((), ("--check", "strict"), ("--exclude", "nothing")):
        _again(scene, "all", *more)
        assert (scene.target / "d" / "only there").read_text() == "kept"
        assert (scene.target / "top").read_text() == "older"
        assert not (scene.target / "d" / "one").exists()
    (scene.source / "top").unlink()
    scene.hosts.quiesce()
    assert not (scene.target / "top").exists(), "what is removed from then on is"
    # To be mirrored after all: then both sides are made equal.
    assert scene.hosts.stop_source() == 0
    scene.hosts.start_source()
    scene.equal()


def test_directories_alone_are_mirrored(scene: Scene) -> None:
    _make(scene.source)
    _start(scene, "files")
    dirs = {str(p.relative_to(scene.source)) for p in scene.source.rglob("*") if p.is_dir()}
    assert _names(scene) == dirs
    _same(scene, *dirs)
    (scene.source / "d" / "two").write_text("changed")
    os.rename(scene.source / "quiet", scene.source / "d" / "quiet")
    scene.hosts.quiesce()
    assert _names(scene) == dirs - {"quiet", "quiet/below"} | {
        *("d/two", "d/quiet", "d/quiet/below"),
    }
    _same(scene, "d/two", "d/quiet", "d/quiet/below", "d")
    _again(scene, "files", "--check", "strict")
    assert "d/one" not in _names(scene)
    assert scene.problems() == 0


@pytest.mark.parametrize("skip", ["all", "files"])
def test_a_source_that_is_killed_in_between_goes_on(scene: Scene, skip: str) -> None:
    _make(scene.source)
    _start(scene, skip)
    scene.hosts.kill_source()
    (scene.source / "d" / "e" / "f" / "deep").write_text("while it was dead")
    (scene.source / "top").unlink()
    (scene.source / "new").write_text("new")
    scene.hosts.start_source("--skip", skip)
    scene.hosts.quiesce()
    _same(scene, "d/e/f/deep", "new")
    assert not {"top", "d/one", "quiet/below/still"} & _names(scene)
    scene.hosts.kill_target()
    (scene.source / "d" / "one").write_text("while the target was away")
    scene.hosts.quiesce()
    _same(scene, "d/one")
    assert not {"d/two", "quiet/below/still"} & _names(scene)
    assert scene.problems() == 0
