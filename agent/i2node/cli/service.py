"""What the service manager says to a daemon that it starts, in the environment (sd_notify(3))."""

from __future__ import annotations

import os

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
