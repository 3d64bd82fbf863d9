"""What comes with the packages for people and shells says what the program does."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from i2node.cli import arguments
from i2node.config import Config

PACKAGING = Path(__file__).parents[2] / "packaging"
HIDDEN = ("--help", "-h", "--embedded")


def words_of(parser: argparse.ArgumentParser) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Each command, as the words that name it, and the options and further words that it takes."""
    taken: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            taken |= set(action.choices)
            for name, below in action.choices.items():
                for command, words in words_of(below):
                    yield (name, *command), words
        else:
            taken |= set(action.option_strings)
            if action.dest == "deed":
                taken |= set(action.choices or ())
    yield (), taken - set(HIDDEN)


COMMANDS = dict(words_of(arguments._parser()))


def test_the_manual_page_names_every_command_and_option():
    page = re.sub(r'\\f.|[\\"]', "", (PACKAGING / "i2node.1").read_text())
    for command, words in COMMANDS.items():
        for word in (*command, *words):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", page), word


def test_every_key_has_its_place_in_the_manual():
    program, sample = PACKAGING / "man_page.py", PACKAGING / "i2node.toml"
    page = subprocess.check_output([sys.executable, program, sample], text=True)
    for item in fields(Config):
        if item.name not in ("etc", "var"):
            assert f"\n\\fB{item.name} = " in page, item.name
    # Which would be requests to roff.
    assert not re.search(r"^'", page, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_shell_completes_every_word(command):
    line = ["i2node", *command, ""]
    script = f". '{PACKAGING / 'i2node.bash'}'; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); "
    script += "_i2node; printf '%s\\n' \"${COMPREPLY[@]}\""
    words = set()
    for begun in ("", "--"):
        line[-1] = begun
        done = subprocess.check_output(["bash", "-c", script, "bash", *line], text=True)
        words |= set(done.split())
    assert COMMANDS[command] <= words


@pytest.mark.parametrize(
    ("gib", "in_force", "watches", "events"),
    [
        (1, 0, 65536, 16384),
        (16, 0, 503316, 131072),
        (1024, 0, 4194304, 1048576),
        (1, 600000, 600000, 600000),
    ],
)
def test_bounds_of_inotify_by_the_memory_and_never_less_than_now(
    tmp_path, gib, in_force, watches, events
):
    (tmp_path / "meminfo").write_text(f"MemTotal: {gib * 1024 * 1024} kB\nMemFree: 1 kB\n")
    for name in ("max_user_watches", "max_queued_events"):
        (tmp_path / name).write_text(f"{in_force}\n")
    words = ["sh", PACKAGING / "size-inotify", tmp_path / "meminfo", tmp_path]
    told = subprocess.check_output(words, text=True).splitlines()
    assert [line for line in told if not line.startswith("#")] == [
        f"fs.inotify.max_user_watches = {watches}",
        f"fs.inotify.max_queued_events = {events}",
    ]
