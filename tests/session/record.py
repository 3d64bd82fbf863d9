"""Records what nodes say to each other, as recorded.py has it, for a protocol that is about to
become an earlier one:

    python tests/session/record.py VERSION          as root; writes tests/data/protocol-VERSION

Run it with the last program that has VERSION as its newest protocol, before the next one is begun.
Real nodes speak: the recorder reads along at the TLS sockets of the side that connects. Afterwards
the directory in which they stood is called PLACE, and the host HOST.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))

import planted
from ends import until
from recorded import BOOT, DATA, HOST, NAMESPACE, PLACE, Message, Record, replaced, tree, write

from i2node.config import Config
from i2node.controller.link import Address, Link
from i2node.errors import I2Error, Refused
from i2node.fs.tree import boot_id, host_id
from i2node.model import MirrorOptions, Target, Whole
from i2node.net import wire
from i2node.net.identity import Identity
from i2node.net.pairing import pair
from i2node.net.seal import Sealer
from i2node.net.stream import DataStream
from i2node.net.transport import Listener, Pump, connect
from i2node.node import copies
from i2node.node.daemon import Daemon
from i2node.orders import Charge, Grant, Orders, Part, Standing, Want
from i2node.repl.compare import compare
from i2node.repl.doctor import diagnose
from i2node.repl.rules import rule_id
from i2node.repl.session import Session

RULE, LOST, ODD = (f"A1B2C3D4-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
STAMP, LATER = "20260101000000", "20260102000000"
ADDRESS = "127.0.0.1"


# ------------------------------------------------------------------ reading along


class Tap:
    """One connection, as the side that made it says and hears it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._rest = {"s": b"", "t": b""}

    def passed(self, side: str, data: bytes) -> None:
        """Bytes of the TLS stream."""
        rest = self._rest[side] + data
        while len(rest) >= 4 and len(rest) >= 4 + wire.message_length(rest):
            end = 4 + wire.message_length(rest)
            said = Record(side, "m", rest[4:end])
            if self.records[-1:] != [said]:  # a copy that is being made says so again and again
                self.records.append(said)
            rest = rest[end:]
        self._rest[side] = rest

    def note(self, **note: Any) -> None:
        self.records.append(Record("-", "n", json.dumps(note).encode()))

    def said(self, side: str, kind: str) -> list[Message]:
        return [r.message for r in list(self.records) if r.says(side, kind)]


class _Tapped(ssl.SSLSocket):
    """Of the side that connects."""

    tap: Tap | None = None

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        if not self.server_side and self.tap is None:
            self.tap = Tap()
            _taps.append(self.tap)

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data, flags)
        if self.tap is not None:
            self.tap.passed("s", bytes(data[:sent]))
        return sent

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        got = super().recv(buflen, flags)
        if self.tap is not None:
            self.tap.passed("t", got)
        return got


_taps: list[Tap] = []


@contextmanager
def tapped() -> Iterator[list[Tap]]:
    """Connections that are made meanwhile, in order; with the frames of their data streams."""
    _taps.clear()
    send, seal = DataStream.send, Sealer.seal
    waiting: dict[bytes, bytes] = {}

    def sent(stream: DataStream, buffers: Sequence[Any]) -> None:
        head = bytes(buffers[0][: wire.HEADER_SIZE])
        payload = waiting.pop(head, None)
        if payload is not None:
            header = wire.parse_header(head)
            of = next(t for t in _taps if t.said("t", "keys")[0]["session"] == stream._session)
            fields = (header.type, header.flags, header.stream)
            of.records.append(Record("s", "f", payload, *fields))
        send(stream, buffers)

    def kept(sealer: Sealer, type_: int, payload: Any, seq: int | None = None) -> Any:
        buffers = seal(sealer, type_, payload, seq)
        waiting[bytes(buffers[0])] = bytes(payload)
        return buffers

    ssl.SSLContext.sslsocket_class = _Tapped
    DataStream.send, Sealer.seal = sent, kept  # type: ignore[method-assign]
    try:
        yield _taps
    finally:
        ssl.SSLContext.sslsocket_class = ssl.SSLSocket
        DataStream.send, Sealer.seal = send, seal  # type: ignore[method-assign]


# ------------------------------------------------------------------ the nodes


class Ground:
    """A source, and a node that keeps mirrors in `room` and speaks these protocols alone."""

    def __init__(self, place: Path, protocol: tuple[int, int]) -> None:
        self.place, self.room = place, place / "room"
        self.source = place / "source"
        for path in (self.source, self.room / "base"):
            path.mkdir(parents=True)
        self.here = Identity.load(place / "here" / "etc")
        self.there = Identity.load(place / "there" / "etc")
        self.here.trust(self.there.cert_pem)
        self.there.trust(self.here.cert_pem, role="controller")
        config = Config(
            etc=place / "there" / "etc",
            var=place / "there" / "var",
            allow_roots=(self.room,),
            brake_floor=planted.FLOOR,
            brake_share=0.0,
        )
        self.daemon = Daemon(config, self.there)
        self.daemon.charges.start()
        self.listener = Listener(
            ADDRESS, 0, self.there, on_channel=self.daemon._serve, beat=0.5, protocol=protocol
        )
        self.listener.start()
        self.target = Target(ADDRESS, self.listener.port, bytes(self.room / "mirror"))

    def config(self, name: str = "here") -> Config:
        """The source's; another name: it has lost what it kept."""
        return Config(
            etc=self.place / "here" / "etc",
            var=self.place / name / "var",
            small_file_max=planted.SMALL_MAX,
            heartbeat_s=0.5,
        )

    def session(self, name: str = "here", **options: Any) -> Session:
        wanted = MirrorOptions(**{"source": self.source, "target": self.target, **options})
        return Session(self.config(name), wanted, self.here)

    def close(self) -> None:
        self.daemon.charges.close()
        self.listener.close()


# ------------------------------------------------------------------ the scenes


def mirror(ground: Ground, taps: list[Tap]) -> None:
    """A first mirror, live changes of each kind, a fault, what the brake holds, the end."""
    planted.plant(ground.source)
    session = ground.session()
    thread = threading.Thread(target=session.run, daemon=True)
    thread.start()
    settled(session)
    tap = taps[-1]
    for change in planted.CHANGES:
        change(ground.source)
        settled(session)
    target = ground.room / "mirror"
    planted.tear(target)
    tap.note(event="tear")
    planted.write_where_it_is_torn(ground.source)
    until("no fault", lambda: bool(tap.said("t", "faults")))
    until("it is no problem", lambda: session.report().problems.count > 0)
    planted.mend(target)
    tap.note(event="mend")
    settled(session)
    planted.remove_many(ground.source)
    until("the brake does not hold", lambda: bool(tap.said("t", "stalled")))
    tap.note(event="release")
    (budget,) = (ground.daemon.budgets.of(session.rule),)
    assert budget is not None
    budget.release()
    settled(session)
    until("nobody beats", lambda: all(tap.said(side, "beat") for side in "st"))
    session.stop()
    thread.join()
    tap.note(tree=tree(target))


def settled(session: Session) -> None:
    """All that happened so far is at the target."""
    now = time.time()
    until(
        "it is not in sync",
        lambda: session.report().in_sync and (session.report().durable_as_of or 0) > now,
    )


def examine(ground: Ground, taps: list[Tap]) -> None:
    diagnose(ground.config(), ground.source, ground.target, ground.here)


def compared(ground: Ground, taps: list[Tap]) -> None:
    result = compare(ground.config(), ground.source, ground.target, True, ground.here)
    assert result.equal, result


def again(ground: Ground, taps: list[Tap]) -> None:
    """By a source that lost its books, after a large file changed."""
    planted.shift(ground.source)
    session = ground.session("forgetful", once=True, adopt=True, check="strict")
    assert session.run().exit_status == 0
    taps[-1].note(tree=tree(ground.room / "mirror"))


def refused(ground: Ground, taps: list[Tap]) -> None:
    elsewhere = replace(ground.target, path=bytes(ground.place / "elsewhere"))
    with contextlib.suppress(Refused):
        ground.session("stranger", once=True, target=elsewhere).run()


def govern(ground: Ground, taps: list[Tap]) -> None:
    """The controller's conversation: orders taken in part, refused, questions, and a rule that
    stands."""
    heard: list[Standing] = []
    address = Address("N", ADDRESS, ground.listener.port, ground.there.node_id)
    pump = Pump(lasting=True)
    link = Link(
        *(address, ground.here, pump, lambda: orders(ground), heard.extend),
        *(lambda *_: None, lambda *_: None),
    )
    link.dial()
    link.wait_held(7, 60.0)
    tap = next(t for t in taps if t.said("s", "govern"))
    (ground.room / "shown" / "inner").mkdir(parents=True)
    (ground.room / "shown" / "f").touch()
    link.ask("dirs", {"path": str(ground.room / "shown"), "files": True}, 60.0)
    with contextlib.suppress(I2Error):
        link.ask("what is not known", {}, 60.0)
    until("the rule does not stand", lambda: any(one.cause and one.tally for one in heard))
    talk = link._talk
    assert talk is not None
    talk.channel.send({"t": "orders", "body": b"no orders", "left": 0})
    until("it was not refused", lambda: bool(tap.said("t", "refused")))
    link.close()
    until("the link is there", lambda: not link.online)


def orders(ground: Ground) -> Orders:
    """One rule that is granted here, one whose backup node is away, one that cannot be."""
    known = {"peer": ground.here.node_id, "certificate": ground.here.cert_pem}
    base = str(ground.room / "base")
    grant = Grant(rule=RULE, name="work", roots=(base,), base=base, copies=1, drop=False, **known)
    (ground.place / "lost").mkdir(exist_ok=True)
    lost = Charge(
        rule=LOST,
        version="1",
        name="all",
        want=Want.RUN,
        host=ADDRESS,
        port=1,
        base=base,
        parts=(Part(source=str(ground.place / "lost")),),
        **known,
    )
    odd = replace(lost, rule=ODD, name="odd", base="not absolute")
    return Orders(number=7, charges=(lost, odd), grants=(grant,))


def whole(ground: Ground, taps: list[Tap]) -> None:
    """A run of a rule, complete."""
    source = ground.place / "part"
    source.mkdir()
    (source / "f").write_text("of a part")
    planted.age(source)
    target = replace(ground.target, path=bytes(ground.room / "base" / STAMP / "part"))
    rule = rule_id(ground.here.node_id, bytes(source), str(target))
    session = ground.session(
        source=source, target=target, once=True, whole=Whole(RULE, ((rule, target.path),))
    )
    session.run()
    taps[-1].note(tree=tree(ground.room / "base" / STAMP / "part"))


def copy(ground: Ground, taps: list[Tap], **other: str) -> None:
    """A copy of that run is asked for."""
    channel = connect(ADDRESS, ground.listener.port, ground.here)
    question = {"rule": RULE, "run": STAMP, "name": LATER, "as_of": 1.7e9, **other}
    channel.send({"t": "copy", **question})
    while channel.recv(60.0)["t"] == "copying":
        pass
    channel.close()


def full(ground: Ground, taps: list[Tap]) -> None:
    copy(ground, taps, name="20260103000000")


def not_granted(ground: Ground, taps: list[Tap]) -> None:
    copy(ground, taps, rule=ODD)


def pairing(ground: Ground, taps: list[Tap]) -> None:
    stranger = Identity.load(ground.place / "stranger")
    pair(ADDRESS, ground.listener.port, ground.there.code, stranger, name="stranger")


def wrong_code(ground: Ground, taps: list[Tap]) -> None:
    stranger = Identity.load(ground.place / "stranger")
    with contextlib.suppress(Refused):
        pair(ADDRESS, ground.listener.port, "x" * 32, stranger, name="stranger")


SCENES: dict[str, Callable[[Ground, list[Tap]], None]] = {
    "mirror": mirror,
    "examine": examine,
    "again": again,
    "compare": compared,
    "refused": refused,
    "govern": govern,
    "whole": whole,
    "copy": copy,
    "full": full,
    "not-granted": not_granted,
    "pair": pairing,
    "wrong-code": wrong_code,
}


def scrubbed(records: list[Record], ground: Ground) -> Iterator[Record]:
    """Without what names this machine."""
    swaps = {
        bytes(ground.place): PLACE,
        host_id().encode(): NAMESPACE,
        boot_id().encode(): BOOT,
        os.uname().nodename.encode(): HOST,
    }

    def swap(text: bytes) -> bytes:
        for old, new in swaps.items():
            text = text.replace(old, new)
        return text

    for one in records:
        if one.kind == "m":
            told = replaced(one.message, swap)
            one = replace(one, body=msgpack.packb(told, use_bin_type=True))
        yield one


def main(version: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="i2node-record-", dir="/var/tmp"))
    data = DATA / f"protocol-{version}"
    data.mkdir(exist_ok=True)
    copies.ALIVE_S = 0.001
    with ExitStack() as held:
        held.callback(shutil.rmtree, place)
        ground = Ground(place, (version, version))
        held.callback(ground.close)
        for name, scene in SCENES.items():
            with tapped() as taps:
                scene(ground, taps)
            kinds = {"govern": "govern"}
            tap = taps[0] if name not in kinds else next(t for t in taps if t.said("s", "govern"))
            write(data / f"{name}.bin", list(scrubbed(tap.records, ground)))
            print(name, len(tap.records), (data / f"{name}.bin").stat().st_size, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
