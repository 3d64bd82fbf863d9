"""What is found out about two nodes before there is a rule between them, and verified."""

from __future__ import annotations

import posixpath
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter

from i2node.controller.app import AtDesk, Desk, Given, Known
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal
from i2node.controller.form import Form
from i2node.controller.nodes import device_info, kept, sound
from i2node.controller.store.nodes import Kept
from i2node.orders import PARTS_MOST

routes = APIRouter(prefix="/fsp/backup", tags=["discovery"])

EXCLUDES_MOST = 4096
_GIB = 1 << 30
_COUNT_S = 0.5  # for a count; what is not known by then is estimated
_HEAR_S = 5.0  # for a node that is connected to say something

Question = tuple[str, dict[str, Any]]


@routes.get("/nic_list")
def nics(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The network interfaces of `wk_uuid` and `bk_uuid`."""
    wk, bk = _both(call.form, desk)
    there, here = _ask(desk, (wk, ("nics", {})), (bk, ("nics", {})))
    return {"wk_nic_list": there, "bk_nic_list": here}


@routes.get("/dir_list")
def trees(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The paths of `wk_uuid` that a rule for a whole server names: type "1" is mirrored, type "2"
    left out."""
    wk = _one(call.form, "wk_uuid", desk)
    (told,) = _ask(desk, (wk, ("lists", {})))
    with sound():
        rows = [{"wk_path": path, "type": "1"} for path in told["trees"]]
        rows += [{"wk_path": path, "type": "2"} for path in told["excluded"]]
        rows.sort(key=lambda row: row["wk_path"].encode())
    return {"hd_list": [{"label": "/", "is_system": 1}], "dir_list": rows, "os_type": None}


@routes.get("/device_info")
def devices(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The file systems on the disks of `node_uuid`."""
    node = _one(call.form, "node_uuid", desk)
    return {"node_uuid": node.node.uuid, "device_info": device_info(desk, node)}


@routes.post("/verify_license")
def licence(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Nodes need no licence; `wk_uuid` must be one."""
    _one(call.form, "wk_uuid", desk)
    return {}


@routes.post("/verify_os_version")
def versions(call: Given, _: Known, desk: AtDesk) -> Payload:
    """The systems of `wk_uuid` and `bk_uuid`, which may differ: both are Linux."""
    wk, bk = _both(call.form, desk)
    there, here = _ask(desk, (wk, ("host", {})), (bk, ("host", {})))
    with sound():
        for found, told in ((wk, there), (bk, here)):
            desk.nodes.heard(found.node.uuid, told["os_version"][:255], int(time.time()))
        return {"wk_os_ver": there["os_version"], "bk_os_ver": here["os_version"]}


@routes.post("/verify_coopy_space")
def space(call: Given, _: Known, desk: AtDesk) -> Payload:
    """What `wk_path` without `excl_path` needs, and what is free at `bk_path`: `bk_disk_need`
    (rounded up) and `bk_disk_free` (rounded down) in GB, and both in bytes. estimated: the trees
    are still being counted, and need no more than that; ask again to learn more."""
    form = call.form
    wk_path, bk_path = _paths(form, "wk_path"), _paths(form, "bk_path")
    excl_path = _paths(form, "excl_path", EXCLUDES_MOST)
    for name in ("wk_path", "bk_path"):
        if not form.given(name):
            form.fault(f"Lost: {name}[0]")
    wk, bk = _both(form, desk)
    count = {"paths": wk_path, "excludes": excl_path, "deadline_s": _COUNT_S}
    rooms = [(bk, ("check_dir", {"path": path})) for path in bk_path]
    told, *found = _ask(desk, (wk, ("space", count)), *rooms)
    with sound():
        _check_there(wk, told["missing"])
        need, free = told["bytes"], min(room["free"] for room in found)
        return {
            "bk_disk_need": -(-need // _GIB),
            "bk_disk_free": free // _GIB,
            "bk_disk_need_bytes": need,
            "bk_disk_free_bytes": free,
            "estimated": bool(told["estimated"]),
        }


@routes.post("/verify_environment")
def environment(call: Given, _: Known, desk: AtDesk) -> Payload:
    """Whether both nodes answer, and all of `wk_path` is there."""
    form = call.form
    paths = _paths(form, "wk_path")
    wk, bk = _both(form, desk)
    looks = [(wk, ("free", {"path": path})) for path in paths]
    _, _, *found = _ask(desk, (wk, ("host", {})), (bk, ("host", {})), *looks)
    with sound():
        both = zip(paths, found, strict=True)
        _check_there(wk, [path for path, told in both if _plain(told["at"]) != _plain(path)])
    return {}


def _one(form: Form, field: str, desk: Desk) -> Kept:
    uuid = form.uuid(field)
    form.check()
    return kept(desk, uuid)


def _both(form: Form, desk: Desk) -> tuple[Kept, Kept]:
    """The work node and the backup node, which must be two."""
    wk, bk = form.uuid("wk_uuid"), form.uuid("bk_uuid")
    if wk and wk == bk:
        form.fault("The bk_uuid field must be another node than wk_uuid")
    form.check()
    return kept(desk, wk), kept(desk, bk)


def _paths(form: Form, field: str, most: int = PARTS_MOST) -> list[str]:
    """Paths from the root, whether they begin with it or not."""
    found = form.items(field)
    if len(found) > most or not all(isinstance(path, str) and path for path in found):
        form.fault(f"The {field} field must hold at most {most} paths")
        return []
    return [path if path.startswith("/") else f"/{path}" for path in found]


def _plain(path: str) -> str:
    """Without doubled `/`, and without one behind it."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _check_there(wk: Kept, missing: list[str]) -> None:
    if missing:
        raise Refusal(
            Code.INVALID, f"node {wk.node.name} has no {', '.join(missing[:3])}: correct wk_path"
        )


def _ask(desk: Desk, *questions: tuple[Kept, Question]) -> list[Any]:
    """The answers of some nodes, asked at the same time. Refusal: one of them does not answer."""

    def ask(of: tuple[Kept, Question]) -> Any:
        found, (verb, arguments) = of
        return desk.fleet.ask(found.node.uuid, verb, arguments, _HEAR_S)

    with ThreadPoolExecutor(max_workers=min(8, len(questions))) as pool:
        return list(pool.map(ask, questions))
