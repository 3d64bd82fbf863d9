"""A socket that listens, and can be taken elsewhere while it does."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from i2node.errors import UsageError


class Door:
    """Where connections come in. One thread."""

    def __init__(self, host: str, port: int) -> None:
        """As `bound`."""
        self._at = (host, port)
        self._socket = bound(host, port)

    @property
    def port(self) -> int:
        """The real one."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket.accept. BlockingIOError: nobody is there."""
        return self._socket.accept()

    def move(self, host: str, port: int) -> None:
        """Listens there, and no more where it did. UsageError: that address cannot be had; then it
        listens where it did."""
        same = port == self.port
        if same:
            # Two doors of one port are not to be had where one of them is of all addresses.
            self._socket.close()
        try:
            opened = bound(host, port)
        except UsageError:
            if same:
                self._socket = bound(self._at[0], port)
            raise
        self._socket.close()
        self._socket, self._at = opened, (host, port)

    def close(self) -> None:
        self._socket.close()


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there, non-blocking. host: "" is all, IPv6 too where the host has it;
    port: 0 lets the kernel choose. UsageError: the address cannot be had."""
    if host == "" and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be switched off in this kernel
            door = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
            )
            return _ready(door)
    try:
        family = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0][0]
        door = socket.create_server((host, port), family=family, backlog=512)
    except UnicodeError as e:
        raise UsageError(
            f"listening on {host!r}: neither an address nor a name of a host",
            "correct listen_host",
        ) from e
    except OSError as e:
        raise UsageError(
            f"listening on {host or '*'}:{port}: {e.strerror or e}",
            "is another i2node running? see: ss -ltnp",
        ) from e
    return _ready(door)


def _ready(door: socket.socket) -> socket.socket:
    # Connections inherit it. Without it a short answer waits 40 ms for the client's delayed ACK.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    door.setblocking(False)
    return door
