"""The fields of a rule: what is accepted, what is given back, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruled import BK, NOW, WK, body

from i2node.controller.envelope import Refusal
from i2node.controller.fields import FIELDS
from i2node.controller.form import Form
from i2node.controller.rule import EXCLUDED, Wanted, read


def asked(**more: Any) -> Wanted:
    return read(Form(body(**more), "fsp_backup"), NOW)


def faults(**more: Any) -> list[str]:
    with pytest.raises(Refusal) as refused:
        asked(**more)
    assert refused.value.number == 10001002, refused.value
    return refused.value.cause.removeprefix("Invalid Parameter  ").split(";\n")[:-1]


def test_what_a_rule_is_that_says_the_least() -> None:
    found = asked()
    assert (found.name, found.wk, found.bk, found.secret) == ("test", WK, BK, "")
    assert found.fields == {
        "fsp_type": 3,
        "wk_path": ["/"],
        "bk_path": ["/fsp_bk/"],
        "bk_path_policy": "1",
        "excl_path": list(EXCLUDED),
        "sync_item": "/",
        "wk_data_type": 1,
        "bk_data_type": 1,
        "backup_type": "0",
        "bkup_policy": 2,
        "bkup_one_time": None,
        "bkup_schedule": None,
        "mirr_file_check": "0",
        "mirr_sync_flag": "0",
        "mirr_open_type": "0",
        "mirr_sync_attr": "1",
        "mirr_skip": "0",
        "encrypt_switch": "0",
        "compress": "0",
        "band_width": "",
        "snapshot_switch": "0",
        "snapshot_interval": "24",
        "snapshot_limit": "2",
        "snapshot_policy": "0",
        "snapshot_start": None,
        "cmp_switch": "0",
        "cmp_file_check": "0",
        "cmp_schedule": None,
        "failover": "0",
        "monitor_type": 0,
        "monitor_ips": "",
        "heartbeat": "10",
        "max_fail_times": "6",
        "net_mapping": [],
        "net_mapping_type": "0",
        "pre_over_script": "",
        "post_over_script": "",
        "fsp_wk_shut_flag": "2",
        "biz_grp_list": [],
    }
    assert len(EXCLUDED) == 19


def test_all_that_is_lost_is_told_at_once() -> None:
    with pytest.raises(Refusal) as refused:
        read(Form({"encrypt_switch": "1"}, "fsp_backup"), NOW)
    clauses = refused.value.cause.removeprefix("Invalid Parameter  ").split(";\n")[:-1]
    assert clauses == [
        "Lost: fsp_backup[wk_path][0]",
        "Lost: fsp_backup[bk_path][0]",
        "Lost: fsp_backup[fsp_name]",
        "Lost: fsp_backup[wk_uuid]",
        "Lost: fsp_backup[bk_uuid]",
        "Lost: fsp_backup[secret_key]",
    ]


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("compress", 2, "2"),
        ("compress", "", "0"),
        ("backup_type", 0, "0"),
        ("snapshot_switch", 0, "0"),
        ("snapshot_switch", False, "0"),
        ("snapshot_interval", "", "24"),
        ("snapshot_interval", "0", "0"),
        ("snapshot_limit", 24, "24"),
        ("snapshot_switch", 1, "1"),
        ("snapshot_start", "1700000000", 1_700_000_000),
        ("snapshot_start", None, None),
        ("fsp_type", "3", 3),
        ("wk_data_type", "1", 1),
        ("bkup_one_time", 0, 0),
        ("bkup_one_time", "0", 0),
        ("bkup_one_time", None, None),
        ("bkup_schedule", [], None),
        ("bkup_schedule", [{"sched_every": 9}], [{"sched_every": 9}]),
        ("failover", "2", "2"),
        ("band_width", "-1", "-1"),
        ("band_width", "3*03:00-14:00*2m,2*02:00-15:00*80m", "3*03:00-14:00*2m,2*02:00-15:00*80m"),
        ("mirr_sync_attr", 0, "0"),
        ("mirr_skip", "1", "1"),
        ("mirr_skip", 2, "2"),
        ("pre_over_script", "db/stop.sh", "db/stop.sh"),
        ("post_over_script", "/etc/sdata/scripts/a.sh", "/etc/sdata/scripts/a.sh"),
        ("excl_path", [], []),
        ("thread_num", 4, 4),
        ("advanced_policy", {"cdp_switch": 1}, {"cdp_switch": 1}),
        ("start_type", 0, 0),
    ],
)
def test_a_value_is_kept_as_it_is_given_back(field: str, value: object, kept: object) -> None:
    assert asked(**{field: value}).fields[field] == kept
    assert type(asked(**{field: value}).fields[field]) is type(kept)


@pytest.mark.parametrize(
    ("field", "value", "clause"),
    [
        ("fsp_type", 1, "must be one of: 3 ("),
        ("wk_data_type", 0, "must be one of: 1 ("),
        ("bk_data_type", 4, "must be one of: 1 ("),
        ("backup_type", 1, "must be one of: 0 ("),
        ("failover", "1", "must be one of: 0,2 ("),
        ("mirr_skip", "3", "must be one of: 0,1,2"),
        ("mirr_sync_attr", "2", "must be one of: 0,1"),
        ("fsp_wk_shut_flag", "1", "must be one of: 2 ("),
        ("snapshot_switch", 2, "must be one of: 0,1"),
        ("snapshot_start", "soon", "must contain a number"),
        ("cmp_switch", "2", "must be one of: 0,1"),
        ("del_policy", 7, "must be one of: 0,1"),
        ("bk_file_crypt", 1, "must be one of: 0, (files stand in clear"),
        ("mirr_file_check", "2", "must be one of: 0,1"),
        ("compress", "4", "must be one of: 0,1,2,3"),
        ("bkup_policy", 3, "must be one of: 0,1,2"),
        ("snapshot_limit", 65, "must contain a number less than or equal to 64."),
        ("band_width", "8*03:00-14:00*2m", "'8*03:00-14:00*2m'"),
        ("band_width", "3*03:00-14:00*2", "is the unit missing?"),
        ("wk_path", "/", "Not array: fsp_backup[wk_path]"),
        ("wk_path", [], "Lost: fsp_backup[wk_path][0]"),
        ("wk_path", ["etc/"], "[wk_path][0] field must be an absolute path"),
        ("wk_path", ["/", "/a/../b/"], "[wk_path][1] field must be an absolute path"),
        ("wk_path", ["/etc/", "/etc"], "[wk_path][1] field is there twice: /etc"),
        ("wk_path", ["/\0"], "[wk_path][0] field must be an absolute path"),
        ("wk_path", ["/\ud800"], "[wk_path][0] field must be an absolute path"),
        ("wk_path", [7], "[wk_path][0] field must be an absolute path"),
        ("wk_path", ["/x"] * 257, "must hold at most 256 paths"),
        ("bk_path", ["fsp_bk"], "[bk_path][0] field must be an absolute path"),
        ("bk_path", ["//"], "is the root of the backup node itself"),
        ("bk_path", ["/a/", "/b/"], "must hold one directory, for bk_path_policy is 1"),
        ("excl_path", ["/"], "[excl_path][0] field cannot be"),
        ("excl_path", ["tmp/"], "[excl_path][0] field must be an absolute path"),
        ("pre_over_script", "/root/a.sh", "below /etc/sdata/scripts"),
        ("pre_over_script", "../a.sh", "below /etc/sdata/scripts"),
        ("post_over_script", "/etc/sdata/scripts/../a", "below /etc/sdata/scripts"),
        ("wk_uuid", "7", "Not uuid: fsp_backup[wk_uuid]"),
        ("vp_name", float("nan"), "Not string"),
        ("sync_item", {}, "Not string: fsp_backup[sync_item]"),
        ("net_mapping", [{"name": "\ud800"}], "Not string: fsp_backup[net_mapping][]"),
        ("biz_grp_list", [float("nan")], "Not string: fsp_backup[biz_grp_list][]"),
        ("cmp_schedule", ["\0"], "Not string: fsp_backup[cmp_schedule][]"),
        ("vp_note", "x" * 70_000, "more than 65536 bytes"),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: object, clause: str) -> None:
    told = faults(**{field: value})
    assert len(told) == 1 and clause in told[0], told
    assert field in told[0] or "65536" in told[0]


def test_each_path_has_its_own_target_or_all_have_one() -> None:
    one_to_one = {"bk_path_policy": "0", "wk_path": ["/etc/", "/srv/"], "excl_path": []}
    assert faults(**one_to_one) == [
        "The fsp_backup[bk_path] field must hold 2 directories, as many as wk_path, for"
        " bk_path_policy is 0"
    ]
    assert faults(**one_to_one, bk_path=["/b/", "/b"]) == [
        "The fsp_backup[bk_path][1] field is there twice: /b"
    ]
    found = asked(**one_to_one, bk_path=["/b/etc/", "/b/srv/"])
    assert found.fields["bk_path"] == ["/b/etc/", "/b/srv/"]


def test_the_usual_excludes_leave_what_is_asked_for() -> None:
    assert asked(wk_path=["/srv/"]).fields["excl_path"] == []
    assert asked(wk_path=["/etc"]).fields["excl_path"] == [
        one for one in EXCLUDED if one.startswith("/etc/")
    ]
    with_mount = asked(wk_path=["/", "/mnt/data/"]).fields["excl_path"]
    assert set(EXCLUDED) - set(with_mount) == {"/mnt/"}


def test_a_time_to_run_at() -> None:
    ten = "The fsp_backup[bkup_one_time] field must be exactly 10 characters in length"
    for at in (None, "", 0, 123, 12345678901):
        assert faults(bkup_policy=0, bkup_one_time=at) == [ten]
    assert "is past" in faults(bkup_policy=0, bkup_one_time=1515568566)[0]
    (told,) = faults(bkup_policy=0, bkup_one_time="1700000000", mirr_skip="1")
    assert "[mirr_skip] field must be 0 with bkup_policy 0 and 1" in told
    assert asked(bkup_policy=0, bkup_one_time="1700000000").fields["bkup_one_time"] == 1_700_000_000
    before = Wanted(
        name="test",
        wk=WK,
        bk=BK,
        fields=asked().fields | {"bkup_policy": 0, "bkup_one_time": 1515568566},
    )
    form = Form({"bkup_one_time": 1515568566, "compress": "1"}, "fsp_backup")
    assert read(form, NOW, before).fields["compress"] == "1"  # it was given when it was to come


def test_a_plan_is_checked_where_it_counts() -> None:
    assert faults(bkup_policy=1) == ["Lost: fsp_backup[bkup_schedule][0]"]
    assert faults(bkup_policy=1, bkup_schedule=[{"sched_every": 2, "sched_time": "25:00"}]) == [
        "Lost: fsp_backup[bkup_schedule][0][sched_day]",
        "The fsp_backup[bkup_schedule][0][sched_time] field must be a time of the day, HH:MM",
        "Lost: fsp_backup[bkup_schedule][0][sched_time]",
    ]


def test_a_comparison_is_planned_for_a_rule_that_replicates() -> None:
    plan = [{"sched_every": 1, "sched_time": ["03:00:00", "15:30"], "sched_day": [7]}]
    found = asked(cmp_switch=True, cmp_schedule=plan, cmp_file_check=1).fields
    assert (found["cmp_switch"], found["cmp_schedule"], found["cmp_file_check"]) == ("1", plan, "1")
    assert faults(cmp_switch="1") == ["Lost: fsp_backup[cmp_schedule][0]"]
    wrong = [{"sched_every": 0, "sched_time": ["3"]}]
    assert "[cmp_schedule][0][sched_time]" in faults(cmp_switch="1", cmp_schedule=wrong)[0]
    once = {"bkup_policy": 0, "bkup_one_time": 1_700_000_000}
    (told,) = faults(cmp_switch="1", cmp_schedule=plan, **once)
    assert "[cmp_switch] field must be 0 unless bkup_policy is 2" in told
    assert asked(cmp_schedule=wrong).fields["cmp_schedule"] == wrong, "where it does not count"


def test_copies_are_kept_of_a_rule_that_replicates_below_a_directory_of_its_own() -> None:
    planned = {"bkup_policy": 1, "bkup_schedule": [{"sched_every": 0, "sched_time": "03:00"}]}
    (told,) = faults(snapshot_switch="1", **planned)
    assert "[snapshot_switch] field must be 0 unless bkup_policy is 2" in told
    assert "`limit` in bkup_schedule" in told
    apart = {"bk_path_policy": "0", "wk_path": ["/etc/"], "excl_path": []}
    (told,) = faults(snapshot_switch="1", **apart)
    assert "[snapshot_switch] field must be 0 unless bk_path_policy is 1" in told
    for field in ("snapshot_interval", "snapshot_limit"):
        (told,) = faults(**{"snapshot_switch": "1", field: "0"})
        assert told == f"The fsp_backup[{field}] field must be 1 or more, for snapshot_switch is 1"


@pytest.mark.parametrize("name", ["a" * 129, " a", "a\n", "\u202e"])
def test_a_name_that_cannot_be(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        asked(fsp_name=name)
    assert refused.value.number == 10001008


def test_a_node_is_not_backed_up_to_itself() -> None:
    with pytest.raises(Refusal, match="not backed up to itself"):
        asked(bk_uuid=WK.lower())


def test_secrets_of_others_are_not_kept() -> None:
    found = asked(bk_crypt_key="hidden", vp_passwd="hidden", secret_key="mine", _x=1)
    assert "hidden" not in str(found.fields) and "mine" not in str(found.fields)
    assert found.secret == "mine" and "mine" not in repr(found)
    assert "_x" not in found.fields


def test_what_is_not_sent_stays() -> None:
    before = asked(compress="3", excl_path=["/a/"], vp_note="x", secret_key="k", bkup_policy=2)
    form = Form({"band_width": "5m", "vp_note": "y", "compress": ""}, "fsp_backup")
    after = read(form, NOW, before)
    changes = {"band_width": "5m", "vp_note": "y", "compress": "0"}
    assert after.fields == before.fields | changes
    assert (after.name, after.wk, after.bk, after.secret) == ("test", WK, BK, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([one.name for one in FIELDS] + ["fsp_name", "wk_uuid", "secret_key", "x"])


@given(st.dictionaries(NAMES, JSON), st.booleans())
def test_a_form_is_read_or_refused(values: dict[str, Any], whole: bool) -> None:
    form = Form(body(**values) if whole else values, "fsp_backup")
    try:
        found = read(form, NOW)
    except Refusal:
        return
    assert set(found.fields) >= {one.name for one in FIELDS}
