"""Rules that a controller orders, carried out by real agents."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from ends import until
from master import RULE, House

from i2node.model import State
from i2node.node import rpc
from i2node.node.charges import free
from i2node.orders import Charge, Part, Want

LIVE = State.REPLICATION
OTHER, MEETS = RULE[:-1] + "2", RULE[:-1] + "3"


def write(path: Path, text: str = "content") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(house: House) -> Path:
    """The source, with something in it, in `inner` too."""
    for name in ("a", "d/b", "d/e/c", "inner/x", "inner/y/z"):
        write(house.source / name)
    return house.source


def test_parts_that_nest_arrive_in_the_layout_of_their_run(house: House, tree: Path) -> None:
    inner = tree / "d" / "e"
    os.utime(tree / "d", ns=(10**18, 10**18))
    here = house.begin(tree, inner)
    stood = here.state(LIVE)
    assert len(house.reports()) == 2 and stood.progress == 100
    assert house.alike(house.copy(stood)), "with the times of the directory above the inner part"
    write(tree / "live")
    write(inner / "live too")
    (tree / "a").unlink()
    house.becomes_alike(house.copy(stood))
    assert [state for _, state, _ in here.seen][-1] is LIVE
    assert len(house.stamps()) == 1 and house.stamps()[0] == stood.stamp


def test_what_an_inner_part_works_with_is_not_in_the_outer_ones_tree(house_apart: House) -> None:
    """It would be removed there as what the source does not have, and leave its traces in times."""
    house, inner = house_apart, house_apart.source / "d" / "e"
    write(house.source / "a")
    write(inner / "c")
    here = house.begin(house.source, inner)
    copy = house.copy(here.state(LIVE))
    for n in range(3):
        charge = house.charge(house.source, inner, version=f"{n}", excludes=(f"*.{n}",))
        house.order(here, (charge,))
        here.stands(lambda one, n=n: one.version == f"{n}" and one.state is LIVE)
        (inner / "large").write_bytes(os.urandom(3_000_000))
        write(inner / f"new{n}")
        until("there", (copy / "d" / "e" / f"new{n}").exists)
        assert not list(copy.rglob(".i2node-*"))
    house.becomes_alike(copy)


def test_a_stop_and_a_start_go_on_in_the_same_run(house: House, tree: Path) -> None:
    here = house.begin(tree)
    stamp = here.state(LIVE).stamp
    house.order(here, (house.charge(tree, want=Want.STOP),))
    stood = here.state(State.M_STOP)
    assert stood.stamp == stamp and stood.tally is None
    write(tree / "meanwhile")
    house.order(here, (house.charge(tree),))
    stood = here.state(LIVE)
    assert stood.stamp == stamp and house.alike(house.copy(stood))
    assert house.stamps() == [stamp]


def test_a_finish_makes_the_copy_complete_and_stays_until_another_run(
    house: House, tree: Path
) -> None:
    here = house.begin(tree)
    stamp = here.state(LIVE).stamp
    write(tree / "the last")
    house.order(here, (house.charge(tree, want=Want.FINISH),))
    stood = here.state(State.FINISH)
    assert stood.progress == 100 and stood.passes == 1 and stood.stamp == stamp
    assert stood.last is not None and stood.last.problems == 0 and stood.last.stamp == stamp
    assert house.alike(house.copy(stood))
    write(tree / "after it")
    house.work.stop(signal.SIGKILL)
    house.work.start()
    here = house.link(house.work)
    assert here.number == house.number
    assert here.stands(lambda one: True).state is State.FINISH
    assert not (house.copy(stood) / "after it").exists()
    house.order(here, (house.charge(tree, run=2),))
    again = here.state(LIVE)
    assert again.stamp > stamp and house.stamps() == [stamp, again.stamp]
    assert house.alike(house.copy(again)) and again.passes == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_agent_goes_on_alone_when_it_starts_anew(house: House, tree: Path, number: int) -> None:
    here = house.begin(tree)
    stamp = here.state(LIVE).stamp
    here.close()
    house.work.stop(number)
    write(tree / "while it was down")
    (tree / "a").unlink()
    house.work.start()
    copy = Path(f"{house.base}/{stamp}{tree}")
    house.becomes_alike(copy)
    write(tree / "and live")
    house.becomes_alike(copy)
    assert house.stamps() == [stamp]
    (report,) = rpc.status(house.work.home / "var" / "run")
    assert report.source == str(tree) and report.state is LIVE
    held = rpc.ask(house.work.home / "var" / "run", "explain", path=str(tree / "d"))
    assert held[0].value["path"] == str(tree / "d")


def test_both_agents_are_killed_while_it_mirrors(house: House, tree: Path) -> None:
    for n in range(300):
        write(tree / "many" / str(n), "x" * 5000)
    house.begin(tree, bwlimit="8m")
    until("nothing arrived", lambda: any(house.room.rglob("many/*")))
    house.work.stop(signal.SIGKILL)
    house.backup.stop(signal.SIGKILL)
    house.backup.start()
    house.work.start()
    here = house.link(house.work)
    stood = here.state(LIVE)
    assert house.alike(house.copy(stood)) and house.stamps() == [stood.stamp]


def test_another_rate_holds_in_the_running_session(house: House, tree: Path) -> None:
    here = house.begin(tree)
    here.state(LIVE)
    began = house.reports()[0].since
    house.order(here, (house.charge(tree, bwlimit="0"),))
    stood = here.state(State.STOP)
    assert "bandwidth" in stood.cause and stood.blocked_on == "bandwidth plan"
    (tree / "held back").write_bytes(os.urandom(300_000))
    until("it to be held", lambda: house.reports()[0].blocked_on == "bandwidth plan")
    assert not (house.copy(stood) / "held back").exists()
    house.order(here, (house.charge(tree, bwlimit="80m"),))
    stood = here.state(LIVE)
    house.becomes_alike(house.copy(stood))
    assert house.reports()[0].since == began, "it was not begun anew"


def test_what_becomes_excluded_stays_and_what_no_longer_is_comes_up_to_date(
    house: House, tree: Path
) -> None:
    write(tree / "junk.tmp")
    here = house.begin(tree)
    copy = house.copy(here.state(LIVE))
    house.order(here, (house.charge(tree, excludes=(str(tree / "d"), "*.tmp"), version="2"),))
    here.stands(lambda one: one.version == "2" and one.state is LIVE)
    write(tree / "d" / "b", "changed unseen")
    (tree / "d" / "e" / "c").unlink()
    (tree / "junk.tmp").unlink()
    house.work.stop(signal.SIGTERM)
    house.work.start()
    write(tree / "seen")
    until("live", (copy / "seen").exists)
    here = house.link(house.work)
    here.state(LIVE)
    assert (copy / "d" / "b").read_text() == (copy / "d" / "e" / "c").read_text() == "content"
    assert (copy / "junk.tmp").exists()
    house.order(here, (house.charge(tree, version="3"),))
    house.becomes_alike(copy)


def test_what_the_agent_works_with_is_not_mirrored(house: House, tree: Path) -> None:
    """It changes while it is mirrored, without end, and holds keys."""
    place = house.place
    here = house.begin(place, excludes=(str(house.room), f"{place}/backup", "*.log"))
    stood = here.stands(lambda one: one.state is LIVE and one.tally and one.tally.in_sync)
    copy = house.copy(stood, place)
    assert sorted(p.name for p in copy.iterdir()) == ["controller", "source", "work"]
    assert list((copy / "work").iterdir()) == []
    assert house.alike(copy / "source")


def test_a_rule_whose_base_changes_leaves_no_journal_behind(house: House, tree: Path) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    house.order(there, grants=(house.grant(roots=(str(house.room),)),))
    kept = []
    for base in (house.base, house.room / "other"):
        house.order(here, (house.charge(tree, base=str(base), version=base.name),))
        here.stands(lambda one, v=base.name: one.version == v and one.state is LIVE)
        (journal,) = (house.work.home / "var" / "rules").iterdir()
        kept.append(journal.name)
        assert len(list(base.iterdir())) == 1
    assert kept[0] != kept[1]


def test_a_rule_that_is_gone_is_forgotten_with_its_trust(house: House, tree: Path) -> None:
    here = house.begin(tree)
    here.state(LIVE)
    var = house.work.home / "var"
    assert list((var / "rules").iterdir()) and (var / "charges" / f"{RULE}.json").exists()
    assert house.work.identity.peer(house.backup.identity.node_id) is not None
    house.order(here)
    until("forgotten", lambda: not list((var / "rules").iterdir()))
    until("no peer", lambda: house.work.identity.peer(house.backup.identity.node_id) is None)
    until("no standing", lambda: not here.standings)
    assert not (var / "charges" / f"{RULE}.json").exists()


def test_a_rule_with_targets_of_its_own_goes_on_in_them(house: House, tree: Path) -> None:
    there, here = house.link(house.backup), house.link(house.work)
    target = house.room / "own"
    house.order(there, grants=(house.grant(roots=(str(target),), base=""),))
    charge = house.charge(tree, base="")
    charge = replace(charge, parts=(replace(charge.parts[0], target=str(target)),))
    for run in (1, 2):
        write(tree / f"run {run}")
        house.order(here, (replace(charge, run=run),))
        here.stands(lambda one, run=run: one.run == run and one.state is LIVE)
        assert house.alike(target)
        house.order(here, (replace(charge, run=run, want=Want.FINISH),))
        stood = here.state(State.FINISH)
        assert stood.stamp == "" and stood.passes == run


def test_a_source_that_is_not_there_stands_still_until_another_order(
    house: House, tree: Path
) -> None:
    here = house.begin(tree / "absent")
    stood = here.state(State.STOP)
    assert "absent is not a directory" in stood.cause and stood.remedy
    house.order(here, (house.charge(tree, version="2"),))
    house.alike(house.copy(here.state(LIVE)))


def test_rules_that_begin_at_once_have_a_directory_each(house: House, tree: Path) -> None:
    rules = [f"{RULE[:-1]}{number}" for number in range(3)]
    link = house.link(house.work)
    house.order(house.link(house.backup), grants=tuple(house.grant(rule=rule) for rule in rules))
    inner = (house.source, house.source, tree / "inner")
    inner[2].mkdir(exist_ok=True)
    charges = [house.charge(part, rule=rule) for rule, part in zip(rules, inner, strict=True)]
    house.order(link, charges=tuple(charges))
    for rule in rules:
        link.state(State.REPLICATION, rule)
    assert len({link.standings[rule].stamp for rule in rules}) == 3


def test_a_rule_that_is_long_in_ending_holds_up_no_other(house: House, tree: Path) -> None:
    here = house.begin(tree)
    copy = house.copy(here.state(LIVE))
    assert house.backup.child is not None
    house.backup.child.signal(signal.SIGSTOP)
    write(tree / "late")
    (tree.parent / "other").mkdir()
    other = house.charge(tree.parent / "other", rule=OTHER, want=Want.STOP)
    meets = house.charge(tree / "d", rule=MEETS, want=Want.STOP)
    house.order(here, (other, meets))
    here.state(State.M_STOP, OTHER)
    assert "charge-gone" not in house.work.said()
    assert MEETS not in here.standings and RULE not in here.standings
    house.order(here, (other, meets, house.charge(tree)))  # wanted again before it has ended
    house.backup.child.signal(signal.SIGCONT)
    here.state(State.M_STOP, MEETS)
    house.becomes_alike(house.copy(here.state(LIVE)))
    assert house.work.said().count("charge-gone") == 1
    assert (copy / "late").read_text() == "content", "what was under way came there first"


def test_which_rules_begin_while_others_end() -> None:
    def charge(rule: str, source: str, target: str = "", peer: str = "P") -> Charge:
        return Charge(
            rule=rule,
            version="",
            name="",
            want=Want.RUN,
            host="h",
            port=1,
            peer=peer,
            certificate="",
            base="" if target else "/base",
            parts=(Part(source=source, target=target),),
        )

    def begins(one: Charge, *leaving: Charge) -> bool:
        return bool(free({one.rule: one}, leaving))

    leaving = charge("L", "/data/a/", "/copy/a")
    assert begins(charge("N", "/data/a"))
    assert not begins(charge("L", "/else"), leaving)
    for source in ("/", "/data", "/data/a", "/data/a/b"):
        assert not begins(charge("N", source), leaving)
    assert begins(charge("N", "/data/ab"), leaving)
    for target in ("/copy", "/copy/a/b/"):
        assert not begins(charge("N", "/else", target), leaving)
        assert begins(charge("N", "/else", target, peer="Q"), leaving)
    assert begins(charge("N", "/else"), charge("L", "/data"))
