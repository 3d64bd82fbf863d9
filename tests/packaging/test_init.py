"""The init scripts, run as init runs them, with every place they touch moved into a directory of
the test's. The program they start is a stand-in: what is tested is the scripts, in the cases that
the program itself does not give. test_rpm.py has them with the program."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from i2node import log

pytestmark = pytest.mark.root

PACKAGING = Path(__file__).parents[2] / "packaging"
SCRIPT = PACKAGING / "i2node.init"
PROGRAM = """#!{python}
import os, pathlib, signal, socket, subprocess, sys
here = pathlib.Path(__file__).parent
command = sys.argv[-1]
if command == "check-config":
    sys.exit(2 if (here / "wrong").exists() else 0)
if (here / "doomed").exists():
    sys.exit("address in use")
minded = {{signal.SIGHUP, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, minded)
os.makedirs(here / "var" / "run", exist_ok=True)
os.chdir(here / "var" / "run")
answers = socket.socket(socket.AF_UNIX)
answers.bind(f"{{os.getpid()}}.sock")
if (here / "stubborn").exists():
    child = subprocess.Popen(["sleep", "infinity"], start_new_session=True)
    (here / "child").write_text(str(child.pid))
(here / "ready").write_text(str(os.getpid()) + "\\n")
while signal.sigwait(minded) != signal.SIGTERM or (here / "stubborn").exists():
    pass
"""


class Init:
    """The script with its own paths, and what it answers."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.pid_file = here / "run" / "i2node.pid"
        self.lock_file = here / "lock" / "i2node"
        self.lock_file.parent.mkdir()
        self.program = here / "i2node"
        self.program.write_text(PROGRAM.format(python=sys.executable))
        self.program.chmod(0o755)
        text = SCRIPT.read_text()
        places = {
            "I2NODE": self.program,
            "I2NODE_HOME": here,
            "ACTIONS": PACKAGING / "init.sh",
            "SYSTEMD": here / "systemd",
            "PIDFILE": self.pid_file,
            "LOCKFILE": self.lock_file,
            "LOGFILE": here / "log" / "i2node.log",
            "STOP_SECONDS": 60,
        }
        for name, value in places.items():
            text, found = re.subn(rf"^{name}=.*$", f"{name}='{value}'", text, flags=re.MULTILINE)
            assert found == 1, name
        text, found = re.subn(r"/etc/sysconfig/i2node", str(here / "sysconfig"), text)
        assert found
        self.script = here / "init"
        self.script.write_text(text)

    def __call__(self, *words: str) -> int:
        done = subprocess.run(
            ["sh", self.script, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    def up(self) -> int:
        """Starts it and waits until it minds its signals; its pid."""
        assert self("start") == 0, self.said
        return self.ready()

    def ready(self) -> int:
        ready = self.here / "ready"
        while not ready.exists() or ready.read_text() != f"{self.pid}\n":
            assert not gone(self.pid), self.said
            os.sched_yield()
        return self.pid

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())


@pytest.fixture
def init(tmp_path):
    script = Init(tmp_path)
    yield script
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(script.pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_life_of_a_daemon(init):
    assert init("status") == 3
    pid = init.up()
    assert str(pid) in init.said and init.lock_file.exists()
    assert init("status") == 0
    assert init("start") == 0 and init.pid == pid
    assert init("restart") == 0 and init.pid != pid and gone(pid)
    init.ready()
    assert init("condrestart") == 0
    pid = init.ready()
    assert init("reload") == 0 and init.pid == pid
    assert init("stop") == 0 and gone(pid)
    assert not init.pid_file.exists() and not init.lock_file.exists()
    assert init("status") == 3
    assert init("stop") == 0


def test_of_two_starts_at_once_one_starts_it(init):
    """The other neither takes the pid file of the daemon that is there, nor removes it."""
    text = init.program.read_text()
    once = 'os.mkdir(here / "home")  # as the agent has its port: once\n'
    init.program.write_text(text.replace("minded = ", f"{once}minded = "))
    words = ["sh", init.script, "start"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(words, **pipes) for _ in range(2)]
    said = sorted(start.communicate()[0] for start in both)
    assert [start.returncode for start in both] == [0, 0], said
    assert "already running" in said[0] and f"started, pid {init.pid}\n" in said[1], said
    assert init("stop") == 0 and init("status") == 3


def test_what_cannot_be_named_in_a_pid_file_is_not_started(init):
    """It would run, and be neither seen nor stopped."""
    init.pid_file.mkdir(parents=True)
    assert init("start") == 1 and f"cannot write {init.pid_file}" in init.said
    assert not (init.here / "ready").exists()
    init.pid_file.rmdir()


def test_what_does_not_run_is_not_restarted_nor_reloaded(init):
    assert init("condrestart") == 0 and init("status") == 3
    assert init("reload") == 7


def test_a_wrong_configuration_stops_nothing(init):
    pid = init.up()
    (init.here / "wrong").touch()
    assert init("restart") == 6 and init("condrestart") == 6 and init("reload") == 6
    assert init("status") == 0 and init.pid == pid
    assert init("stop") == 0
    assert init("start") == 6 and init("status") == 3


def test_a_start_that_fails_is_said(init):
    (init.here / "doomed").touch()
    assert init("start") == 1 and "did not start" in init.said
    assert init("status") == 3
    assert "address in use" in (init.here / "log" / "i2node.log").read_text()
    init.program.unlink()
    assert init("start") == 5


def test_what_does_not_end_is_killed_and_what_it_started_too(init):
    (init.here / "sysconfig").write_text("STOP_SECONDS=1\n")
    (init.here / "stubborn").touch()
    pid = init.up()
    assert init("stop") == 0 and "killed" in init.said
    assert gone(pid)
    child = int((init.here / "child").read_text())
    while not gone(child):
        os.sched_yield()


def test_a_start_that_takes_long_is_said(init):
    """The lock of a daemon that is there but does not answer yet is its lock."""
    (init.here / "sysconfig").write_text("START_SECONDS=0\n")
    assert init("start") == 0 and "still starting" in init.said, init.said
    assert init.lock_file.exists()
    while init("status") != 0:
        os.sched_yield()


def test_a_reload_does_not_end_what_still_starts(init):
    os.mkfifo(init.here / "gate")
    text = init.program.read_text()
    init.program.write_text(text.replace("minded = ", '(here / "gate").read_text()\nminded = '))
    (init.here / "sysconfig").write_text("START_SECONDS=0\n")
    assert init("start") == 0
    while init("status") != 0:
        os.sched_yield()
    assert init("reload") == 1 and "still starting" in init.said
    (init.here / "gate").write_text("")
    init.ready()
    assert init("reload") == 0


def test_limits_are_those_of_the_sysconfig_file(init):
    (init.here / "sysconfig").write_text("NOFILE=777\n")
    limits = Path(f"/proc/{init.up()}/limits").read_text()
    assert re.search(r"^Max open files +777 +777 ", limits, re.MULTILINE)
    assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)


def test_it_is_started_with_the_options_of_the_sysconfig_file(init):
    (init.here / "sysconfig").write_text('I2NODE_OPTIONS="--listen [::1]:5 --log-format json"\n')
    words = Path(f"/proc/{init.up()}/cmdline").read_text().split("\0")
    assert words[-6:-1] == ["agent", "--listen", "[::1]:5", "--log-format", "json"]
    assert init("status") == 0 and init("stop") == 0


@pytest.mark.parametrize("form", log.FORMS)
def test_a_controller_that_listens_is_seen_in_its_log(tmp_path, capsys, form):
    script = (PACKAGING / "i2node-controller.init").read_text()
    ready = re.search(r"^ready\(\) .*$", script, re.MULTILINE)[0]
    words = ["sh", "-c", f"LOGFILE={tmp_path}/log logged=0\n{ready}\nready"]
    log.start("info", form)
    seen = []
    for event in ("administrator-created", "controller-listens"):
        log.event(logging.getLogger("i2node.t"), logging.INFO, event, port=1)
        with (tmp_path / "log").open("a") as to:
            to.write(capsys.readouterr().err)
        seen.append(subprocess.run(words).returncode == 0)
    assert seen == [False, True]


def test_what_the_caller_had_open_is_not_kept(init):
    told, tells = os.pipe()
    command = ["bash", "-c", f"exec 7>&{tells} {tells}>&-; exec sh '{init.script}' start"]
    subprocess.run(command, pass_fds=[tells], check=True, stdout=subprocess.DEVNULL)
    os.close(tells)
    assert os.read(told, 1) == b""
    os.close(told)


def test_where_systemd_is_in_charge_it_does_it(init):
    """The same daemon must not run twice."""
    (init.here / "systemd").mkdir()
    (init.here / "systemctl").write_text('#!/bin/sh\n[ "$2" = is-active ] || echo "$@"\n')
    (init.here / "systemctl").chmod(0o755)
    actions = init.here / "actions"
    text = (PACKAGING / "init.sh").read_text()
    actions.write_text(text.replace("PATH=/", f"PATH={init.here}:/", 1))
    script = init.script.read_text()
    init.script.write_text(script.replace(str(PACKAGING / "init.sh"), str(actions)))
    said = {}
    for word in ("start", "stop", "restart", "condrestart", "reload", "force-reload", "status"):
        assert init(word) == 0
        said[word] = init.said.strip()
    assert said == {
        "start": "start i2node.service",
        "stop": "stop i2node.service",
        "restart": "restart i2node.service",
        "condrestart": "try-restart i2node.service",
        "reload": "reload i2node.service",
        "force-reload": "reload-or-restart i2node.service",
        "status": "--no-pager status i2node.service",
    }
    (init.here / "wrong").touch()
    assert init("restart") == 6 and init("condrestart") == 6 and "configuration" in init.said
    assert not init.pid_file.exists()


def test_without_its_actions_it_is_not_installed(init):
    script = init.script.read_text()
    init.script.write_text(script.replace(str(PACKAGING / "init.sh"), "/nowhere"))
    assert init("start") == 5 and "/nowhere" in init.said


def test_a_dead_daemon_is_told_from_a_stopped_one(init):
    assert init("start") == 0
    os.kill(init.pid, signal.SIGKILL)
    while not gone(init.pid):
        os.sched_yield()
    assert init("status") == 1
    init.pid_file.unlink()
    assert init("status") == 2
    assert init("start") == 0 and init("status") == 0


@pytest.mark.parametrize("content", ["", "x", "-1", "1", "99999999", "ours"])
def test_a_pid_file_that_names_another_is_not_believed(init, content):
    init.pid_file.parent.mkdir()
    init.pid_file.write_text(str(os.getpid()) if content == "ours" else content)
    assert init("status") == 1
    assert init("stop") == 0 and not init.pid_file.exists()


@pytest.mark.parametrize("words", [[], ["fly"], [""]])
def test_wrong_words(init, words):
    assert init(*words) == 2 and "usage" in init.said


@pytest.mark.parametrize("name", ["i2node", "i2node-controller"])
def test_the_header_is_what_chkconfig_and_lsb_read(name):
    text = (PACKAGING / f"{name}.init").read_text()
    assert re.search(rf"^# Provides: +{name}$", text, re.MULTILINE)
    assert re.search(r"^# chkconfig: [2-5]+ \d\d \d\d$", text, re.MULTILINE)
    assert re.search(r"^# description: .*\\\n# +\S", text, re.MULTILINE)
    head = re.search(r"^### BEGIN INIT INFO\n(.*?)^### END INIT INFO$", text, re.DOTALL | re.M)
    keys = {line.split(":")[0] for line in head[1].splitlines()}
    needed = "Provides Required-Start Required-Stop Default-Start Default-Stop Short-Description"
    assert {f"# {key}" for key in needed.split()} <= keys
