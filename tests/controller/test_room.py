"""How much a node may be ordered: refused when it is asked for, by name, and never at the push."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from ruled import BK, WK, Ground

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.fields import EXCLUDES_MOST
from i2node.controller.seal import Vault
from i2node.controller.store.database import Database
from i2node.controller.store.rules import TEXT_MOST
from i2node.controller.terms import charge, grant
from i2node.controller.timetable import SLOTS_MOST
from i2node.orders import CHARGES_MOST, ORDERS_MOST, PARTS_MOST, Orders, packed

OTHER = str(uuid.uuid4()).upper()


@pytest.fixture
def ground(database: Database, tmp_path: Path) -> Ground:
    made = Ground(database, Vault(tmp_path / "vault.key"))
    made.add_node(OTHER, "71.79", "192.168.71.79")
    return made


def test_what_does_not_fit_is_refused_when_it_is_asked_for(ground: Ground) -> None:
    half = [f"/{n}/{'x' * (TEXT_MOST // 2 // EXCLUDES_MOST - 60)}/" for n in range(EXCLUDES_MOST)]
    first = ground.create(fsp_name="first", excl_path=half)
    second = ground.create(fsp_name="second", excl_path=[])
    ground.modify(second, excl_path=half[1:])
    says = f"rule third .* node 71.77 .* {TEXT_MOST >> 10} KiB is the most: name fewer paths"
    with pytest.raises(Refusal, match=says) as refused:
        ground.create(fsp_name="third", excl_path=half)
    assert refused.value.number == Code.FAILED
    # What it leaves out is the business of its work node alone.
    third = ground.create(fsp_name="third", excl_path=half, wk_uuid=OTHER, auto_start="0")
    with pytest.raises(Refusal, match=r"node 71\.77"):
        ground.modify(third, wk_uuid=WK)
    kept = ground.rules.find(third)
    assert kept is not None and kept.wk.uuid == OTHER
    ground.modify(first, excl_path=half)


def test_the_wire_takes_what_was_not_refused(ground: Ground) -> None:
    slot: dict[str, Any] = {"sched_every": 0, "sched_time": "02:02"}
    rule = ground.create(
        fsp_name="\N{PILE OF POO}" * 128,
        wk_path=[f"/{n}" for n in range(PARTS_MOST)],
        bk_path=[f"/{n}" for n in range(PARTS_MOST)],
        bk_path_policy="0",
        encrypt_switch="1",
        secret_key="\N{PILE OF POO}" * 1024,
        bkup_policy=1,
        bkup_schedule=[slot] * SLOTS_MOST,
        bk_uuid=BK,
    )
    kept = ground.rules.find(rule)
    assert kept is not None and kept.rule.secret is not None
    secret, certificate = ground.vault.opened(kept.rule.secret), "x" * 2000
    charges = (charge(kept.rule, kept.wk, kept.bk, secret, certificate),)
    grants = (grant(kept.rule, kept.wk, certificate),)
    fields = kept.rule.fields
    more = (
        len(packed(Orders(number=1, charges=charges)))
        - len(json.dumps(fields))
        + len(packed(Orders(number=1, grants=grants)))
        - len(json.dumps(fields["bk_path"]))
    )
    assert more > 0 and TEXT_MOST + CHARGES_MOST * more <= ORDERS_MOST
