"""Nodes of an earlier protocol, played from their recordings (recorded.py): a source that says what
it said then to a real agent, and a target that answers a real source as it did then.

What depends on the session is put in place of what it was: where the trees stand, the node ids and
certificates, the numbers of questions and frames that are answered. All else is as recorded.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recorded import PLACE, Message, Record, messages, read, replaced, shape, unlike
from recorded import steps as steps_of

from i2node.errors import I2Error
from i2node.mover import batch
from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.stream import DataStream
from i2node.net.transport import Listener, connect, open_stream
from i2node.net.wire import CLEAR
from i2node.repl.remote import FLUSH

HOST = "127.0.0.1"
LONG = 30.0
OF_THE_CHANNEL = ("hello", "keys", "beat")
AT_ANY_TIME = ("applied", "durable", "stalled", "copying", "standings")
"""How many of these come, and when, is the machine's business."""

Swap = Callable[[bytes], bytes]


def swap_of(place: Path, ids: Mapping[str, str] | None = None) -> Swap:
    """Puts today's place for that of the recording; ids: today's texts for those of then."""
    swaps = {PLACE: bytes(place)}
    for then, now in (ids or {}).items():
        swaps[then.encode()] = now.encode()
        swaps[json.dumps(then)[1:-1].encode()] = json.dumps(now)[1:-1].encode()

    def swap(text: bytes) -> bytes:
        for then, now in swaps.items():
            text = text.replace(then, now)
        return text

    return swap


class FrozenSource:
    """Says what a source, or a controller, said then. events: what is to be done where the
    recording notes an event, by name."""

    def __init__(
        self,
        records: list[Record],
        swap: Swap,
        events: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self._records, self._swap, self._events = records, swap, events or {}
        self._changed = threading.Condition()
        self._answers: deque[Message] = deque()
        self._heard: dict[str, list[Message]] = defaultdict(list)
        self._over: I2Error | None = None

    def speak(self, identity: Identity, port: int) -> None:
        """From hello to the end. AssertionError: what is answered is not what was."""
        (hello,) = messages(self._records, "s", "hello")
        channel = connect(HOST, port, identity, protocol=tuple(hello["protocol"]))
        assert channel.protocol == hello["protocol"][1]
        listening = threading.Thread(target=self._listen, args=(channel,), daemon=True)
        listening.start()
        try:
            self._replay(channel)
        finally:
            channel.close()
            listening.join()
        for then in messages(self._records, "t"):
            for now in self._heard.get(then["t"], ()):
                assert not shape(then, now), f"{then['t']}{shape(then, now)}"

    def _listen(self, channel: Channel) -> None:
        try:
            while True:
                message = channel.recv(None)
                with self._changed:
                    kind = message["t"]
                    if kind in AT_ANY_TIME:
                        self._heard[kind].append(message)
                    else:
                        self._answers.append(message)
                    self._changed.notify_all()
        except I2Error as error:
            with self._changed:
                self._over = error
                self._changed.notify_all()

    def _replay(self, channel: Channel) -> None:
        send: Callable[[Record], object] = _no_stream
        for record in self._records:
            if record.kind == "n":
                self._events.get(record.note.get("event", ""), lambda: None)()
            elif record.kind == "f":
                send(record)
            elif (message := replaced(record.message, self._swap))["t"] in OF_THE_CHANNEL:
                continue
            elif record.side == "t":
                self._await(message)
            else:
                channel.send(message)
                if message["t"] == "stream":
                    send = _sending(channel, message)

    def _await(self, then: Message) -> None:
        kind = then["t"]
        with self._changed:
            came = self._changed.wait_for(lambda: self._has(then) or self._over, LONG)
            assert came and self._has(then), f"{kind} did not come: {self._answers} {self._over}"
            if kind not in AT_ANY_TIME:
                said = unlike(then, self._answers.popleft())
                assert not said, said

    def _has(self, then: Message) -> bool:
        kind = then["t"]
        if kind not in AT_ANY_TIME:
            return bool(self._answers)
        if "seq" in then:
            return any(now.get("seq", -1) >= then["seq"] for now in self._heard[kind])
        if kind == "standings":  # of a rule that has begun, as then
            return any(one.get("tally") for now in self._heard[kind] for one in now["rules"])
        return kind == "copying" or bool(self._heard[kind])


def _no_stream(record: Record) -> None:
    raise AssertionError("a frame before its stream")


def _sending(channel: Channel, told: Message) -> Callable[[Record], object]:
    stream = open_stream(channel, told["number"])
    fields = {"encrypt": told["encrypt"], "rule_secret": told["secret"]}
    sealer = stream.sealer(level=3, **fields)

    def send(record: Record) -> None:
        assert record.stream == told["number"] and bool(record.flags & CLEAR) != told["encrypt"]
        stream.send(sealer.seal(record.type, record.body))

    return send


class FrozenTarget:
    """Listens on `port`, in the protocol of the recording alone, and answers as the target did
    then; it has no disk. A directory that nobody asked for in the scene is as `compare` has it.
    faults: from now on the next frame that writes what failed then fails so
    again; held: what the brake held back then is held again until `release`."""

    def __init__(self, home: Path, version: int, scene: str) -> None:
        self.identity = Identity.load(home / "etc")
        self.records = read(version, scene)
        self.sessions = 0
        self.told: set[str] = set()
        """Kinds of messages that were said."""
        self.lacks: list[str] = []
        """What a target of then would have missed in what the source said."""
        self.steps: list[tuple[batch.Op, bytes]] = []
        """What came in frames, as recorded.steps has it."""
        self.ended = threading.Event()
        """Set when a source said goodbye."""
        self.faults, self.holds = False, False
        self.released = threading.Event()
        self._answers = _kept(self.records)
        for about, answers in _kept(read(version, "compare")).items():
            if about[0] == "probe":
                self._answers.setdefault(about, answers)
        self._said = {m["t"]: m for m in messages(self.records, "s")}
        versions = (version, version)
        self._listener = Listener(HOST, 0, self.identity, on_channel=self._serve, protocol=versions)
        self._listener.start()
        self.port = self._listener.port

    def close(self) -> None:
        self.released.set()
        self._listener.close()

    def kinds(self) -> set[str]:
        """Kinds of messages that the target said then, but for those of the channel."""
        return {m["t"] for m in messages(self.records, "t")} - set(OF_THE_CHANNEL)

    def _serve(self, channel: Channel) -> None:
        self.sessions += 1
        while True:
            message = channel.recv(None)
            kind = message["t"]
            then = self._said.get(kind)
            missing = "is new" if then is None else shape(then, message)
            if missing:
                self.lacks.append(f"{kind} {missing}")
            if kind == "bye":
                self.ended.set()
                return
            if kind == "stream":
                stream = channel.accept_stream(0, LONG)
                threading.Thread(
                    target=self._take, args=(channel, stream, message), daemon=True
                ).start()
            else:
                for answer in self._answered(message):
                    self._say(channel, answer)

    def _say(self, channel: Channel, message: Message) -> None:
        self.told.add(message["t"])
        channel.send(message)

    def _answered(self, question: Message) -> Iterator[Message]:
        if question["t"] == "copy" and self._answers["copying"]:
            yield self._answers["copying"][0]
        if question["t"] != "probe":
            then = self._next(_about(question, {}))
            yield {**then, **{key: question[key] for key in ("n", "id") if key in then}}
        for i, _ in enumerate(question.get("dirs", ())):
            then = self._next(_about(question, {"t": "probed", "i": i}))
            yield {**then, "n": question["n"], "i": i}
        if question["t"] == "orders" and self._answers["standings"]:
            yield self._answers["standings"][0]

    def _next(self, about: Any) -> Message:
        """What was answered to that; the last answer again, where there were fewer."""
        answers = self._answers[about]
        if not answers:
            self.lacks.append(f"{about} was never asked")
            return {"t": "error", "code": "session", "cause": "not recorded", "remedy": ""}
        return answers.popleft() if len(answers) > 1 else answers[0]

    # ------------------------------------------------------------------ frames

    def _take(self, channel: Channel, stream: DataStream, told: Message) -> None:
        opener = stream.opener(encrypt=told["encrypt"], rule_secret=told["secret"])
        try:
            while True:
                header, body = stream.recv_frame()
                kind, payload = opener.open(header, body)
                for said in self._taken(header.seq, kind, payload):
                    self._say(channel, said)
        except I2Error:
            return

    def _taken(self, seq: int, kind: int, payload: Any) -> Iterator[Message]:
        number = batch.steps_check(payload)
        self.steps += steps_of(payload)
        steps = [batch.step_at(payload, i) for i in range(number)]
        paths = {path for _, path, _ in steps}
        for then in list(self._answers["faults"]) if self.faults else ():
            if {row[0] for row in then["faults"]} <= paths:
                self._answers["faults"].remove(then)
                yield {**then, "seq": seq}
        if self.holds and (batch.Op.REMOVE, b"many", b"") in steps:
            self.holds = False
            yield self._answers["stalled"][0]
            self.released.wait(LONG)
        yield {**self._answers["applied"][0], "seq": seq}
        if kind == FLUSH:
            yield {**self._answers["durable"][0], "seq": seq}


def _kept(records: list[Record]) -> dict[Any, deque[Message]]:
    """Each answer by what was asked."""
    kept: dict[Any, deque[Message]] = defaultdict(deque)
    asked: dict[Any, Message] = {}
    last: Message = {}
    for record in records:
        message = record.message if record.kind == "m" else {"t": "beat"}
        if record.side == "s":
            last = message
            asked[message.get("n", 0)] = message
        elif message["t"] in AT_ANY_TIME:
            kept[message["t"]].append(message)
        else:
            kept[_about(asked.get(message.get("n", 0), last), message)].append(message)
    return kept


def _about(question: Message, answer: Message) -> Any:
    """Under what an answer is kept. A directory of a probe has its own; faults answer nothing."""
    if answer.get("t") == "faults":
        return "faults"
    if question["t"] == "probe" and answer.get("t") == "probed":
        return "probe", question["dirs"][answer["i"]][0]
    return (question["t"], question["path"]) if question["t"] == "sign" else question["t"]
