"""What a backup node allows, removes, and refuses, whatever it is asked."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from ends import until
from master import HOST, LONG, RULE, House, Link

from i2node.errors import I2Error
from i2node.model import State
from i2node.net.transport import connect
from i2node.orders import Want

OTHER = RULE[:-1] + "2"


@pytest.fixture
def tree(house: House) -> Path:
    for name in ("a", "d/b", "inner/x"):
        (house.source / name).parent.mkdir(exist_ok=True)
        (house.source / name).write_text("content")
    return house.source


def finished(house: House, here: Link, *parts: Path, run: int = 1) -> Path:
    """A run from beginning to end; gives its directory."""
    house.order(here, (house.charge(*parts, run=run, want=Want.FINISH),))
    stood = here.stands(lambda one: one.run == run and one.state is State.FINISH)
    return house.base / stood.stamp


def test_what_is_not_granted_is_refused_until_it_is(house: House, tree: Path) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    other = house.room / "other"
    house.order(there, grants=(house.grant(roots=(str(other),), base=""),))
    house.order(here, (house.charge(tree),))
    stood = here.state(State.STOP)
    assert "is not below a root this node allows" in stood.cause
    assert not house.base.exists()
    house.order(there, grants=(house.grant(),))
    stood = here.state(State.REPLICATION)
    assert house.alike(house.copy(stood)), "it went on by itself"


def test_a_grant_that_is_taken_back_ends_the_session(house: House, tree: Path) -> None:
    here = house.begin(tree)
    copy = house.copy(here.state(State.REPLICATION))
    house.order(house.link(house.backup))
    here.state(State.STOP)
    (tree / "late").write_text("late")
    assert house.backup.identity.peer(house.work.identity.node_id) is None
    with pytest.raises(I2Error):
        connect(HOST, house.backup.port, house.work.identity).recv(LONG)
    assert not (copy / "late").exists()


def test_a_peer_that_a_person_paired_stays_one(house: House, tree: Path) -> None:
    house.backup.identity.trust(house.work.identity.cert_pem, name="by hand")
    here = house.begin(tree)
    here.state(State.REPLICATION)
    house.order(house.link(house.backup))
    here.state(State.STOP)
    peer = house.backup.identity.peer(house.work.identity.node_id)
    assert peer is not None and peer.name == "by hand" and peer.by == ""


def test_only_the_newest_runs_stay(house: House, tree: Path) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(keep=2),))
    (house.base / "20010101000000").mkdir(parents=True)
    (house.base / "20010101000000" / "foreign").write_text("not of this rule")
    runs = [finished(house, here, tree, tree / "inner", run=run) for run in (1, 2, 3)]
    until("the oldest goes", lambda: not runs[0].exists())
    assert house.stamps() == ["20010101000000", runs[1].name, runs[2].name]
    assert house.alike(Path(f"{runs[1]}{tree}")) and house.alike(Path(f"{runs[2]}{tree}"))
    records = sorted((house.backup.home / "var" / "targets").glob("*.json"))
    assert len(records) == 4, "two parts of two runs"


def test_wipe_removes_what_the_rule_put_there_and_nothing_else(house: House, tree: Path) -> None:
    here = house.begin(tree, tree / "inner")
    stood = here.state(State.REPLICATION)
    canary, link = house.room / "canary", Path(f"{house.base}/{stood.stamp}{tree}/d/link")
    canary.mkdir()
    (canary / "stays").write_text("stays")
    link.symlink_to(canary)
    (house.base / "stays").write_text("not of any rule")
    (house.base / "20010101000000").mkdir()
    house.order(here)
    there = house.link(house.backup)
    asked = {"rule": RULE, "base": str(house.base), "roots": [str(house.base)]}
    done = there.ask("wipe", **asked)["value"]
    assert len(done["removed"]) == 2
    assert sorted(os.listdir(house.base)) == ["20010101000000", "stays"]
    assert os.listdir(canary) == ["stays"]
    assert there.ask("wipe", **asked)["value"]["removed"] == []
    assert not list((house.backup.home / "var" / "targets").glob("*.json"))
    (house.base / "stays").unlink()
    (house.base / "20010101000000").rmdir()
    house.order(there, grants=(house.grant(), house.grant(rule=OTHER)))
    assert "value" in there.ask("wipe", **asked)
    assert house.base.exists(), "another rule of the same node has it"
    house.order(there, grants=(house.grant(),))
    assert "value" in there.ask("wipe", **asked)
    assert not house.base.exists() and house.room.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"roots": ["/"]}, "no grant for"),
        ({"roots": ["{room}"]}, "no grant for"),
        ({"roots": ["{base}/../canary"]}, "no grant for"),
        ({"rule": OTHER}, "has no grant here"),
        ({"rule": None}, "names no rule"),
        ({"roots": "/"}, "names no roots"),
        ({"roots": [5]}, "names no roots"),
    ],
)
def test_wipe_is_refused_beyond_what_was_granted(
    house: House, tree: Path, change: dict[str, object], says: str
) -> None:
    here = house.begin(tree)
    copy = house.copy(here.state(State.REPLICATION))
    there = house.link(house.backup)
    asked = {"rule": RULE, "base": str(house.base), "roots": [str(house.base)]} | change
    places = {"room": house.room, "base": house.base}
    if isinstance(asked["roots"], list):
        asked["roots"] = [r.format(**places) if isinstance(r, str) else r for r in asked["roots"]]
    answer = there.ask("wipe", **asked)
    assert answer["error"] == "usage" and says in answer["cause"] and answer["remedy"]
    assert house.alike(copy)


def test_wipe_follows_no_link_that_took_the_place_of_a_directory(house: House, tree: Path) -> None:
    """Who may write in the room may put a link where a run was."""
    here = house.begin(tree)
    stood = here.state(State.REPLICATION)
    house.order(here, (house.charge(tree, want=Want.STOP),))
    here.state(State.M_STOP)
    run = house.base / stood.stamp
    there = house.link(house.backup)
    # The root itself, too, was moved away.
    away = house.room / "away"
    house.base.rename(away)
    house.base.symlink_to(away)
    answer = there.ask("wipe", rule=RULE, base=str(house.base), roots=[str(house.base)])
    assert answer["error"] == "session" and "symlink" in answer["cause"] and answer["remedy"]
    assert house.alike(Path(f"{away}/{stood.stamp}{tree}"))
    house.base.unlink()
    away.rename(house.base)
    for canary, says in ((house.base, "a symlink"), (house.room, "not below a root")):
        run.rename(canary / "canary")
        run.symlink_to(canary / "canary")
        answer = there.ask("wipe", rule=RULE, base=str(house.base), roots=[str(house.base)])
        assert answer["error"] == "session" and says in answer["cause"] and answer["remedy"]
        assert house.alike(Path(f"{canary}/canary{tree}"))
        run.unlink()
        (canary / "canary").rename(run)
    run.rename(house.room / "elsewhere")
    Path(f"{run}{tree}").mkdir(parents=True)
    (Path(f"{run}{tree}") / "another's").write_text("stays")
    answer = there.ask("wipe", rule=RULE, base=str(house.base), roots=[str(house.base)])
    assert answer["error"] == "session" and "is not the directory" in answer["cause"]
    assert (Path(f"{run}{tree}") / "another's").exists()


def test_the_brake_is_released_by_the_rule(house: House, tree: Path) -> None:
    config = house.backup.home / "etc" / "i2node.toml"
    config.write_text(config.read_text() + "brake_floor = 2\nbrake_share = 0\n")
    house.backup.close()
    house.backup.start()
    for n in range(10):
        (tree / f"n{n}").write_text("content")
    here = house.begin(tree)
    copy = house.copy(here.state(State.REPLICATION))
    for n in range(10):
        (tree / f"n{n}").unlink()
    here.stands(lambda one: "the brake holds" in one.blocked_on)
    there = house.link(house.backup)
    assert "holds nothing back" in there.ask("release", rule=OTHER)["cause"]
    assert there.ask("release", rule=RULE)["value"] == 1
    house.becomes_alike(copy)


def test_another_node_gets_nothing_by_calling_itself_a_part(house: House, tree: Path) -> None:
    """Siblings may nest; a sibling is of the same peer."""
    here = house.begin(tree)
    copy = house.copy(here.state(State.REPLICATION))
    (record,) = (house.backup.home / "var" / "targets").glob("*.json")
    there = house.link(house.backup)
    third = house.link(house.work).channel  # only to have a third identity's certificate
    assert third.alive
    mallory = type(house.identity).load(house.place / "mallory")
    mallory.trust(house.backup.identity.cert_pem)
    grant = house.grant(rule=OTHER, peer=mallory.node_id, certificate=mallory.cert_pem)
    house.order(there, grants=(house.grant(), grant))
    with closing(connect(HOST, house.backup.port, mallory)) as channel:
        inside = bytes(copy / "d")
        channel.send(
            {
                "t": "open",
                "rule": "f" * 16,
                "root": inside,
                "tokens": [],
                "next": "n",
                "source": "s",
                "origin": "o",
                "whole": [OTHER, [["f" * 16, inside], [record.stem, bytes(copy)]]],
            }
        )
        answer = channel.recv(LONG)
    assert answer["t"] == "error" and "overlaps" in answer["cause"]
    assert house.alike(copy)
