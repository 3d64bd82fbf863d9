"""The controller's process: its files, its database, its three ports.

<etc>/controller/controller.toml    configuration
<etc>/controller/identity/          key and certificate, for HTTPS and for the nodes
<etc>/controller/login.pem          the key that clients seal passwords for
<etc>/controller/vault.key          the key of the secrets in the database
<var>/controller/controller.db      the database, unless the configuration names another
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from i2node import log
from i2node.config import ControllerConfig
from i2node.controller.accounts import Accounts
from i2node.controller.app import Desk, app_of
from i2node.controller.board import Board
from i2node.controller.call import Gate
from i2node.controller.enrolment import Enrolment
from i2node.controller.fleet import Fleet
from i2node.controller.protection import Protection
from i2node.controller.seal import Seal, Vault
from i2node.controller.store.database import Database
from i2node.controller.store.heard import Heard
from i2node.controller.store.history import History
from i2node.controller.store.leases import Leases
from i2node.controller.store.links import Links
from i2node.controller.store.logins import Logins
from i2node.controller.store.nodes import Nodes
from i2node.controller.store.operations import Operations
from i2node.controller.store.rules import Rules
from i2node.controller.store.users import Users
from i2node.controller.tokens import TokenDesk
from i2node.errors import UsageError
from i2node.net.door import bound
from i2node.net.identity import Identity
from i2node.net.notify import Manager

_log = logging.getLogger(__name__)

ADMINISTRATOR = "admin"
_DRAIN_S = 5  # for calls that are under way when it is told to stop


@dataclass(frozen=True, slots=True)
class Office:
    """What stands behind the HTTP server. A context."""

    config: ControllerConfig
    database: Database
    accounts: Accounts
    desk: Desk
    identity: Identity
    fleet: Fleet

    @classmethod
    def open(cls, config: ControllerConfig) -> Office:
        """Makes what is missing of its files and tables. UsageError: something cannot be used."""
        _make_directories(config)
        vault = Vault(config.etc / "vault.key")
        seal = Seal.load(config.etc / "login.pem")
        database = Database(config.database_url)
        accounts = Accounts(Users(database))
        tokens = TokenDesk(Logins(database), vault)
        gate = Gate(tokens, config.strict_signatures)
        rules, heard = Rules(database), Heard(database)
        identity = Identity.load(config.etc)
        links = (Links(database), Leases(database), heard, vault)
        fleet = Fleet(identity, *links, own_port=config.enroll_port)
        desk = Desk(
            accounts,
            tokens,
            gate,
            seal,
            rules,
            Protection(rules, vault, fleet),
            Board(rules, fleet),
            History(database),
            Nodes(database),
            Operations(database),
            fleet,
        )
        return cls(config, database, accounts, desk, identity, fleet)

    def __enter__(self) -> Office:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def found_administrator(self, password: str | None) -> str | None:
        """Makes the administrator where there is no user yet; gives the password that was made up
        for that, where none was given."""
        if self.accounts.names():
            return None
        made = password or secrets.token_urlsafe(15)
        self.accounts.create(ADMINISTRATOR, made)
        log.event(_log, logging.INFO, "administrator-created", name=ADMINISTRATOR)
        return None if password else made

    def serve(self, manager: Manager) -> None:
        """Answers calls until SIGTERM or SIGINT; manager: of services, that is told of it.
        UsageError: a port cannot be had."""
        # Each link takes a descriptor, and the usual soft limit is that of old programs.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        # Who answers a call waits for others' turns several times; whoever hears nodes does not.
        sys.setswitchinterval(0.0001)
        asyncio.run(self._serve(manager))

    async def _serve(self, manager: Manager) -> None:
        config, app = self.config, app_of(self.desk)
        certificate = config.certificate or str(self.identity.key_file)
        plain, sealed = _settings(app), _settings(app)
        sealed.ssl_certfile = certificate
        try:
            sealed.load()
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"certificate {certificate}: {error}", "it holds a key and a certificate, PEM"
            ) from error
        servers = (_Server(plain), _Server(sealed))
        ports = (config.http_port, config.https_port)
        doors = [bound(config.listen_host, port) for port in ports]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, servers)
        where = [door.getsockname()[1] for door in doors]
        asked = (config.listen_host, config.enroll_port)
        enrolment = Enrolment(self.desk, self.identity, *asked, self.accounts.first())
        where.append(enrolment.start())
        names = ("http_port", "https_port", "enroll_port")
        ports_had = dict(zip(names, where, strict=True))
        log.event(_log, logging.INFO, "controller-listens", **ports_had)
        self.fleet.start()
        manager.ready(f"ports {', '.join(map(str, where))}")
        beat = asyncio.create_task(_beat(manager))
        try:
            await asyncio.gather(
                *(server.serve([door]) for server, door in zip(servers, doors, strict=True))
            )
        finally:
            manager.stops()
            beat.cancel()
            enrolment.close()
            self.fleet.close()
        log.event(_log, logging.INFO, "controller-stopped")


class _Server(uvicorn.Server):
    """One port; signals are handled for both together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _end(servers: tuple[_Server, ...]) -> None:
    for server in servers:
        server.should_exit = True


async def _beat(manager: Manager) -> None:
    """For the watchdog, as long as calls are answered."""
    while (pause := manager.beat_s) is not None:
        manager.alive()
        await asyncio.sleep(pause)


def _settings(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )


def _make_directories(config: ControllerConfig) -> None:
    for directory in (config.etc, config.var):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"make {directory}: {error.strerror}", "see its owner") from error
