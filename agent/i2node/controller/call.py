"""One call of the API as it came: what it asks for, and who asks.

Arguments stand in the query of GET and in the JSON body of all others, DELETE included. Calls are
signed; where a client cannot do that right (it signs a random number that it does not send, or one
that it writes in two ways) the token alone counts, unless the configuration is strict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.controller.form import Form
from i2node.controller.query import arguments
from i2node.controller.signature import Nonces, Signed
from i2node.controller.tokens import Caller, TokenDesk

BODY_MOST = 8 << 20
"""Bytes of a body."""


@dataclass(frozen=True, slots=True)
class Call:
    """path: as the client wrote it. values: its arguments, less the random number `_`, which is
    `chance`. headers: by their names in lower case."""

    method: str
    path: str
    values: dict[str, Any]
    chance: str
    headers: Mapping[str, str]

    @property
    def form(self) -> Form:
        """Its arguments, to be read and checked."""
        return Form(self.values)

    @property
    def is_later(self) -> bool:
        """Whether the client is of a console from 8.0 on, which knows codes of ten digits."""
        return "enhancestr" in self.headers


def call_of(method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]) -> Call:
    """Refusal: the body is no JSON object."""
    values = arguments(query)
    if method not in ("GET", "HEAD") and body.strip():
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(Code.INVALID, f"the body is not JSON: {error}") from error
        # PHP writes an empty object as an empty list.
        if not isinstance(sent, dict) and sent != []:
            raise Refusal(Code.INVALID, "the body is not a JSON object")
        values |= sent or {}
    chance = values.pop("_", "")
    return Call(method, path, values, chance if isinstance(chance, str) else "", headers)


class Gate:
    """Tells who calls. Safe to use from several threads."""

    def __init__(self, desk: TokenDesk, strict: bool) -> None:
        """strict: every call is to be signed, and rightly."""
        self._desk = desk
        self._strict = strict
        self._nonces = Nonces()

    def caller(self, call: Call) -> Caller:
        """Refusal: nobody who is known, with status 403 where a new token would help."""
        if call.headers.get("access-key"):
            return self.key_holder(call)
        token = call.headers.get("authorization", "").strip()
        found = self._desk.caller(token) if token else None
        if found is None:
            raise Refusal(Code.TOKEN_INVALID, status=403)
        signed = _signed(call)
        if self._strict or (signed.signature and call.chance and not _is_php(call)):
            self._check(signed, token)
        return found

    def key_holder(self, call: Call) -> Caller:
        """Who calls with a pair of keys, where the signature is the only proof."""
        held = self._desk.key_holder(call.headers["access-key"])
        if held is None:
            raise Refusal(Code.NO_SUCH_KEY)
        caller, secret = held
        self._check(_signed(call), secret)
        return caller

    def _check(self, signed: Signed, key: str) -> None:
        if not signed.matches(key):
            raise Refusal(Code.DENIED, "the signature is wrong")
        if not self._nonces.fresh(signed):
            raise Refusal(
                Code.DENIED,
                "the call was made before, or more than 5 minutes from now: see the client's clock",
            )


def _is_php(call: Call) -> bool:
    return "php" in call.headers.get("user-agent", "").lower()


def _signed(call: Call) -> Signed:
    told = call.headers
    return Signed(
        method=call.method,
        path=call.path,
        chance=call.chance,
        stamp=told.get("timestamp", ""),
        nonce=told.get("nonce", ""),
        signature=told.get("signature", ""),
    )
