"""What the controller takes, nodes carry out: orders that one rule spoils are refused whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruled import Ground

from i2node.controller import terms
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.node import read
from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.net.identity import Identity
from i2node.node.vetting import vet
from i2node.orders import Orders, plain, read_orders


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    database = Database(f"sqlite:///{tmp_path / 'controller.db'}")
    yield Ground(database, Vault(tmp_path / "vault.key"))
    database.close()


def longest(ground: Ground, field: str, made: Any) -> None:
    """Makes a rule with the longest value that is taken."""
    few, many = 1, 5000
    while many - few > 1:
        middle = (few + many) // 2
        try:
            ground.rules.remove(ground.create(**{field: made(middle)}), 1)
            few = middle
        except Refusal:
            many = middle
    assert few > 900, field
    ground.create(fsp_name=field, **{field: made(few)})


def test_the_longest_that_is_taken_can_be_ordered(ground: Ground, tmp_path: Path) -> None:
    def path(size: int) -> list[str]:
        return ["/" + "x" * size]

    longest(ground, "wk_path", path)
    longest(ground, "bk_path", path)
    longest(ground, "excl_path", path)
    longest(ground, "pre_over_script", lambda size: "\U0001f600" * size)
    identity = Identity.load(tmp_path)
    whom = {"peer": identity.node_id, "certificate": identity.cert_pem}
    for brief in ground.rules.briefs():
        kept = ground.rules.find(brief.uuid)
        assert kept is not None
        wk = kept.wk
        wk.config_addr = "n" * 255
        charge = replace(terms.charge(kept.rule, wk, kept.bk, "", ""), **whom)
        grant = replace(terms.grant(kept.rule, wk, ""), **whom)
        orders = Orders(number=1, charges=(charge,), grants=(grant,))
        vet(read_orders(plain(orders)))


@pytest.mark.parametrize("host", ["10.0.0.1\n", "a b", "a\x07"])
def test_an_address_can_be_dialled(host: str) -> None:
    form = Form({"node_name": "n", "config_addr": "10.0.0.1", "data_addr": host}, "node")
    read(form, form.names())
    with pytest.raises(Refusal, match="data_addr"):
        form.check()
