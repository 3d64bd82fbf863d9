"""A controller's calls over HTTP in this process, where a test says what the nodes say."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import uvicorn
from console import PASSWORD, Console
from ruled import Ground

from i2node.config import ControllerConfig
from i2node.controller.app import app_of
from i2node.controller.board import Board
from i2node.controller.seal import Vault
from i2node.controller.server import Office
from i2node.controller.store.heard import Heard


@dataclass
class Served:
    """The calls, and what stands behind them."""

    console: Console
    ground: Ground
    heard: Heard

    def data(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return self.console.data(method, path, body)


@contextmanager
def served(home: Path) -> Iterator[Served]:
    """Logged in."""
    config = ControllerConfig.load(home)
    with Office.open(config) as office:
        ground = Ground(office.database, Vault(config.etc / "vault.key"))
        heard = Heard(office.database)
        board = Board(ground.rules, ground.fleet)
        office.accounts.change("admin", PASSWORD)
        desk = replace(office.desk, protection=ground.protection, board=board)
        server = uvicorn.Server(
            uvicorn.Config(app_of(desk), host="127.0.0.1", port=0, log_config=None)
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        console = Console(home, home / "log", cast(Any, None), port, 0, 0)
        console.log_in()
        try:
            yield Served(console, ground, heard)
        finally:
            server.should_exit = True
            thread.join()


def recorded() -> list[dict[str, Any]]:
    """The calls that were recorded of a console, in their order: method, path, sent, answer. In
    braces stands what differs from one to another: {wk}, {bk}, {user}, {rule}, {token}."""
    place = Path(__file__).parents[1] / "data" / "console" / "fsp-backup.json"
    found: list[dict[str, Any]] = json.loads(place.read_text())
    return found


def filled(value: Any, names: dict[str, str]) -> Any:
    """With what stands in braces replaced."""
    if isinstance(value, dict):
        return {key: filled(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, names) for one in value]
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], value)
    return value


BESIDE = {
    *("cause", "remedy", "blocked_on", "since", "run", "passes", "restore_point", "next_run"),
    *("files_total", "files_done", "bytes_total", "bytes_done", "bytes_sent", "rate", "dirty"),
    *("in_flight", "lag_s", "eta_s", "problems", "in_sync", "not_mirrored"),
    *("bk_disk_free_bytes", "bk_disk_need_bytes", "estimated"),
}
"""What is told more than was recorded."""


def misfits(told: Any, recorded: Any, where: str = "data") -> Iterator[str]:
    """Where an answer is of another shape than that recorded: keys, but for those beside, types, an
    empty list that was none. Lists may be of other lengths, their items are of one shape."""
    if type(told) is not type(recorded):
        yield f"{where} is {told!r}, recorded was {recorded!r}"
    elif isinstance(recorded, dict):
        for key in recorded.keys() ^ told.keys():
            if key in recorded or key not in BESIDE:
                yield f"{where}.{key} is on one side alone"
        for key in recorded.keys() & told.keys():
            yield from misfits(told[key], recorded[key], f"{where}.{key}")
    elif isinstance(recorded, list) and recorded:
        if not told:
            yield f"{where} is empty, recorded was {recorded!r}"
        for one in told:
            yield from misfits(one, recorded[0], f"{where}[]")
