"""A first mirror over the wire, a second one, and the comparison of both sides."""

import os

import forest
import pytest
from hosts import assert_equal, must, until


def test_everything_a_tree_can_hold_arrives_and_a_second_run_sends_nothing(hosts, trees):
    forest.plant(trees.source)
    first = hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)
    done = first.last("done")
    assert done["problem_count"] == 0 and done["exit_status"] == 0 and done["in_sync"]
    assert done["bytes_sent"] > 5 * forest.MIB
    hosts.tidy(trees.target)

    second = hosts.once(trees.source, trees.target).last("done")
    assert (second["bytes_sent"], second["bytes_read"], second["changed"]) == (0, 0, 0)
    assert second["files"] == done["files"] > 1500
    assert_equal(trees.source, trees.target)

    compared = hosts.source.run("compare", trees.source, hosts.place(trees.target), "--strict")
    assert "equal" in compared.out.read_text()


def test_a_second_run_brings_what_changed_meanwhile(hosts, trees):
    forest.plant(trees.source, small=100)
    hosts.once(trees.source, trees.target)
    top = trees.source
    (top / "contents" / "text").unlink()
    (top / "contents" / "random 4096").write_bytes(b"new")
    (top / "many" / "01").rename(top / "moved")
    (top / "links" / "a" / "small").unlink()
    (top / "empty").rmdir()
    (top / "empty").write_text("a file now")
    (top / "kinds" / "fifo").unlink()
    (top / "kinds" / "fifo").mkdir()
    (top / "names" / "-rf").chmod(0o751)
    with (top / "contents" / "sparse").open("r+b") as file:
        file.seek(20 * forest.MIB)
        file.write(b"x" * 5000)
    second = hosts.once(trees.source, trees.target).last("done")
    assert_equal(trees.source, trees.target)
    assert 0 < second["bytes_sent"] < forest.MIB


def test_one_small_file_with_attributes_larger_than_itself(hosts, trees):
    """Nothing else in the batch leaves room that they could use."""
    (trees.source / "marked").touch()
    os.setxattr(trees.source / "marked", "user.long", b"v" * 3500)
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)


def test_compare_tells_equal_from_different_from_impossible(hosts, trees):
    for name in ("one", "two"):
        (trees.source / name).write_text("a text of some length")
    place = hosts.place(trees.target)
    hosts.once(trees.source, trees.target)
    hosts.source.run("compare", trees.source, place)

    # A byte flipped behind everybody's back: size and times are as they were.
    flipped = trees.target / "one"
    before = flipped.stat()
    with flipped.open("r+b") as file:
        file.write(b"A")
    os.utime(flipped, ns=(before.st_atime_ns, before.st_mtime_ns))
    hosts.source.run("compare", trees.source, place)
    strict = hosts.source.run("compare", trees.source, place, "--strict", "--json", status=1)
    assert [(d["path"], d["what"]) for d in strict.lines() if d["t"] == "difference"] == [
        ("one", "content")
    ]
    assert strict.last("done")["equal"] is False

    (trees.target / "two").unlink()
    (trees.target / "three").touch()
    plain = hosts.source.run("compare", trees.source, place, "--json", status=1)
    found = {(d["path"], d["what"]) for d in plain.lines() if d["t"] == "difference"}
    assert {("two", "missing"), ("three", "extra")} <= found

    hosts.source.run("compare", trees.source, hosts.place(trees.target / "none"), status=2)
    hosts.source.run("compare", trees.source / "none", place, status=2)


def test_a_strict_check_repairs_what_a_quick_one_cannot_see(hosts, trees):
    for name in ("small", "large"):
        (trees.source / name).write_bytes(b"content" * (10 if name == "small" else 100_000))
    hosts.once(trees.source, trees.target)
    for name in ("small", "large"):
        damaged = trees.target / name
        before = damaged.stat()
        with damaged.open("r+b") as file:
            file.seek(5)
            file.write(b"\0")
        os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    hosts.once(trees.source, trees.target, "--check", "strict")
    assert_equal(trees.source, trees.target)


@pytest.mark.parametrize(
    "words",
    [("--no-encrypt",), ("--no-encrypt", "--compress", "off"), ("--compress", "3")],
    ids=" ".join,
)
def test_options_of_the_way_change_nothing_of_what_arrives(hosts, trees, words):
    forest.plant(trees.source, small=50)
    hosts.once(trees.source, trees.target, *words)
    assert_equal(trees.source, trees.target)


def test_compression_and_a_secret_key(hosts, trees, tmp_path):
    (trees.source / "text").write_bytes(b"the same line again\n" * 100_000)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("a secret of the rule\n")
    sealed = hosts.once(trees.source, trees.target, "--secret-key-file", key).last("done")
    assert sealed["bytes_sent"] < 200_000
    plain = hosts.once(trees.source, trees.target.with_suffix(".plain"), "--compress", "off")
    assert plain.last("done")["bytes_sent"] > 2_000_000
    assert_equal(trees.source, trees.target)


def test_excludes_in_every_form(hosts, trees):
    """Exact, absolute, with a trailing slash, a pattern of names, a pattern of paths."""
    files = (
        *("exact/out/deep/file", "exact/stays", "absolute/out", "absolute/stays", "slash/out"),
        *("names/a.tmp", "names/b.tmp.not", "top.tmp", "paths/some.x", "paths/deep/some.x"),
    )
    for file in files:
        (trees.source / file).parent.mkdir(parents=True, exist_ok=True)
        (trees.source / file).write_text(file)
    given = ("exact/out", str(trees.source / "absolute/out"), "slash/", "*.tmp", "*/some.?")
    hosts.once(trees.source, trees.target, *(w for e in given for w in ("--exclude", e)))
    assert {str(p.relative_to(trees.target)) for p in trees.target.rglob("*")} == {
        *("exact", "exact/stays", "absolute", "absolute/stays", "names", "names/b.tmp.not"),
        *("paths", "paths/deep", "paths/deep/some.x"),
    }
    # compare leaves out what the mirror left out
    hosts.source.run("compare", trees.source, hosts.place(trees.target))
    # What is no longer left out arrives.
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)


def test_a_rate_is_held_and_named_as_what_it_waits_for(hosts, trees):
    (trees.source / "random").write_bytes(os.urandom(2 * forest.MIB))
    mirror = hosts.once(trees.source, trees.target, "--bwlimit", "8m")
    assert_equal(trees.source, trees.target)
    waited = {line["blocked_on"] for line in mirror.lines() if line["t"] == "state"}
    assert "bandwidth plan" in waited


def test_a_plan_that_stops_now_stops_now(hosts, trees):
    """All days, all hours, rate 0."""
    (trees.source / "file").write_text("waits")
    mirror = hosts.mirror(trees.source, trees.target, "--bwlimit", "1234567*00:00-24:00*0")
    until("the plan", lambda: mirror.last("state").get("blocked_on") == "bandwidth plan")
    assert not (trees.target / "file").exists()
    report = hosts.source.status()
    assert report.blocked_on == "bandwidth plan" and not report.in_sync and report.bytes_sent == 0
    assert mirror.end() == 0


def test_a_target_on_this_host_needs_no_pairing(hosts, trees, tmp_path):
    forest.plant(trees.source, small=100)
    home = tmp_path / "lone home"
    lone = hosts.source.words("mirror", trees.source, tmp_path / "copy", "--once", "--json")
    lone[lone.index("--home") + 1] = str(home)
    must(*lone)
    assert_equal(trees.source, tmp_path / "copy")
    assert list((tmp_path / "copy").glob(".i2node*")) == []
