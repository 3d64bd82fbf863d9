"""What is heard of the rules, written down and read back."""

from __future__ import annotations

import json
import math
import time
import uuid
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruled import BK, NOW, WK, Ground, a_pass, standing
from served import served
from sqlalchemy import func, select

from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.controller.store.heard import KEPT_S, SPANS, Heard, Last, Presence, sent_since, spread
from i2node.controller.store.history import History, Span
from i2node.controller.store.tables import LogLine, Traffic
from i2node.errors import ProtocolError
from i2node.model import State
from i2node.orders import NUMBER_MAX, Note, Tally, plain, read_standing


@pytest.fixture
def ground(database: Database, tmp_path: Path) -> Ground:
    return Ground(database, Vault(tmp_path / "vault.key"))


def sent(number: int, **more: Any) -> dict[str, Any]:
    return {"tally": Tally(bytes_sent=number, lag_s=0.5), **more}


def traffic(ground: Ground, rule: str, span: int, now: float = NOW) -> list[tuple[int, int]]:
    rows = History(ground.database).traffic(rule, span, 0, int(now) + 10 * span)
    return [(row.start, row.sent) for row in rows]


def test_the_last_of_each_rule_is_there_for_whoever_starts_next(ground: Ground) -> None:
    rule, other = ground.create(), ground.create(fsp_name="other")
    heard = Heard(ground.database)
    first = standing(rule, State.MIRROR, progress=3, passes=0, tally=Tally(rate=1.5))
    assert heard.note([first, standing(other, last=a_pass(), passes=1)], NOW) == 2
    newest = standing(rule, State.REPLICATION, run=2)
    assert heard.note([standing(rule, State.SWITCH), newest], NOW + 1) == 1
    told = Heard(ground.database).last()
    assert told[rule] == Last(NOW + 1, newest)
    assert told[other].standing.last == a_pass()
    assert Heard(ground.database).last([other]).keys() == {other}
    assert Heard(ground.database).last([]) == {}


def test_what_is_not_new_is_written_once_in_a_while(ground: Ground) -> None:
    rule = ground.create()
    heard = Heard(ground.database)
    times = [heard.note([standing(rule, **sent(n))], NOW + n) for n in range(21)]
    assert [n for n, written in enumerate(times) if written] == [0, 10, 20]
    times = [heard.note([standing(rule, **sent(20))], NOW + n) for n in range(21, 60)]
    assert [n for n, written in enumerate(times, 21) if written] == [50]
    assert heard.note([standing(rule, State.STALE)], NOW + 61) == 1


def test_a_fleet_that_reports_at_once_is_written_down_in_turns(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2node.controller.store.heard.AT_ONCE", 2)
    rules = [ground.create(fsp_name=f"r{n}") for n in range(5)]
    heard = Heard(ground.database)
    assert heard.note([standing(rule) for rule in rules], NOW) == 5
    times = [heard.note([standing(rule) for rule in rules], NOW + 30 + n) for n in range(4)]
    assert times == [2, 2, 1, 0]
    assert {last.heard for last in heard.last().values()} == {NOW + 30, NOW + 31, NOW + 32}
    told = [standing(rule, State.STALE) for rule in rules]
    assert heard.note(told, NOW + 90) == 5  # what is new does not wait


def test_a_rule_that_is_gone_is_passed_over(ground: Ground) -> None:
    rule = ground.create()
    heard = Heard(ground.database)
    heard.note([standing(rule)], NOW)
    ground.protection.delete([rule], None, force=True)
    stranger = str(uuid.uuid4()).upper()
    assert heard.note([standing(rule, State.STALE), standing(stranger)], NOW + 1) == 0
    assert heard.last() == {}
    assert heard.note([], NOW) == 0


def test_a_line_for_each_change_and_each_new_cause(ground: Ground) -> None:
    rule = ground.create()
    heard, history = Heard(ground.database), History(ground.database)
    trouble = {"cause": "no route", "remedy": "see the network"}
    lost = {**trouble, "tally": Tally(last_error="peer-lost")}
    for number, one in enumerate(
        [
            standing(rule, State.MIRROR),
            standing(rule, State.MIRROR, progress=50),
            standing(rule, State.EXCEPTION, **lost),
            standing(rule, State.EXCEPTION, **lost),
            standing(rule, State.STALE, **trouble),
            standing(rule, State.STALE, cause="refused"),
            standing(rule, State.STALE),
            standing(rule, State.REPLICATION),
        ]
    ):
        heard.note([one], NOW + number)
    lines, total = history.lines(Span(rule=rule), None, of_nodes=False)
    told = [(line.level, line.detail, line.result) for line in lines]
    assert told[::-1] == [
        (2, "rule test created", 0),
        (2, "MIRROR", 0),
        (0, "MIRROR -> EXCEPTION: no route (see the network)", -3522),
        (1, "EXCEPTION -> STALE: no route (see the network)", 0),
        (1, "STALE: refused", 0),
        (2, "STALE -> REPLICATION", 0),
    ]
    assert total == 6
    errors, count = history.lines(Span(rule=rule, limit=1), 0, of_nodes=False)
    assert (len(errors), count) == (1, 1)
    some, count = history.lines(Span(start=int(NOW) + 2, end=int(NOW) + 4), None, of_nodes=False)
    assert count == 2 and some[0].at == int(NOW) + 4
    assert history.lines(Span(node=WK), None, of_nodes=True) == ([], 0)
    came, went = Presence(WK, True, "1.2"), Presence(WK, False, "the link is lost")
    heard.note_presence([came, went, Presence(BK, True, "")], NOW)
    told, _ = history.lines(Span(node=WK), None, of_nodes=True)
    assert [(one.level, one.operation, one.detail, one.result, one.rule) for one in told] == [
        (1, "offline", "offline: the link is lost", -3522, ""),
        (2, "online", "online: 1.2", 0, ""),
    ]
    assert history.lines(Span(node=BK), 2, of_nodes=True)[1] == 1
    assert history.lines(Span(rule=rule), None, of_nodes=False)[1] == 6


def test_a_line_for_each_note_and_none_for_one_that_was_written(ground: Ground) -> None:
    rule, heard = ground.create(), Heard(ground.database)
    first = Note(at=NOW - 100, what="compare", text="equal")
    second = Note(at=NOW + 9e9, what="copy", text="no room", sound=False, error="target-fault")
    heard.note([standing(rule, notes=(first,))], NOW)
    heard.note([standing(rule, notes=(first,))], NOW + 1)
    # Another that takes over goes by what was written.
    Heard(ground.database).note([standing(rule, notes=(first, second))], NOW + 2)
    assert Heard(ground.database).last([rule])[rule].standing.notes == (first, second)
    Heard(ground.database).note([standing(rule, notes=(first, second))], NOW + 9)
    with ground.database.reading() as session:
        lines = session.query(LogLine).where(LogLine.operation.in_(["compare", "copy"])).all()
        found = [(line.at - NOW, line.level, line.detail, line.result) for line in lines]
    assert found == [(-100, 2, "equal", 0), (2, 1, "no room", -3555)]


def test_passes_that_are_over_are_kept(ground: Ground) -> None:
    rule = ground.create()
    heard, history = Heard(ground.database), History(ground.database)
    heard.note([standing(rule)], NOW)
    for number in (1, 1, 2):
        heard.note([standing(rule, passes=number, last=a_pass(ended=NOW + number))], NOW + 1)
    passes, total = history.passes(Span(rule=rule))
    assert [one.ended for one in passes] == [NOW + 2, NOW + 1] and total == 2
    assert history.names([rule]) == {rule: ("test", WK, BK)}
    assert Heard(ground.database).note([standing(rule, passes=2, last=a_pass())], NOW + 1.5) == 0
    assert heard.note([standing(rule, State.STALE, passes=2, last=a_pass())], NOW + 2) == 1
    assert history.passes(Span(rule=rule))[1] == 2


def test_traffic_is_counted_when_it_went(ground: Ground) -> None:
    rule = ground.create()
    heard = Heard(ground.database)
    heard.note([standing(rule, **sent(0))], NOW)
    heard.note([standing(rule, **sent(1000))], NOW + 20)
    assert traffic(ground, rule, 10)[:3] == [(int(NOW), 500), (int(NOW) + 10, 500)]
    heard.note([standing(rule, **sent(4000))], NOW + 30)
    assert traffic(ground, rule, 10) == [
        *((int(NOW), 500), (int(NOW) + 10, 500), (int(NOW) + 20, 3000)),
    ]
    (hour,) = traffic(ground, rule, 3600)
    assert hour == (int(NOW) // 3600 * 3600, 4000)
    again = Heard(ground.database)  # another process goes on where this one was
    again.note([standing(rule, **sent(4600))], NOW + 40)
    assert traffic(ground, rule, 3600)[0][1] == 4600
    heard.begin()  # what that wrote is taken for granted from now on
    heard.note([standing(rule, **sent(4700))], NOW + 50)
    assert traffic(ground, rule, 3600)[0][1] == 4700


def test_what_is_old_is_removed(ground: Ground) -> None:
    rule = ground.create()
    heard = Heard(ground.database)
    heard.note([standing(rule, **sent(10))], NOW)
    later = NOW + 2 * 86400
    heard.note([standing(rule, **sent(20))], later)
    assert all(start > later - 2 * KEPT_S[10] for start, _ in traffic(ground, rule, 10, later))
    much_later = NOW + 1000 * 86400
    heard.note([standing(rule, State.STALE, **sent(20))], much_later)
    with ground.database.reading() as session:
        assert session.scalar(select(func.min(LogLine.at))) == int(much_later)
        assert (session.scalar(select(func.min(Traffic.start))) or 0) > NOW + 199 * 86400


def test_what_a_node_makes_up_is_counted_within_bounds(ground: Ground) -> None:
    rule, heard = ground.create(), Heard(ground.database)
    for number in range(20):
        made_up = Tally(bytes_sent=number % 2 * NUMBER_MAX)
        heard.note([standing(rule, cause=str(number), tally=made_up)], NOW + number)
    assert 0 < traffic(ground, rule, SPANS[2])[-1][1] < 2**63 / 1000


@pytest.mark.parametrize(
    "made_up",
    [
        {"tally": Tally(rate=1e308)},
        {"tally": Tally(rate=math.nan)},
        {"tally": Tally(lag_s=math.inf)},
        {"tally": Tally(problems=cast(int, 1.5))},
        {"tally": Tally(rate=cast(float, b"1"))},
        {"tally": Tally(last_error="a\0b")},
        {"cause": "a\0b"},
        {"cause": "x" * 70_000},
        {"stamp": "\0"},
        {"passes": 1 << 62},
        {"last": a_pass(cause="\0")},
    ],
)
def test_a_standing_that_cannot_be_told_on_is_none(made_up: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_standing(plain(standing("r", **made_up)))


@pytest.mark.parametrize(
    ("before", "now", "more"),
    [
        (None, sent(50), 50),
        (sent(10), sent(50), 40),
        (sent(50), sent(50), 0),
        (sent(50), sent(20), 20),  # another session
        (sent(50), {}, 0),
        (sent(50), {"passes": 1, "last": a_pass(bytes_sent=80)}, 30),
        (sent(0), {"passes": 1, "last": a_pass(bytes_sent=80)}, 80),
        (sent(50), sent(5, passes=1, last=a_pass(bytes_sent=80)), 35),
        (sent(10), sent(50, passes=1, last=a_pass(bytes_sent=50)), 40),
    ],
)
def test_what_was_sent_since(before: Any, now: Any, more: int) -> None:
    last = None if before is None else Last(NOW, standing("R", **before))
    assert sent_since(last, standing("R", **now)) == more


@given(
    st.integers(0, 10**15),
    st.floats(0, KEPT_S[10] - 20),
    st.floats(NOW, NOW + 100),
    st.sampled_from(SPANS),
)
def test_buckets_hold_what_was_spread(sent: int, long: float, ended: float, span: int) -> None:
    shares = spread(sent, ended - long, ended, span)
    assert math.isclose(sum(share for _, share in shares), sent, rel_tol=1e-6, abs_tol=1e-3)
    assert all(start % span == 0 and share >= 0 for start, share in shares)
    starts = [start for start, _ in shares]
    assert starts == sorted(set(starts))
    assert starts[0] <= ended - long + 1e-3 and starts[-1] <= ended


def test_it_is_told_over_http(tmp_path: Path) -> None:
    with served(tmp_path) as made:
        now = time.time()
        rule = made.ground.create()
        made.heard.note([standing(rule, **sent(0))], now - 30)
        made.heard.note([standing(rule, passes=1, last=a_pass(), **sent(3200))], now)
        real = made.data("GET", f"/api/logs/traffic?uuid={rule}&type=real&start_stamp=")
        samples = real["traffics"]
        assert len(samples) == 90 and real["message"] == ""
        starts = [one["start_time"] for one in samples]
        assert starts == list(range(starts[0], starts[0] + 900, 10))
        assert abs(sum(one["traffic"] for one in samples) - 3200) <= 4
        assert all(one["speed"] == round(one["traffic"] / 10, 1) for one in samples)
        assert max(one["latency"] for one in samples) == 500
        for kind, count in (("day", 24), ("month", 31)):
            told = made.data("GET", f"/api/logs/traffic?uuid={rule}&type={kind}")["traffics"]
            assert len(told) == count and sum(one["traffic"] for one in told) == 3200
        past = made.data("GET", f"/api/logs/traffic?uuid={rule}&type=month&start_stamp=1545637314")
        assert past["traffics"][0]["start_time"] == 1545637314 // 86400 * 86400

        log = made.data("GET", f"/api/logs?uuid={rule}&level=&start=1&end=&page=1&limit=10")
        assert log["total"] == len(log["logs"]) == 1 and log["message"] == ""
        assert set(log["logs"][0]) == {
            *("create_time", "id", "uuid", "log_level", "operation", "detail", "result"),
            *("readed", "m_uuid", "log_type"),
        }
        assert made.data("GET", f"/api/logs?uuid={rule}&level=1&start=1&end=1")["logs"] == []
        assert made.data("GET", "/api/logs/node")["logs"] == []
        assert made.data("GET", "/api/logs/ha?uuid=&node_uuid=")["total"] == 0

        for path in ("/apistatistics", f"/api/statistics?uuid={rule}&page=1&limit=10"):
            (report,) = made.data("GET", path)["info_list"]
            assert made.data("GET", f"/api/statistics/{report['id']}")["statistics"] == report
        detail = json.loads(report["detail"])
        assert (detail["name"], detail["wk_uuid"], detail["result"]) == ("test", WK, 0)
        assert (detail["total_files"], detail["equal_files"], detail["diff_files"]) == (10, 6, 4)
        assert (detail["trans_size"], detail["elapsed_time"], detail["dup_rate"]) == (1000, 50, 75)
        assert made.data("GET", "/api/statistics/999")["code"] == 10001011
        assert made.data("GET", "/api/dashboard/overall")["rep_num"] == 1
