"""One thread that serves connections: each has its turn when something came, when there is room to
send, when it is due, or when it is called."""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import threading
import time
from itertools import count
from typing import Protocol


class Served(Protocol):
    """What a pump serves. Its turns come from the pump's thread, one at a time."""

    def fileno(self) -> int:
        """The socket's; from the first turn to the last it stays."""

    def turn(self) -> tuple[int, float] | None:
        """Does what can be done without waiting. Gives what to wait for (a mask of poll, 0: nothing
        of the socket's) and in how many seconds the next turn is due; None: this was the last."""

    def end(self) -> None:
        """After its last turn; may wait, in a thread of its own."""


class Pump:
    """Serves what was added until it ends. Safe to use from several threads."""

    def __init__(self, lasting: bool = False) -> None:
        """lasting: it goes on when it has nothing to serve."""
        self._lasting = lasting
        self._lock = threading.Lock()
        self._served: set[Served] = set()
        self._called: dict[Served, None] = {}
        # What follows is the pump's thread's alone.
        self._masks: dict[Served, int] = {}
        self._by_fd: dict[int, Served] = {}
        self._due: list[tuple[float, int, Served]] = []
        self._planned: dict[Served, float] = {}
        self._numbers = count()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="i2node-pump", daemon=True)

    def add(self, served: Served) -> None:
        """From now on it has turns, the first at once."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
            self._served.add(served)
        self.call(served)

    def call(self, served: Served) -> None:
        """It is to have a turn soon, if it has not had its last."""
        with self._lock:
            if served in self._served:
                self._called[served] = None
                os.eventfd_write(self._wake, 1)

    @property
    def is_own(self) -> bool:
        """Whether the calling thread is the pump's."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        while True:
            for served in self._ready():
                self._serve(served)
            with self._lock:
                if not self._served and not self._lasting:
                    break
        self._epoll.close()
        os.close(self._wake)

    def _ready(self) -> list[Served]:
        """Waits; gives those whose turn it is, each once."""
        now = time.monotonic()
        pause = max(0.0, self._due[0][0] - now) + 0.001 if self._due else -1.0
        ready = {self._by_fd[fd]: None for fd, _ in self._epoll.poll(pause) if fd in self._by_fd}
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._lock:
            called, self._called = self._called, {}
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            when, _, served = heapq.heappop(self._due)
            if self._planned.get(served) == when:
                del self._planned[served]
                ready[served] = None
        ready |= called
        return [served for served in ready if served in self._served]

    def _serve(self, served: Served) -> None:
        wanted = served.turn()
        if wanted is None:
            self._forget(served)
            try:
                threading.Thread(target=served.end, name="i2node-channel-end", daemon=True).start()
            except RuntimeError:  # no more threads are to be had; the others wait for it, then
                served.end()
            return
        mask, wait = wanted
        self._register(served, mask)
        when = time.monotonic() + wait
        # One that is due earlier than is planned is planned anew; a later turn does no harm.
        if when < self._planned.get(served, float("inf")):
            self._planned[served] = when
            heapq.heappush(self._due, (when, next(self._numbers), served))

    def _register(self, served: Served, mask: int) -> None:
        """With nothing to wait for it is not registered: a peer that hung up would be reported, on
        and on."""
        before, fd = self._masks.get(served, 0), served.fileno()
        self._masks[served] = mask
        if mask == before:
            return
        if not before:
            self._by_fd[fd] = served
            self._epoll.register(fd, mask)
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.unregister(fd)

    def _forget(self, served: Served) -> None:
        with self._lock:
            self._served.discard(served)
        if self._masks.pop(served, 0):
            self._epoll.unregister(served.fileno())
        self._by_fd.pop(served.fileno(), None)
        self._planned.pop(served, None)
