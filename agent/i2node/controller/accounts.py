"""Who may call, and how they prove it: passwords, hashed with argon2id, and lock-out."""

from __future__ import annotations

import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.store.users import Users
from i2node.errors import UsageError

FAILURES = 5
"""Wrong passwords in a row after which a user is locked out ..."""
LOCKED_S = 600
"""... for so many seconds after the last of them."""
SHORTEST = 8
"""Characters of a password."""
_AT_ONCE = 2  # passwords that are hashed: each takes 64 MiB meanwhile, whoever sent it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_WRONG = "the user name or the password is wrong"


class Accounts:
    """The users. Safe to use from several threads."""

    def __init__(self, users: Users, clock: Callable[[], float] = time.time) -> None:
        self._users = users
        self._clock = clock
        self._hasher = PasswordHasher()
        self._hashing = threading.Semaphore(_AT_ONCE)
        # Compared with where there is no such user, so that the time does not tell that.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def names(self) -> list[str]:
        """Their names, sorted."""
        return self._users.names()

    def first(self) -> int:
        """The id of the one who was there first. UsageError: there is nobody."""
        found = self._users.first()
        if found is None:
            raise UsageError("there is no user", "start `i2node controller` once, or add one")
        return found

    def create(self, name: str, password: str) -> None:
        """Adds one. Refusal: the name is not allowed or taken, the password too short."""
        if not _NAME.fullmatch(name):
            raise Refusal(Code.BAD_NAME, "a user's name has letters, digits and ._@- alone")
        made = str(uuid.uuid4()).upper()
        if not self._users.add(made, name, self._hashed(password), int(self._clock())):
            raise Refusal(Code.NAME_EXISTS, f"there is a user {name} already")

    def change(self, name: str, password: str) -> None:
        """Sets a password, ends the logins and lifts the lock-out. Refusal: no such user."""
        if not self._users.set_password(name, self._hashed(password)):
            raise Refusal(Code.NO_SUCH_USER, f"there is no user {name}")

    def remove(self, name: str) -> None:
        """Removes one. Refusal: no such user, the last, or the owner of nodes or rules."""
        if self._users.find(name) is None:
            raise Refusal(Code.NO_SUCH_USER, f"there is no user {name}")
        self._users.remove(name)

    def entered(self, name: str, password: str) -> int:
        """The id of whoever knows this password. Refusal: it is wrong, or the user locked out."""
        now = int(self._clock())
        user = self._users.find(name)
        if user is not None and user.failures >= FAILURES and now < user.failed_at + LOCKED_S:
            wait = -(-(user.failed_at + LOCKED_S - now) // 60)
            raise Refusal(Code.LOCKED_OUT, f"too many failed logins: try again in {wait} minutes")
        right = self._is(self._nobody if user is None else user.password, password)
        if user is None:
            raise Refusal(Code.FAILED, _WRONG)
        if not right:
            self._users.failed(user.id, now, LOCKED_S)
            raise Refusal(Code.FAILED, _WRONG)
        if user.failures:
            self._users.succeeded(user.id)
        return user.id

    def _hashed(self, password: str) -> str:
        if len(password) < SHORTEST:
            raise Refusal(Code.INVALID, f"a password has at least {SHORTEST} characters")
        with self._hashing:
            return self._hasher.hash(password)

    def _is(self, hashed: str, password: str) -> bool:
        try:
            with self._hashing:
                return self._hasher.verify(hashed, password)
        except (Argon2Error, InvalidHashError):
            return False
