"""A release does not touch what a newer one wrote in a form that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nursery import Nursery

import i2node
from i2node.errors import UsageError
from i2node.node import edition


@pytest.mark.parametrize("command", ["agent", "mirror"])
def test_what_a_newer_release_wrote_is_left_alone(
    nursery: Nursery, tmp_path: Path, command: str
) -> None:
    var, log = tmp_path / "var", tmp_path / "log"
    var.mkdir()
    (tmp_path / "source").mkdir()
    edition.claim(var, edition.FORMAT + 1)
    table = {"format": edition.FORMAT + 1, "version": "7.1.0"}
    (var / "format").write_text(json.dumps(table))
    words = {
        "agent": ["agent", "--listen", "127.0.0.1:0"],
        "mirror": ["mirror", str(tmp_path / "source"), str(tmp_path / "target"), "--once"],
    }
    child = nursery.bear(log, "--home", str(tmp_path), *words[command])
    assert child.wait(60) == 2
    said = log.read_text()
    assert "written by i2node 7.1.0" in said and "install i2node 7.1.0 or later" in said, said
    assert [path.name for path in var.iterdir()] == ["format"]
    assert json.loads((var / "format").read_text()) == table
    assert not (tmp_path / "target").exists()


def test_what_an_older_release_wrote_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "format").write_text('{"format": 0, "version": "0.0.1"}')
    edition.claim(tmp_path)
    own = {"format": edition.FORMAT, "version": i2node.__version__}
    assert json.loads((tmp_path / "format").read_text()) == own


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "x", "version": 3}'])
def test_a_damaged_word_is_said_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    edition.claim(tmp_path)
    edition.claim(tmp_path)
    with pytest.raises(UsageError):
        edition.claim(tmp_path, edition.FORMAT - 1)
