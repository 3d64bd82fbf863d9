"""What Prometheus gets of an agent: the text, by its own parsers; the port; a real mirror."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from ends import free_port, until
from master import HOST, House
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

import i2node
from i2node.errors import UsageError
from i2node.model import State
from i2node.net import exposition
from i2node.net.exposition import CLIENTS, Exposition
from i2node.net.listener import Statistics
from i2node.node.families import page_of, registry_of
from i2node.repl.report import PathProblem, Problems, RuleReport, WatchReport

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BUSY = RuleReport(
    rule="r1",
    source='/srv/"ü\\n\\',
    target="bk:26821:/b",
    state=State.REPLICATION,
    pid=7,
    since=1000.5,
    progress=25.0,
    files_total=400,
    files_done=100,
    bytes_total=1 << 40,
    bytes_done=1 << 38,
    bytes_sent=12345,
    dirty=3,
    in_flight=2,
    lag_s=0.25,
    durable_as_of=1999.75,
    in_sync=True,
    watch=WatchReport("inotify", 0.5, 4, 30.0),
    last_compare=1500.0,
    problems=Problems(9, (PathProblem("/a/x", "denied"),)),
    blocked_on="bandwidth plan",
)
NEW = RuleReport(rule="r2", source="/n", target="/m", counting=True)
HELD = RuleReport(
    rule="r1",
    source="wk",
    target="/room",
    side="target",
    state=State.REPLICATION,
    files_total=77,
    blocked_on="a person who releases or refuses it",
)
SILENT = RuleReport(rule="", source="", target="", cause="process 9 does not answer")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def families(*reports: RuleReport, accepted: str = "") -> list[Metric]:
    statistics = Statistics(accepted=5, channels=2, authenticated=3, garbage=1, shed=4)
    kind, page = page_of(registry_of(lambda: reports, lambda: statistics), accepted)
    read = read_openmetrics if "openmetrics" in kind else read_text
    return list(read(page.decode()))


def samples(found: list[Metric]) -> Samples:
    """Each series once, or it fails."""
    told: Samples = {}
    for family in found:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in told, f"twice: {key}"
            told[key] = sample.value
    return told


def of_rule(told: Samples, rule: str, side: str) -> dict[str, float]:
    """Its numbers by name; without the state and the paths."""
    labels = (("rule", rule), ("side", side))
    return {name: value for (name, these), value in told.items() if these == labels}


@pytest.mark.parametrize("accepted", ["", OPENMETRICS])
def test_a_rule_in_numbers(accepted: str) -> None:
    told = samples(families(BUSY, HELD, SILENT, accepted=accepted))
    assert of_rule(told, "r1", "source") == {
        "i2node_rule_state_entered_timestamp_seconds": 1000.5,
        "i2node_rule_blocked": 1,
        "i2node_rule_in_sync": 1,
        "i2node_rule_lag_seconds": 0.25,
        "i2node_rule_durable_timestamp_seconds": 1999.75,
        "i2node_rule_last_compare_timestamp_seconds": 1500.0,
        "i2node_rule_progress_ratio": 0.25,
        "i2node_rule_source_files": 400,
        "i2node_rule_source_bytes": 1 << 40,
        "i2node_rule_done_files": 100,
        "i2node_rule_done_bytes": 1 << 38,
        "i2node_rule_sent_bytes_total": 12345,
        "i2node_rule_problems": 9,
        "i2node_rule_dirty_names": 3,
        "i2node_rule_in_flight_frames": 2,
        "i2node_rule_watch_coverage_ratio": 0.5,
        "i2node_rule_watch_overflows_total": 4,
        "i2node_rule_watch_max_undetected_seconds": 30.0,
    }
    assert of_rule(told, "r1", "target") == {
        "i2node_rule_blocked": 1,
        "i2node_rule_target_entries": 77,
    }
    paths = (("rule", "r1"), ("side", "source"), ("source", BUSY.source), ("target", BUSY.target))
    assert told["i2node_rule_info", paths] == 1
    for side in ("source", "target"):
        states = {
            dict(labels)["state"]: value
            for (name, labels), value in told.items()
            if name == "i2node_rule_state" and ("side", side) in labels
        }
        assert states == {state.value: float(state is State.REPLICATION) for state in State}
    assert told["i2node_silent_processes", ()] == 1
    assert told["i2node_build_info", (("version", i2node.__version__),)] == 1
    assert told["i2node_listener_connections_total", ()] == 5
    assert told["i2node_listener_open_channels", ()] == 2
    assert told["i2node_listener_refused_total", (("reason", "shed"),)] == 4
    assert told["process_open_fds", ()] > 0


def test_what_is_not_known_has_no_sample() -> None:
    told = samples(families(NEW))
    assert of_rule(told, "r2", "source") == {
        "i2node_rule_blocked": 0,
        "i2node_rule_in_sync": 0,
        "i2node_rule_progress_ratio": 0,
        "i2node_rule_problems": 0,
    }
    watched = RuleReport(rule="r3", source="/n", target="/m", watch=WatchReport("fanotify", 1.0))
    known = of_rule(samples(families(watched)), "r3", "source")
    assert known["i2node_rule_source_files"] == known["i2node_rule_dirty_names"] == 0
    assert known["i2node_rule_watch_coverage_ratio"] == 1


def test_two_that_tell_of_the_same_are_one() -> None:
    """Two series of one name would be refused, with all the others."""
    away = RuleReport(rule="r1", source="wk", target="/room", side="target")
    for order in ([away, HELD], [HELD, away]):
        told = samples(families(*order))
        assert of_rule(told, "r1", "target")["i2node_rule_target_entries"] == 77


def test_names_and_units_are_by_the_convention() -> None:
    found = families(BUSY, NEW, HELD)
    assert {family.name for family in found} > {"i2node_rule_state", "i2node_silent_processes"}
    for family in found:
        name, values = family.name, [sample.value for sample in family.samples]
        assert re.fullmatch("(i2node|process)(_[a-z]+)+", name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), name
        assert not re.search(
            "_(count|sum|bucket|percent|ms|minutes|hours|days|[kmg]i?b)(_|$)", name
        )
        assert family.documentation.strip() and "\n" not in family.documentation
        assert all(0 <= value <= 1 for value in values) or not name.endswith("_ratio"), name
        assert name.endswith("_timestamp_seconds") or "timestamp" not in name
        labels = {label for sample in family.samples for label in sample.labels}
        if name.startswith("i2node_rule_") and name != "i2node_rule_info":
            assert labels - {"state"} == {"rule", "side"}, name


def test_every_name_stands_in_the_readme() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    for family in families(BUSY, HELD):
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("i2node"):
            short = name.removeprefix("i2node_rule_").removeprefix("i2node_listener_")
            assert f"`{name}`" in text or f"`{short}`" in text, name


# --- the port ---------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """One where `page` is served."""
    port = free_port()
    with closing(Exposition(port, lambda accepted: ("text/x", b"of " + accepted.encode()))):
        yield port


def asked(
    port: int, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=60)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_there_is_one_page(port: int) -> None:
    assert asked(port, Accept="this") == (200, "of this")
    assert asked(port, "/metrics?name[]=x", Accept="that") == (200, "of that")
    for path in ("/", "/metrics/", "/favicon.ico", "http://localhost/metrics"):
        assert asked(port, path)[0] == 404, path
    assert asked(port, method="POST")[0] == 501


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.1:80"])
def test_who_asks_this_host_is_answered(port: int, host: str) -> None:
    assert asked(port, Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "[::1]", ""])
def test_a_name_that_somebody_let_point_here_is_refused(port: int, host: str) -> None:
    status, told = asked(port, Host=host)
    assert status == 421 and "127.0.0.1" in told


def test_it_listens_on_this_host_alone(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), 60)


def test_clients_that_hang_hold_up_no_other_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition._Client, "timeout", 600.0)
    port = free_port()
    page = Exposition(port, lambda _: ("text/x", b"page"))
    with ExitStack() as clients:
        hang = [
            clients.enter_context(socket.create_connection((HOST, port), 60))
            for _ in range(CLIENTS - 1)
        ]
        hang[0].sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert asked(port) == (200, "page")
        more = [clients.enter_context(socket.create_connection((HOST, port), 60)) for _ in range(2)]
        assert more[-1].recv(1) == b"", "one more than there is room for"
        page.close()
        with closing(Exposition(port, lambda _: ("text/x", b"anew"))):
            assert asked(port) == (200, "anew")


def test_an_answer_that_takes_long_holds_up_no_end() -> None:
    port, begun, let = free_port(), threading.Event(), threading.Event()

    def slow(_: str) -> tuple[str, bytes]:
        begun.set()
        assert let.wait(60)
        return "text/x", b"late"

    page = Exposition(port, slow)
    found: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: found.append(asked(port)))
    client.start()
    assert begun.wait(60)
    page.close()
    let.set()
    client.join()
    assert found == [(200, "late")]


def test_a_client_that_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition._Client, "timeout", 0.05)
    port = free_port()
    with (
        closing(Exposition(port, lambda _: ("text/x", b""))),
        socket.create_connection((HOST, port), 60) as client,
    ):
        assert client.recv(1) == b""


def test_a_page_that_cannot_be_made_is_told(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()

    def broken(_: str) -> tuple[str, bytes]:
        raise ValueError("broken")

    with closing(Exposition(port, broken)), caplog.at_level("ERROR"):
        for _ in range(10):
            assert asked(port)[0] == 500
    told = [record for record in caplog.records if record.name == "i2node.net"]
    assert [record.getMessage() for record in told] == ["fault at=metrics"] * 5
    assert told[0].exc_info is not None


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(UsageError, match=f"metrics_port: .*:{port}: Address already in use") as no:
        Exposition(port, lambda _: ("", b""))
    assert "metrics_port" in no.value.remedy and no.value.exit_status == 2


# --- an agent ---------------------------------------------------------------------------------


def scraped(port: int) -> Samples:
    status, text = asked(port)
    assert status == 200
    return samples(list(read_text(text)))


def in_sync(port: int) -> dict[str, str]:
    """The names of the rules that are, by their sources."""
    told = scraped(port)
    infos = [dict(labels) for name, labels in told if name == "i2node_rule_info"]
    return {
        one["source"]: one["rule"]
        for one in infos
        if of_rule(told, one["rule"], one["side"]).get("i2node_rule_in_sync")
    }


def test_an_agent_tells_of_what_runs_in_its_home(house: House) -> None:
    """A controller's rule, and a mirror to a directory of the same host."""
    (house.source / "file").write_text("content" * 1000)
    other, target = house.place / "other", house.place / "target"
    other.mkdir()
    (other / "file").write_text("x")
    port = free_port()
    house.work.configure(f"metrics_port = {port}\n")
    assert "changed=metrics_port" in house.work.reload()
    house.begin().state(State.REPLICATION)
    words = ("--home", str(house.work.home), "mirror", str(other), str(target), "--json")
    mirror = house.work.nursery.bear(house.place / "mirror.log", *words)
    both = {str(house.source), str(other)}
    until("not both in sync", lambda: in_sync(port).keys() == both)
    told, rule = scraped(port), in_sync(port)[str(house.source)]
    numbers = of_rule(told, rule, "source")
    assert numbers["i2node_rule_source_bytes"] == 7000
    assert numbers["i2node_rule_sent_bytes_total"] > 0
    assert numbers["i2node_rule_lag_seconds"] >= 0
    assert numbers["i2node_rule_watch_coverage_ratio"] == 1
    entered = numbers["i2node_rule_state_entered_timestamp_seconds"]
    assert numbers["i2node_rule_durable_timestamp_seconds"] > entered - 60
    assert told["i2node_silent_processes", ()] == 0
    # A process that hangs is told of, and keeps the others from nothing.
    mirror.signal(signal.SIGSTOP)
    assert scraped(port)["i2node_silent_processes", ()] == 1
    assert in_sync(port).keys() == {str(house.source)}
    mirror.kill()
    until("it is still told of", lambda: scraped(port)["i2node_silent_processes", ()] == 0)


def test_a_reload_takes_the_port_elsewhere(house: House) -> None:
    first, second = free_port(), free_port()
    house.work.configure(f"metrics_port = {first}\n")
    house.work.reload()
    assert scraped(first)
    # Taken: it goes on as it was.
    house.work.configure(f"metrics_port = {house.backup.port}\n")
    told = house.work.reload()
    assert " reload-refused " in told and f"{HOST}:{house.backup.port}" in told
    assert scraped(first)
    house.work.configure(f'metrics_port = {second}\nlog_format = "json"\n')
    house.work.child.signal(signal.SIGHUP)
    done = re.compile(r'.*"agent-reloaded".*\n')
    until("no word of the reload", lambda: bool(done.search(house.work.said())))
    assert scraped(second)
    with pytest.raises(ConnectionRefusedError):
        asked(first)
    told = json.loads(house.work.said().splitlines()[-1])
    assert told["changed"] == "log_format,metrics_port" and told["level"] == "info"
    # An agent that begins with a port that is taken says which, and in which form it is to.
    house.backup.stop(signal.SIGTERM)
    house.backup.configure(f'metrics_port = {second}\nlog_format = "json"\n')
    said = len(house.backup.said())
    house.backup.child = house.work.nursery.bear(
        house.backup.log, "--home", str(house.backup.home), "agent"
    )
    assert house.backup.child.wait(60) == 2
    (line,) = house.backup.said()[said:].splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"], told["code"]) == ("error", "command-failed", "usage")
    assert f"metrics_port: listening on {HOST}:{second}" in told["cause"] and told["remedy"]
