"""Two nodes of this process and the channels between them, over real sockets and TLS."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from pathlib import Path
from typing import Any

from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import Listener, connect

HOST = "127.0.0.1"
LONG = 30.0


class Nodes:
    """Two paired nodes, the second of which listens; its channels come through `served`."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.client = Identity.load(path / "client")
        self.server = Identity.load(path / "server")
        self.served: queue.Queue[Channel] = queue.Queue()
        self.listener = Listener(
            HOST, 0, self.server, on_channel=self._serve, **{"beat": 5.0, **options}
        )
        self.listener.start()
        self.port = self.listener.port
        self.over = threading.Event()

    def _serve(self, channel: Channel) -> None:
        self.served.put(channel)
        self.over.wait(LONG)

    def pair(self) -> None:
        self.client.trust(self.server.cert_pem, name="server")
        self.server.trust(self.client.cert_pem, name="client", role="controller")

    def connect(self, **options: Any) -> tuple[Channel, Channel]:
        mine = connect(HOST, self.port, self.client, **options)
        return mine, self.served.get(timeout=LONG)

    def close(self) -> None:
        self.over.set()
        self.listener.close()


def end_of(sock: socket.socket) -> bytes:
    """What still comes until the other side ends the connection, however it does."""
    sock.settimeout(LONG)
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(4096):
            got += chunk
    return got
