"""A wire between two nodes that a test can cut, hold up and mend: a TCP relay on loopback."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from contextlib import suppress

_ABORT = struct.pack("ii", 1, 0)
CHUNK = 1 << 16


class Relay:
    """Accepts on `port` and forwards to `to`. One thread; bytes wait where the receiver is slow."""

    def __init__(self, to: int) -> None:
        self.to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._flowing = threading.Event()
        self._flowing.set()
        self._over = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Every connection ends at once, as if a cable were pulled and the peer had noticed."""
        with self._lock:
            for end in list(self._pairs):
                self._drop(end)

    def pause(self) -> None:
        """Nothing is forwarded, nothing is lost."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._over = True
        self._flowing.set()
        self._wake.send(b"x")
        self._thread.join(10)
        self.cut()
        for end in (self._listener, self._wake, self._woken):
            end.close()

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end, None)
        if other is None:
            return
        self._pairs.pop(other, None)
        for each in (end, other):
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            each.close()

    def _run(self) -> None:
        while not self._over:
            self._flowing.wait()
            with selectors.DefaultSelector() as ready, self._lock:
                ready.register(self._listener, selectors.EVENT_READ)
                ready.register(self._woken, selectors.EVENT_READ)
                for end in self._pairs:
                    ready.register(end, selectors.EVENT_READ)
                found = ready.select(0.0)
                if not found:
                    # Outside the lock nobody could cut while we wait; so we wait a moment only.
                    found = ready.select(0.005)
                for key, _ in found:
                    self._move(key.fileobj)

    def _move(self, end: socket.socket) -> None:
        if end is self._woken:
            return
        if end is self._listener:
            near, _ = end.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to), 2.0)
            except OSError:
                near.close()
                return
            for each, other in ((near, far), (far, near)):
                each.settimeout(5.0)
                self._pairs[each] = other
            return
        other = self._pairs.get(end)
        if other is None:
            return
        try:
            data = end.recv(CHUNK)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(end)
