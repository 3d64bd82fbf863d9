"""Real sockets in real directories, one process asking another."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from i2node.errors import I2Error, Refused, SafetyStop, UsageError, of_code
from i2node.model import State
from i2node.node import rpc
from i2node.repl.report import (
    Outcome,
    PathProblem,
    Problems,
    RuleReport,
    WatchReport,
    plain,
    read,
)

REPORT = RuleReport(
    rule="r1",
    source="/a",
    target="/b",
    state=State.REPLICATION,
    pid=7,
    eta_s=1.5,
    watch=WatchReport("inotify", 1.0, 2, 30.0),
    problems=Problems(1, (PathProblem("/a/x", "denied"),)),
)


def listening(run: Path, pid: int) -> socket.socket:
    """A socket at a process id's name, whose behaviour is up to the test."""
    run.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(run / f"{pid}.sock"))
    server.listen()
    return server


def telling(*reports: RuleReport) -> dict[str, rpc.Verb]:
    """The verbs of a process that has these rules."""
    return {"status": lambda _: [plain(report) for report in reports]}


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    return child.pid


def test_a_report_survives_the_way_through_json():
    assert read(json.loads(json.dumps(plain(REPORT)))) == REPORT


def test_a_report_of_another_version_is_read():
    table = plain(REPORT) | {"of_tomorrow": 1}
    table["watch"] = table["watch"] | {"moon": "full"}
    assert read(table) == REPORT
    assert read({"rule": "r", "source": "s", "target": "t"}).state is State.UNKNOWN


def test_an_outcome_is_plain():
    outcome = Outcome(exit_status=1, problems=(PathProblem("/a", "gone"),), problem_count=1)
    assert json.loads(json.dumps(plain(outcome)))["problems"][0]["cause"] == "gone"


def test_who_asks_gets_what_is_true_at_that_moment(tmp_path):
    state = [State.MIRROR]
    verbs = {"status": lambda _: [plain(RuleReport(**_with(state[0])))]}
    with rpc.StatusServer(tmp_path / "run", verbs):
        assert [report.state for report in rpc.status(tmp_path / "run")] == [State.MIRROR]
        state[0] = State.REPLICATION
        assert [report.state for report in rpc.status(tmp_path / "run")] == [State.REPLICATION]


def _with(state: State) -> dict[str, object]:
    return {"rule": "r", "source": "/a", "target": "/b", "state": state}


def test_only_the_owner_may_ask(tmp_path):
    run = tmp_path / "var" / "run"
    old = os.umask(0)
    try:
        with rpc.StatusServer(run, {}):
            name = run / f"{os.getpid()}.sock"
            assert stat.S_IMODE(name.stat().st_mode) == 0o600
            assert stat.S_IMODE(run.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    assert list(run.iterdir()) == []


def test_a_home_with_a_long_path_works(tmp_path):
    run = tmp_path.joinpath(*["x" * 60] * 5) / "run"
    with rpc.StatusServer(run, telling(REPORT)):
        assert len(str(run)) > 300
        assert rpc.status(run) == [REPORT]


def test_nothing_runs_where_nothing_was_made(tmp_path):
    assert rpc.status(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_what_a_dead_process_left_is_removed(tmp_path):
    run = tmp_path / "run"
    pid = dead_process()
    listening(run, pid).close()
    (run / "notes.txt").write_text("not ours")
    (run / "x.sock").write_text("not ours")
    with rpc.StatusServer(run, telling(REPORT)):
        assert rpc.status(run) == [REPORT]
        assert not (run / f"{pid}.sock").exists()
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt", "x.sock"]


def test_a_killed_process_is_seen_then_forgotten(tmp_path):
    """A real process, SIGKILLed: its socket stays, the next question clears it away."""
    script = (
        "import sys; from pathlib import Path\n"
        "from i2node.node import rpc; from i2node.repl.report import RuleReport, plain\n"
        "report = RuleReport(rule='k', source='', target='')\n"
        "rpc.StatusServer(Path(sys.argv[1]), {'status': lambda _: [plain(report)]})\n"
        "print('up', flush=True); sys.stdin.read()"
    )
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", script, run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as child:
        assert child.stdout.readline() == b"up\n"
        assert [report.rule for report in rpc.status(run)] == ["k"]
        child.kill()
    assert (run / f"{child.pid}.sock").exists()
    assert rpc.status(run) == []
    assert list(run.iterdir()) == []


def test_a_process_that_hangs_is_shown_as_such(tmp_path):
    with listening(tmp_path / "run", 4242):
        (report,) = rpc.status(tmp_path / "run", timeout_s=0.05)
    assert report.state is State.UNKNOWN and report.pid == 4242
    assert "does not answer" in report.cause and "4242" in report.remedy


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense", b"{}7", b"[1]", b'[{"rule": 1, "state": "NEW"}]', b'[{"x": 1}]']
)
def test_an_answer_that_is_none_is_shown_as_such(tmp_path, answer):
    with listening(tmp_path / "run", 4242) as server:

        def once():
            peer, _ = server.accept()
            with peer:
                assert peer.recv(1 << 16) == b'{"ask": "status"}\n'
                peer.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        (report,) = rpc.status(tmp_path / "run")
        thread.join()
    assert report.state is State.UNKNOWN and "something else" in report.cause


def test_an_endless_answer_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "ANSWER_MAX", 1000)
    with rpc.StatusServer(tmp_path / "run", telling(*[REPORT] * 100)):
        (report,) = rpc.status(tmp_path / "run")
    assert "too long" in report.cause


def test_a_failing_report_does_not_end_the_server(tmp_path):
    answers = [OSError("not now"), [plain(REPORT)]]

    def reports(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with rpc.StatusServer(tmp_path / "run", {"status": reports}):
        (first,) = rpc.status(tmp_path / "run")
        assert first.state is State.UNKNOWN
        assert rpc.status(tmp_path / "run") == [REPORT]


def test_a_client_that_goes_away_does_not_end_the_server(tmp_path):
    run = tmp_path / "run"
    with rpc.StatusServer(run, telling(*[REPORT] * 800)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run / f"{os.getpid()}.sock"))
        assert len(rpc.status(run)) == 800


def answered(run: Path, question: bytes) -> bytes:
    """What this process answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(run / f"{os.getpid()}.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(question)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_verb_is_given_the_whole_question(tmp_path):
    name = b"/a/\xff\n\xe2\x82".decode("utf-8", "surrogateescape")
    with rpc.StatusServer(tmp_path / "run", {"echo": dict, "status": telling()["status"]}):
        (answer,) = rpc.ask(tmp_path / "run", "echo", path=name, depth=[1, None])
    assert answer == rpc.Answer(os.getpid(), {"ask": "echo", "path": name, "depth": [1, None]})


def test_what_a_verb_cannot_do_is_the_same_error_for_who_asked(tmp_path):
    def refuse(question):
        raise SafetyStop(f"not {question['what']}", "ask a person")

    with rpc.StatusServer(tmp_path / "run", {"release": refuse}):
        (answer,) = rpc.ask(tmp_path / "run", "release", what="that")
        (unknown,) = rpc.ask(tmp_path / "run", "explain")
        (report,) = rpc.status(tmp_path / "run")
    assert isinstance(answer.error, SafetyStop) and answer.value is None
    assert (answer.error.cause, answer.error.remedy) == ("not that", "ask a person")
    assert isinstance(unknown.error, UsageError) and "release" in unknown.error.remedy
    assert report.state is State.UNKNOWN and report.last_error == "usage"


def test_an_error_of_another_version_is_an_error():
    error = of_code("of-tomorrow", "why", "do")
    assert type(error) is I2Error and str(error) == "why (do)"
    assert type(of_code("refused", "why")) is Refused


@pytest.mark.parametrize(
    "question", [b"nonsense\n", b"[1]\n", b"{}\n", b'{"ask": [1]}\n', b"[" * 100_000 + b"\n"]
)
def test_what_is_no_question_is_told_so(tmp_path, question):
    with rpc.StatusServer(tmp_path / "run", telling(REPORT)):
        answer = json.loads(answered(tmp_path / "run", question))
    assert answer["error"] == "usage" and answer["cause"] and answer["remedy"]


def test_a_question_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "QUESTION_MAX", 1000)
    with rpc.StatusServer(tmp_path / "run", telling(REPORT)):
        answer = json.loads(answered(tmp_path / "run", b"x" * 1001))
    assert answer["error"] == "usage" and "1000 bytes" in answer["cause"]


def test_who_asks_nothing_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "QUESTION_DEADLINE_S", 0.05)
    with rpc.StatusServer(tmp_path / "run", telling(REPORT)):
        assert answered(tmp_path / "run", b'{"ask": "sta') == b""


def test_who_asks_nothing_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "QUESTION_DEADLINE_S", 3600.0)
    monkeypatch.setattr(rpc, "LEAVE_S", 20.0)
    with contextlib.ExitStack() as clients:
        with rpc.StatusServer(tmp_path / "run", telling(REPORT)):
            for _ in range(rpc.THREADS - 1):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(tmp_path / "run" / f"{os.getpid()}.sock"))
            assert rpc.status(tmp_path / "run") == [REPORT]
        assert not [t.name for t in threading.enumerate() if t.name.startswith("status-")]


def test_a_slow_answer_does_not_hold_up_the_next_question(tmp_path):
    held, let = threading.Event(), threading.Event()

    def slow(_):
        held.set()
        let.wait(60)
        return "late"

    run = tmp_path / "run"
    found: list[rpc.Answer] = []
    with rpc.StatusServer(run, {"slow": slow} | telling(REPORT)):
        thread = threading.Thread(target=lambda: found.extend(rpc.ask(run, "slow", 60)))
        thread.start()
        assert held.wait(60)
        assert rpc.status(run) == [REPORT]
        let.set()
        thread.join()
    assert [answer.value for answer in found] == ["late"]


def test_a_file_in_the_way_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="--home"):
        rpc.StatusServer(tmp_path / "run", {})
    with pytest.raises(UsageError, match="--home"):
        rpc.status(tmp_path / "run")
