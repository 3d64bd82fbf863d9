"""A line with a delay and a rate: a TCP relay, since not every kernel has netem.

python wan.py LISTEN TO DELAY_MS RATE   both ends HOST:PORT, the delay one way, bytes a second

Each way is a queue: bytes come out at the rate, and a delay after they came in. What is in the
queue is bounded by what the line holds and a buffer of a tenth of a second, as in a router.
"""

from __future__ import annotations

import asyncio
import sys
import time

CHUNK = 16 << 10


class Way:
    """One direction of the line, which all connections share."""

    def __init__(self, delay: float, rate: float) -> None:
        self.delay = delay
        self.rate = rate
        self._free = 0.0

    def due(self, size: int) -> float:
        """When the last of so many bytes comes out."""
        self._free = max(self._free, time.monotonic()) + size / self.rate
        return self._free + self.delay


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(
        max(4, int(way.rate * (way.delay + 0.1) / CHUNK))
    )

    async def out() -> None:
        while True:
            due, data = await queue.get()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    sending = asyncio.create_task(out())
    while True:
        data = await reader.read(CHUNK)
        await queue.put((way.due(len(data)), data))
        if not data:
            break
    await sending


async def _serve(listen: str, to: str, delay: float, rate: float) -> None:
    there, back = Way(delay, rate), Way(delay, rate)

    async def accepted(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        host, port = to.rsplit(":", 1)
        await asyncio.sleep(2 * delay)  # the handshake
        far_in, far_out = await asyncio.open_connection(host, int(port))
        ways = (_carry(near_in, far_out, there), _carry(far_in, near_out, back))
        await asyncio.gather(*ways, return_exceptions=True)
        near_out.close()
        far_out.close()

    host, port = listen.rsplit(":", 1)
    server = await asyncio.start_server(accepted, host, int(port), limit=4 * CHUNK)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4])))
