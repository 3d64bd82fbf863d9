"""The command line. Exit statuses are an interface: README.md lists them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence

from i2node import log
from i2node.cli import arguments, commands
from i2node.cli.service import begin_log
from i2node.errors import I2Error

INTERNAL = 70
"""Exit status for a fault of the program itself (EX_SOFTWARE of sysexits.h)."""

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status; argv without the program's name."""
    given = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in given
    command = ""
    begin_log("warning")
    # What is made without a mode of its own is never for others to write to.
    umask = os.umask(0o022)
    os.umask(umask | 0o022)
    try:
        parsed = arguments.parse(given)
        command = parsed.command
        as_json = commands.speaks_json(parsed)
        status = commands.COMMANDS[command](parsed)
        sys.stdout.flush()
        return status
    except I2Error as error:
        failure = error
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our lines is gone. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:
        log.event(_log, logging.ERROR, "internal-error")
        return INTERNAL
    finally:
        os.umask(umask)
    _tell(failure, as_json)
    # They keep 1 for "different" and "lost", so all that kept them from saying so is 2.
    return 2 if command in ("compare", "doctor") else failure.exit_status


def _tell(error: I2Error, as_json: bool) -> None:
    """The cause and the remedy: on stderr, as its reader has them best, and for programs on stdout
    where they listen."""
    fields = {"code": error.code, "cause": error.cause, "remedy": error.remedy}
    if not log.for_people():
        log.event(_log, logging.ERROR, "command-failed", **fields)
    else:
        print(f"i2node: {arguments.shown(error.cause)}", file=sys.stderr)
        if error.remedy:
            print(f"        {arguments.shown(error.remedy)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"t": "error", **fields}), flush=True)
