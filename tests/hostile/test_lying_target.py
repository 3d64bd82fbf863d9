"""A target that lies in what it acknowledges, answers and complains of: the source ends that
session with an error of the protocol, tries again, and has forgotten nothing."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from channels import LONG, Nodes
from ends import until
from liar import Liar, Lie, Message
from nursery import Child, Nursery
from witness import differences

from i2node.errors import PeerLost, ProtocolError
from i2node.mover.batch import At, Op
from i2node.net.identity import Identity
from i2node.repl.remote import PART, Remote

CONFIG = "small_file_max = 4096\nheartbeat_s = 1.0\n"


class Pair:
    """A real source, and the liar that it mirrors to."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.source, self.target = place / "source", place / "room" / "target"
        self.log = place / "here.log"
        for directory in (self.source, self.target.parent, place / "here" / "etc"):
            directory.mkdir(parents=True)
        (place / "here" / "etc" / "i2node.toml").write_text(CONFIG)
        self.liar = Liar(place / "there", self.target.parent)
        here = Identity.load(place / "here" / "etc")
        here.trust(self.liar.identity.cert_pem)
        self.liar.identity.trust(here.cert_pem)
        self._nursery = nursery
        self._place = place
        self.mirror: Child | None = None

    def start(self, *more: str) -> None:
        self.mirror = self._nursery.bear(
            self.log,
            *("--home", str(self._place / "here"), "mirror", str(self.source)),
            *(f"127.0.0.1:{self.liar.port}:{self.target}", "--json", *more),
        )

    def equal(self) -> bool:
        assert self.mirror is not None and self.mirror.alive(), self.tail()
        try:
            return not differences(self.source, self.target)[1]
        except OSError:
            return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def peak(self) -> int:
        """The most memory that the source ever had, in KiB."""
        assert self.mirror is not None
        status = Path(f"/proc/{self.mirror.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def close(self) -> None:
        if self.mirror is not None:
            self.mirror.kill()
        self.liar.close()


@pytest.fixture(scope="module")
def pair(nursery: Nursery) -> Iterator[Pair]:
    place = Path(tempfile.mkdtemp(prefix="i2node-liar-", dir="/var/tmp"))
    made = Pair(place, nursery)
    for n in range(5):
        (made.source / f"d{n}").mkdir()
        (made.source / f"d{n}" / "f").write_text(str(n))
    made.start()
    until("never equal", made.equal)
    yield made
    made.close()
    shutil.rmtree(place)


def before(**lie: Any) -> Lie:
    """Says this first, about the same frame, then the truth."""

    def told(message: Message) -> Iterator[Message]:
        yield {"seq": message.get("seq"), **lie}
        yield message

    return told


def instead(**lie: Any) -> Lie:
    """The truth, but for these fields."""
    return lambda message: iter([{**message, **lie}])


def fault(**of: Any) -> Lie:
    row = {"path": b"d0/f", "other": b"", "op": int(Op.PUT_FILE), "status": errno.EACCES}
    return before(t="faults", faults=[list({**row, "at": int(At.OPEN), **of}.values())])


LIES: dict[str, tuple[str, Lie]] = {
    "applied of a frame that was never sent": ("applied", instead(seq=10**6)),
    "applied going backwards": ("applied", lambda m: iter([m, {**m, "seq": m["seq"] - 1}])),
    "applied as truth": ("applied", instead(seq=True)),
    "durable of a frame that was never sent": ("durable", instead(seq=10**6)),
    "durable twice": ("durable", lambda m: iter([m, m])),
    "durable without a number": ("durable", instead(seq=None)),
    "a fault of a frame long gone": ("durable", fault()),
    "an op that is none": ("applied", fault(op=99)),
    "an errno that is none": ("applied", fault(status=1 << 40)),
    "a path that is a number": ("applied", fault(path=4 << 30)),
    "a path outside": ("applied", fault(path=b"../canary")),
    "a path longer than the frame": ("applied", fault(path=b"/".join([b"n"] * 500_000))),
    "an answer to nothing": ("applied", before(t="probed", n=10**6, part=b"")),
    "parts that are none": ("opened", instead(parts=[[1, 2, 3]])),
    "a status that is none": ("opened", instead(status="king")),
    "a listing that is none": ("probed", instead(part=b"\xff" * 120, status=0)),
    "another directory's listing": ("probed", instead(i=77)),
    "a listing in crumbs": ("probed", instead(part=b"", last=False)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_the_session_and_nothing_else(pair: Pair, lie: str) -> None:
    at, told = LIES[lie]
    # A session that got something done is tried again at once when it fails.
    (pair.source / "warm").write_text(lie)
    until("it was not mirrored", pair.equal)
    pair.liar.lie(at, told)
    if at == "probed":
        # What is under way when the connection is lost is asked for.
        pair.liar.lie("applied", lambda m: pair.liar.lie(at, told) or pair.liar.cut() or iter(()))
    elif at == "opened":
        pair.liar.cut()
    (pair.source / "d1" / lie.replace(" ", "-")).write_text(lie)
    until("it was believed", pair.liar.found_out)
    until("it was not mended", pair.equal)
    assert pair.peak() < 400 << 10


def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2node.repl.remote.LISTINGS_MAX", 16 << 20)
    nodes = Nodes(tmp_path)
    nodes.pair()
    mine, theirs = nodes.connect()
    remote = Remote(mine)

    def answer() -> None:
        assert theirs.recv(LONG)["t"] == "open"
        theirs.send({"t": "opened", "status": "known", "parts": [], "owner": True})
        n = theirs.recv(LONG)["n"]
        part = {"t": "probed", "n": n, "i": 0, "status": 0, "own": b"", "part": bytes(PART)}
        with suppress(PeerLost):
            while True:
                theirs.send({**part, "last": False})

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        remote.open("0123456789abcdef", b"/", [], "")
        with pytest.raises(ProtocolError, match="no end"):
            remote.probe([(b"", ())], False)
    finally:
        remote.close()
        nodes.close()
        thread.join()
