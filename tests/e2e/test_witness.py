"""The second opinion must see what it is there to see."""

import os
from pathlib import Path

import pytest
import witness


@pytest.fixture
def pair(tmp_path):
    for side in ("a", "b"):
        root = tmp_path / side
        (root / "d").mkdir(parents=True)
        (root / "d" / "f").write_bytes(b"x" * 100)
        (root / "s").symlink_to("d/f")
        os.mkfifo(root / "p")
        (root / "l1").write_text("linked")
        (root / "l2").hardlink_to(root / "l1")
        for path in [*root.rglob("*"), root]:
            os.utime(path, ns=(1, 1), follow_symlinks=False)
    return tmp_path / "a", tmp_path / "b"


def quietly(path: Path, act) -> None:
    """Acts on a path without a trace in its times, and in those of its directory."""
    act(path)
    for each in (path, path.parent):
        if os.path.lexists(each):
            os.utime(each, ns=(1, 1), follow_symlinks=False)


def test_equal_trees_are_equal(pair):
    assert witness.differences(*pair) == (7, [])


@pytest.mark.parametrize(
    ("name", "act", "what"),
    [
        ("d/f", lambda p: p.write_bytes(b"x" * 99 + b"y"), "content"),
        ("d/f", lambda p: p.write_bytes(b"x"), "content"),
        ("d/f", lambda p: p.chmod(0o600), "mode"),
        ("d", lambda p: p.chmod(0o700), "mode"),
        ("d/f", lambda p: p.unlink(), "only at the source"),
        ("d/g", lambda p: p.write_text(""), "only at the target"),
        ("s", lambda p: (p.unlink(), p.symlink_to("d")), "symlink"),
        ("p", lambda p: (p.unlink(), p.write_text("")), "kind"),
        ("l2", lambda p: (p.unlink(), p.write_text("linked")), "hard links"),
        ("d/f", lambda p: os.setxattr(p, "user.x", b"1"), "attributes"),
    ],
)
def test_a_difference_is_seen(pair, name, act, what):
    quietly(pair[1] / name, act)
    _, found = witness.differences(*pair)
    assert what in [kind for _, kind in found]


def test_a_time_is_seen(pair):
    os.utime(pair[1] / "d", ns=(1, 2))
    assert witness.differences(*pair)[1] == [(b"d", "mtime")]


@pytest.mark.root
def test_an_owner_is_seen(pair):
    os.chown(pair[1] / "s", 1, 1, follow_symlinks=False)
    assert witness.differences(*pair)[1] == [(b"s", "owner")]
