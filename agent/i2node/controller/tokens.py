"""What a login is good for: an access token for each call, one for other consoles, one to get new
ones with. The database keeps their digests, so that a restart ends no login and a stolen copy of it
is no login."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.seal import Vault
from i2node.controller.store.logins import Logins
from i2node.controller.store.tables import AccessKey, Login, User

ACCESS_S = 2 * 3600
"""An access token that was not used for so many seconds is no more."""
REFRESH_S = 30 * 86400
"""A login ends so many seconds after it was made, or last refreshed."""
GRACE_S = 600
"""Tokens are good for so many seconds after a refresh: clients keep copies of them."""
KEYS = 2
"""Pairs of access keys of a user."""
_USED_S = 60  # how often the last use is written down


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client is given at a login or refresh."""

    token: str
    sso_token: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    id: int
    uuid: str
    name: str


class TokenDesk:
    """Gives tokens out and knows them again. Safe to use from several threads."""

    def __init__(
        self, logins: Logins, vault: Vault, clock: Callable[[], float] = time.time
    ) -> None:
        self._logins = logins
        self._vault = vault
        self._clock = clock

    def log_in(self, user: int) -> Tokens:
        """New tokens of a user who proved to be that."""
        now = int(self._clock())
        tokens = Tokens(secrets.token_hex(20), secrets.token_hex(32), secrets.token_hex(32))
        login = Login(
            user_id=user,
            access=_digest(tokens.token),
            sso=_digest(tokens.sso_token),
            refresh=_digest(tokens.refresh_token),
            created=now,
            used=now,
        )
        self._logins.add(login, gone=now - REFRESH_S, superseded=now - GRACE_S)
        return tokens

    def refresh(self, refresh_token: str) -> Tokens:
        """New ones for old. Refusal: it is none, or too old."""
        now = int(self._clock())
        found = self._logins.find("refresh", _digest(refresh_token))
        if found is None or not _refreshes(found[0], now):
            raise Refusal(Code.REFRESH_INVALID)
        self._logins.supersede(found[0].id, now)
        return self.log_in(found[1].id)

    def caller(self, token: str) -> Caller | None:
        """Whose access token it is; None: nobody's, or too old."""
        now = int(self._clock())
        found = self._logins.find("access", _digest(token))
        if found is None or not _lives(found[0], now):
            return None
        login, user = found
        if login.used + _USED_S <= now:
            self._logins.used(login.id, now)
        return _caller(user)

    def name_of(self, sso_token: str) -> str | None:
        """Whose token for other consoles it is."""
        found = self._logins.find("sso", _digest(sso_token))
        return found[1].name if found and _lives(found[0], int(self._clock())) else None

    def log_out(self, token: str) -> None:
        """Ends the login of an access token."""
        self._logins.drop(_digest(token))

    def add_key(self, user: int) -> tuple[str, str]:
        """A new pair of keys: access, secret. Refusal: the user has as many as there may be."""
        access, secret = secrets.token_hex(16), secrets.token_hex(20)
        sealed, now = self._vault.sealed(secret), int(self._clock())
        key = AccessKey(user_id=user, access=access, secret=sealed, created=now)
        if not self._logins.add_key(key, KEYS):
            raise Refusal(Code.TWO_KEYS)
        return access, secret

    def keys(self, user: int) -> list[tuple[str, int]]:
        """The access keys of a user, and when each was made."""
        return [(key.access, key.created) for key in self._logins.keys(user)]

    def drop_key(self, user: int, access: str) -> None:
        """Ends a pair. Refusal: the user has no such key."""
        if not self._logins.drop_key(user, access):
            raise Refusal(Code.NO_SUCH_KEY)

    def key_holder(self, access: str) -> tuple[Caller, str] | None:
        """Whose access key it is, and its secret."""
        found = self._logins.key(access)
        return None if found is None else (_caller(found[1]), self._vault.opened(found[0].secret))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _caller(user: User) -> Caller:
    return Caller(user.id, user.uuid, user.name)


def _lives(login: Login, now: int) -> bool:
    return now < login.used + ACCESS_S and _refreshes(login, now)


def _refreshes(login: Login, now: int) -> bool:
    graced = not login.superseded or now < login.superseded + GRACE_S
    return graced and now < login.created + REFRESH_S
