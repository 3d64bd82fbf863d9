"""A controller and two nodes on this machine: register, protect, change, compare, finish. Started
by `make demo`.

Real processes throughout, each with a home of its own and a free port of the loopback device: the
management server, and the agents of a work node and a backup node. All that is wanted of them goes
through the server's HTTP API, as a client of it would do it. Without --source the source is a copy
of the Python standard library, so that live changes can be made to it; a source that is given is
only read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import witness

PATIENCE_S = 120.0
"""How long anything may take that is not the first mirror itself."""


class Failed(Exception):
    """The demo did not prove what it is there to prove."""


def say(text: str) -> None:
    print(text, flush=True)


def command(home: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "i2node", "--home", str(home), *map(str, words)]


def answer(home: Path, *words: object, said: str = "") -> str:
    """What a command prints when that is said to it; Failed with what it says when it does not
    succeed."""
    done = subprocess.run(
        command(home, *words), input=said, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(
            f"i2node {words[0]}: exit status {done.returncode}\n{done.stderr}{done.stdout}"
        )
    return done.stdout.strip()


def wait_for(what: str, holds: Callable[[], bool], alive: subprocess.Popen[Any]) -> float:
    """Seconds until the condition held; Failed when the process ends or patience does."""
    begin = time.monotonic()
    while not holds():
        if alive.poll() is not None:
            raise Failed(f"waited for {what}: the process ended with status {alive.returncode}")
        if time.monotonic() - begin > PATIENCE_S:
            raise Failed(f"waited for {what}: not within {PATIENCE_S:.0f} s")
        time.sleep(0.005)
    return time.monotonic() - begin


class Api:
    """The management server's, as somebody who is logged in sees it."""

    def __init__(self, port: int, password: str) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self._token = ""
        self._token = self.call("POST", "/auth/token", username="admin", pwd=password)["token"]

    def call(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        """A call's payload; Failed with what the server says when it refuses. The values of GET are
        written behind the path."""
        request = urllib.request.Request(
            self.url + path,
            None if method == "GET" else json.dumps(values).encode(),
            {"Authorization": self._token, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as given:
                data: dict[str, Any] = json.load(given)["data"]
        except OSError as error:
            raise Failed(f"{method} {path}: {error}") from error
        if data["code"] != 0:
            raise Failed(f"{method} {path}: {data['message']}")
        return data

    def status(self, rule: str) -> dict[str, Any]:
        """How a rule stands; empty: nothing is known of it."""
        told = self.call("GET", f"/fsp/backup/status?fsp_uuids[]={rule}")["status"]
        return told[0] if told else {}

    def operate(self, verb: str, rule: str) -> None:
        """start, stop or finish."""
        self.call("POST", "/fsp/backup/operate", operate=verb, fsp_uuids=[rule])


@contextlib.contextmanager
def process(words: list[str], log: Path, **more: Any) -> Iterator[subprocess.Popen[Any]]:
    """A child in a session of its own, so that Ctrl-C comes to it through us, once, in order."""
    with log.open("wb") as stream:
        child = subprocess.Popen(words, stderr=stream, start_new_session=True, **more)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def library(area: Path) -> Path:
    """A copy of the standard library: real files, and nobody minds when they change."""
    source = area / "source"
    leave = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "*.so", "*.a")
    shutil.copytree(sysconfig.get_path("stdlib"), source, symlinks=True, ignore=leave)
    return source


def live_changes(source: Path, target: Path, mirror: subprocess.Popen[Any]) -> float:
    """Makes one change of each kind and waits until the target has it; the slowest, in seconds."""
    scratch = "i2node demo"
    (source / scratch / "old").mkdir(parents=True)
    for number in range(100):
        (source / scratch / "old" / f"{number:03}").write_text(f"file {number}\n")
    new, target_new = source / scratch / "new file", target / scratch / "new file"

    def content(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    def create() -> None:
        new.write_bytes(b"created\n")

    def append() -> None:
        with new.open("ab") as stream:
            stream.write(b"appended\n")

    def rename() -> None:
        (source / scratch / "old").rename(source / scratch / "renamed")

    ready = target / scratch / "old" / "099"
    wait_for("the demo's directory", lambda: content(ready) == b"file 99\n", mirror)
    moved = target / scratch / "renamed"
    steps: list[tuple[str, Callable[[], None], Callable[[], bool]]] = [
        ("create a file", create, lambda: content(target_new) == b"created\n"),
        ("append to it", append, lambda: content(target_new) == b"created\nappended\n"),
        (
            "rename a directory of 100 files",
            rename,
            lambda: not ready.parent.exists() and content(moved / "099") == b"file 99\n",
        ),
        ("delete the file", new.unlink, lambda: not target_new.exists()),
    ]
    slowest = 0.0
    for what, change, arrived in steps:
        change()
        took = wait_for(what, arrived, mirror)
        slowest = max(slowest, took)
        say(f"  {what}: on the target after {took * 1000:,.0f} ms")
    return slowest


def in_sync(home: Path) -> bool:
    """What the work node says of itself at this moment."""
    rules = json.loads(answer(home, "status", "--json"))
    return bool(rules) and all(rule["in_sync"] for rule in rules)


def compared(home: Path, source: Path, place: str, target: Path, agent: Any) -> int:
    """How many paths both trees have; Failed when they differ. A source that others write to is
    looked at a few times, since a change may always be on its way."""
    for _ in range(5):
        wait_for("both sides in sync", lambda: in_sync(home), agent)
        words = command(home, "compare", source, place, "--strict")
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode not in (0, 1):
            raise Failed(f"i2node compare: exit status {told.returncode}\n{told.stderr}")
        paths, found = witness.differences(source, target)
        if told.returncode == 0 and not found:
            return paths
    shown = "\n".join(f"  {what}: {path!r}" for path, what in found[:10])
    raise Failed(f"i2node compare: {told.stdout}\nthe demo's own: {len(found)} differ\n{shown}")


@contextlib.contextmanager
def node(area: Path, name: str, *words: object) -> Iterator[tuple[Path, int, Any]]:
    """An agent: its home, its port, its process."""
    home, port = area / f"home-of-{name}", free_port()
    listen = ("agent", "--listen", f"127.0.0.1:{port}", *words)
    with process(command(home, *listen), area / f"{name}.log") as agent:
        wait_for(f"the agent of the {name}", lambda: answers(port), agent)
        yield home, port, agent


@contextlib.contextmanager
def controller(area: Path) -> Iterator[tuple[Api, str]]:
    """A management server, and its administrator's password."""
    home, port = area / "home-of-controller", free_port()
    etc = home / "etc" / "controller"
    etc.mkdir(parents=True)
    ports = {"http_port": port, "https_port": free_port(), "enroll_port": free_port()}
    host = 'listen_host = "127.0.0.1"\n'
    text = host + "".join(f"{key} = {value}\n" for key, value in ports.items())
    (etc / "controller.toml").write_text(text)
    password = area / "password"
    password.touch(mode=0o600)
    password.write_text(made := secrets.token_urlsafe(12))
    words = command(home, "controller", "--password-file", password)
    with process(words, area / "controller.log") as server:
        wait_for("the controller", lambda: answers(port), server)
        yield Api(port, made), made


def registered(api: Api, name: str, home: Path, port: int) -> str:
    """Registers a node by its code; gives its uuid."""
    fields = {"node_name": name, "config_addr": "127.0.0.1", "config_port": str(port)}
    api.call("POST", "/node", node={**fields, "i2id": answer(home, "code")})
    found = [one for one in api.call("GET", "/node")["info_list"] if one["node_name"] == name]
    return str(found[0]["node_uuid"])


def protected(api: Api, work: str, backup: str, source: Path, base: Path) -> str:
    """Makes the rule; gives its uuid."""
    rule = {"fsp_name": "demo", "wk_uuid": work, "bk_uuid": backup, "encrypt_switch": "0"}
    paths = {"wk_path": [f"{source}/"], "bk_path": [f"{base}/"], "excl_path": [], "sync_item": "/"}
    more = {"bkup_policy": 2, "fsp_type": 3, "mirr_sync_flag": "1", "compress": "1"}
    api.call("POST", "/fsp/backup", fsp_backup=rule | paths | more)
    return str(api.call("GET", "/fsp/backup")["info_list"][0]["fsp_uuid"])


def demo(area: Path, given_source: Path | None, given_target: Path | None, keep: bool) -> None:
    source = given_source or library(area)
    base = given_target or area / "backups"
    base.mkdir(parents=True, exist_ok=True)
    with (
        controller(area) as (api, password),
        node(area, "work") as (work_home, work_port, work),
        node(area, "backup") as (backup_home, backup_port, _),
    ):
        say(f"controller at {api.url}, work node on port {work_port}, backup on {backup_port}")
        work_id = registered(api, "work", work_home, work_port)
        backup_id = registered(api, "backup", backup_home, backup_port)
        begin = time.monotonic()
        rule = protected(api, work_id, backup_id, source, base)
        say(f"rule {rule} protects {source} in {base}")
        mirrored(api, rule, work)
        wait_for("both sides in sync", lambda: in_sync(work_home), work)
        took = time.monotonic() - begin
        told = api.status(rule)
        target = run_of(base) / str(source).lstrip("/")
        place = f"127.0.0.1:{backup_port}:{target}"
        if given_source is None:
            say("live changes:")
            slowest = live_changes(source, target, work)
            live = f"each of 4 live changes was there within {slowest * 1000:,.0f} ms"
        else:
            live = "no live changes were made: the source is yours"
        paths = compared(work_home, source, place, target, work)
        if keep:
            say(f"\nIt goes on until Ctrl-C. The API: {api.url}, user admin, password {password}")
            say(f"Look: i2node --home {work_home} status")
            work.wait()
        api.operate("finish", rule)
        wait_for("the rule to finish", lambda: api.status(rule)["status"] == "FINISH", work)
        _, left = witness.differences(source, target)
        if left and given_source is None:
            raise Failed(f"finished, and {len(left)} paths differ: {left[:3]}")
        say("")
        say(
            f"1. The first mirror of {told['files_total']:,} files and "
            f"{told['bytes_total'] / 2**20:,.1f} MiB took {took:.1f} s, "
            f"{told['bytes_sent'] / 2**20:,.1f} MiB on the wire."
        )
        say(f"2. Replication: {live}.")
        say(
            f"3. Both trees are equal in all {paths:,} paths: content, mode, owner, times, "
            "links and attributes, by i2node compare and by a comparison of the demo's own."
        )
        say(f"4. Finished: the tree in {target} is complete, and stays as it is.")
        say("")
        say(
            f"The API was at {api.url}, and is described at /api/docs. To go on: `make demo KEEP=1`"
        )
        say("leaves it all running; `i2node controller` starts one of your own, to which")
        say("`i2node enroll` adds nodes.")


def mirrored(api: Api, rule: str, work: subprocess.Popen[Any]) -> None:
    """Shows the first mirror until it is over, for as long as it moves."""
    seen: list[dict[str, Any]] = [{}]

    def moved() -> bool:
        told = api.status(rule)
        if told.get("status") == "STOP":
            raise Failed(f"the rule stopped: {told.get('cause')}")
        keys = ("status", "progress", "files_done", "bytes_sent")
        if [told.get(key) for key in keys] == [seen[0].get(key) for key in keys]:
            return False
        seen[0] = told
        return True

    while seen[0].get("status") != "REPLICATION":
        wait_for("the first mirror to move", moved, work)
        told = seen[0]
        if "bytes_total" in told:
            say(
                f"  {told['status']}: {told.get('progress', 100):3.0f} %  "
                f"{told['files_done']:,} of {told['files_total']:,} files, "
                f"{told['bytes_done'] / 2**20:,.1f} of {told['bytes_total'] / 2**20:,.1f} MiB"
            )


def run_of(base: Path) -> Path:
    """The directory of the newest run: <base>/<address>_<port>/<time at which it began>."""
    return max(base.glob("127.0.0.1_*/" + "[0-9]" * 14), key=lambda path: path.name)


def main() -> int:
    parser = argparse.ArgumentParser(description="A controller, two nodes, a mirror, a proof.")
    parser.add_argument(
        "--source", type=Path, help="only read; default: a copy of Python's library"
    )
    parser.add_argument(
        "--target", type=Path, help="holds the backups, and stays when the demo ends"
    )
    parser.add_argument("--keep", action="store_true", help="go on until Ctrl-C")
    given = parser.parse_args()
    source = given.source and given.source.absolute()
    target = given.target and given.target.absolute()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts what runs in its background with that one ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    # Not in /tmp, which may be memory.
    area = Path(tempfile.mkdtemp(prefix="i2node-demo-", dir="/var/tmp"))
    try:
        demo(area, source, target, given.keep)
    except KeyboardInterrupt:
        say("\nstopped")
    except Failed as failure:
        say(f"FAILED: {failure}")
        for log in sorted(area.glob("*.log")):
            tail = log.read_text(errors="backslashreplace").splitlines()[-15:]
            say("\n".join([f"--- {log.name}", *tail]))
        return 1
    finally:
        shutil.rmtree(area, ignore_errors=True)
    if target:
        say(f"The backup stays in {target}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
