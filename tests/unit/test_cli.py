"""The command line as scripts see it: words in, lines and exit statuses out."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import i2node
from i2node.cli import arguments, display, drive, lives, main, secret, terminal
from i2node.config import Config
from i2node.errors import Refused, SessionError, UsageError
from i2node.model import MirrorOptions, State, Target
from i2node.node import rpc
from i2node.repl.report import Outcome, PathProblem, Problems, RuleReport, WatchReport, plain

REPORT = RuleReport(rule="r1", source="/a", target="bk:26821:/b", state=State.MIRROR, pid=7)
DENIED = PathProblem("/a/x", "read: permission denied", "chmod it")


def run(*words: str, **more) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "i2node", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        **more,
    )


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("/backup/a", Target(None, 26821, b"/backup/a")),
        ("//backup//./a/", Target(None, 26821, b"/backup/a")),
        ("/with:/colon", Target(None, 26821, b"/with:/colon")),
        ("bk1:/b", Target("bk1", 26821, b"/b")),
        ("bk1:5000:/b", Target("bk1", 5000, b"/b")),
        ("10.0.0.1:/b:/c:d", Target("10.0.0.1", 26821, b"/b:/c:d")),
        ("[fe80::1%eth0]:/b", Target("fe80::1%eth0", 26821, b"/b")),
        ("[::1]:5000:/b", Target("::1", 5000, b"/b")),
        ("h:/", Target("h", 26821, b"/")),
        (os.fsdecode(b"/\xff\n"), Target(None, 26821, b"/\xff\n")),
    ],
)
def test_targets(text, target):
    assert arguments.parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "b", "b/c", "host:", "host:b", ":/b", "::1:/b", "[::1:/b", "[]:/b", "a b:/c"),
        *("h:0:/b", "h:65536:/b", "h:99999999999:/b", "h:x:/b", "h:-1:/b", "h:1:2:/b"),
        *("/a/../b", "h:/..", "user@h/b", "[bk1]:/b"),
    ],
)
def test_what_is_no_target_is_said(text):
    with pytest.raises(UsageError) as caught:
        arguments.parse_target(text)
    assert text in caught.value.cause and caught.value.remedy


@given(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True) | st.just("fe80::1"),
    st.integers(1, 65535),
    st.lists(st.from_regex(rb"[^/\x00]{1,8}", fullmatch=True), max_size=4),
)
def test_a_target_is_what_its_text_says(host, port, parts):
    parts = [part for part in parts if part not in (b".", b"..")]
    path = b"/" + b"/".join(parts)
    shown = f"[{host}]" if ":" in host else host
    given_text = f"{shown}:{port}:" + os.fsdecode(path)
    assert arguments.parse_target(given_text) == Target(host, port, path)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_a_usage_error(text):
    try:
        target = arguments.parse_target(text.encode("utf-8", "replace").decode())
    except UsageError:
        return
    assert target.path.startswith(b"/") and b".." not in target.path.split(b"/")


def test_mirror_options():
    words = ["mirror", "src", "bk:/b", "--once", "--exclude", "/a/x", "--exclude", "*.tmp"]
    words += ["--check", "strict", "--compress", "3", "--no-encrypt", "--bwlimit", "20m", "--adopt"]
    assert arguments.options_of(arguments.parse(words)) == MirrorOptions(
        source=Path.cwd() / "src",
        target=Target("bk", 26821, b"/b"),
        once=True,
        excludes=(b"/a/x", b"*.tmp"),
        check="strict",
        compress=3,
        encrypt=False,
        secret_key=None,
        bwlimit="20m",
        adopt=True,
    )


def test_what_leaves_the_host_is_encrypted_unless_told_otherwise():
    def encrypt(*words):
        return arguments.options_of(arguments.parse(["mirror", "/a", *words])).encrypt

    assert encrypt("bk:/b") is True and encrypt("/b") is False
    assert encrypt("bk:/b", "--no-encrypt") is False and encrypt("/b", "--encrypt") is True


def test_a_secret_key_is_read_and_never_shown(tmp_path):
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_bytes(b"s3cret \xff\r\n")
    words = ["mirror", "/a", "/b", "--secret-key-file", str(file)]
    options = arguments.options_of(arguments.parse(words))
    assert options.secret_key == b"s3cret \xff"
    assert "s3cret" not in repr(options)
    for content, cause in ((b"\n", "empty"), (b"x" * 70_000, "too long")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=cause):
            arguments.options_of(arguments.parse(words))
    file.chmod(0o640)
    with pytest.raises(UsageError, match="open to others") as told:
        arguments.options_of(arguments.parse(words))
    assert told.value.remedy == f"run: chmod 600 {file}"
    file.unlink()
    with pytest.raises(UsageError, match="No such file"):
        arguments.options_of(arguments.parse(words))


CODE = "a1B2" * 8


def test_a_code_is_read_from_a_file_or_from_standard_input(tmp_path, monkeypatch):
    file = tmp_path / "code"
    file.touch(mode=0o600)
    file.write_text(f" {CODE}\n")
    assert secret.code_of(file, "bk") == CODE
    file.chmod(0o604)
    with pytest.raises(UsageError, match="open to others"):
        secret.code_of(file, "bk")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CODE}\nmore"))
    assert secret.code_of(None, "bk") == CODE


@pytest.mark.parametrize("said", ["", "\n", CODE[:-1], CODE + "a", "\u00e9" * 32, "x" * 5000])
def test_what_is_no_code_is_not_said_again(said, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    with pytest.raises(UsageError, match="no pairing code") as told:
        secret.code_of(None, "bk")
    assert "i2node code" in told.value.remedy
    assert len(said) < 31 or said[:31] not in str(told.value)


def test_a_code_is_asked_for_without_an_echo():
    """At a terminal, which a pseudo terminal is (pty(7))."""
    ours, theirs = pty.openpty()
    script = "from i2node.cli.secret import code_of; print(code_of(None, 'bk'), end='')"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as child:
        os.close(theirs)
        shown = b""
        while not shown.endswith(b": "):
            shown += os.read(ours, 1000)
        os.write(ours, CODE.encode() + b"\n")
        assert child.stdout.read() == CODE.encode()
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while more := os.read(ours, 1000):
                shown += more
    os.close(ours)
    assert b"pairing code of bk" in shown and CODE.encode() not in shown


@pytest.mark.parametrize("level", ["0", "23", "fast", "", "-1", "1.5", "999999", "²"])
def test_a_compression_that_is_none_is_said(level):
    with pytest.raises(UsageError, match="--compress"):
        arguments.options_of(arguments.parse(["mirror", "/a", "/b", f"--compress={level}"]))


@pytest.mark.parametrize(
    "words",
    [
        *([], ["fly"], ["mirror"], ["mirror", "/a"], ["pair"], ["mirror", "/a", "/b", "/c"]),
        *(["mirror", "/a", "/b", "--onc"], ["mirror", "/a", "/b", "--check", "loose"]),
    ],
)
def test_wrong_words_are_usage_errors(words):
    with pytest.raises(UsageError, match="see: i2node"):
        arguments.parse(words)


def test_listen_takes_any_free_port():
    assert arguments.parse_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert arguments.parse_peer("[::1]") == ("::1", 26821)
    with pytest.raises(UsageError):
        arguments.parse_peer("127.0.0.1:0")


# --- the program ------------------------------------------------------------------------------


def test_version():
    done = run("version")
    assert (done.returncode, done.stdout) == (0, f"i2node {i2node.__version__}\n")


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in ("agent", "code", "pair", "mirror", "status", "compare", "check-config"):
        assert re.search(rf"^ +{command}\s", done.stdout, re.MULTILINE)


def test_errors_go_to_people_and_to_programs():
    done = run("mirror", "/a", "nowhere", "--json")
    assert done.returncode == 2
    line = json.loads(done.stdout)
    assert line["t"] == "error" and line["code"] == "usage" and line["cause"] and line["remedy"]
    assert done.stderr.startswith("i2node: target nowhere")


def test_an_error_cannot_play_with_the_terminal():
    done = run("mirror", "/a", "x\x1b[2J\nfake")
    assert done.returncode == 2 and "\x1b" not in done.stderr and "\nfake" not in done.stderr


def test_compare_keeps_1_for_different():
    assert run("compare", "/a", "nowhere").returncode == 2


def test_check_config(tmp_path):
    file = tmp_path / "etc" / "i2node.toml"
    done = run("--home", str(tmp_path), "check-config")
    assert done.returncode == 0 and "not there" in done.stdout
    file.parent.mkdir()
    file.write_text("listen_port = 5000")
    done = run("--home", str(tmp_path), "check-config")
    assert (done.returncode, done.stdout) == (0, f"{file}: sound\n")
    file.write_text("listen_prot = 5000")
    done = run("check-config", str(file))
    assert done.returncode == 2 and done.stdout == ""
    assert "unknown key 'listen_prot'" in done.stderr and "'listen_port'" in done.stderr


def test_status_when_nothing_runs(tmp_path):
    done = run("--home", str(tmp_path), "status")
    assert done.returncode == 0 and "no rule is running" in done.stdout
    assert run("--home", str(tmp_path), "status", "--json").stdout == "[]\n"


def test_status_of_a_rule_that_is_received(tmp_path):
    """A target does not tell what it does not know: no lag, no coverage."""
    report = RuleReport(
        rule="0123abcd",
        source="wk:/srv",
        target="/backup",
        side="target",
        state=State.REPLICATION,
        phase="held",
        files_total=4000,
        blocked_on="a person",
        cause="the brake holds",
        remedy="i2node release 0123abcd",
    )
    assert display.status_text([report]).splitlines() == [
        "wk:/srv -> /backup  (received by process 0)",
        "  REPLICATION (held), rule 0123abcd: 4,000 entries",
        "  waits for a person",
        "  the brake holds",
        "  remedy: i2node release 0123abcd",
    ]


@pytest.mark.parametrize("verb", ["release", "refuse"])
def test_who_decides_is_told_what_came_of_it(tmp_path, capsys, verb):
    def decide(question):
        asked.append(question["rule"])
        if question["rule"] != "held":
            raise UsageError("rule x holds nothing back", "see: i2node status")

    def ask(rule):
        return main(["--home", str(tmp_path), verb, rule]), capsys.readouterr()

    asked: list[str] = []
    status, told = ask("held")
    assert status == 2 and "no agent of this home runs" in told.err
    with rpc.StatusServer(tmp_path / "var" / "run", {verb: decide}):
        status, told = ask("held")
        assert status == 0 and told.out.startswith(f"rule held {verb}")
        status, told = ask("x")
        assert status == 2 and "holds nothing back" in told.err
    assert asked == ["held", "x"]


def test_status_of_a_running_rule(tmp_path):
    watch = WatchReport("inotify", 0.99999, 3, 30.0, 3600.0, 2)
    report = replace(REPORT, watch=watch, problems=Problems(4, (DENIED,)), cause="why", remedy="do")
    with rpc.StatusServer(tmp_path / "var" / "run", {"status": lambda _: [plain(report)]}):
        (rule,) = json.loads(run("--home", str(tmp_path), "status", "--json").stdout)
        text = run("--home", str(tmp_path), "status").stdout
    wanted = "rule source target state progress files_total files_done bytes_total bytes_done"
    wanted += " bytes_sent rate eta_s dirty in_flight lag_s in_sync watch problems last_error cause"
    assert set(wanted.split()) | {"remedy"} <= set(rule)
    assert set(rule["watch"]) >= {"engine", "coverage", "overflows", "max_undetected_s"}
    assert rule["problems"]["count"] == 4 and rule["problems"]["first"][0]["path"] == "/a/x"
    assert "99.9 % covered" in text and "not in sync" in text
    assert "remedy: do" in text and "problems: 4" in text
    assert (
        "found within 30.0 s (but for 2 processes" in text and "compared within 1 h 00 min" in text
    )


def test_explain_when_nothing_runs(tmp_path):
    done = run("--home", str(tmp_path), "explain", "/x\udcff", "--json")
    assert done.returncode == 2 and "start its mirror" in done.stderr
    assert json.loads(done.stdout)["cause"].startswith(r"/x\xff: no rule is running")
    for path in ("", "/a\0b"):
        with pytest.raises(UsageError, match="not a path"):
            lives.find(Config.load(tmp_path), path)


def asked_for(found, answers):
    """The verbs of a process that notes what it is asked for, and answers what there is."""

    def explain(question):
        found.append(question["path"])
        return answers.get(question["path"])

    return {"explain": explain}


def test_explain_asks_for_the_path_itself_then_for_where_it_leads(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "link").symlink_to("there")
    (there / "inner").symlink_to("/nowhere")
    found = []
    verbs = asked_for(found, {str(there): {"n": 1}, f"{there}/inner": {"n": 2}})
    config = Config.load(tmp_path)
    with rpc.StatusServer(config.run, verbs):
        assert lives.find(config, f"{tmp_path}/link/inner/") == [{"n": 2}]
        assert lives.find(config, f"{tmp_path}/link") == [{"n": 1}]
        assert lives.find(config, f"{tmp_path}/link/../there/.") == [{"n": 1}]
        with pytest.raises(UsageError, match="no rule that runs here covers it"):
            lives.find(config, os.fsdecode(bytes(there) + b"/\xff\n"))
    assert found == [
        *(f"{there}/inner", f"{tmp_path}/link", str(there), str(there)),
        os.fsdecode(bytes(there) + b"/\xff\n"),
    ]


def test_an_agent_beside_is_not_asked_for_a_life(tmp_path):
    config = Config.load(tmp_path)
    verbs = {"status": lambda _: []}
    with (
        rpc.StatusServer(config.run, verbs),
        pytest.raises(UsageError, match="no rule is running"),
    ):
        lives.find(config, "/x")


def test_explain_says_why_a_process_could_not_tell(tmp_path):
    def fails(question):
        raise SessionError("the rule is only beginning", "ask again")

    config = Config.load(tmp_path)
    with rpc.StatusServer(config.run, {"explain": fails}):
        done = run("--home", str(tmp_path), "explain", "/x")
    assert done.returncode == 4
    assert "only beginning" in done.stderr and "ask again" in done.stderr


@pytest.mark.parametrize("path", [None, 7, "", "relative"])
def test_a_question_without_a_path_is_told_so(tmp_path, path):
    def act(session):
        (answer,) = rpc.ask(tmp_path / "run", "explain", path=path)
        assert isinstance(answer.error, UsageError)
        (answer,) = rpc.ask(tmp_path / "run", "explain", path=os.fsdecode(b"/\xff"))
        assert answer.value == "2fff"
        return Outcome()

    assert driven(tmp_path, act, once=True)[0] == 0


def test_who_stops_reading_is_no_crash(tmp_path):
    reports = [plain(replace(REPORT, rule=str(n))) for n in range(3000)]
    with (
        rpc.StatusServer(tmp_path / "var" / "run", {"status": lambda _: reports}),
        subprocess.Popen(
            [sys.executable, "-m", "i2node", "--home", tmp_path, "status", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child,
    ):
        assert child.stdout.read(1) == b"["
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


# --- what is shown ----------------------------------------------------------------------------


def kinds(lines):
    return [line["t"] for line in lines]


def test_a_feed_tells_transitions_at_once_and_progress_once_a_second():
    feed = display.Feed()
    assert kinds(feed.lines(REPORT, 10.0)) == ["state", "progress"]
    assert feed.lines(replace(REPORT, files_done=1), 10.5) == []
    (line,) = feed.lines(replace(REPORT, files_done=2), 11.0)
    assert line["t"] == "progress" and line["files_done"] == 2
    live = replace(REPORT, state=State.REPLICATION, files_done=2, in_sync=True)
    (line,) = feed.lines(live, 11.1)
    assert line["t"] == "state" and line["state"] == "REPLICATION" and line["in_sync"] is True


def test_a_feed_is_silent_where_nothing_moves():
    feed = display.Feed()
    live = replace(REPORT, state=State.REPLICATION, in_sync=True)
    feed.lines(live, 0.0)
    assert feed.lines(replace(live, rate=1.0), 100.0) == []
    assert kinds(feed.lines(replace(live, dirty=1, lag_s=0.1), 200.0)) == ["progress"]


def test_a_feed_tells_a_problem_once():
    feed = display.Feed()
    troubled = replace(REPORT, problems=Problems(1, (DENIED,)))
    assert kinds(feed.lines(troubled, 0.0)) == ["state", "problem", "progress"]
    other = PathProblem("/a/y", "vanished")
    outcome = Outcome(exit_status=1, problem_count=2, problems=(DENIED, other))
    last = feed.last(troubled, outcome, 0.1)
    assert kinds(last) == ["progress", "problem", "done"]
    assert last[1]["path"] == "/a/y" and last[2]["problem_count"] == 2


def test_the_live_picture():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    report = replace(
        REPORT, progress=42.0, eta_s=125.0, rate=2048.0, source="/a[red]\x1b[2J", remedy="wait"
    )
    with terminal.Terminal(console) as screen:
        screen.show(report, 0.0)
        screen.draining()
        screen.show(replace(report, state=State.REPLICATION, lag_s=0.4), 1.0)
        screen.finish(report, Outcome(files=1234, problem_count=3, problems=(DENIED,)))
    text = console.file.getvalue()
    assert "[red]\\x1b[2J" in text and "\x1b[2J" not in text
    for part in ("42 %", "2 min 05 s left", "2.0 KiB/s", "lag 0.4 s", "once more to leave at once"):
        assert part in text
    assert "1,234 files" in text and "and 2 problems more" in text and "/a/x: read" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.04, "40 ms"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7260, "2 h 01 min"),
        (3 * 86400 + 7200, "3 d 2 h"),
    ],
)
def test_durations(seconds, text):
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**51, "2.0 PiB")]
)
def test_sizes(amount, text):
    assert display.size(amount) == text


# --- running a session ------------------------------------------------------------------------


class Scripted:
    """A session that does what the test says, so that interruption can come at a known moment."""

    def __init__(self, act) -> None:
        self.act = act
        self.stops = 0
        self.stopped = threading.Event()

    def run(self) -> Outcome:
        return self.act(self)

    def report(self) -> RuleReport:
        return REPORT

    def explain(self, path: bytes) -> str:
        return path.hex()

    def stop(self) -> None:
        self.stops += 1
        self.stopped.set()


@pytest.fixture(autouse=True)
def in_the_foreground():
    """A shell starts what runs in its background with SIGINT ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def driven(tmp_path, act, once):
    stream = io.StringIO()
    session = Scripted(act)
    try:
        status = drive.drive(session, display.JsonLines(stream), tmp_path / "run", once)
    finally:
        assert list((tmp_path / "run").iterdir()) == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return status, [json.loads(line) for line in stream.getvalue().splitlines()], session


def test_a_session_ends_with_its_own_exit_status(tmp_path):
    outcome = Outcome(exit_status=1, problem_count=1, problems=(DENIED,))
    status, lines, session = driven(tmp_path, lambda session: outcome, once=True)
    assert status == 1 and session.stops == 0
    assert kinds(lines)[0] == "state" and kinds(lines)[-3:] == ["progress", "problem", "done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_a_replication_ends_with_0(tmp_path, number):
    def act(session):
        assert len(rpc.status(tmp_path / "run")) == 1
        os.kill(os.getpid(), number)
        assert session.stopped.wait(60)
        return Outcome(exit_status=1, problem_count=1)

    status, lines, session = driven(tmp_path, act, once=False)
    assert (status, session.stops, lines[-1]["t"]) == (0, 1, "done")


@pytest.mark.parametrize(("in_sync", "wanted"), [(False, 128 + signal.SIGTERM), (True, 0)])
def test_an_interrupted_pass_is_not_a_complete_one(tmp_path, in_sync, wanted):
    def act(session):
        os.kill(os.getpid(), signal.SIGTERM)
        assert session.stopped.wait(60)
        return Outcome(in_sync=in_sync)

    assert driven(tmp_path, act, once=True)[0] == wanted


def test_a_second_signal_leaves_at_once(tmp_path):
    leave = threading.Event()

    def act(session):
        os.kill(os.getpid(), signal.SIGINT)
        assert session.stopped.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        left.append(leave.wait(60))
        return Outcome()

    left = []
    try:
        with pytest.raises(KeyboardInterrupt):
            driven(tmp_path, act, once=False)
        assert left == []
    finally:
        leave.set()
        for thread in threading.enumerate():
            if thread.name == "session":
                thread.join(60)


def test_an_error_of_the_session_is_raised(tmp_path):
    def act(session):
        raise Refused("not paired", "pair it")

    with pytest.raises(Refused):
        driven(tmp_path, act, once=False)


def test_a_fault_of_the_program_has_its_own_exit_status(monkeypatch, capsys):
    def broken(parsed):
        raise ZeroDivisionError

    monkeypatch.setitem(main.__globals__["commands"].COMMANDS, "version", broken)
    assert main(["version"]) == 70
    assert "internal-error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--home", "", "status"),
        ("mirror", "", "/target"),
        ("mirror", "/source", "/target", "--require", ""),
        ("agent", "--allow-root", ""),
    ],
)
def test_what_an_unset_variable_gives_means_nothing(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    home = () if "--home" in words else ("--home", str(tmp_path))
    assert main([*home, *words]) == 2
    assert capsys.readouterr().err.startswith("i2node: ")
    assert list(tmp_path.glob("etc/*")) == []
