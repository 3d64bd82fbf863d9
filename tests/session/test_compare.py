"""The comparison itself: every kind of difference is found, on real trees, by the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from entries import PLAIN
from i2node.fs.pathset import PathSet
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.repl.compare import _judge, opened
from i2node.repl.embedded import EmbeddedAgent


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two trees that are the same."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d" / "below").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "f").write_bytes(b"content")
    (source / "d" / "f").write_bytes(bytes(9000))
    (source / "d" / "below" / "one").write_bytes(b"1")
    os.link(source / "d" / "below" / "one", source / "two")
    os.link(source / "d" / "below" / "one", source / "three")
    (source / "link").symlink_to("f")
    shutil.copytree(source, target, symlinks=True)
    for name in ("two", "three"):
        (target / name).unlink()
        os.link(target / "d" / "below" / "one", target / name)
    alike(source, target)
    return source, target


def alike(source: Path, target: Path) -> None:
    """The same times on both sides, the deepest first."""
    for path in sorted([source, *source.rglob("*")], reverse=True):
        there = target / path.relative_to(source)
        for side in (path, there):
            os.utime(side, ns=(0, 10**18), follow_symlinks=False)


def compare(
    tmp_path: Path, pair: tuple[Path, Path], *more: str
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    command = [sys.executable, "-m", "i2node", "--home", str(tmp_path / "home"), "compare"]
    done = subprocess.run(
        [*command, *map(str, pair), "--json", *more], capture_output=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return done.returncode, lines[:-1], lines[-1]


def test_the_same_is_the_same(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    for more in ([], ["--strict"]):
        code, found, last = compare(tmp_path, pair, *more)
        assert (code, found, last["equal"]) == (0, [], True)
        counts = {"directories": 4, "files": 6, "bytes": 9010, "differences": 0}
        assert last["counts"] == counts


def relink(target: Path) -> None:
    (target / "two").unlink()
    (target / "two").write_bytes(b"1")


def join(target: Path) -> None:
    """Two files become one."""
    (target / "f").unlink()
    os.link(target / "d" / "f", target / "f")


def retype(target: Path) -> None:
    (target / "link").unlink()
    (target / "link").mkdir()


def retarget(target: Path) -> None:
    (target / "link").unlink()
    (target / "link").symlink_to("g")


CHANGES: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]]]] = {
    "missing file": (lambda t: (t / "f").unlink(), {("f", "missing")}),
    "missing tree": (lambda t: shutil.rmtree(t / "d"), {("d", "missing")}),
    "extra file": (lambda t: (t / "g").write_bytes(b""), {("g", "extra")}),
    "extra tree": (lambda t: (t / "g" / "h").mkdir(parents=True), {("g", "extra")}),
    "size": (lambda t: (t / "f").write_bytes(b"content!"), {("f", "size")}),
    "mode": (lambda t: (t / "empty").chmod(0o711), {("empty", "mode")}),
    "root's mode": (lambda t: t.chmod(0o711), {(".", "mode")}),
    "attribute": (lambda t: os.setxattr(t / "f", "user.x", b"y"), {("f", "attributes")}),
    "symlink": (retarget, {("link", "attributes")}),
    "kind": (retype, {("link", "kind")}),
    "split link": (relink, {("two", "links")}),
    "joined": (join, {("f", "links"), ("f", "size"), ("d/f", "links")}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_found(tmp_path: Path, pair: tuple[Path, Path], name: str) -> None:
    change, expected = CHANGES[name]
    change(pair[1])
    for path in sorted([pair[1], *pair[1].rglob("*")], reverse=True):
        os.utime(path, ns=(0, 10**18), follow_symlinks=False)
    code, found, last = compare(tmp_path, pair)
    assert code == 1 and last["equal"] is False
    seen = {(d["path"], d["what"]) for d in found}
    # Of two names that became one, it is a matter of order which is told.
    assert seen <= expected and seen
    if len(expected) == 1:
        assert seen == expected


def test_only_a_strict_one_reads_content(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (pair[1] / "f").write_bytes(b"CONTENT")
    alike(*pair)
    assert compare(tmp_path, pair)[0] == 0
    code, found, _ = compare(tmp_path, pair, "--strict")
    assert code == 1 and [(d["path"], d["what"]) for d in found] == [("f", "content")]


def test_what_cannot_be_compared_is_no_success(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    shutil.rmtree(pair[1])
    assert compare(tmp_path, pair)[0] == 2
    assert not pair[1].exists()


def test_content_that_could_not_be_read_is_not_the_same() -> None:
    unread = PLAIN._replace(attrs=1)
    read = unread._replace(content=b"d" * 16)
    assert list(_judge(b"f", read, read, True)) == []
    for a, b in ((read, unread), (unread, read), (unread, unread)):
        (difference,) = _judge(b"f", a, b, True)
        assert difference.what == "content"
        assert list(_judge(b"f", a, b)) == []


def test_what_was_on_its_way_is_not_taken_for_a_difference(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("a", "b", "c", "d/x", "d/e/y"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    shutil.copytree(source, target)
    shutil.rmtree(target / "d")
    (target / "c").unlink()
    (target / "a").write_text("other")
    (target / "gone").write_text("gone at the source")
    for path in [*source.rglob("*"), source, *target.rglob("*"), target]:
        os.utime(path, ns=(0, 10**18))
    home = tmp_path / "home"
    (home / "etc").mkdir(parents=True)
    identity = Identity.load(home / "etc")
    with closing(EmbeddedAgent(home, bytes(target))) as agent:
        channel = connect("127.0.0.1", agent.port, identity, identity.node_id)
        trees = (bytes(source), bytes(target), PathSet(bytes(source), ()))
        with opened(channel, "0123456789abcdef", *trees, strict=False, owners=True) as comparing:
            comparing.look()
            tally = comparing.result().tally
            counts = (tally.equal, tally.different, tally.missing, tally.extra)
            assert counts == (1, 1, 2, 1)
            shutil.copytree(source / "d", target / "d")
            (target / "d" / "e" / "y").write_text("longer")
            (target / "a").write_text("a")
            (target / "gone").unlink()
            for path in [*target.rglob("*"), target]:
                os.utime(path, ns=(0, 10**18))
            comparing.look_again()
            done = comparing.result()
    assert {d.path: d.what for d in done.differences} == {b"c": "missing", b"d/e/y": "size"}
    tally = done.tally
    assert (tally.different, tally.missing, tally.extra) == (1, 1, 0)
