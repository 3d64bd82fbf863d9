"""The form of every answer: `{"ret": 200, "msg": "", "data": {"code": 0, "message": "...", ...}}`.

A refusal by business rules is HTTP 200 as well, with its code; 403 says that the token is no more
(clients then refresh it), 404 and 405 that there is no such call, 500 that the server failed.
"""

from __future__ import annotations

from typing import Any

from i2node.controller.codes import Code
from i2node.errors import I2Error

Payload = dict[str, Any]
"""What stands in `data` beside code and message."""


class Refusal(I2Error):
    """A call that is not done. number: its business code; status: of HTTP, repeated in `ret`."""

    code = "api"

    def __init__(self, code: Code, detail: str = "", *, status: int = 200, number: int = 0) -> None:
        super().__init__(detail or code.text)
        self.number = number or int(code)
        self.status = status


def done(payload: Payload | None = None) -> Payload:
    """The envelope of a call that succeeded."""
    return wrapped(200, int(Code.SUCCESS), Code.SUCCESS.text, payload)


def refused(refusal: Refusal) -> Payload:
    """The envelope of one that did not."""
    return wrapped(refusal.status, refusal.number, refusal.cause)


def wrapped(status: int, number: int, text: str, payload: Payload | None = None) -> Payload:
    """Any envelope."""
    data = {"code": number, "message": f"[{number}] {text}", **(payload or {})}
    return {"ret": status, "msg": "", "data": data}
