import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node import log


@pytest.fixture
def lines(capsys):
    log.start("info")
    return lambda: capsys.readouterr().err.splitlines()


def test_a_line_has_time_level_event_and_fields(lines):
    log.event(
        logging.getLogger("i2node.t"), logging.INFO, "rule-state", state="MIRROR", path=b"/a", n=3
    )
    (line,) = lines()
    stamp, rest = line.split(" ", 1)
    assert stamp[10] == "T" and stamp[-6] in "+-"
    assert rest == "info rule-state state=MIRROR path=/a n=3"


def test_levels_are_held(lines):
    logger = logging.getLogger("i2node.t")
    log.event(logger, logging.DEBUG, "unseen")
    log.start("error")
    log.event(logger, logging.WARNING, "unseen")
    log.event(logger, logging.ERROR, "seen")
    log.start("info")
    assert [line.split()[1:] for line in lines()] == [["error", "seen"]]


def test_starting_twice_does_not_double_lines(lines):
    log.start("info")
    log.event(logging.getLogger("i2node.t"), logging.INFO, "once")
    assert len(lines()) == 1


def test_a_traceback_stays_in_its_line(lines):
    try:
        raise OSError("first\nsecond")
    except OSError:
        log.event(logging.getLogger("i2node.t"), logging.ERROR, "broken", rule="r")
    (line,) = lines()
    assert "error broken rule=r trace=" in line and r"first\nsecond" in line


def test_a_foreign_record_is_one_line(lines):
    logging.getLogger("i2node.other").warning("x=%s\n%s", 1, "2026 info fake")
    (line,) = lines()
    assert line.endswith(r'warning message logger=i2node.other text="x=1\n2026 info fake"')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("-", '"-"'),
        ("", '""'),
        (True, "yes"),
        (1.5, "1.5"),
        (2.0, "2"),
        (0.0001, "0"),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        (b"/a\nb", r'"/a\nb"'),
        (b"/\xff", r'"/\udcff"'),
        ("größe", "größe"),
        ("\u202etxt", r'"\u202etxt"'),
    ],
)
def test_quoted(value, text):
    assert log.quoted(value) == text


@given(st.one_of(st.text(), st.binary()), st.one_of(st.text(), st.binary()))
def test_no_value_can_fake_a_line_or_a_field(first, second):
    text = log.line("e", {"a": first, "b": second})
    assert text.isprintable()
    value = r'([^ "=\\]+|"(?:[^"\\]|\\.)*")'
    assert re.fullmatch(f"e a={value} b={value}", text)


@pytest.mark.parametrize("name", ["two words", "a=b", "Upper", ""])
def test_a_misleading_name_is_refused(name):
    with pytest.raises(ValueError, match="not a name"):
        log.line(name, {})
    with pytest.raises(ValueError, match="not a name"):
        log.line("fine", {name: 1})


def test_what_others_bring_about_is_told_now_and_then(lines):
    now = [1000.0]
    seldom = log.Seldom(logging.getLogger("i2node.t"), lambda: now[0])

    def told(who: str, most: int = 1) -> list[str]:
        seldom.event(logging.WARNING, "refused", who, most, address=who)
        return [line.split(" ", 2)[2] for line in lines()]

    assert told("a") == ["refused address=a"]
    assert told("a") == told("a") == []
    assert told("b", 2) == ["refused address=b unsaid=2"]
    assert told("b", 2) == ["refused address=b"]
    assert told("b", 2) == []
    now[0] += 60
    assert told("a") == ["refused address=a unsaid=1"]
    # Whoever comes from everywhere is held too.
    assert sum(len(told(f"c{n}")) for n in range(5000)) == log.Seldom.ALL - 1
    now[0] += 60
    (line,) = told("d")
    assert line == f"refused address=d unsaid={5000 - log.Seldom.ALL + 1}"
