"""What an attribute becomes, decided without a disk."""

import math
from dataclasses import replace

import pytest

from i2node.errors import ProtocolError, SafetyStop, SessionError, UsageError
from i2node.fs.ground import Ground
from i2node.fs.trials import ATTRIBUTES, NAMES, Finding
from i2node.repl import fidelity
from i2node.repl.report import Fidelity

FINDINGS = tuple(Finding(n, n not in ("owner", "holes", "flags"), f"no {n}") for n in NAMES)
GROUND = Ground("ext4", 1000, 10, True, FINDINGS)
FULL = Ground("ext4", 0, 0, True, untried="No space left on device")


def examined(ground=GROUND, cannot=()):
    return fidelity.heard(fidelity.told(ground), frozenset(cannot))


def attributes(**more):
    return examined(replace(GROUND, **more)).attributes


def test_what_was_told_is_heard():
    found = fidelity.heard(fidelity.told(replace(GROUND, shelf=False)), frozenset({"flags"}))
    assert (found.kind, found.free_bytes, found.free_inodes) == ("ext4", 1000, 10)
    assert [a.name for a in found.attributes] == list(NAMES)
    assert {a.name for a in found.attributes if not a.possible} == {"flags"}
    assert fidelity.fidelity_of(found.attributes) == Fidelity((), ("owner", "holes"))


def test_what_is_no_use_to_keep_aside_is_lost():
    can = {trial.name for trial in ATTRIBUTES if trial.aside}
    found = fidelity.fidelity_of(attributes(shelf=True))
    assert set(found.aside) == {"owner", "flags", "holes"} & can
    assert set(found.lost) == {"owner", "flags", "holes"} - can


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("found", v) for v in (None, 7, [1], [["owner"]], [["owner", "perhaps", ""]])),
        *(("free", v) for v in (None, [], [1], ["x", 1], [math.inf, 1])),
        ("clock", "noon"),
        ("version", KeyError),
    ],
)
def test_a_malformed_answer_is_refused(key, value):
    message = fidelity.told(GROUND)
    if value is KeyError:
        del message[key]
    else:
        message[key] = value
    with pytest.raises(ProtocolError):
        fidelity.heard(message, frozenset())


def test_an_attribute_that_only_the_other_version_knows_is_passed_over():
    message = fidelity.told(GROUND)
    message["found"] = [["colour", "exact", ""], ["owner", "lost", "why"]]
    assert [a.name for a in fidelity.heard(message, frozenset()).attributes] == ["owner"]


def test_require():
    assert fidelity.parse_require("all") == NAMES
    assert fidelity.parse_require("owner, acl") == ("owner", "acl")
    assert fidelity.parse_require("mode", owners=False) == ("mode",)
    with pytest.raises(UsageError, match="without owners acl is not carried"):
        fidelity.parse_require("mode,acl", owners=False)
    for text in ("", "owner,", "ownership", "all,owner"):
        with pytest.raises(UsageError) as caught:
            fidelity.parse_require(text)
        assert "owner" in caught.value.remedy


def test_a_demand_is_refused_by_name_and_cause():
    fidelity.demand(examined(), (), "bk:/b")
    fidelity.demand(examined(), ("mode", "flags"), "bk:/b")
    fidelity.demand(examined(cannot=["holes"]), ("holes",), "bk:/b")
    with pytest.raises(SafetyStop) as caught:
        fidelity.demand(examined(), NAMES, "bk:/b")
    assert "bk:/b" in caught.value.cause and "holes (no holes)" in caught.value.cause
    assert "mode" not in caught.value.cause and caught.value.remedy


def test_what_is_required_and_not_told_of_is_no_promise():
    """A target that knows less, or keeps silent, does not get what it may not lose."""
    message = fidelity.told(GROUND)
    message["found"] = [["mode", "exact", ""]]
    found = fidelity.heard(message, frozenset())
    fidelity.demand(found, ("mode",), "bk:/b")
    with pytest.raises(SessionError) as caught:
        fidelity.demand(found, ("mode", "acl"), "bk:/b")
    assert "acl" in caught.value.cause and "mode" not in caught.value.cause


def test_what_could_not_be_tried_is_neither_lost_nor_promised():
    found = examined(FULL)
    assert found.attributes == () and found.untried
    fidelity.demand(found, (), "bk:/b")
    with pytest.raises(SessionError) as caught:
        fidelity.demand(found, ("mode",), "bk:/b")
    assert "No space left" in caught.value.cause and caught.value.remedy
