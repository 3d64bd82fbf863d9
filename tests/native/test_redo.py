"""Large files changed in place through the redo journal: what is written, what is refused, and what
is made of a journal that was left."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_apply import Target
from test_stage import ID, copy, digest, hole, stage, staged, when, write
from trees import entries

import tmpfs
from i2node.fs.tree import TargetTree
from i2node.mover import batch, blocks
from i2node.mover.batch import APPLY_VERIFY, STEP_CLONE, STEP_DROP, STEP_KEEP, At, Op, step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20
SIZE = 5 * MIB + 123
NAME = "000000001234abcd"
JOURNAL = NAME + ".redo"
MODE = 0o640
RULE = "0123456789abcdef"


def must(*words: object) -> None:
    subprocess.run([str(w) for w in words], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-o", "loop", image, at], check=False).returncode:
        pytest.skip("no loop mounts here")
    try:
        yield at
    finally:
        # Lazily: after a failure a descriptor may still hold it.
        must("umount", "--lazy", at)


@contextmanager
def disk(place: Path, mib: int = 256) -> Iterator[Path]:
    """A fresh ext4, which cannot clone."""
    image = place / "image"
    with open(image, "wb") as f:
        f.truncate(mib * MIB)
    must("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
    with mounted(image, place / "mount") as mount:
        yield mount
    image.unlink()


@pytest.fixture(scope="module", params=["ext4", "tmpfs"])
def spot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    on_disk = request.param == "ext4"
    with disk(tmp_path_factory.mktemp("disk")) if on_disk else tmpfs.directory() as path:
        yield path


@contextmanager
def fresh(spot: Path) -> Iterator[Target]:
    place = Path(tempfile.mkdtemp(dir=spot))
    made = Target(place)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(place)


@pytest.fixture
def target(spot: Path) -> Iterator[Target]:
    with fresh(spot) as made:
        yield made


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def begin(target: Target, data: bytes, name: bytes = b"f") -> os.stat_result:
    """An old file of the mode that `staged` gives."""
    path = target.root / os.fsdecode(name)
    path.write_bytes(data)
    path.chmod(MODE)
    os.utime(path, ns=(0, 10**18))
    return path.stat()


def clone(have: os.stat_result, name: bytes = b"f") -> bytes:
    return stage(name, STEP_CLONE, have)


def tree_of(spot: Path) -> TargetTree:
    """A target as a session has it, its stage beside the root; made with an old file at first."""
    root = spot / "root"
    if not root.exists():
        root.mkdir()
        (root / "f").write_bytes(noise(0, SIZE))
        (root / "f").chmod(MODE)
        os.utime(root / "f", ns=(0, 10**18))
    return TargetTree(os.fsencode(root), RULE, spot / "no state", [spot])


def home_of(tree: TargetTree) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{tree.stage()}"))


def leave(target: Target) -> list[str]:
    return sorted(os.listdir(target.stage))


@dataclass
class Model:
    """Changes of a file, as steps and as bytes."""

    data: bytearray
    steps: list[bytes]

    def write(self, at: int, data: bytes) -> None:
        self.steps.append(write(at, data))
        self._lay(at, data)

    def hole(self, at: int, span: int) -> None:
        self.steps.append(hole(at, span))
        self._lay(at, bytes(span))

    def _lay(self, at: int, data: bytes) -> None:
        if data:
            self.data.extend(bytes(max(0, at + len(data) - len(self.data))))
            self.data[at : at + len(data)] = data

    def end(self, size: int) -> bytes:
        self.data = self.data[:size].ljust(size, b"\0")
        return staged(b"f", size)


def example(old: bytes) -> tuple[Model, int]:
    """Blocks, a hole, data behind what is the end in the end, and a little growth."""
    model = Model(bytearray(old), [])
    size = len(old) + 5000
    model.write(8192, noise(1, 4096))
    model.hole(MIB, 2 * MIB)
    model.write(3 * MIB + 17, noise(2, 10_000))
    model.write(size - 100, noise(3, 300))
    return model, size


# ------------------------------------------------------------------------------- in place


def written(spot: Path) -> int:
    """Bytes that the disk was given so far (Documentation/block/stat.rst of the kernel)."""
    must("sync", "-f", spot)
    dev = spot.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}/stat").read_text()
    return int(stat.split()[6]) * 512


def test_only_what_changes_is_written(tmp_path: Path) -> None:
    with disk(tmp_path) as spot, fresh(spot) as target:
        old = noise(0, SIZE)
        have = begin(target, old)
        model = Model(bytearray(old), [])
        before = written(spot)
        assert target.apply(clone(have)) == []
        for at in (0, 4096 * 77, 4 * MIB):
            model.write(at, noise(at, 4096))
        assert target.apply(*model.steps) == [] and leave(target) == [JOURNAL]
        assert (target.root / "f").read_bytes() == old
        assert target.apply(model.end(SIZE)) == []
        assert written(spot) - before < 300_000
        now = (target.root / "f").stat()
        assert (target.root / "f").read_bytes() == model.data and leave(target) == []
        assert now.st_ino == have.st_ino and now.st_mtime_ns == 5 * 10**9


def test_it_grows_and_shrinks_and_holes_are_holes(target: Target) -> None:
    old = noise(0, SIZE)
    for size in (SIZE + 2 * MIB, SIZE - MIB - 1, 3 * MIB, 0):
        have = begin(target, old)
        model, _ = example(old)
        assert target.apply(clone(have), *model.steps, model.end(size)) == []
        path = target.root / "f"
        assert path.read_bytes() == model.data and path.stat().st_ino == have.st_ino
        assert path.stat().st_blocks * 512 <= have.st_size - min(size, 2 * MIB) + 64 * 1024
        assert leave(target) == []


def test_what_is_small_is_copied(target: Target) -> None:
    have = begin(target, noise(0, MIB))
    assert target.apply(clone(have), write(0, b"new")) == [] and leave(target) == [NAME]
    assert target.apply(staged(b"f", MIB)) == []
    assert (target.root / "f").stat().st_ino != have.st_ino


@pytest.mark.parametrize("at", ["at once", "meanwhile"])
def test_another_name_keeps_the_old_content(target: Target, at: str) -> None:
    old = noise(0, SIZE)
    have = begin(target, old)
    model, size = example(old)
    if at == "at once":
        os.link(target.root / "f", target.root / "other")
    assert target.apply(clone(have), *model.steps) == []
    assert leave(target) == [NAME if at == "at once" else JOURNAL]
    if at == "meanwhile":
        os.link(target.root / "f", target.root / "other")
    assert target.apply(model.end(size)) == [] and leave(target) == []
    assert (target.root / "f").read_bytes() == model.data
    assert (target.root / "other").read_bytes() == old
    assert (target.root / "other").stat().st_mtime_ns == have.st_mtime_ns


def test_another_owner_or_mode_or_path_gets_a_new_file(target: Target) -> None:
    old = noise(0, SIZE)
    for more in ({"mode": 0o600}, {"uid": 4711}, {"gid": 4711}):
        have = begin(target, old)
        model, size = example(old)
        model.end(size)
        end = staged(b"f", size, **more)
        assert target.apply(clone(have), *model.steps, end) == [] and leave(target) == []
        now = (target.root / "f").stat()
        assert now.st_ino != have.st_ino and (target.root / "f").read_bytes() == model.data
        assert (now.st_mode & 0o7777, now.st_uid, now.st_gid) == (
            more.get("mode", MODE),
            more.get("uid", 0),
            more.get("gid", 0),
        )
        (target.root / "f").unlink()
    have = begin(target, old)
    assert target.apply(clone(have), *model.steps, staged(b"g", size)) == []
    assert (target.root / "g").read_bytes() == model.data and leave(target) == []
    assert (target.root / "f").read_bytes() == old


def test_a_file_that_is_run_is_replaced(target: Target) -> None:
    old = Path("/bin/sleep").read_bytes().ljust(SIZE, b"\0")
    have = begin(target, old)
    (target.root / "f").chmod(0o755)
    try:
        running = subprocess.Popen([target.root / "f", "100"])
    except PermissionError:
        pytest.skip("nothing is run from here")
    try:
        end = staged(b"f", SIZE, mode=0o755)
        assert target.apply(clone(have), write(SIZE - 3, b"new"), end) == []
        assert (target.root / "f").read_bytes() == old[:-3] + b"new" and leave(target) == []
        assert running.poll() is None
        assert Path(f"/proc/{running.pid}/exe").read_bytes() == old
    finally:
        running.kill()
        running.wait()


def test_flags_are_no_obstacle(tmp_path: Path) -> None:
    with disk(tmp_path) as spot, fresh(spot) as target:
        for flag in ("+i", "+a"):
            old = noise(0, SIZE)
            have = begin(target, old)
            must("chattr", flag, target.root / "f")
            model, size = example(old)
            assert target.apply(clone(have), *model.steps, model.end(size)) == []
            assert (target.root / "f").read_bytes() == model.data
            assert (target.root / "f").stat().st_ino == have.st_ino and leave(target) == []


def test_what_is_to_be_verified_is_verified_first(target: Target) -> None:
    old = noise(0, SIZE)
    (target.root / "want").write_bytes(b"new" + old[3:])
    content = digest(target.root, b"want")
    for flags in ((APPLY_VERIFY, APPLY_VERIFY), (0, APPLY_VERIFY)):
        have = begin(target, old)
        for data, faulty in ((b"bad", True), (b"new", False)):
            assert target.apply(clone(have), write(0, data), flags=flags[0]) == []
            faults = target.apply(staged(b"f", SIZE, content), flags=flags[1])
            assert [(f.what, f.status) for f in faults] == [(At.CHECK, errno.EBADMSG)] * faulty
            assert (target.root / "f").read_bytes() == (old if faulty else data + old[3:])
            assert leave(target) == []


def test_the_old_file_must_stay_what_it_was(target: Target) -> None:
    old = noise(0, SIZE)

    def touch() -> None:
        os.utime(target.root / "f", ns=(0, 7))

    def cut() -> None:
        os.truncate(target.root / "f", SIZE - 1)
        os.utime(target.root / "f", ns=(0, 10**18))

    def replace() -> None:
        begin(target, old, b"other")
        os.rename(target.root / "other", target.root / "f")

    def link() -> None:
        (target.root / "f").unlink()
        (target.root / "f").symlink_to(target.root / "g")

    for meddle in (touch, cut, replace, link):
        with suppress(FileNotFoundError):
            (target.root / "f").unlink()
        have, other = begin(target, old), begin(target, old, b"g")
        assert target.apply(clone(have), write(0, b"new")) == []
        meddle()
        before = (target.root / "f").read_bytes()
        (fault,) = target.apply(staged(b"f", SIZE))
        assert (fault.what, fault.status, fault.fatal) == (At.CHECK, errno.ESTALE, False)
        assert (target.root / "f").read_bytes() == before and leave(target) == []
        assert (target.root / "g").stat().st_mtime_ns == other.st_mtime_ns


def test_steps_that_a_journal_does_not_hold(target: Target) -> None:
    old = noise(0, SIZE)
    have = begin(target, old)
    assert target.apply(clone(have), write(0, b"1")) == []
    assert target.apply(stage(b"f", STEP_CLONE | STEP_KEEP, have), write(1, b"2")) == []
    assert leave(target) == [JOURNAL]
    # From elsewhere in the old file: it has to be there to be copied to.
    assert target.apply(copy(b"f", 100, 2, 50, have), write(60, b"3")) == []
    assert leave(target) == [NAME]
    assert target.apply(staged(b"f", SIZE)) == [] and leave(target) == []
    want = bytearray(old)
    want[:52] = b"12" + old[100:150]
    want[60:61] = b"3"
    assert (target.root / "f").read_bytes() == want
    have = (target.root / "f").stat()
    assert target.apply(clone(have), write(0, b"x"), stage(flags=STEP_DROP)) == []
    assert leave(target) == []
    assert target.apply(clone(have), write(0, b"x"), stage(), write(0, b"y")) == []
    assert leave(target) == [NAME]
    assert target.apply(staged(b"f", 1)) == [] and (target.root / "f").read_bytes() == b"y"


def test_a_journal_is_no_part_to_go_on_with(tmp_path: Path) -> None:
    with disk(tmp_path) as spot:
        tree = tree_of(spot)
        have = (spot / "root" / "f").stat()
        payload = clone(have) + write(0, b"new")
        assert batch.apply(tree.root.fd, tree.stage(), payload).faults == []
        assert os.listdir(tree.stage()) == [JOURNAL] and tree.parts() == {}
        tree.clean(keep_parts=True)
        assert os.listdir(tree.stage()) == []
        tree.close()


# ------------------------------------------------------------------------------- any change

OPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "hole"]),
        st.integers(0, SIZE + MIB),
        st.one_of(st.integers(0, 20_000), st.integers(0, 2 * MIB)),
    ),
    max_size=8,
)


def build(old: bytes, changes: list[tuple[str, int, int]], size: int) -> tuple[Model, bytes]:
    model = Model(bytearray(old), [])
    for what, at, span in changes:
        if what == "write":
            model.write(at, b"%c" % (at % 255 + 1) * span)
        else:
            model.hole(at, span)
    return model, model.end(size)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=OPS, size=st.integers(0, SIZE + 2 * MIB), broken=st.integers(0, 8))
def test_any_change_is_what_a_buffer_says(
    spot: Path, changes: list[tuple[str, int, int]], size: int, broken: int
) -> None:
    old = noise(0, SIZE)
    model, end = build(old, changes, size)
    with fresh(spot) as target:
        have = begin(target, old)
        path = target.root / "f"
        assert target.apply(clone(have), *model.steps, end) == []
        assert path.read_bytes() == model.data and path.stat().st_ino == have.st_ino
        # Broken off anywhere, and done again.
        have = begin(target, old)
        seal(target, model.steps, end)
        os.truncate(path, size)
        with open(path, "r+b") as f:
            for what, at, span in changes[:broken]:
                if at < size:
                    f.seek(at)
                    f.write((b"%c" % (at % 255 + 1) if what == "write" else b"\0") * span)
            f.truncate(size)
        assert redo(target) == (b"f", True)
        assert path.read_bytes() == model.data and leave(target) == []
        assert path.stat().st_mtime_ns == 5 * 10**9


# ------------------------------------------------------------------------------- journals

SEAL = 48


def seal(target: Target, steps: list[bytes], end: bytes, birth: int = 0) -> Path:
    """A journal as a crash right behind its sealing leaves it. birth: added to the right one."""
    path = target.root / "f"
    fd = os.open(target.root, os.O_RDONLY)
    (old,) = entries(batch.stat_names(fd, os.fstat(fd).st_dev, b"", [b"f"]).entries)
    os.close(fd)
    have = path.stat()
    first = step(
        Op.STAGE,
        b"f",
        stage=ID,
        flags=STEP_CLONE,
        size=have.st_size,
        **when(have),
        rdev=old.ino,
        span=old.birth + birth,
    )
    body = b"".join([first, *steps, end])
    tail = b"i2redo1\n" + len(body).to_bytes(8, "little") + blocks.hash(body, 32)
    journal = target.stage / JOURNAL
    journal.touch(0o600)
    journal.write_bytes(body + tail)
    return journal


def redo(target: Target, name: str = JOURNAL) -> tuple[bytes, bool]:
    return batch.redo(*target.fds, os.fsencode(name))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_journal_is_dropped(spot: Path, data: st.DataObject) -> None:
    old = noise(0, 1000)
    with fresh(spot) as target:
        begin(target, old)
        journal = seal(target, [write(0, b"new"), hole(100, 50)], staged(b"f", 1000))
        whole = journal.read_bytes()
        if data.draw(st.booleans()):
            journal.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        else:
            at = data.draw(st.integers(0, len(whole) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            journal.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        _, done = redo(target)
        assert not done and (target.root / "f").read_bytes() == old and leave(target) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_journal_with_a_right_seal_is_still_held_to_the_rules(
    spot: Path, data: st.DataObject
) -> None:
    """Whoever can hash can seal: nothing outside is reached, nothing read that is not there."""
    with fresh(spot) as target:
        begin(target, noise(0, 1000))
        outside = target.root.parent / "outside"
        outside.write_bytes(b"outside")
        bad = [
            step(Op.WRITE, b"", stage=ID + 1, data=b"x"),
            step(Op.REMOVE, b"f"),
            stage(flags=STEP_DROP),
            write(0, b"new")[:-8],
            staged(b"f", 1000),
            b"\xff" * 96,
        ]
        steps = [write(0, b"new"), data.draw(st.sampled_from(bad)), hole(5, 5)]
        seal(target, steps, staged(b"f", 1000))
        assert not redo(target)[1] and leave(target) == []
        assert (target.root / "f").read_bytes() == noise(0, 1000)
        seal(target, [write(0, b"new")], staged(b"../outside", 1000))
        assert not redo(target)[1] and leave(target) == []
        raw = bytearray(seal(target, [write(0, b"n")], staged(b"f", 1000)).read_bytes()[:-SEAL])
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        tail = b"i2redo1\n" + len(raw).to_bytes(8, "little") + blocks.hash(bytes(raw), 32)
        (target.stage / JOURNAL).write_bytes(raw + tail)
        with suppress(OSError):
            redo(target)
        assert outside.read_bytes() == b"outside"


def test_a_journal_of_another_file_is_dropped(target: Target) -> None:
    old = noise(0, 1000)
    end, steps = staged(b"f", 1000), [write(0, b"new")]
    for meddle in ("replaced", "number used again", "gone", "a directory", "moved"):
        begin(target, old)
        seal(target, steps, end, birth=meddle == "number used again")
        if meddle == "replaced":
            begin(target, old, b"other")
            os.rename(target.root / "other", target.root / "f")
        elif meddle != "number used again":
            os.rename(target.root / "f", target.root / "g")
            if meddle == "a directory":
                (target.root / "f").mkdir()
        if meddle == "number used again" and not birth(target):
            (target.stage / JOURNAL).unlink()
            continue
        assert redo(target) == (b"f", False) and leave(target) == [], meddle
        for path in target.root.iterdir():
            assert path.is_dir() or path.read_bytes() == old
            path.rmdir() if path.is_dir() else path.unlink()


def birth(target: Target) -> int:
    fd = os.open(target.root, os.O_RDONLY)
    (old,) = entries(batch.stat_names(fd, os.fstat(fd).st_dev, b"", [b"f"]).entries)
    os.close(fd)
    return old.birth


def test_what_is_not_our_journal_is_dropped(target: Target) -> None:
    old = noise(0, 1000)
    begin(target, old)
    secret = target.root.parent / "secret"
    secret.write_bytes(b"secret")

    def link(journal: Path) -> None:
        journal.rename(secret)
        journal.symlink_to(secret)

    meddling: list[Callable[[Path], object]] = [
        lambda journal: os.chown(journal, 4711, 0),
        lambda journal: journal.chmod(0o620),
        lambda journal: os.link(journal, target.root / "another"),
        link,
    ]
    for meddle in meddling:
        meddle(seal(target, [write(0, b"new")], staged(b"f", 1000)))
        assert not redo(target)[1] and leave(target) == []
        assert (target.root / "f").read_bytes() == old
    wrong = seal(target, [write(0, b"new")], staged(b"f", 1000))
    wrong.rename(target.stage / "1111111111111111.redo")
    assert not redo(target, "1111111111111111.redo")[1] and leave(target) == []
    assert (target.root / "f").read_bytes() == old


def test_another_name_that_came_meanwhile(target: Target) -> None:
    old = noise(0, SIZE)
    begin(target, old)
    model, size = example(old)
    seal(target, model.steps, model.end(size))
    os.link(target.root / "f", target.root / "other")
    assert redo(target) == (b"f", True) and leave(target) == []
    assert (target.root / "f").read_bytes() == model.data
    assert (target.root / "other").read_bytes() == old


# ------------------------------------------------------------------------------- a full disk


def test_a_full_disk_stops_it_and_it_goes_on(tmp_path: Path) -> None:
    with disk(tmp_path, 48) as spot, fresh(spot) as target:
        path, filler = target.root / "f", spot / "filler"
        for again in ("the step", "a crash"):
            old = noise(0, SIZE) + bytes(8 * MIB)
            have = begin(target, old)
            with open(path, "r+b") as f:
                f.truncate(SIZE)
                f.truncate(len(old))
            os.utime(path, ns=(0, 10**18))
            model = Model(bytearray(old), [])
            model.write(0, noise(1, 4096))
            model.write(SIZE + 4096, noise(2, 6 * MIB))
            end = model.end(len(old))
            assert target.apply(clone(have), *model.steps) == []
            os.sync()
            free = os.statvfs(spot).f_bavail * 4096 - 3 * MIB
            must("fallocate", "-l", free, filler)
            (fault,) = target.apply(end)
            assert (fault.status, fault.fatal) == (errno.ENOSPC, True)
            assert leave(target) == [JOURNAL]
            # Not torn for as long as that takes: what is to be written has its room before.
            assert path.read_bytes() == old and path.stat().st_mtime_ns == 10**18
            if again == "a crash":
                with pytest.raises(OSError, match="No space"):
                    redo(target)
                assert leave(target) == [JOURNAL]
            filler.unlink()
            if again == "a crash":
                assert redo(target) == (b"f", True)
            else:
                assert target.apply(end) == []
            assert path.read_bytes() == model.data and leave(target) == []
            assert path.stat().st_ino == have.st_ino
            assert path.stat().st_mtime_ns == 5 * 10**9
