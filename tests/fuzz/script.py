"""Bytes as orders to make a message: what a fuzzer changes in them changes what is said, and most
of it gets past the first check."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]

_NUMBERS = (0, 1, 2, 7, 13, 16, 64, 255, 4096, 65536, (1 << 31) - 1, 1 << 32, (1 << 63) - 1)
_BYTES = (
    *(b"", b"a", b"a/b", b"dir", b"dir/f", b"file", b"link", b"link/canary", b"up/canary", b".."),
    *(b"../outside", b"/", b"/etc", b"a//b", b".", b"\0", b"n" * 256, b"fifo", b"a/" * 600),
)
_TEXTS = (
    *("", "a", "fresh", "known", "unknown", "protocol", "node", "controller", "\x1b[2J", "n" * 300),
    *("0123456789abcdef", "x" * 64, "x" * 65, "\N{RIGHT-TO-LEFT OVERRIDE}", "a\nb", "\u00e9" * 20),
)


class Script:
    """The orders that are left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def rest(self) -> bytes:
        left, self._at = self._data[self._at :], len(self._data)
        return left

    def raw(self) -> bytes:
        """As many bytes as the next one says."""
        size = self.byte()
        self._at += size
        return self._data[self._at - size : self._at]

    def pick(self, among: Any) -> Any:
        return among[self.byte() % len(among)]

    def value(self, depth: int = 0) -> Any:
        """Anything that a control message can hold."""
        kind = self.byte() % 16
        if kind < 4:
            return self.pick(_BYTES)
        if kind < 7:
            return self.pick(_NUMBERS) * (1 if kind < 6 else -1)
        if kind < 9:
            return self.pick(_TEXTS)
        if kind == 9:
            return self.pick((True, False, None, 0.5))
        if kind == 10:
            return self.raw()
        if kind == 11:
            return self.raw().decode(errors="replace")
        if depth > 4:
            return None
        if kind < 15:
            return [self.value(depth + 1) for _ in range(self.byte() % 6)]
        return {str(self.pick(_TEXTS)): self.value(depth + 1) for _ in range(self.byte() % 3)}

    def message(self, sound: Message) -> Message:
        """A sound one, of which some fields are another value, or not there."""
        made = dict(sound)
        for key in sound:
            order = self.byte() % 4
            if order == 1:
                made[key] = self.value()
            elif order == 2 and self.byte() % 4 == 0:
                del made[key]
        return made
