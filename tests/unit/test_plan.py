"""The small decisions of planning, over listings that hypothesis makes, and a real journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entries import PLAIN
from i2node.model import PROBED, RACY, Entry, Kind
from i2node.mover import listing
from i2node.repl.doubts import UNTIL_ASKED, UNTIL_COMPARED, UNTIL_SENT
from i2node.repl.journal import Journal
from i2node.repl.plan import (
    Edit,
    Forget,
    Place,
    Put,
    Rekey,
    Replace,
    Settled,
    Unplace,
    believe,
    join,
    known,
    named_root,
    same_file,
    settled,
    together,
    tombstone,
    unsettled,
)

ROOT_INO = 2
SMALL = 4096


def entry(name: bytes, ino: int = 7, **fields: object) -> Entry:
    return PLAIN._replace(name=name, ino=ino, **fields)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from([Kind.FILE, Kind.DIR, Kind.SYMLINK, Kind.FIFO]))
    return entry(
        draw(st.sampled_from([b"a", b"b", b"c", b"dd"])),
        draw(st.integers(3, 6)),
        kind=kind,
        size=draw(st.sampled_from([0, 5, 9000])) if kind == Kind.FILE else 0,
        mtime_s=draw(st.integers(1, 3)),
        mode=draw(st.sampled_from([0o600, 0o755])),
        nlink=draw(st.integers(1, 3)) if kind != Kind.DIR else 2,
        ctime=draw(st.integers(1, 3)),
    )


def packed(some: list[Entry]) -> bytes:
    return b"".join(known(e) for e in sorted({e.name: e for e in some}.values(), key=_name))


def _name(e: Entry) -> bytes:
    return e.name


def as_told(some: list[Entry]) -> list[Entry]:
    return [e._replace(flags=PROBED, ino=e.ino + 100, ctime=99) for e in some]


listings = st.lists(entries(), max_size=4)


@given(told=listings, remembered=listings, suspects=st.sets(st.sampled_from([b"a", b"b", b"zz"])))
def test_what_is_believed_has_the_names_that_were_told(
    told: list[Entry], remembered: list[Entry], suspects: set[bytes]
) -> None:
    there, here = packed(as_told(told)), packed(remembered)
    result = {e.name: e for e in listing.entries(believe(there, here, suspects))}
    assert result.keys() == {e.name for e in told}
    for name, one in result.items():
        theirs, ours = listing.find(there, name), listing.find(here, name)
        assert theirs is not None
        assert one.kind == theirs.kind
        if one.flags & PROBED:
            assert one.ino == theirs.ino
            continue
        # Remembered: then nothing that was told speaks against it.
        assert one == ours
        assert not (name in suspects and one.kind == Kind.FILE)
        assert one.kind == Kind.DIR or one.nlink == theirs.nlink
        assert (one.mode, one.mtime_s) == (theirs.mode, theirs.mtime_s) or one.kind == Kind.SYMLINK
        assert one.kind != Kind.FILE or one.size == theirs.size


@given(told=listings)
def test_a_suspect_is_never_taken_for_what_the_source_has(told: list[Entry]) -> None:
    """The target's file has the size and the time of ours, and may have another content."""
    names = {e.name for e in told}
    heard = believe(packed(as_told(told)), packed(told), names)
    changes = listing.diff(heard, packed(told), SMALL)
    files = {e.name for e in listing.entries(packed(told)) if e.kind == Kind.FILE}
    differing = set()
    if changes is not None:
        for section in (changes.bulk, changes.large, changes.linked):
            for one in listing.entries(section):
                differing.add(one.name)
                assert one.kind != Kind.FILE or not any(one.content)
    assert files <= differing


def test_a_file_that_is_linked_otherwise_there_is_not_taken_for_what_the_source_has() -> None:
    """It was written since, and its times put back: only the record that is forgotten tells."""
    before = entry(b"a", nlink=2)
    heard = believe(packed(as_told([before._replace(nlink=1)])), packed([before]))
    changes = listing.diff(heard, packed([before._replace(ctime=2)]), SMALL)
    assert changes is not None and [e.name for e in listing.entries(changes.linked)] == [b"a"]


@given(now=listings, before=listings)
def test_what_is_settled_and_what_differs_make_up_the_listing(
    now: list[Entry], before: list[Entry]
) -> None:
    here = packed(now)
    changes = listing.diff(packed(before), here, SMALL)
    sections = (changes.dirs, changes.bulk, changes.large, changes.linked) if changes else ()
    agreed = {e.name for e in listing.entries(settled(here, sections))}
    differing = {e.name for s in sections for e in listing.entries(s)}
    assert not agreed & differing
    assert agreed | differing == {e.name for e in now}


@given(some=listings, name=st.sampled_from([b"a", b"b", b"zz"]))
def test_a_tombstone_takes_out_one_name(some: list[Entry], name: bytes) -> None:
    left = {e.name for e in listing.entries(listing.merge(packed(some), tombstone(name)))}
    assert left == {e.name for e in some} - {name}


@given(some=listings)
def test_what_is_unsettled_is_looked_at_again(some: list[Entry]) -> None:
    for one in some:
        racy = unsettled(one)
        assert listing.decode(racy).flags & RACY
        if one.kind == Kind.FILE:
            assert listing.diff(racy, known(one), SMALL) is not None


def test_paths_and_the_root() -> None:
    assert join(b"", b"a") == b"a"
    assert join(b"a", b"") == b"a"
    assert join(b"a/b", b"c") == b"a/b/c"
    own = entry(b"", kind=Kind.DIR)
    assert listing.check(named_root(own)) == 1


@given(a=entries(), flags=st.sampled_from([0, PROBED]))
def test_a_number_that_was_used_again_is_another_file(a: Entry, flags: int) -> None:
    assert same_file(a, a._replace(name=b"other", size=77))
    assert not same_file(a, a._replace(birth=a.birth + 1))
    assert same_file(a, a._replace(flags=flags)) == (not flags)


# ---------------------------------------------------------------------- edits, in a real journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "index.db", "boot")
    yield made
    made.close()


def directory(name: bytes, ino: int) -> bytes:
    return known(entry(name, ino, kind=Kind.DIR))


def test_forgetting_spares_the_new_owner_of_a_number(journal: Journal) -> None:
    """`old` is deleted; its number is that of `new` by now, which is known already."""
    Put(ROOT_INO, directory(b"old", 10)).note(journal)
    Place(10, ROOT_INO, b"old", True).note(journal)
    Put(ROOT_INO, directory(b"new", 10)).note(journal)
    Place(10, ROOT_INO, b"new", True).note(journal)
    Put(10, known(entry(b"file"))).note(journal)
    Forget(10, ROOT_INO, b"old").note(journal)
    assert journal.path(10, ROOT_INO) == b"new"
    assert listing.find(journal.listing(10), b"file") is not None
    Forget(10, ROOT_INO, b"new").note(journal)
    assert journal.path(10, ROOT_INO) is None
    assert journal.listing(10) == b""


def test_a_directory_has_one_place(journal: Journal) -> None:
    Place(10, 50, b"a file had this number", False).note(journal)
    Place(10, ROOT_INO, b"d", True).note(journal)
    assert journal.places(10) == [(ROOT_INO, b"d")]


def test_a_linked_file_has_several(journal: Journal) -> None:
    for name in (b"a", b"b"):
        Place(10, ROOT_INO, name).note(journal)
    assert sorted(journal.places(10)) == [(ROOT_INO, b"a"), (ROOT_INO, b"b")]


def test_suspects_outlive_a_session_and_not_their_clearing(journal: Journal) -> None:
    journal.suspect(10, [b"a", b"b"], 3)
    journal.suspect(10, [b"b"], 5)
    journal.settle(3)
    assert journal.suspects(10) == [b"b"]
    journal.new_session()
    journal.settle(1000)
    assert journal.suspects(10) == [b"b"]
    journal.answered(10)
    journal.settle(1000)
    assert journal.suspects(10) == [b"b"]
    journal.doubt_many({11: b"f"}, UNTIL_SENT)
    Settled(10).note(journal)
    journal.suspect(12, [b"c"], UNTIL_ASKED)
    journal.settle(1000)
    assert journal.suspects(10) == [b"b"]
    journal.sent(1004)
    journal.settle(1003)
    assert journal.suspects(10) == [b"b"]
    journal.settle(1004)
    assert (journal.suspects(10), journal.suspects(12)) == ([], [b"c"])


@pytest.mark.parametrize("again", [False, True])
def test_what_was_answered_and_not_compared_stays_in_doubt(journal: Journal, again: bool) -> None:
    journal.doubt(10, b"d", UNTIL_ASKED)
    journal.answered(10)
    if again:
        journal.doubt(10, b"d", UNTIL_ASKED)
        Settled(10).note(journal)
    journal.new_session()
    journal.settle(1000)
    assert journal.doubts() == [(10, b"d")]
    journal.answered(10)
    Settled(10).note(journal)
    assert journal.doubts() == [(10, b"d")]
    journal.sent(0)
    journal.settle(0)
    assert journal.doubts() == []


def test_suspects_follow_their_directory(journal: Journal) -> None:
    journal.suspect(10, [b"a"], UNTIL_ASKED)
    Rekey(10, 11).note(journal)
    assert (journal.suspects(10), journal.suspects(11)) == ([], [b"a"])
    journal.forget(11)
    assert journal.suspects(11) == []


def test_names_put_one_by_one_are_put_at_once_and_nothing_else_moves() -> None:
    a, b, later = (packed([entry(name, size=n)]) for n, name in enumerate((b"a", b"b", b"a")))
    both = packed([entry(b"c"), entry(b"d")])
    edits = [
        Put(1, b),
        Place(7, 1, b"b", True),
        Replace(2, b""),
        Put(1, a),
        Put(2, a),
        Put(1, later),
        Replace(1, b""),
        Put(1, a),
        Put(1, both),
        Put(1, b),
        Put(1, b""),
    ]
    assert list(together(edits)) == [
        Place(7, 1, b"b", True),
        Replace(2, b""),
        Put(1, later + b),
        Put(2, a),
        Replace(1, b""),
        Put(1, a),
        Put(1, both),
        Put(1, b),
        Put(1, b""),
    ]


def test_what_both_sides_agree_on_is_not_mixed_with_what_is_sent() -> None:
    a, b, c = (packed([entry(name)]) for name in (b"a", b"b", b"c"))
    edits = [Put(1, a), Put(1, b, agreed=True), Put(1, c)]
    assert list(together(edits)) == edits


EDITS = st.lists(
    st.one_of(
        st.builds(
            lambda ino, names: Put(
                ino, packed([entry(n, ino=ino * 10 + n[0]) for n in sorted(names)])
            ),
            st.integers(1, 3),
            st.sets(st.sampled_from([b"a", b"b", b"c"]), max_size=2),
        ),
        st.builds(lambda ino, name: Put(ino, tombstone(name)), st.integers(1, 3), st.just(b"a")),
        st.builds(lambda ino: Replace(ino, b""), st.integers(1, 3)),
        st.builds(Place, st.integers(1, 5), st.integers(1, 3), st.sampled_from([b"a", b"b"])),
        st.builds(Unplace, st.integers(1, 5), st.integers(1, 3), st.sampled_from([b"a", b"b"])),
        st.builds(Forget, st.integers(1, 5), st.integers(1, 3), st.sampled_from([b"a", b"b"])),
        st.builds(Rekey, st.integers(1, 3), st.integers(1, 3)),
        st.builds(Settled, st.integers(1, 3)),
    ),
    max_size=12,
)


@given(EDITS)
def test_edits_together_are_the_same_edits(edits: list[Edit]) -> None:
    held = []
    for some in (edits, together(edits)):
        with TemporaryDirectory() as place:
            journal = Journal(Path(place) / "index.db")
            journal.doubt_many(dict.fromkeys((1, 2, 3), b""), UNTIL_COMPARED)
            for edit in some:
                edit.note(journal)
            held.append(
                (
                    [(journal.lists(ino), journal.listing(ino)) for ino in range(1, 6)],
                    [sorted(journal.places(ino)) for ino in range(1, 6)],
                    journal.doubts(),
                )
            )
            journal.close()
    assert held[0] == held[1]
