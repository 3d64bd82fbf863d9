"""Light nodes for a fleet: no trees and no sessions, but a TLS channel each on an address of its
own, and reports of rules that are under way, as node.govern sends them.

    python light.py HOMES PORT EVERY_S      HOMES: a directory of directories, one for each node

Node number n listens on 127.1.(n / 250).(n % 250 + 1). A line `ready` says that all do.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from i2node import __version__
from i2node.model import State
from i2node.net.identity import Identity
from i2node.net.wire import PROTOCOL, decode_message, encode_message, message_length
from i2node.node.summary import tally
from i2node.orders import Charge, Gathered, Standing, plain, unpacked
from i2node.repl.report import RuleReport

PASS_S = 600.0


def address(number: int) -> str:
    """Where node `number` listens."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


class LightNode:
    """One node: serves each connection until it ends."""

    def __init__(self, identity: Identity, number: int, every_s: float) -> None:
        self._identity = identity
        self._number = number
        self._every_s = every_s
        self._charges: tuple[Charge, ...] = ()
        self._began = time.time() - number % PASS_S

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told: asyncio.Task[None] | None = None
        gathered = Gathered()
        try:
            await self._greet(reader, writer)
            await self._take(await _read(reader), gathered, writer)  # that it governs
            told = asyncio.create_task(self._tell(writer))
            while True:
                await self._take(await _read(reader), gathered, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if told is not None:
                told.cancel()
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"t": "hello", "protocol": list(PROTOCOL), "version": __version__}
        keys = {"t": "keys", "random": secrets.token_bytes(32), "session": secrets.token_bytes(16)}
        assert (await _read(reader))["t"] == "hello"
        _write(writer, {**hello, "features": [], "node": self._identity.node_id})
        assert (await _read(reader))["t"] == "keys"
        _write(writer, keys)

    async def _take(
        self, message: dict[str, Any], gathered: Gathered, writer: asyncio.StreamWriter
    ) -> None:
        if message["t"] == "govern":
            _write(writer, {"t": "governed", "number": 0})
        elif message["t"] == "orders":
            body = gathered.take(message)
            if body is not None:
                orders = unpacked(body)
                self._charges = orders.charges
                _write(writer, {"t": "held", "number": orders.number, "refused": []})
        elif message["t"] == "ask":
            _write(writer, {"t": "answer", "id": message["id"], "value": {"services": ["sshd"]}})

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._number % 100 / 100 * self._every_s)
        while True:
            _write(writer, {"t": "beat"})
            if self._charges:
                rules = [plain(self._standing(charge)) for charge in self._charges]
                _write(writer, {"t": "standings", "rules": rules})
            await writer.drain()
            await asyncio.sleep(self._every_s)

    def _standing(self, charge: Charge) -> Standing:
        done = (time.time() - self._began) % PASS_S / PASS_S
        report = RuleReport(
            rule=charge.rule[:16],
            source=charge.parts[0].source,
            target=charge.base,
            state=State.MIRROR,
            phase="mirror",
            pid=self._number,
            since=self._began,
            progress=round(done * 100, 1),
            files_total=100_000,
            files_done=int(done * 100_000),
            bytes_total=10**10,
            bytes_done=int(done * 10**10),
            bytes_sent=int(done * 10**10),
            rate=10**8,
        )
        return Standing(
            rule=charge.rule,
            version=charge.version,
            run=charge.run,
            state=State.MIRROR,
            since=self._began,
            progress=int(done * 100),
            stamp="20260101000000",
            tally=tally((report,)),
        )


async def _read(reader: asyncio.StreamReader) -> dict[str, Any]:
    size = message_length(await reader.readexactly(4))
    return decode_message(await reader.readexactly(size))


def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(encode_message(message))


async def main(homes: Path, port: int, every_s: float) -> None:
    for home in sorted(homes.iterdir()):
        identity = Identity.load(home / "etc")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(identity.key_file)
        node = LightNode(identity, int(home.name), every_s)
        where = address(int(home.name))
        await asyncio.start_server(node.serve, where, port, ssl=context, backlog=16)
    print(json.dumps("ready"), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
