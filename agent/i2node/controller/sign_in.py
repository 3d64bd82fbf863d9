"""Logging in and out, tokens, and pairs of keys."""

from __future__ import annotations

import time
from dataclasses import asdict

from fastapi import APIRouter

from i2node.controller.app import AtDesk, Given, Known
from i2node.controller.codes import LATER, Code
from i2node.controller.envelope import Payload, Refusal

routes = APIRouter(tags=["auth"])


@routes.post("/auth/token")
def log_in(call: Given, desk: AtDesk) -> Payload:
    """Three tokens, for a user's name and password (`username`, `pwd`, the password sealed with
    `pubKey` or bare), or for a call that is signed with a pair of keys."""
    if call.headers.get("access-key"):
        return {"message": "", **asdict(desk.tokens.log_in(desk.gate.key_holder(call).id))}
    form = call.form
    name, password = form.text("username", most=64), form.text("pwd")
    form.check()
    user = desk.accounts.entered(name, desk.seal.opened(password))
    return {"message": "", **asdict(desk.tokens.log_in(user))}


@routes.get("/auth/token")
def check(call: Given, desk: AtDesk) -> Payload:
    """Whether a login lives, by its `access_token` (the `sso_token` of the login), and whose."""
    name = desk.tokens.name_of(call.form.text("access_token", ""))
    if name is None:
        raise Refusal(Code.TOKEN_INVALID)
    return {"username": name}


@routes.put("/auth/refresh_token")
def refresh(call: Given, desk: AtDesk) -> Payload:
    """Three new tokens for a `refresh_token`; the old ones are good for ten minutes more."""
    try:
        return {"message": "", **asdict(desk.tokens.refresh(call.form.text("refresh_token", "")))}
    except Refusal as refusal:
        if call.is_later and refusal.number == Code.REFRESH_INVALID:
            # By this number alone they know that they are to log in again.
            raise Refusal(Code.REFRESH_INVALID, number=Code.REFRESH_INVALID + LATER) from refusal
        raise


@routes.put("/auth/heartbeat")
def heartbeat(caller: Known) -> Payload:
    """The login is in use."""
    return {"username": caller.name}


@routes.delete("/auth/token")
def log_out(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Ends the login."""
    desk.tokens.log_out(call.headers.get("authorization", "").strip())
    return {}


@routes.get("/auth/t")
def server_time() -> Payload:
    """The server's time, in seconds since 1970."""
    return {"timestamp": int(time.time())}


@routes.get("/auth/check_captcha")
def captcha() -> Payload:
    """Whether a login needs a picture to be read: never; failed logins lock out instead."""
    return {"captcha": 0}


@routes.post("/auth/generate")
@routes.post("/auth/verification_code")
@routes.post("/auth/register")
@routes.post("/auth/reset_password")
def by_message() -> Payload:
    """Accounts by mail or telephone: there are none here."""
    raise Refusal(
        Code.NOT_ENABLED, "accounts are kept by `i2node controller user`, not by mail or telephone"
    )


@routes.get("/ak")
def keys(caller: Known, desk: AtDesk) -> Payload:
    """The caller's access keys; a secret is told once, when it is made."""
    held = [
        {"access_key": access, "create_time": str(created)}
        for access, created in desk.tokens.keys(caller.id)
    ]
    return {"info_list": held, "total": len(held)}


@routes.post("/ak")
def add_key(caller: Known, desk: AtDesk) -> Payload:
    """A new pair of keys for the caller."""
    access, secret = desk.tokens.add_key(caller.id)
    return {"access_key": access, "secret_key": secret}


@routes.delete("/ak")
def drop_key(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Ends the pair with this `access_key`."""
    form = call.form
    access = form.text("access_key", most=64)
    form.check()
    desk.tokens.drop_key(caller.id, access)
    return {}
