"""The door: port 26821, until a connection is known to be someone's.

One thread holds all connections that have not proven anything yet, and never waits for one of
them. Who says nothing is shut out after ten seconds; when there are too many, those go first that
have been silent longest, since a real peer speaks at once. What gets through, a control channel or
a pairing, gets a thread of its own; a data stream is handed to the channel of its session.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

from i2node import log
from i2node.errors import I2Error, ProtocolError, Refused
from i2node.net import pairing
from i2node.net.channel import BEAT, Channel, agree
from i2node.net.door import Door
from i2node.net.identity import Identity, Peer
from i2node.net.seal import Direction, make_preface, preface_is_proven
from i2node.net.stream import DataStream
from i2node.net.tls import Contexts, pairing_server, quietly, translate
from i2node.net.wire import (
    PAIRING_PREFACE,
    PREFACE_SIZE,
    PROTOCOL,
    STREAM_MAGIC,
    TLS_HANDSHAKE,
    parse_preface,
)

_log = logging.getLogger("i2node.net")

_TICK: Final = 0.25
_LINGER: Final = 2.0
_YOUNG: Final = 2.0  # seconds in which a handshake that has begun is not pushed out
_PAIRINGS: Final = 4
_OF_A_GUEST: Final = 10  # lines a minute about who got a thread of his own


@dataclass(frozen=True, slots=True)
class Statistics:
    """What came to the door. `channels` and `pending` are of now, the others since the start."""

    accepted: int = 0
    channels: int = 0
    pending: int = 0
    authenticated: int = 0
    streams: int = 0
    paired: int = 0
    not_paired: int = 0
    wrong_code: int = 0
    garbage: int = 0
    silent: int = 0
    shed: int = 0


@dataclass(slots=True, eq=False)
class _Visitor:
    """A connection that has proven nothing yet."""

    sock: socket.socket
    host: str
    port: int
    since: float
    deadline: float
    said: bytes = b""
    spoke: bool = False
    pairing: bool = False
    leaving: bool = False
    registered: bool = True
    tls: ssl.SSLSocket | None = None


class Listener:
    """Accepts channels, data streams and pairings for `identity`.

    `on_channel` runs in a thread of its own for each authenticated channel; when it returns or
    raises, the channel is closed. `on_paired` is called, in a thread of its own too, with each peer
    that was paired. `host` "" listens on all addresses; `port` 0 takes a free one.
    At most `most_pending` connections without proof in all and `most_pending_each` of one
    address, at most `most_channels` channels: above that connections are closed and counted.
    """

    def __init__(
        self,
        host: str,
        port: int,
        identity: Identity,
        *,
        on_channel: Callable[[Channel], None],
        on_paired: Callable[[Peer], None] | None = None,
        name: str = "",
        beat: float = BEAT,
        patience: float = 10.0,
        most_pending: int = 512,
        most_pending_each: int = 64,
        most_channels: int = 1024,
        protocol: tuple[int, int] = PROTOCOL,
    ) -> None:
        self._host = host
        self.port = port
        self._identity = identity
        self._on_channel = on_channel
        self._on_paired = on_paired
        self._name = name
        self._beat = beat
        self._patience = patience
        self._most_pending = most_pending
        self._most_each = most_pending_each
        self._most_channels = most_channels
        self._protocol = protocol
        self._contexts = Contexts(identity)
        self._attempts = pairing.Attempts()
        self._pairings = threading.Semaphore(_PAIRINGS)
        self._lock = threading.Lock()
        self._counted = Statistics()
        self._channels: set[Channel] = set()
        self._guests = 0  # threads that serve a channel or are about to
        self._sessions: dict[bytes, Channel] = {}
        self._visitors: dict[_Visitor, None] = {}  # oldest first
        self._each: Counter[str] = Counter()
        self._seldom = log.Seldom(_log)
        self._of_guests = log.Seldom(_log)  # not crowded out by those at the door
        self._moves: deque[tuple[str, int, Future[None]]] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Binds and begins to accept. UsageError when the address cannot be had."""
        self._door = Door(self._host, self.port)
        self.port = self._door.port
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._door, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="i2node-door", daemon=True)
        self._thread.start()

    def move(self, host: str, port: int) -> None:
        """Accepts there from now on, and no more where it did until now; whoever came already
        stays. UsageError: that address cannot be had, and nothing changes."""
        with self._lock:
            if self._closing:
                return
            moved: Future[None] = Future()
            self._moves.append((host, port, moved))
        os.eventfd_write(self._wake, 1)
        moved.result()

    def close(self) -> None:
        """Stops accepting, and closes all that came through this listener: the agent ends."""
        with self._lock:
            if self._thread is None or self._closing:
                return
            self._closing = True
            channels = list(self._channels)
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        for wait in (False, True):
            for channel in channels:
                channel.close(wait, leaving=True)

    def statistics(self) -> Statistics:
        """Counters, at this moment."""
        with self._lock:
            return replace(self._counted, channels=len(self._channels), pending=len(self._visitors))

    # ---------------------------------------------------------------- the one thread

    def _run(self) -> None:
        sweep = 0.0
        while not self._closing:
            for key, _ in self._selector.select(_TICK if self._visitors else None):
                try:
                    if key.fileobj is self._door:
                        self._accept()
                    elif key.fileobj is self._wake:
                        os.eventfd_read(self._wake)
                        self._go_where_told()
                    elif isinstance(key.data, _Visitor) and key.data in self._visitors:
                        self._step(key.data)
                except Exception:
                    # The door stays open whatever one visitor brought about.
                    self._seldom.event(logging.ERROR, "fault", "door", most=5, at="door")
                    if isinstance(key.data, _Visitor) and key.data in self._visitors:
                        self._drop(key.data)
            now = time.monotonic()
            if now >= sweep:
                sweep = now + _TICK
                self._sweep(now)
        for visitor in list(self._visitors):
            self._drop(visitor)
        self._go_where_told()
        self._selector.close()
        self._door.close()

    def _go_where_told(self) -> None:
        while self._moves:
            host, port, moved = self._moves.popleft()
            try:
                self._accept()  # who is at the old place already
                self._selector.unregister(self._door)
                try:
                    self._door.move(host, port)
                finally:
                    self._selector.register(self._door, selectors.EVENT_READ)
                self.port = self._door.port
                moved.set_result(None)
            except BaseException as error:  # whatever it is, the main thread waits for it
                moved.set_exception(error)

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, where = self._door.accept()
            except BlockingIOError:
                return
            except OSError as e:
                # Out of descriptors (accept(2)): whoever says nothing makes room.
                self._seldom.event(logging.WARNING, "accept-failed", "accept", cause=e.strerror)
                if not self._shed(list(self._visitors)):
                    time.sleep(_TICK)
                return
            self._count(accepted=1)
            sock.setblocking(False)
            now = time.monotonic()
            host = str(where[0]).removeprefix("::ffff:")
            visitor = _Visitor(sock, host, where[1], now, now + self._patience)
            same = [v for v in self._visitors if v.host == host] if self._full(host) else []
            if (same and not self._shed(same)) or (
                len(self._visitors) >= self._most_pending and not self._shed(list(self._visitors))
            ):
                self._count(shed=1)
                sock.close()
                continue
            self._visitors[visitor] = None
            self._each[host] += 1
            self._selector.register(sock, selectors.EVENT_READ, visitor)

    def _full(self, host: str) -> bool:
        return self._each[host] >= self._most_each

    def _shed(self, among: list[_Visitor]) -> bool:
        """Closes the one that is silent longest, or else one that takes long; whether one was."""
        now = time.monotonic()
        silent = next((v for v in among if v.leaving or not v.spoke), None)
        chosen = silent or next((v for v in among if now - v.since > _YOUNG), None)
        if chosen is None:
            return False
        self._count(shed=1)
        self._drop(chosen)
        return True

    def _sweep(self, now: float) -> None:
        for visitor in [v for v in self._visitors if now >= v.deadline]:
            if not visitor.leaving:
                self._count(silent=1)
            self._drop(visitor)

    def _take_out(self, visitor: _Visitor) -> None:
        """The visitor is no longer this thread's business; its socket stays open."""
        del self._visitors[visitor]
        self._each[visitor.host] -= 1
        if not self._each[visitor.host]:
            del self._each[visitor.host]
        if visitor.registered:
            self._selector.unregister(visitor.tls or visitor.sock)

    def _drop(self, visitor: _Visitor) -> None:
        self._take_out(visitor)
        (visitor.tls or visitor.sock).close()

    def _step(self, visitor: _Visitor) -> None:
        """Goes on with a visitor as far as it goes without waiting."""
        try:
            if visitor.leaving:
                if not os.read((visitor.tls or visitor.sock).fileno(), 1 << 16):
                    self._drop(visitor)
            elif visitor.tls is not None:
                self._shake_hands(visitor, visitor.tls)
            else:
                self._listen(visitor)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._drop(visitor)

    def _listen(self, visitor: _Visitor) -> None:
        """Finds out by its first bytes what a connection wants to be."""
        if not visitor.said:
            first = visitor.sock.recv(PREFACE_SIZE, socket.MSG_PEEK)
            if not first:
                self._drop(visitor)
                return
            visitor.spoke = True
            if first[:2] == TLS_HANDSHAKE[: len(first)]:
                self._begin_tls(visitor)
                return
            if first[0] not in (PAIRING_PREFACE[0], STREAM_MAGIC[0]):
                self._garbage(visitor, first)
                return
        # No more than the preface: what comes behind it belongs to someone else.
        is_pairing = visitor.said[:4] == PAIRING_PREFACE[:4]
        due = len(PAIRING_PREFACE) if len(visitor.said) < 4 or is_pairing else PREFACE_SIZE
        chunk = visitor.sock.recv(due - len(visitor.said))
        if not chunk:
            self._drop(visitor)
            return
        visitor.said += chunk
        said = visitor.said
        if said == PAIRING_PREFACE:
            visitor.pairing = True
            self._begin_tls(visitor)
        elif not PAIRING_PREFACE.startswith(said) and not STREAM_MAGIC.startswith(said[:4]):
            self._garbage(visitor, said)
        elif len(said) == PREFACE_SIZE:
            self._take_out(visitor)
            self._join_stream(visitor)

    def _begin_tls(self, visitor: _Visitor) -> None:
        try:
            first = visitor.pairing
            context = pairing_server(self._identity) if first else self._contexts.server()
        except (I2Error, OSError) as e:
            self._seldom.event(logging.ERROR, "identity-unusable", "identity", cause=e)
            self._drop(visitor)
            return
        # wrap_socket takes the descriptor over, and closes it when the peer is gone already.
        self._selector.unregister(visitor.sock)
        visitor.registered = False
        tls = context.wrap_socket(visitor.sock, server_side=True, do_handshake_on_connect=False)
        visitor.tls = tls
        self._selector.register(tls, selectors.EVENT_READ, visitor)
        visitor.registered = True
        self._shake_hands(visitor, tls)

    def _shake_hands(self, visitor: _Visitor, tls: ssl.SSLSocket) -> None:
        try:
            tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLError as e:
            self._refuse(visitor, tls, e)
            return
        with self._lock:
            full = not visitor.pairing and self._guests >= self._most_channels
            if not full and not visitor.pairing:
                self._guests += 1
        if full or (visitor.pairing and not self._pairings.acquire(blocking=False)):
            self._count(shed=1)
            self._drop(visitor)
            return
        self._take_out(visitor)
        serve = self._serve_pairing if visitor.pairing else self._serve_channel
        guest = threading.Thread(
            target=serve, args=(visitor, tls), name="i2node-guest", daemon=True
        )
        try:
            guest.start()
        except RuntimeError as e:  # no more threads to be had
            self._seldom.event(logging.ERROR, "no-thread", "thread", address=visitor.host, cause=e)
            tls.close()
            if visitor.pairing:
                self._pairings.release()
            else:
                with self._lock:
                    self._guests -= 1

    def _refuse(self, visitor: _Visitor, tls: ssl.SSLSocket, error: ssl.SSLError) -> None:
        not_paired = isinstance(translate(error, "handshake"), Refused)
        if isinstance(error, ssl.SSLCertVerificationError):
            cause = f"certificate not paired: {error.verify_message}"
        elif not_paired:
            cause = "the client is not paired with this node"
        else:
            cause = f"TLS failed: {(error.reason or str(error)).lower()}"
        host = visitor.host
        self._seldom.event(logging.WARNING, "refused", host, address=host, cause=cause)
        self._count(**({"not_paired": 1} if not_paired else {"garbage": 1}))
        # The alert is on its way; it must not be overtaken by a reset (see tls.linger).
        visitor.leaving = True
        visitor.deadline = time.monotonic() + _LINGER
        quietly(lambda: socket.socket.shutdown(tls, socket.SHUT_WR))

    def _garbage(self, visitor: _Visitor, said: bytes) -> None:
        self._count(garbage=1)
        fields: dict[str, Any] = {"address": visitor.host, "cause": "not i2node", "said": said[:40]}
        self._seldom.event(logging.WARNING, "refused", visitor.host, **fields)
        self._drop(visitor)

    def _join_stream(self, visitor: _Visitor) -> None:
        """Hands a data stream to the channel of its session, or closes it."""
        try:
            preface = parse_preface(visitor.said)
            with self._lock:
                channel = self._sessions.get(preface.session)
            if channel is None or not preface_is_proven(preface, channel.secret, Direction.OUT):
                raise ProtocolError("data stream of no session that is here")
            number = preface.stream
            if not channel.reserve(number):
                raise ProtocolError(f"data stream {number} is taken, or one too many")
            answer = make_preface(channel.secret, channel.session, number, Direction.BACK).pack()
            stream = DataStream(visitor.sock, number, channel.secret, channel.session, client=False)
            # 40 bytes always fit in the empty buffer of a new connection. Before adopt: a thread
            # that waits for the stream would send ahead of it.
            visitor.sock.send(answer, socket.MSG_DONTWAIT)
            if not channel.adopt(number, stream):
                raise ProtocolError(f"data stream {number}: its channel has ended")
            self._count(streams=1)
        except (I2Error, OSError) as e:
            fields: dict[str, Any] = {"address": visitor.host, "cause": e}
            self._seldom.event(logging.WARNING, "refused", visitor.host, **fields)
            self._count(garbage=1)
            visitor.sock.close()

    # ---------------------------------------------------------------- threads of their own

    def _serve_channel(self, visitor: _Visitor, tls: ssl.SSLSocket) -> None:
        channel = None
        try:
            der = tls.getpeercert(binary_form=True) or b""
            peer = self._identity.peer_of(der)
            if peer is None:  # issued by a certificate that is paired, which counts for nothing
                self._count(not_paired=1)
                raise Refused("certificate not paired")
            channel = Channel(tls, visitor.host, visitor.port, peer, client=False, beat=self._beat)
            session = secrets.token_bytes(16)
            with self._lock:
                self._channels.add(channel)
            agree(
                channel,
                self._identity.node_id,
                timeout=self._patience,
                protocol=self._protocol,
                session=session,
                ready=self._register,
            )
            self._count(authenticated=1)
            if not self._closing:
                self._on_channel(channel)
        except I2Error as e:
            self._ended(logging.WARNING, "channel-ended", visitor, cause=e)
        except OSError as e:
            self._ended(logging.WARNING, "channel-ended", visitor, cause=translate(e, "setup"))
        except Exception:
            self._ended(logging.ERROR, "fault", visitor, at="channel")
        finally:
            with self._lock:
                self._guests -= 1
                if channel is not None:
                    self._sessions.pop(channel.session, None)
                    self._channels.discard(channel)
            if channel is None:
                tls.close()
            else:
                channel.close()

    def _ended(self, level: int, name: str, visitor: _Visitor, **fields: object) -> None:
        who = f"{name} {visitor.host}"
        self._of_guests.event(level, name, who, _OF_A_GUEST, address=visitor.host, **fields)

    def _register(self, channel: Channel) -> None:
        with self._lock:
            self._sessions[channel.session] = channel

    def _serve_pairing(self, visitor: _Visitor, tls: ssl.SSLSocket) -> None:
        try:
            peer = pairing.serve(tls, visitor.host, self._identity, self._attempts, name=self._name)
            self._count(paired=1)
            log.event(_log, logging.INFO, "pairing-done", address=visitor.host, peer=peer.node_id)
            if self._on_paired is not None:
                self._on_paired(peer)
        except Refused as e:
            self._ended(logging.WARNING, "pairing-refused", visitor, cause=e)
            self._count(wrong_code=1)
        except I2Error as e:
            self._ended(logging.WARNING, "pairing-failed", visitor, cause=e)
        except Exception:
            self._ended(logging.ERROR, "fault", visitor, at="pairing")
        finally:
            self._pairings.release()
            tls.close()

    def _count(self, **by: int) -> None:
        with self._lock:
            now = {name: getattr(self._counted, name) + n for name, n in by.items()}
            self._counted = replace(self._counted, **now)
