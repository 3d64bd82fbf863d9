"""A target that works as it should, except for what it says: one message, once, is another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from i2node.net.channel import Channel
from i2node.net.identity import Identity
from i2node.net.transport import Listener
from i2node.repl.ledger import Ledger
from i2node.repl.receiver import Receiver

Message = dict[str, Any]
Lie = Callable[[Message], Iterator[Message]]
"""What is said instead of a message, in its order."""


class Liar:
    """Listens on a free port. `lie` is told once, in place of the next message named `at`."""

    def __init__(self, home: Path, root: Path) -> None:
        self.identity = Identity.load(home / "etc")
        self.sessions = 0
        self.believed_in = 0
        """The session in which the last lie was told."""
        self._home = home
        self._root = root
        self._ledger = Ledger(home / "targets")
        self._lock = threading.Lock()
        self._at = ""
        self._lie: Lie | None = None
        self._listener = Listener("127.0.0.1", 0, self.identity, on_channel=self._serve)
        self._listener.start()
        self.port = self._listener.port

    def lie(self, at: str, lie: Lie) -> None:
        with self._lock:
            self._at, self._lie = at, lie

    def found_out(self) -> bool:
        """Whether it lied, and the source came back in another session since."""
        return not self._at and self.sessions > self.believed_in

    def cut(self) -> None:
        """Every session ends, as if by the network."""
        for channel in list(self._listener._channels):
            channel.close()

    def say(self, message: Message) -> Iterator[Message]:
        with self._lock:
            lie = self._lie if message["t"] == self._at else None
            if lie is not None:
                self._at = ""
                self.believed_in = self.sessions
        return iter([message]) if lie is None else lie(message)

    def close(self) -> None:
        self._listener.close()

    def _serve(self, channel: Channel) -> None:
        self.sessions += 1
        mouth = cast(Channel, _Mouth(channel, self))
        Receiver(mouth, self._ledger, self._home, [self._root], 0.05).run()


class _Mouth:
    """A channel of which what is sent goes past the liar."""

    def __init__(self, channel: Channel, liar: Liar) -> None:
        self._channel = channel
        self._liar = liar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def send(self, message: Message) -> None:
        for said in self._liar.say(message):
            self._channel.send(said)
