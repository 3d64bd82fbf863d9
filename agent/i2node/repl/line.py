"""The way of a frame once it is full: sealed, sent as far as the window allows, acknowledged twice.

    waiting (for its seal, or for room in the window) → flying → applied → durable

A few threads seal, one sends. What the sending is made of (journal, doubts) stands in sender.py.
Only what was sent can be acknowledged, each kind in order: of a target that says otherwise nothing
is believed, and its session ends.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from i2node.errors import I2Error, PeerLost, ProtocolError, SessionError
from i2node.net.seal import Buffer, Sealer
from i2node.net.stream import DataStream
from i2node.repl.remote import FAULTS_A_STEP

SEALING_THREADS = 2
QUEUED_FRAMES = 4
PACED = 512 << 10
"""Bytes sent at a time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame on its way: bytes on the wire, bytes that faults of its steps may take, and what of
    the progress it carries; since: clock reading of the earliest change in it, inf where it carries
    none."""

    seq: int
    size: int
    faults: int
    files: int
    content: int
    since: float


@dataclass(frozen=True, slots=True)
class Flow:
    """The counters, for the report; in_flight counts frames that carry a change, oldest is the
    earliest `since`."""

    bytes_sent: int
    files_applied: int
    bytes_applied: int
    in_flight: int
    oldest: float | None


class Line:
    """One stream's frames. window: bytes on the wire that may wait to be applied. pace(n) is called
    before n bytes are sent and may sleep. `changed` guards all, and is notified of every change;
    whoever waits calls `check`, which raises the error that ended the sending."""

    def __init__(
        self, stream: DataStream, sealer: Sealer, window: int, pace: Callable[[int], None]
    ) -> None:
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.last = -1
        """The number of the last frame that was put."""
        self.durable = -1
        """Up to which frame all will survive a power cut on the target."""
        self.on_fail: Callable[[], None] = lambda: None
        """Called when the sending has ended, for whoever does not wait here."""
        self.on_sent: Callable[[int], None] = lambda seq: None
        """Told of each frame that is on the wire."""
        self._stream = stream
        self._sealer = sealer
        self._window = window
        self._pace = pace
        self._pool = ThreadPoolExecutor(SEALING_THREADS, "seal")
        self._frames: queue.Queue[tuple[Future[list[Buffer]], Sent] | None] = queue.Queue(
            QUEUED_FRAMES
        )
        self._waiting: deque[Sent] = deque()
        self._flying: deque[Sent] = deque()
        self._lasting: deque[Sent] = deque()
        self._sent = -1  # the last frame that was given to the stream, at least in part
        self._told = -1  # the last one that was told to be applied
        self._bytes_sent = 0
        self._files_applied = 0
        self._bytes_applied = 0
        self._target_waits = True
        self._threads: list[threading.Thread] = []
        self.start("send", self._send)

    def start(self, name: str, run: Callable[[], None]) -> None:
        """Runs a thread whose error ends the sending, and which `close` waits for."""
        thread = threading.Thread(target=self._guard, args=(run,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def put(self, kind: int, payload: bytes, files: int, content: int, since: float) -> None:
        """Takes a frame; waits while too many are in front of it."""
        self.last = self._sealer.ticket()
        sent = Sent(self.last, 0, FAULTS_A_STEP * len(payload), files, content, since)
        with self.changed:
            self._waiting.append(sent)
        future = self._pool.submit(self._sealer.seal, kind, payload, sent.seq)
        while True:
            self.check()
            try:
                self._frames.put((future, sent), timeout=0.2)
                return
            except queue.Full:
                continue

    def wait_applied(self) -> None:
        """Returns when the target has applied all frames."""
        with self.changed:
            while self._waiting or self._flying:
                self.check()
                self.changed.wait(0.2)

    def applied(self, seq: int, waits: bool = True) -> None:
        """The target told that it has applied all frames up to seq; waits: it is rather idle, not
        behind. ProtocolError when that cannot be."""
        with self.changed:
            self._in_order("applied", seq, self._told)
            self._told = seq
            self._target_waits = waits
            self._arrived(seq)

    def survives(self, seq: int) -> None:
        """It told that all frames up to seq are durable, so they are applied. What follows from
        that is to be written down before `lasts` says it. ProtocolError when it cannot be."""
        with self.changed:
            self._in_order("durable", seq, self.durable)
            self._arrived(seq)

    def failed(self, seq: int, size: int) -> None:
        """It told of faults of this frame, of so many bytes. ProtocolError when it has no such
        frame at hand, or one with fewer steps."""
        with self.changed:
            at = next((i for i, sent in enumerate(self._flying) if sent.seq == seq), None)
            if at is None or size > self._flying[at].faults:
                raise ProtocolError(f"the target tells of {size} bytes of faults in frame {seq}")
            left = self._flying[at].faults - size
            self._flying[at] = replace(self._flying[at], faults=left)

    def _in_order(self, what: str, seq: int, before: int) -> None:
        if not before < seq <= self._sent:
            raise ProtocolError(
                f"the target says frame {seq} is {what}, after {before}; sent is {self._sent}"
            )

    def _arrived(self, seq: int) -> None:
        while self._flying and self._flying[0].seq <= seq:
            done = self._flying.popleft()
            self._files_applied += done.files
            self._bytes_applied += done.content
            self._lasting.append(done)
        self.changed.notify_all()

    def lasts(self, seq: int) -> None:
        """What follows from `survives` is done."""
        with self.changed:
            self.durable = seq
            while self._lasting and self._lasting[0].seq <= seq:
                self._lasting.popleft()
            self.changed.notify_all()

    def flow(self) -> Flow:
        with self.changed:
            frames = (*self._lasting, *self._flying, *self._waiting)
            ages = [frame.since for frame in frames if frame.since < math.inf]
            return Flow(
                self._bytes_sent,
                self._files_applied,
                self._bytes_applied,
                len(ages),
                min(ages, default=None),
            )

    def fail(self, error: BaseException) -> None:
        """Ends the sending; whoever waits gets the error."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()
        self.on_fail()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Ends the sending and the connection."""
        self.fail(PeerLost("the session ended"))
        self._stream.close()
        with suppress(queue.Full):
            self._frames.put_nowait(None)
        for thread in self._threads:
            thread.join()
        # Not before: who still put a frame would find nobody to seal it.
        self._pool.shutdown(cancel_futures=True)

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except I2Error as error:
            self.fail(error)
        except OSError as error:
            self.fail(SessionError(f"sending failed: {error}"))
        except BaseException as error:
            self.fail(error)
            raise

    def _send(self) -> None:
        sent_at = time.monotonic()
        while self.error is None:
            given = self._frames.get()
            if given is None:
                return
            future, sent = given
            buffers = future.result()
            ready_at = time.monotonic()
            size = sum(len(b) for b in buffers)
            with self.changed:
                while self._flying and sum(s.size for s in self._flying) + size > self._window:
                    self.check()
                    self.changed.wait(0.2)
                self._waiting.popleft()
                self._flying.append(replace(sent, size=size))
                self._sent = sent.seq
            for some in _slices(buffers, size):
                self._pace(sum(len(b) for b in some))
                self.check()
                self._stream.send(some)
            self.on_sent(sent.seq)
            starved, sent_at = ready_at - sent_at, time.monotonic()
            blocked = sent_at - ready_at
            on_line = blocked if self._target_waits else 0.0
            self._sealer.effort.spent(on_line, starved + blocked - on_line)
            with self.changed:
                self._bytes_sent += size


def _slices(buffers: list[Buffer], size: int) -> Iterator[list[Buffer]]:
    """A frame in pieces, so that a slow line is kept to its rate within one."""
    if size <= PACED:
        yield buffers
        return
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for at in range(0, len(view), PACED):
            yield [view[at : at + PACED]]
