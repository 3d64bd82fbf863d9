"""Names that would clear a screen, end a line, turn text round or pass for another field."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from ends import Hosts, until
from nursery import Nursery

from i2node.cli import main

NAMES = (
    *(b"\x1b[2J\x1b]0;owned\x07", b"a\n2026-01-01T00:00:00.000+00:00 info rule-state state=FAKE"),
    *(b"\xe2\x80\xaetxt.exe", b"\xff\xfe", b"\xc2\x9b31m", b"\x7f\r\x08", b'x cause="none" y'),
    b"\xe2\x80\xa8line",
)
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture
def hosts(nursery: Nursery) -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="i2node-names-", dir="/var/tmp") as place:
        made = Hosts(Path(place), nursery)
        for name in NAMES:
            directory = bytes(made.source) + b"/" + name
            os.mkdir(directory)
            Path(os.fsdecode(directory + b"/" + name)).write_text("1")
        yield made
        made.close()
        for name in NAMES:
            where = bytes(made.target) + b"/" + name
            subprocess.run([b"umount", b"-l", where], check=False, capture_output=True)


def test_no_name_says_anything_by_itself(hosts: Hosts) -> None:
    """A mount stands in the way of each at the target: they are problems, and asked about."""
    hosts.start_target()
    hosts.start_source()
    hosts.quiesce()
    for name in NAMES:
        where = bytes(hosts.target) + b"/" + name
        subprocess.run([b"mount", b"-t", b"tmpfs", b"none", where], check=True)
        Path(os.fsdecode(bytes(hosts.source) + b"/" + name + b"/" + name)).write_text("22")

    told = hosts.place / "here.log"
    until("no problems", lambda: '{"t": "problem"' in told.read_text())
    home = ("--home", str(hosts.homes["here"]))
    paths = [os.fsdecode(bytes(hosts.source) + b"/" + name + b"/" + name) for name in NAMES]
    for words in (("status",), ("status", "--json"), *(("explain", path) for path in paths)):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            main([*home, *words])
        said = out.getvalue() + err.getvalue()
        assert said and all(line.isprintable() for line in said.split("\n"))
    hosts.kill_source()
    for log in (hosts.place / "here.log", hosts.place / "there.log"):
        text = log.read_bytes()
        lines = text.decode("ascii", "replace").split("\n")
        assert all(line.isprintable() for line in lines)
        assert not any(line.startswith("2026-01-01") for line in lines)
        assert b"\x1b" not in text and "\u202e".encode() not in text and b"\xff" not in text
