from i2node.fs.moves import KEPT, Moves


def test_each_half_is_told_once():
    moves = Moves()
    moves.leaves(5, (1, b"a"))
    assert moves.source(6) is None
    assert moves.source(5) == (1, b"a") and moves.source(5) is None
    moves.pair((1, b"a"), (2, b"b"))
    assert moves.target((2, b"b")) is None
    assert moves.target((1, b"a")) == (2, b"b") and moves.target((1, b"a")) is None


def test_another_that_leaves_from_there_has_nothing_to_do_with_the_pair():
    moves = Moves()
    moves.pair((1, b"a"), (2, b"b"))
    moves.leaves(7, (1, b"a"))
    assert moves.target((1, b"a")) is None and moves.source(7) == (1, b"a")


def test_the_oldest_are_dropped():
    moves = Moves()
    for i in range(KEPT + 1):
        moves.leaves(i, (i, b"a"))
        moves.pair((i, b"b"), (i, b"c"))
    assert moves.source(0) is None and moves.source(1) == (1, b"a")
    assert moves.target((0, b"b")) is None and moves.target((KEPT, b"b")) == (KEPT, b"c")
    moves.clear()
    assert moves.source(2) is None and moves.target((2, b"b")) is None
