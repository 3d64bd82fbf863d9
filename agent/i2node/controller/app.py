"""The ASGI application: every path, every answer in its envelope, errors too."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import i2node
from i2node import log
from i2node.controller.accounts import Accounts
from i2node.controller.board import Board
from i2node.controller.call import BODY_MOST, Call, Gate, call_of
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal, done, refused
from i2node.controller.fleet import Fleet
from i2node.controller.protection import Protection
from i2node.controller.seal import Seal
from i2node.controller.store.history import History
from i2node.controller.store.nodes import Nodes
from i2node.controller.store.operations import Operations
from i2node.controller.store.rules import Rules
from i2node.controller.tokens import Caller, TokenDesk
from i2node.errors import I2Error

_log = logging.getLogger(__name__)

Scope = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the calls are answered with."""

    accounts: Accounts
    tokens: TokenDesk
    gate: Gate
    seal: Seal
    rules: Rules
    protection: Protection
    board: Board
    history: History
    nodes: Nodes
    operations: Operations
    fleet: Fleet


async def given(request: Request) -> Call:
    """The call as it came. Refusal: its body is too long, or no JSON."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MOST:
            raise Refusal(Code.INVALID, f"a body of more than {BODY_MOST} bytes")
    headers = {name.lower(): value for name, value in request.headers.items()}
    path = request.scope["i2_path"]
    call = call_of(request.method, path, request.url.query, bytes(body), headers)
    request.state.call = call
    return call


Given = Annotated[Call, Depends(given)]


async def desk_of(request: Request) -> Desk:
    """What this application answers with."""
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(desk_of)]


def known(request: Request, call: Given, desk: AtDesk) -> Caller:
    """Who calls. Refusal: nobody known."""
    request.state.caller = caller = desk.gate.caller(call)
    return caller


Known = Annotated[Caller, Depends(known)]


class Answer(JSONResponse):
    """A payload in the envelope of success."""

    def render(self, content: Payload | None) -> bytes:
        return super().render(done(content))


def app_of(desk: Desk) -> FastAPI:
    """The application; `/api/docs` describes it."""
    from i2node.controller import (
        discovery,
        docs,
        elsewhere,
        folders,
        fsp,
        nodes,
        numbers,
        operations,
        sign_in,
        system,
    )

    app = FastAPI(
        title="i2node controller",
        version=i2node.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        default_response_class=Answer,
    )
    app.state.desk = desk
    parts = (sign_in, elsewhere, nodes, folders, discovery, fsp, numbers, operations, system, docs)
    for part in parts:
        app.include_router(part.routes, prefix="/api")
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(I2Error, _fail)
    app.add_exception_handler(HTTPException, _no_such)
    app.add_exception_handler(Exception, _crash)
    app.add_middleware(operations.Recorder, operations=desk.operations)
    app.add_middleware(Paths)
    return app


class Paths:
    """Paths as clients write them: `//` is `/`, and `/apiauth/…` is `/api/auth/…`, as are others
    that some clients join wrongly. Signatures are of the path as it came."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            told = path[path.find("/api") :] if "/api" in path else path
            clean = "/" + "/".join(part for part in path.split("/") if part)
            if clean.startswith("/api") and clean[4:5] not in ("", "/"):
                clean = "/api/" + clean[4:]
            scope = scope | {"i2_path": told, "path": clean, "raw_path": clean.encode()}
        await self._app(scope, receive, send)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse(refused(error), error.status)


async def _fail(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, I2Error)
    fields = {"path": request.url.path, "cause": error.cause, "remedy": error.remedy}
    log.event(_log, logging.WARNING, "call-failed", **fields)
    return JSONResponse(refused(Refusal(Code.FAILED, str(error))))


async def _no_such(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    told = f"{error.detail}: {request.method} {request.url.path}"
    return JSONResponse(
        refused(Refusal(Code.NO_SUCH_ITEM, told, status=error.status_code)), error.status_code
    )


async def _crash(request: Request, error: Exception) -> JSONResponse:
    # The log has the traceback: the server writes it when this is raised again.
    refusal = Refusal(Code.FAILED, "a fault of the controller: its log has more", status=500)
    return JSONResponse(refused(refusal), 500)
