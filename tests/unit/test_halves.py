from i2node.fs.halves import KEPT, Halves


def test_each_half_is_told_once():
    halves = Halves()
    halves.leaves(5, (1, b"a"))
    assert halves.source(6) is None
    assert halves.source(5) == (1, b"a") and halves.source(5) is None
    halves.pair((1, b"a"), (2, b"b"))
    assert halves.target((2, b"b")) is None
    assert halves.target((1, b"a")) == (2, b"b") and halves.target((1, b"a")) is None


def test_another_that_leaves_from_there_has_nothing_to_do_with_the_pair():
    halves = Halves()
    halves.pair((1, b"a"), (2, b"b"))
    halves.leaves(7, (1, b"a"))
    assert halves.target((1, b"a")) is None and halves.source(7) == (1, b"a")


def test_the_oldest_are_dropped():
    halves = Halves()
    for i in range(KEPT + 1):
        halves.leaves(i, (i, b"a"))
        halves.pair((i, b"b"), (i, b"c"))
    assert halves.source(0) is None and halves.source(1) == (1, b"a")
    assert halves.target((0, b"b")) is None and halves.target((KEPT, b"b")) == (KEPT, b"c")
    halves.clear()
    assert halves.source(2) is None and halves.target((2, b"b")) is None
