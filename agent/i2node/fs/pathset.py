"""Which paths below a rule's root are left out. Pure; paths are bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from fnmatch import fnmatchcase

from i2node.errors import UsageError
from i2node.model import show

_GLOB = frozenset(b"*?[")


def normal(path: bytes) -> bytes:
    """An absolute path without doubled or trailing '/', '.' and '..', by its text alone."""
    return b"/" + posixpath.normpath(path).lstrip(b"/")


class PathSet:
    """The excludes of one rule.

    root: absolute path. excludes, each one of
      - an absolute path: that path and all below it. Glob characters in it are plain characters,
        for they are legal in file names;
      - a path relative to root, without glob characters: the same, from the root;
      - a relative pattern with *, ? or [ and no '/': every name that matches, at any depth;
      - a relative pattern with one of them and a '/': matched from the root, part by part (a `*`
        never crosses a '/', and there is no `**`).
    A trailing '/' is allowed behind any of them, also behind the name of a file, and means nothing.
    Empty strings are passed over. Patterns follow fnmatch(3) as Python's fnmatch has it.

    `outside` lists the excludes that do not lie below root; they have no effect.
    Raises UsageError when root is not absolute, a path holds a NUL, or root itself or a directory
    above it is excluded.
    """

    __slots__ = (
        "_anchored",
        "_exact",
        "_floating",
        "_last",
        "_skip",
        "has_globs",
        "outside",
        "root",
    )

    def __init__(self, root: bytes, excludes: Iterable[bytes]) -> None:
        if not root.startswith(b"/") or b"\0" in root:
            raise UsageError(f"the root {show(root)!r} is not an absolute path")
        self.root = normal(root)
        exact: set[bytes] = set()
        floating: list[bytes] = []
        anchored: list[tuple[bytes, ...]] = []
        outside: list[bytes] = []
        for given in excludes:
            if b"\0" in given:
                raise UsageError(f"the exclude {show(given)!r} holds a NUL byte")
            if not given:
                continue
            if not given.startswith(b"/") and not _GLOB.isdisjoint(given):
                parts = tuple(p for p in given.split(b"/") if p not in (b"", b"."))
                if b".." in parts:
                    outside.append(given)
                elif len(parts) == 1:
                    floating.append(parts[0])
                else:
                    anchored.append(parts)
                continue
            relative = self._relative(given)
            if relative is None:
                outside.append(given)
            elif not relative:
                raise UsageError(
                    f"the exclude {show(given)!r} leaves nothing of the root {show(self.root)!r}",
                    "remove the exclude, or remove the rule",
                )
            else:
                exact.add(relative)
        self._exact = frozenset(exact)
        self._floating = tuple(floating)
        self._anchored = tuple(anchored)
        self.outside = tuple(outside)
        self.has_globs = bool(floating or anchored)
        skip: dict[bytes, list[bytes]] = {}
        for path in sorted(exact):
            parent, name = posixpath.split(path)
            skip.setdefault(parent, []).append(name)
        self._skip = {parent: tuple(names) for parent, names in skip.items()}
        self._last = frozenset(posixpath.basename(path) for path in exact)

    def _relative(self, path: bytes) -> bytes | None:
        """Relative to root; b"" when it covers the root, None when it lies elsewhere."""
        at_root = self.root if self.root == b"/" else self.root + b"/"
        whole = normal(path if path.startswith(b"/") else at_root + path)
        if whole.startswith(at_root) and whole != at_root:
            return whole[len(at_root) :]
        above = whole if whole == b"/" else whole + b"/"
        return b"" if at_root.startswith(above) else None

    def __bool__(self) -> bool:
        """False when nothing is excluded."""
        return bool(self._exact) or self.has_globs

    @property
    def exact(self) -> frozenset[bytes]:
        """The paths left out with all below them, relative to root; patterns are not among them."""
        return self._exact

    def skip(self, dir_rel: bytes) -> tuple[bytes, ...]:
        """Exact names left out in a directory (relative to root, b"" the root), sorted."""
        return self._skip.get(dir_rel, ())

    def may_match(self, name: bytes) -> bool:
        """False when no entry of that name can be excluded in any directory that is not itself
        excluded: spares the caller to find out the directory's path."""
        if name in self._last:
            return True
        return self.has_globs and (
            any(fnmatchcase(name, p) for p in self._floating)
            or any(fnmatchcase(name, parts[-1]) for parts in self._anchored)
        )

    def matches(self, dir_rel: bytes, name: bytes) -> bool:
        """Whether this name is left out in a directory that is not left out itself."""
        return self._by(dir_rel, name) is not None

    def _by(self, dir_rel: bytes, name: bytes) -> bytes | None:
        """What leaves it out: a path or a pattern, relative to root."""
        path = dir_rel + b"/" + name if dir_rel else name
        if name in self._skip.get(dir_rel, ()):
            return path
        for floating in self._floating:
            if fnmatchcase(name, floating):
                return floating
        parts = path.split(b"/") if self._anchored else []
        for pattern in self._anchored:
            if len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)):
                return b"/".join(pattern)
        return None

    def concerns(self, dir_rel: bytes) -> bool:
        """Whether what is left out below a directory depends on where the directory stands."""
        below = dir_rel + b"/" if dir_rel else b""
        return bool(self._anchored) or any(path.startswith(below) for path in self._exact)

    def excluded(self, rel: bytes) -> bool:
        """Whether a path relative to root, or a directory above it, is left out."""
        return self.reason(rel) is not None

    def reason(self, rel: bytes) -> bytes | None:
        """What leaves out a path relative to root, or a directory above it: a path or a pattern,
        both relative to root; None when nothing does."""
        parent = b""
        for name in rel.split(b"/") if rel else ():
            by = self._by(parent, name)
            if by is not None:
                return by
            parent = parent + b"/" + name if parent else name
        return None
