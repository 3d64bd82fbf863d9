"""What the server tells of itself."""

from __future__ import annotations

import time

from fastapi import APIRouter

import i2node
from i2node.controller.app import AtDesk
from i2node.controller.envelope import Payload

routes = APIRouter(tags=["system"])


@routes.get("/version")
def version() -> Payload:
    """Its version, and its clock."""
    return {
        "version": i2node.__version__,
        "prod_type": "STD",
        "api_version": "2.0.0",
        "server_time": int(time.time()),
    }


@routes.get("/sys/public_settings")
def public_settings(desk: AtDesk) -> Payload:
    """What a client needs before it logs in: the key to seal a password with."""
    return {"pubKey": desk.seal.public_pem}
