"""Who may log in, from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from console import PASSWORD, Console


def i2node(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "i2node", "--home", str(home), "controller", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def told(text: str) -> str:
    """The password that was made up."""
    return text.splitlines()[0].rpartition(" ")[2]


def test_users_come_and_go_while_it_runs(console: Console) -> None:
    home = console.home
    assert i2node(home, "user", "list").stdout == "admin\n"
    made = i2node(home, "user", "add", "operator")
    assert made.returncode == 0
    console.log_in("operator", told(made.stdout))
    again = i2node(home, "user", "add", "operator")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    other = told(i2node(home, "user", "password", "operator").stdout)
    assert console.ask("PUT", "/api/auth/heartbeat", {})[0] == 403  # that login ended
    console.log_in("operator", other)
    assert i2node(home, "user", "remove", "operator").returncode == 0
    assert console.ask("PUT", "/api/auth/heartbeat", {})[0] == 403
    assert i2node(home, "user", "list").stdout == "admin\n"


def test_somebody_stays(console: Console) -> None:
    done = i2node(console.home, "user", "remove", "admin")
    assert (done.returncode, "last user" in done.stderr) == (1, True)
    console.log_in()


@pytest.mark.parametrize("name", ["a b", "-x", "x" * 65, "\n"])
def test_a_name_is_plain(home: Path, name: str) -> None:
    done = i2node(home, "user", "add", "--", name)
    assert (done.returncode, "letters, digits" in done.stderr) == (1, True)


def test_the_administrators_password_is_told_once(home: Path) -> None:
    done = i2node(home, "user", "list")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_lock_out_is_lifted_by_a_new_password(console: Console, tmp_path: Path) -> None:
    for _ in range(6):
        console.data("POST", "/api/auth/token", {"username": "admin", "pwd": "wrong-one"})
    file = tmp_path / "new"
    file.touch(mode=0o600)
    file.write_text("another-one\n")
    done = i2node(console.home, "--password-file", str(file), "user", "password", "admin")
    assert (done.returncode, done.stdout) == (0, "")
    console.log_in("admin", "another-one")


def test_a_short_password_is_none(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "short"
    file.touch(mode=0o600)
    file.write_text("short\n")
    done = i2node(home, "--password-file", str(file), "user", "add", "x")
    assert (done.returncode, "at least 8" in done.stderr) == (1, True)
    file.chmod(0o644)
    done = i2node(home, "--password-file", str(file), "user", "add", "x")
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)


def test_a_database_that_cannot_be_had_is_named(home: Path) -> None:
    etc = home / "etc" / "controller"
    etc.mkdir(parents=True)
    for url, cause in (
        ("nonsense", "parse"),
        ("postgresql+nothing://u:secret@h/d", "nothing"),
        ("sqlite:////nowhere/x.db", "unable to open"),
    ):
        (etc / "controller.toml").write_text(f'database = "{url}"\n')
        done = i2node(home, "user", "list")
        assert (done.returncode, cause in done.stderr) == (2, True), done.stderr
        assert "secret" not in done.stderr and PASSWORD not in done.stderr
