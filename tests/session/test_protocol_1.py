"""Today's program beside one of protocol 1, as that was recorded (tests/data/protocol-1): it serves
its sources and its controllers, and its targets and nodes serve today's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import planted
import pytest
from ends import free_port, until
from frozen import HOST, LONG, FrozenSource, FrozenTarget, swap_of
from nursery import Child, Nursery
from record import RULE, STAMP, settled, tapped
from recorded import PLACE, Record, messages, read, shape, steps, tree, tree_of

from i2node.cli import main
from i2node.config import Config
from i2node.controller.link import Address, Link
from i2node.errors import I2Error, Refused
from i2node.model import MirrorOptions, State, Target, Whole
from i2node.mover.batch import Op
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.pairing import pair
from i2node.net.transport import Pump
from i2node.net.wire import Message, encode_message
from i2node.node.beside import Copier
from i2node.node.diary import Diary
from i2node.node.stint import Stint, Tools
from i2node.orders import Charge, Part, Standing, Want, unpacked
from i2node.repl import trouble
from i2node.repl.compare import compare
from i2node.repl.doctor import diagnose
from i2node.repl.session import Session

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the recording is root's: owners"),
]
VERSION = 1
CONFIG = f"brake_floor = {planted.FLOOR}\nbrake_share = 0\n"


@pytest.fixture
def ground() -> Iterator[Path]:
    # Below /var/tmp: memory file systems used not to know user attributes.
    place = Path(tempfile.mkdtemp(prefix="i2node-skew-", dir="/var/tmp"))
    yield place
    shutil.rmtree(place)


def newer(monkeypatch: pytest.MonkeyPatch, client: bool) -> None:
    """This process says more than it need: what a later program of the same protocol may add, to
    messages, to the maps in them, and to those in the JSON of orders."""
    send = Channel.send

    def more(channel: Channel, message: Message) -> None:
        if channel.client is client:
            message = _grown(message)
            if message["t"] == "orders" and message["body"].startswith(b"{"):
                message["body"] = json.dumps(_grown(json.loads(message["body"]))).encode()
        send(channel, message)

    monkeypatch.setattr(Channel, "send", more)


def _grown(value: Any) -> Any:
    if isinstance(value, list):
        return [_grown(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _grown(one) for key, one in value.items()} | {"of a later program": [1, {}]}


# ------------------------------------------------------------------ sources of then


class Agent:
    """A real agent of today, and whom it is paired with."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.place, self.home, self.port = place, place / "there", free_port()
        self.room = place / "room"
        self.room.mkdir()
        self.identity = Identity.load(self.home / "etc")
        self.peer = Identity.load(place / "here")
        self.peer.trust(self.identity.cert_pem)
        self.identity.trust(self.peer.cert_pem, role="controller")
        (self.home / "etc" / "i2node.toml").write_text(CONFIG)
        log = place / "there.log"
        self.child: Child = nursery.bear(
            log,
            *("--home", str(self.home), "agent", "--listen", f"{HOST}:{self.port}"),
            *("--allow-root", str(self.room)),
        )
        until(
            "the agent did not listen", lambda: log.exists() and "agent-listens" in log.read_text()
        )

    def hear(self, scene: str) -> list[Record]:
        """What a source said then is said to it; gives the recording."""
        records = read(VERSION, scene)
        swap = swap_of(self.place, self._ids(records))
        target = self.room / "mirror"
        (rule, *_) = [m["rule"] for m in messages(records, "s", "open")] or [""]
        events = {
            "tear": lambda: planted.tear(target),
            "mend": lambda: planted.mend(target),
            "release": lambda: main(["--home", str(self.home), "release", rule]),
        }
        FrozenSource(records, swap, events).speak(self.peer, self.port)
        return records

    def _ids(self, records: list[Record]) -> dict[str, str]:
        (hello,) = messages(records, "s", "hello")
        ids = {hello["node"]: self.peer.node_id}
        for message in messages(records, "s", "orders")[:1]:
            ids[unpacked(message["body"]).charges[0].certificate] = self.peer.cert_pem
        return ids

    def close(self) -> None:
        self.child.kill()


@pytest.fixture
def agent(ground: Path, nursery: Nursery) -> Iterator[Agent]:
    with closing(Agent(ground, nursery)) as made:
        yield made


def test_a_source_of_then_is_served(agent: Agent) -> None:
    with tapped() as taps:
        records = agent.hear("mirror")
    assert tree(agent.room / "mirror") == tree_of(records)
    for side in "st":
        for kind in ("hello", "keys"):
            (then,), (now,) = messages(records, side, kind), taps[0].said(side, kind)
            assert not shape(then, now), f"{kind}{shape(then, now)}"
    agent.hear("examine")
    records = agent.hear("again")
    assert tree(agent.room / "mirror") == tree_of(records)
    agent.hear("compare")


def test_a_source_that_says_more_is_served(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(monkeypatch, client=True)
    for scene in ("mirror", "examine", "again", "compare", "refused"):
        agent.hear(scene)


@pytest.mark.parametrize("more", [False, True])
def test_a_controller_and_its_work_node_of_then_are_served(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    if more:
        newer(monkeypatch, client=True)
    (agent.room / "shown" / "inner").mkdir(parents=True)
    (agent.room / "shown" / "f").touch()
    (agent.place / "lost").mkdir()
    agent.hear("govern")
    records = agent.hear("whole")
    assert tree(agent.room / "base" / STAMP / "part") == tree_of(records)
    for scene in ("copy", "full", "not-granted", "refused"):
        agent.hear(scene)


@pytest.mark.parametrize("scene", ["pair", "wrong-code"])
def test_pairing_is_said_as_then(agent: Agent, scene: str) -> None:
    """No recording can prove that it knows a code: kinds and keys of both sides are compared."""
    code, stranger = agent.identity.code, Identity.load(agent.place / "stranger")
    with tapped() as taps:
        try:
            pair(HOST, agent.port, code if scene == "pair" else "x" * 32, stranger, name="stranger")
        except Refused:
            assert scene == "wrong-code"
    then = [(r.side, r.message) for r in read(VERSION, scene)]
    now = [(r.side, r.message) for r in taps[0].records]
    assert [(side, m["t"]) for side, m in now] == [(side, m["t"]) for side, m in then]
    assert [shape(m, n) for (_, m), (_, n) in zip(then, now, strict=True)] == [""] * len(then)


# ------------------------------------------------------------------ targets of then


class Today:
    """A source of today, and a target of then."""

    def __init__(self, place: Path, scene: str) -> None:
        self.place = place
        self.there = FrozenTarget(place / "there", VERSION, scene)
        self.here = Identity.load(place / "here" / "etc")
        self.here.trust(self.there.identity.cert_pem)
        self.there.identity.trust(self.here.cert_pem, role="controller")
        self.target = Target(HOST, self.there.port, PLACE + b"/room/mirror")
        self.source = place / "source"
        self.source.mkdir()
        planted.plant(self.source)
        self.config = Config(
            etc=place / "here" / "etc",
            var=place / "here" / "var",
            small_file_max=planted.SMALL_MAX,
        )

    def session(self, **options: Any) -> Session:
        wanted = MirrorOptions(**{"source": self.source, "target": self.target, **options})
        return Session(self.config, wanted, self.here)

    def understood(self) -> None:
        """All that the target says was said, and it missed nothing in what it heard."""
        assert self.there.lacks == []
        assert self.there.told == self.there.kinds()
        assert self.there.sessions == 1

    def close(self) -> None:
        self.there.close()


@pytest.fixture
def today(ground: Path) -> Iterator[Callable[[str], Today]]:
    made: list[Today] = []

    def build(scene: str) -> Today:
        made.append(Today(ground, scene))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.mark.parametrize("more", [False, True])
def test_a_target_of_then_is_understood(
    today: Callable[[str], Today], monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    if more:
        newer(monkeypatch, client=False)
    monkeypatch.setattr(trouble, "RETRY_S", (0.1,))
    pair = today("mirror")
    session, there = pair.session(), pair.there
    thread = threading.Thread(target=session.run, daemon=True)
    thread.start()
    settled(session)
    is_sent_as_then(there)
    for change in planted.CHANGES:
        change(pair.source)
    settled(session)
    there.faults = True
    planted.write_where_it_is_torn(pair.source)
    until("it is no problem", lambda: session.report().problems.count > 0)
    there.faults = False
    settled(session)
    there.holds = True
    planted.remove_many(pair.source)
    until("the brake does not hold", lambda: "the brake holds" in session.report().blocked_on)
    there.released.set()
    settled(session)
    session.stop()
    thread.join()
    assert there.ended.wait(LONG)
    pair.understood()


def is_sent_as_then(there: FrozenTarget) -> None:
    """The steps of a first mirror are byte for byte what they were. Where holes begin and end in a
    sparse file is the file system's business."""
    sizes = [len(r.body) for r in there.records if r.kind == "f"]
    frames = [r.body for r in there.records if r.kind == "f"][: sizes.index(0)]
    then, now = {step for body in frames for step in steps(body)}, set(there.steps)
    assert {op for op, _ in then ^ now} <= {Op.WRITE, Op.HOLE}
    assert {op for op, _ in then & now} >= {
        *(Op.MAKE_DIR, Op.PUT_FILE, Op.PUT_LINK, Op.PUT_NODE, Op.LINK, Op.SET_META),
        *(Op.STAGE, Op.WRITE, Op.STAGED),
    }


def test_the_books_of_a_target_of_then_are_believed(today: Callable[[str], Today]) -> None:
    pair = today("again")
    planted.change(pair.source)
    outcome = pair.session(once=True, adopt=True, check="strict").run()
    assert outcome.exit_status == 0
    pair.understood()


def test_a_target_of_then_is_compared_with(today: Callable[[str], Today]) -> None:
    pair = today("compare")
    planted.change(pair.source)
    found = compare(pair.config, pair.source, pair.target, True, pair.here)
    assert found.equal, found.differences
    assert found.tally.equal == len(tree(pair.source)) - 1
    pair.understood()


def test_a_target_of_then_is_examined(today: Callable[[str], Today]) -> None:
    pair = today("examine")
    found = diagnose(pair.config, pair.source, pair.target, pair.here)
    (then,) = messages(pair.there.records, "t", "examined")
    assert {(a.name, a.verdict) for a in found.attributes} == {(n, v) for n, v, _ in then["found"]}
    pair.understood()


def test_a_run_is_complete_at_a_target_of_then(today: Callable[[str], Today]) -> None:
    pair = today("whole")
    whole = Whole(RULE, (("0123456789abcdef", PLACE),))
    outcome = pair.session(once=True, whole=whole).run()
    assert outcome.exit_status == 0 and outcome.in_sync
    pair.understood()


def test_what_a_target_of_then_refuses_is_told(today: Callable[[str], Today]) -> None:
    pair = today("refused")
    (then,) = messages(pair.there.records, "t", "error")
    with pytest.raises(Refused) as e:
        pair.session(once=True).run()
    assert (e.value.cause, e.value.remedy) == (then["cause"], then["remedy"])
    pair.understood()


@pytest.mark.parametrize("more", [False, True])
def test_a_node_of_then_is_governed(
    today: Callable[[str], Today], monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    if more:
        newer(monkeypatch, client=False)
    pair = today("govern")
    heard: list[Standing] = []
    address = Address("N", HOST, pair.there.port, pair.there.identity.node_id)
    (asked, _) = messages(pair.there.records, "s", "orders")
    orders = unpacked(asked["body"])
    link = Link(
        *(address, pair.here, Pump(lasting=True), lambda: orders, heard.extend),
        *(lambda *_: None, lambda *_: None),
    )
    link.dial()
    try:
        link.wait_held(orders.number, LONG)
        until("it tells nothing", lambda: bool(heard))
        assert heard[0].state is State.EXCEPTION and heard[0].tally is not None
        assert "base" in link.refusal(orders.charges[1].rule)
        (value, _) = messages(pair.there.records, "t", "answer")
        assert not shape(value["value"], link.ask("dirs", {"path": "/"}, LONG))
        with pytest.raises(I2Error, match="cannot be asked"):
            link.ask("what is not known", {}, LONG)
        link.push()
        until("it was not refused", lambda: "no JSON" in link.refusal(orders.charges[0].rule))
        assert link.online
    finally:
        link.close()
    pair.understood()


@pytest.mark.parametrize("scene", ["copy", "full", "not-granted"])
def test_copies_at_a_node_of_then(today: Callable[[str], Today], scene: str) -> None:
    pair = today(scene)
    tools = Tools(pair.config, pair.here, lambda: None)
    charge = Charge(
        rule=RULE,
        version="1",
        name="n",
        want=Want.RUN,
        host=HOST,
        port=pair.there.port,
        peer=pair.there.identity.node_id,
        certificate=pair.there.identity.cert_pem,
        parts=(Part(source="/"),),
    )
    stint = cast(Stint, SimpleNamespace(stamp=STAMP))
    copier = Copier(tools, Diary(pair.config.var / "diary"))
    then = messages(pair.there.records, "t")[-1]
    try:
        answer = copier._asked(charge, stint, STAMP, 1.7e9, lambda: False)
        assert answer == then and scene != "not-granted"
    except Refused as error:
        assert scene == "not-granted" and error.cause == then["cause"]
    assert pair.there.lacks == []


def test_the_pulse_is_as_then() -> None:
    (beat, *_) = [r.body for r in read(VERSION, "mirror") if r.says("s", "beat")]
    assert encode_message({"t": "beat"})[4:] == beat
