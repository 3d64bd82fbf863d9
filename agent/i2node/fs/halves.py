"""The halves of moves, put together."""

from __future__ import annotations

from typing import TypeVar

KEPT = 4096
"""Halves of moves, and as many whole ones: nothing more comes of the oldest."""

Place = tuple[int, bytes]
"""Inode number of the parent, name."""
_Key = TypeVar("_Key", int, Place)


class Halves:
    """The parents tell from where and, with the same cookie, to where something moved; of a
    directory only itself tells that it was the one, later. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._from: dict[int, Place] = {}  # by cookie
        self._pairs: dict[Place, Place] = {}  # from -> to

    def leaves(self, cookie: int, place: Place) -> None:
        _keep(self._from, cookie, place)
        self._pairs.pop(place, None)  # of one that left from here before, unknown to the tree

    def source(self, cookie: int) -> Place | None:
        """From where something came that came now; told once."""
        return self._from.pop(cookie, None)

    def pair(self, source: Place, target: Place) -> None:
        """Both halves are there, and it is not known yet of what."""
        _keep(self._pairs, source, target)

    def target(self, source: Place) -> Place | None:
        """To where the directory moved that left this place; told once."""
        return self._pairs.pop(source, None)

    def clear(self) -> None:
        self._from.clear()
        self._pairs.clear()


def _keep(moves: dict[_Key, Place], key: _Key, place: Place) -> None:
    if len(moves) >= KEPT:
        del moves[next(iter(moves))]
    moves[key] = place
