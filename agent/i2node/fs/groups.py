"""Names that renames connect: what is to be looked at together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from i2node.fs.halves import Place


class Groups:
    """Takes memory by the name, however many renames were among them: a few names that change
    places for days have as many pairs as there can be."""

    def __init__(self) -> None:
        self._group: dict[Place, set[Place]] = {}  # one set for all that are in it

    def __len__(self) -> int:
        """Names that are in a group."""
        return len(self._group)

    def connect(self, one: Place, other: Place) -> None:
        """These two, and what either is connected with, are one group from now on."""
        few, many = sorted((self._group.get(place, {place}) for place in (one, other)), key=len)
        if few is not many:
            many |= few
            self._group.update(dict.fromkeys(few, many))
            self._group[one] = self._group[other] = many

    def pop(self, place: Place) -> Iterable[Place]:
        """The group that a name is in, with itself, which is none any more; empty: in none."""
        group = self._group.get(place, ())
        for one in group:
            del self._group[one]
        return group

    def keep(self, known: Callable[[int, bytes], bool]) -> None:
        """Forgets all names but these; the others stay connected by them."""
        for place in [place for place in self._group if not known(*place)]:
            self._group.pop(place).discard(place)

    def clear(self) -> None:
        """Forgets all."""
        self._group.clear()
