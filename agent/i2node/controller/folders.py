"""Directories of the nodes, browsed, made and checked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from i2node.controller.app import AtDesk, Given, Known
from i2node.controller.envelope import Payload
from i2node.controller.form import Form
from i2node.controller.nodes import ask_at, kept, pair, sound
from i2node.model import PORT

routes = APIRouter(tags=["directories"])

_SLOW_S = 20.0


@routes.get("/dir")
def listing(call: Given, _: Known, desk: AtDesk) -> Payload:
    """What is in a directory (`path`, empty: `/`) of a node (`node_uuid`), or of a host that is not
    registered yet: `ip`, `port`, and `i2id` unless it was authenticated before. more: how many
    entries did not fit into the answer."""
    form = call.form
    if not form.given("node_uuid") and form.given("ip"):
        return listing_at(call, _, desk)
    uuid, path = form.uuid("node_uuid"), form.text("path", "")
    form.check()
    node = kept(desk, uuid).node
    return _told(desk.fleet.ask(node.uuid, "dirs", {"path": path}, _SLOW_S))


@routes.get("/dir2")
def listing_at(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The same, of a host by `ip` and `port`."""
    form = call.form
    host, port = form.text("ip", most=255), form.number("port", PORT, 1, 65535)
    code, path = form.text("i2id", "", 255), form.text("path", "")
    form.check()
    if desk.nodes.at(host, port) is None:
        pair(desk, host, port, code)
    return _told(ask_at(desk, host, port, "dirs", {"path": path}))


@routes.post("/dir")
def make(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Makes the directory `path` of the node `node_uuid`, and those above it."""
    node, path = _one(call.form)
    desk.fleet.ask(kept(desk, node).node.uuid, "make_dir", {"path": path})
    return {}


@routes.post("/dir/check")
def check(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Whether the directory `path` of the node `node_uuid` is there, or can be made, and written
    to; and what room there is, in bytes."""
    node, path = _one(call.form)
    with sound():
        told = desk.fleet.ask(kept(desk, node).node.uuid, "check_dir", {"path": path})
        return {"exists": bool(told["exists"]), "free_bytes": told["free"]}


def _one(form: Form) -> tuple[str, str]:
    uuid, path = form.uuid("node_uuid"), form.text("path")
    form.check()
    return uuid, path


def _told(answer: Any) -> Payload:
    names = ("name", "time", "size", "is_dir")
    with sound():
        rows = [dict(zip(names, row, strict=True)) for row in answer["rows"]]
        return {"message": "", "dir_list": rows, "more": answer["more"]}
