"""A changed configuration is taken by a running agent, and no session ends for it."""

from __future__ import annotations

import json
import re

from ends import free_port, until
from master import HOST, House

from i2node.config import OF_SESSIONS, Config
from i2node.model import State


def test_sessions_go_on(house: House) -> None:
    (house.source / "early").write_text("early")
    here = house.begin()
    copy = house.copy(here.state(State.REPLICATION))
    began = {report.rule: report.since for report in house.reports()}
    said = {agent.log: len(agent.said()) for agent in (house.work, house.backup)}

    for agent in (house.work, house.backup):
        agent.configure(f'sweep_s = 7.0\nallow_roots = ["{house.room}"]\n')
        told = agent.reload()
        assert "changed=allow_roots,sweep_s of_sessions=sweep_s" in told, told
    (house.source / "late").write_text("late")
    house.becomes_alike(copy)

    house.backup.configure("sweeps = 7\n")
    assert "unknown key 'sweeps'" in house.backup.reload()
    (house.source / "later").write_text("later")
    house.becomes_alike(copy)

    assert {report.rule: report.since for report in house.reports()} == began
    for agent in (house.work, house.backup):
        since = agent.said()[said[agent.log] :]
        assert not re.search(r" (source-gone|state|session-\w+|channel-ended) ", since), since


def test_another_port_is_taken_while_sessions_go_on(house: House) -> None:
    here = house.begin()
    copy = house.copy(here.state(State.REPLICATION))
    before, house.backup.port = house.backup.port, free_port()
    house.backup.configure("")
    assert f"port={house.backup.port} changed=listen_port" in house.backup.reload()
    (house.source / "late").write_text("late")
    house.becomes_alike(copy)
    house.link(house.backup)  # where it is now
    assert before != house.backup.port
    taken, house.backup.port = house.backup.port, house.work.port
    house.backup.configure("")
    assert "in use" in house.backup.reload()
    house.backup.port = taken
    house.link(house.backup)


def test_what_is_allowed_no_more_ends(house: House) -> None:
    """And what is allowed from now on, is."""
    house.work.identity.trust(house.backup.identity.cert_pem)
    house.backup.identity.trust(house.work.identity.cert_pem)
    house.source.joinpath("file").write_text("content")
    target = house.room / "ours"
    there = f"{HOST}:{house.backup.port}:{target}"
    words = ("--home", str(house.work.home), "mirror", str(house.source), there, "--json")
    mirror = house.work.nursery.bear(house.place / "refused.log", *words)
    assert mirror.wait(60) == 4
    house.backup.configure(f'allow_roots = ["{house.room}"]\n')
    house.backup.reload()
    mirror = house.work.nursery.bear(house.place / "mirror.log", *words)
    until("nothing arrived", lambda: house.alike(target))
    house.backup.configure("")
    house.backup.reload()
    assert mirror.wait(60) == 4
    told = json.loads((house.place / "mirror.log").read_text().splitlines()[-1])
    assert "no longer below a root" in told["cause"]


def test_what_a_session_goes_by_is_a_key() -> None:
    assert set(Config.__dataclass_fields__) > OF_SESSIONS


def test_a_brake_that_is_made_looser_lets_go(house: House) -> None:
    for number in range(40):
        (house.source / f"f{number}").write_text("content")
    house.backup.configure("brake_floor = 5\nbrake_share = 5.0\n")
    house.backup.reload()
    here = house.begin()
    copy = house.copy(here.state(State.REPLICATION))
    for number in range(30):
        (house.source / f"f{number}").unlink()
    until("it is not held", lambda: " brake-holds " in house.backup.said())
    assert len(list(copy.iterdir())) > 30
    house.backup.configure("brake_floor = 500\n")
    house.backup.reload()
    house.becomes_alike(copy)
