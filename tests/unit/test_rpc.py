"""Real sockets in real directories, one process asking another."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from i2node.errors import UsageError
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
    with rpc.StatusServer(tmp_path / "run", lambda: [RuleReport(**_with(state[0]))]):
        assert [report.state for report in rpc.ask(tmp_path / "run")] == [State.MIRROR]
        state[0] = State.REPLICATION
        assert [report.state for report in rpc.ask(tmp_path / "run")] == [State.REPLICATION]


def _with(state: State) -> dict[str, object]:
    return {"rule": "r", "source": "/a", "target": "/b", "state": state}


def test_only_the_owner_may_ask(tmp_path):
    run = tmp_path / "var" / "run"
    old = os.umask(0)
    try:
        with rpc.StatusServer(run, list):
            name = run / f"{os.getpid()}.sock"
            assert stat.S_IMODE(name.stat().st_mode) == 0o600
            assert stat.S_IMODE(run.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    assert list(run.iterdir()) == []


def test_a_home_with_a_long_path_works(tmp_path):
    run = tmp_path.joinpath(*["x" * 60] * 5) / "run"
    with rpc.StatusServer(run, lambda: [REPORT]):
        assert len(str(run)) > 300
        assert rpc.ask(run) == [REPORT]


def test_nothing_runs_where_nothing_was_made(tmp_path):
    assert rpc.ask(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_what_a_dead_process_left_is_removed(tmp_path):
    run = tmp_path / "run"
    pid = dead_process()
    listening(run, pid).close()
    (run / "notes.txt").write_text("not ours")
    (run / "x.sock").write_text("not ours")
    with rpc.StatusServer(run, lambda: [REPORT]):
        assert rpc.ask(run) == [REPORT]
        assert not (run / f"{pid}.sock").exists()
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt", "x.sock"]


def test_a_killed_process_is_seen_then_forgotten(tmp_path):
    """A real process, SIGKILLed: its socket stays, the next question clears it away."""
    script = (
        "import sys; from pathlib import Path\n"
        "from i2node.node import rpc; from i2node.repl.report import RuleReport\n"
        "report = RuleReport(rule='k', source='', target='')\n"
        "rpc.StatusServer(Path(sys.argv[1]), lambda: [report])\n"
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
        assert [report.rule for report in rpc.ask(run)] == ["k"]
        child.kill()
    assert (run / f"{child.pid}.sock").exists()
    assert rpc.ask(run) == []
    assert list(run.iterdir()) == []


def test_a_process_that_hangs_is_shown_as_such(tmp_path):
    with listening(tmp_path / "run", 4242):
        (report,) = rpc.ask(tmp_path / "run", timeout_s=0.05)
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
                peer.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        (report,) = rpc.ask(tmp_path / "run")
        thread.join()
    assert report.state is State.UNKNOWN and "something else" in report.cause


def test_an_endless_answer_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "ANSWER_MAX", 1000)
    with rpc.StatusServer(tmp_path / "run", lambda: [REPORT] * 100):
        (report,) = rpc.ask(tmp_path / "run")
    assert "too long" in report.cause


def test_a_failing_report_does_not_end_the_server(tmp_path):
    answers = [ValueError("not now"), [REPORT]]

    def reports():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with rpc.StatusServer(tmp_path / "run", reports):
        (first,) = rpc.ask(tmp_path / "run")
        assert first.state is State.UNKNOWN
        assert rpc.ask(tmp_path / "run") == [REPORT]


def test_a_client_that_goes_away_does_not_end_the_server(tmp_path):
    run = tmp_path / "run"
    with rpc.StatusServer(run, lambda: [REPORT] * 800):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run / f"{os.getpid()}.sock"))
        assert len(rpc.ask(run)) == 800


def test_a_file_in_the_way_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="--home"):
        rpc.StatusServer(tmp_path / "run", list)
    with pytest.raises(UsageError, match="--home"):
        rpc.ask(tmp_path / "run")
