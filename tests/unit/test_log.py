import ast
import json
import logging
import math
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node import log
from i2node.model import State

PACKAGE = Path(log.__file__).parent


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


def test_the_same_as_json(lines):
    log.start("info", "json")
    logger = logging.getLogger("i2node.t")
    fields = {"path": b"/\xff\n\xc3\xa9", "n": 3, "part": 0.5, "so": True, "none": None}
    others = {"state": State.MIRROR, "error": OSError("x"), "name": "a\udcff\n", "nan": math.nan}
    log.event(logger, logging.WARNING, "rule-state", **fields, **others)
    (line,) = lines()
    table = json.loads(line)
    assert datetime.fromisoformat(table.pop("time")).tzinfo is not None
    assert list(table)[:2] == ["level", "event"] and line.isascii()
    assert table == {
        "level": "warning",
        "event": "rule-state",
        "path": r"/\xff\né",
        "n": 3,
        "part": 0.5,
        "so": True,
        "none": None,
        "state": "MIRROR",
        "error": "x",
        "name": "a\\udcff\n",
        "nan": "nan",
    }


@given(st.one_of(st.text(), st.binary(), st.floats()))
def test_whatever_a_value_is_its_object_is_one_line_of_text(value):
    record = logging.makeLogRecord({"fields": {"a": value}, "event": "e", "levelname": "INFO"})
    line = log._Json().format(record)
    assert line.isascii() and line.isprintable()
    json.dumps(json.loads(line)["a"], ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("form", log.FORMS)
def test_what_other_packages_say_is_in_the_log_too(lines, form):
    log.start("info", form)
    try:
        raise OSError("first\nsecond")
    except OSError:
        logging.getLogger("uvicorn.error").exception("%s went", "it")
    logging.getLogger("uvicorn.error").info("unsaid")
    (line,) = lines()
    if form == "json":
        table = json.loads(line)
        assert (table["event"], table["logger"], table["text"]) == (
            *("message", "uvicorn.error"),
            "it went",
        )
        assert table["trace"].endswith("OSError: first\nsecond\n")
    else:
        assert 'error message logger=uvicorn.error text="it went" trace="' in line


@pytest.mark.parametrize("form", log.FORMS)
def test_the_journal_is_told_the_level(lines, form):
    log.start("debug", form, journal=True)
    for level in ("debug", "info", "warning", "error"):
        log.event(logging.getLogger("i2node.t"), log.LEVELS[level], "seen", n=1)
    told = lines()
    assert [line[:3] for line in told] == ["<7>", "<6>", "<4>", "<3>"]
    if form == "text":  # its time is the journal's
        assert told[2] == "<4>warning seen n=1"
    else:
        assert json.loads(told[2][3:])["level"] == "warning"


WRONG = [sys.executable, "-m", "i2node", "check-config", "/nowhere/i2node.toml"]


def test_whether_it_is_the_journal_is_seen(tmp_path):
    """The variable names another file where stderr has been redirected since."""
    for name, own in (("journal", True), ("file", False)):
        with (tmp_path / name).open("w") as to:
            here = os.fstat(to.fileno())
            where = f"{here.st_dev}:{here.st_ino + (not own)}"
            environment = os.environ | {"JOURNAL_STREAM": where}
            assert subprocess.run(WRONG, stderr=to, env=environment).returncode == 2
    cause = "/nowhere/i2node.toml: no such file"
    told = f'command-failed code=usage cause="{cause}" remedy="name an existing file"\n'
    assert (tmp_path / "journal").read_text() == "<3>error " + told
    assert (tmp_path / "file").read_text().startswith(f"i2node: {cause}\n")


@pytest.mark.parametrize("name", ["time", "level", "event"])
def test_what_every_line_has_is_no_field(name):
    with pytest.raises(ValueError, match=name):
        log.line("fine", {name: 1})


def test_no_event_of_the_package_takes_such_a_name():
    """Which would be found when it happens, and not before."""
    calls = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "event":
                calls += 1
                names = {keyword.arg for keyword in node.keywords}
                assert not names & {"time", "level", "event"}, (path, node.lineno)
    assert calls > 50


def test_an_event_has_its_share_of_a_minute():
    ration = log.Ration(most=2)
    assert [ration.lets("a", now) for now in (10.0, 20.0, 30.0, 69.9)] == [True, True, False, False]
    assert ration.lets("b", 30.0)
    assert ration.due(30.0) == 40.0 and ration.over(69.9) == []
    assert ration.over(70.0) == [("a", 2)]
    assert ration.over(70.0) == [] and ration.due(70.0) is None
    assert ration.lets("a", 75.0) and ration.lets("a", 134.0) and not ration.lets("a", 134.9)
    assert ration.lets("a", 135.0)


def test_what_an_event_would_have_said_beyond_it_is_counted_when_it_is_over(lines, monkeypatch):
    monkeypatch.setattr(log.Minutes, "SPAN", 0.1)
    handler = log._handler()
    logger = logging.getLogger("i2node.t")
    said = 0
    while handler._timer is None:  # a slow machine takes more than a span for some
        log.event(logger, logging.ERROR, "again")
        said += 1
    log.event(logger, logging.INFO, "else")
    handler._timer.join()
    told = [line.split(" ", 1)[1] for line in lines()]
    assert sorted(told[-2:]) == ["info else", "warning log-limited name=again unsaid=1"]
    assert told[:-2] == ["error again"] * (said - 1)


def test_what_was_left_unsaid_is_told_at_the_end():
    program = (
        "import logging; from i2node import log; log.start(form='json')\n"
        "for number in range(log.PER_MINUTE + 7):\n"
        "    log.event(logging.getLogger('i2node.t'), logging.INFO, 'again', number=number)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *said, last = map(json.loads, done.stderr.splitlines())
    assert [line["number"] for line in said] == list(range(log.PER_MINUTE))
    assert (last["event"], last["name"], last["unsaid"]) == ("log-limited", "again", 7)


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
