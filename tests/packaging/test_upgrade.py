"""A node is upgraded while it mirrors, to both sides, and goes on where it was. A release that
would misread the state of the newer one does not take its place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rpmroot import QUERY, Machine, packages, until

from i2node.net.identity import Identity
from i2node.orders import Charge, Orders, Part, Want, plain

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="installs packages: needs root"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not to be had here"),
]
INIT = "/etc/rc.d/init.d/i2node"
RULE = "A1B2C3D4-0000-4000-8000-000000000001"
HOST, PORT, PEER_PORT = "127.0.0.1", 26821, 26822
FILES, SIZE = 200, 50_000
PAUSE_S = 0.1
LATER = "99.0"


class Node(Machine):
    """The service of a package, a peer of the release before that keeps what it sends, and a source
    of that release that sends to it."""

    def __init__(self, area: Path) -> None:
        self._begun: list[subprocess.Popen[bytes]] = []
        super().__init__(area)

    def installs(self, package: Path) -> None:
        self.rpm("-i", "--nodeps", *self.takes([package]))
        self.does("mkdir", "-p", "/srv/backup", "/srv/room")
        for name in ("ours", "theirs"):
            for number in range(FILES):
                path = self.sees(f"srv/{name}/d{number % 7}/f{number}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(os.urandom(SIZE))
        # The peers' program is their own: they are other hosts.
        self.does("cp", "-a", "/usr/local/sdata/i2node", "/srv/before")
        self.configure("etc/sdata", PORT, "/srv/backup")
        self.configure("srv/peer/etc", PEER_PORT, "/srv/room")
        own, peer = (Identity.load(self.sees(at)) for at in ("etc/sdata", "srv/peer/etc"))
        own.trust(peer.cert_pem)
        peer.trust(own.cert_pem)
        charge = Charge(
            rule=RULE,
            version="1",
            name="ours",
            want=Want.RUN,
            host=HOST,
            port=PEER_PORT,
            peer=peer.node_id,
            certificate=peer.cert_pem,
            base="/srv/room/kept",
            parts=(Part(source="/srv/ours"),),
        )
        orders = plain(Orders(number=1, charges=(charge,)))
        kept = {"controller": "none", "orders": orders}
        self.sees("var/i2data/orders.json").write_text(json.dumps(kept))

    def configure(self, etc: str, port: int, root: str) -> None:
        text = f'listen_host = "{HOST}"\nlisten_port = {port}\nallow_roots = ["{root}"]\n'
        self.sees(etc).mkdir(parents=True, exist_ok=True)
        (self.sees(etc) / "i2node.toml").write_text(text)

    def begins(self) -> None:
        before = ["/srv/before/bin/python", "-I", "-m", "i2node", "--home", "/srv/peer"]
        self.goes_on("peer", *before, "agent")
        to = f"{HOST}:{PORT}:/srv/backup/theirs"
        self.goes_on("source", *before, "mirror", "/srv/theirs", to, "--json")
        self.does(INIT, "start")

    def goes_on(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """A command that is not waited for; what it says is in its log."""
        words = (*self._inside, *words)
        with self.sees(f"srv/{name}.log").open("wb") as log:
            begun = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._begun.append(begun)
        return begun

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        for begun in self._begun:
            begun.wait(60)

    def sources(self) -> dict[str, dict[str, Any]]:
        """By source, both rules as they stand where they are sent from."""
        homes = ((), ("--home", "/srv/peer"))
        asked = [self.tries("i2node", *home, "status", "--json") for home in homes]
        found = [one for done in asked if done.returncode == 0 for one in json.loads(done.stdout)]
        return {one["source"]: one for one in found if one["side"] == "source"}

    def in_sync(self) -> dict[str, dict[str, Any]]:
        def holds() -> bool:
            told = self.sources()
            return len(told) == 2 and all(one["in_sync"] for one in told.values())

        until("both rules are in sync", holds)
        return self.sources()

    def alike(self) -> None:
        (run,) = self.sees("srv/room/kept").iterdir()
        stamp = run.name
        for source, copy in (
            ("/srv/ours", f"/srv/room/kept/{stamp}/srv/ours"),
            ("/srv/theirs", "/srv/backup/theirs"),
        ):
            assert self.does("rsync", "-rlptgoDni", "--delete", f"{source}/", f"{copy}/") == ""

    def changes(self, number: int) -> None:
        """A file of each that is new, one that is other, one that goes."""
        for name in ("ours", "theirs"):
            self.sees(f"srv/{name}/d0/new{number}").write_text("new")
            self.sees(f"srv/{name}/d1/f1").write_text(f"other {number}")
            self.sees(f"srv/{name}/d2/f{2 + 7 * number}").unlink()

    def keeps(self) -> dict[str, bytes]:
        """What is the administrator's, or says who this node is and what it is to do."""
        places = ("etc/sdata/i2node.toml", "etc/sdata/i2port.conf", "etc/sdata/i2id.conf")
        files = [self.sees(place) for place in (*places, "var/i2data/orders.json")]
        files += sorted(self.sees("etc/sdata").rglob("*.pem"))
        assert len(files) == 6
        return {path.name: path.read_bytes() for path in files}

    def pid(self) -> int:
        return int(self.sees("run/i2node.pid").read_text())

    def release(self) -> str:
        return self.does(*QUERY, "-q", "--qf", "%{VERSION}", "i2node")


def test_an_upgrade_goes_on_where_the_node_was(
    built: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (later,) = packages(tmp_path / "later", LATER, "--without", "controller").values()
    with Node(tmp_path_factory.mktemp("node")) as node:
        node.installs(built["i2node"])
        node.begins()
        before = node.in_sync()
        sent = {source: one["bytes_sent"] for source, one in before.items()}
        assert min(sent.values()) > FILES * SIZE, "of what is random all has to go"
        pid, release, kept = node.pid(), node.release(), node.keeps()

        file, earlier = node.takes([later, built["i2node"]])
        upgrade = node.goes_on("upgrade", *QUERY, "-U", "--nodeps", file)
        for number in range(FILES // 10):
            node.changes(number)
            with suppress(subprocess.TimeoutExpired):
                assert upgrade.wait(PAUSE_S) == 0
                break
        assert upgrade.wait(60) == 0
        assert node.release() == LATER
        assert node.does("i2node", "version") == f"i2node {LATER}\n"
        assert node.pid() != pid and node.tries(INIT, "status").returncode == 0
        node.changes(number + 1)
        again = node.in_sync()
        node.alike()
        assert node.keeps() == kept
        assert not list(node.sees("etc").rglob("*.rpmnew"))
        # Nothing was mirrored, or compared, as a whole.
        for source, one in again.items():
            assert one["last_compare"] == before[source]["last_compare"], source
        # The service's session is another: it sent what changed. The other source went on.
        assert again["/srv/ours"]["bytes_sent"] < FILES * SIZE / 10
        assert again["/srv/theirs"]["bytes_sent"] - sent["/srv/theirs"] < FILES * SIZE / 10

        refused(node, earlier, release)


def refused(node: Node, earlier: str, release: str) -> None:
    """Of rpm itself, unless it is told to; then where the newer one keeps its state otherwise."""
    pid = node.pid()
    done = node.tries(*QUERY, "-U", "--nodeps", earlier)
    assert done.returncode != 0 and "newer" in done.stderr
    written = node.sees("var/i2data/format")
    now = json.loads(written.read_text())
    assert now["version"] == LATER
    written.write_text(json.dumps(now | {"format": now["format"] + 1}))
    done = node.tries(*QUERY, "-U", "--oldpackage", "--nodeps", earlier)
    assert done.returncode != 0
    assert (
        f"i2node: {release} does not know what i2node {LATER} wrote in /var/i2data" in done.stderr
    )
    assert (node.release(), node.pid()) == (LATER, pid)
    assert node.does("i2node", "version") == f"i2node {LATER}\n"
    written.write_text(json.dumps(now))
    node.rpm("-U", "--oldpackage", "--nodeps", earlier)
    assert node.release() == release and node.pid() != pid
    node.in_sync()
    node.alike()
