"""Questions that may never be answered (a dead file server, a host that swallows packets), asked
side by side and given up in time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Told = TypeVar("Told")
AT_ONCE = 256


def beside(calls: Sequence[Callable[[], Told]], seconds: float) -> list[Told | None]:
    """What each gives, None where it has not come in time: so many seconds, for each AT_ONCE of
    them. The thread of one that hangs stays as long as the kernel holds it, and ends with the
    process. Raises what a call raises."""
    due: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, Told | None, BaseException | None]] = queue.SimpleQueue()
    for number in range(len(calls)):
        due.put(number)

    def work() -> None:
        while True:
            try:
                number = due.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((number, calls[number](), None))
            except BaseException as error:
                ended.put((number, None, error))

    for _ in calls[:AT_ONCE]:
        threading.Thread(target=work, name="checkup", daemon=True).start()
    found: list[Told | None] = [None] * len(calls)
    until = time.monotonic() + seconds * -(-len(calls) // AT_ONCE)
    for _ in calls:
        try:
            number, told, error = ended.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if error is not None:
            raise error
        found[number] = told
    return found
