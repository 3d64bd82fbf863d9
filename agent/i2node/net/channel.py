"""The control channel: messages over one TLS connection, with a pulse.

A thread beside the callers', the pump, reads, beats, and finishes what senders could not send at
once: the channel's own, or one of many channels. The TLS object is touched only under the channel's
lock and only with calls that do not block (an SSLSocket may not be used by two threads at once),
and nobody holds the lock while waiting.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from i2node import __version__, log
from i2node.errors import I2Error, PeerLeft, PeerLost, ProtocolError, Refused
from i2node.model import show
from i2node.net.identity import Peer, Role
from i2node.net.pump import Pump
from i2node.net.seal import session_secret
from i2node.net.stream import DataStream
from i2node.net.tls import keep_alive, linger, quietly, translate
from i2node.net.wire import PROTOCOL, Message, decode_weighed, encode_message, message_length

_log = logging.getLogger(__name__)

BEAT: Final = 5.0
STREAMS_MAX: Final = 64
FEATURES: Final[tuple[str, ...]] = ()

_CHUNK: Final = 64 << 10
_OUT_MAX: Final = 8 << 20  # bytes unsent before send() waits
_IN_MAX: Final = 8 << 20  # of memory, not fetched by recv() before the pump stops reading
_FLUSH: Final = 2.0  # seconds that close() gives the last messages
_BEAT_BYTES: Final = encode_message({"t": "beat"})
_LEAVING_BYTES: Final = encode_message({"t": "leaving"})
_LEAVING_SINCE: Final = 2  # the protocol that knows it


class Channel:
    """An authenticated connection to a peer. `send` and `recv` may be called from any thread.

    `session` and `secret` are known after `agree`, as are `protocol`, which was agreed, and
    `version` and `features`, which the peer says it has.
    """

    def __init__(
        self,
        tls: ssl.SSLSocket,
        host: str,
        port: int,
        peer: Peer,
        *,
        client: bool,
        beat: float,
        pump: Pump | None = None,
    ) -> None:
        """pump: of many channels; None: it has its own."""
        keep_alive(tls)
        tls.setblocking(False)
        self.host, self.port = host, port
        self.peer = peer
        self.client = client
        self.session = b""
        self.secret = b""
        self.protocol = 0
        self.version = ""
        self.features: tuple[str, ...] = ()
        self._tls = tls
        self._beat = beat
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._out = bytearray()
        self._in = bytearray()
        self._inbox: deque[tuple[Message, int]] = deque()
        self._waiting = 0  # bytes of memory that the inbox takes
        self._failure: I2Error | None = None
        self._closing = False
        self._over = False
        self._heard = self._spoke = time.monotonic()
        self._numbers: set[int] = set()
        self._streams: dict[int, DataStream] = {}
        self._until = 0.0
        self._take: Callable[[Message], None] | None = None
        self._lost: Callable[[I2Error], None] | None = None
        self._ended = threading.Event()
        self._pump = pump or Pump()
        self._pump.add(self)

    # ---------------------------------------------------------------- what callers see

    @property
    def peer_id(self) -> str:
        """The peer's node id, as its certificate proved it."""
        return self.peer.node_id

    @property
    def peer_role(self) -> Role:
        """What the peer was paired as."""
        return self.peer.role

    @property
    def address(self) -> str:
        """host:port of the other end."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as anyone knows."""
        return self._failure is None and not self._closing

    def send(self, message: Message) -> None:
        """Sends a message; waits while 8 MiB are unsent. PeerLost when the connection is gone."""
        packed = encode_message(message)
        with self._lock:
            while len(self._out) > _OUT_MAX and self._failure is None and not self._closing:
                self._changed.wait()
            self._raise_failure()
            self._out += packed
            try:
                self._flush()
            except OSError:
                # What the peer said before it hung up, an alert perhaps, is still to be read: the
                # pump reads it and finds the cause.
                self._pump.call(self)
            if self._out:
                self._pump.call(self)

    def recv(self, timeout: float | None = None) -> Message:
        """The next message. PeerLost: cut, closed, silent, or nothing within `timeout` seconds."""
        with self._lock:
            if not self._changed.wait_for(
                lambda: self._inbox or self._failure is not None or self._closing, timeout
            ):
                raise PeerLost(f"{self.address}: no message within {timeout:g} s")
            if not self._inbox:
                self._raise_failure()
            message, weight = self._inbox.popleft()
            full = self._waiting >= _IN_MAX
            self._waiting -= weight
            if full and self._waiting < _IN_MAX:
                self._pump.call(self)
            return message

    def deliver(self, take: Callable[[Message], None], lost: Callable[[I2Error], None]) -> None:
        """From now on each message is given to `take`, and not to `recv`: by the pump, which is not
        to wait for it; an I2Error that it raises ends the channel. `lost` is told of the end."""
        with self._lock:
            self._take, self._lost = take, lost
            over = self._over
            self._pump.call(self)
        if over and self._failure is not None:
            lost(self._hand_over() or self._failure)

    def close(self, wait: bool = True, leaving: bool = False) -> None:
        """Sends what is still to be sent, for two seconds at most, and ends channel and streams.
        wait: until that is done. leaving: this agent ends, and the peer is told so if its protocol
        knows that: there the cause is PeerLeft."""
        with self._lock:
            if leaving and self.alive and self.protocol >= _LEAVING_SINCE:
                self._out += _LEAVING_BYTES
            self._closing = True
            self._changed.notify_all()
            self._pump.call(self)
        if wait and not self._pump.is_own:
            self._ended.wait()

    def reserve(self, number: int) -> bool:
        """Takes a stream's number; False when it was taken before, or 64 were."""
        with self._lock:
            if len(self._numbers) >= STREAMS_MAX or number in self._numbers:
                return False
            self._numbers.add(number)
            return True

    def adopt(self, number: int, stream: DataStream) -> bool:
        """Takes a data stream into the session, whose end is its end; False: that has come."""
        with self._lock:
            if self._over or not self.alive:
                return False
            self._streams[number] = stream
            self._changed.notify_all()
            return True

    def accept_stream(self, number: int, timeout: float = 10.0) -> DataStream:
        """The data stream of that number that the client opens, or has opened."""
        with self._lock:
            if not self._changed.wait_for(
                lambda: number in self._streams or self._failure is not None or self._closing,
                timeout,
            ):
                raise PeerLost(f"{self.address}: no data stream {number} within {timeout:g} s")
            stream = self._streams.get(number)
            if stream is None:
                self._raise_failure()
                raise PeerLost(f"{self.address}: channel closed")
            return stream

    # ---------------------------------------------------------------- the pump

    def fileno(self) -> int:
        """The socket's."""
        return self._tls.fileno()

    def turn(self) -> tuple[int, float] | None:
        """The pump's; see there."""
        wanted, failure = None, None
        try:
            with self._lock:
                wanted = self._work()
        except I2Error as e:
            failure = e
        except OSError as e:
            failure = translate(e, self.address, self.host)
        except Exception:  # it is the thread of other channels too
            failure = self._fault()
        failure = self._hand_over() or failure  # the last words may say why it ends
        if failure is not None:
            self._fail(failure)
            return None
        return wanted

    def _work(self) -> tuple[int, float] | None:
        """Lock held."""
        if self._closing and not self._until:
            self._until = time.monotonic() + _FLUSH
        wait = self._turn(self._until)
        if wait is None:
            return None
        paused = self._waiting >= _IN_MAX and self._take is None
        mask = (0 if paused else select.POLLIN) | (select.POLLOUT if self._out else 0)
        return mask, max(0.0, wait)

    def _hand_over(self) -> I2Error | None:
        """What came, to whom it is to be given; that may end the channel."""
        if self._take is None:
            return None
        with self._lock:
            messages = [message for message, _ in self._inbox]
            self._inbox.clear()
            self._waiting = 0
        try:
            for message in messages:
                self._take(message)
        except I2Error as e:
            return e
        except Exception:
            return self._fault()
        return None

    def _fault(self) -> I2Error:
        """What is said of an exception that nothing here is to raise; the log has it."""
        log.event(_log, logging.ERROR, "fault", at="channel", peer=self.peer_id)
        return PeerLost(f"{self.address}: a fault here, see the log")

    def _turn(self, until: float) -> float | None:
        """Reads, beats, sends; lock held. Seconds to wait for more, None when closed at last."""
        now = time.monotonic()
        if self._waiting < _IN_MAX:
            self._read(now)
        else:
            self._heard = now  # we are the ones who do not listen
        if now - self._heard > 3 * self._beat:
            raise PeerLost(f"{self.address}: silent for {3 * self._beat:g} s")
        if now - self._spoke >= self._beat and not self._out:
            self._out += _BEAT_BYTES
        self._flush()
        if until and (not self._out or now >= until):
            return None
        due = min(self._heard + 3 * self._beat, self._spoke + self._beat if not self._out else 1e18)
        return min(due, until or due) - now

    def _read(self, now: float) -> None:
        while self._waiting < _IN_MAX:
            try:
                chunk = self._tls.recv(_CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not chunk:
                raise PeerLost(f"{self.address}: connection closed by the peer")
            self._heard = now
            self._in += chunk
            while len(self._in) >= 4:
                size = message_length(self._in)
                if len(self._in) < 4 + size:
                    break
                message, weight = decode_weighed(bytes(self._in[4 : 4 + size]))
                del self._in[: 4 + size]
                if message["t"] == "leaving":  # perhaps before it is known here what is agreed
                    raise PeerLeft(
                        f"{self.address}: its agent was stopped, or is being restarted",
                        "if it does not come back, run there: service i2node start",
                    )
                if message["t"] != "beat":
                    self._inbox.append((message, weight))
                    self._waiting += weight
                    self._changed.notify_all()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._tls.send(bytes(self._out[:_CHUNK]))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._out[:sent]
            self._spoke = time.monotonic()
            self._changed.notify_all()

    def _fail(self, failure: I2Error) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = failure
            self._changed.notify_all()

    def end(self) -> None:
        """The pump's; see there."""
        with self._lock:
            cut = isinstance(self._failure, PeerLost)
            if self._failure is None:
                self._failure = PeerLost(f"{self.address}: channel closed")
            self._over = True
            streams, lost = list(self._streams.values()), self._lost
            self._changed.notify_all()
        for stream in streams:
            stream.close()
        if lost is not None:
            why = self._hand_over() or self._failure
            try:
                lost(why)
            except Exception:  # who closes it waits for what follows
                self._fault()
        quietly(self._tls.unwrap)  # sends close_notify; the peer's is not waited for
        if not cut:
            quietly(lambda: linger(self._tls, _FLUSH))
        self._tls.close()
        self._ended.set()

    def _raise_failure(self) -> None:
        """Lock held. Each caller gets an exception of its own, the first one as its cause."""
        failure = self._failure
        if failure is not None:
            raise type(failure)(failure.cause, failure.remedy) from failure
        if self._closing:
            raise PeerLost(f"{self.address}: channel closed")


# -------------------------------------------------------------------- the first messages


def agree(
    channel: Channel,
    own_id: str,
    *,
    timeout: float,
    protocol: tuple[int, int] = PROTOCOL,
    session: bytes = b"",
    ready: Callable[[Channel], None] | None = None,
) -> None:
    """Says hello and exchanges keys, on either side; the listening side gives the `session` id.

    `ready` is called when the keys are known here and before the peer can know them.

    Refused when no protocol version is spoken by both; PeerLost, ProtocolError as ever.
    """
    own = secrets.token_bytes(32)
    hello = {
        "t": "hello",
        "protocol": list(protocol),
        "version": __version__,
        "features": list(FEATURES),
        "node": own_id,
    }
    keys = {"t": "keys", "random": own, "session": session}
    if channel.client:
        # A peer that refused at the first has hung up by the second; why, is still to be read.
        with contextlib.suppress(PeerLost):
            channel.send(hello)
            channel.send(keys)
    theirs = _expect(channel, "hello", timeout)
    if not channel.client:
        # Before judging theirs, so that a client too old or too new learns why.
        channel.send(hello)
    _judge(channel, theirs, protocol)
    answer = _expect(channel, "keys", timeout)
    other, given = answer.get("random"), answer.get("session")
    if not isinstance(other, bytes) or len(other) != 32 or not isinstance(given, bytes):
        raise ProtocolError(f"{channel.address}: unsound keys message")
    if channel.client:
        session = given
    if len(session) != 16:
        raise ProtocolError(f"{channel.address}: unsound session id")
    randoms = (own, other) if channel.client else (other, own)
    channel.secret = session_secret(session, *randoms)
    channel.session = session
    if ready is not None:
        ready(channel)
    if not channel.client:
        channel.send(keys)


def _expect(channel: Channel, name: str, timeout: float) -> Message:
    message = channel.recv(timeout)
    if message["t"] != name:
        got = show(message["t"].encode())[:40]
        raise ProtocolError(f"{channel.address}: {got} came where {name} is due")
    return message


def _judge(channel: Channel, hello: Message, protocol: tuple[int, int]) -> None:
    spoken: Any = hello.get("protocol")
    version, features = hello.get("version"), hello.get("features")
    if (
        not isinstance(spoken, list)
        or len(spoken) != 2
        or not all(type(n) is int for n in spoken)
        or not isinstance(version, str)
        or not isinstance(features, list)
        or not all(isinstance(f, str) for f in features)
    ):
        raise ProtocolError(f"{channel.address}: unsound hello message")
    if hello.get("node") != channel.peer_id:
        raise ProtocolError(f"{channel.address}: says another node id than its certificate")
    version = show(version.encode())[:40]
    newest = min(protocol[1], spoken[1])
    if newest < max(protocol[0], spoken[0]):
        older = "this host" if protocol[1] < spoken[0] else channel.host
        raise Refused(
            f"{channel.address} runs i2node {version}, which speaks {_spoken(spoken)}, "
            f"this is i2node {__version__}, which speaks {_spoken(protocol)}",
            f"upgrade i2node on {older}: it is the older one",
        )
    channel.protocol = newest
    channel.version = version
    channel.features = tuple(features)


def _spoken(protocol: Sequence[int]) -> str:
    oldest, newest = protocol
    return f"protocol {oldest}" if oldest == newest else f"protocols {oldest} to {newest}"
