"""A peer that wants out of the root, or the process down."""
# Names are bytes here, as on disk; pathlib has only text.

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import kernel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_apply import Target, fifo, link, make_dir, put
from test_stage import ID, copy, hole, stage, staged, write
from trees import snapshot

from i2node.errors import ProtocolError
from i2node.model import Kind
from i2node.mover import batch
from i2node.mover.batch import STEP, STEP_CLONE, STEP_DROP, STEP_SPARSE, At, Op, step

RECORD = b"\6\0\0\0\1\0\0\0user.ax"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "f").write_bytes(b"untouched")
    yield made
    made.close()


@pytest.mark.parametrize("openat2", [True, False])
def test_no_step_leaves_the_root_through_a_symlink(
    target: Target, tmp_path: Path, openat2: bool
) -> None:
    canary = tmp_path / "canary"
    before = snapshot(canary)
    for name, to in (("abs", canary), ("rel", Path("../canary")), ("up", Path(".."))):
        (target.root / name).symlink_to(to)
    (target.root / "d").mkdir()
    (target.root / "d" / "in").symlink_to("../rel")
    (target.root / "file").symlink_to(canary / "f")
    outs = (b"abs", b"rel", b"up/canary", b"d/in")
    steps = []
    for out in outs:
        f = out + b"/f"
        steps += [
            put(f),
            put(out + b"/new"),
            make_dir(out + b"/dir"),
            link(out + b"/link", b"x"),
            fifo(out + b"/fifo"),
            step(Op.LINK, b"mine", f),
            step(Op.LINK, f, b"d"),
            step(Op.SET_META, f, kind=Kind.FILE, mode=0o777),
            step(Op.SET_META, out, kind=Kind.DIR, mode=0o777),
            step(Op.RENAME, f, b"mine"),
            step(Op.RENAME, b"d", out + b"/d"),
            step(Op.EXCHANGE, f, b"d"),
        ]
    quiet = [step(Op.REMOVE, out + b"/f") for out in outs]
    steps.append(step(Op.SET_META, b"file", kind=Kind.FILE, mode=0o777))
    payload = b"".join(steps + quiet)

    def work() -> None:
        done = batch.apply(*target.fds, payload)
        assert [f.step for f in done.faults] == list(range(len(steps)))

        for f in [*(out + b"/f" for out in outs), b"file"]:
            for begin in ([stage(f, STEP_CLONE, leaked)], [stage(), copy(f, 0, 0, 1, leaked)]):
                done = batch.apply(*target.fds, b"".join([*begin, staged(b"leak", 6)]))
                assert [(f.step, f.what) for f in done.faults] == [(len(begin), At.OPEN)]

    leaked = (canary / "f").stat()
    kernel.without([] if openat2 else [("openat2", errno.ENOSYS, None, 0)], work)
    assert snapshot(canary) == before
    assert sorted(os.listdir(target.root)) == ["abs", "d", "file", "rel", "up"]
    # A step on the name itself replaces the link and leaves what it points to.
    assert target.apply(put(b"file"), step(Op.REMOVE, b"abs"), make_dir(b"rel")) == []
    assert snapshot(canary) == before and not (target.root / "file").is_symlink()


def test_a_link_made_in_the_same_payload_leads_nowhere(target: Target, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "canary")
    payload = b"".join(
        (
            make_dir(b"d"),
            put(b"d/f"),
            step(Op.REMOVE, b"d"),
            link(b"d", b"../canary"),
            put(b"d/f", b"out"),
            make_dir(b"e"),
            put(b"e/f"),
            link(b"e", b"../canary"),
            put(b"e/f", b"out"),
            step(Op.RENAME, b"e", b"g"),
            put(b"g/f", b"out"),
        )
    )
    done = batch.apply(*target.fds, payload)
    assert [f.step for f in done.faults] == [4, 8, 10]
    assert snapshot(tmp_path / "canary") == before


SOUND = [
    put(b"f", b"12345"),
    step(Op.PUT_FILE, b"s", kind=Kind.FILE, size=9, flags=STEP_SPARSE),
    step(Op.PUT_FILE, b"x", kind=Kind.FILE, xattrs=RECORD),
    make_dir(b"d"),
    link(b"l", b"f"),
    fifo(b"p"),
    step(Op.LINK, b"h", b"f"),
    step(Op.SET_META, b"d", kind=Kind.DIR, mode=0o700, xattrs=RECORD),
    step(Op.RENAME, b"h", b"g"),
    step(Op.EXCHANGE, b"f", b"g"),
    step(Op.STAGE, b"f", stage=ID, flags=STEP_CLONE, size=5, mtime_s=5),
    write(0, b"abc"),
    step(Op.COPY, b"g", stage=ID, size=3, span=2, mtime_s=5),
    hole(7, 1),
    staged(b"big", 8),
    step(Op.REMOVE, b"g"),
]
# The fields of STEP, in order.
FIELDS = (
    *("length", "op", "kind", "flags", "path_len", "other_len", "xattr_len", "data_len"),
    *("mode", "uid", "gid", "mtime_ns", "mtime_s", "size", "rdev", "span", "stage", "content"),
)


def changed(of: bytes, **fields: object) -> bytes:
    values = list(STEP.unpack_from(of))
    for name, value in fields.items():
        values[FIELDS.index(name)] = value
    return STEP.pack(*values) + of[STEP.size :]


def attrs(*records: bytes) -> bytes:
    return step(Op.PUT_FILE, b"x", kind=Kind.FILE, xattrs=b"".join(records))


def record(name: bytes, value: bytes = b"", zero: int = 0) -> bytes:
    return struct.pack("<HHI", len(name), zero, len(value)) + name + value


UNSOUND = {
    "op 0": changed(SOUND[0], op=0),
    "op 15": changed(SOUND[0], op=15),
    "too long": changed(SOUND[0], length=4096),
    "too short": changed(SOUND[0], length=STEP.size),
    "odd": changed(SOUND[0], length=STEP.size + 7),
    "huge path": changed(SOUND[0], path_len=0xFFFFFFFF),
    "huge data": changed(SOUND[0], data_len=0xFFFFFFFF),
    "lengths that wrap": changed(SOUND[0], path_len=0x80000001, other_len=0x80000000),
    "no path": put(b""),
    "root removed": step(Op.REMOVE, b""),
    "absolute": put(b"/etc/x"),
    "up": put(b"../x"),
    "up inside": put(b"a/../../x"),
    "dot": put(b"./x"),
    "doubled slash": put(b"a//x"),
    "trailing slash": put(b"a/"),
    "only slash": put(b"/"),
    "NUL": put(b"a\0b"),
    "long name": put(b"n" * 256),
    "up in other": step(Op.RENAME, b"a", b"../b"),
    "no other": step(Op.RENAME, b"a"),
    "other unwanted": step(Op.REMOVE, b"a", b"b"),
    "link to nothing": link(b"l", b""),
    "NUL in target": link(b"l", b"a\0b"),
    "long target": link(b"l", b"a" * 4096),
    "flag": changed(SOUND[0], flags=0x100),
    "flag of another op": changed(SOUND[0], flags=STEP_CLONE),
    "kind": changed(SOUND[0], kind=Kind.DIR),
    "kind 99": changed(SOUND[0], kind=99),
    "mode": changed(SOUND[0], mode=0o10000),
    "nanoseconds": changed(SOUND[0], mtime_ns=10**9),
    "size and data differ": changed(SOUND[0], size=6),
    "sparse with data": changed(SOUND[0], flags=STEP_SPARSE),
    "data unwanted": step(Op.REMOVE, b"a", data=b"x"),
    "offset wraps": write(2**63 - 1, b"xx"),
    "span wraps": hole(2**62, 2**63),
    "copy wraps": copy(b"f", 2**63 - 1, 0, 2),
    "clone of nothing": stage(b"", STEP_CLONE),
    "basis of nothing": step(Op.STAGE, b"f", stage=ID, mtime_s=5),
    "nanoseconds of a basis": step(Op.STAGE, b"f", stage=ID, flags=STEP_CLONE, mtime_ns=10**9),
    "time unwanted": step(Op.REMOVE, b"a", mtime_s=1),
    "dropped and cloned": stage(b"f", STEP_CLONE | STEP_DROP),
    "attributes not sorted": attrs(record(b"user.b"), record(b"user.a")),
    "attribute twice": attrs(record(b"user.b"), record(b"user.b")),
    "attribute without name": attrs(record(b"")),
    "attribute with NUL": attrs(record(b"user.\0")),
    "attribute name too long": attrs(record(b"user." + b"n" * 251)),
    "attribute value too long": attrs(record(b"user.a", bytes(65537))),
    "attribute not zero": attrs(record(b"user.a", zero=1)),
    "attribute cut off": attrs(record(b"user.a", b"value")[:-1]),
    "more names than listable": attrs(*(record(b"user.%06d" % i) for i in range(6000))),
    "attributes left alone and given": changed(
        step(Op.PUT_FILE, b"x", kind=Kind.FILE, xattrs=RECORD), flags=batch.STEP_NO_XATTR
    ),
    "stage unwanted": step(Op.REMOVE, b"a", stage=1),
    "trailing bytes": SOUND[0] + b"\0" * 8,
}


def test_the_sound_ones_are_sound(target: Target) -> None:
    assert batch.steps_check(b"".join(SOUND)) == len(SOUND)
    assert target.apply(*SOUND) == []
    assert (target.root / "big").read_bytes() == b"abc12\0\0\0"
    assert [batch.step_at(b"".join(SOUND), i)[0] for i in (0, 8, 15)] == [
        Op.PUT_FILE,
        Op.RENAME,
        Op.REMOVE,
    ]
    assert batch.step_at(b"".join(SOUND), 8) == (Op.RENAME, b"h", b"g")
    assert batch.steps_check(b"") == 0 and batch.apply(*target.fds, b"").done == 0


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_step_stops_the_payload_before_it_begins(target: Target, name: str) -> None:
    before = snapshot(target.root)
    for payload in (UNSOUND[name], SOUND[3] + UNSOUND[name], UNSOUND[name] + SOUND[3]):
        with pytest.raises(ProtocolError):
            batch.apply(*target.fds, payload)
        with pytest.raises(ProtocolError):
            batch.steps_check(payload)
    assert snapshot(target.root) == before


def test_a_payload_at_any_address(target: Target) -> None:
    payload = bytearray(3) + b"".join(SOUND)
    view = memoryview(payload)[3:]
    assert batch.steps_check(view) == len(SOUND)
    assert batch.apply(*target.fds, view).faults == []


def test_faults_are_counted_beyond_the_room(target: Target) -> None:
    payload = b"".join(put(b"no/f%d" % i) for i in range(50))
    done = batch.apply(*target.fds, payload, room=7)
    assert (done.done, len(done.faults), done.more) == (50, 7, 43)
    none = batch.apply(*target.fds, payload, room=0)
    assert (none.done, none.faults, none.more) == (50, [], 50)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_steps_stay_inside(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    draw = data.draw
    place = tmp_path_factory.mktemp("mutated")
    target = Target(place)
    (place / "canary").write_bytes(b"untouched")
    steps = draw(st.lists(st.sampled_from(SOUND), min_size=1, max_size=6))
    payload = bytearray(b"".join(steps))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(payload) - 1))
        payload[at] = draw(st.sampled_from([0, 1, 2, 8, 0x2E, 0x2F, 0x7F, 0xFF]))
    try:
        done = batch.apply(*target.fds, payload)
    except ProtocolError:
        assert os.listdir(target.root) == [] and os.listdir(target.stage) == []
    else:
        assert done.done <= len(steps) and all(f.step < len(steps) for f in done.faults)
    assert sorted(os.listdir(place)) == ["canary", "root", "stage"]
    assert (place / "canary").read_bytes() == b"untouched"
    target.close()


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_no_payload(noise: bytes) -> None:
    try:
        n = batch.steps_check(noise)
    except ProtocolError:
        return
    assert (n == 0) == (noise == b"")


def test_a_stage_in_the_root_is_out_of_reach(tmp_path: Path) -> None:
    """Neither it nor anything in it, whatever the op and however deep the path."""
    root = tmp_path / "root"
    stage = root / ".i2node-stage-x"
    (stage / "t1").mkdir(parents=True, mode=0o700)
    stage.chmod(0o700)
    (root / "d").mkdir()
    (root / "f").write_text("mine")
    fds = [os.open(p, os.O_RDONLY | os.O_DIRECTORY) for p in (root, stage)]
    name = os.fsencode(stage.name)
    steps = [
        step(Op.RENAME, b"d", name, kind=Kind.DIR),
        step(Op.RENAME, name, b"e", kind=Kind.DIR),
        step(Op.EXCHANGE, b"d", name, kind=Kind.DIR),
        step(Op.LINK, name + b"/t1/f", b"f", kind=Kind.FILE),
        step(Op.SET_META, name, kind=Kind.DIR, mode=0o777),
        step(Op.SET_META, name + b"/t1", kind=Kind.DIR, mode=0o777),
        step(Op.MAKE_DIR, name + b"/t1/d", kind=Kind.DIR, mode=0o755),
        step(Op.PUT_FILE, name + b"/t1/evil", kind=Kind.FILE, mode=0o644),
        step(Op.REMOVE, name + b"/t1", kind=Kind.DIR),
        step(Op.REMOVE, name, kind=Kind.DIR),
    ]
    result = batch.apply(*fds, b"".join(steps), room=64)
    assert result.done == len(steps)
    assert [(f.step, f.status) for f in result.faults] == [
        (n, errno.EPERM) for n in range(len(steps))
    ]
    assert stage.stat().st_mode & 0o777 == 0o700
    assert os.listdir(stage) == ["t1"] and os.listdir(stage / "t1") == []
    assert sorted(os.listdir(root)) == [stage.name, "d", "f"]
    beside = batch.apply(*fds, step(Op.REMOVE, name + b"y", kind=Kind.FILE), room=8)
    assert beside.faults == []
    for fd in fds:
        os.close(fd)
