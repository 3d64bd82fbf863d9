"""A target that holds back what would take too much away at once, until a person decides."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import CONFIG, PATIENCE_S, Hosts, until
from nursery import Nursery

from i2node.cli import main
from i2node.model import State
from i2node.node import rpc
from i2node.repl.report import RuleReport
from queues import usual_queue

FLOOR, ENTRIES = 100, 600
"""A brake that holds when a quarter of these, of one directory, would go."""


@pytest.fixture
def hosts(nursery: Nursery) -> Iterator[Hosts]:
    place = Path(tempfile.mkdtemp(prefix="i2node-brakes-", dir="/var/tmp"))
    made = Hosts(place, nursery)
    configure(made, "there", brake_floor=FLOOR)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(place)


def configure(hosts: Hosts, name: str, **values: int) -> None:
    """Sets what the node is told beyond the usual, before it starts."""
    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
    (hosts.homes[name] / "etc" / "i2node.toml").write_text(CONFIG + lines)


def plant(hosts: Hosts, entries: int = ENTRIES, size: int = 0) -> None:
    """So many entries in a few directories, mirrored."""
    for n in range(entries // 50):
        directory = hosts.source / f"d{n}"
        directory.mkdir()
        for m in range(49):
            (directory / f"f{m}").write_bytes(bytes(size))
    with usual_queue():
        hosts.quiesce()
    assert held(hosts) == entries + 1  # and the fence


def held(hosts: Hosts) -> int:
    """The entries of the target."""
    return sum(len(dirs) + len(files) for _, dirs, files in os.walk(hosts.target))


def there(hosts: Hosts) -> RuleReport:
    """What the target tells of the rule."""
    (report,) = rpc.status(hosts.homes["there"] / "var" / "run")
    assert report.side == "target"
    return report


def is_held(hosts: Hosts) -> bool:
    report = hosts.report()
    return report is not None and "the brake holds" in report.blocked_on


def decide(hosts: Hosts, verb: str, home: str = "there") -> int:
    return main(["--home", str(hosts.homes[home]), verb, there(hosts).rule])


def lose(hosts: Hosts) -> None:
    """All but one file, and the brake holds it back."""
    for n in range(ENTRIES // 50):
        shutil.rmtree(hosts.source / f"d{n}")
    until("nothing was held back", lambda: is_held(hosts))
    stands(hosts)


def stands(hosts: Hosts) -> None:
    """No more went than may, and both sides say why."""
    assert held(hosts) >= ENTRIES - ENTRIES // 4
    report = hosts.report()
    assert report is not None and not report.in_sync
    told = there(hosts)
    assert told.phase == "held" and told.cause in report.blocked_on
    assert f"i2node release {told.rule}" in told.remedy and told.remedy in report.blocked_on


def test_what_goes_beyond_the_budget_waits_for_a_release(hosts: Hosts) -> None:
    plant(hosts)
    lose(hosts)
    assert hosts.tail("there").count("brake-holds") == 1
    assert decide(hosts, "release", "here") == 2, "a source released itself"
    assert decide(hosts, "release") == 0
    hosts.quiesce()
    assert hosts.differences() == []
    assert there(hosts).phase == "released" and decide(hosts, "refuse") == 2


def test_files_that_are_cut_are_held_back_and_refused_and_asked_for_again(hosts: Hosts) -> None:
    plant(hosts, size=5000)
    for path in hosts.source.rglob("f*"):
        os.truncate(path, 0)
    until("nothing was held back", lambda: is_held(hosts))
    stands(hosts)
    left = whole(hosts)
    assert len(left) >= ENTRIES // 50 * 49 - ENTRIES // 4 - 1
    assert hosts.mirror is not None and decide(hosts, "refuse") == 0
    assert hosts.mirror.wait(PATIENCE_S) == 3
    assert '"STOP"' in hosts.tail("here") and "refused on" in hosts.tail("here")
    with usual_queue():
        hosts.start_source()
        until("it was not asked again", lambda: is_held(hosts))
    assert whole(hosts) == left
    assert decide(hosts, "release") == 0
    hosts.quiesce()
    assert hosts.differences() == []


def whole(hosts: Hosts) -> set[Path]:
    return {path for path in hosts.target.rglob("f*") if path.stat().st_size == 5000}


def test_what_is_held_is_held_after_a_restart_until_it_is_not_wanted_any_more(hosts: Hosts) -> None:
    plant(hosts)
    aside = hosts.place / "aside"
    aside.mkdir()
    for n in range(ENTRIES // 50):
        (hosts.source / f"d{n}").rename(aside / f"d{n}")
    until("nothing was held back", lambda: is_held(hosts))
    left = held(hosts)
    hosts.kill_target()
    until("its end was not noticed", lambda: not is_held(hosts))
    hosts.start_target()
    until("nothing was held back", lambda: is_held(hosts))
    stands(hosts)
    hosts.kill_source()
    until("its end was not noticed", lambda: there(hosts).state == State.UNKNOWN)
    assert "start the source" in there(hosts).remedy
    assert decide(hosts, "release") == 2, "nobody is there to do it"
    with usual_queue():
        hosts.start_source()
        until("nothing was held back", lambda: is_held(hosts))
    stands(hosts)
    assert held(hosts) == left
    hosts.kill_source()
    for path in aside.iterdir():
        path.rename(hosts.source / path.name)
    with usual_queue():
        hosts.quiesce()
    assert hosts.differences() == []
    assert there(hosts).phase == "receive"


def test_what_a_project_leaves_passes_and_so_does_churn(hosts: Hosts) -> None:
    configure(hosts, "there", brake_floor=300)
    plant(hosts)
    shutil.rmtree(hosts.source / "d0")
    spool = hosts.source / "spool"
    spool.mkdir()
    for turn in range(50):
        for n in range(100):
            (spool / f"{turn}-{n}").touch()
            if turn:
                (spool / f"{turn - 1}-{n}").unlink()
    hosts.quiesce()
    assert hosts.differences() == [] and "brake-holds" not in hosts.tail("there")


def test_a_target_on_this_host_holds_back_too(hosts: Hosts) -> None:
    home, target = hosts.homes["here"], hosts.place / "near"
    configure(hosts, "here", brake_floor=FLOOR)
    for n in range(ENTRIES):
        (hosts.source / f"f{n}").touch()
    words = ("--home", str(home), "mirror", str(hosts.source), str(target), "--json")
    with usual_queue():
        hosts.mirror = hosts.nursery.bear(hosts.place / "here.log", *words)
        until("not in sync", hosts.in_sync)
    for n in range(ENTRIES - 1):
        (hosts.source / f"f{n}").unlink()
    until("nothing was held back", lambda: is_held(hosts))
    assert len(list(target.iterdir())) >= ENTRIES - ENTRIES // 4
    report = hosts.report()
    assert report is not None and report.side == "source"
    assert main(["--home", str(home), "release", report.rule]) == 0
    until("it was not done", lambda: len(list(target.iterdir())) == 1)
    until("not in sync", hosts.in_sync)
