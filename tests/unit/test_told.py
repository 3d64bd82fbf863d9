"""What a target may tell, at the edges; of the rest comes ProtocolError and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entries import PLAIN
from i2node.errors import ProtocolError
from i2node.model import PROBED, Verdict
from i2node.mover import blocks, listing
from i2node.mover.batch import At, Op
from i2node.repl import told

ROW = [b"a/b", b"", int(Op.PUT_FILE), 13, int(At.OPEN)]


def faults(*rows: Any) -> list[told.Fault]:
    return told.faults({"t": "faults", "faults": list(rows)})


def test_faults_are_taken_as_they_are() -> None:
    assert faults(ROW) == [told.Fault(b"a/b", b"", Op.PUT_FILE, 13, At.OPEN)]
    assert faults([b"", b"", int(Op.SET_META), 1, int(At.MODE)])[0].path == b""
    assert faults([b"a", b"b", int(Op.RENAME), 1, 8])[0].other == b"b"
    # The text of a symlink is no path of the tree.
    assert faults([b"a", b"/etc/../x", int(Op.PUT_LINK), 1, 2])[0].other == b""


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((0, path) for path in (b"/a", b"a/", b"a//b", b"..", b"a/../b", b".", b"\0", b"n" * 256)),
        *((0, value) for value in ("text", 4 << 30, None, [b"a"], b"a/" * 600_000)),
        *((1, value) for value in ("text", 1, None)),
        *((2, value) for value in (0, 15, -1, True, "op", 1.0, None)),
        *((3, value) for value in (0, -1, 4096, 1 << 64, True, None)),
        *((4, value) for value in (0, 14, -1, True, None)),
    ],
)
def test_a_fault_that_cannot_be(at: int, value: object) -> None:
    with pytest.raises(ProtocolError):
        faults([*ROW[:at], value, *ROW[at + 1 :]])
    with pytest.raises(ProtocolError):
        faults(ROW, ROW[:4])
    with pytest.raises(ProtocolError):
        faults([b"a", b"../b", int(Op.LINK), 1, 8])


@pytest.mark.parametrize("fields", [{"flags": 0}, {"status": 13}, {"verdict": Verdict.GONE}])
def test_a_listing_of_what_is_not_the_targets(fields: dict[str, Any]) -> None:
    own = PLAIN._replace(flags=PROBED)
    first, foreign, last = own._replace(name=b"a"), own._replace(name=b"b", **fields), own
    sound = b"".join(map(listing.encode, (first, last)))
    assert told.entries(sound) == sound
    assert told.entries(b"") == b""
    with pytest.raises(ProtocolError, match="not its own"):
        told.entries(b"".join(map(listing.encode, (first, foreign, last))))


def test_a_signature_fits_its_size() -> None:
    data = bytes(range(256)) * 40
    block = blocks.block_size(len(data))
    records = blocks.signature(data, block)
    assert told.signature(records, len(data), block) == records
    assert told.signature(b"", 1 << 60, 0) == b""
    for bad in ((records[:-1], len(data), block), (records, 0, block), (records, len(data), 1)):
        with pytest.raises(ProtocolError, match="does not fit"):
            told.signature(*bad)


def test_texts_are_escaped_and_short() -> None:
    assert told.text({"cause": "a\x1b[2J\nb\u202e"}, "cause") == r"a\x1b[2J\nb\u202e"
    assert len(told.text({"cause": "\n" * 4_000_000}, "cause")) == told.TEXT_MAX
    assert told.text({"cause": {"a": 1}}, "cause") == told.text({}, "cause") == ""


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats())
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["t", "parts", "faults", "mtime", "status"]), JUNK))
def test_nothing_but_protocol_errors(message: dict[str, Any]) -> None:
    for check in (told.opened, told.faults, told.moment):
        try:
            check(message)
        except ProtocolError as error:
            assert str(error).isprintable()
