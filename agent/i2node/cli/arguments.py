"""What stands on the command line, and what it means. Pure: nothing is opened, nothing started,
except the key file of `mirror`. No secret stands there (secret.py)."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Never

from i2node.cli.secret import key_of
from i2node.errors import UsageError
from i2node.log import FORMS
from i2node.model import PORT, MirrorOptions, Target, show

_PLACE = re.compile(
    rb"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^:/\[\]\s]+))(?::(?P<port>[0-9]+))?"
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of the package does; takes no abbreviated options, which
    would change their meaning when an option is added."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> Never:
        raise UsageError(message, f"see: {self.prog} --help")


def shown(text: str) -> str:
    """Text that came from outside (an argument, a peer, a file name in it), safe on a terminal."""
    return show(text.encode("utf-8", "backslashreplace"))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, `command` among them. UsageError; SystemExit(0) after --help."""
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="i2node",
        description="Keeps a directory tree mirrored on another host, continuously.",
    )
    parser.add_argument(
        "--home",
        metavar="DIR",
        type=directory_of,
        help="DIR/etc and DIR/var instead of the system's own",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    agent = commands.add_parser("agent", help="the node's daemon, in the foreground")
    agent.add_argument("--listen", metavar="HOST:PORT", help="instead of the configured address")
    agent.add_argument(
        "--allow-root",
        metavar="DIR",
        action="append",
        default=[],
        help="a peer may keep mirrors below DIR; may be repeated",
    )
    _add_log_format(agent)
    agent.add_argument("--embedded", action="store_true", help=argparse.SUPPRESS)

    commands.add_parser("code", help="print this node's pairing code")

    pair = commands.add_parser("pair", help="trust another node, and be trusted by it")
    pair.add_argument("peer", metavar="HOST[:PORT]")
    pair.add_argument(
        "--code-file",
        metavar="FILE",
        type=Path,
        help="holds what `i2node code` prints over there (default: asked for, or standard input)",
    )

    enroll = commands.add_parser("enroll", help="let a controller order what this node mirrors")
    enroll.add_argument("controller", metavar="HOST[:PORT]")
    enroll.add_argument(
        "--code-file",
        metavar="FILE",
        type=Path,
        help="holds the controller's enrolment code (default: asked for, or standard input)",
    )

    _add_mirror(commands.add_parser("mirror", help="mirror SRC, then replicate its changes"))

    status = commands.add_parser("status", help="the rules that run in this home")
    status.add_argument("--json", action="store_true", help="a JSON list")

    explain = commands.add_parser("explain", help="what became of a path, and what it waits for")
    explain.add_argument("path", metavar="PATH", help="below the source of a rule that runs here")
    explain.add_argument("--json", action="store_true", help="a JSON list")

    for name, what in (
        ("release", "do what the brake of this node holds back of a rule"),
        ("refuse", "never do it: the rule stops at its source"),
    ):
        decision = commands.add_parser(name, help=what)
        decision.add_argument("rule", metavar="RULE", help="as `i2node status` names it")

    compare = commands.add_parser("compare", help="compare two sides: 0 equal, 1 different")
    _add_places(compare)
    compare.add_argument("--strict", action="store_true", help="read all content on both sides")
    compare.add_argument("--json", action="store_true", help="a JSON object a line")

    doctor = commands.add_parser(
        "doctor", help="what is wrong with this host; or what a mirror of SRC to DST would keep"
    )
    _add_places(doctor, nargs="?")
    doctor.add_argument("--json", action="store_true", help="a JSON object a line")

    _add_controller(
        commands.add_parser("controller", help="the management server: orders nodes what to mirror")
    )

    check = commands.add_parser("check-config", help="check a configuration without using it")
    check.add_argument("file", metavar="FILE", nargs="?", type=Path)

    commands.add_parser("version", help="print the version")
    return parser


def _add_log_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-format", choices=FORMS, help="of the log on standard error, whatever is configured"
    )


def _add_controller(controller: argparse.ArgumentParser) -> None:
    _add_log_format(controller)
    controller.add_argument(
        "--password-file",
        metavar="FILE",
        type=Path,
        help="of the administrator or user (default: one is made up and printed, once)",
    )
    parts = controller.add_subparsers(dest="part", metavar="PART")
    parts.add_parser("code", help="print the code that a node enrols itself with")
    parts.add_parser("check-config", help="check its configuration without using it")
    user = parts.add_parser("user", help="who may log in")
    user.add_argument("deed", choices=("list", "add", "password", "remove"))
    user.add_argument("name", metavar="NAME", nargs="?", default="")


def _add_places(parser: argparse.ArgumentParser, **more: Any) -> None:
    parser.add_argument("source", metavar="SRC", help="a directory of this host", **more)
    parser.add_argument("target", metavar="DST", help="/abs/path or HOST[:PORT]:/abs/path", **more)


def _add_mirror(mirror: argparse.ArgumentParser) -> None:
    _add_places(mirror)
    mirror.add_argument("--once", action="store_true", help="one pass, then end")
    mirror.add_argument(
        "--exclude",
        metavar="PATH",
        action="append",
        default=[],
        help="leave this out: a path, or a pattern such as *.tmp; may be repeated",
    )
    mirror.add_argument(
        "--check",
        choices=("quick", "strict"),
        default="quick",
        help="what finds a difference: size and times, or content (default: quick)",
    )
    mirror.add_argument(
        "--skip",
        choices=("files", "all"),
        default="",
        help="do not mirror what is there now, but for its directories, or all of it: only what "
        "changes from now on",
    )
    mirror.add_argument(
        "--owners",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="carry owner, group, ACLs and other security attributes (default: yes)",
    )
    mirror.add_argument(
        "--compress", metavar="auto|off|LEVEL", default="auto", help="zstd, level 1 to 22"
    )
    mirror.add_argument(
        "--encrypt",
        action=argparse.BooleanOptionalAction,
        help="seal the content on its way (default: yes, except to a directory of this host)",
    )
    mirror.add_argument("--secret-key-file", metavar="FILE", type=Path, help="mixed into the keys")
    mirror.add_argument(
        "--bwlimit", metavar="PLAN", default="", help="bits a second: 20m, or 1-5*08:00-18:00*2m"
    )
    mirror.add_argument(
        "--adopt", action="store_true", help="take over a target that is not empty, not this rule's"
    )
    mirror.add_argument(
        "--require",
        metavar="all|LIST",
        help="attributes, as `doctor` names them, that the target must not lose",
    )
    mirror.add_argument("--json", action="store_true", help="a JSON object a line")


def parse_target(text: str) -> Target:
    """`/abs/path`, `HOST:/abs/path`, `HOST:PORT:/abs/path`, `[V6]:...`. UsageError otherwise."""
    raw = os.fsencode(text)
    if raw.startswith(b"/"):
        return Target(None, PORT, _path(text, raw))
    place, found, path = raw.partition(b":/")
    if not found:
        raise UsageError(
            f"target {text}: no absolute path in it", "write /path or HOST[:PORT]:/path"
        )
    host, port = _place(text, place)
    return Target(host, port, _path(text, b"/" + path))


def parse_peer(text: str, port: int = PORT) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[V6]:PORT`: host and port; without one, `port`."""
    return _place(text, os.fsencode(text), usual=port)


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` as parse_peer, where port 0 lets the kernel choose."""
    return _place(text, os.fsencode(text), lowest=0)


def _place(text: str, place: bytes, lowest: int = 1, usual: int = PORT) -> tuple[str, int]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise UsageError(
            f"{text}: not a host", "write HOST or HOST:PORT, an IPv6 address in brackets"
        )
    host = (match["six"] or match["host"]).decode("utf-8", "surrogateescape")
    port = usual if match["port"] is None else int(match["port"][:6])
    if not lowest <= port <= 65535:
        raise UsageError(f"{text}: no such port", f"ports are {lowest} to 65535")
    return host, port


def _path(text: str, path: bytes) -> bytes:
    """The path without doubled or trailing slashes; `..` would depend on what stands there."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageError(f"target {text}: '..' in a path", "write it out")
    return b"/" + b"/".join(parts)


def directory_of(text: str) -> Path:
    """A directory as an absolute path; a symlink in it is left to whoever opens it. UsageError for
    an empty text: what a script's unset variable gives must not mean the current directory."""
    if not text:
        raise UsageError("an empty path for a directory", "name the directory")
    return Path(os.path.normpath(Path(text).absolute()))


def options_of(arguments: argparse.Namespace) -> MirrorOptions:
    """What `mirror` is to do. UsageError for values that mean nothing, or an unusable key file."""
    target = parse_target(arguments.target)
    encrypt = arguments.encrypt
    key_file: Path | None = arguments.secret_key_file
    return MirrorOptions(
        source=directory_of(arguments.source),
        target=target,
        once=arguments.once,
        excludes=tuple(os.fsencode(path) for path in arguments.exclude),
        check=arguments.check,
        owners=arguments.owners,
        skip=_skip(arguments.skip, arguments.once),
        compress=_compress(arguments.compress),
        encrypt=target.host is not None if encrypt is None else encrypt,
        secret_key=None if key_file is None else key_of(key_file),
        bwlimit=arguments.bwlimit,
        adopt=arguments.adopt,
        require=_require(arguments.require, arguments.owners),
    )


def _skip(text: Literal["", "files", "all"], once: bool) -> Literal["", "files", "all"]:
    if text and once:
        raise UsageError(
            f"--skip {text} with --once would mirror nothing", "leave out one of the two"
        )
    return text


def _compress(text: str) -> Literal["auto", "off"] | int:
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    if text.isascii() and text.isdigit() and 1 <= int(text[:3]) <= 22:
        return int(text)
    raise UsageError(f"--compress {text!r}", "expected auto, off, or a level from 1 to 22")


def _require(text: str | None, owners: bool) -> tuple[str, ...]:
    """An empty text is no attribute: a script's unset variable must not mean that none counts."""
    if text is None:
        return ()
    from i2node.repl.fidelity import parse_require

    return parse_require(text, owners)
