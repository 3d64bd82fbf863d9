"""`i2node doctor` without SRC and DST: this host and this home, looked at from all sides.

Nothing is changed but that sockets of processes that are gone are removed, as `status` does; no
agent need run, and every question is given up in time. Each check is a function that gives
findings. What it looks at is read in one function and judged in another, which takes what was read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from i2node.config import Config
from i2node.errors import I2Error, UsageError
from i2node.net.identity import Identity
from i2node.node import rpc
from i2node.node.checkup import disk, doors, limits, peers, program, rules, settings, system
from i2node.node.checkup.asking import beside
from i2node.node.checkup.finding import Finding, unknown
from i2node.node.checkup.host import Host

Check = Callable[[Host], list[Finding]]
CHECK_S = 15.0
"""After this a check is given up; asking peers has bounds of its own."""


def examine(config: Config, fault: I2Error | None = None, root: Path = Path("/")) -> list[Finding]:
    """The findings, in the order in which one depends on the other. fault: what is wrong with the
    configuration, in whose place the defaults stand; root: of the system's files."""
    unseen = settings.unseen(config)
    checks: dict[str, Check] = {"program": program.program, "clock": system.clock}
    host = Host(config=config, sound=fault is None, root=root)
    if not unseen:
        host = _looked_up(host)
        checks = {
            "program": program.program,
            "configuration": partial(settings.configuration, fault=fault),
            "kernel": system.kernel,
            "limits": limits.limits,
            "port": doors.port,
            "firewall": doors.firewall,
            "disk": disk.disk,
            "clock": system.clock,
            "keys": settings.keys,
            "rules": rules.rules,
        }
    calls = [partial(_guarded, what, check, host) for what, check in checks.items()]
    found: list[Finding] = []
    for what, told in zip(checks, beside(calls, CHECK_S), strict=True):
        silent = f"no answer within {CHECK_S:.0f} s"
        found += [unknown(what, silent, "findmnt; dmesg | tail")] if told is None else told
    if unseen:
        rest = f"{unseen} may not be looked into, where the rest stands"
        return [*found, unknown("home", rest, host.as_root())]
    return found + _guarded("peers", peers.peers, host)


def _looked_up(host: Host) -> Host:
    """With what its processes and its identity tell."""
    config = host.config
    try:
        answers = rpc.ask(config.run, "status")
    except UsageError as error:
        answers = [rpc.Answer(0, error=error)]
    pids = frozenset(answer.pid for answer in answers)
    host = replace(host, pids=pids, reports=tuple(rpc.reports(answers)))
    # What is not there is not to be made; what is wrong with it, `keys` tells.
    with suppress(I2Error, OSError):
        if not Identity.missing(config.etc):
            return replace(host, identity=Identity.load(config.etc))
    return host


def _guarded(what: str, check: Check, host: Host) -> list[Finding]:
    try:
        return check(host)
    except I2Error as error:
        return [unknown(what, error.cause, error.remedy)]
    except (OSError, ValueError) as error:
        return [unknown(what, str(error), host.as_root())]
