"""How calls are read: queries in three spellings, and fields with their faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.controller.call import call_of
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.query import arguments

UUID = "F85DFEC0-149E-373D-0B9E-3DA9A5C43940"


@pytest.mark.parametrize(
    "query",
    [
        "u%5B%5D=A&u%5B%5D=B&_=1",
        "u%5B0%5D=A&u%5B1%5D=B&_=1",
        "u[]=A&u[]=B&_=1",
        "u[1]=B&u[0]=A&_=1",
    ],
)
def test_a_list_has_three_spellings(query: str) -> None:
    assert arguments(query) == {"u": ["A", "B"], "_": "1"}


def test_what_a_query_holds() -> None:
    assert arguments("a[x][y]=1&a[x][z]=2&b=&c=1&c=2") == {
        "a": {"x": {"y": "1", "z": "2"}},
        "b": "",
        "c": "2",
    }
    assert arguments("a=1&a[]=2&]=3&[=4") == {"a": ["2"], "]": "3", "[": "4"}


@given(st.text(alphabet="ab[]0=&%5B;+ ", max_size=60))
def test_any_query_can_be_read(query: str) -> None:
    arguments(query)


@pytest.mark.parametrize("query", ["&".join(["a=1"] * 10_001), "a" + "[x]" * 9 + "=1"])
def test_a_query_has_its_bounds(query: str) -> None:
    with pytest.raises(Refusal, match="more than"):
        arguments(query)


def test_the_random_number_is_no_argument() -> None:
    call = call_of("POST", "/api/x", "a=1", b'{"b": 2, "_": "3f"}', {})
    assert (call.values, call.chance) == ({"a": "1", "b": 2}, "3f")
    assert call_of("DELETE", "/api/x", "", b"[]", {}).values == {}
    assert call_of("GET", "/api/x", "", b"no json, and nobody asked", {}).values == {}


def faults(form: Form) -> list[str]:
    with pytest.raises(Refusal) as refused:
        form.check()
    assert refused.value.number == 10001002
    return refused.value.cause.removeprefix("Invalid Parameter  ").split(";\n")[:-1]


def test_all_faults_are_told_at_once() -> None:
    form = Form(
        {"u": "x", "us": ["y"], "l": "no", "n": "-1", "n2": 11, "w": 4, "t": {}}, "fsp_backup"
    )
    form.text("name")
    form.uuid("u")
    form.uuids("us")
    form.items("l")
    form.number("n", low=1)
    form.number("n2", high=10)
    form.choice("w", ("0", "1"))
    form.text("t")
    assert faults(form) == [
        "Lost: fsp_backup[name]",
        "Not uuid: fsp_backup[u]",
        "Contains illegal UUID: fsp_backup[us][]",
        "Not array: fsp_backup[l]",
        "The fsp_backup[n] field must contain a number greater than or equal to 1.",
        "The fsp_backup[n2] field must contain a number less than or equal to 10.",
        "The fsp_backup[w] field must be one of: 0,1",
        "Not string: fsp_backup[t]",
    ]


def test_what_is_right_is_read() -> None:
    form = Form({"u": UUID.lower(), "us": [UUID], "n": "7", "w": 1, "o": {"x": "y"}, "f": 1.5})
    assert (form.uuid("u"), form.uuids("us"), form.uuids("none")) == (UUID, [UUID], [])
    assert (form.number("n"), form.number("m", 3), form.choice("w", ("0", "1"))) == (7, 3, "1")
    assert (form.object("o").text("x"), form.text("f"), form.text("t", "")) == ("y", "1.5", "")
    assert (form.choice("v", ("0", "1"), "0"), form.items("l")) == ("0", [])
    form.check()


def test_an_object_must_be_one() -> None:
    for values in ({}, {"o": 1}, {"o": []}):
        with pytest.raises(Refusal, match=r"Lost: o;"):
            Form(values).object("o")
