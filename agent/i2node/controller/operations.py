"""The log of operations: each call that is to change something, who made it, from where, and what
came of it. It is written before the answer goes out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from i2node import log
from i2node.controller.app import AtDesk, Given, Known, Scope
from i2node.controller.call import Call
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload
from i2node.controller.numbers import PAGE_MOST
from i2node.controller.store.operations import Asked, Operations
from i2node.controller.store.tables import Operation

_log = logging.getLogger(__name__)

routes = APIRouter(tags=["numbers"])

TRIES = 10
"""Failed logins that are noted in a minute: who guesses passwords does not wash out the rest."""
_NAMED = 10
"""Of a call about many things so many are named."""
_LONGEST = 200
_LOG_IN = "/auth/token"

_WORDS: Mapping[tuple[str, str], str] = {
    ("POST", _LOG_IN): "log in",
    ("DELETE", _LOG_IN): "log out",
    ("POST", "/ak"): "create access key",
    ("DELETE", "/ak"): "delete access key",
    ("POST", "/node/auth"): "authenticate node",
    ("POST", "/node"): "create node",
    ("POST", "/node/batch"): "create node",
    ("PUT", "/node/{node_uuid}"): "modify node",
    ("DELETE", "/node"): "delete node",
    ("POST", "/dir"): "create directory",
    ("POST", "/fsp/backup"): "create rule",
    ("POST", "/fsp/backup/batch"): "create rule",
    ("PUT", "/fsp/backup/{uuid:uuid}"): "modify rule",
    ("DELETE", "/fsp/backup"): "delete rule",
    ("POST", "/fsp/backup/operate"): "operate rule",
}
"""What is noted, and how it is called."""


@routes.get("/op_log")
def op_log(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Who changed what, the newest first: `start`, `end`, `page`, `limit`; `username`, `address`,
    `description` (parts of these two); `level` 0 failed, 2 done."""
    form = call.form
    level = form.choice("level", ("0", "1", "2"), "") if form.given("level") else ""
    asked = Asked(
        start=form.number("start", 0, high=10**10),
        end=form.number("end", 0, high=10**10),
        user=form.text("username", ""),
        address=form.text("address", ""),
        words=form.text("description", ""),
        failed={"0": True, "2": False}.get(level),
        limit=form.number("limit", 100, low=1, high=PAGE_MOST),
        page=form.number("page", 1, low=1, high=10**9),
    )
    form.check()
    # Nothing here is a warning.
    rows, total = ([], 0) if level == "1" else desk.operations.page(asked)
    return {"logs": [_shown(row) for row in rows], "total": total}


class Recorder:
    """Notes what passes through it."""

    def __init__(self, app: Callable[..., Awaitable[None]], operations: Operations) -> None:
        self._app = app
        self._operations = operations
        self._minute = 0.0
        self._tries = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        began = time.time()
        answer: list[dict[str, Any]] = []

        async def hold(message: dict[str, Any]) -> None:
            answer.append(message)

        try:
            await self._app(scope, receive, hold)
        except Exception:
            await self._note(scope, began, int(Code.FAILED), "a fault of the controller")
            raise
        await self._note(scope, began, *_outcome(answer))
        for message in answer:
            await send(message)

    async def _note(self, scope: Scope, began: float, code: int, reason: str) -> None:
        row = _row(scope, began, code, reason)
        if row is not None and not self._floods(scope, row):
            await run_in_threadpool(self._keep, row)

    def _floods(self, scope: Scope, row: Operation) -> bool:
        if not row.result or "caller" in scope["state"]:
            return False
        if row.began >= self._minute + 60:
            self._minute, self._tries = row.began, 0
        self._tries += 1
        return self._tries > TRIES

    def _keep(self, row: Operation) -> None:
        """What was done is done, and is answered, whatever becomes of this."""
        try:
            self._operations.note(row)
        except Exception as error:
            log.event(_log, logging.ERROR, "operation-unnoted", error=repr(error))


def _row(scope: Scope, began: float, code: int, reason: str) -> Operation | None:
    """None: it is none that is noted, or of nobody known."""
    path = getattr(scope.get("route"), "path", "").removeprefix("/api")
    words = _WORDS.get((scope["method"], path))
    state = scope.get("state", {})
    call, caller = state.get("call"), state.get("caller")
    if words is None or not isinstance(call, Call) or (caller is None and path != _LOG_IN):
        return None
    user = caller.name if caller is not None else _plain(call.values.get("username", ""))
    return Operation(
        began=began,
        ended=time.time(),
        user=user[:64],
        address=str((scope.get("client") or ("",))[0])[:64],
        description=described(words, call.values, scope.get("path_params", {})),
        result=code,
        reason=_plain(reason, 4 * _LONGEST) if code else "",
    )


def described(words: str, values: Mapping[str, Any], place: Mapping[str, Any]) -> str:
    """What a call does, and to what. values: its arguments; place: those of its path. Pure."""
    if words == "operate rule":
        words = f"{_plain(values.get('operate', 'operate'))} rule"
    for kind, found in (("name", _names(values)), ("uuid", _uuids(values, place))):
        if found:
            shown = ", ".join(f'"{_plain(one)}"' for one in found[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            return f"{words} [ {kind} : {shown}{more} ]"
    return words


def _names(values: Mapping[str, Any]) -> list[Any]:
    several = [values, values.get("node"), values.get("fsp_backup")]
    for field in ("base_info_list", "node_list"):
        found = values.get(field)
        several += found if isinstance(found, list) else []
    keys = ("fsp_name", "node_name", "path")
    told = [one[key] for one in several if isinstance(one, Mapping) for key in keys if one.get(key)]
    if told or "config_addr" not in values:
        return told
    return [f"{values['config_addr']}:{values.get('config_port', '')}"]


def _uuids(values: Mapping[str, Any], place: Mapping[str, Any]) -> list[Any]:
    for field in ("fsp_uuids", "node_uuids"):
        found = values.get(field)
        if isinstance(found, list):
            return found
    return [str(one).upper() for one in place.values()]


def _plain(value: object, longest: int = _LONGEST) -> str:
    """Text that every database holds."""
    text = str(value)[:longest].encode("utf-8", "replace").decode()
    return "".join(one if one.isprintable() else " " for one in text)


def _outcome(answer: list[dict[str, Any]]) -> tuple[int, str]:
    """Code and reason, out of the envelope of an answer."""
    body = b"".join(message.get("body", b"") for message in answer)
    try:
        data = json.loads(body)["data"]
        code, message = int(data["code"]), str(data["message"])
    except (ValueError, KeyError, TypeError):
        return int(Code.FAILED), ""
    return code, message.removeprefix(f"[{code}] ")


def _shown(row: Operation) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "user": row.user,
        "op_time": _written(row.began),
        "start": _written(row.began),
        "end": _written(row.ended),
        "address": row.address,
        "description": row.description,
        "result": str(row.result),
        "failure_reason": row.reason,
    }


def _written(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
