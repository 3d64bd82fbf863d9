"""A node that is paired, and reaches for what belongs to another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends import until
from nursery import Nursery
from peer import RULE, Agent, Peer
from trees import snapshot

from i2node.errors import I2Error
from i2node.model import Kind
from i2node.mover.batch import Op, step
from i2node.net.identity import Identity

PUT = step(Op.PUT_FILE, b"f", kind=Kind.FILE, mode=0o600, size=4, data=b"mine")


class House:
    """An agent, and a node that mirrors to it; its session is running."""

    def __init__(self, place: Path, nursery: Nursery) -> None:
        self.agent = Agent(place, nursery)
        self.first = self.agent.peer(place / "first")
        self.second = self.agent.peer(place / "second")
        self.root = self.agent.room / "mirror"
        self.session = Peer(self.agent, self.first)
        assert self.session.open(self.root)["status"] == "fresh"
        self.session.begin()
        assert self.session.send(PUT)[-1]["t"] == "durable"
        self.before = snapshot(self.root)

    def refused(self, who: Identity, root: Path | bytes, **fields: object) -> str:
        """Asks in a session of its own; gives why not."""
        peer = Peer(self.agent, who)
        try:
            answer = peer.open(root, **fields)  # type: ignore[arg-type]
        finally:
            peer.close()
        assert answer["t"] == "error", answer
        return f"{answer['code']}: {answer['cause']}"

    def untouched(self) -> bool:
        """The first one's session goes on, its tree as it was."""
        assert snapshot(self.root) == self.before
        return self.session.send(b"")[-1]["t"] == "durable"

    def state(self) -> list[str]:
        return sorted(os.listdir(self.agent.home / "var" / "targets"))


@pytest.fixture
def house(tmp_path: Path, nursery: Nursery) -> Iterator[House]:
    made = House(tmp_path, nursery)
    yield made
    made.session.close()
    made.agent.close()


@pytest.mark.parametrize("adopt", [False, True])
def test_nobody_takes_a_rule_of_another_node(house: House, adopt: bool) -> None:
    for root in (house.root, house.agent.room / "other"):
        why = house.refused(house.second, root, rule=RULE, adopt=adopt)
        assert why == f"refused: rule {RULE} belongs to another node"
        assert house.untouched()
    house.session.close()
    why = house.refused(house.second, house.root, rule=RULE, adopt=adopt)
    assert "belongs to another node" in why
    # Its own node gets it, even at once.
    again = Peer(house.agent, house.first)
    assert again.open(house.root, tokens=["n"])["status"] == "known"
    again.close()


@pytest.mark.parametrize("adopt", [False, True])
def test_nobody_takes_the_tree_by_a_rule_of_his_own(house: House, adopt: bool) -> None:
    for root in (house.root, house.root / "f", house.root / "new", house.agent.room):
        why = house.refused(house.second, root, rule="other" * 3, adopt=adopt)
        assert why.startswith("safety: ") and "overlaps" in why
        assert "s:/s" not in why  # where the other's source is
        assert house.untouched()


def test_nobody_reads_what_another_node_mirrors(house: House) -> None:
    for root in (house.root, house.root / "new", house.agent.room):
        why = house.refused(house.second, root, rule="other" * 3, read_only=True)
        assert "refused: " in why and "another node mirrors" in why
    own = Peer(house.agent, house.first)
    assert own.open(house.root, read_only=True)["status"] == "known"
    assert own.ask("probe", content=True, dirs=[[b"", []]])[0]["status"] == 0
    own.close()
    boss = Peer(house.agent, house.agent.peer(house.agent.home.parent / "boss", "controller"))
    assert boss.open(house.root, read_only=True)["status"] == "known"
    boss.close()


def test_what_the_agent_works_with_is_no_target(house: House) -> None:
    """A journal planted in another rule's stage would be done by the agent."""
    stage = house.agent.room / f".i2node-stage-{RULE[:12]}"
    for root in (stage, stage / "below"):
        for read_only in (False, True):
            why = house.refused(house.second, root, rule="other" * 3, read_only=read_only)
            assert "what the agent itself works with" in why


def test_the_agents_own_directories_are_no_target(tmp_path: Path, nursery: Nursery) -> None:
    agent = Agent(tmp_path, nursery, "--allow-root", "/")
    mine = agent.peer(tmp_path / "mine")
    before = snapshot(agent.home / "etc")
    try:
        for root in (agent.home, agent.home / "etc" / "peers", agent.home / "var", tmp_path):
            peer = Peer(agent, mine)
            assert "works with" in peer.open(root, adopt=True)["cause"]
            peer.close()
    finally:
        agent.close()
    assert snapshot(agent.home / "etc") == before


def test_who_is_refused_leaves_nothing(house: House) -> None:
    (house.agent.room / "full").mkdir()
    (house.agent.room / "full" / "f").touch()
    before = house.state()
    for n in range(20):
        rule = f"random{n:010}"
        assert "did not put there" in house.refused(
            house.second, house.agent.room / "full", rule=rule
        )
        house.refused(house.second, house.root, rule=rule)
        house.refused(house.second, Path("/etc"), rule=rule)
    for rule in (
        "../../escaped",
        "a/b/c/d/e/f",
        "\N{LATIN SMALL LETTER E WITH ACUTE}" * 64,
        "short",
    ):
        assert "open is malformed" in house.refused(house.second, house.agent.room / "x", rule=rule)
    assert house.untouched()
    until("it left something", lambda: house.state() == before)


def test_frames_before_there_is_a_stream(house: House) -> None:
    for message in (
        {"t": "probe", "n": 1},
        {"t": "stream", "number": 0},
        {"t": "x"},
        {"t": "sign"},
    ):
        peer = Peer(house.agent, house.second)
        peer.channel.send(message)
        assert peer.hear()["code"] == "protocol"
        with pytest.raises(I2Error):
            peer.hear()
        peer.close()
    assert house.untouched()
