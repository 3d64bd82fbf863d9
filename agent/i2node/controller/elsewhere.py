"""Calls of the API that mean nothing here: each answers that, and what there is instead."""

from __future__ import annotations

from fastapi import APIRouter

from i2node.controller.app import Known
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal

routes = APIRouter(include_in_schema=False)

_PACKAGE = "agents are installed as a package of the host's system"
_DATABASE = "files are mirrored, databases are not looked into"
_CLOUD = "nodes are hosts of their own: no cloud's machines or storages are asked"
_LICENCE = "nodes need no licence: a registered node is active"
_ADDRESS = "a node has one address for data: PUT /node/{uuid} with data_addr"
_REPORTS = "no reports are mailed: GET /statistics has those of all passes"
_PUSHED = "nodes tell of their passes on the channel to their controller"
_BY_ADDRESS = "ask for one node by its address: GET /node/hello"

_CALLS = {
    "GET /node/package_list": _PACKAGE,
    "GET /node/packge_url": _PACKAGE,
    "GET /node/install_script": _PACKAGE,
    "GET /node/oracle_info": _DATABASE,
    "GET /node/mysql_info": _DATABASE,
    "GET /node/ecs_info": _CLOUD,
    "GET /node/check_unbind_ecs": _CLOUD,
    "GET /node/hba_info": "disks are seen through their file systems: GET /node/{uuid}/device_info",
    "GET /node/{uuid}/driver_letter": "drives with letters are of another system",
    "GET /node/host_info": _BY_ADDRESS,
    "GET /node/hello_port_list": _BY_ADDRESS,
    "POST /node/add_slave_node": "each host is registered by itself: POST /node",
    "GET /node/data_ip_list": _ADDRESS,
    "PUT /node/data_ip": _ADDRESS,
    "POST /node/data_ip": _ADDRESS,
    "GET /node/inactive_list": _LICENCE,
    "POST /node/active": _LICENCE,
    "PUT /node/active": _LICENCE,
    "DELETE /dir": "files of a node are not removed from here",
    "GET /dir/del_status": "files of a node are not removed from here",
    "POST /dir/dto_operate": _CLOUD,
    "GET /dir/etcd_dir": _CLOUD,
    "GET /statistics/config": _REPORTS,
    "POST /statistics/config": _REPORTS,
    "GET /statistics/chart": "rates are told by GET /logs/traffic, passes by GET /statistics",
    "POST /collect_statistics": _PUSHED,
}


def _add(call: str, why: str) -> None:
    method, _, path = call.partition(" ")

    def refuse(_: Known) -> Payload:
        raise Refusal(Code.NOT_ENABLED, why)

    routes.add_api_route(path, refuse, methods=[method])


for _call, _why in _CALLS.items():
    _add(_call, _why)
