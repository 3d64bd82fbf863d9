"""Excludes: forms, trailing slashes, globs, what lies outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.errors import UsageError
from i2node.fs.pathset import PathSet

NAME = st.sampled_from([b"a", b"b", b"c.log", b"d d", b"\xff"])
REL = st.lists(NAME, min_size=1, max_size=4).map(b"/".join)


def test_absolute_and_relative_paths_mean_the_same() -> None:
    for given_path in (b"/data/www/tmp", b"/data/www/tmp/", b"tmp", b"tmp/", b"./tmp", b"x/../tmp"):
        paths = PathSet(b"/data/www/", [given_path])
        assert paths.skip(b"") == (b"tmp",)
        assert paths.excluded(b"tmp")
        assert paths.excluded(b"tmp/deep/er")
        assert not paths.excluded(b"tmpfile")
        assert not paths.excluded(b"a/tmp")
        assert not paths.has_globs


def test_skip_names_only_the_directory_asked_for() -> None:
    paths = PathSet(b"/r", [b"/r/a/b", b"/r/a/c/", b"/r/d"])
    assert paths.skip(b"a") == (b"b", b"c")
    assert paths.skip(b"") == (b"d",)
    assert paths.skip(b"a/b") == ()


def test_outside_is_listed_and_without_effect() -> None:
    paths = PathSet(b"/data/www", [b"/data/wwwroot", b"/var", b"../x", b"../*.log"])
    assert paths.outside == (b"/data/wwwroot", b"/var", b"../x", b"../*.log")
    assert not paths


@pytest.mark.parametrize("bad", [b"/data/www", b"/data/www/", b"/data", b"/", b".", b"a/.."])
def test_root_or_above_is_refused(bad: bytes) -> None:
    with pytest.raises(UsageError):
        PathSet(b"/data/www", [bad])


@pytest.mark.parametrize(("root", "exclude"), [(b"data", b"x"), (b"/d\0", b"x"), (b"/d", b"x\0y")])
def test_unsound_paths_are_refused(root: bytes, exclude: bytes) -> None:
    with pytest.raises(UsageError):
        PathSet(root, [exclude])


def test_the_file_system_root_as_root() -> None:
    paths = PathSet(b"/", [b"/proc", b"/var/tmp/", b"sys"])
    assert paths.skip(b"") == (b"proc", b"sys")
    assert paths.skip(b"var") == (b"tmp",)


def test_a_name_pattern_matches_at_any_depth() -> None:
    paths = PathSet(b"/r", [b"*.log", b"cache-?/"])
    assert paths.has_globs
    assert paths.excluded(b"x.log")
    assert paths.excluded(b"a/b/x.log")
    assert paths.excluded(b"a.log/inside")
    assert paths.matches(b"a/b", b"cache-1")
    assert not paths.matches(b"", b"cache-12")
    assert paths.skip(b"") == ()


def test_a_path_pattern_is_anchored_and_its_star_stays_in_its_part() -> None:
    paths = PathSet(b"/r", [b"users/*/cache"])
    assert paths.excluded(b"users/ann/cache")
    assert paths.excluded(b"users/ann/cache/x")
    assert not paths.excluded(b"x/users/ann/cache")
    assert not paths.excluded(b"users/ann/deep/cache")


def test_glob_characters_in_an_absolute_path_are_plain() -> None:
    paths = PathSet(b"/r", [b"/r/a[1]*"])
    assert paths.excluded(b"a[1]*")
    assert not paths.excluded(b"a1x")
    assert not paths.has_globs


@given(st.lists(REL), st.lists(NAME, max_size=5))
def test_against_the_plain_definition(excludes: list[bytes], parts: list[bytes]) -> None:
    paths = PathSet(b"/r", [b"/r/" + e for e in excludes])
    path = b"/".join(parts)
    expected = any(path == e or path.startswith(e + b"/") for e in excludes)
    assert paths.excluded(path) == expected
    parent, _, name = path.rpartition(b"/")
    if path and not paths.excluded(parent):
        assert paths.matches(parent, name) == expected
        assert paths.may_match(name) or not expected


def test_what_leaves_a_path_out_is_told() -> None:
    paths = PathSet(b"/r", [b"/r/a/b", b"c", b"*.tmp", b"d/*/e*"])
    for path, reason in (
        (b"a/b", b"a/b"),
        (b"a/b/x/y", b"a/b"),
        (b"c", b"c"),
        (b"x/y.tmp", b"*.tmp"),
        (b"x.tmp/y", b"*.tmp"),
        (b"d/x/ef/y", b"d/*/e*"),
        (b"", None),
        (b"a", None),
        (b"x/c", None),
        (b"d/x/y/e", None),
    ):
        assert paths.reason(path) == reason, path
