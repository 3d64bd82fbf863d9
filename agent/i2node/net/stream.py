"""A data stream: frames over TCP, on a connection of its own. Layout and threats: `wire`."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Sequence

from i2node.errors import PeerLost, ProtocolError
from i2node.net.seal import Buffer, Direction, Level, Opener, Sealer, derive_key
from i2node.net.tls import keep_alive, quietly, translate
from i2node.net.wire import HEADER_SIZE, Header, parse_header

# Milliseconds in which the peer's TCP must take something. It also ends a connection whose peer is
# well but does not read for that long, so it is generous: a target may be flushing its disk.
_USER_TIMEOUT = 300_000
_AT_ONCE = 64  # buffers of one sendmsg, far below IOV_MAX
_SPARE = 8


class DataStream:
    """One data stream of a session. One thread may send while another receives.

    It knows its keys: `sealer` and `opener` give what its frames are sealed and opened with.
    `sent` and `received` count bytes on the wire. A peer that is gone is noticed by the kernel's
    keepalive, or by the session's channel, which closes its streams when it ends.
    """

    def __init__(
        self, sock: socket.socket, number: int, secret: bytes, session: bytes, *, client: bool
    ) -> None:
        sock.setblocking(True)
        keep_alive(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        self._sock = sock
        self.number = number
        self.sent = 0
        self.received = 0
        self._secret = secret
        self._session = session
        self._out, self._back = (
            (Direction.OUT, Direction.BACK) if client else (Direction.BACK, Direction.OUT)
        )
        self._sealed = self._opened = False
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._closed = False
        self._spare: list[bytearray] = []

    def sealer(
        self, *, level: Level = "auto", encrypt: bool = True, rule_secret: bytes | None = None
    ) -> Sealer:
        """What this side's frames are sealed with. Once: two would use a nonce twice."""
        if self._sealed:
            raise ProtocolError(f"stream {self.number} has its sealer already")
        self._sealed = True
        key = derive_key(self._secret, self._session, self._out, self.number, rule_secret)
        return Sealer(key, self.number, self._out, level=level, encrypt=encrypt)

    def opener(self, *, encrypt: bool = True, rule_secret: bytes | None = None) -> Opener:
        """What the other side's frames are opened with; once."""
        if self._opened:
            raise ProtocolError(f"stream {self.number} has its opener already")
        self._opened = True
        key = derive_key(self._secret, self._session, self._back, self.number, rule_secret)
        return Opener(key, self.number, self._back, encrypt=encrypt)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Sends the buffers of one frame, or of several; PeerLost when the connection ends."""
        waiting = [memoryview(b).cast("B") for b in buffers if len(b)]
        with self._sending:
            try:
                while waiting:
                    sent = self._sock.sendmsg(waiting[:_AT_ONCE])
                    self.sent += sent
                    while waiting and sent >= len(waiting[0]):
                        sent -= len(waiting.pop(0))
                    if sent:
                        waiting[0] = waiting[0][sent:]
            except OSError as e:
                raise self._lost(e, "sending") from e

    def recv_frame(self, timeout: float | None = None) -> tuple[Header, memoryview]:
        """The next frame's header and the bytes behind it, not yet opened.

        Waits up to `timeout` seconds for it to begin, None: as long as the connection lives.
        The bytes stay valid as long as the caller keeps them; `reuse` gives the memory back.
        PeerLost at the end of the connection, ProtocolError for an unsound header.
        """
        with self._receiving:
            try:
                if timeout is not None:
                    poll = select.poll()
                    poll.register(self._sock, select.POLLIN)
                    if not poll.poll(timeout * 1000):
                        raise PeerLost(f"stream {self.number}: no frame within {timeout:g} s")
                packed = bytearray(HEADER_SIZE)
                self._fill(memoryview(packed), between=True)
                header = parse_header(packed)
                body = memoryview(self._room(header.length))[: header.length]
                self._fill(body)
            except OSError as e:
                raise self._lost(e, "receiving") from e
        self.received += HEADER_SIZE + header.length
        return header, body

    def reuse(self, body: memoryview) -> None:
        """Gives a frame's memory back for a later one. No view of it may be used any more."""
        room = body.obj
        body.release()
        if isinstance(room, bytearray) and len(self._spare) < _SPARE:
            self._spare.append(room)

    def close(self) -> None:
        """Ends the connection; whoever waits in `send` or `recv_frame` gets PeerLost."""
        self._closed = True
        # shutdown wakes the others; close waits for them, or it could hit a number used anew.
        quietly(lambda: self._sock.shutdown(socket.SHUT_RDWR))
        with self._sending, self._receiving:
            self._sock.close()

    def _room(self, size: int) -> bytearray:
        while self._spare:
            room = self._spare.pop()
            if len(room) >= size:
                return room
        return bytearray(size)

    def _fill(self, view: memoryview, between: bool = False) -> None:
        at = 0
        while at < len(view):
            got = self._sock.recv_into(view[at:], 0, socket.MSG_WAITALL)
            if got == 0:
                where = "between frames" if between and not at else "inside a frame"
                raise PeerLost(f"stream {self.number}: connection closed {where}")
            at += got

    def _lost(self, error: OSError, doing: str) -> Exception:
        if self._closed:
            return PeerLost(f"stream {self.number}: closed")
        return translate(error, f"stream {self.number}: {doing}")
