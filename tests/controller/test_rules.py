"""Rules as calls change them, in either database; what nodes would say is said for them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruled import BK, NOW, WK, Ground, body, standing

from i2node.controller.board import Board
from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.items import Item, answered
from i2node.controller.protection import turn
from i2node.controller.rule import listed, shown
from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.controller.store.rules import Brief, Kept, Page
from i2node.controller.terms import charge, grant
from i2node.model import State
from i2node.orders import (
    Charge,
    Comparing,
    Copying,
    Grant,
    Orders,
    Part,
    Tally,
    Want,
    plain,
    read_orders,
)
from i2node.schedule import Every, Plan, Slot


@pytest.fixture
def ground(database: Database, tmp_path: Path) -> Ground:
    return Ground(database, Vault(tmp_path / "vault.key"))


@contextmanager
def refused(code: int, match: str | None = None) -> Iterator[None]:
    with pytest.raises(Refusal, match=match) as found:
        yield
    assert found.value.number == code, found.value


# ---------------------------------------------------------------------- made and shown


def test_a_rule_is_shown_key_for_key_as_consoles_do(ground: Ground) -> None:
    rule = ground.create(secret_key="hidden", encrypt_switch="1", thread_num=3)
    kept = ground.rules.find(rule)
    assert kept is not None
    told = shown(kept)
    assert told["random_str"] not in (rule, told["user_uuid"])
    assert told["bkup_one_time"] is None and told["secret_key"] == ""
    expected = {
        "id": "1",
        "uuid": rule,
        "fsp_uuid": rule,
        "fsp_name": "test",
        "auto_start": "1",
        "create_time": "1600000000",
        "status": None,
        "wk_uuid": WK,
        "bk_uuid": BK,
        "wk_node_name": "71.77",
        "bk_node_name": "71.78",
        "wk_ip": "192.168.71.77",
        "bk_ip": "192.168.71.78",
        "wk_port": "26821",
        "bk_port": "26821",
        "username": "admin",
        "user_uuid": "1BCFCAA3-E3C8-3E28-BDC5-BE36FDC2B5DC",
        "running_service": ["sshd"],
        "boot_time": None,
        "move_type": None,
        "recovery_data_path": None,
        "restore_point": None,
        "snapshot": "0",
        "snapshot_start": None,
        "biz_grp_name": [],
        "thread_num": 3,
    }
    assert {name: told[name] for name in expected} == expected
    assert b"hidden" not in (kept.rule.secret or b"") and "hidden" not in str(told)
    assert ground.vault.opened(kept.rule.secret or b"") == "hidden"


def test_its_nodes_are_told_at_once(ground: Ground) -> None:
    ground.fleet.linked.clear()
    ground.create()
    assert ground.orders() == (1, 1)
    assert ground.fleet.told == [BK, WK]  # who allows before who is allowed


def test_what_runs_on_its_work_node_is_kept_in_it(ground: Ground) -> None:
    def services(rule: str) -> object:
        kept = ground.rules.find(rule)
        assert kept is not None
        return shown(kept)["running_service"]

    ground.fleet.services = ["cron", 7, "half \ud800", "nul \0", "x" * 1000, "sshd"]
    rule = ground.create(running_service=["the client's"])
    assert services(rule) == ["cron", "sshd"]
    ground.fleet.services = ["other"]
    ground.modify(rule, band_width="1m")
    assert services(rule) == ["cron", "sshd"]
    ground.fleet.services = "nonsense"
    assert services(ground.create(fsp_name="nonsense")) == []
    ground.fleet.services = ["sshd"]
    ground.protection.operate("stop", [rule])
    ground.modify(rule, wk_uuid=BK, bk_uuid=WK)
    assert services(rule) == ["sshd"]
    ground.fleet.linked.clear()
    assert services(ground.create(fsp_name="away")) == []


def test_a_name_is_given_once_whoever_asks_at_the_same_time(ground: Ground) -> None:
    outcomes: list[int] = []
    gate = threading.Barrier(6)

    def ask() -> None:
        gate.wait()
        try:
            ground.create()
            outcomes.append(0)
        except Refusal as refusal:
            outcomes.append(refusal.number)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0] + [10001009] * 5
    assert ground.rules.page(Page())[1] == 1
    assert ground.orders() == (1, 1)


def test_nodes_must_be_known(ground: Ground) -> None:
    stranger = str(uuid.uuid4()).upper()
    for more in ({"wk_uuid": stranger}, {"bk_uuid": stranger}):
        with refused(10011001, stranger):
            ground.create(**more)
    assert ground.orders() == (0, 0)


def test_a_rule_may_be_made_to_stay_still(ground: Ground) -> None:
    rule = ground.create(auto_start="0")
    kept = ground.rules.find(rule)
    assert kept is not None and kept.rule.want == Want.STOP
    assert (shown(kept)["auto_start"], shown(kept)["status"]) == ("0", "M_STOP")


def test_a_batch_goes_on_behind_what_fails(ground: Ground) -> None:
    common = {"batch_name": "all", "rep_prefix": "a-", "rep_sufix": "-z"}
    base = {key: value for key, value in body().items() if key not in ("fsp_name", "wk_uuid")}
    nodes = [
        {"wk_uuid": WK},
        {"wk_uuid": ""},
        7,
        {"wk_uuid": WK},
        {"wk_uuid": WK, "fsp_name": "own", "wk_path": ["/etc/"]},
    ]
    made = ground.protection.create_batch(base, common, nodes, ground.caller)
    codes = [one.refusal.number if one.refusal else 0 for one in made]
    assert codes == [0, 10001002, 10001002, 10001009, 0]
    found, total = ground.rules.page(Page(order="fsp_name"))
    assert [one.rule.name for one in found] == ["a-all-71.77-z", "a-own-z"] and total == 2
    told = answered(made)
    assert told["code"] == 10001002 and len(told["success_list"]) == 2
    assert told["fail_list"][-1]["code"] == 10001009


# ---------------------------------------------------------------------- changed


def test_an_edit_needs_the_token_of_the_last(ground: Ground) -> None:
    rule = ground.create()
    first = ground.rules.find(rule)
    assert first is not None
    token = first.rule.random_str
    ground.modify(rule, band_width="1m")
    with refused(10001013):
        ground.modify(rule, band_width="2m", random_str=token)
    with refused(10001002, r"Lost: fsp_backup\[random_str\]"):
        ground.modify(rule, band_width="2m", random_str="")
    with refused(10031017):
        ground.modify(str(uuid.uuid4()).upper(), random_str="x")
    after = ground.rules.find(rule)
    assert after is not None and after.rule.fields["band_width"] == "1m"
    assert after.rule.random_str != token
    assert ground.orders() == (2, 2)


def test_of_two_edits_at_once_one_is_refused(ground: Ground) -> None:
    rule = ground.create()
    kept = ground.rules.find(rule)
    assert kept is not None
    token, outcomes, gate = kept.rule.random_str, list[int](), threading.Barrier(4)

    def edit(number: int) -> None:
        gate.wait()
        try:
            ground.modify(rule, band_width=f"{number}m", random_str=token)
            outcomes.append(0)
        except Refusal as refusal:
            outcomes.append(refusal.number)

    threads = [threading.Thread(target=edit, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 10001013, 10001013, 10001013]


def test_places_change_only_while_it_is_stopped(ground: Ground) -> None:
    rule = ground.create(excl_path=[])
    live = {"excl_path": ["/x/"], "band_width": "1m", "fsp_name": "other", "compress": "2"}
    ground.modify(rule, **live)
    for place in ({"wk_path": ["/etc/"]}, {"bk_path": ["/b/"]}, {"wk_uuid": BK, "bk_uuid": WK}):
        with refused(10001012, f"{next(iter(place))}.* stop it first"):
            ground.modify(rule, **place)
    ground.protection.operate("stop", [rule])
    ground.modify(rule, wk_path=["/etc/"], wk_uuid=BK, bk_uuid=WK, excl_path=[])
    kept = ground.rules.find(rule)
    assert kept is not None and (kept.wk.uuid, kept.bk.uuid) == (BK, WK)
    assert kept.rule.name == "other" and kept.rule.fields["compress"] == "2"


def test_places_of_a_rule_that_is_done_may_change(ground: Ground) -> None:
    rule = ground.create(excl_path=[])
    ground.protection.operate("finish", [rule])
    with refused(10001012):
        ground.modify(rule, wk_path=["/etc/"])
    ground.fleet.standings[rule] = standing(rule, State.FINISH)
    ground.modify(rule, wk_path=["/etc/"])


def test_a_secret_stays_unless_another_is_sent(ground: Ground) -> None:
    rule = ground.create(encrypt_switch="1", secret_key="one")
    ground.modify(rule, secret_key="", encrypt_switch="1")
    kept = ground.rules.find(rule)
    assert kept is not None and ground.vault.opened(kept.rule.secret or b"") == "one"
    ground.modify(rule, secret_key="two")
    kept = ground.rules.find(rule)
    assert kept is not None and ground.vault.opened(kept.rule.secret or b"") == "two"


def test_what_get_gives_can_be_put(ground: Ground) -> None:
    rule = ground.create(thread_num=2)
    kept = ground.rules.find(rule)
    assert kept is not None
    before = shown(kept)
    ground.protection.modify(rule, Form(before, "fsp_backup"))
    after = ground.rules.find(rule)
    assert after is not None
    assert shown(after) | {"random_str": ""} == before | {"random_str": ""}


def test_a_new_name_must_be_free(ground: Ground) -> None:
    ground.create(fsp_name="taken")
    rule = ground.create()
    with refused(10001009):
        ground.modify(rule, fsp_name="taken")
    ground.modify(rule, fsp_name="test")


# ---------------------------------------------------------------------- operated


def test_verbs_answer_item_by_item(ground: Ground) -> None:
    rule, stranger = ground.create(), str(uuid.uuid4()).upper()
    told = answered(ground.protection.operate("stop", [stranger, rule]))
    done = {"code": 0, "message": "[0] success", "fsp_uuid": rule}
    assert told["success_list"] == [done]
    assert told["code"] == 10031017 and told["fail_list"][0]["fsp_uuid"] == stranger
    assert answered(ground.protection.operate("stop", [rule])) == {"success_list": [done]}
    assert answered(ground.protection.operate("stop", [])) == {}


def test_what_a_node_cannot_be_told_is_kept_for_it(ground: Ground) -> None:
    rule = ground.create()
    for silence in (ground.fleet.hangs.add, ground.fleet.linked.discard):
        silence(WK)
        (item,) = ground.protection.operate("stop", [rule])
        assert item.refusal is not None and item.refusal.number == 11110001
        assert "told to the work node when it is back" in item.refusal.cause
    kept = ground.rules.find(rule)
    assert kept is not None and kept.rule.want == Want.STOP


def test_each_verb_raises_the_orders_once(ground: Ground) -> None:
    rules = [ground.create(), ground.create(fsp_name="other")]
    before = ground.orders()
    ground.protection.operate("finish", rules)
    assert ground.orders() == (before[0] + 1, before[1] + 1)


BRIEF = Brief("R", "test", "run", 3, WK, BK, 2)
DONE = standing("R", State.FINISH, run=3)


@pytest.mark.parametrize(
    ("verb", "want", "heard", "after"),
    [
        ("stop", "run", None, ("stop", 3, "M_STOP", None)),
        ("stop", "finish", None, ("stop", 3, "M_STOP", None)),
        ("stop", "finish", DONE, ("finish", 3, None, None)),
        ("start", "stop", None, ("run", 3, None, None)),
        ("start", "run", None, ("run", 3, None, None)),
        ("start", "run", DONE, ("run", 4, None, None)),
        ("start", "finish", None, ("run", 4, None, None)),
        ("start", "stop", DONE, ("run", 4, None, None)),
        ("start", "stop", standing("R", State.FINISH, run=2), ("run", 3, None, None)),
        ("finish", "run", None, ("finish", 3, None, None)),
        ("finish", "stop", None, ("finish", 3, None, None)),
        ("start_immediately", "run", None, ("run", 3, None, None)),
    ],
)
def test_what_is_wanted_behind_a_verb(verb: str, want: str, heard: Any, after: Any) -> None:
    assert tuple(turn(verb, BRIEF._replace(want=want), heard, 9)) == after
    if verb == "start_immediately":
        assert turn(verb, BRIEF._replace(policy=1), heard, 9).now == 9


def test_a_run_at_once_is_one_beside_its_plan(ground: Ground) -> None:
    daily = [{"sched_every": 0, "sched_time": "02:00", "limit": 3}]
    rule = ground.create(bkup_policy=1, bkup_schedule=daily)
    slot = Slot(every=Every.DAY, times=(120,), keep=3)

    def plan() -> Plan | None:
        kept = ground.rules.find(rule)
        assert kept is not None
        assert not any(name.startswith("_") for name in shown(kept))
        return charge(kept.rule, kept.wk, kept.bk, "", "").plan

    assert plan() == Plan(slots=(slot,))
    ground.protection.operate("start_immediately", [rule])
    assert plan() == Plan(once_at=int(NOW), slots=(slot,))
    ground.modify(rule, band_width="1m")
    assert plan() == Plan(once_at=int(NOW), slots=(slot,))
    ground.protection.operate("stop", [rule])
    assert plan() == Plan(slots=(slot,))


def test_a_run_at_once_outlives_who_changes_the_rule_beside_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ground.create(bkup_policy=1, bkup_schedule=[{"sched_every": 0, "sched_time": "02:00"}])
    replace = ground.rules.replace

    def between(verb: str) -> int | None:
        def after(*arguments: Any) -> Kept:
            ground.protection.operate(verb, [rule])
            return replace(*arguments)

        monkeypatch.setattr(ground.rules, "replace", after)
        ground.modify(rule, band_width="1m")
        made, _ = ordered(ground, rule)
        assert made.bwlimit == "1m" and made.plan is not None
        return made.plan.once_at

    assert between("start_immediately") == int(NOW)
    assert between("stop") is None


# ---------------------------------------------------------------------- deleted


def test_delete_needs_its_work_node_or_force(ground: Ground) -> None:
    rule = ground.create()
    ground.fleet.linked.discard(WK)
    (item,) = ground.protection.delete([rule], None, force=False)
    assert item.refusal is not None and item.refusal.number == 11110001
    assert ground.rules.find(rule) is not None and ground.orders() == (1, 1)
    assert ground.protection.delete([rule], None, force=True) == [Item({"fsp_uuid": rule})]
    assert ground.rules.find(rule) is None and ground.orders() == (2, 2)
    (item,) = ground.protection.delete([rule], None, force=True)
    assert item.refusal is not None and item.refusal.number == 10031017
    assert ground.fleet.asked == []


def test_rules_that_there_are_not_cost_one_question(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ground.create()
    found: list[str] = []
    find = ground.rules.find
    monkeypatch.setattr(ground.rules, "find", lambda uuid: found.append(uuid) or find(uuid))
    several = [str(uuid.UUID(int=n)).upper() for n in range(10_000)]
    items = ground.protection.delete([*several, rule], None, force=False)
    assert [item.refusal.number for item in items if item.refusal] == [10031017] * 10_000
    assert found == [rule] and ground.rules.find(rule) is None


def test_what_was_written_is_wiped_only_where_that_is_said(ground: Ground) -> None:
    rule, other = ground.create(), ground.create(fsp_name="other", del_policy=1)
    asked = {"rule": rule, "base": "/fsp_bk/192.168.71.77_26821"}
    asked |= {"roots": ["/fsp_bk/192.168.71.77_26821"]}  # type: ignore[dict-item]
    ground.fleet.denial = Refusal(Code.FAILED, "the disk is read-only")
    (item,) = ground.protection.delete([rule], True, force=False)
    assert item.refusal is not None and "the disk is read-only" in item.refusal.cause
    kept = ground.rules.find(rule)
    assert kept is not None and kept.rule.want == Want.STOP
    ground.fleet.denial = None
    ground.fleet.answer = {"left": [["/fsp_bk/x", "busy"]]}
    (item,) = ground.protection.delete([rule], True, force=False)
    assert item.refusal is not None and "/fsp_bk/x: busy" in item.refusal.cause
    ground.fleet.answer = {}
    ground.protection.delete([rule], True, force=False)
    assert ground.fleet.asked == [(BK, "wipe", asked)] * 3
    assert ground.rules.find(rule) is None
    ground.protection.delete([other], None, force=False)  # its own del_policy counts
    assert [one[2]["rule"] for one in ground.fleet.asked[3:]] == [other]


def test_what_still_runs_is_not_wiped(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2node.controller.protection.STOP_S", 0.0)
    rule = ground.create()
    ground.fleet.standings[rule] = standing(rule)
    (item,) = ground.protection.delete([rule], True, force=False)
    assert item.refusal is not None and "still being stopped" in item.refusal.cause
    assert ground.fleet.asked == [] and ground.rules.find(rule) is not None
    ground.fleet.standings[rule] = standing(rule, State.M_STOP)
    assert ground.protection.delete([rule], True, force=False)[0].refusal is None


def test_wiping_needs_the_backup_node_or_force(ground: Ground) -> None:
    rule = ground.create()
    ground.fleet.linked.discard(BK)
    (item,) = ground.protection.delete([rule], True, force=False)
    assert item.refusal is not None and "71.78" in item.refusal.cause
    ground.fleet.denial = Refusal(Code.UNREACHABLE)
    assert ground.protection.delete([rule], True, force=True)[0].refusal is None
    assert ground.rules.find(rule) is None


# ---------------------------------------------------------------------- found


def test_lists(ground: Ground) -> None:
    for name in ("one", "Two", "three_%"):
        ground.create(fsp_name=name)

    def names(page: Any) -> list[str]:
        return [one.rule.name for one in ground.rules.page(page)[0]]

    assert names(Page()) == ["one", "Two", "three_%"]
    assert names(Page(order="fsp_uuid", limit=2, page=2)) == names(Page(order="fsp_uuid"))[2:]
    assert names(Page(order="id", descending=True, limit=1)) == ["three_%"]
    assert names(Page(contains={"fsp_name": "T"})) == ["Two", "three_%"]
    assert names(Page(contains={"fsp_name": "_%"})) == ["three_%"]
    assert names(Page(contains={"wk_node_name": "71.77", "create_time": "16"})) == names(Page())
    assert names(Page(equals={"bk_node_name": "71.77"})) == []
    assert ground.rules.page(Page(limit=1))[1] == 3
    found, _ = ground.rules.page(Page(limit=1))
    assert set(listed(found[0])) == {
        *("band_width", "bk_path_policy", "random_str", "wk_node_name", "bk_node_name"),
        *("username", "bk_uuid", "fsp_name", "fsp_type", "fsp_uuid", "wk_uuid"),
    }


def test_whether_a_node_is_of_a_rule(ground: Ground) -> None:
    third = str(uuid.uuid4()).upper()
    ground.add_node(third, "third", "10.0.0.3")
    assert not ground.rules.takes_part(WK, BK)
    ground.create()
    for nodes in ((WK, third), (third, WK), (BK, third), (third, BK)):
        assert ground.rules.takes_part(*nodes)
    assert not ground.rules.takes_part(third)
    with refused(10011001):
        ground.rules.takes_part(str(uuid.uuid4()).upper())


# ---------------------------------------------------------------------- how they stand


def board(ground: Ground) -> Board:
    return Board(ground.rules, ground.fleet)


def test_status_is_what_the_node_says(ground: Ground) -> None:
    rule, other = ground.create(), ground.create(fsp_name="other", auto_start="0")
    stranger = str(uuid.uuid4()).upper()
    (first, second) = board(ground).status([other, stranger, rule])
    assert (first["fsp_uuid"], first["status"]) == (other, "M_STOP")
    assert (second["status"], "progress" in second) == ("UNKNOWN", False)
    assert "not told of it yet" in second["cause"]
    tally = Tally(files_total=10, lag_s=0.25, problems=4, in_sync=True)
    ground.fleet.standings[rule] = standing(
        rule, State.MIRROR, progress=2, cause="slow", tally=tally
    )
    (told,) = board(ground).status([rule])
    assert (told["status"], told["progress"], told["cause"]) == ("MIRROR", 2, "slow")
    ground.fleet.refused[BK, rule] = "no such place"
    (left_out,) = board(ground).status([rule])
    assert left_out["cause"] == "the backup node refuses it: no such place"
    assert (told["files_total"], told["lag_s"], told["problems"]) == (10, 0.25, 4)
    assert told["in_sync"] is True and "code" not in told
    assert board(ground).status([]) == []


def test_a_rule_that_cannot_be_heard_is_unknown(ground: Ground) -> None:
    rule = ground.create()
    ground.fleet.standings[rule] = standing(rule)
    ground.fleet.linked.discard(WK)
    (told,) = board(ground).status([rule])
    assert told["status"] == "UNKNOWN" and told["code"] == 11110001
    assert told["message"].startswith("[11110001] ")
    ground.protection.operate("finish", [rule])
    ground.fleet.standings[rule] = standing(rule, State.FINISH)
    (told,) = board(ground).status([rule])
    assert told["status"] == "FINISH"  # which nothing but another order changes
    ground.protection.operate("start", [rule])
    assert board(ground).status([rule])[0]["status"] == "UNKNOWN"


def test_a_run_that_is_over_says_nothing_of_the_next(ground: Ground) -> None:
    rule = ground.create()
    ground.protection.operate("finish", [rule])
    ground.fleet.standings[rule] = standing(rule, State.FINISH)
    ground.protection.operate("start", [rule])
    assert board(ground).status([rule])[0]["status"] == "UNKNOWN"
    ground.fleet.standings[rule] = standing(rule, State.MIRROR, run=2)
    assert board(ground).status([rule])[0]["status"] == "MIRROR"


def test_how_many_are_in_each_state(ground: Ground) -> None:
    rule = ground.create()
    ground.create(fsp_name="other", auto_start="0")
    ground.fleet.standings[rule] = standing(rule)
    ground.fleet.linked.discard(BK)
    told = board(ground).overall()
    assert told["rep"]["REPLICATION"] == told["rep"]["M_STOP"] == 1
    assert sum(told["rep"].values()) == told["rep_num"] == 2
    assert told["node"] == {"UNKNOWN": 0, "OFFLINE": 1, "ONLINE": 1}


# ---------------------------------------------------------------------- as orders


def ordered(ground: Ground, rule: str) -> tuple[Charge, Grant]:
    kept = ground.rules.find(rule)
    assert kept is not None
    secret = ground.vault.opened(kept.rule.secret) if kept.rule.secret else ""
    made = charge(kept.rule, kept.wk, kept.bk, secret, "PEM of bk")
    return made, grant(kept.rule, kept.wk, "PEM of wk")


def test_comparisons_are_ordered_with_their_plan(ground: Ground) -> None:
    planned = {"cmp_schedule": [{"sched_every": 0, "sched_time": ["03:00:00"]}]}
    rule = ground.create(cmp_switch="1", cmp_file_check="1", **planned)
    plan = Plan(slots=(Slot(every=Every.DAY, times=(180,)),))
    made, allowed = ordered(ground, rule)
    assert made.comparing == Comparing(plan=plan, strict=True)
    orders = Orders(number=1, charges=(made,), grants=(allowed,))
    assert read_orders(plain(orders)) == orders
    ground.modify(rule, cmp_switch="0")
    assert ordered(ground, rule)[0].comparing is None


def test_copies_are_ordered_of_the_work_node_and_granted_by_the_other(ground: Ground) -> None:
    at = int(NOW) + 60
    wanted = {"snapshot_switch": 1, "snapshot_interval": "6", "snapshot_limit": "3"}
    rule = ground.create(**wanted, snapshot_policy="1", snapshot_start=at)
    made, allowed = ordered(ground, rule)
    assert made.copying == Copying(every_s=6 * 3600, start=at)
    assert (allowed.copies, allowed.drop, allowed.keep) == (3, False, 0)
    orders = Orders(number=1, charges=(made,), grants=(allowed,))
    assert read_orders(plain(orders)) == orders
    kept = ground.rules.find(rule)
    assert kept is not None and shown(kept)["snapshot_start"] == at
    ground.modify(rule, snapshot_start=None, snapshot_policy="0")
    made, allowed = ordered(ground, rule)
    assert made.copying == Copying(every_s=6 * 3600) and allowed.drop
    ground.modify(rule, snapshot_switch="0")
    made, allowed = ordered(ground, rule)
    assert made.copying is None and allowed.copies == 0


def test_a_whole_server_goes_below_a_directory_of_its_own(ground: Ground) -> None:
    rule = ground.create(wk_path=["/", "/boot/"], excl_path=["/tmp/"], compress="2")
    made, allowed = ordered(ground, rule)
    kept = ground.rules.find(rule)
    assert kept is not None
    base = "/fsp_bk/192.168.71.77_26821"
    assert made == Charge(
        rule=rule,
        version=f"{kept.rule.random_str}.{kept.rule.updated}",
        name="test",
        want=Want.RUN,
        run=1,
        host="192.168.71.78",
        port=26821,
        peer=kept.bk.peer,
        certificate="PEM of bk",
        base=base,
        parts=(Part(source="/"), Part(source="/boot")),
        excludes=("/tmp/",),
        compress=6,
        encrypt=False,
        strict_source=True,
    )
    assert allowed == Grant(
        rule=rule,
        peer=kept.wk.peer,
        certificate="PEM of wk",
        name="71.77",
        roots=(base,),
        base=base,
    )


def test_paths_may_have_a_target_each(ground: Ground) -> None:
    rule = ground.create(
        bk_path_policy="0",
        wk_path=["/etc/", "/srv/www/"],
        bk_path=["/b/etc/", "/b//www"],
        excl_path=[],
        encrypt_switch="1",
        secret_key="k",
        mirr_file_check="1",
        mirr_sync_flag="1",
        compress_switch=1,
        band_width="5m",
        pre_over_script="/etc/sdata/scripts/db/stop.sh",
        post_over_script="start.sh",
        bkup_policy=1,
        bkup_schedule=[
            {"sched_every": 0, "sched_time": "01:00", "limit": 2},
            {"sched_every": 0, "sched_time": "13:00", "limit": 7},
        ],
    )
    made, allowed = ordered(ground, rule)
    assert made.base == allowed.base == ""
    assert made.parts == (
        Part(source="/etc", target="/b/etc"),
        Part(source="/srv/www", target="/b/www"),
    )
    assert allowed.roots == ("/b/etc", "/b/www") and allowed.keep == 7
    assert (made.encrypt, made.secret_key, made.check) == (True, "k", "strict")
    assert (made.compress, made.bwlimit, made.strict_source) == ("auto", "5m", False)
    assert (made.before, made.after) == ("db/stop.sh", "start.sh")
    assert made.plan is not None and len(made.plan.slots) == 2


@pytest.mark.parametrize(
    ("level", "switch", "meant"),
    [("0", None, "off"), ("1", None, 1), ("3", 1, 12), ("2", "0", "off"), ("0", "1", "auto")],
)
def test_levels_of_compression(ground: Ground, level: str, switch: Any, meant: Any) -> None:
    more = {} if switch is None else {"compress_switch": switch}
    assert ordered(ground, ground.create(compress=level, **more))[0].compress == meant


def test_a_run_at_a_moment(ground: Ground) -> None:
    rule = ground.create(bkup_policy=0, bkup_one_time=1_700_000_000)
    assert ordered(ground, rule)[0].plan == Plan(once_at=1_700_000_000)
