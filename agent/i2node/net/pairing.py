"""First contact: two nodes that do not know each other, and a code that one of them was told.

    client                                          server
      | preface "i2pr", TLS 1.3: the server shows its certificate, the client none
      | pair   {cert, nonce, name, role, port}  ->    |
      |    <-  pair   {cert, nonce, name}             |
      | proof  {mac, signature}                 ->    |  stores the client
      |    <-  proof  {mac}                           |
      stores the server

    transcript = the client's message, the server's message, the certificate of this TLS session,
                 each with its length before it, as bytes on the wire
    mac        = HMAC-SHA256(HKDF-SHA256(code, info "i2node pairing v1"), side | transcript)
    signature  = the client's key over the transcript (the server proves its key by TLS itself)

Someone in the middle must show a certificate of his own to the client, so the two sides compute
over different transcripts and neither proof fits the other: he gains nothing. He holds a MAC
that he could try codes against, but a code of 32 random letters and digits has 190 bits. The client
proves first: whoever just knocks learns the server's certificate, which any TLS client may see.
Guessing at the door is slowed by `Attempts`.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from i2node import log
from i2node.errors import I2Error, ProtocolError, Refused, UsageError
from i2node.model import show
from i2node.net.identity import (
    ROLES,
    Identity,
    Peer,
    Role,
    check_certificate,
    der_to_pem,
    verify_signature,
)
from i2node.net.tls import dial, linger, pairing_client, quietly, translate
from i2node.net.wire import (
    PAIRING_PREFACE,
    PORT,
    Message,
    decode_message,
    encode_message,
    message_length,
)

_log = logging.getLogger("i2node.net")

MESSAGE_MAX: Final = 16 << 10
_WRONG_CODE: Final = "the pairing code is wrong"
_NAME_MAX: Final = 255


class Attempts:
    """Slows guessing: after 5 failures within a minute an address is shut out for 5 minutes; after
    50 from anywhere, everyone is for one minute. `clock` gives seconds."""

    SPAN, EACH, ALL, OUT, ALL_OUT, KEPT = 60.0, 5, 50, 300.0, 60.0, 4096

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._every: deque[float] = deque()

    def refused(self, address: str) -> float:
        """Seconds for which pairing from `address` is refused; 0: it may try."""
        now = self._clock()
        with self._lock:
            wait = 0.0
            for times, most, out in (
                (self._failed.get(address, deque()), self.EACH, self.OUT),
                (self._every, self.ALL, self.ALL_OUT),
            ):
                if len(times) >= most and times[-1] - times[-most] <= self.SPAN:
                    wait = max(wait, times[-1] + out - now)
            return max(0.0, wait)

    def failed(self, address: str) -> None:
        """Notes a wrong proof."""
        now = self._clock()
        with self._lock:
            times = self._failed.setdefault(address, deque(maxlen=self.EACH))
            self._failed.move_to_end(address)
            times.append(now)
            self._every.append(now)
            if len(self._every) > self.ALL:
                self._every.popleft()
            if len(self._failed) > self.KEPT:
                self._failed.popitem(last=False)


class _Line:
    """Pairing messages over a blocking TLS socket, all of them within one deadline."""

    def __init__(self, tls: ssl.SSLSocket, doing: str, host: str, timeout: float) -> None:
        self._tls = tls
        self._doing = doing
        self._host = host
        self._until = time.monotonic() + timeout

    def send(self, message: Message) -> bytes:
        """Sends; gives the bytes, for the transcript."""
        packed = encode_message(message, MESSAGE_MAX)
        try:
            self._tls.settimeout(self._left())
            self._tls.sendall(packed)
        except OSError as e:
            raise translate(e, self._doing, self._host) from e
        return packed[4:]

    def recv(self, name: str) -> tuple[Message, bytes]:
        """The message that is due, and its bytes. Refused when the peer says so."""
        body = self._read(message_length(self._read(4), MESSAGE_MAX))
        message = decode_message(body)
        if message["t"] == "refused":
            cause, remedy = (show(str(message.get(k, "")).encode())[:300] for k in _SAID)
            raise Refused(f"{self._doing}: {cause}", remedy)
        if message["t"] != name:
            got = show(message["t"].encode())[:40]
            raise ProtocolError(f"{self._doing}: {got} came where {name} is due")
        return message, body

    def _read(self, size: int) -> bytes:
        got = bytearray()
        try:
            while len(got) < size:
                self._tls.settimeout(self._left())
                chunk = self._tls.recv(size - len(got))
                if not chunk:
                    raise ConnectionResetError("connection closed")
                got += chunk
        except OSError as e:
            raise translate(e, self._doing, self._host) from e
        return bytes(got)

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


_SAID: Final = ("cause", "remedy")


def pair(
    host: str,
    port: int,
    code: str,
    identity: Identity,
    *,
    role: Role = "node",
    peer_role: Role = "node",
    name: str = "",
    own_port: int = PORT,
    timeout: float = 15.0,
) -> Peer:
    """Pairs with the node at host:port by its code; each stores the other's certificate.

    `role` and `name` are what the other side is to know this one as, `own_port` where this one
    listens, 0: nowhere; `peer_role` is what the other side is to be here. Refused: the code is
    wrong, or too many were. PeerLost, ProtocolError as ever.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    doing = f"pairing with {where}"
    sock = dial(host, port, timeout, doing)
    try:
        sock.sendall(PAIRING_PREFACE)
        tls = pairing_client().wrap_socket(sock)
    except OSError as e:
        sock.close()
        raise translate(e, doing, host) from e
    with tls:
        shown = tls.getpeercert(binary_form=True) or b""
        line = _Line(tls, doing, host, timeout)
        mine = line.send(
            {
                "t": "pair",
                "cert": identity.cert_der,
                "nonce": secrets.token_bytes(32),
                "name": name,
                "role": role,
                "port": own_port,
            }
        )
        message, theirs = line.recv("pair")
        cert, peer_name = _introduced(message, doing)
        if cert == identity.cert_der:
            raise UsageError(f"{doing}: that is this node itself", "it trusts itself already")
        if cert != shown:
            raise Refused(
                f"{doing}: it says another certificate than it shows",
                "someone may be in the middle: pair from inside the network",
            )
        transcript = _transcript(mine, theirs, shown)
        mac = _mac(code, "client", transcript)
        line.send({"t": "proof", "mac": mac, "signature": identity.sign(transcript)})
        proof, _ = line.recv("proof")
        given = proof.get("mac")
        right = _mac(code, "server", transcript)
        if not isinstance(given, bytes) or not hmac.compare_digest(given, right):
            raise Refused(
                f"{doing}: it does not know its own code",
                "someone may be in the middle: pair from inside the network",
            )
        return identity.trust(der_to_pem(cert), name=peer_name, address=where, role=peer_role)


def serve(
    tls: ssl.SSLSocket,
    address: str,
    identity: Identity,
    attempts: Attempts,
    *,
    name: str = "",
    timeout: float = 15.0,
) -> Peer:
    """The listening side of `pair`, on a connection whose TLS stands; does not close it.

    Refused (and the client told why) when the proof is wrong or `address` had too many tries.
    """
    line = _Line(tls, f"pairing asked by {address}", address, timeout)
    try:
        return _serve(line, address, identity, attempts, name)
    except (Refused, ProtocolError, UsageError) as e:
        try:
            line.send({"t": "refused", "cause": e.cause, "remedy": e.remedy})
        except I2Error:
            log.event(_log, logging.DEBUG, "refusal-unheard", address=address)
        quietly(lambda: linger(tls, 1.0))
        raise


def _serve(line: _Line, address: str, identity: Identity, attempts: Attempts, name: str) -> Peer:
    message, theirs = line.recv("pair")
    wait = attempts.refused(address)
    if wait > 0:
        raise Refused("too many wrong pairing codes", f"try again in {wait:.0f} s")
    cert, peer_name = _introduced(message, f"pairing asked by {address}")
    role, port = message.get("role"), message.get("port")
    if role not in ROLES or type(port) is not int or not 0 <= port <= 65535:
        raise ProtocolError("unsound pair message")
    mine = line.send(
        {
            "t": "pair",
            "cert": identity.cert_der,
            "nonce": secrets.token_bytes(32),
            "name": name,
        }
    )
    transcript = _transcript(theirs, mine, identity.cert_der)
    proof, _ = line.recv("proof")
    mac, signature = proof.get("mac"), proof.get("signature")
    right = _mac(identity.code, "client", transcript)
    if not isinstance(mac, bytes) or not hmac.compare_digest(mac, right):
        attempts.failed(address)
        raise Refused(_WRONG_CODE, "it stands in i2id.conf on the node that is asked, as id=CODE")
    if not isinstance(signature, bytes) or not verify_signature(cert, signature, transcript):
        attempts.failed(address)
        raise Refused("the certificate is not the client's own")
    where = (f"[{address}]" if ":" in address else address) + f":{port}" if port else ""
    peer = identity.trust(der_to_pem(cert), name=peer_name, address=where, role=role)
    line.send({"t": "proof", "mac": _mac(identity.code, "server", transcript)})
    return peer


def _introduced(message: Message, doing: str) -> tuple[bytes, str]:
    """Certificate and name that a pair message holds."""
    cert, nonce, name = message.get("cert"), message.get("nonce"), message.get("name")
    if (
        not isinstance(cert, bytes)
        or not isinstance(nonce, bytes)
        or len(nonce) != 32
        or not isinstance(name, str)
        or len(name) > _NAME_MAX
        or not name.isprintable()  # it will be shown to people
    ):
        raise ProtocolError(f"{doing}: unsound pair message")
    check_certificate(cert)
    return cert, name


def _transcript(client: bytes, server: bytes, shown: bytes) -> bytes:
    parts = (b"i2node pairing v1", client, server, shown)
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def _mac(code: str, side: str, transcript: bytes) -> bytes:
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"i2node pairing v1")
    return hmac.digest(kdf.derive(code.encode()), side.encode() + b"\0" + transcript, "sha256")
