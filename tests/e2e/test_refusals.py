"""What is refused, with which exit status, in which words; and that the agent lives on."""

import contextlib
import json
import os
import ssl
import subprocess
import sys

import forest
import pytest
from hosts import PATIENCE_S, Host, assert_equal, must, until


def said(program) -> dict:
    """The error as a program reads it; a person reads the same on stderr."""
    error = program.last("error")
    assert error["cause"] and error["remedy"]
    assert error["cause"] in program.said() and error["remedy"] in program.said()
    return error


# ---------------------------------------------------------------------- 1: problems


@pytest.mark.root
def test_problems_are_listed_and_the_rest_arrives(hosts, trees):
    """A mount on the target is in the way of what the source removed."""
    (trees.source / "busy").mkdir()
    (trees.source / "moves").write_text("old")
    hosts.once(trees.source, trees.target)
    must("mount", "-t", "tmpfs", "none", trees.target / "busy")
    try:
        (trees.source / "busy").rmdir()
        for name in ("moves", "new"):
            (trees.source / name).write_text("newer")
        mirror = hosts.once(trees.source, trees.target, status=1)
        assert {line["path"] for line in mirror.lines() if line["t"] == "problem"} == {"busy"}
        assert "unmount" in mirror.last("problem")["remedy"]
        done = mirror.last("done")
        assert (done["exit_status"], done["problem_count"], done["in_sync"]) == (1, 1, False)
        assert (trees.target / "moves").read_text() == (trees.target / "new").read_text() == "newer"
    finally:
        must("umount", trees.target / "busy")
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)


# ---------------------------------------------------------------------- 2: usage


@pytest.mark.parametrize(
    "words",
    [
        ("mirror", "/", "no path"),
        ("mirror", "/usr/share", "host:/there", "--bwlimit", "12"),
        ("mirror", "/usr/share", "host:/there", "--compress", "23"),
        ("mirror", "/usr/share/none at all", "host:/there"),
        ("mirror", "", "host:/there"),
        ("agent", "--allow-root", ""),
        ("mirror", "/usr/share", "host:/there", "--exclude", "/usr"),
        ("mirror", "/usr/share", "host:/there", "--secret-key-file", "/none at all"),
        ("mirror",),
        ("fly",),
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:]),
)
def test_usage(hosts, words):
    program = hosts.source.run(*words, status=2)
    assert program.said().startswith("i2node: ") and "Traceback" not in program.said()


def test_a_mirror_that_runs_already(hosts, trees):
    (trees.source / "file").touch()
    mirror = hosts.mirror(trees.source, trees.target)
    until("the first", lambda: mirror.last("state").get("state") == "REPLICATION")
    assert "already running" in said(hosts.once(trees.source, trees.target, status=2))["cause"]
    assert mirror.end() == 0


# ---------------------------------------------------------------------- 3: safety


def test_foreign_data_is_named_and_stays_and_is_reused_on_demand(hosts, trees):
    forest.plant(trees.source, small=60)
    must("cp", "-a", trees.source, trees.target)
    (trees.target / "their precious").write_text("foreign")
    (trees.target / "contents" / "random 4096").write_bytes(b"differs")
    refused = said(hosts.once(trees.source, trees.target, status=3))
    assert refused["code"] == "safety" and "--adopt" in refused["remedy"]
    assert str(trees.target) in refused["cause"] and "contents" in refused["cause"]
    assert (trees.target / "their precious").read_text() == "foreign"
    hosts.tidy(trees.target)

    adopted = hosts.once(trees.source, trees.target, "--adopt").last("done")
    assert_equal(trees.source, trees.target)
    assert adopted["bytes_sent"] < 100_000, "equal files were sent again"


def test_two_rules_do_not_share_or_nest_their_targets(hosts, trees):
    (trees.source / "file").touch()
    other = trees.source.with_name(trees.source.name + " other")
    other.mkdir()
    hosts.once(trees.source, trees.target)
    for place in (trees.target, trees.target / "below", hosts.backup):
        refused = said(hosts.once(other, place, "--adopt", status=3))
        assert "overlaps" in refused["cause"]
    assert_equal(trees.source, trees.target)


def test_a_source_that_was_replaced_deletes_nothing(hosts, trees):
    (trees.source / "file").write_text("kept")
    hosts.once(trees.source, trees.target)
    aside = trees.source.with_name(trees.source.name + " aside")
    trees.source.rename(aside)
    hosts.once(trees.source, trees.target, status=2)
    trees.source.mkdir()
    refused = said(hosts.once(trees.source, trees.target, status=3))
    assert "replaced" in refused["cause"] and (trees.target / "file").read_text() == "kept"
    # Back in its place it is the same again.
    trees.source.rmdir()
    aside.rename(trees.source)
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)


def test_a_source_that_is_moved_away_while_it_is_followed(hosts, trees):
    (trees.source / "file").write_text("kept")
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    trees.source.rename(trees.source.with_name(trees.source.name + " away"))
    assert mirror.wait() == 3
    said(mirror)
    assert (trees.target / "file").read_text() == "kept"


@pytest.mark.root
def test_a_source_that_is_not_mounted_deletes_nothing(hosts, trees, tmp_path):
    image = tmp_path / "image"
    with forest.loop_mount(image, trees.source, 16):
        (trees.source / "file").write_text("kept")
        hosts.once(trees.source, trees.target)
    assert list(trees.source.iterdir()) == []
    said(hosts.once(trees.source, trees.target, status=3))
    assert (trees.target / "file").read_text() == "kept"
    must("mount", "-o", "loop", image, trees.source)
    try:
        again = hosts.once(trees.source, trees.target).last("done")
        assert again["bytes_sent"] == 0
    finally:
        must("umount", trees.source)


@pytest.mark.root
@pytest.mark.parametrize("state", ["as it was", "lost"])
def test_another_file_system_at_the_source_deletes_nothing(hosts, trees, tmp_path, state):
    """The roots of two new file systems are alike to the last number: inode 2, born just now or,
    with small inodes, at no known time. The target remembers where what it holds came from."""
    for name in ("one", "other"):
        with forest.loop_mount(tmp_path / name, trees.source, 16, "-I", "128"):
            (trees.source / name).write_text("kept")
            if name == "one":
                hosts.once(trees.source, trees.target)
                continue
            if state == "lost":
                for database in hosts.source.home.glob("var/rules/*/index.db"):
                    database.write_bytes(b"damaged")
            refused = said(hosts.once(trees.source, trees.target, status=3))
            assert "not the directory" in refused["cause"]
            assert (trees.target / "one").read_text() == "kept"
            hosts.once(trees.source, trees.target, "--adopt")
            assert_equal(trees.source, trees.target)


@pytest.mark.root
def test_a_target_whose_file_system_is_not_mounted_is_not_filled_anew(hosts, trees, tmp_path):
    (trees.source / "file").write_text("kept")
    with forest.loop_mount(tmp_path / "image", trees.target, 16):
        hosts.once(trees.source, trees.target)
    refused = said(hosts.once(trees.source, trees.target, status=3))
    assert "not mounted" in refused["cause"] and list(trees.target.iterdir()) == []


def test_a_target_that_is_moved_away_while_it_is_filled(hosts, trees):
    (trees.source / "file").write_text("kept")
    mirror = hosts.mirror(trees.source, trees.target)
    until("in sync", lambda: mirror.last("state").get("in_sync"))
    trees.target.rename(trees.target.with_name(trees.target.name + " away"))
    (trees.source / "file").write_text("newer")
    assert mirror.wait() == 3
    assert "moved" in said(mirror)["cause"]


def test_a_source_and_a_target_that_overlap(hosts, trees):
    """Also where the target is on another host by its name, and the same by its mounts."""
    (trees.source / "below").mkdir()
    (trees.source / "below" / "file").write_text("kept")
    inside = hosts.backup / trees.target.name
    inside.mkdir()
    (inside / "source").mkdir()
    (inside / "source" / "file").write_text("kept")
    for source, place in (
        (trees.source, trees.source),
        (trees.source, trees.source / "below"),
        (trees.source, trees.source / "new"),
        (trees.source / "below", trees.source),
        (inside / "source", hosts.place(inside)),
        (inside, hosts.place(inside / "new")),
    ):
        words = ("mirror", source, place, "--once", "--adopt", "--json")
        refused = said(hosts.source.run(*words, status=3))
        assert "overlap" in refused["cause"]
    assert (trees.source / "below" / "file").read_text() == "kept"
    assert (inside / "source" / "file").read_text() == "kept"
    kept = ("mirror", trees.source, trees.source / "copies", "--exclude", "copies", "--once")
    for _ in range(2):
        hosts.source.run(*kept, "--json")
    assert [p.name for p in (trees.source / "copies").iterdir()] == ["below"]


@pytest.mark.root
def test_what_is_mounted_below_the_source_is_left_out_and_named(hosts, trees):
    (trees.source / "volume").mkdir()
    must("mount", "-t", "tmpfs", "none", trees.source / "volume")
    try:
        (trees.source / "volume" / "file").write_text("elsewhere")
        mirror = hosts.mirror(trees.source, trees.target)
        until("in sync", lambda: mirror.last("state").get("in_sync"))
        assert hosts.source.status().mounts == ("volume",)
        assert "mount-left-out" in mirror.said()
        assert mirror.end() == 0
        assert list((trees.target / "volume").iterdir()) == []
    finally:
        must("umount", trees.source / "volume")


# ---------------------------------------------------------------------- 4: peers


@pytest.fixture
def stranger(hosts, tmp_path):
    """Another node on the source's side of the cable, that nobody has paired."""
    host = Host("stranger", tmp_path, hosts.source.space, hosts.source.address)
    yield host
    for program in host.programs:
        program.sweep()


def test_an_unpaired_peer_and_a_wrong_code(hosts, trees, stranger):
    (trees.source / "file").touch()
    words = ("mirror", trees.source, hosts.place(trees.target), "--once", "--json")
    refused = said(stranger.run(*words, status=4))
    assert "pair" in refused["remedy"] and not trees.target.exists()

    code = hosts.target.run("code").out.read_text().strip()
    wrong = code[:-1] + ("a" if code[-1] != "a" else "b")
    peer = f"{hosts.target.address}:{hosts.port}"
    program = stranger.run("pair", peer, "--code-file", stranger.told(wrong), status=4)
    assert "code" in program.said() and code not in program.said()
    stranger.run(*words, status=4)
    assert "pairing-refused" in hosts.agent.said()
    assert code not in hosts.agent.said() and wrong not in hosts.agent.said()


def test_a_root_that_is_not_allowed(hosts, trees, tmp_path):
    (trees.source / "file").touch()
    for place in (tmp_path / "elsewhere", hosts.backup.with_name("backup2")):
        refused = said(hosts.once(trees.source, place, status=4))
        assert "allow" in refused["cause"] and "--allow-root" in refused["remedy"]
        assert not place.exists()
        assert "session-ended" in hosts.agent.said()
    # A link below an allowed root does not lead out of it.
    link = hosts.backup / "link out"
    link.symlink_to(tmp_path)
    said(hosts.once(trees.source, link / "x", status=4))
    assert list(tmp_path.iterdir()) == []
    hosts.once(trees.source, trees.target)


def test_nobody_listens(hosts, trees):
    place = f"{hosts.target.address}:9:{trees.target}"
    words = ("mirror", trees.source, place, "--once", "--json")
    refused = said(hosts.source.run(*words, status=4))
    assert refused["code"] == "peer-lost" and ":9" in refused["cause"]


# ---------------------------------------------------------------------- garbage


def talk(host: Host, port: int, address: str, sends: bytes) -> None:
    """Sends bytes from another host, and waits until the agent has hung up or had its say."""
    code = (
        "import socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
        "try:\n"
        "    s.sendall(sys.stdin.buffer.read())\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "    while s.recv(4096): pass\n"
        "except OSError: pass\n"
    )
    inside = ["nsenter", f"--net=/run/netns/{host.space}"] if host.space else []
    words = [*inside, sys.executable, "-c", code, address, str(port)]
    subprocess.run(words, input=sends, check=True, timeout=PATIENCE_S)


def half_a_hello() -> bytes:
    """The first half of what a TLS client says."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(into, out, server_hostname="x").do_handshake()
    hello = out.read()
    return hello[: len(hello) // 2]


GARBAGE = {
    "nothing": b"",
    "noise": os.urandom(3000),
    "zeros": bytes(100_000),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a hello": half_a_hello(),
    "a broken hello": half_a_hello() + os.urandom(500),
    "a stream of no session": b"I2S1" + os.urandom(200),
}


def test_garbage_is_refused_and_the_agent_lives_on(hosts, trees):
    (trees.source / "file").write_text("x")
    for sends in GARBAGE.values():
        talk(hosts.source, hosts.port, hosts.target.address, sends)
    assert hosts.agent.running
    assert "refused" in hosts.agent.said() and "Traceback" not in hosts.agent.said()
    hosts.once(trees.source, trees.target)
    assert_equal(trees.source, trees.target)


PEER = """
import json, struct, sys
from pathlib import Path
from i2node.net.identity import Identity
from i2node.net.transport import connect
from i2node.errors import I2Error
etc, host, port, what = sys.argv[1:]
channel = connect(host, int(port), Identity.load(Path(etc)))
said = {
    "oversized": struct.pack(">I", 0xFFFFFFF0) + b"x" * 100,
    "noise": struct.pack(">I", 32) + bytes([0xC1]) * 32,
}
if what in said:
    with channel._lock:
        channel._out += said[what]
        channel._pump.call(channel)
else:
    for message in json.loads(what):
        for key in ("root", "path"):
            if key in message:
                message[key] = message[key].encode()
        channel.send(message)
try:
    while True:
        print(channel.recv(10))
except I2Error as error:
    print("ended", error.code)
"""


@pytest.mark.parametrize(
    "what",
    [
        "oversized",
        "noise",
        [{"t": "no such message"}],
        [{"t": "open"}],
        [{"t": "probe", "n": 1, "dirs": []}],
        [{"t": "open", "rule": "../../../x", "root": "/", "tokens": [], "next": ""}],
        [{"t": "open", "rule": "a" * 16, "root": "relative", "tokens": [], "next": ""}],
        [{"t": "open", "rule": "a" * 16, "root": "/x\0y", "tokens": [], "next": ""}],
    ],
    ids=str,
)
def test_a_paired_peer_that_says_nonsense_is_hung_up_on(hosts, trees, what):
    """After a real handshake: the peer is known, and still not believed."""
    (trees.source / "file").write_text("x")
    # Begun anew, since it says only so much a minute because of one peer.
    hosts.agent.end()
    hosts.serve()
    before = len(hosts.agent.said())
    inside = ["nsenter", f"--net=/run/netns/{hosts.source.space}"] if hosts.source.space else []
    words = [hosts.source.home / "etc", hosts.target.address, hosts.port]
    told = what if isinstance(what, str) else json.dumps(what)
    assert "ended" in must(*inside, sys.executable, "-c", PEER, *words, told)
    line = until("a line about it", lambda: hosts.agent.said()[before:])
    assert "warning" in line and "cause=" in line and "Traceback" not in line
    assert hosts.agent.running
