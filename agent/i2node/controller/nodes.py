"""Nodes: found, authenticated, registered, listed, changed, removed; and what their hosts tell."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from i2node.controller import node
from i2node.controller.app import AtDesk, Desk, Given, Known
from i2node.controller.call import Call
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal
from i2node.controller.form import Form
from i2node.controller.store.nodes import COLUMNS, Kept, Page
from i2node.controller.store.tables import Node
from i2node.model import PORT

routes = APIRouter(tags=["nodes"])

AT_ONCE = 256
"""Nodes of one batch."""
_GIB = 1 << 30
_LINKED_S = 5.0  # for a link to a new node, so that it can be asked as soon as it is registered
_CODE_NEEDED = (
    "a node is authenticated by its pairing code: send the 32 letters and digits behind id= in its"
    " i2id.conf as i2id; accounts of its system are not used"
)


# ------------------------------------------------------------------ before there is one


@routes.get("/node/hello")
def hello(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Whether a node answers at an address: `ip`, `port` (or `config_addr`, `config_port`)."""
    host, port = _address(call.form, ("ip", "config_addr"), ("port", "config_port"))
    if not desk.fleet.reachable(host, port):
        raise Refusal(Code.NODE_OFFLINE, f"nothing answers at {host}:{port}: is i2node started?")
    return {"ip": host}


@routes.post("/node/auth")
def authenticate(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Pairs with the node at `config_addr`, `config_port` by its pairing code `i2id`, and tells
    what it is: `os_type`, `root` (where it is installed), `log_path`, `cache_path`."""
    form = call.form
    code = form.text("i2id", "", 255)
    host, port = _address(form, ("config_addr",), ("config_port",))
    pair(desk, host, port, code)
    with sound():
        told = ask_at(desk, host, port, "host")
        return {key: told[key] for key in ("os_type", "root", "log_path", "cache_path")}


@routes.get("/node/check_capacity")
def capacity(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Memory, and the disk that holds `cache_path`, of the node at an address, in MB: `mem_total`,
    `mem_free`, `hd_total`, `hd_free`."""
    form = call.form
    path = form.text("cache_path", "")
    host, port = _address(form, ("config_addr",), ("config_port",))
    with sound():
        told = ask_at(desk, host, port, "host", {"path": path} if path else {})
        return {key: str(told[key]) for key in ("mem_total", "mem_free", "hd_total", "hd_free")}


@routes.get("/node/vg")
def volume_groups(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The LVM volume groups of the node at an address, sizes in bytes."""
    host, port = _address(call.form, ("config_addr",), ("config_port",))
    return {"vg_list": ask_at(desk, host, port, "vg")}


@routes.get("/node/version")
def version(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The version of i2node at an address: `ip`, `port`."""
    host, port = _address(call.form, ("ip", "config_addr"), ("port", "config_port"))
    with sound():
        return {"version": ask_at(desk, host, port, "host")["version"]}


# ------------------------------------------------------------------ registered


@routes.post("/node")
def create(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Registers `node`: at least `node_name` and `config_addr`; `i2id`, its pairing code, unless it
    was authenticated before."""
    form = call.form.object("node")
    sent = node.read(form, call.values["node"])
    form.check()
    register(desk, caller.id, sent)
    return {}


@routes.post("/node/batch")
def create_batch(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Registers several: what differs in `base_info_list`, what is alike in `node`. One that cannot
    be registered holds up no other."""
    form = call.form
    items, alike = form.items("base_info_list"), call.values.get("node")
    if not items or len(items) > AT_ONCE:
        form.fault(f"The base_info_list field must hold 1 to {AT_ONCE} items")
    form.check()
    done: list[Payload] = []
    failed: list[Payload] = []
    for number, item in enumerate(items):
        values = {**(alike if isinstance(alike, dict) else {})}
        values |= item if isinstance(item, dict) else {}
        told = {key: str(values.get(key, "")) for key in ("node_name", "config_addr")}
        try:
            one = Form(values, f"base_info_list[{number}]")
            sent = node.read(one, values)
            one.check()
            register(desk, caller.id, sent)
            done.append({"code": 0, "message": "[0] success", **told})
        except Refusal as refusal:
            failed.append({**_told(refusal), **told})
    first = failed[0] if failed else {"code": 0, "message": "[0] success"}
    answer: Payload = {"code": first["code"], "message": first["message"]}
    answer |= {"success_list": done} if done else {}
    return answer | ({"fail_list": failed} if failed else {})


@routes.get("/node")
def listing(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The nodes: `limit`, `page`, `order_by`, `direction`; `search_field` and `search_value`,
    `like_args`, `where_args` by names of fields."""
    form = call.form
    asked = _page(form, call)
    form.check()
    found, total = desk.nodes.page(asked)
    return {"info_list": [node.brief(one) for one in found], "total": total}


@routes.get("/node/status")
def status(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Which of `node_uuids` are ONLINE, with their versions, and which OFFLINE. Those that are not
    known are left out."""
    form = call.form
    uuids = form.uuids("node_uuids")
    form.check()
    versions = desk.nodes.versions(list(dict.fromkeys(uuids)))
    return {"status": [_status(desk, one, version) for one, version in versions.items()]}


@routes.post("/node/operate")
def operate(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Upgrades and maintenance: by the package of the host's system, not from here."""
    raise Refusal(
        Code.NOT_ENABLED,
        "nodes are upgraded with the package of their system, and need no maintenance from here",
    )


@routes.get("/dashboard/node")
def dashboard(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The nodes as in GET /node, and of each `n_status` (ONLINE, OFFLINE, or UNKNOWN where it was
    never heard of), and `time`: when it was heard of last."""
    form = call.form
    asked = _page(form, call)
    form.check()
    found, total = desk.nodes.page(asked)
    return {"info_list": [_shown(desk, one) for one in found], "total": total}


@routes.get("/node/{node_uuid}")
def describe(node_uuid: str, _: Known, desk: AtDesk) -> Payload:
    """All of a node."""
    try:
        return {"node": node.whole(kept(desk, node_uuid))}
    except Refusal as refusal:
        # Clients that are about to change a node take its token before they look at the code.
        return {**_told(refusal), "node": {"random_str": ""}}


@routes.put("/node/{node_uuid}")
def modify(node_uuid: str, call: Given, _: Known, desk: AtDesk) -> Payload:
    """Changes a node to what is sent; `random_str` is that of the last GET. What is not sent stays.
    Of a node that takes part in a rule only the name and the comment can be changed."""
    old = kept(desk, node_uuid)
    form = call.form.object("node")
    sent = node.read(form, call.values["node"], old.node.fields)
    if not sent.token:
        form.fault(f"Lost: {form.named('random_str')}")
    form.check()
    changed = _row(sent, old.node.user_id, sent.fields)
    changed.uuid, changed.peer, changed.os_version = (
        old.node.uuid,
        old.node.peer,
        old.node.os_version,
    )
    changed.fields = {**old.node.fields, **sent.fields}
    if sent.code:
        changed.peer = desk.fleet.pair(sent.host, sent.port, sent.code)
    desk.nodes.replace(sent.token, changed)
    desk.fleet.changed(changed.uuid)
    return {}


@routes.delete("/node")
def remove(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Removes `node_uuids`, all or, where one is unknown or takes part in a rule, none."""
    form = call.form
    uuids = form.uuids("node_uuids")
    if not form.given("node_uuids"):
        form.fault("Lost: node_uuids")
    form.check()
    desk.nodes.remove(uuids, int(time.time()))
    desk.fleet.changed(*uuids)
    return {}


@routes.get("/node/{node_uuid}/device_info")
def devices(node_uuid: str, _: Known, desk: AtDesk) -> Payload:
    """The file systems on a node's disks."""
    found = kept(desk, node_uuid)
    return {"node_uuid": found.node.uuid, "device_info": device_info(desk, found)}


# ------------------------------------------------------------------ for other calls too


def kept(desk: Desk, uuid: str) -> Kept:
    """A node. Refusal: there is none, or that is no uuid."""
    form = Form({"node_uuid": uuid})
    uuid = form.uuid("node_uuid")
    form.check()
    found = desk.nodes.find(uuid)
    if found is None:
        raise Refusal(Code.NO_SUCH_NODE, f"there is no node {uuid}")
    return found


def device_info(desk: Desk, found: Kept) -> list[dict[str, str]]:
    """What GET device_info tells of a node."""
    name = base64.b64encode(found.node.name.encode()).decode()
    role = str(found.node.fields.get("node_role", "3"))
    with sound():
        return [
            {
                "devEnbcompress": "N",
                "devEnbdewight": "N",
                "devFree": gigabytes(mount["free"]),
                "devMount": str(mount["point"]),
                "devName": str(mount["device"]),
                "devSaverate": "0%",
                "devTotal": gigabytes(mount["total"]),
                "devType": "block",
                "devUsedSz": gigabytes(mount["used"]),
                "nodeName": name,
                "nodeType": role,
            }
            for mount in desk.fleet.ask(found.node.uuid, "mounts", {})
        ]


@contextmanager
def sound() -> Iterator[None]:
    """Where an answer is taken apart: a node of another version, or one that is no more what it
    was, may have sent anything. Refusal: it did."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refusal(
            Code.NODE_ANSWER, f"the node's answer is not understood: {error!r:.100}"
        ) from error


def gigabytes(size: int) -> str:
    """Bytes as the API writes them: four digits, `58.69GB`."""
    number = size / _GIB
    if number >= 1000:
        return f"{number:.0f}GB"
    return f"{number:.4g}GB" if number >= 0.0001 else "0GB"


def ask_at(
    desk: Desk, host: str, port: int, verb: str, arguments: Mapping[str, Any] | None = None
) -> Any:
    """What the host at an address tells, if it is registered or paired. Refusal: it is neither, or
    see Fleet.ask."""
    registered = desk.nodes.at(host, port)
    if registered is not None:
        return desk.fleet.ask(registered, verb, arguments or {})
    if not desk.fleet.peer_at(host, port):
        raise Refusal(
            Code.NODE_DENIES, f"{host}:{port} is not authenticated: first POST /node/auth with i2id"
        )
    return desk.fleet.ask_at(host, port, verb, arguments or {})


def pair(desk: Desk, host: str, port: int, code: str) -> str:
    """The node id of the host at an address, which is paired by its code, or was before. Refusal:
    no code, a wrong one, or it is not there."""
    if code:
        return desk.fleet.pair(host, port, code)
    peer = desk.fleet.peer_at(host, port)
    if not peer:
        raise Refusal(Code.NODE_DENIES, _CODE_NEEDED)
    return peer


def register(desk: Desk, owner: int, sent: node.Sent) -> None:
    """Makes a host a node of this user. Refusal: it is one, its name is taken, or see `pair`."""
    made = _row(sent, owner, sent.fields)
    desk.nodes.check_apart(made)  # before it is paired in vain
    made.peer = pair(desk, sent.host, sent.port, sent.code)
    host = desk.fleet.ask_at(sent.host, sent.port, "host", {})
    made.seen = int(time.time())
    with sound():
        made.os_version, made.version = host["os_version"][:255], host["version"][:64]
        made.fields = sent.fields | node.facts(host)
    node.check_paths(sent, made.fields)
    desk.nodes.add(made)
    with suppress(Refusal):  # it just answered; should it not now, it is told later
        desk.fleet.changed(made.uuid, wait_s=_LINKED_S)


def _row(sent: node.Sent, user: int, fields: dict[str, Any]) -> Node:
    """A node of what was sent, not paired yet."""
    now = int(time.time())
    return Node(
        uuid=_uuid(),
        name=sent.name,
        random_str=_uuid(),
        user_id=user,
        created=now,
        updated=now,
        config_addr=sent.host,
        config_port=sent.port,
        data_addr=sent.data_addr,
        peer="",
        fields=fields,
    )


def _uuid() -> str:
    return str(uuid.uuid4()).upper()


def _told(refusal: Refusal) -> Payload:
    return {"code": refusal.number, "message": f"[{refusal.number}] {refusal.cause}"}


def _address(form: Form, hosts: tuple[str, ...], ports: tuple[str, ...]) -> tuple[str, int]:
    host = next((name for name in hosts if form.given(name)), hosts[0])
    port = next((name for name in ports if form.given(name)), ports[0])
    found = form.text(host, most=255), form.number(port, PORT, 1, 65535)
    form.check()
    return found


def _status(desk: Desk, uuid: str, version: str) -> Payload:
    if desk.fleet.online(uuid):
        return {"node_uuid": uuid, "status": "ONLINE", "version": version}
    lost = _told(Refusal(Code.NO_LINK))
    return {"node_uuid": uuid, "status": "OFFLINE", **lost}


def _shown(desk: Desk, found: Kept) -> Payload:
    online, seen = desk.fleet.online(found.node.uuid), found.node.seen
    state = "ONLINE" if online else "OFFLINE" if seen else "UNKNOWN"
    heard = str(int(time.time()) if online else seen)
    told = {"n_status": state, "n_role": None, "time": heard if online or seen else None}
    return node.brief(found) | told


def _page(form: Form, call: Call) -> Page:
    """The arguments that all lists have; by names of COLUMNS."""
    order = form.choice("order_by", ("", *COLUMNS), "") or "id"
    limit, page = form.number("limit", 0), form.number("page", 1, 1)
    asked = Page(
        order=order if order in COLUMNS else "id",
        descending=form.text("direction", "").upper() == "DESC",
        limit=limit,
        page=page,
    )
    contains = _named(form, call, "like_args")
    search = form.text("search_field", "")
    if search and form.given("search_value"):
        contains[form.choice("search_field", COLUMNS)] = form.text("search_value", "")
    contains = {name: value for name, value in contains.items() if name in COLUMNS}
    return replace(asked, contains=contains, equals=_named(form, call, "where_args"))


def _named(form: Form, call: Call, field: str) -> dict[str, str]:
    """Texts by names of COLUMNS; those that are empty ask for nothing."""
    values = call.values.get(field)
    if not isinstance(values, dict):
        return {}
    of = Form(values, field)
    for name in values:
        if name not in COLUMNS:
            form.fault(f"The {of.named(str(name))} field must be one of: {','.join(COLUMNS)}")
    return {name: of.text(name, "") for name in values if name in COLUMNS and of.given(name)}
