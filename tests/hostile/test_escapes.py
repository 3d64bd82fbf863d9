"""Out of the root: by path, by symlink, by mount, by the stage; to write there, or only to read."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ends import Hosts, until
from nursery import Nursery
from peer import RULE, Agent, Peer, faults
from renamer import Renamer
from test_apply import fifo, link, make_dir, put
from test_stage import copy, stage, staged, write
from trees import snapshot

import tmpfs
from i2node.model import Kind
from i2node.mover.batch import STEP, STEP_CLONE, Op, step

SECONDS = float(os.environ.get("I2_HOSTILE_SECONDS", "0.7"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
STAGE = f".i2node-stage-{RULE[:12]}"


class Ground:
    """An agent with a root, and beside it what must stay as it is, known by its size."""

    def __init__(self, place: Path, nursery: Nursery, disk: Path | None = None) -> None:
        self.outside = (disk or place) / "outside"
        self.outside.mkdir()
        for name in ("canary", "f", "new"):
            (self.outside / name).write_bytes(b"secret" * 1000)
        self.agent = Agent(place, nursery, room=(disk or place) / "room")
        self.root = self.agent.room / "root"
        self.identity = self.agent.peer(place / "peer")
        self.before = snapshot(self.outside)
        self.peer = Peer(self.agent, self.identity)

    def begin(self) -> Peer:
        """A session with its stream; an earlier one is over."""
        self.peer.close()
        self.peer = Peer(self.agent, self.identity)
        assert self.peer.open(self.root, tokens=["n"], adopt=True)["t"] == "opened"
        self.peer.begin()
        return self.peer

    def untouched(self) -> bool:
        return snapshot(self.outside) == self.before

    def close(self) -> None:
        self.peer.close()
        self.agent.close()


@pytest.fixture
def ground(tmp_path: Path, nursery: Nursery) -> Iterator[Ground]:
    made = Ground(tmp_path, nursery)
    yield made
    made.close()


BAD = (b"..", b"../outside/f", b"a/../../outside/f", b"/etc/passwd", b"/", b"a//b", b"a/", b"./a")
BAD = (*BAD, b"f\0", b"a/" + b"n" * 256, b"a/" * 600_000 + b"a")
EVERY_OP: tuple[Callable[[bytes], bytes], ...] = (
    make_dir,
    put,
    lambda path: link(path, b"/etc/passwd"),
    fifo,
    lambda path: step(Op.LINK, path, b"a"),
    lambda path: step(Op.LINK, b"a", path),
    lambda path: step(Op.SET_META, path, kind=Kind.FILE, mode=0o777),
    lambda path: step(Op.RENAME, path, b"a"),
    lambda path: step(Op.RENAME, b"a", path),
    lambda path: step(Op.EXCHANGE, path, b"a"),
    lambda path: step(Op.EXCHANGE, b"a", path),
    lambda path: step(Op.REMOVE, path),
    lambda path: stage(path, STEP_CLONE),
    lambda path: copy(path, 0, 0, 1),
    lambda path: staged(path, 0),
)


def test_no_path_leads_out_whatever_the_op(ground: Ground) -> None:
    for n, make in enumerate(EVERY_OP):
        for path in (BAD[n % len(BAD)], BAD[(n * 3 + 1) % len(BAD)]):
            said = ground.begin().send(make_dir(b"a") + make(path))
            assert said[-1]["code"] == "protocol", (n, path)
    assert os.listdir(ground.root) == []
    assert ground.untouched()


def test_a_link_planted_between_two_steps_is_not_followed(ground: Ground) -> None:
    peer = ground.begin()
    large = write(0, b"x" * 100)
    assert faults(peer.send(make_dir(b"d") + put(b"d/f") + put(b"f") + stage() + large)) == []
    (ground.root / "d" / "f").unlink()
    (ground.root / "d").rmdir()
    (ground.root / "d").symlink_to("../../outside")
    (ground.root / "f").unlink()
    (ground.root / "f").symlink_to(ground.outside / "f")
    paths = [b"d/f", b"d/new", b"d/deeper/new", b"d/canary"]
    steps = [make(path) for make in EVERY_OP[:-4] for path in paths]
    steps += [staged(b"d/f", 100), step(Op.SET_META, b"f", kind=Kind.FILE, mode=0o777)]
    rows = faults(peer.send(b"".join(steps)))
    assert ground.untouched()
    assert len(rows) == len(steps)
    # What is asked for is not removed there, what is made stands in place of the link.
    assert faults(peer.send(b"".join(step(Op.REMOVE, path) for path in paths) + put(b"f"))) == []
    assert ground.untouched() and not (ground.root / "f").is_symlink()


ASKED = (b"d", b"d/canary", b"link/canary", b"..", b"../outside", b"/", b"/etc", b"a//b", b"x\0y")
ASKED = (*ASKED, b"proc/root/etc", b"proc/cwd", b"proc/fd/0", b"n" * 300, b"a/" * 600_000, b"fifo")


def test_no_question_is_answered_about_outside(ground: Ground) -> None:
    ground.begin().send(b"")
    for name, to in (("d", "../../outside"), ("proc", "/proc/self"), ("link", ground.outside)):
        (ground.root / name).symlink_to(to)
    (ground.root / "file").symlink_to(ground.outside / "canary")
    os.mkfifo(ground.root / "fifo")
    for path in (*ASKED, b"file"):
        told = ground.peer.ask("sign", path=path)
        assert told[-1]["t"] == "error" or (told[-1]["size"], told[-1]["block"]) == (0, 0), path
        if told[-1]["t"] == "error":
            ground.begin()
        told = ground.peer.ask("probe", content=True, dirs=[[path, []]])
        assert told[-1]["t"] == "error" or (told[-1]["status"] and not told[-1]["part"]), path
        if told[-1]["t"] == "error":
            ground.begin()
    told = ground.peer.ask("probe", content=True, dirs=[[b"", [b"../outside", b"a\0b", b"/"]]])
    assert told[-1]["status"] == 0 and b"canary" not in told[-1]["part"]
    for root in (ground.outside, ground.root / "d", ground.root / "proc" / "root" / "etc"):
        peer = Peer(ground.agent, ground.identity)
        assert peer.open(root, rule="other" * 3, read_only=True)["t"] == "error"
        peer.close()


def test_a_root_that_is_a_link_leads_nowhere(ground: Ground) -> None:
    (ground.agent.room / "led").symlink_to(ground.outside)
    (ground.agent.room / "way").symlink_to("..")
    for path in ("led", "led/new", "way/outside", "way/outside/new", "../outside", "./way/.."):
        peer = Peer(ground.agent, ground.identity)
        answer = peer.open(bytes(ground.agent.room) + b"/" + path.encode(), adopt=True)
        peer.close()
        assert answer["code"] == "refused"
    peer = ground.begin()
    peer.send(put(b"f"))
    ground.root.rename(ground.agent.room / "aside")
    ground.root.symlink_to(ground.outside)
    # What was opened is written to; that it stands elsewhere now ends the session.
    assert peer.send(put(b"f") + put(b"new"))[-1]["code"] == "safety"
    assert ground.untouched()


@pytest.mark.root
@needs_root
def test_no_mount_is_entered(ground: Ground) -> None:
    peer = ground.begin()
    peer.send(make_dir(b"m") + make_dir(b"proc"))
    mounts = (["-t", "tmpfs", "none"], "m"), (["--bind", "/proc/self"], "proc")
    try:
        for what, where in mounts:
            subprocess.run(["mount", *what, str(ground.root / where)], check=True)
        (ground.root / "m" / "canary").write_bytes(b"secret" * 1000)
        before = snapshot(ground.root / "m")
        paths = [b"m/canary", b"m/new", b"proc/comm"]
        steps = [make(path) for make in EVERY_OP[:-4] for path in paths]
        rows = faults(peer.send(b"".join([*steps, step(Op.REMOVE, b"m"), put(b"m")])))
        assert len(rows) == len(steps) + 2
        assert snapshot(ground.root / "m") == before
        for path in (b"m", b"proc", b"proc/fd"):
            (told,) = ground.peer.ask("probe", content=True, dirs=[[path, []]])
            assert told["status"] and not told["part"]
        (told,) = ground.peer.ask("sign", path=b"m/canary")
        assert told["size"] == told["block"] == 0
    finally:
        for _, where in mounts:
            subprocess.run(["umount", "-l", str(ground.root / where)], check=False)


# ------------------------------------------------------------------ the stage


@pytest.fixture
def apart(tmp_path: Path, nursery: Nursery) -> Iterator[Ground]:
    """The agent's state on another file system: it stages beside the root."""
    with tmpfs.directory() as place:
        made = Ground(tmp_path, nursery, place)
        yield made
        made.close()


@pytest.mark.parametrize("what", ["link", "foreign", "file", "ours by name"])
def test_what_is_planted_in_place_of_the_stage_is_left_alone(apart: Ground, what: str) -> None:
    """It is emptied when a session opens, and files are staged in it."""
    place = apart.agent.room / STAGE
    if what == "link":
        place.symlink_to(apart.outside)
    elif what == "file":
        place.write_text("mine")
    elif what == "foreign":
        place.mkdir()
        os.chown(place, 4711, 4711)
        (place / "0123456789abcdef").write_text("mine")
    else:
        # Somebody's own directory, moved there by who may write beside the root.
        place.mkdir(mode=0o700)
        (place / "precious").write_text("mine")
    before = snapshot(place)
    answer = apart.peer.open(apart.root)
    if what == "ours by name":
        assert answer["code"] == "safety" and "precious" in answer["cause"]
        assert os.listdir(place) == ["precious"]
    else:
        assert answer["status"] == "fresh"
        apart.peer.begin()
        assert faults(apart.peer.send(put(b"f") + stage() + write(0, b"x") + staged(b"g", 1))) == []
        assert sorted(os.listdir(apart.root)) == ["f", "g"]
        assert snapshot(place) == before
    assert apart.untouched()


@pytest.mark.parametrize("what", ["link", "foreign"])
def test_what_is_planted_in_place_of_the_stage_inside_stops_the_session(
    apart: Ground, what: str
) -> None:
    # Beside the root there is no stage: that is not below what is allowed.
    apart.root = apart.agent.room
    assert apart.peer.open(apart.root)["status"] == "fresh"
    apart.peer.begin()
    place = apart.root / STAGE
    if what == "link":
        place.symlink_to(apart.outside)
    else:
        place.mkdir()
        os.chown(place, 4711, 4711)
    said = apart.peer.send(put(b"f"))
    assert said[-1]["code"] == "safety" and "not the agent's own" in said[-1]["cause"]
    assert apart.untouched()


# ------------------------------------------------------------------ races


def test_a_renamer_that_never_rests_gains_nothing_by_any_op(ground: Ground) -> None:
    peer = ground.begin()
    peer.send(make_dir(b"d") + b"".join(put(b"d/f%d" % n) for n in range(50)))
    for n in range(50):
        (ground.outside / f"f{n}").write_text("mine")
    ground.before = snapshot(ground.outside)
    paths = [b"d/f%d" % n for n in range(50)] + [b"d/canary", b"d/new", b"d/sub/new"]
    made = b"".join(make(path) for path in paths for make in EVERY_OP[:-3])
    renamer = Renamer(ground.root / "d", ground.outside, ground.root.parent / "beside")
    frames = 0
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or frames < 3:
            peer.send(made)
            (told,) = peer.ask("probe", content=True, dirs=[[b"d", []]])
            assert b"canary" not in told["part"] or told["status"]
            (told,) = peer.ask("sign", path=b"d/canary")
            assert told["size"] != 6000
            frames += 1
    finally:
        renamer.stop()
    assert renamer.swaps > 100
    assert ground.untouched()


def test_a_renamer_that_never_rests_beside_a_mirror(tmp_path: Path, nursery: Nursery) -> None:
    hosts = Hosts(tmp_path, nursery)
    try:
        for n in range(400):
            place = hosts.source / "d" / f"s{n % 5}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"f{n}").write_text(str(n))
            (hosts.outside / f"s{n % 5}").mkdir(exist_ok=True)
            (hosts.outside / f"s{n % 5}" / f"f{n}").write_text("mine")
        before = snapshot(hosts.outside)
        hosts.start_target()
        hosts.start_source()
        until("it did not begin", lambda: (hosts.target / "d").is_dir())
        renamer = Renamer(hosts.target / "d", hosts.outside, hosts.target.parent / "beside")
        try:
            end = time.monotonic() + SECONDS
            turn = 0
            while time.monotonic() < end:
                for n in range(turn % 7, 400, 7):
                    (hosts.source / "d" / f"s{n % 5}" / f"f{n}").write_text(f"{turn} {n}")
                turn += 1
                time.sleep(0.01)
        finally:
            renamer.stop()
        assert renamer.swaps > 100
        assert snapshot(hosts.outside) == before
        hosts.quiesce()
        assert hosts.differences() == []
        assert snapshot(hosts.outside) == before
    finally:
        hosts.close()


def test_steps_know_no_other_way_out() -> None:
    """Every op is among those above: a new one has to be thought of here."""
    tried = {STEP.unpack_from(make(b"x"))[1] for make in EVERY_OP}
    assert set(Op) - tried == {Op.WRITE, Op.HOLE}  # which have no path
