"""What memory does not hold of the dirty set: nothing of it is lost, and all comes in its turn."""

from __future__ import annotations

from collections.abc import Callable

from i2node.fs.coalesce import Dirty
from i2node.fs.touch import Room, Touch, Waiting, Work


class Shelf:
    """A place to spill to, as simple as can be."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, bytes], tuple[int, float]] = {}
        self.refuses = False
        self.pauses = 0
        self.taking: Callable[[], None] = lambda: None

    def add(self, ino: int, name: bytes, touch: int, since: float) -> bool:
        if not self.refuses:
            known, first = self.kept.get((ino, name), (0, since))
            self.kept[ino, name] = (known | touch, first)
        return not self.refuses

    def discard(self, ino: int) -> None:
        self.kept = {key: value for key, value in self.kept.items() if key[0] != ino}

    def take(self, names: int, most: int) -> list[Work]:
        works = [
            Work(ino, {name: Touch(touch)}, False, frozenset(), since)
            for (ino, name), (touch, since) in list(self.kept.items())[:names]
        ]
        self.taking()
        return works

    def taken(self) -> None:
        self.kept.clear()

    def find(self, ino: int, name: bytes) -> tuple[int, float] | None:
        return self.kept.get((ino, name))

    def pause(self) -> None:
        self.pauses += 1

    def count(self) -> int:
        return len(self.kept)

    def oldest(self) -> float | None:
        return min((since for _, since in self.kept.values()), default=None)


def spilling() -> tuple[Dirty, Shelf]:
    """One name in memory, two on the shelf."""
    dirty, shelf = Dirty(in_memory=1), Shelf()
    dirty.add(1, b"a", Touch.DATA, 2.0)
    dirty.spill_to(shelf)
    dirty.add_all([(2, b"b", 1), (3, b"c", 1)], 3.0)
    assert set(shelf.kept) == {(2, b"b"), (3, b"c")}
    return dirty, shelf


def test_what_is_beyond_memory_is_spilled_and_comes_back() -> None:
    dirty, shelf = spilling()
    assert shelf.pauses == 1
    dirty.add(1, b"a", Touch.ATTR, 4.0)  # known in memory
    assert len(shelf.kept) == 2
    works = dirty.take(2, 5.0)
    assert works == [
        Work(1, {b"a": Touch.DATA | Touch.ATTR}, False, frozenset(), 2.0),
        Work(2, {b"b": Touch.DATA}, False, frozenset(), 3.0),
    ]
    dirty.add(4, b"d", Touch.DATA, 6.0)
    assert [work.ino for work in dirty.take(2, 7.0)] == [3, 4]


def test_what_is_spilled_is_to_be_taken_and_ages() -> None:
    dirty, shelf = spilling()
    dirty.discard(1)
    assert dirty.count() == 2
    assert dirty.oldest(10.0) == 7.0
    assert dirty.next_due(10.0) == 0.0
    assert dirty.wait(0.0) is True
    dirty.discard(2)
    dirty.discard(3)
    assert (dirty.count(), dirty.next_due(10.0), shelf.kept) == (0, None, {})


def test_as_long_as_something_is_spilled_new_names_line_up_behind_it() -> None:
    dirty, shelf = spilling()
    dirty.discard(1)  # memory is empty
    dirty.add(9, b"new", Touch.DATA, 4.0)
    assert (9, b"new") in shelf.kept


def test_a_directory_that_goes_while_it_comes_back_is_gone() -> None:
    dirty, shelf = spilling()
    shelf.taking = lambda: dirty.discard(2)
    assert [work.ino for work in dirty.take(9, 5.0)] == [1, 3]
    assert dirty.count() == 0


def test_what_cannot_be_spilled_makes_its_directory_dirty_as_a_whole() -> None:
    dirty, shelf = spilling()
    shelf.refuses = True
    dirty.add(4, b"d", Touch.NAME | Touch.TREE, 5.0)
    whole = Work(4, None, False, frozenset([b"d"]), 5.0)
    assert whole in dirty.take(9, 6.0)


def test_renames_of_what_is_spilled_take_no_memory() -> None:
    dirty, shelf = spilling()
    for number in range(9):
        one, other = (5, b"tmp%d" % number), (6, b"%d" % number)
        dirty.add_all([(*one, Touch.NAME), (*other, Touch.NAME)], 4.0, [(one, other)])
    assert len(shelf.kept) == 2 + 2 * 9
    assert not dirty._renamed
    taken = [(work.ino, name) for work in dirty.take(99, 5.0) for name in work.names or ()]
    assert len(taken) == len(set(taken)) == 3 + 2 * 9


def test_how_a_name_waits_is_told_wherever_it_is() -> None:
    dirty, _ = spilling()
    assert dirty.waiting(1, b"a") == Waiting(Room.MEMORY, Touch.DATA, 2.0)
    assert dirty.waiting(2, b"b") == Waiting(Room.DISK, Touch.DATA, 3.0)
    assert dirty.waiting(1, b"b") is dirty.waiting(9, b"a") is None
    dirty.take(9, 5.0)
    assert dirty.waiting(2, b"b") == Waiting(Room.HAND, Touch(0), 3.0)
    dirty.take(9, 5.01)
    assert dirty.waiting(2, b"b") is None
    # Touched again so soon it is held back.
    dirty.add(2, b"b", Touch.ATTR, 5.015)
    held = dirty.waiting(2, b"b")
    assert held is not None and held.touch == Touch.ATTR
    assert held.due is not None and held.due > 5.015
    dirty.add_dir(2, False, 5.1)
    assert dirty.waiting(2, b"x") == Waiting(Room.MEMORY, Touch(0), 5.015, None, True)
    dirty.add_dir(3, True, 5.1)
    assert dirty.waiting(3, b"c") == Waiting(Room.MEMORY, Touch(0), 5.1, None, True, True)
    dirty.take(9, 9.0)
    assert dirty.waiting(2, b"x") == Waiting(Room.HAND, Touch(0), 5.015, None, True)
