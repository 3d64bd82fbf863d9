"""What the service manager says to what it starts, in the environment (sd_notify(3),
systemd.exec(5))."""

from __future__ import annotations

import os

from i2node import log
from i2node.net.notify import Manager


def manager() -> Manager:
    """Where to tell, and how often; a variable that means nothing is as none."""
    environment = os.environ
    address = environment.get("NOTIFY_SOCKET", "")
    watched = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        watched = ""
    known = address.startswith(("/", "@"))
    return Manager(address if known else "", int(watched) / 1e6 if watched.isdecimal() else 0.0)


def begin_log(level: str, form: str = "text") -> None:
    """As log.start; finds out whether it is the journal that reads it."""
    log.start(level, form, _in_journal())


def _in_journal() -> bool:
    """The variable is inherited by those too whose stderr goes elsewhere: it names its file."""
    try:
        here = os.fstat(2)
    except OSError:  # closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"
