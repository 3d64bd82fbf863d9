"""One function for each command: arguments in, exit status out. What a command does not need is
not imported, so that `status` stays quick and `version` works wherever Python does."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import i2node
from i2node import log
from i2node.cli.arguments import (
    directory_of,
    options_of,
    parse_listen,
    parse_peer,
    parse_target,
    shown,
)
from i2node.cli.console import controller
from i2node.cli.secret import code_of
from i2node.cli.service import begin_log, manager
from i2node.config import Config
from i2node.errors import UsageError
from i2node.model import ENROLL_PORT, show

_log = logging.getLogger(__name__)


def home_of(config: Config) -> Config:
    """The same, with its directories made for the owner alone where they are missing."""
    for directory in (config.etc, config.var):
        for path in (*reversed(directory.parents), directory):
            with suppress(OSError):  # who uses it says what is wrong
                path.mkdir(mode=0o700)
    return config


def speaks_json(arguments: argparse.Namespace) -> bool:
    """Whether the command's stdout is for programs: --json, or a mirror without a terminal."""
    asked: bool = getattr(arguments, "json", False)
    return asked or (arguments.command == "mirror" and not sys.stdout.isatty())


def agent(arguments: argparse.Namespace) -> int:
    """The daemon, until SIGTERM or SIGINT. SIGHUP: it takes a changed configuration."""
    config = _agent_config(arguments)
    begin_log(config.log_level, config.log_format)
    from i2node.net.identity import Identity
    from i2node.net.notify import Manager
    from i2node.node import edition
    from i2node.node.daemon import Daemon

    edition.claim(config.var)
    service = Manager() if arguments.embedded else manager()

    def end(number: int, frame: FrameType | None) -> None:
        service.stops()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        identity = Identity.load(config.etc)
        daemon = Daemon(
            config, identity, arguments.embedded, service, lambda: _agent_config(arguments)
        )
        if not arguments.embedded:
            signal.signal(signal.SIGHUP, lambda number, frame: daemon.reload())
        daemon.run()
    except KeyboardInterrupt:
        log.event(_log, logging.INFO, "agent-stopped")
    return 0


def _agent_config(arguments: argparse.Namespace) -> Config:
    config = home_of(Config.load(arguments.home))
    if arguments.log_format is not None:
        config = replace(config, log_format=arguments.log_format)
    if arguments.embedded:
        config = replace(config, listen_host="127.0.0.1", listen_port=0)
    elif arguments.listen is not None:
        host, port = parse_listen(arguments.listen)
        config = replace(config, listen_host=host, listen_port=port)
    roots: list[str] = arguments.allow_root
    more = tuple(directory_of(root) for root in roots)
    return replace(config, allow_roots=config.allow_roots + more)


def code(arguments: argparse.Namespace) -> int:
    """Prints the pairing code; the first call makes the node's identity."""
    from i2node.net.identity import Identity

    print(Identity.load(home_of(Config.load(arguments.home)).etc).code)
    return 0


def pair(arguments: argparse.Namespace) -> int:
    """Both nodes store each other's certificate, or neither."""
    host, port = parse_peer(arguments.peer)
    config = home_of(Config.load(arguments.home))
    code = code_of(arguments.code_file, shown(host))
    from i2node.net.identity import Identity
    from i2node.net.pairing import pair as pair_with
    from i2node.node.checkup.doors import port_of

    peer = pair_with(host, port, code, Identity.load(config.etc), own_port=port_of(config))
    print(f"paired with {arguments.peer}, node {peer.node_id}")
    return 0


def enroll(arguments: argparse.Namespace) -> int:
    """The controller may order this node what to mirror, and it knows the node from now on."""
    host, port = parse_peer(arguments.controller, ENROLL_PORT)
    config = home_of(Config.load(arguments.home))
    code = code_of(arguments.code_file, shown(host), "it is shown there")
    from i2node.net.identity import Identity
    from i2node.net.pairing import pair as pair_with

    peer = pair_with(
        host,
        port,
        code,
        Identity.load(config.etc),
        name=os.uname().nodename,
        peer_role="controller",
        own_port=config.listen_port,
    )
    print(f"enrolled with {shown(arguments.controller)}, controller {peer.node_id}")
    return 0


def mirror(arguments: argparse.Namespace) -> int:
    """Mirrors, shows, replicates until a signal; with --once until done."""
    options = options_of(arguments)
    config = home_of(Config.load(arguments.home))
    as_json = speaks_json(arguments)
    begin_log(config.log_level if as_json else "warning", config.log_format)
    from i2node.cli.display import JsonLines, Screen
    from i2node.cli.drive import drive
    from i2node.net.identity import Identity
    from i2node.node import edition
    from i2node.repl.session import Session

    edition.claim(config.var)
    session = Session(config, options, Identity.load(config.etc))
    screen: Screen
    if as_json:
        screen = JsonLines(sys.stdout)
    else:
        from rich.console import Console

        from i2node.cli.terminal import Terminal

        screen = Terminal(Console())
    return drive(session, screen, config.run, options.once)


def status(arguments: argparse.Namespace) -> int:
    """All rules of all processes of this home."""
    from i2node.node import rpc
    from i2node.repl.report import plain

    config = Config.load(arguments.home)
    reports = rpc.status(config.run)
    if arguments.json:
        print(json.dumps([plain(report) for report in reports]))
    elif reports:
        from i2node.cli.display import status_text

        print(status_text(reports))
    else:
        print(f"no rule is running (asked in {config.run})")
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """The life of a path, in each rule that covers it."""
    config = Config.load(arguments.home)
    from i2node.cli import lives

    found = lives.find(config, arguments.path)
    print(json.dumps(found) if arguments.json else "\n\n".join(map(lives.text, found)))
    return 0


def release(arguments: argparse.Namespace) -> int:
    """What the brake holds back may be done."""
    return _decide(arguments, "release", "released: what was held back is done now")


def refuse(arguments: argparse.Namespace) -> int:
    """What the brake holds back is not to be done."""
    return _decide(arguments, "refuse", "refused: the rule stops at its source")


def _decide(arguments: argparse.Namespace, verb: str, done: str) -> int:
    from i2node.node import rpc

    run = Config.load(arguments.home).run
    answers = rpc.ask(run, verb, rule=arguments.rule)
    if any(answer.error is None for answer in answers):
        print(f"rule {arguments.rule} {done}")
        return 0
    # Sources answer too, and know of no such thing: what the agent says that has it comes first.
    told = [answer.error for answer in answers if answer.error is not None]
    told.sort(key=lambda error: not error.cause.startswith(f"rule {arguments.rule} "))
    for error in told:
        if not isinstance(error, UsageError):
            raise error
    raise UsageError(
        told[0].cause if told else f"no agent of this home runs (asked in {run})",
        "ask on the target's host, with the --home of its agent; see: i2node status",
    )


def compare(arguments: argparse.Namespace) -> int:
    """0 equal, 1 different; main() turns every error into 2."""
    target = parse_target(arguments.target)
    config = home_of(Config.load(arguments.home))
    from i2node.net.identity import Identity
    from i2node.repl.compare import compare as compare_trees

    result = compare_trees(
        config,
        directory_of(arguments.source),
        target,
        arguments.strict,
        Identity.load(config.etc),
    )
    for difference in result.differences:
        path = show(difference.path)
        if arguments.json:
            fields = {"path": path, "what": difference.what, "detail": difference.detail}
            print(json.dumps({"t": "difference", **fields}))
        else:
            print(f"{difference.what}: {path}: {shown(difference.detail)}".removesuffix(": "))
    tally = result.tally
    counts = {name: getattr(tally, name) for name in ("directories", "files", "bytes")}
    counts["differences"] = len(result.differences)
    if arguments.json:
        done = {"equal": result.equal, "differences": len(result.differences)}
        print(json.dumps({"t": "done", **done, "counts": counts}))
    else:
        told = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        print(f"{'equal' if result.equal else 'different'}: {told}")
    return 0 if result.equal else 1


def doctor(arguments: argparse.Namespace) -> int:
    """0: nothing would be lost, 1: something would; main() turns every error into 2."""
    if arguments.source is None:
        return _checkup(arguments)
    if arguments.target is None:
        raise UsageError(
            f"doctor {shown(arguments.source)}: no DST", "name both SRC and DST, or none"
        )
    target = parse_target(arguments.target)
    config = Config.load(arguments.home)
    from i2node.cli.diagnosis import lines, text
    from i2node.net.identity import Identity
    from i2node.repl.doctor import diagnose

    found = diagnose(config, directory_of(arguments.source), target, Identity.load(config.etc))
    if arguments.json:
        for line in lines(found):
            print(json.dumps(line))
    else:
        print(text(found))
    return 1 if found.lost else 0


def _checkup(arguments: argparse.Namespace) -> int:
    """Of this host: 0 fine, 1 something is to be done, 2 something could not be told."""
    # What it warns of is told by the findings.
    log.start("error")
    from i2node.cli.diagnosis import finding_lines, finding_text, status_of
    from i2node.node.checkup import program

    fault = None
    try:
        config = Config.load(arguments.home)
    except UsageError as error:
        fault, config = error, Config.of(arguments.home)
    try:
        from i2node.node.checkup.examination import examine
    except ImportError as error:
        found = [program.broken(error)]
    else:
        found = examine(config, fault)
    if arguments.json:
        for line in finding_lines(found):
            print(json.dumps(line))
    else:
        print(finding_text(found))
    return status_of(found)


def check_config(arguments: argparse.Namespace) -> int:
    """Says which file was sound; main() tells what is wrong with one that is not."""
    config = Config.load(arguments.home, arguments.file)
    path: Path = arguments.file or config.file
    print(f"{path}: sound" if path.exists() else f"{path}: not there, the defaults are in force")
    return 0


def version(arguments: argparse.Namespace) -> int:
    print(f"i2node {i2node.__version__}")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "agent": agent,
    "code": code,
    "pair": pair,
    "enroll": enroll,
    "mirror": mirror,
    "status": status,
    "explain": explain,
    "release": release,
    "refuse": refuse,
    "compare": compare,
    "doctor": doctor,
    "controller": controller,
    "check-config": check_config,
    "version": version,
}
