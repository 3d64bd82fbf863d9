"""The target's side of a session: frames in, steps applied, acknowledged when durable.

    stream thread   receives frames, opens and decompresses them (bounded queue)
    apply thread    applies them in order; what the disk refuses is tried again, not lost
    commit thread   makes durable what was applied: at once when it is quiet, else every few seconds
    session thread  the control channel: open, probe, sign, bye

The peer is an authenticated node, and still not believed: every path is resolved beneath the root
by the mover, every length was checked, and the root is one that this node's own configuration
allows.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from i2node import log
from i2node.config import Config
from i2node.errors import (
    I2Error,
    PeerLost,
    ProtocolError,
    Refused,
    SafetyStop,
    SessionError,
    TargetFault,
)
from i2node.fs.tree import TargetTree, make_target, remedy_for, resolve_target, within
from i2node.model import show
from i2node.mover import batch
from i2node.net.channel import Channel
from i2node.net.seal import Opener
from i2node.net.stream import DataStream
from i2node.repl import answers
from i2node.repl.budget import Budget, Budgets, count
from i2node.repl.idle import Idle
from i2node.repl.ledger import Ledger, beside
from i2node.repl.mend import apply_flags, mend
from i2node.repl.remote import FAULTS_A_STEP, FLUSH, STEPS, error_message

_log = logging.getLogger(__name__)
_seldom = log.Seldom(_log)

LINES = 10
"""So many a minute at most about sessions of one peer that were refused."""
QUEUED_FRAMES = 3
RETRY_S = 1.0
"""Between two attempts to apply what the disk refused."""
FULL = (1, 2, 5, 10, 30)
"""So many times as long where the disk is full, one attempt after the other: each may copy a file
until it is full again."""
ROOM = 16
"""By a part of so many its room has to grow for an attempt at once: where there is little room that
costs little, be it in vain."""
HELD_ON = 5
"""After so many attempts in vain a disk that is not full is let go of, so that it can be unmounted
and mended; the source comes back to it."""
TOLD_S = 0.005
"""At most so often the source is told what is applied: until then it holds back what is behind."""


class Receiver:
    """Serves one control channel of a source; `run` returns when the session is over."""

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        state: Path,
        allowed: Sequence[Path],
        checkpoint_s: float,
        own: Sequence[Path] = (),
        budgets: Budgets | None = None,
    ) -> None:
        """own: directories of the agent itself, which no target may hold or be in."""
        self.channel = channel
        self.ledger = ledger
        self.state = state
        self.allowed = allowed
        self.checkpoint_s = checkpoint_s
        self.own = own
        self.budgets = budgets or Budgets(ledger, Config().limits)
        self.tree: TargetTree | None = None
        self.budget: Budget | None = None
        self.rule = ""
        self.read_only = True
        self.completed = False
        """Whether the source brought all of it, and is done."""
        self.error: I2Error | None = None
        self._stream: DataStream | None = None
        self._frames: queue.Queue[tuple[int, int, bytes | memoryview] | None] = queue.Queue(
            QUEUED_FRAMES
        )
        self._wake = threading.Condition()
        self._applied = -1
        self._durable = -1
        self._flush = -1
        self._changed = False  # whether there is something to be made durable
        self._disk = threading.Lock()
        self._over = self._said_bye = False
        self._locked = False
        self._line_idle, self._disk_idle = Idle(), Idle()
        self._threads: list[threading.Thread] = []

    def run(self, first: dict[str, object] | None = None) -> None:
        """The session, from open to bye; errors of the peer end it, never the agent. first: the
        message with which it begins, where that was received already."""
        try:
            while not self._over:
                self._handle(first or self.channel.recv(None))
                first = None
        except PeerLost as error:
            # Where we hung up ourselves, the channel does not know why.
            if self.error is None or isinstance(self.error, PeerLost):
                log.event(_log, logging.INFO, "source-gone", rule=self.rule, cause=error.cause)
            else:
                self._ended_by(self.error)
        except I2Error as error:
            self._ended_by(error)
            with suppress(I2Error):
                self.channel.send(error_message(error))
        finally:
            self._close()

    def _ended_by(self, error: I2Error) -> None:
        fields = {"rule": self.rule, "cause": error.cause, "remedy": error.remedy}
        peer = self.channel.peer_id
        _seldom.event(logging.WARNING, "session-ended", peer, LINES, peer=peer[:12], **fields)

    def _handle(self, message: dict[str, object]) -> None:
        kind = message.get("t")
        if kind == "open" and self.tree is None:
            self._open(message)
        elif kind == "examine" and self.tree is None:
            self._examine(message)
        elif kind == "bye":
            self._over = self._said_bye = True
        elif self.tree is None:
            raise ProtocolError(f"{kind!r} before open")
        elif kind == "stream" and not self.read_only and self._stream is None:
            self._start(message)
        elif kind == "probe":
            self._answer(answers.probed(self.tree, message))
        elif kind == "sign":
            self._answer(answers.signed(self.tree, message))
        elif kind == "complete" and self._locked and self._durable == self._applied:
            self.ledger.completed(self.rule)
            self.completed = True
            self.channel.send({"t": "completed", "n": message.get("n"), "part": b""})
        else:
            raise ProtocolError(f"unexpected message {kind!r}")

    def _answer(self, replies: Iterable[dict[str, object]]) -> None:
        for reply in replies:
            self.channel.send(reply)

    # ------------------------------------------------------------------ open

    def _examine(self, message: dict[str, object]) -> None:
        rule, root = answers.examining(message)
        path = self._real(root)
        if self.channel.peer_role != "controller":
            self.ledger.private(path, self.channel.peer_id)
        home = beside(path, answers.whole(message, self._real))
        self.channel.send(answers.examined(path, rule, self.state, self.allowed, home))

    def _real(self, root: bytes) -> bytes:
        return resolve_target(root, self.allowed, self.own)

    def _open(self, message: dict[str, object]) -> None:
        rule, root, tokens, following = answers.opening(message)
        self.rule = rule
        self.read_only = bool(message.get("read_only"))
        path = self._real(root)
        answers.apart(message, path)
        held = partial(TargetTree, path, rule, self.state, self.allowed)
        held = partial(held, owners=message.get("owners") is not False)
        peer = self.channel.peer_id
        if self.read_only:
            if self.channel.peer_role != "controller":
                self.ledger.private(path, peer)
            self.tree = held(read_only=True)
            self.channel.send({"t": "opened", "status": "known", "parts": [], "owner": True})
            return
        whole = answers.whole(message, self._real)
        self.ledger.apart(rule, peer, path, whole)
        self.ledger.lock(rule, peer, self._give_way)
        self._locked, self._disk = True, self.ledger.still(rule)
        # Those within as well, so that the times above them are those of the source in the end.
        for root in (path, *(part for _, part in (whole.parts if whole else ()))):
            if within(root, path):
                make_target(root)
        tree = held(beside=beside(path, whole))
        try:
            status = self.ledger.admit(
                *(rule, peer, tree, tokens, following),
                adopt=bool(message.get("adopt")),
                source=answers.text(message, "source"),
                origin=answers.text(message, "origin"),
                whole=whole,
            )
            mend(tree, rule)
            tree.clean(keep_parts=not self.ledger.rebooted)
            tree.shelf.sweep()
            source = answers.text(message, "source")
            self.budget = self.budgets.open(rule, source, tree, fresh=status == "fresh")
            self.budget.wake = self._notify
        except BaseException:
            tree.close()
            raise
        self.tree = tree
        parts = [[k, v] for k, v in tree.parts().items()]
        log.event(_log, logging.INFO, "session-open", rule=rule, root=show(path), status=status)
        self.channel.send(
            {
                "t": "opened",
                "status": status,
                "parts": parts,
                "owner": os.geteuid() == 0,
                "boot": self.ledger.boot(self.rule),
            }
        )

    def _start(self, message: dict[str, object]) -> None:
        number, secret = message.get("number"), message.get("secret")
        if number != 0 or not isinstance(secret, bytes):
            raise ProtocolError(f"stream {number!r} is not offered")
        stream = self.channel.accept_stream(0, 30.0)
        opener = stream.opener(encrypt=bool(message.get("encrypt")), rule_secret=secret)
        self._stream = stream
        for name, run in (
            ("frames", self._receive),
            ("apply", self._apply),
            ("commit", self._commit),
        ):
            thread = threading.Thread(
                target=self._guard, args=(run, opener), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _guard(self, run: object, opener: Opener) -> None:
        try:
            assert callable(run)
            run(opener)
        except I2Error as error:
            self._fail(error)
        except Exception as error:
            log.event(_log, logging.ERROR, "session-failed", rule=self.rule, error=repr(error))
            self._fail(SessionError(f"the target failed: {error!r}", "see the target's log"))

    def _fail(self, error: I2Error) -> None:
        """The first error ends the session; the source is told why, then the channel closes."""
        with self._wake:
            if self._over or self.error is not None:
                return
            self.error = error
            self._wake.notify_all()
        if not isinstance(error, PeerLost):
            with suppress(I2Error):
                self.channel.send(error_message(error))
        self.channel.close()

    def _give_way(self) -> None:
        """A newer session of the same rule has come."""
        self._fail(PeerLost("a newer session of this rule took over"))

    def allow(self, allowed: Sequence[Path]) -> None:
        """Others are the allowed roots from now on: a session below none of them is ended."""
        self.allowed = allowed
        root = self.tree.root.path if self.tree else None
        if root and not any(within(root, os.path.realpath(os.fsencode(a))) for a in allowed):
            cause = f"target {show(root)} is no longer below a root this node allows"
            self._fail(Refused(cause, "ask whoever administers that node"))

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _close(self) -> None:
        self._over = True
        self._notify()
        # Wakes the thread that waits for a frame; where the queue is full it does not wait.
        with suppress(queue.Full):
            self._frames.put_nowait(None)
        if self._stream is not None:
            self._stream.close()
        for thread in self._threads:
            thread.join()
        if self.budget is not None:
            with suppress(I2Error):
                self.budgets.close(self.rule, self._said_bye and self._flush == self._applied)
        if self.tree is not None:
            tree, self.tree = self.tree, None
            with suppress(OSError, I2Error):
                tree.close()
        if self._locked:
            self.ledger.unlock(self.rule)
        self.channel.close()

    # ------------------------------------------------------------------ frames

    def _receive(self, opener: Opener) -> None:
        assert self._stream is not None
        while not self._over:
            with self._line_idle:
                header, body = self._stream.recv_frame()
            kind, payload = opener.open(header, body)
            if isinstance(payload, bytes):
                self._stream.reuse(body)
            if kind not in (STEPS, FLUSH):
                raise ProtocolError(f"frame of type {kind!r} is not for the target")
            while not self._over:
                try:
                    self._frames.put((header.seq, kind, payload), timeout=0.2)
                    break
                except queue.Full:
                    continue

    def _apply(self, opener: Opener) -> None:
        assert self.tree is not None and self.budget is not None
        flags = apply_flags(self.tree)
        told = 0.0
        if not self.budget.known:
            entries = count(self.tree, self._ended)
            if self._ended():
                return
            self.budget.counted(entries)
        while not self._over and self.error is None:
            with self._disk_idle:
                frame = self._frames.get()
            if frame is None:
                return
            seq, kind, payload = frame
            self._apply_frame(seq, payload, flags)
            if self._over:
                return  # perhaps in the middle of it
            with self._wake:
                self._applied = seq
                self._changed = self._changed or len(payload) > 0
                if kind == FLUSH:
                    self._flush = seq
                self._wake.notify_all()
            if kind == FLUSH:
                self.budget.quiet()
            now = time.monotonic()
            if self._frames.empty() or now - told > TOLD_S:
                # With a full window neither queue fills: both have to be idle.
                waits = self._line_idle.share > 0.5 and self._disk_idle.share > 0.5
                self.channel.send({"t": "applied", "seq": seq, "waits": waits})
                told = now

    def _apply_frame(self, seq: int, payload: bytes | memoryview, flags: int) -> None:
        """Applies one frame; where the disk refuses, it goes on with the step that was refused,
        since doing some steps twice (a rename, an exchange) is not doing them once."""
        assert self.tree is not None
        done = 0
        rest = memoryview(payload)
        stalled, tries = "", 0
        while not self._over:
            try:
                with self._disk:
                    stage = self.tree.stage()
                    result = batch.apply(
                        self.tree.root.fd,
                        stage,
                        rest,
                        flags=flags,
                        room=FAULTS_A_STEP * (len(rest) // batch.STEP.size),
                        shelf=self.tree.shelf.fd,
                        spare=self.budget.spare() if self.budget else None,
                    )
                    if self.budget:
                        self.budget.used(result)
            except TargetFault as fault:
                stalled = self._stalled(fault.cause, fault.remedy, stalled)
                self._wait_for_room(FULL[0])
                continue
            fatal = next((f for f in result.faults if f.fatal), None)
            noted = [replace(f, step=f.step + done) for f in result.faults if not f.fatal]
            for told in answers.faults(seq, payload, noted):
                self.channel.send(told)
            if fatal is None:
                return
            if fatal.what == batch.At.DISK:
                self._unwritten(fatal.status)
            op, path, _ = batch.step_at(rest, fatal.step)
            done += result.done
            rest = rest[batch.step_offset(rest, result.done) :]
            if result.wanted:
                self._brake(result.wanted, f"{op.name.lower()} of {show(path)}")
                continue
            if fatal.what == batch.At.ASIDE:
                self.tree.make_shelf()
                continue
            full = fatal.status in (errno.ENOSPC, errno.EDQUOT)
            if full and (freed := self.tree.make_room()):
                log.event(_log, logging.INFO, "room-made", rule=self.rule, bytes=freed)
                continue
            # The path of a large file came with an earlier frame.
            what = show(path) if path else "a large file"
            cause = f"{os.strerror(fatal.status)} at {op.name.lower()} of {what}"
            stalled = self._stalled(cause, remedy_for(fatal.status), stalled)
            tries = tries + 1 if not result.done else 0
            if not full and tries >= HELD_ON:
                raise TargetFault(cause, remedy_for(fatal.status))
            self._wait_for_room(FULL[min(tries, len(FULL) - 1)] if full else FULL[0])

    def _stalled(self, cause: str, remedy: str, before: str) -> str:
        """Tells the source, and the log where it is not what it was before."""
        if cause != before:
            log.event(_log, logging.WARNING, "target-stalled", rule=self.rule, cause=cause)
        self.channel.send({"t": "stalled", "cause": cause, "remedy": remedy})
        return cause

    def _brake(self, wanted: int, step: str) -> None:
        """Returns when so much may be lost. Raises SafetyStop when a person refused it."""
        budget = self.budget
        assert budget is not None
        while not self._over and not budget.grant(wanted):
            hold = budget.hold_back(wanted, step)
            self.channel.send({"t": "stalled", "cause": hold.cause, "remedy": hold.remedy})
            with self._wake:
                self._wake.wait_for(lambda: self._over or budget.decided, RETRY_S)

    def _wait_for_room(self, times: int) -> None:
        """Waits so many times the pause between two attempts, or until the disk has more room."""
        assert self.tree is not None
        before = self.tree.free()
        for _ in range(times):
            with self._wake:
                if self._wake.wait_for(lambda: self._over, RETRY_S):
                    return
            free = self.tree.free()
            if any(now > had + had // ROOM for now, had in zip(free, before, strict=True)):
                return

    def _commit(self, opener: Opener) -> None:
        """Durability by the group: at once when the source has nothing more, else every few
        seconds."""
        assert self.tree is not None and self.budget is not None
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ended() or self._applied > self._durable)
                self._wake.wait_for(
                    lambda: self._ended() or self._flush > self._durable, self.checkpoint_s
                )
                if self._ended():
                    return
                seq, changed, self._changed = self._applied, self._changed, False
            self._still_there()
            try:
                if changed:
                    self.tree.sync()
            except OSError as error:
                self._unwritten(error.errno or 0)
            with self._disk:
                self.budget.checkpoint()
                if self._applied == seq and self._frames.empty():
                    self.tree.rest()
            with self._wake:
                self._durable = seq
            self.channel.send({"t": "durable", "seq": seq})

    def _unwritten(self, status: int) -> NoReturn:
        """The disk refused what was written before; to the kernel it counts as written from now on
        (fsync(2)). Nothing of it is acknowledged: it comes anew, in another session."""
        self.ledger.unwritten(self.rule)
        cause = f"what was written to the target is not on its disk: {os.strerror(status)}"
        raise TargetFault(cause, remedy_for(status))

    def _still_there(self) -> None:
        """Nothing is acknowledged that stands elsewhere than the rule says."""
        assert self.tree is not None
        root = self.tree.root
        if root.still_there():
            return
        if not os.fstat(root.fd).st_nlink:
            raise SessionError(f"target {show(root.path)} was removed", "it is made anew")
        raise SafetyStop(
            f"target {show(root.path)} was moved away, or something was mounted over it",
            "put it back, then start the rule again",
        )

    def _ended(self) -> bool:
        return self._over or self.error is not None
