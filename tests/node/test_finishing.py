"""The end of a run: its scripts, what stops it, and planned ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ends import until
from master import HOST, LONG, House

from i2node.cli import main
from i2node.errors import SafetyStop
from i2node.fs.tree import boot_id
from i2node.model import State
from i2node.net.identity import Identity
from i2node.net.transport import Listener
from i2node.node import kept, scripts
from i2node.orders import Want
from i2node.schedule import Every, Plan, Slot


@pytest.fixture
def tree(house: House) -> Path:
    (house.source / "d").mkdir()
    (house.source / "d" / "a").write_text("content")
    return house.source


def script(etc: Path, name: str, text: str, mode: int = 0o700) -> Path:
    home = etc / "scripts"
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    path = home / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def test_the_scripts_run_around_the_last_pass(house: House, tree: Path) -> None:
    etc, notes = house.work.home / "etc", house.place / "notes"
    script(etc, "before", f'echo "$2 of $1" >>{notes}; echo dumped >{tree}/dump')
    script(etc, "after", f'echo "$2 of $1" >>{notes}; cat {house.base}/*{tree}/dump >>{notes}')
    here = house.begin(tree)
    here.state(State.REPLICATION)
    wanted = house.charge(tree, want=Want.FINISH, before="before", after="after")
    house.order(here, (wanted,))
    stood = here.state(State.FINISH)
    assert stood.cause == "" and house.alike(house.copy(stood))
    rule = wanted.rule
    assert notes.read_text() == f"before of {rule}\nafter of {rule}\ndumped\n"
    house.work.stop(signal.SIGKILL)
    house.work.start()
    house.link(house.work).state(State.FINISH)
    assert len(notes.read_text().splitlines()) == 3, "they run once"


def test_a_script_that_fails_stops_the_finish(house: House, tree: Path) -> None:
    path = script(house.work.home / "etc", "before", "echo the database hangs >&2; exit 3")
    here = house.begin(tree)
    here.state(State.REPLICATION)
    wanted: dict[str, Any] = {"want": Want.FINISH, "before": "before", "after": "absent"}
    house.order(here, (house.charge(tree, **wanted),))
    stood = here.state(State.STOP)
    assert stood.cause == "script before ended with status 3: the database hangs"
    assert stood.remedy and not stood.passes
    path.write_text("#!/bin/sh\n")
    house.order(here, (house.charge(tree, version="2", **wanted),))
    stood = here.state(State.FINISH)
    assert "script absent cannot be run" in stood.cause, "the copy is complete, and it is said"
    assert house.alike(house.copy(stood))


def test_a_stop_ends_a_script_that_takes_long(house: House, tree: Path) -> None:
    begun = house.place / "begun"
    script(house.work.home / "etc", "slow", f"touch {begun}; sleep 600")
    here = house.begin(tree)
    here.state(State.REPLICATION)
    house.order(here, (house.charge(tree, want=Want.FINISH, before="slow"),))
    until("the script begins", begun.exists)
    house.order(here, (house.charge(tree, want=Want.STOP),))
    here.state(State.M_STOP)
    house.order(here, (house.charge(tree),))
    assert house.alike(house.copy(here.state(State.REPLICATION)))


def test_a_script_that_outlives_its_agent_is_not_run_beside_another(
    house: House, tree: Path
) -> None:
    begun = house.place / "begun"
    text = f"sleep 600 & echo $$ $! >>{begun}; wait"
    script(house.work.home / "etc", "slow", text)
    here = house.begin(tree)
    here.state(State.REPLICATION)
    house.order(here, (house.charge(tree, want=Want.FINISH, before="slow"),))
    until("the script begins", lambda: begun.exists() and begun.read_text().endswith("\n"))
    var = house.work.home / "var"
    until("it is not noted", lambda: bool(list(var.rglob("*.script"))))
    assert house.work.child is not None
    house.work.child.kill()
    first, child = begun.read_text().split()
    assert Path(f"/proc/{first}").exists()
    house.work.start()
    until("it runs again", lambda: len(begun.read_text().split()) == 4)
    assert " script-left " in house.work.said()
    for pid in (first, child):
        until("it lives on", lambda pid=pid: not Path(f"/proc/{pid}").exists())
    house.order(house.link(house.work), (house.charge(tree, want=Want.STOP),))
    until("the note stays", lambda: not list(var.rglob("*.script")))


def test_a_process_that_has_the_number_of_a_script_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        for began, boot in ((1, boot_id()), (None, "another")):
            note = {**scripts._of(other.pid), "boot": boot}
            kept.keep(tmp_path / "note", note | ({"began": began} if began else {}))
            assert not scripts.end_left(tmp_path / "note")
            assert not (tmp_path / "note").exists()
        (tmp_path / "note").write_text('{"pid": "x"}')
        assert not scripts.end_left(tmp_path / "note")
        assert other.poll() is None
        kept.keep(tmp_path / "note", scripts._of(other.pid))
        assert scripts.end_left(tmp_path / "note")
        assert other.wait(60) == -signal.SIGKILL


def test_a_script_runs_though_it_cannot_be_noted(tmp_path: Path) -> None:
    """A directory is in the way, as a disk that is read-only would be."""
    etc, note, said = tmp_path / "etc", tmp_path / "note", tmp_path / "said"
    etc.mkdir()
    note.mkdir()
    tmp_path.chmod(0o755)
    script(etc, "fine", f"echo $1 >{said}")
    scripts.run(etc, "fine", "R", "before", lambda: False, note)
    assert said.read_text() == "R\n" and not scripts.end_left(note)


def test_a_finish_says_so_while_the_target_hangs(house: House, tree: Path) -> None:
    here = house.begin(tree)
    here.state(State.REPLICATION)
    assert house.backup.child is not None
    house.backup.child.signal(signal.SIGSTOP)
    (tree / "late").write_text("late")
    house.order(here, (house.charge(tree, want=Want.FINISH),))
    here.state(State.SWITCH)
    house.backup.child.signal(signal.SIGCONT)
    stood = here.state(State.FINISH)
    assert house.alike(house.copy(stood))


def test_which_scripts_may_run(tmp_path: Path) -> None:
    etc, said = tmp_path / "etc", tmp_path / "said"
    etc.mkdir()
    tmp_path.chmod(0o755)
    fine = script(etc, "fine", f"echo $1 $2 >{said}")

    def run(name: str, limit_s: float = 60.0) -> None:
        scripts.run(etc, name, "R", "before", lambda: False, tmp_path / "note", limit_s)
        assert not (tmp_path / "note").exists()

    run("fine")
    assert said.read_text() == "R before\n"
    run(str(fine))
    (etc / "outside").write_text("#!/bin/sh\n")
    (etc / "outside").chmod(0o700)
    (etc / "scripts" / "link").symlink_to(etc / "outside")
    (etc / "scripts" / "loop").symlink_to("loop")
    (etc / "scripts" / "directory").mkdir(mode=0o755)
    script(etc, "open", "", 0o722)
    script(etc, "plain", "", 0o600)
    script(etc, "slow", "sleep 600")
    for name, why in (
        ("../outside", "is not below"),
        ("link", "is not below"),
        ("/bin/true", "is not below"),
        (".", "is not below"),
        ("loop", "cannot be run"),
        ("absent", "cannot be run"),
        ("directory", "is no file"),
        ("open", "can be changed by others"),
        ("plain", "is no file that can be executed"),
    ):
        with pytest.raises(SafetyStop, match=why):
            run(name)
    with pytest.raises(SafetyStop, match="took longer than"):
        run("slow", limit_s=0.3)
    (etc / "scripts").chmod(0o777)
    with pytest.raises(SafetyStop, match="can be changed by others"):
        run("fine")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives up capabilities")
@pytest.mark.parametrize("name", ["d/locked", "locked/below"])
def test_a_strict_first_pass_stops_at_what_cannot_be_read(
    house: House, tree: Path, name: str
) -> None:
    for n in range(20):
        (tree / f"n{n}").write_text("content")
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("content")
    locked = tree / name if name.endswith("locked") else tree / "locked"
    locked.chmod(0)
    house.work.close()
    command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", sys.executable]
    command += ["-m", "i2node", "--home", str(house.work.home), "agent"]
    command += ["--listen", f"{HOST}:{house.work.port}"]
    said = len(house.work.said())
    with house.work.log.open("a") as log, subprocess.Popen(command, stderr=log) as agent:
        until("it listens", lambda: "agent-listens" in house.work.said()[said:])
        here = house.begin(tree, strict_source=True)
        stood = here.state(State.STOP)
        assert str(locked.relative_to(tree)) in stood.cause and stood.remedy
        house.order(here, (house.charge(tree),))
        stood = here.state(State.REPLICATION)
        assert stood.tally is not None and stood.tally.problems == 1
        assert (house.copy(stood) / "n7").exists()
        here.close()
        agent.terminate()
        agent.wait(LONG)


def test_planned_runs_are_one_pass_each(house: House, tree: Path) -> None:
    here = house.begin(tree, plan=Plan(once_at=1))
    stood = here.state(State.FINISH)
    assert stood.passes == 1 and stood.last is not None and stood.last.problems == 0
    assert house.alike(house.copy(stood))
    slots = (Slot(every=Every.DAY, gap=1),)
    house.order(here, (house.charge(tree, run=2, plan=Plan(slots=slots)),))
    stood = here.state(State.WAITING)
    assert stood.next_run is not None and stood.next_run > stood.since and stood.passes == 1
    house.order(here, (house.charge(tree, run=2, plan=Plan(slots=slots), want=Want.STOP),))
    assert here.state(State.M_STOP).next_run is None
    (tree / "more").write_text("more")
    house.order(here, (house.charge(tree, run=2, plan=Plan(once_at=1)),))
    again = here.state(State.FINISH)
    assert again.passes == 2 and again.stamp > stood.stamp
    assert house.alike(house.copy(again)) and not (house.copy(stood) / "more").exists()


def test_a_node_enrols_with_a_controller(tmp_path: Path, capsys: Any) -> None:
    controller = Identity.load(tmp_path / "controller")
    listener = Listener(HOST, 0, controller, on_channel=lambda channel: None)
    listener.start()
    home, code = tmp_path / "node", tmp_path / "code"
    (home / "etc").mkdir(parents=True)
    (home / "etc" / "i2node.toml").write_text("listen_port = 4711\n")
    code.touch(mode=0o600)
    try:
        command = ["--home", str(home), "enroll", f"{HOST}:{listener.port}", "--code-file"]
        code.write_text("x" * 32)
        assert main([*command, str(code)]) == 4
        node = Identity.load(home / "etc")
        assert node.peers() == () and controller.peers() == ()
        code.write_text(controller.code)
        assert main([*command, str(code)]) == 0
    finally:
        listener.close()
    assert f"controller {controller.node_id}" in capsys.readouterr().out
    (known,), (enrolled,) = node.peers(), controller.peers()
    assert known.role == "controller" and known.node_id == controller.node_id
    assert enrolled.role == "node" and enrolled.node_id == node.node_id
    assert enrolled.address == f"{HOST}:4711" and enrolled.name == os.uname().nodename
