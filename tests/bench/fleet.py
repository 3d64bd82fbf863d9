"""A fleet: python fleet.py [--nodes N] [--rules N] [--reads N] [--readers N]
                        [--database URL [--kill]]

One controller as a user starts it, N light nodes (light.py) with a TLS channel each that report all
of their rules every 2 s. Meanwhile clients read the status of 100 rules at a time over HTTP. Prints
the figures as JSON: how long the controller took to reach all nodes, standings heard a second, the
times of the reads in milliseconds, memory and CPU of the controller. With --kill another controller
waits at the same database (PostgreSQL's); the first is killed, and the figures say how long it took
until the second drove, until it had heard of half of the rules, and of all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from light import address
from sqlalchemy import select

from i2node.config import ControllerConfig
from i2node.controller.form import Form
from i2node.controller.server import Office
from i2node.controller.store.tables import Node, User
from i2node.controller.tokens import Caller
from i2node.net.identity import Identity

PORT = 26_821
EVERY_S = 2.0
OF_A_READ = 100
PATIENCE_S = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client:
    """One connection to the API, kept."""

    def __init__(self, port: int, token: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._token = token

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": self._token, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        self._connection.request(method, f"/api{path}", data, headers)
        told: dict[str, Any] = json.loads(self._connection.getresponse().read())["data"]
        assert told["code"] == 0, told
        return told


def settled(
    home: Path, homes: Path, nodes: int, rules: int, database: str
) -> tuple[int, str, list[str]]:
    """A controller's home with so many nodes, and rules of each; its port, its password, the uuids
    of the rules."""
    etc = home / "etc" / "controller"
    etc.mkdir(parents=True)
    port = free_port()
    text = f'http_port = {port}\nhttps_port = 0\nenroll_port = 0\nlisten_host = "127.0.0.1"\n'
    more = f'database = "{database}"\n' if database else ""
    (etc / "controller.toml").write_text(text + more)
    config = ControllerConfig.load(home)
    made = []
    with Office.open(config) as office:
        password = office.found_administrator(None)
        assert password is not None
        own = Identity.load(config.etc)
        with office.database.writing() as session:
            user = session.scalars(select(User)).one()
            for number in range(nodes):
                identity = Identity.load(homes / f"{number:05}" / "etc")
                own.trust(identity.cert_pem, name=f"node{number}")
                made.append(str(uuid.uuid4()).upper())
                session.add(_row(user, number, made[-1], identity.node_id))
        return port, password, protected(office, user, made, rules)


def _row(user: User, number: int, name: str, peer: str) -> Node:
    where = address(number)
    return Node(
        uuid=name,
        name=f"node{number}",
        random_str=str(uuid.uuid4()),
        user_id=user.id,
        created=1,
        updated=1,
        config_addr=where,
        config_port=PORT,
        data_addr=where,
        peer=peer,
        fields={},
    )


def protected(office: Office, user: User, nodes: list[str], rules: int) -> list[str]:
    """Makes so many rules for each node, from it to the next one; gives their uuids."""
    caller = Caller(user.id, user.uuid, user.name)
    made = []
    for number in range(rules * len(nodes)):
        at = number % len(nodes)
        body = {
            "fsp_name": f"rule{number}",
            "wk_uuid": nodes[at],
            "bk_uuid": nodes[(at + 1) % len(nodes)],
            "wk_path": [f"/srv/{number // len(nodes)}/"],
            "bk_path": ["/backup/"],
            "bkup_policy": 2,
            "fsp_type": 3,
            "sync_item": "/",
        }
        made.append(office.desk.protection.create(Form(body, "fsp_backup"), caller))
    return made


def read(port: int, token: str, rules: list[str], count: int) -> list[float]:
    """Seconds of so many reads of 100 rules each, one after the other."""
    client, took = Client(port, token), []
    for _ in range(count):
        chosen = random.sample(rules, min(OF_A_READ, len(rules)))
        path = "/fsp/backup/status?" + "&".join(f"fsp_uuids[]={one}" for one in chosen)
        began = time.perf_counter()
        told = client.call("GET", path)["status"]
        took.append(time.perf_counter() - began)
        assert len(told) == len(chosen) and {one["status"] for one in told} == {"MIRROR"}, told[:3]
    return took


def used(pid: int) -> tuple[float, int]:
    """CPU seconds and bytes of memory of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def done(client: Client, rules: list[str]) -> dict[str, int]:
    """Bytes that each rule tells to have done; of those that are not under way nothing."""
    found = {}
    for at in range(0, len(rules), OF_A_READ):
        some = "&".join(f"fsp_uuids[]={one}" for one in rules[at : at + OF_A_READ])
        told = client.call("GET", f"/fsp/backup/status?{some}")["status"]
        found |= {one["fsp_uuid"]: one.get("bytes_done") for one in told if "bytes_done" in one}
    return found


def run(given: argparse.Namespace, area: Path) -> dict[str, Any]:
    home, homes = area / "controller", area / "nodes"
    asked = (given.nodes, given.rules, given.database)
    port, password, rules = settled(home, homes, *asked)
    words = [sys.executable, "-m", "i2node", "--home", str(home), "controller"]
    light = [sys.executable, str(Path(__file__).with_name("light.py")), str(homes), str(PORT)]
    with (area / "controller.log").open("wb") as log, ExitStack() as held:

        def started(words: list[str], **more: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(words, **more)
            held.callback(process.wait, 60)
            held.callback(process.terminate)
            return process

        controller = started(words, stderr=log)
        fleet = started([*light, str(EVERY_S)], stdout=subprocess.PIPE)
        assert fleet.stdout is not None and fleet.stdout.readline()
        client = connected(port)
        token = client.call("POST", "/auth/token", {"username": "admin", "pwd": password})["token"]
        figures = measured(given, controller.pid, port, token, rules)
        if given.kill:
            other, second_log = free_port(), area / "second.log"
            words = second(home, area / "second", port, other)
            with second_log.open("wb") as log:
                started(words, stderr=log)
            connected(other)
            controller.kill()
            figures |= taken_over(Client(other, token), rules, second_log)
        return figures


def second(home: Path, own: Path, port: int, other: int) -> list[str]:
    """Words that start a controller with the keys and the database of another."""
    shutil.copytree(home / "etc" / "controller", own / "etc" / "controller")
    settings = own / "etc" / "controller" / "controller.toml"
    settings.write_text(settings.read_text().replace(str(port), str(other)))
    return [sys.executable, "-m", "i2node", "--home", str(own), "controller"]


def taken_over(client: Client, rules: list[str], log: Path) -> dict[str, Any]:
    """Seconds since the other was killed, which was now."""
    began, took = time.monotonic(), {}
    before = done(client, rules)
    while len(took) < 3:
        passed = time.monotonic() - began
        assert passed < PATIENCE_S, f"it does not take over: {took}"
        if "drives" not in took and "controller-drives" in log.read_text():
            took["drives"] = round(passed, 1)
        now = done(client, rules)
        news = sum(now.get(rule, 0) != before.get(rule, 0) for rule in rules)
        for name, share in (("heard_of_half", 0.5), ("heard_of_all", 1.0)):
            if "drives" in took and name not in took and news >= share * len(rules):
                took[name] = round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return {"taken_over_s": took}


def connected(port: int) -> Client:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Client(port)
        except OSError:
            assert time.monotonic() < end, "the controller does not listen"
            time.sleep(0.1)


def measured(
    given: argparse.Namespace, pid: int, port: int, token: str, rules: list[str]
) -> dict[str, Any]:
    client = Client(port, token)
    began = time.monotonic()
    while len(done(client, rules)) < len(rules):
        assert time.monotonic() - began < PATIENCE_S, "not all rules are heard of"
        time.sleep(0.5)
    reached = time.monotonic() - began
    cpu, since = used(pid)[0], time.monotonic()
    with ThreadPoolExecutor(given.readers) as pool:
        each = given.reads // given.readers
        futures = [pool.submit(read, port, token, rules, each) for _ in range(given.readers)]
        took = sorted(second for future in futures for second in future.result())
    spent = time.monotonic() - since
    now_cpu, memory = used(pid)
    client = Client(port, token)  # one that is idle is closed by the server
    before = done(client, rules)
    time.sleep(2 * EVERY_S)
    after = done(client, rules)
    stale = sum(after.get(rule) == before.get(rule) for rule in rules)
    return {
        "nodes": given.nodes,
        "rules": len(rules),
        "reached_s": round(reached, 1),
        "reads": len(took),
        "readers": given.readers,
        "read_ms": {
            "p50": round(statistics.median(took) * 1000, 1),
            "p99": round(took[int(len(took) * 0.99)] * 1000, 1),
            "max": round(took[-1] * 1000, 1),
        },
        "reads_a_second": round(len(took) / spent, 1),
        "standings_a_second": round(len(rules) / EVERY_S),
        "not_heard_of_for_4_s": stale,
        "controller_cpu_share": round((now_cpu - cpu) / spent, 2),
        "controller_mib": memory >> 20,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--rules", type=int, default=2, help="of each node")
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--database", default="")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--area", type=Path)
    given = parser.parse_args()
    area = Path(tempfile.mkdtemp(prefix="i2node-fleet-", dir=given.area or "/var/tmp"))
    try:
        print(json.dumps(run(given, area)))
    except BaseException:
        print((area / "controller.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        shutil.rmtree(area, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
