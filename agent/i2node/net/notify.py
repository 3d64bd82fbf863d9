"""What a daemon tells the service manager that started it (systemd's protocol, sd_notify(3)): lines
`KEY=value` in a datagram to an AF_UNIX socket. Without one it tells nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

STATUS_S = 10.0
"""How often the line of `systemctl status` is made anew."""


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager. Nothing that fails here is worth more than silence: the manager finds
    out by itself, from the end of a timeout."""

    address: str = ""
    """Path of its socket, or, after an '@', its abstract name; empty: there is no manager."""
    watchdog_s: float = 0.0
    """It takes the daemon for hung that has been silent for so long; 0: it does not watch."""

    @property
    def beat_s(self) -> float | None:
        """How often `alive` is to be called; None: never."""
        return self.watchdog_s / 3 if self.address and self.watchdog_s > 0 else None

    def ready(self, status: str = "") -> None:
        """It does its work now, at the start or after a reload."""
        self._tell("READY=1", *_status(status))

    def reloads(self) -> None:
        """It takes a changed configuration; `ready` says when it has."""
        self._tell("RELOADING=1")

    def stops(self) -> None:
        """It is on its way to its end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """For the watchdog."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """What people see in `systemctl status`."""
        self._tell(*_status(text))

    def keep_told(self, text: Callable[[], str]) -> Callable[[], None]:
        """Tells the status now and then, from a thread of its own: what it is made of may wait for
        a disk, and the watchdog's beat may not. Gives what ends that."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(STATUS_S):
                self.status(text())

        if self.address:
            threading.Thread(target=tell, name="status-of-service", daemon=True).start()
        return over.set

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        place = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to,
        ):
            # A manager that does not read is no reason to wait.
            to.setblocking(False)
            to.sendto("\n".join(lines).encode(), place)


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
