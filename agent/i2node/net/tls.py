"""TLS as it is used here: 1.3 only, both sides known by their pinned certificates."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable

from i2node.errors import I2Error, PeerLost, Refused, UsageError
from i2node.net.identity import Identity

# What TLS 1.3 says to a client whose certificate is not liked (RFC 8446 §6.2, OpenSSL's spelling).
_REFUSALS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")


class Contexts:
    """The TLS contexts of an identity, made anew when its trust store has changed."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._lock = threading.Lock()
        self._made: dict[int, tuple[object, ssl.SSLContext]] = {}

    def server(self) -> ssl.SSLContext:
        """For the listener: lets in whoever shows a paired certificate."""
        return self._get(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        """For connecting: goes on only when a paired certificate is shown."""
        return self._get(ssl.PROTOCOL_TLS_CLIENT)

    def _get(self, protocol: int) -> ssl.SSLContext:
        token, certificates = self._identity.trusted()
        with self._lock:
            made = self._made.get(protocol)
            if made is None or made[0] != token:
                context = _pinned(protocol, self._identity, certificates)
                made = self._made[protocol] = (token, context)
            return made[1]


def client_of(identity: Identity, certificate: bytes) -> ssl.SSLContext:
    """For connecting to the holder of this certificate (DER) and nobody else."""
    return _pinned(ssl.PROTOCOL_TLS_CLIENT, identity, [certificate])


def _pinned(protocol: int, identity: Identity, certificates: Iterable[bytes]) -> ssl.SSLContext:
    context = _context(protocol, identity)
    context.verify_mode = ssl.CERT_REQUIRED
    # The pinned certificates are leaves; without this OpenSSL looks for their roots.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=b"".join(certificates))
    return context


def pairing_server(identity: Identity) -> ssl.SSLContext:
    """For first contact: shows this node's certificate, asks for none."""
    return _context(ssl.PROTOCOL_TLS_SERVER, identity)


def pairing_client() -> ssl.SSLContext:
    """For first contact: takes any certificate; the code proves afterwards whose it is."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, None)


def _context(protocol: int, identity: Identity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a pinned key needs no name, and nodes change address
    context.verify_mode = ssl.CERT_NONE
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no resumption: every connection shows its certificate
    if identity is not None:
        context.load_cert_chain(identity.key_file)
    return context


def translate(error: OSError, doing: str, host: str = "HOST") -> I2Error:
    """A socket's or OpenSSL's error, met while `doing` something with a peer, in our words."""
    remedy = f"run: i2node pair {host}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"{doing}: its certificate is not one this node is paired with", remedy)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if "ALERT" in reason and any(word in reason for word in _REFUSALS):
            return Refused(f"{doing}: it is not paired with this node", remedy)
        if isinstance(error, ssl.SSLEOFError):
            return PeerLost(f"{doing}: connection closed")
        return PeerLost(f"{doing}: TLS: {reason.lower().replace('_', ' ')}")
    if isinstance(error, TimeoutError):
        return PeerLost(f"{doing}: timed out")
    return PeerLost(f"{doing}: {error.strerror or error}")


def dial(host: str, port: int, timeout: float, doing: str) -> socket.socket:
    """A TCP connection; PeerLost when it cannot be had within `timeout` seconds. UsageError: host
    can be no name."""
    try:
        sock = socket.create_connection((host, port), timeout)
    except UnicodeError as e:
        cause = f"{doing}: {host!r} is neither an address nor a name of a host"
        raise UsageError(cause, "correct it") from e
    except OSError as e:
        lost = translate(e, doing, host)
        lost.remedy = f"see that i2node agent runs on {host}, and that port {port} is not filtered"
        raise lost from e
    return sock


def keep_alive(sock: socket.socket) -> None:
    """A peer that vanished silently is noticed by the kernel within half a minute (tcp(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 4),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def linger(sock: socket.socket, timeout: float) -> None:
    """Ends sending and drops what still comes until the peer ends too, or `timeout` seconds.

    Closing with unread bytes would make the kernel reset the connection, and throw away what the
    peer has not got yet: the last message, or the alert that tells it why.
    """
    socket.socket.shutdown(sock, socket.SHUT_WR)
    until = time.monotonic() + timeout
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while (left := until - time.monotonic()) > 0 and poll.poll(left * 1000):
        if not os.read(sock.fileno(), 1 << 16):
            return


def quietly(call: Callable[[], object]) -> None:
    """For the last steps of closing a connection, where its errors tell nothing new."""
    try:
        call()
    except (OSError, ValueError):
        return
