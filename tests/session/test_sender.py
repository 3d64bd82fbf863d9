"""The sending side against a real receiver: what is acknowledged when, and what is said before."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ends import until

from i2node.errors import PeerLost, TargetFault
from i2node.fs.root import Root
from i2node.fs.tree import TargetTree
from i2node.model import Entry, Kind, Verdict
from i2node.mover import batch, listing
from i2node.mover.batch import Op
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import Listener, connect, open_stream
from i2node.repl import frame, sender
from i2node.repl.journal import Journal
from i2node.repl.large import LargeReader
from i2node.repl.ledger import Ledger
from i2node.repl.plan import Batch, Large, Linked, Put, known, make_dir, named_root
from i2node.repl.receiver import Receiver
from i2node.repl.remote import Remote
from i2node.repl.sender import Sender

RULE = "0123456789abcdef"
SMALL = 4096


class Wire:
    """One session between two trees of this process."""

    def __init__(self, place: Path) -> None:
        self.source, self.target = place / "source", place / "target"
        self.source.mkdir()
        here, there = Identity.load(place / "here"), Identity.load(place / "there")
        here.trust(there.cert_pem, name="there")
        there.trust(here.cert_pem, name="here", role="controller")
        self.ledger = ledger = Ledger(place / "var" / "targets")

        def serve(channel: Channel) -> None:
            Receiver(channel, ledger, place / "var", [place], checkpoint_s=1.0).run()

        self.listener = Listener("127.0.0.1", 0, there, on_channel=serve)
        self.listener.start()
        self.told: list[tuple[str, object]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.root = Root(os.fsencode(self.source))
        self.journal = Journal(place / "state" / "index.db")
        channel = connect("127.0.0.1", self.listener.port, here)
        self.remote = Remote(channel)
        self.remote.open(RULE, os.fsencode(self.target), [], "first")
        self.remote.stream(0, True, b"")
        stream = open_stream(channel, 0)
        large = LargeReader(self.root, self.journal, {}, self.remote.sign)
        large.again = lambda ino, name, since: self.told.append(("again", name))
        self.sender = Sender(
            self.root,
            self.journal,
            stream,
            stream.sealer(level="auto", encrypt=True, rule_secret=b""),
            large,
            small_max=SMALL,
            frame_bytes=1 << 18,
            window=1 << 20,
            pace=lambda size: self.pace(),
            again=lambda ino, name, sent: self.told.append(("again", name)),
            trouble=self._tell("trouble"),
            strayed=self._tell("strayed"),
            took=self._tell("took"),
        )
        self.remote.on_applied = self._heard("applied", self.sender.applied)
        self.remote.on_durable = self._heard("durable", self.sender.durable)
        self.remote.on_faults = lambda seq, faults: self.told.extend(
            ("fault", f.path) for f in faults
        )
        self.remote.on_lost = self.sender.fail

    def _tell(self, what: str) -> Callable[..., None]:
        return lambda *values: self.told.append((what, values[-1]))

    def _heard(self, what: str, then: Callable[..., None]) -> Callable[..., None]:
        def heard(seq: int, *more: bool) -> None:
            self.told.append((what, seq))
            then(seq, *more)

        return heard

    def pace(self) -> None:
        self.gate.wait(30.0)

    @property
    def ino(self) -> int:
        return self.root.identity.ino

    def batch(self, *names: str, verdict: Verdict = Verdict.NEW, **fields: object) -> Batch:
        """The named files of the root, to be sent."""
        asked = [os.fsencode(name) for name in names]
        seen = batch.stat_names(self.root.fd, self.root.dev, b"", asked)
        records = b"".join(
            listing.encode(e._replace(verdict=verdict)) for e in listing.entries(seen.entries)
        )
        return Batch(files=[(self.ino, b"", records)], dirs={self.ino: b""}, last=True)

    def send(self, work: Batch) -> None:
        self.sender.submit(work)
        assert self.sender.wait_drained(30.0)

    def held(self, name: str) -> Entry | None:
        return listing.find(self.journal.listing(self.ino), os.fsencode(name))

    def close(self) -> None:
        self.gate.set()
        self.sender.close()
        self.remote.close()
        self.listener.close()
        self.journal.close()
        self.root.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(tmp_path)
    yield made
    made.close()


def test_nothing_changes_in_a_tree_that_is_to_stand_still(wire: Wire) -> None:
    (wire.source / "a").write_text("one")
    with wire.ledger.still(RULE):
        wire.sender.submit(wire.batch("a"))
        assert not wire.sender.wait_drained(0.5) and not (wire.target / "a").exists()
        assert wire.remote.probe([(b"", ())], False) == [b""], "questions are answered meanwhile"
    assert wire.sender.wait_drained(30.0)
    assert (wire.target / "a").read_text() == "one"


def test_what_is_durable_is_there_and_in_no_doubt(wire: Wire) -> None:
    (wire.source / "a").write_text("one")
    wire.send(wire.batch("a"))
    assert (wire.target / "a").read_text() == "one"
    assert wire.held("a") is not None
    assert wire.sender.flow().in_flight == 0
    work = wire.batch("a", verdict=Verdict.DATA)
    wire.send(work)
    assert wire.journal.suspects(wire.ino) == []


def test_what_waits_anywhere_is_in_flight_and_in_doubt(wire: Wire) -> None:
    (wire.source / "a").write_text("one")
    wire.send(wire.batch("a"))
    wire.gate.clear()
    (wire.source / "a").write_text("two")
    wire.sender.submit(wire.batch("a", verdict=Verdict.DATA))
    wire.sender.settle()
    # From here on the journal has it; no moment may look as if the target had it too.
    assert wire.sender.flow().in_flight > 0
    assert wire.sender.flow().oldest is not None
    assert not wire.sender.drained()
    assert wire.journal.doubts() == [(wire.ino, b"")]
    assert wire.journal.suspects(wire.ino) == [b"a"]
    assert (wire.target / "a").read_text() == "one"
    wire.gate.set()
    assert wire.sender.wait_drained(30.0)
    assert wire.sender.flow().in_flight == 0
    assert wire.journal.suspects(wire.ino) == []
    assert (wire.target / "a").read_text() == "two"


def test_a_directory_is_in_doubt_as_long_as_some_of_its_batch_is_to_come(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first frames are durable by then."""
    (wire.source / "a").write_bytes(os.urandom(8 << 20))
    left = iter(range(4))
    monkeypatch.setattr(wire, "pace", lambda: next(left, None) is None and wire.gate.wait(30.0))
    wire.gate.clear()
    wire.sender.submit(wire.batch("a"))
    with wire.sender.line.changed:
        assert wire.sender.line.changed.wait_for(lambda: wire.sender.line.durable >= 0, 30.0)
    wire.journal.settle(wire.sender.line.last)
    assert wire.journal.doubts() == [(wire.ino, b"")]
    wire.gate.set()
    assert wire.sender.wait_drained(30.0)
    assert wire.journal.doubts() == []


def test_arriving_means_applied(wire: Wire) -> None:
    for n in range(50):
        (wire.source / f"f{n}").write_bytes(bytes(SMALL))
    work = wire.batch(*(f"f{n}" for n in range(50)))
    work.last = False
    wire.sender.submit(work)
    wire.sender.arrive()
    assert len(list(wire.target.glob("f*"))) == 50


def test_a_fault_is_told_before_its_frame_is_acknowledged(wire: Wire) -> None:
    step = batch.step(Op.RENAME, b"missing/x", b"y", kind=Kind.FILE)
    wire.send(Batch(before=[step], dirs={wire.ino: b""}, last=True))
    kinds = [what for what, _ in wire.told]
    assert ("fault", b"missing/x") in wire.told
    assert kinds.index("fault") < kinds.index("applied") < kinds.index("durable")


def test_what_does_not_fit_the_frame_is_in_doubt_until_the_next_one(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file overwrites goes by the number of the frame that the file is in."""
    for module in (sender, frame):
        monkeypatch.setattr(module, "FRAME_MAX", 1 << 16)
    (wire.source / "d").mkdir()
    for n in range(20):
        (wire.source / f"f{n}").write_bytes(bytes(4000))
    made = listing.decode(batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"d"]).entries)
    work = wire.batch(*(f"f{n}" for n in range(20)), verdict=Verdict.DATA)
    work.before = [make_dir(b"d", made)]
    wire.gate.clear()
    wire.sender.submit(work)
    wire.sender.settle()
    wire.journal.settle(0)
    # Fifteen fitted the first frame, with the directory.
    assert len(wire.journal.suspects(wire.ino)) == 5
    wire.gate.set()
    assert wire.sender.wait_drained(30.0)
    assert wire.journal.suspects(wire.ino) == []


def test_steps_that_do_not_fit_one_frame_go_in_two(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sender, frame):
        monkeypatch.setattr(module, "FRAME_MAX", 1 << 16)
    part = bytes(40_000)
    wire.send(
        Batch(
            before=[
                batch.step(Op.STAGE, b"f", kind=Kind.FILE, stage=7),
                batch.step(Op.WRITE, b"", kind=Kind.FILE, stage=7, data=part),
                batch.step(Op.WRITE, b"", kind=Kind.FILE, stage=7, size=len(part), data=part),
                batch.step(Op.STAGE, b"", flags=batch.STEP_DROP, stage=7),
            ],
            dirs={wire.ino: b""},
            last=True,
        )
    )
    assert wire.sender.line.last == 1
    assert "fault" not in [what for what, _ in wire.told]
    assert wire.journal.doubts() == []


def test_a_lost_wire_ends_the_waiting_and_leaves_the_doubt(wire: Wire) -> None:
    (wire.source / "a").write_text("one")
    wire.gate.clear()
    wire.sender.submit(wire.batch("a"))
    wire.sender.settle()
    wire.remote.channel.close()
    until("the loss went unnoticed", lambda: wire.sender.error is not None)
    with pytest.raises(PeerLost):
        wire.sender.wait_drained(30.0)
    with pytest.raises(PeerLost):
        wire.sender.submit(Batch())
    wire.journal.new_session()
    wire.journal.settle(1000)
    assert wire.journal.doubts() == [(wire.ino, b"")]


def test_a_directory_that_was_exchanged_while_it_was_read(wire: Wire) -> None:
    """What stands under the path is another directory than the one that is meant: nothing of it is
    read, sent or noted, and the names are looked at again."""
    (wire.source / "d").mkdir()
    (wire.source / "d" / "f").write_text("of the other")
    entry = listing.decode(batch.stat_names(wire.root.fd, wire.root.dev, b"d", [b"f"]).entries)
    directory = listing.decode(batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"d"]).entries)
    another = directory.ino + 1_000_000
    work = Batch(before=[make_dir(b"d", directory)], dirs={another: b"d"}, last=True)
    work.files = [(another, b"d", listing.encode(entry._replace(verdict=Verdict.NEW)))]
    wire.send(work)
    assert ("again", b"f") in wire.told
    assert wire.journal.listing(another) == b""
    assert list((wire.target / "d").iterdir()) == []


def test_another_directory_under_the_name_is_not_noted_as_this_one(wire: Wire) -> None:
    (wire.source / "d").mkdir()
    seen = listing.decode(batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"d"]).entries)
    meant = seen._replace(ino=seen.ino + 1_000_000, verdict=Verdict.META)
    work = Batch(before=[make_dir(b"d", seen)], dirs={wire.ino: b""}, last=True)
    work.before_edits = [Put(wire.ino, known(meant))]
    work.metas = {wire.ino: (b"", {b"d": listing.encode(meant)})}
    wire.send(work)
    assert ("strayed", b"d") in wire.told
    held = wire.held("d")
    assert held is not None and held.ino == meant.ino


@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_a_linked_file_that_came_under_a_name_is_looked_at_again(wire: Wire, size: int) -> None:
    """It was sent as a file of its own; noted as it was read it would never be linked."""
    (wire.source / "a").write_bytes(b"1" * size)
    work = wire.batch("a")
    if size > SMALL:
        (_, _, record) = work.files.pop()
        work.large = [Large(wire.ino, b"a", listing.decode(record))]
    (wire.source / "x").write_bytes(b"2" * size)
    os.link(wire.source / "x", wire.source / "y")
    (wire.source / "x").rename(wire.source / "a")
    wire.send(work)
    assert ("again", b"a") in wire.told
    held = wire.held("a")
    now = batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"a"]).entries
    assert held is not None and held.ino == listing.decode(now).ino
    changes = listing.diff(listing.encode(held), now, SMALL)
    assert changes is not None and changes.linked


@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_a_file_that_got_another_name_before_it_was_read_is_looked_at_again(
    wire: Wire, size: int
) -> None:
    """Noted as read, it would be known neither as one that has places nor as one with a single
    name, and a walk that meets the other name would send that as another file."""
    (wire.source / "a").write_bytes(b"1" * size)
    work = wire.batch("a")
    if size > SMALL:
        (_, _, record) = work.files.pop()
        work.large = [Large(wire.ino, b"a", listing.decode(record))]
    os.link(wire.source / "a", wire.source / "b")
    wire.send(work)
    assert ("again", b"a") in wire.told
    held = wire.held("a")
    now = batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"a"]).entries
    assert held is not None and held.ino == listing.decode(now).ino
    changes = listing.diff(listing.encode(held), now, SMALL)
    assert changes is not None and changes.linked


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_no_name_of_a_file_that_cannot_be_read_is_asked_for_at_once(wire: Wire, size: int) -> None:
    """That would be to read it again and again."""
    path = wire.source / "a"
    path.write_bytes(b"1" * size)
    os.link(path, wire.source / "b")
    work = wire.batch("a")
    first = Large(wire.ino, b"a", listing.decode(work.files.pop()[2]))
    work.linked = [Linked(first, ((wire.ino, b"b", b"b"),))]
    subprocess.run(["mount", "--bind", "/proc/version", str(path)], check=True)
    try:
        wire.send(work)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
    told = [told for told in wire.told if told[0] in ("trouble", "again")]
    assert told == [("trouble", (wire.ino, b"a")), ("trouble", (wire.ino, b"b"))]


@pytest.mark.parametrize("size", [9000, 40_000])
def test_trust_in_a_large_file_ends_when_it_changes(wire: Wire, size: int) -> None:
    """When it was looked at only its mode had changed; by the time it is read it was written to."""
    path = wire.source / "a"
    path.write_bytes(b"1" * 9000)

    def seen(verdict: Verdict) -> Large:
        found = batch.stat_names(wire.root.fd, wire.root.dev, b"", [b"a"])
        return Large(wire.ino, b"a", listing.decode(found.entries)._replace(verdict=verdict))

    wire.send(Batch(large=[seen(Verdict.NEW)], dirs={wire.ino: b""}, last=True))
    path.chmod(0o600)
    item = replace(seen(Verdict.DATA), trusted=True)
    path.write_bytes(b"2" * size)
    wire.send(Batch(large=[item], dirs={wire.ino: b""}, last=True))
    assert (wire.target / "a").read_bytes() == b"2" * size
    path.chmod(0o644)
    wire.send(
        Batch(large=[replace(seen(Verdict.DATA), trusted=True)], dirs={wire.ino: b""}, last=True)
    )
    assert (wire.target / "a").stat().st_mode & 0o7777 == 0o644
    assert (wire.target / "a").read_bytes() == b"2" * size


def test_what_vanished_is_looked_at_again(wire: Wire) -> None:
    (wire.source / "a").write_text("one")
    work = wire.batch("a")
    (wire.source / "a").unlink()
    wire.send(work)
    assert ("again", b"a") in wire.told
    assert wire.held("a") is None
    assert not (wire.target / "a").exists()


def test_a_file_that_outgrew_its_way_takes_the_other(wire: Wire) -> None:
    (wire.source / "a").write_text("small")
    work = wire.batch("a")
    (wire.source / "a").write_bytes(b"x" * (SMALL + 1))
    wire.send(work)
    assert (wire.target / "a").stat().st_size == SMALL + 1
    held = wire.held("a")
    assert held is not None and held.size == SMALL + 1


def test_a_beat_is_back_when_all_before_it_is_durable(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, disk = [], threading.Event()

    def sync(tree: TargetTree) -> None:
        disk.wait(30.0)
        syncs.append(tree)

    monkeypatch.setattr(TargetTree, "sync", sync)
    (wire.source / "a").write_text("one")
    wire.sender.submit(wire.batch("a"))
    wire.sender.settle()
    beat = wire.sender.beat()
    assert beat == wire.sender.line.last == wire.sender.beat()
    wire.sender.line.wait_applied()
    assert (wire.target / "a").read_text() == "one"
    assert not any(what == "durable" for what, _ in wire.told)
    disk.set()
    assert wire.sender.wait_drained(30.0)
    assert ("durable", beat) in wire.told and len(syncs) == 1


def test_a_beat_goes_to_the_target_though_nothing_is_to_be_sent(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wire.source / "a").write_text("one")
    wire.send(wire.batch("a"))
    monkeypatch.setattr(TargetTree, "sync", None)  # nothing is to be made durable
    wire.gate.clear()
    beat = wire.sender.beat()
    assert beat > 0 and not wire.sender.drained()
    assert wire.sender.flow().in_flight == 0 and wire.sender.flow().oldest is None
    wire.gate.set()
    assert wire.sender.wait_drained(30.0)
    assert ("durable", beat) in wire.told


def test_what_the_disk_refused_to_keep_is_not_durable(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of once: to ask a second time would be to hear that all is well."""

    def sync(tree: TargetTree) -> None:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(TargetTree, "sync", sync)
    (wire.source / "a").write_text("one")
    with pytest.raises(TargetFault, match="not on its disk"):
        wire.send(wire.batch("a"))
    assert not any(what == "durable" for what, _ in wire.told)


def test_a_root_that_tells_no_attributes_is_sent_without(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is on some file systems of FUSE."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "no attributes")

    monkeypatch.setattr(batch, "attributes", refused)
    os.utime(wire.source, ns=(0, 7))
    os.setxattr(wire.target, "user.left", b"alone")
    own = batch.stat_names(wire.root.fd, wire.root.dev, b"", ()).own
    wire.send(Batch(root=named_root(listing.decode(own)), dirs={wire.ino: b""}, last=True))
    assert wire.target.stat().st_mtime_ns == 7
    assert os.getxattr(wire.target, "user.left") == b"alone"
