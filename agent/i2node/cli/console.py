"""`i2node controller`: the management server, and who may log in to it."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from i2node.cli.secret import password_of
from i2node.cli.service import begin_log, manager
from i2node.config import ControllerConfig
from i2node.errors import UsageError

if TYPE_CHECKING:
    from i2node.controller.server import Office


def controller(arguments: argparse.Namespace) -> int:
    """The server until SIGTERM or SIGINT; or a word with its list of users."""
    config = ControllerConfig.load(arguments.home)
    if arguments.part == "check-config":
        print(f"{config.file}: sound" if config.file.exists() else f"{config.file}: not there")
        return 0
    if arguments.log_format is not None:
        config = replace(config, log_format=arguments.log_format)
    begin_log(config.log_level, config.log_format)
    try:
        from i2node.controller.server import Office
    except ImportError as error:
        raise UsageError(
            f"the controller's packages are missing: {error}",
            "install the package i2node-controller, or: pip install 'i2node[controller]'",
        ) from error
    given = None if arguments.password_file is None else password_of(arguments.password_file)
    with Office.open(config) as office:
        if arguments.part == "code":
            print(office.identity.code)
            return 0
        if arguments.part == "user":
            return _user(office, arguments.deed, arguments.name, given)
        made = office.found_administrator(given)
        if made is not None:
            _tell("admin", made)
        office.serve(manager())
    return 0


def _user(office: Office, deed: str, name: str, given: str | None) -> int:
    accounts = office.accounts
    if deed == "list":
        for one in accounts.names():
            print(one)
        return 0
    if not name:
        raise UsageError(f"which user is to be meant by {deed}", "name one")
    if deed == "remove":
        accounts.remove(name)
        return 0
    password = given or secrets.token_urlsafe(15)
    (accounts.create if deed == "add" else accounts.change)(name, password)
    if given is None:
        _tell(name, password)
    return 0


def _tell(name: str, password: str) -> None:
    print(f"user {name}, password {password}", flush=True)
    print("It is told this once. Another: i2node controller user password NAME", flush=True)
