"""A rule from its first mirror to its end, asked for through the vendor's SDK alone, between two
real agents; what is on the disk is looked at."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forest
import pytest
from console import Console, started
from field import FSP, Agent, Sdk, agents, until
from witness import differences


@pytest.fixture
def voice(sdk: Path, console: Console) -> Iterator[Sdk]:
    voice = Sdk(sdk, console)
    yield voice
    voice.close()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Agent]:
    with agents(tmp_path, "work") as (made,):
        yield made


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[Agent]:
    with agents(tmp_path, "backup") as (made,):
        yield made


class Rule:
    """A rule of these two nodes, made through the SDK."""

    def __init__(self, voice: Sdk, work: Agent, backup: Agent, place: Path, **more: Any) -> None:
        self.voice = voice
        self.source = place / "source"
        self.base = place / "backups"
        self.work = work
        for one in (work, backup):
            if not one.uuid:
                one.register(voice)
        body = {
            "fsp_name": "protect",
            "wk_uuid": work.uuid,
            "bk_uuid": backup.uuid,
            "wk_path": [f"{self.source}/"],
            "bk_path": [f"{self.base}/"],
            "excl_path": [f"{self.source}/left-out/"],
            "bkup_policy": 2,
            "fsp_type": 3,
            "mirr_sync_flag": "1",
            "encrypt_switch": "0",
            "compress": "1",
            "sync_item": "/",
        }
        voice.done(FSP, "createFspBackup", fsp_backup=body | more)
        listed = voice.done(FSP, "listFspBackup")["info_list"]
        self.uuid: str = next(one["fsp_uuid"] for one in listed if one["fsp_name"] == "protect")

    def status(self) -> dict[str, Any]:
        told = self.voice.done(FSP, "listFspBackupStatus", fsp_uuids=[self.uuid])["status"]
        return dict(told[0])

    def reaches(self, *words: str) -> dict[str, Any]:
        """Waits for one of these states."""
        return dict(
            until(
                f"{words}", lambda: status if (status := self.status())["status"] in words else None
            )
        )

    def operate(self, verb: str) -> None:
        call = {"start": "startFspBackup", "stop": "stopFspBackup", "finish": "finishFspBackup"}
        told = self.voice.done(FSP, call[verb], operate=verb, fsp_uuids=[self.uuid])
        assert [one["fsp_uuid"] for one in told["success_list"]] == [self.uuid], told

    def runs(self) -> list[Path]:
        """The directories of its runs."""
        return sorted(self.base.glob(f"127.0.0.1_{self.work.port}/" + "[0-9]" * 14))

    def target(self) -> Path:
        """Where the source stands in the newest run."""
        return self.runs()[-1] / str(self.source).lstrip("/")


def equal(one: Path, other: Path) -> bool:
    return other.exists() and not differences(one, other)[1]


def planted(place: Path) -> Path:
    source = place / "source"
    source.mkdir()
    forest.plant(source, small=300)
    forest.bulk(source, 24)
    return source


def test_a_rule_from_its_first_mirror_to_its_end(
    voice: Sdk, work: Agent, backup: Agent, tmp_path: Path
) -> None:
    source = planted(tmp_path)
    rule = Rule(voice, work, backup, tmp_path, band_width="01234567*00:00-24:00*160m")
    seen: list[dict[str, Any]] = []
    until("replication", lambda: seen.append(rule.status()) or seen[-1]["status"] == "REPLICATION")
    mirrored = [one for one in seen if one["status"] == "MIRROR"]
    assert mirrored, seen
    progress = [one["progress"] for one in mirrored]
    assert progress == sorted(progress) and all(0 <= each <= 100 for each in progress)
    until("an equal tree", lambda: equal(source, rule.target()))

    (source / "live").write_text("written\n")
    until("a live change", lambda: (rule.target() / "live").exists())

    rule.operate("stop")
    rule.reaches("M_STOP")
    (source / "later").write_text("while it stood still\n")
    (source / "live").unlink()
    rule.operate("start")
    rule.reaches("REPLICATION")
    until("what changed meanwhile", lambda: equal(source, rule.target()))
    assert len(rule.runs()) == 1  # it went on where it had been

    rule.operate("finish")
    rule.reaches("FINISH")
    assert equal(source, rule.target())
    (source / "after").write_text("nobody looks any more\n")

    rule.operate("start")
    rule.reaches("REPLICATION")
    until("another run", lambda: len(rule.runs()) == 2 and equal(source, rule.target()))
    first = rule.runs()[0] / str(source).lstrip("/")
    assert not (first / "after").exists()

    told = voice.done(FSP, "deleteFspBackup", fsp_uuids=[rule.uuid])
    assert told["message"] == "[0] success"
    assert voice.done(FSP, "listFspBackup")["total"] == 0
    assert voice.done(FSP, "listFspBackupStatus", fsp_uuids=[rule.uuid])["status"] == []
    assert first.exists()  # what was saved stays, unless it is said otherwise
    (source / "gone").write_text("no rule\n")
    until("the agent has no rule", lambda: work.told("status", "--json") == "[]")
    assert len(rule.runs()) == 2 and not (rule.target() / "gone").exists()


def test_excluded_and_paths_are_changed_as_a_rule_runs(
    voice: Sdk, work: Agent, backup: Agent, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for name in ("kept", "left-out"):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text(name)
    rule = Rule(voice, work, backup, tmp_path)
    rule.reaches("REPLICATION")
    until("the tree", lambda: (rule.target() / "kept" / "file").exists())
    assert not (rule.target() / "left-out").exists()
    told = voice.done(FSP, "describeFspBackup", fsp_backup={"fsp_uuid": rule.uuid})["fsp_backup"]
    told["excl_path"] = [f"{source}/kept/"]
    voice.done(FSP, "modifyFspBackup", fsp_backup=told)
    until("what is not left out any more", lambda: (rule.target() / "left-out" / "file").exists())
    assert (rule.target() / "kept" / "file").read_text() == "kept"
    refused = voice.data(FSP, "modifyFspBackup", fsp_backup=told)
    assert refused["code"] == 10001013, refused  # another edit was first
    fresh = voice.done(FSP, "describeFspBackup", fsp_backup={"fsp_uuid": rule.uuid})["fsp_backup"]
    fresh["wk_path"] = [f"{tmp_path}/"]
    assert voice.data(FSP, "modifyFspBackup", fsp_backup=fresh)["code"] != 0


def test_what_was_there_and_whose_it_is_may_stay_behind(
    voice: Sdk, work: Agent, backup: Agent, tmp_path: Path
) -> None:
    """mirr_skip and mirr_sync_attr act at the nodes, and so does another value of them later."""
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name in ("before", "d/before"):
        (source / name).write_text("before")
    rule = Rule(voice, work, backup, tmp_path, mirr_skip="2", mirr_sync_attr="0")
    rule.reaches("REPLICATION")
    (source / "d" / "since").write_text("since")
    os.chown(source / "d" / "since", 1001, 1002)
    since = rule.target() / "d" / "since"
    until("what came since", since.exists)
    told = until("quiet", lambda: status if (status := rule.status())["in_sync"] else None)
    assert told["not_mirrored"] == "files" and told["problems"] == 0
    assert since.stat().st_uid == os.geteuid()
    assert sorted(p.name for p in rule.target().rglob("*")) == ["d", "since"]

    kept = voice.done(FSP, "describeFspBackup", fsp_backup={"fsp_uuid": rule.uuid})["fsp_backup"]
    assert (kept["mirr_skip"], kept["mirr_sync_attr"]) == ("2", "0")
    voice.done(FSP, "modifyFspBackup", fsp_backup=kept | {"mirr_skip": "0", "mirr_sync_attr": "1"})
    until("all of it", lambda: equal(source, rule.target()))
    assert since.stat().st_uid == 1001
    until("nothing left out", lambda: rule.status().get("not_mirrored") == "")


def test_the_controller_is_killed_and_the_agents_go_on(
    voice: Sdk, console: Console, work: Agent, backup: Agent, tmp_path: Path
) -> None:
    source = planted(tmp_path)
    rule = Rule(voice, work, backup, tmp_path)
    rule.reaches("REPLICATION")
    console.process.send_signal(signal.SIGKILL)
    console.process.wait(30)
    (source / "alone").write_text("without a controller\n")
    until("a change without it", lambda: (rule.target() / "alone").exists())
    work.stop(signal.SIGKILL)
    (source / "again").write_text("without an agent\n")
    work.start()
    until("a change behind a restart without it", lambda: (rule.target() / "again").exists())
    back = started(console.home, console.http)
    console.process, console.http, console.https = back.process, back.http, back.https
    rule.reaches("REPLICATION")
    assert len(rule.runs()) == 1
    assert os.listdir(rule.base) == [f"127.0.0.1_{work.port}"]
