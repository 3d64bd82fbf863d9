"""The tree of directories, against a model that knows only each directory's true path."""

from hypothesis import given
from hypothesis import strategies as st

from i2node.fs.dirtree import DirTree

ROOT = 2


def test_places_and_descriptors() -> None:
    tree = DirTree(ROOT, 1)
    assert tree.path(ROOT) == b""
    assert tree.add(10, 5, ROOT, b"a") == []
    assert tree.add(11, 6, 10, b"b") == []
    assert tree.path(11) == b"a/b"
    assert tree.by_wd(6) == 11
    assert tree.child(10, b"b") == 11
    assert tree.place(11) == (10, b"b")
    assert tree.path(99) is None
    assert tree.by_wd(99) is None
    assert tree.wd(99) == -1
    assert len(tree) == 3
    assert sorted(tree.remove(10)) == [5, 6]
    assert tree.remove(10) == []
    assert tree.by_wd(6) is None
    assert set(tree) == {ROOT}


def test_what_was_not_met_is_told_by_the_highest() -> None:
    tree = DirTree(1)
    for ino, parent, name in ((2, 1, b"a"), (3, 2, b"b"), (4, 3, b"c"), (5, 1, b"d"), (6, 5, b"e")):
        tree.add(ino, -1, parent, name)
    assert tree.unmet({1, 2, 3, 4, 5, 6}) == []
    assert tree.unmet({1, 2, 5}) == [3, 6]
    tree.add(7, -1, 1, b"d")  # takes the place of 5
    assert tree.unmet({1, 2, 3, 4, 6, 7}) == [5]


def test_moving_takes_all_below_along_and_keeps_the_highest_mark() -> None:
    tree = DirTree(ROOT, 1)
    tree.add(10, 5, ROOT, b"a")
    tree.add(11, 6, 10, b"b")
    tree.add(12, 7, ROOT, b"c")
    assert tree.move(10, 12, b"x", mark=9) == []
    assert tree.path(11) == b"c/x/b"
    assert tree.moved(10) == 9
    tree.move(10, ROOT, b"a", mark=3)
    assert tree.moved(10) == 9


def test_a_displaced_directory_stays_known_without_a_path() -> None:
    tree = DirTree(ROOT, 1)
    tree.add(10, 5, ROOT, b"a")
    tree.add(11, 6, ROOT, b"b")
    tree.move(10, ROOT, b"b")
    assert tree.path(10) == b"b"
    assert tree.path(11) is None
    assert tree.place(11) == (ROOT, b"b")
    tree.move(11, ROOT, b"a")  # the second half of an exchange
    assert (tree.path(10), tree.path(11)) == (b"b", b"a")


def test_a_move_below_itself_or_to_nowhere_removes() -> None:
    tree = DirTree(ROOT, 1)
    tree.add(10, 5, ROOT, b"a")
    tree.add(11, 6, 10, b"b")
    assert sorted(tree.move(10, 11, b"c")) == [5, 6]
    tree.add(10, 7, ROOT, b"a")
    assert tree.move(10, 77, b"a") == [7]
    assert tree.move(ROOT, 10, b"a") == []
    assert set(tree) == {ROOT}


def test_a_reused_inode_number_drops_what_was_below_the_old_one() -> None:
    tree = DirTree(ROOT, 1)
    tree.add(10, 5, ROOT, b"a")
    tree.add(11, 6, 10, b"b")
    assert sorted(tree.add(10, 8, ROOT, b"z")) == [5, 6]
    assert tree.path(10) == b"z"
    assert tree.by_wd(5) is None
    assert 11 not in tree
    assert tree.add(ROOT, 9, 0, b"") == [1]
    assert tree.by_wd(9) == ROOT


def test_parents_that_name_each_other_do_not_hang() -> None:
    tree = DirTree(ROOT, 1)
    tree.add(10, 5, 11, b"a")  # its parent is not known yet
    tree.add(11, 6, 10, b"b")
    tree.add(12, 7, ROOT, b"c")
    assert tree.path(10) is None
    tree.move(12, 10, b"d")
    assert tree.path(12) is None
    tree.add(10, 5, ROOT, b"a")
    assert tree.path(12) == b"a/d"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "move", "remove"]),
        st.integers(0, 30),
        st.integers(0, 30),
        st.sampled_from([b"a", b"b", b"c", b"d"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_against_the_model(steps: list[tuple[str, int, int, bytes]]) -> None:
    tree = DirTree(ROOT, 1)
    model: dict[int, tuple[bytes, ...]] = {ROOT: ()}
    wds = {ROOT: 1}
    for number, (what, pick, other, name) in enumerate(steps, start=100):
        some = sorted(model)[pick % len(model)]
        parent = sorted(model)[other % len(model)]
        place = (*model[parent], name)
        if what == "add" and place not in model.values():
            assert tree.add(number, number, parent, name) == []
            model[number] = place
            wds[number] = number
        elif what == "move" and some != ROOT:
            old = model[some]
            below = model[parent][: len(old)] == old
            if below:
                expected = {i for i, p in model.items() if p[: len(old)] == old}
                assert sorted(tree.move(some, parent, name)) == sorted(wds[i] for i in expected)
                for ino in expected:
                    del model[ino]
            elif place not in model.values() or place == old:
                assert tree.move(some, parent, name) == []
                for ino, path in list(model.items()):
                    if path[: len(old)] == old:
                        model[ino] = place + path[len(old) :]
        elif what == "remove" and some != ROOT:
            gone = {i for i, p in model.items() if p[: len(model[some])] == model[some]}
            assert sorted(tree.remove(some)) == sorted(wds[i] for i in gone)
            for ino in gone:
                del model[ino]
        assert len(tree) == len(model)
        for ino, path in model.items():
            assert tree.path(ino) == b"/".join(path)
            assert tree.by_wd(wds[ino]) == ino
            if path:
                above = next(i for i, p in model.items() if p == path[:-1])
                assert tree.child(above, path[-1]) == ino
