"""Two nodes on this machine: pair, mirror, change, compare. Started by `make demo`.

Real processes throughout: a target agent on a free port of the loopback device with a home of its
own, and `i2node mirror` with another home, paired with it by code. Without --source the source is a
copy of the Python standard library, so that live changes can be made to it; a source that is given
is only read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
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


class Feed(threading.Thread):
    """Reads the JSON lines of the mirror, shows the progress, keeps the last picture."""

    def __init__(self, mirror: subprocess.Popen[str]) -> None:
        super().__init__(name="feed", daemon=True)
        self._mirror = mirror
        self._terminal = sys.stdout.isatty()
        self.picture: dict[str, Any] = {}
        self.done: dict[str, Any] = {}

    def run(self) -> None:
        assert self._mirror.stdout is not None
        for text in self._mirror.stdout:
            line = json.loads(text)
            if line["t"] in ("state", "progress"):
                self.picture = {**self.picture, **line}
                if line["t"] == "progress" and line["state"] == "MIRROR":
                    self._show(line)
            elif line["t"] == "done":
                self.done = line
            else:
                say("  " + " ".join(f"{key}={value}" for key, value in line.items()))

    def _show(self, line: dict[str, Any]) -> None:
        eta = line["eta_s"]
        say(
            f"  {line['phase'] or 'mirror'}: {line['progress']:3.0f} %  "
            f"{line['files_done']:,} of {line['files_total']:,} files, "
            f"{line['bytes_done'] / 2**20:,.1f} of {line['bytes_total'] / 2**20:,.1f} MiB, "
            f"{line['rate'] / 2**20:,.1f} MiB/s" + (f", {eta:.0f} s left" if eta else "")
        )

    def amounts(self) -> list[object]:
        """What grows while the first mirror moves."""
        keys = ("phase", "files_total", "files_done", "bytes_done", "bytes_sent")
        return [self.picture.get(key) for key in keys]

    def in_sync(self) -> bool:
        return bool(self.picture.get("in_sync")) and self.picture.get("state") == "REPLICATION"


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
    """What the mirror says of itself at this moment; the lines of its feed are a little older."""
    rules = json.loads(answer(home, "status", "--json"))
    return bool(rules) and all(rule["in_sync"] for rule in rules)


def compared(home: Path, source: Path, place: str, target: Path, mirror: Any) -> int:
    """How many paths both trees have; Failed when they differ. A source that others write to is
    looked at a few times, since a change may always be on its way."""
    for _ in range(5):
        wait_for("both sides in sync", lambda: in_sync(home), mirror)
        words = command(home, "compare", source, place, "--strict")
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        if told.returncode not in (0, 1):
            raise Failed(f"i2node compare: exit status {told.returncode}\n{told.stderr}")
        paths, found = witness.differences(source, target)
        if told.returncode == 0 and not found:
            return paths
    shown = "\n".join(f"  {what}: {path!r}" for path, what in found[:10])
    raise Failed(f"i2node compare: {told.stdout}\nthe demo's own: {len(found)} differ\n{shown}")


def demo(area: Path, given_source: Path | None, given_target: Path | None, keep: bool) -> None:
    here, there = area / "home-of-source", area / "home-of-target"
    target = given_target or area / "target" / "mirror"
    target.parent.mkdir(parents=True, exist_ok=True)
    source = given_source or library(area)
    port = free_port()
    place = f"127.0.0.1:{port}:{target}"

    code = answer(there, "code")
    words = ("agent", "--listen", f"127.0.0.1:{port}", "--allow-root", target.parent)
    with process(command(there, *words), area / "agent.log") as agent:
        wait_for("the target's agent", lambda: answers(port), agent)
        say(f"target agent on port {port}; " + answer(here, "pair", f"127.0.0.1:{port}", said=code))
        say(f"mirror {source} -> {place}")
        begin = time.monotonic()
        mirror_words = command(here, "mirror", source, place, "--json")
        with process(
            mirror_words, area / "mirror.log", stdout=subprocess.PIPE, text=True
        ) as mirror:
            feed = Feed(mirror)
            feed.start()
            first(feed, mirror)
            took = time.monotonic() - begin
            picture = feed.picture
            if given_source is None:
                say("live changes:")
                slowest = live_changes(source, target, mirror)
                live = f"each of 4 live changes was there within {slowest * 1000:,.0f} ms"
            else:
                live = "no live changes were made: the source is yours"
            paths = compared(here, source, place, target, mirror)
            say("")
            say(
                f"1. The first mirror of {picture['files_total']:,} files and "
                f"{picture['bytes_total'] / 2**20:,.1f} MiB took {took:.1f} s, "
                f"{picture['bytes_sent'] / 2**20:,.1f} MiB on the wire."
            )
            say(f"2. Replication: {live}.")
            say(
                f"3. Both trees are equal in all {paths:,} paths: content, mode, owner, times, "
                "links and attributes, by i2node compare and by a comparison of the demo's own."
            )
            if keep:
                say(f"\nIt goes on until Ctrl-C. Look: i2node --home {here} status")
                mirror.wait()
            mirror.send_signal(signal.SIGINT)
            mirror.wait(PATIENCE_S)
            feed.join(PATIENCE_S)
            if mirror.returncode != 0:
                raise Failed(f"the mirror ended with status {mirror.returncode}")


def first(feed: Feed, mirror: subprocess.Popen[Any]) -> None:
    """Waits for the first mirror, for as long as it moves."""
    while not feed.in_sync():
        seen = feed.amounts()
        wait_for(
            "the first mirror to move",
            lambda seen=seen: feed.in_sync() or feed.amounts() != seen,
            mirror,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Two nodes on this machine, a mirror, a proof.")
    parser.add_argument(
        "--source", type=Path, help="only read; default: a copy of Python's library"
    )
    parser.add_argument("--target", type=Path, help="stays when the demo ends")
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
        say(f"The mirror stays in {target}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
