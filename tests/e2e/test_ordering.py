"""What the target passes through while names are worked on at the source: states that the source
was in. An onlooker looks at the target all the time."""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import assert_equal, until

ROUNDS = 1000
EXCHANGE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    a, b = os.fsencode(one), os.fsencode(other)
    if LIBC.renameat2(-100, a, -100, b, EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def text(n: int) -> bytes:
    """A version of a file: it tells its own number, and whether it is whole."""
    return b"%d\n" % n * 1000


class Editor:
    """An editor, a log and a package, each of which replaces a file so that it is always there."""

    names = ("saved", "linked", "swapped a", "swapped b", "packaged/file")

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "packaged").mkdir()
        for name in self.names:
            (top / name).write_bytes(text(0))

    def act(self, n: int) -> None:
        top = self.top
        (top / ".saved.swp").write_bytes(text(n))
        (top / ".saved.swp").rename(top / "saved")
        # dpkg: the old version gets a second name, the new one comes over it
        file = top / "packaged" / "file"
        (top / "packaged" / "file.dpkg-new").write_bytes(text(n))
        os.link(file, top / "packaged" / "file.dpkg-tmp")
        (top / "packaged" / "file.dpkg-new").rename(file)
        (top / "packaged" / "file.dpkg-tmp").unlink()
        exchange(top / "swapped a", top / "swapped b")
        # a link that is pointed elsewhere: made beside, then renamed over
        (top / "next").write_bytes(text(n))
        os.link(top / "next", top / "linked.new")
        (top / "linked.new").rename(top / "linked")
        (top / "next").unlink()

    def wrong(self, top: Path) -> str | None:
        for name in self.names:
            try:
                found = (top / name).read_bytes()
            except FileNotFoundError:
                return f"{name} is missing"
            if found != text(int(found[: found.find(b"\n")] or b"-1")):
                return f"{name} is torn"
        return None


class Mover:
    """A file and a directory that are always somewhere, in one of two places."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for side in ("here", "there"):
            (top / side).mkdir()
        (top / "here" / "file").write_bytes(text(1))
        (top / "here" / "dir").mkdir()
        (top / "here" / "dir" / "in it").write_bytes(text(1))

    def act(self, n: int) -> None:
        sides = (self.top / "here", self.top / "there")
        one, other = sides if n % 2 else sides[::-1]
        for name in ("file", "dir"):
            (one / name).rename(other / name)

    def wrong(self, top: Path) -> str | None:
        for name in ("file", "dir/in it"):
            # Twice: it may move past us, between the look here and that there.
            if not any(
                (top / side / name).exists() for _ in range(4) for side in ("here", "there")
            ):
                return f"{name} is nowhere"
        return None


class Rotated:
    """logrotate: the log becomes the first old one, that the second, over what was there, and a new
    one comes in its place."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.newest = 0
        for n in range(3):
            (top / f"log.{n}").write_bytes(text(n))

    def act(self, n: int) -> None:
        for old in (1, 0):
            (self.top / f"log.{old}").rename(self.top / f"log.{old + 1}")
        (self.top / "log.new").write_bytes(text(n))
        (self.top / "log.new").rename(self.top / "log.0")

    def wrong(self, top: Path) -> str | None:
        try:
            found = (top / "log.2").read_bytes()
        except FileNotFoundError:
            return "log.2 is missing"
        return None if found == text(int(found[: found.find(b"\n")])) else "log.2 is torn"


class Onlooker:
    """Looks all the time, in a thread."""

    def __init__(self, wrong: Callable[[Path], str | None], top: Path) -> None:
        self.found: str | None = None
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(wrong, top))
        self._thread.start()

    def _look(self, wrong: Callable[[Path], str | None], top: Path) -> None:
        while not self._over.is_set() and self.found is None:
            self.found = wrong(top)
            self.looks += 1

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("engine", ["fanotify", "inotify"])
@pytest.mark.parametrize("work", [Editor, Mover, Rotated])
def test_only_states_that_the_source_was_in(hosts, trees, work, engine):
    doer = work(trees.source)
    hosts.source.configure(watch=engine)
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    onlooker = Onlooker(doer.wrong, trees.target)
    for n in range(1, ROUNDS):
        doer.act(n)
    until("in sync", lambda: (report := hosts.source.status()) and report.in_sync)
    onlooker.end()
    hosts.source.configure()
    assert onlooker.found is None
    assert onlooker.looks > 100
    assert_equal(trees.source, trees.target)
    assert mirror.end() == 0
