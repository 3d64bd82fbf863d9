"""Where each directory of a source stands, by what was last seen or told."""

from __future__ import annotations

from collections.abc import Iterator


class _Node:
    __slots__ = ("children", "ino", "moved", "name", "parent", "wd")

    def __init__(self, ino: int, wd: int, parent: int, name: bytes) -> None:
        self.ino = ino
        self.wd = wd
        self.parent = parent
        self.name = name
        self.moved = 0
        # Most directories have no directory in them, and an empty dict costs more than the node.
        self.children: dict[bytes, int] | None = None


class DirTree:
    """Directories by inode number, watch descriptor and place. Not locked: its owner does that.

    What is told may come late, so the tree allows for a directory that lost its place: when
    another one is put where it stood it stays known, without a path, until it is moved or removed.
    """

    def __init__(self, root: int, wd: int = -1) -> None:
        """root: inode number of the root. wd: a watch descriptor, below 0 for none."""
        self.root = root
        self._nodes: dict[int, _Node] = {}
        self._by_wd: dict[int, _Node] = {}
        self.add(root, wd, 0, b"")

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def watched(self) -> int:
        """How many of them have a watch descriptor."""
        return len(self._by_wd)

    def __contains__(self, ino: int) -> bool:
        return ino in self._nodes

    def __iter__(self) -> Iterator[int]:
        return iter(self._nodes)

    def add(self, ino: int, wd: int, parent: int, name: bytes) -> list[int]:
        """Makes a directory known at a place; one that is known is moved there. The root keeps its
        place. A known directory with another descriptor is a new one that got an old inode number:
        what stood below the old one is forgotten. wd below 0 leaves a known descriptor as it is.
        Returns the descriptors that belong to nothing any more."""
        node = self._nodes.get(ino)
        dropped: list[int] = []
        if node is not None and wd >= 0 and node.wd not in (wd, -1):
            if ino == self.root:
                dropped = [node.wd]
                del self._by_wd[node.wd]
            else:
                dropped = self.remove(ino)
                node = None
        if node is None:
            node = self._nodes[ino] = _Node(ino, -1, parent, name)
            self._attach(node)
        elif (node.parent, node.name) != (parent, name) or self.child(parent, name) != ino:
            dropped += self.move(ino, parent, name)
            if ino not in self._nodes:
                return dropped
        if wd >= 0 and node.wd != wd:
            node.wd = wd
            self._by_wd[wd] = node
        return dropped

    def move(self, ino: int, parent: int, name: bytes, mark: int = 0) -> list[int]:
        """Puts a known directory, with all below it, to another place. mark is kept with it (see
        `moved`). A parent that is not known, or lies below the directory itself, means that the
        belief about either is wrong: then the directory is removed. The root never moves.
        Returns the descriptors that belong to nothing any more."""
        node = self._nodes[ino]
        if ino == self.root:
            return []
        if parent not in self._nodes or self._is_below(parent, ino):
            return self.remove(ino)
        self._detach(node)
        node.parent = parent
        node.name = name
        node.moved = max(node.moved, mark)
        self._attach(node)
        return []

    def touch(self, ino: int, mark: int) -> None:
        """The directory moved, but it is not known where: only the mark is kept."""
        self._nodes[ino].moved = max(self._nodes[ino].moved, mark)

    def remove(self, ino: int) -> list[int]:
        """Forgets a directory and all below it; what is not known is passed over. Returns their
        watch descriptors."""
        node = self._nodes.get(ino)
        if node is None:
            return []
        self._detach(node)
        wds: list[int] = []
        left = [ino]
        while left:
            gone = self._nodes.pop(left.pop())
            if gone.wd >= 0:
                wds.append(gone.wd)
                del self._by_wd[gone.wd]
            if gone.children:
                left.extend(gone.children.values())
        return wds

    def path(self, ino: int) -> bytes | None:
        """Relative to the root, b"" for the root; None when it has no place in the tree."""
        names: list[bytes] = []
        while ino != self.root:
            node = self._nodes.get(ino)
            if node is None or self.child(node.parent, node.name) != ino:
                return None
            names.append(node.name)
            ino = node.parent
        names.reverse()
        return b"/".join(names)

    def place(self, ino: int) -> tuple[int, bytes] | None:
        """(inode number of the parent, name) last told, also when another took that place since."""
        node = self._nodes.get(ino)
        return None if node is None else (node.parent, node.name)

    def by_wd(self, wd: int) -> int | None:
        """The directory's inode number, or None."""
        node = self._by_wd.get(wd)
        return None if node is None else node.ino

    def wd(self, ino: int) -> int:
        """The watch descriptor, -1 for none."""
        node = self._nodes.get(ino)
        return -1 if node is None else node.wd

    def moved(self, ino: int) -> int:
        """The highest mark that `move` or `touch` was given for it, 0 at first."""
        node = self._nodes.get(ino)
        return 0 if node is None else node.moved

    def child(self, parent: int, name: bytes) -> int | None:
        """The directory that stands at a place, or None."""
        node = self._nodes.get(parent)
        return None if node is None or node.children is None else node.children.get(name)

    def children(self, parent: int) -> dict[bytes, int]:
        """All directories that stand in one: name → inode number."""
        node = self._nodes.get(parent)
        return dict(node.children) if node is not None and node.children else {}

    def unwatched(self) -> list[int]:
        """Those that have no watch descriptor."""
        return [node.ino for node in self._nodes.values() if node.wd < 0]

    def unmet(self, met: set[int]) -> list[int]:
        """Those that are not among these, without what is below one of them."""
        return [
            node.ino
            for node in self._nodes.values()
            if node.ino not in met and (node.parent in met or node.parent not in self._nodes)
        ]

    def _attach(self, node: _Node) -> None:
        if node.ino == self.root:
            return
        parent = self._nodes.get(node.parent)
        if parent is None:
            return
        if parent.children is None:
            parent.children = {}
        parent.children[node.name] = node.ino

    def _detach(self, node: _Node) -> None:
        parent = self._nodes.get(node.parent)
        if parent is not None and parent.children and parent.children.get(node.name) == node.ino:
            del parent.children[node.name]
            if not parent.children:
                parent.children = None

    def _is_below(self, ino: int, above: int) -> bool:
        """Whether `above` is met on the way up from ino (or is it). Only places that are held
        count: a directory that lost its place may still name a parent that is below it now."""
        while ino != above:
            node = self._nodes.get(ino)
            if node is None or self.child(node.parent, node.name) != ino:
                return False
            ino = node.parent
        return True
