"""Signatures of calls: HMAC-SHA256 over method, path, a random number, time and nonce."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 300.0
"""How far a call's time may be from ours; a nonce is not taken twice within it."""
_NONCES = 1 << 18


@dataclass(frozen=True, slots=True)
class Signed:
    """What a call says of itself. path: from /api on, without the query. stamp: seconds since 1970
    as the client wrote them. chance: its argument `_`, "" where it has none."""

    method: str
    path: str
    chance: str
    stamp: str
    nonce: str
    signature: str

    def matches(self, key: str) -> bool:
        """Whether whoever holds the key signed it."""
        told = "\n".join((self.method.upper(), self.path, self.chance, self.stamp, self.nonce))
        want = hmac.new(key.encode(), told.encode(), hashlib.sha256).hexdigest()
        return hmac.compare_digest(want, self.signature.lower())


class Nonces:
    """Those of the last minutes, so that a call that was overheard cannot be made again."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def fresh(self, signed: Signed) -> bool:
        """Whether the call was made now and for the first time; it counts as made then."""
        now = self._clock()
        try:
            made = float(signed.stamp)
        except ValueError:
            return False
        if not abs(made - now) <= WINDOW_S or not signed.nonce or len(signed.nonce) > 128:
            return False
        with self._lock:
            while self._seen and next(iter(self._seen.values())) < now - 2 * WINDOW_S:
                self._seen.popitem(last=False)
            # Full, it refuses: to forget one would let it be used again.
            if signed.nonce in self._seen or len(self._seen) >= _NONCES:
                return False
            self._seen[signed.nonce] = now
            return True
