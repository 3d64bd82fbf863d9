"""What raises no event in the tree arrives all the same; each with real nodes, real processes and
a real kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from ends import CONFIG, Hosts, until
from nursery import Nursery

import tmpfs
from i2node.config import Config
from i2node.fs.coalesce import Dirty
from i2node.fs.inotify import InotifyWatch
from i2node.fs.pathset import PathSet
from i2node.fs.root import Root
from i2node.repl.journal import Journal
from i2node.repl.report import RuleReport
from i2node.repl.vigil import Vigil
from inodes import APPEND, CARRIED, IMMUTABLE, NODUMP, give, inode_of, unlock

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="looking into other processes needs root"),
]

LARGE = 1 << 20
SELDOM = 3600.0  # seconds: not while a test runs
_libc = ctypes.CDLL(None, use_errno=True)


class Scene:
    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.hosts = Hosts(place, nursery)
        self.source, self.target = self.hosts.source, self.hosts.target
        self.outside = place / "outside"
        self.outside.mkdir()

    def follow(self, sweep: float, slow: float = SELDOM) -> None:
        """Mirrors what stands there, and goes on with it."""
        text = f"{CONFIG}sweep_s = {sweep}\nslow_sweep_s = {slow}\n"
        (self.hosts.homes["here"] / "etc" / "i2node.toml").write_text(text)
        self.hosts.quiesce()
        until("no sweep", lambda: sweep == SELDOM or self.report().watch.max_undetected_s)

    def report(self) -> RuleReport:
        report = self.hosts.report()
        assert report is not None
        return report

    def arrives(self, name: str) -> None:
        here, there = self.source / name, self.target / name
        until(
            f"{name} did not arrive: {self.hosts.tail('here')}",
            lambda: there.is_file() and there.read_bytes() == here.read_bytes(),
        )

    def write(self, name: str, size: int = 8192, content: bytes = b"0") -> Path:
        file = self.source / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((content * size)[:size])
        return file


@contextmanager
def scene_in(directory: str, nursery: Nursery) -> Iterator[Scene]:
    place = Path(tempfile.mkdtemp(prefix="i2node-unseen-", dir=directory))
    made = Scene(place, nursery)
    try:
        yield made
    finally:
        made.hosts.close()
        shutil.rmtree(place)


@pytest.fixture
def scene(nursery: Nursery) -> Iterator[Scene]:
    with scene_in("/var/tmp", nursery) as made:
        yield made


@pytest.fixture
def apart(scene: Scene) -> Iterator[Scene]:
    """The source on a file system of its own: nobody's syncfs(2) writes it back."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    image = scene.outside / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with loop_over(image) as device:
        mount(device, scene.source)
        try:
            yield scene
        finally:
            scene.hosts.kill_source()
            subprocess.run(["umount", "--lazy", scene.source], check=True)


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """By this process, which is not the mirror's."""
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as m:
        yield m


def untraced(file: Path, write: Callable[[], None]) -> bool:
    """Does it; whether it left no trace in the file's times."""
    before = file.stat()
    write()
    after = file.stat()
    return (before.st_ctime_ns, before.st_mtime_ns) == (after.st_ctime_ns, after.st_mtime_ns)


def unseen_write(scene: Scene, file: Path, m: mmap.mmap, number: int) -> None:
    """Writes to a page that is dirty and was sent, so that nothing tells of it."""
    there = scene.target / file.name
    for attempt in range(20):
        m[:4] = b"%2d%2d" % (number, attempt)
        file.chmod(0o600 + attempt % 8)
        until("the mode", lambda: there.stat().st_mode == file.stat().st_mode)
        scene.arrives(file.name)
        # And once more, so that it is not taken for one that changed a moment ago.
        settled(scene.outside)
        os.close(os.open(file, os.O_WRONLY))
        scene.hosts.quiesce()
        if untraced(file, lambda: m.__setitem__(slice(4, 8), b"%4d" % number)):
            return  # else the page was written back meanwhile
    pytest.fail("each write leaves a trace")


def settled(directory: Path) -> None:
    """Returns when what changed before would not be racy any more (RACY in mover.h)."""
    probe = directory / "probe"
    probe.touch()
    begun = probe.stat().st_ctime_ns
    until("the time", lambda: (probe.touch() or probe.stat().st_ctime_ns) > begun + 40_000_000)


@pytest.mark.parametrize("size", [8192, LARGE])
def test_a_write_through_a_mapping(scene: Scene, size: int) -> None:
    file = scene.write("d/f", size)
    scene.follow(sweep=0.2)
    with mapped(file) as m:
        for content in (b"1", b"2", b"3"):
            m[size // 2 : size // 2 + 1] = content
            scene.arrives("d/f")
    scene.hosts.quiesce()
    assert scene.hosts.differences() == []


def test_a_write_through_a_mapping_on_a_file_system_without_stamps(nursery: Nursery) -> None:
    with tmpfs.directory() as shm, scene_in(str(shm), nursery) as scene:
        file = scene.write("f")
        scene.follow(sweep=0.2)
        with mapped(file) as m:
            assert m[0] == ord("0")  # so that the page is there, and may be written to
            for content in (b"1", b"2"):
                assert untraced(file, partial(m.__setitem__, slice(0, 1), content))
                scene.arrives("f")


@pytest.mark.parametrize("size", [8192, LARGE])
def test_a_write_to_a_page_that_was_sent_while_it_was_dirty(apart: Scene, size: int) -> None:
    file = apart.write("f", size)
    apart.follow(sweep=2.0)
    with mapped(file) as m:
        for round in range(3):
            unseen_write(apart, file, m, round)
            apart.arrives("f")


@pytest.mark.parametrize("size", [8192, LARGE])
@pytest.mark.parametrize("links", [1, 2])
def test_a_file_that_was_mapped_between_two_sweeps(apart: Scene, size: int, links: int) -> None:
    file = apart.write("f", size)
    if links > 1:
        os.link(file, apart.source / "g")
    apart.follow(sweep=SELDOM)
    with mapped(file) as m:
        unseen_write(apart, file, m, 0)
    apart.arrives("f")
    apart.hosts.quiesce()
    assert apart.hosts.differences() == []
    assert (apart.target / "f").stat().st_nlink == links


def test_a_mapping_in_another_mount_namespace(scene: Scene) -> None:
    scene.write("d/f")
    there = scene.target / "d" / "f"
    scene.follow(sweep=0.2)
    code = "import mmap, sys\nf = open('f', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\n"
    code += "for n, line in enumerate(sys.stdin): m[0:1] = line[:1].encode()\n"
    script = f'mount --bind "{scene.source / "d"}" "{scene.outside}" && cd "{scene.outside}"'
    words = ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]
    with subprocess.Popen([*words, sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        for content in (b"1", b"2"):
            child.stdin.write(content + b"\n")
            child.stdin.flush()
            until("the write to arrive", lambda c=content: there.read_bytes()[:1] == c)
        child.stdin.close()


@pytest.mark.parametrize("size", [8192, LARGE])
def test_a_write_under_a_name_outside_the_rule(scene: Scene, size: int) -> None:
    for name in ("before", "d/after"):
        scene.write(name, size)
    os.link(scene.source / "before", scene.outside / "before")
    scene.follow(sweep=0.2)
    os.link(scene.source / "d" / "after", scene.outside / "after")
    # The kernel tells nobody of that name; the next look at the file shows it.
    (scene.source / "d" / "after").chmod(0o640)
    until("the mode", lambda: (scene.target / "d" / "after").stat().st_mode & 0o777 == 0o640)
    for name in ("before", "after", "before"):
        inside = "before" if name == "before" else "d/after"
        with (scene.outside / name).open("r+b") as file:
            file.write(os.urandom(100))
        scene.arrives(inside)
    with mapped(scene.outside / "after") as m:
        for _ in range(2):
            m[:10] = os.urandom(10)
            scene.arrives("d/after")
    (scene.outside / "before").unlink()
    scene.hosts.quiesce()
    assert scene.hosts.differences() == []


def test_the_slow_sweep_finds_it_where_the_other_does_not(scene: Scene) -> None:
    scene.write("d/f")
    os.link(scene.source / "d" / "f", scene.outside / "f")
    scene.follow(sweep=SELDOM, slow=1.0)
    with (scene.outside / "f").open("r+b") as file:
        file.write(b"outside")
    scene.arrives("d/f")
    until("no bound", lambda: scene.report().watch.slow_sweep_s is not None)


def test_the_slow_sweep_finds_flags(scene: Scene) -> None:
    """No engine tells of chattr(1): only ctime does."""
    names = ("file", "d/file", "d")
    for name in names[:2]:
        scene.write(name)
    if not all(give(scene.source / name, NODUMP) for name in names):
        pytest.skip("no file flags here")
    scene.follow(sweep=SELDOM, slow=1.0)

    def flags(tree: Path) -> list[int]:
        return [inode_of(tree / name)[0] for name in names]

    assert flags(scene.target) == [NODUMP] * 3
    try:
        for wanted in (IMMUTABLE, APPEND):
            for name in names:
                assert give(scene.source / name, wanted, less=CARRIED)
            until("the flags", lambda wanted=wanted: flags(scene.target) == [wanted] * 3)
        unlock(scene.source)
        until("no flags", lambda: flags(scene.target) == [0] * 3)
    finally:
        unlock(scene.source)
        unlock(scene.target)


def test_a_file_that_is_written_to_without_events(scene: Scene) -> None:
    """By io_submit(2), as databases do: the kernel tells of none of that."""
    file = scene.write("d/f", LARGE)
    scene.follow(sweep=0.2)
    fd = os.open(file, os.O_RDWR)
    context = ctypes.c_ulong()
    assert _libc.syscall(206, 1, ctypes.byref(context)) == 0  # io_setup
    try:
        for content in (b"1", b"2"):
            buffer = ctypes.create_string_buffer(content * 4096, 4096)
            block = ctypes.create_string_buffer(
                struct.pack(
                    "<QIIHhIQQqQII",
                    0,
                    0,
                    0,
                    1,
                    0,
                    fd,
                    ctypes.addressof(buffer),
                    4096,
                    4096,
                    0,
                    0,
                    0,
                )
            )
            pointer = ctypes.pointer(ctypes.c_void_p(ctypes.addressof(block)))
            assert _libc.syscall(209, context, 1, pointer) == 1  # io_submit
            events = ctypes.create_string_buffer(32)
            assert _libc.syscall(208, context, 1, 1, events, None) == 1  # io_getevents
            assert os.pread(fd, 1, 4096) == content
            scene.arrives("d/f")
    finally:
        _libc.syscall(207, context)  # io_destroy
        os.close(fd)


@contextmanager
def loop_over(file: Path) -> Iterator[str]:
    done = subprocess.run(
        ["losetup", "--find", "--show", file], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_file_below_a_loop_device(scene: Scene) -> None:
    file = scene.write("image", LARGE)
    scene.follow(sweep=0.2)
    with loop_over(file) as device:
        for content in (b"1", b"2"):
            fd = os.open(device, os.O_RDWR)
            os.pwrite(fd, content * 4096, 8192)
            os.fsync(fd)
            os.close(fd)
            assert file.read_bytes()[8192:8193] == content
            scene.arrives("image")


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def test_a_mount_that_appears_and_goes(scene: Scene) -> None:
    for name in ("m/hidden", "m/deep/hidden", "beside"):
        (scene.source / name).parent.mkdir(parents=True, exist_ok=True)
        scene.write(name)
    scene.follow(sweep=SELDOM)
    point, way = scene.source / "m", scene.outside / "way"
    way.mkdir()
    mount("--bind", scene.source, way)
    try:
        mount("-t", "tmpfs", "none", point)
        try:
            until("the mount", lambda: scene.report().mounts == ("m",))
            (point / "foreign").write_text("of another file system")
            # What is hidden changes by another way.
            (way / "m" / "hidden").write_text("changed while hidden")
            (way / "m" / "deep" / "new").write_text("made while hidden")
            (way / "m" / "deep" / "dir").mkdir()
            scene.write("beside", content=b"1")
            scene.arrives("beside")
            scene.hosts.quiesce()
            assert scene.report().mounts == ("m",) and not scene.report().problems.count
            assert {p.name for p in (scene.target / "m").iterdir()} == {"hidden", "deep"}
            assert (scene.target / "m" / "hidden").read_bytes() == b"0" * 8192
        finally:
            subprocess.run(["umount", point], check=True)
        until("the mount to go", lambda: scene.report().mounts == ())
        scene.arrives("m/hidden")
        scene.hosts.quiesce()
        assert scene.hosts.differences() == []
        (point / "deep" / "dir" / "later").write_text("seen again")
        scene.arrives("m/deep/dir/later")
    finally:
        subprocess.run(["umount", "--lazy", way], check=True)


def test_what_is_excluded_is_left_alone(scene: Scene) -> None:
    file, other = scene.write("no/f"), scene.write("yes")
    scene.hosts.start_target()
    text = f"{CONFIG}sweep_s = 0.2\n"
    (scene.hosts.homes["here"] / "etc" / "i2node.toml").write_text(text)
    scene.hosts.start_source("--exclude", "no", "--exclude", "*.no")
    scene.hosts.quiesce()
    third = scene.write("g.no")
    with mapped(file) as m, mapped(other) as n, mapped(third) as o:
        for one in (m, o, n):
            one[:1] = b"1"
        scene.arrives("yes")
        scene.hosts.quiesce()
    assert not (scene.target / "no").exists() and not (scene.target / "g.no").exists()


def test_a_file_that_is_mapped_and_not_written_to_is_not_read_again(scene: Scene) -> None:
    file, beside = scene.write("f", 32 * LARGE), scene.outside / "beside"
    os.link(scene.write("g"), beside)
    scene.follow(sweep=0.1)
    with mapped(file) as m:
        m[:1] = b"1"
        scene.arrives("f")
        for sweep in range(4):
            if sweep == 1:  # the first may have come before the page was written to
                scene.hosts.quiesce()
                read = _read_bytes(scene)
            with beside.open("r+b") as opened:
                opened.write(os.urandom(8))
            scene.arrives("g")
        assert _read_bytes(scene) - read < 32 * LARGE


def _read_bytes(scene: Scene) -> int:
    """What the mirror has read so far, from the cache too (proc(5), io)."""
    lines = Path(f"/proc/{scene.report().pid}/io").read_text().splitlines()
    return int(lines[0].split()[1])


def test_the_status_says_the_bound(scene: Scene) -> None:
    scene.follow(sweep=0.5)
    watch = scene.report().watch
    assert watch.max_undetected_s is not None and 0.5 <= watch.max_undetected_s < 60


def test_the_bound_is_not_less_than_what_the_sweep_of_the_unwatched_takes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    root, dirty = Root(os.fsencode(tmp_path)), Dirty()
    journal = Journal(tmp_path / "state" / "index.db")
    paths = PathSet(root.path, [b"state"])
    watch = InotifyWatch(root.identity.ino, dirty, paths, sweep=500.0)
    watch.placed(1, root.identity.ino, 0, b"", watch.mark())
    vigil = Vigil(root, journal, paths, dirty, watch, Config(sweep_s=1.0), lambda: True)
    vigil._sees_all = True
    vigil._remounted()
    vigil._run_sweep()
    while not vigil._outside.counted:
        vigil._count()
    bound = vigil.reports().max_undetected_s
    assert bound is not None and bound < 500.0
    watch.placed(-1, (tmp_path / "d").stat().st_ino, root.identity.ino, b"d", watch.mark())
    assert vigil.reports().max_undetected_s == 1000.0
    vigil.start()
    vigil.close()
    watch.close()
    journal.close()
    root.close()


def test_the_bound_where_an_overlay_writes_below_the_root(scene: Scene) -> None:
    """Who has mapped a file of it holds another one, as far as is seen."""
    merged, upper = scene.outside / "merged", scene.source / "upper"
    for directory in (merged, upper, scene.source / "work", scene.outside / "lower"):
        directory.mkdir()
    scene.write("upper/f")
    scene.follow(sweep=0.5, slow=600.0)
    options = f"lowerdir={scene.outside}/lower,upperdir={upper},workdir={scene.source}/work"
    mount("-t", "overlay", "overlay", "-o", options, merged)
    try:
        until("the bound", lambda: (scene.report().watch.max_undetected_s or 0.0) >= 600.0)
    finally:
        subprocess.run(["umount", merged], check=True)
    until("the bound", lambda: (scene.report().watch.max_undetected_s or 600.0) < 60.0)
