"""What `i2node doctor` makes of what it finds on a host."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import i2node
from i2node.cli import diagnosis, main
from i2node.config import Config
from i2node.errors import PeerLost, Refused, UsageError
from i2node.fs.engine import without_fanotify
from i2node.model import State
from i2node.net.identity import Identity, Peer
from i2node.node import edition
from i2node.node.checkup import disk, doors, limits, peers, rules, settings, system
from i2node.node.checkup.asking import AT_ONCE, beside
from i2node.node.checkup.doors import Agent, Door
from i2node.node.checkup.examination import examine
from i2node.node.checkup.finding import Finding, fine, look, unknown
from i2node.node.checkup.host import Host
from i2node.node.checkup.peers import Reach
from i2node.node.checkup.program import program
from i2node.node.kept import keep
from i2node.orders import Charge, Orders, Part, Want, plain
from i2node.repl.journal import Journal
from i2node.repl.report import Problems, RuleReport, WatchReport

SYSTEM = Host(config=Config())
NODE = "ab" * 32


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A home that is there, with keys."""
    home = tmp_path / "home"
    for part in ("etc", "var"):
        (home / part).mkdir(mode=0o700, parents=True)
    return Host(config=Config.of(home), identity=Identity.load(home / "etc"))


def mended(finding: Finding) -> None:
    """Types what it says."""
    subprocess.run(["sh", "-ec", finding.remedy], check=True)


# --- what is asked -----------------------------------------------------------------------------


def test_who_does_not_answer_holds_up_nobody():
    never = threading.Event()
    calls = [never.wait, *(lambda n=n: n for n in range(AT_ONCE))]
    assert beside(calls, 0.2) == [None, *range(AT_ONCE)]
    never.set()
    assert beside([], 1.0) == []
    with pytest.raises(ZeroDivisionError):
        beside([lambda: 1, lambda: 1 // 0], 10.0)


# --- kernel, clock, limits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "watch", "refused", "verdict", "said"),
    [
        ("5.14.0-427.el9.x86_64", "auto", "", "fine", "fanotify watches"),
        ("4.18.0-553.el8_10.x86_64", "auto", "no fanotify: too old", "fine", "(no fanotify: too"),
        ("6.1.0", "inotify", "", "fine", "inotify watches, as configured"),
        ("3.10.0-1160.el7.x86_64", "auto", "", "look", "4.18 is needed"),
        ("strange", "auto", "", "look", "4.18 is needed"),
        ("6.1.0", "fanotify", "no fanotify: it needs root", "look", "watch is fanotify"),
    ],
)
def test_a_kernel(release, watch, refused, verdict, said):
    found = system.of_kernel(release, watch, refused, SYSTEM)
    assert (found.what, found.verdict) == ("kernel", verdict) and said in found.text
    assert bool(found.remedy) == (verdict == "look")


def test_what_cannot_be_watched_by_fanotify():
    fd = os.open("/proc", os.O_RDONLY)
    assert without_fanotify(fd).startswith("no fanotify: ")
    os.close(fd)


def test_an_engine_that_is_not_to_be_had_is_configured_otherwise(host):
    host.config.file.write_text('listen_port = 1\n watch="fanotify" # why\n#watch = "auto"\n')
    mended(system.of_kernel("6.1.0", "fanotify", "no fanotify: it needs root", host))
    assert Config.load(host.config.etc.parent).watch == "auto"


def test_a_clock():
    now = 1_790_000_000.0
    assert system.of_clock(0.012, now, True).text.endswith("off by 12 ms at most")
    lone = system.of_clock(None, now, True)
    assert (lone.verdict, lone.remedy) == ("look", "systemctl enable --now chronyd")
    assert system.of_clock(None, now, False).remedy.startswith("dnf -y install chrony && systemctl")
    reset = system.of_clock(0.0, 1000.0, True)
    assert "1970-01-01" in reset.text and reset.remedy.endswith("chronyc makestep")


def test_the_bound_on_open_files_can_be_raised_while_it_runs():
    child = subprocess.Popen(["sh", "-c", "ulimit -S -n 512; echo; read line"], **PIPES)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        table = Path(f"/proc/{child.pid}/limits")
        few = limits.of_files(child.pid, 512, 3)
        assert few.verdict == "look" and "512 files" in few.text
        # More than the hard bound only who has CAP_SYS_RESOURCE may give.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        mended(replace(few, remedy=few.remedy.replace(str(limits.FILES), str(hard))))
        bound = limits._OPEN_FILES.search(table.read_text())
        assert bound is not None and int(bound[1]) == hard
    finally:
        child.communicate(b"\n")
    assert limits.of_files(1, 4096, 2048).verdict == "fine"
    assert limits.of_files(1, 4096, 2049).verdict == "look"
    assert limits.of_files(1, 300_000, 200_000).remedy.endswith("--nofile=1200000:1200000")


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


@pytest.mark.parametrize("gib", [1, 16, 1024])
def test_bounds_of_inotify_are_those_of_the_package(tmp_path, gib):
    (tmp_path / "meminfo").write_text(f"MemTotal: {gib << 20} kB\n")
    program = Path(__file__).parents[2] / "packaging" / "size-inotify"
    words = ["sh", program, tmp_path / "meminfo", tmp_path]
    told = subprocess.check_output(words, text=True).splitlines()
    sized = dict(line.split(" = ") for line in told if not line.startswith("#"))
    ours = {f"fs.inotify.{name}": str(n) for name, n in limits.sized(gib << 20).items()}
    assert sized.items() <= ours.items()


def watched(coverage=1.0, state=State.REPLICATION, engine="inotify"):
    report = RuleReport(rule="r", source="/a", target="bk:/b", state=state)
    return replace(report, watch=WatchReport(engine=engine, coverage=coverage))


def test_bounds_of_inotify():
    enough = dict(limits.LEAST)
    (one,) = limits.of_inotify(enough, 1 << 20, (watched(), watched(0.3, State.MIRROR)))
    assert one.verdict == "fine" and "max_user_watches 65,536" in one.text
    low = enough | {"max_user_watches": 8192}
    (one,) = limits.of_inotify(low, 16 << 20, ())
    line = "fs.inotify.max_user_watches = 503316"
    drop_in = "/etc/sysctl.d/90-i2node.conf"
    assert one.remedy == f"echo '{line}' >>{drop_in} && sysctl -p {drop_in}"
    (one,) = limits.of_inotify(enough, 1 << 20, (watched(0.99),))
    assert "not every directory" in one.text and "= 131072'" in one.remedy
    (one,) = limits.of_inotify(enough, 1 << 20, (watched(),) * 65)
    assert "65 rules" in one.text and "max_user_instances = 260" in one.remedy


def test_limits_are_read_where_inotify_watches(tmp_path):
    table = tmp_path / "proc" / "sys" / "fs" / "inotify"
    table.mkdir(parents=True)
    for name, least in limits.LEAST.items():
        (table / name).write_text(f"{least}\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 1048576 kB\n")
    host = Host(config=Config(watch="inotify"), root=tmp_path)
    assert [f.verdict for f in limits.limits(host)] == ["fine"]
    (table / "max_queued_events").write_text("1000\n")
    (one,) = limits.limits(host)
    assert one.verdict == "look" and "max_queued_events is 1,000" in one.text
    host = Host(config=Config(), root=tmp_path, reports=(watched(),))
    assert limits.limits(host) == [one]


# --- the port ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_who_listens(family, address, seen):
    six = family is socket.AF_INET6
    if six and not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    with socket.create_server((address, 0), family=family, dualstack_ipv6=six) as server:
        port = server.getsockname()[1]
        (door,) = [door for door in doors.here(SYSTEM) if door.port == port]
        assert door.address == seen and door.inode == os.fstat(server.fileno()).st_ino
        assert doors.holder(Path("/proc"), door.inode) == os.getpid()
        own = replace(SYSTEM, pids=frozenset({os.getpid()}))
        assert doors.agent_of(own) == Agent(os.getpid(), (door,), False)
        assert doors.agent_of(SYSTEM) is None
    assert doors.holder(Path("/proc"), door.inode) is None


@pytest.mark.parametrize("word", ["agent", "--listen", "--embedded"])
def test_which_process_is_the_agent(word):
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, word], **PIPES) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        found = doors.agent_of(replace(SYSTEM, pids=frozenset({os.getpid(), child.pid})))
        child.communicate(b"\n")
    if word == "--embedded":
        assert found is None
    else:
        assert found is not None and found.pid == child.pid
        assert found.elsewhere == (word == "--listen")


ALL, LOOP, SIX = Door("0.0.0.0", 26821, 1), Door("127.0.0.1", 26821, 2), Door("::", 26821, 3)
LOCAL = Door("127.0.0.1", 9000, 4)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (Config(), ALL),
        (Config(listen_port=9000), LOCAL),
        (Config(listen_port=1, metrics_port=26821), LOCAL),
        (Config(listen_port=1, metrics_port=9000), ALL),
        (Config(listen_port=1, metrics_port=2), ALL),
    ],
)
def test_metrics_are_not_for_peers(config, found):
    for own in ([ALL, LOCAL], [LOCAL, ALL]):
        assert doors.likely(own, config)[0] == found


@pytest.mark.parametrize(
    ("listening", "address", "wanted", "found"),
    [
        ([ALL], "", 26821, ALL),
        ([LOOP], "", 26821, LOOP),
        ([SIX], "10.0.0.5", 26821, SIX),
        ([LOOP], "10.0.0.5", 26821, None),
        ([LOOP], "127.0.0.1", 26821, LOOP),
        ([LOOP], "0.0.0.0", 26821, LOOP),
        ([LOOP], "localhost", 26821, LOOP),
        ([LOOP], "", 26822, None),
        ([LOOP], "", 0, None),
        ([], "", 26821, None),
    ],
)
def test_what_is_in_the_way(listening, address, wanted, found):
    assert doors.in_the_way(listening, address, wanted) == found


def test_a_port_that_is_taken():
    told = doors.taken_by(SYSTEM, LOOP, 77, "nginx")
    assert told.text.startswith("127.0.0.1:26821 is taken by process 77 (nginx)")
    assert told.remedy.startswith("kill 77, or set another listen_port in /etc/sdata/i2node.toml")
    assert doors.taken_by(SYSTEM, SIX, None, "").verdict == "unknown"


def test_a_port_where_nobody_listens(tmp_path):
    assert doors.of_nobody(SYSTEM, False, False).verdict == "fine"
    by_hand = doors.of_nobody(SYSTEM, False, True)
    assert (by_hand.verdict, by_hand.remedy) == ("look", "i2node agent &")
    host = replace(SYSTEM, root=tmp_path)
    assert not doors.is_enabled(host)
    (tmp_path / "etc" / "rc.d" / "init.d").mkdir(parents=True)
    (tmp_path / "etc" / "rc.d" / "init.d" / "i2node").touch()
    assert not doors.is_enabled(host)
    assert doors.of_nobody(host, False, True).remedy == "service i2node start"
    (tmp_path / "etc" / "rc.d" / "rc3.d").mkdir()
    (tmp_path / "etc" / "rc.d" / "rc3.d" / "S85i2node").touch()
    assert doors.is_enabled(host)
    (tmp_path / "run" / "systemd" / "system").mkdir(parents=True)
    assert doors.of_nobody(host, True, False).remedy == "systemctl start i2node"


def test_who_needs_an_agent(host):
    assert not doors.is_needed(host)
    assert doors.is_needed(replace(host, config=replace(host.config, allow_roots=(Path("/b"),))))
    file = host.config.var / "orders.json"
    file.write_text(json.dumps({"controller": NODE, "orders": plain(Orders(number=3))}))
    assert not doors.is_needed(host)
    file.write_text(json.dumps({"controller": NODE, "orders": plain(ORDERS)}))
    assert doors.is_needed(host)


def test_an_agent_that_answers():
    agent = Agent(7, (ALL,), False)
    told = doors.of_agent(SYSTEM, agent, i2node.__version__)
    assert told.verdict == "fine" and "process 7, of this home, listens on all addr" in told.text
    old = doors.of_agent(SYSTEM, agent, "0.0.9")
    assert old.verdict == "look" and f"0.0.9, and {i2node.__version__} is installed" in old.text
    assert old.remedy == "kill 7; tail --pid=7 -f /dev/null; i2node agent &"
    moved = replace(SYSTEM, config=Config(listen_port=4711))
    elsewhere = doors.of_agent(moved, agent, "")
    assert "4711 is configured" in elsewhere.text and elsewhere.remedy == "kill -HUP 7"
    for as_told in (Config(listen_port=0), Config()):
        assert doors.of_agent(replace(SYSTEM, config=as_told), agent, "").verdict == "fine"
    assert doors.of_agent(replace(moved, sound=False), agent, "").verdict == "fine"
    assert doors.of_agent(moved, Agent(7, (ALL,), True), "").verdict == "fine"


@pytest.mark.root
def test_a_firewall(tmp_path):
    """What firewall-cmd is, is a program that exits as it does: firewalld runs on no build host."""
    (tmp_path / "proc").symlink_to("/proc")
    program = tmp_path / "usr" / "bin" / "firewall-cmd"
    program.parent.mkdir(parents=True)
    told, says, bin = tmp_path / "told", program.write_text, {"PATH": str(program.parent)}
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        host = Host(config=Config(), pids=frozenset({os.getpid()}), root=tmp_path)
        assert doors.firewall(host) == []
        for status, verdicts in ((0, ["fine"]), (1, ["look"]), (252, [])):
            says(f"#!/bin/sh\n[ $1 = --query-port={port}/tcp ] && exit {status}\n")
            program.chmod(0o755)
            found = doors.firewall(host)
            assert [one.verdict for one in found] == verdicts
            if found and found[0].remedy:
                says(f'#!/bin/sh\necho "$@" >>{told}\n')
                subprocess.run(["/bin/sh", "-ec", found[0].remedy], check=True, env=bin)
                add = f"--add-port={port}/tcp"
                assert told.read_text() == f"{add}\n--permanent {add}\n"
    assert doors.firewall(host) == []


@pytest.mark.parametrize(
    ("port", "service", "answer"),
    [(1, 0, "fine"), (1, 1, "look"), (1, 101, "look"), (0, 1, "fine")],
)
def test_a_firewall_that_has_the_service(tmp_path, port, service, answer):
    program = tmp_path / "usr" / "bin" / "firewall-cmd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncase $1 in *service*) exit {service};; esac\nexit {port}\n")
    program.chmod(0o755)
    assert [one.verdict for one in doors.of_firewall(program, 26821)] == [answer]


# --- configuration, keys -----------------------------------------------------------------------


def test_a_configuration(host):
    assert [f.verdict for f in settings.configuration(host, None)] == ["fine"]
    fault = UsageError("etc/i2node.toml: unknown key 'wach'", "did you mean 'watch'?")
    (one,) = settings.configuration(host, fault)
    assert one.verdict == "look" and "did you mean 'watch'?" in one.text
    assert one.remedy.startswith("vi etc/i2node.toml; i2node --home ")
    host.config.etc.chmod(0o755)
    (one,) = settings.configuration(host, None)
    assert "mode 0755" in one.text
    mended(one)
    assert stat.S_IMODE(host.config.etc.stat().st_mode) == 0o700


@pytest.mark.root
def test_who_owns_a_secret(tmp_path):
    file = tmp_path / "a file"
    file.touch(0o600)
    os.chown(file, 12345, -1)
    (one,) = settings.of_private("keys", file, file.stat(), 0)
    assert "user 12345" in one.text
    mended(one)
    assert not list(settings.of_private("keys", file, file.stat(), 0))


def test_keys(host):
    etc = host.config.etc
    (one,) = settings.keys(host)
    assert one.verdict == "fine" and host.identity.node_id[:12] in one.text
    key = etc / "identity" / "node.pem"
    for secret in (key, etc / "i2id.conf"):
        secret.chmod(0o640)
        (one,) = settings.keys(host)
        assert one.verdict == "look" and str(secret) in one.text
        mended(one)
        assert settings.keys(host)[0].verdict == "fine"
    content = key.read_bytes()
    key.write_bytes(b"nothing")
    (one,) = settings.keys(host)
    assert one.verdict == "look" and "usable key" in one.text and one.remedy
    key.write_bytes(content)
    (etc / "peers" / f"{NODE}.pem").write_text("no certificate")
    (one,) = settings.keys(host)
    assert one.verdict == "look" and NODE[:12] in one.text
    subprocess.run(["sh", "-ec", one.remedy.partition(";")[0]], check=True)
    assert settings.keys(host)[0].verdict == "fine"


def test_keys_that_are_missing_are_not_made(host, tmp_path):
    etc = host.config.etc
    for gone, said in (("i2id.conf", "i2id.conf"), ("identity/node.pem", "node.pem")):
        (etc / gone).rename(tmp_path / "kept")
        (one,) = settings.keys(host)
        assert one.verdict == "look" and said in one.text and not (etc / gone).exists()
        (tmp_path / "kept").rename(etc / gone)
    (etc / "i2id.conf").write_text("# no code\n")
    assert settings.keys(host)[0].verdict == "look"
    assert (etc / "i2id.conf").read_text() == "# no code\n"
    (etc / "i2id.conf").write_bytes(b"# K\xe4fer\nid=abc\n")
    (one,) = (line for line in examine(host.config) if line.what == "keys")
    assert one.verdict == "unknown" and "i2id.conf is not text" in one.text and one.remedy
    (one,) = settings.keys(replace(host, config=Config.of(tmp_path / "other")))
    assert one.remedy == f"i2node --home {tmp_path}/other code"
    assert not (tmp_path / "other").exists()


# --- disk --------------------------------------------------------------------------------------

GROUND = disk.ground(Path("/"))
ROOM = replace(
    GROUND,
    is_shared=False,
    is_writable=True,
    is_read_only=False,
    bytes=1 << 40,
    inodes=None,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_shared": True}, "on a disk of this host"),
        ({"is_writable": False}, "cannot be written to"),
        ({"is_read_only": True, "is_writable": False}, "mounted read-only"),
        ({"bytes": 255 << 20}, "has 255 MiB free"),
        ({"inodes": 999}, "has 999 inodes free"),
    ],
)
def test_a_disk(changes, said):
    assert [f.verdict for f in disk.of_ground(ROOM, True)] == ["fine"]
    (one,) = disk.of_ground(replace(ROOM, **changes), True)
    assert one.verdict == "look" and said in one.text and one.remedy
    if "is_shared" in changes:
        assert [f.verdict for f in disk.of_ground(replace(ROOM, **changes), False)] == ["fine"]


def test_places(host, tmp_path):
    backup = tmp_path / "back up" / "here"
    host = replace(host, config=replace(host.config, allow_roots=(backup,)), root=tmp_path)
    _, one = disk.disk(host)
    assert one.verdict == "look" and "stands in allow_roots" in one.text
    mended(one)
    assert [f.verdict for f in disk.disk(host)] == ["fine", "fine"]
    backup.rmdir()
    backup.write_text("")
    _, one = disk.disk(host)
    assert "is no directory" in one.text
    mended(one)
    assert [f.verdict for f in disk.disk(host)] == ["fine", "fine"]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fstab").write_text(f"/dev/vdb {tmp_path}/back\\040up xfs defaults 0 0\n")
    _, one = disk.disk(host)
    assert one.remedy == f"mount '{tmp_path}/back up'"


def test_what_fstab_mounts():
    mounts = b"22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 8:2 / /b rw - xfs /dev/b rw\n"
    fstab = """
# /dev/x /commented xfs defaults 0 0
/dev/a / ext4 defaults 0 1
/dev/b /b/ xfs defaults 0 0
/dev/c /c xfs defaults 0 0
/dev/d /c/d\\040e xfs defaults 0 0
/dev/e /by-hand xfs noauto,ro 0 0
/dev/f swap swap defaults 0 0
short line
"""
    assert disk.not_mounted(fstab, mounts) == [Path("/c/d e"), Path("/c")]


@pytest.mark.root
def test_a_state_directory_without_room(host, tmp_path):
    var = host.config.var
    for options, said in (
        ("size=1m", "1 MiB free, of 256"),
        ("size=1g,nr_inodes=500", "inodes free"),
        ("size=1g,ro", "read-only"),
    ):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", var], check=True)
        try:
            found = disk.disk(host)
            assert [f.verdict for f in found] == ["look"] and said in found[0].text
            mended(found[0])
            if options.endswith("ro"):
                assert [f.verdict for f in disk.disk(host)] == ["fine"]
            else:
                assert str(var) in found[0].remedy
        finally:
            subprocess.run(["umount", var], check=True)


# --- peers, rules ------------------------------------------------------------------------------


def peer(node: str, address: str, role="node") -> Peer:
    return Peer(node, f"name-{node[:2]}", address, role, 0, "", b"")


CHARGE = Charge(
    rule="r", version="1", name="n", want=Want.RUN, host="bk", port=4711, peer=NODE,
    certificate="", parts=(Part(source="/a", target="/b"),)
)  # fmt: skip
ORDERS = Orders(number=9, charges=(CHARGE, replace(CHARGE, rule="s")))


def test_who_is_asked():
    known = [
        peer(NODE, "10.0.0.1:26821"),
        peer("cd" * 32, "[fe80::1]:26821"),
        peer("ef" * 32, ""),
        peer("01" * 32, "cc:58084", "controller"),
    ]
    sources = Counter({"cd" * 32: 3})
    assert peers.whom(known, ORDERS, sources) == [
        Reach(NODE, "name-ab", "bk", 4711, True, 0),
        Reach("cd" * 32, "name-cd", "fe80::1", 26821, False, 3),
    ]
    assert peers.whom([], ORDERS, Counter()) == [Reach(NODE, "", "bk", 4711, True, 0)]
    told = peers.of_controller(known[3], ORDERS, known[3].node_id)
    assert told.verdict == "fine" and "whose orders 9 are held" in told.text
    assert "orders" not in peers.of_controller(known[3], ORDERS, NODE).text


def test_what_a_peer_says():
    one = Reach(NODE, "bk1", "bk", 26821, False, 0)
    assert peers.of_peer(SYSTEM, one, i2node.__version__).text == (
        f"bk1 at bk:26821 ({NODE[:12]}): i2node {i2node.__version__}"
    )
    assert "here" in peers.of_peer(SYSTEM, one, "0.0.9").text
    silent = peers.of_peer(SYSTEM, one, None)
    assert silent.verdict == "look" and "no answer within" in silent.text
    lost = PeerLost("connecting to bk:26821: Connection refused", "see that it runs")
    found = peers.of_peer(SYSTEM, one, lost)
    assert found.verdict == "look" and found.remedy.startswith("ssh bk 'service i2node status;")
    for nothing in (lost, None):
        assert peers.of_peer(SYSTEM, replace(one, sources=2), nothing).verdict == "fine"
        kept = replace(one, sources=2, ordered=True)
        assert peers.of_peer(SYSTEM, kept, nothing).verdict == "look"
    stranger = Refused("it is not paired with this node", "run: i2node pair bk")
    assert peers.of_peer(SYSTEM, one, stranger).remedy == "i2node pair bk"
    elsewhere = replace(one, port=4711, sources=2)
    assert peers.of_peer(SYSTEM, elsewhere, stranger).remedy == "i2node pair bk:4711"
    old = Refused("bk runs protocol 0", "bring both nodes to the same version")
    assert peers.of_peer(SYSTEM, one, old).remedy == old.remedy


def test_a_peer_that_says_nothing(host, monkeypatch, tmp_path):
    """It takes the connection, and no more comes."""
    monkeypatch.setattr(peers, "DIAL_S", 0.2)
    other = Identity.load(tmp_path / "other")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        host.identity.trust(other.cert_pem, name="bk", address=place)
        (one,) = peers.peers(host)
    assert one.verdict == "look" and f"bk at {place}" in one.text and "timed out" in one.text


def test_orders_that_cannot_be_read(host):
    file = host.config.var / "orders.json"
    file.write_text("{")
    (one,) = peers.peers(host)
    assert one.verdict == "look" and str(file) in one.text
    mended(one)
    assert [f.verdict for f in peers.peers(host)] == ["fine"]
    assert peers.peers(replace(host, identity=None))[0].verdict == "unknown"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": State.EXCEPTION, "cause": "peer lost"}, "EXCEPTION: peer lost"),
        ({"state": State.STOP}, "STOP: it stands still"),
        ({"problems": Problems(count=1200)}, "1,200 paths in trouble"),
        ({"cause": "the brake holds"}, "the brake holds"),
        ({}, ""),
        ({"state": State.M_STOP}, ""),
        ({"state": State.UNKNOWN, "side": "target"}, ""),
    ],
)
def test_a_rule(changes, said):
    found = rules.of_rules(SYSTEM, [replace(watched(), **changes)])
    assert bool(found) == bool(said)
    if said:
        assert said in found[0].text and found[0].remedy == "i2node status"


def test_a_journal_of_a_newer_release(host):
    home = host.config.var / "rules" / "0123456789abcdef"
    journal = Journal(home / "index.db")
    journal.close()
    assert [f.verdict for f in rules.rules(host)] == ["fine"]
    with (home / "index.db").open("r+b") as file:
        file.seek(60)
        file.write((Journal.SCHEMA + 1).to_bytes(4, "big"))
    (one,) = rules.rules(host)
    assert one.verdict == "look" and "newer release (schema 2" in one.text
    assert "dnf upgrade i2node" in one.remedy


# --- all of it ---------------------------------------------------------------------------------

WHATS = ["program", "configuration", "kernel", "limits", "port", "disk", "clock", "keys", "rules"]


def test_every_subject_has_its_line(host, tmp_path):
    (host.config.etc / "i2node.toml").write_text("listen_port = 0\n")
    config = Config.load(host.config.etc.parent)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    found = examine(config)
    assert [one.what for one in found] == [*WHATS, "peers"]
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    machines = ("clock", "limits")
    assert {f.verdict for f in found if f.what not in machines} == {"fine"}


def test_an_unsound_status_directory_costs_one_line(host):
    (host.config.var / "run").write_text("")
    found = {one.what: one for one in examine(host.config)}
    assert found["rules"].verdict == "look" and str(host.config.var / "run") in found["rules"].text
    assert found["keys"].verdict == "fine"


def test_lines_and_exit_statuses(tmp_path, capsys):
    found = [fine("kernel", "Linux\n6.1"), look("limits", "few", "sysctl -w x=1")]
    assert diagnosis.finding_text(found) == (
        "fine  kernel: Linux\\n6.1\nlook  limits: few -> type: sysctl -w x=1"
    )
    *_, last = diagnosis.finding_lines(found)
    assert last == {"t": "done", "fine": 1, "look": 1, "unknown": 0}
    assert [diagnosis.status_of(found[:n]) for n in (1, 2)] == [0, 1]
    assert diagnosis.status_of([found[0], unknown("x", "y")]) == 2
    assert diagnosis.status_of([*found, unknown("x", "y")]) == 1
    assert main(["doctor", str(tmp_path)]) == 2
    assert "no DST" in capsys.readouterr().err
    assert main(["--home", str(tmp_path / "none"), "doctor", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["what"] == "program" and lines[-1]["t"] == "done"
    assert not (tmp_path / "none").exists()


def test_an_unknown_key_is_one_line_among_others(tmp_path, capsys):
    (tmp_path / "etc").mkdir(mode=0o700)
    (tmp_path / "etc" / "i2node.toml").write_text("wach = 1\n")
    assert main(["--home", str(tmp_path), "doctor"]) == 1
    said = capsys.readouterr()
    (line,) = [one for one in said.out.splitlines() if " configuration: " in one]
    assert line.startswith("look") and "'wach'" in line and "did you mean 'watch'?" in line
    assert "kernel: Linux" in said.out and said.err == ""


def test_a_state_directory_of_a_newer_release(host):
    keep(host.config.var / "format", {"format": edition.FORMAT + 1, "version": "9.9"})
    (one,) = program(host)
    assert one.verdict == "look" and "written by i2node 9.9" in one.text
    assert "install i2node 9.9 or later" in one.remedy
    edition.claim(host.config.var, edition.FORMAT + 1)
    keep(host.config.var / "format", {"format": edition.FORMAT, "version": "0"})
    assert [f.verdict for f in program(host)] == ["fine"]


def test_a_program_that_does_not_load_says_so(tmp_path):
    code = "import sys; sys.modules['i2node.mover._mover'] = None; from i2node.cli import main; "
    code += "sys.exit(main(['--home', sys.argv[1], 'doctor']))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1 and done.stdout.startswith("look  program: i2node ")
    assert "_mover" in done.stdout and "-> type:" in done.stdout


@pytest.mark.root
def test_whoever_may_not_look_into_a_home_is_told_to_be_root(host, tmp_path):
    os.chmod(host.config.etc.parent, 0o755)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m"]
    words += ["i2node", "--home", str(host.config.etc.parent), "doctor"]
    for above in host.config.etc.parents:
        if not above.stat().st_mode & stat.S_IXOTH:
            above.chmod(above.stat().st_mode | stat.S_IXOTH)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("unknown  home: ") and "sudo i2node --home" in lines[-1]
    assert [line.split()[1] for line in lines] == ["program:", "clock:", "home:"]
    assert done.returncode == (1 if "look" in done.stdout else 2)
