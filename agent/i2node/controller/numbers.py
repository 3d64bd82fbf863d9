"""Calls about what happened: logs, traffic, reports of runs, and the picture of the whole."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter

from i2node.controller.app import AtDesk, Given, Known
from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal
from i2node.controller.form import Form
from i2node.controller.store.heard import RESULTS
from i2node.controller.store.history import Span
from i2node.controller.store.tables import LogLine, Pass

routes = APIRouter(tags=["numbers"])

PERIODS = {"real": (10, 90), "day": (3600, 24), "month": (86400, 31)}
"""Seconds of a sample, and how many samples, by the type of a traffic chart."""
PAGE_MOST = 10_000
_PAGE = 100


@routes.get("/logs")
def task_log(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """What happened to rules, the newest first: `uuid`, `level` (0 error, 1 warning, 2 normal),
    `start`, `end`, `page`, `limit`."""
    return _logs(call.form, desk, of_nodes=False)


@routes.get("/logs/node")
def node_log(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """What happened to nodes."""
    return _logs(call.form, desk, of_nodes=True)


@routes.get("/logs/ha")
@routes.get("/logs/npsvr")
def no_log(caller: Known) -> Payload:
    """What other products write, which are none of this one."""
    return {"message": "", "logs": [], "total": 0}


@routes.get("/logs/traffic")
def traffic(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """What a rule (`uuid`) sent: `type` real, 90 samples of 10 s; day, 24 of an hour; month, 31 of
    a day. They begin at `start_stamp`, but end now at the latest. traffic is in bytes, speed in
    bytes a second, latency in milliseconds."""
    form = call.form
    uuid = form.uuid("uuid")
    kind = form.choice("type", tuple(PERIODS), "real")
    asked = form.number("start_stamp", 0, high=10**10)
    form.check()
    span, count = PERIODS[kind]
    now = int(time.time()) // span * span
    start = now - (count - 1) * span
    if asked and asked < start:
        start = asked // span * span
    found = {
        row.start: row for row in desk.history.traffic(uuid, span, start, start + count * span)
    }
    return {
        "message": "",
        "traffics": [
            _sample(at, span, found.get(at)) for at in range(start, start + count * span, span)
        ],
    }


@routes.get("/statistics")
def statistics(call: Given, caller: Known, desk: AtDesk) -> Payload:
    """Reports of the passes that are over, the newest first: `uuid` of a rule, `start`, `end`,
    `page`, `limit`."""
    form = call.form
    span = _span(form, "rule")
    form.check()
    passes, total = desk.history.passes(span)
    names = desk.history.names(list({one.rule for one in passes}))
    return {"info_list": [_report(one, names) for one in passes], "total": total}


@routes.get("/statistics/{number:int}")
def statistic(number: int, caller: Known, desk: AtDesk) -> Payload:
    """One of them, by its id."""
    found = desk.history.one_pass(number)
    if found is None:
        raise Refusal(Code.NO_SUCH_ITEM, f"there is no report {number}")
    return {"statistics": _report(found, desk.history.names([found.rule]))}


@routes.get("/dashboard/overall")
def overall(caller: Known, desk: AtDesk) -> Payload:
    """How many rules and nodes are in each state."""
    return desk.board.overall()


def _logs(form: Form, desk: AtDesk, *, of_nodes: bool) -> Payload:
    span = _span(form, "node" if of_nodes else "rule")
    level = int(form.choice("level", ("0", "1", "2"), "2")) if form.given("level") else None
    form.check()
    lines, total = desk.history.lines(span, level, of_nodes=of_nodes)
    return {"message": "", "logs": [_line(line) for line in lines], "total": total}


def _span(form: Form, of: str) -> Span:
    uuid = form.uuid("uuid") if form.given("uuid") else ""
    return Span(
        rule=uuid if of == "rule" else "",
        node=uuid if of == "node" else "",
        start=form.number("start", 0, high=10**10),
        end=form.number("end", 0, high=10**10),
        limit=form.number("limit", _PAGE, low=1, high=PAGE_MOST),
        page=form.number("page", 1, low=1, high=10**9),
    )


def _line(line: LogLine) -> dict[str, Any]:
    return {
        "id": str(line.id),
        "create_time": _written(line.at),
        "uuid": line.rule,
        "m_uuid": line.node,
        "log_level": line.level,
        "log_type": "0",
        "operation": line.operation,
        "detail": line.detail,
        "result": str(line.result),
        "readed": "f",
    }


def _sample(at: int, span: int, row: Any) -> dict[str, Any]:
    sent, lag = (row.sent, row.lag_ms) if row is not None else (0, 0)
    return {
        "start_time": at,
        "traffic": sent,
        "speed": round(sent / span, 1),
        "latency": lag,
        "interval": span,
        "date_time": _written(at),
    }


def _report(one: Pass, names: dict[str, tuple[str, str, str]]) -> dict[str, Any]:
    name, wk, bk = names.get(one.rule, ("", "", ""))
    told = one.told
    elapsed = max(0.0, one.ended - one.began)
    result = RESULTS.get(str(told.get("error") or ""), -1012) if told.get("error") else 0
    files, changed = int(told.get("files", 0)), int(told.get("changed", 0))
    read, sent = int(told.get("bytes_read", 0)), int(told.get("bytes_sent", 0))
    detail = {
        "name": name,
        "uuid": one.rule,
        "type": "MIRROR",
        "wk_uuid": wk,
        "bk_uuid": bk,
        "start_time": _written(one.began),
        "end_time": _written(one.ended),
        "elapsed_time": round(elapsed, 1),
        "result": result,
        "sync_obj_num": files,
        "total_files": files,
        "equal_files": max(0, files - changed),
        "diff_files": changed,
        "errno_files": int(told.get("problems", 0)),
        "src_type": "FILE",
        "src_size": read,
        "trans_size": sent,
        "tran_rate": round(sent / elapsed, 1) if elapsed else 0,
        "dup_rate": round(100 * (1 - sent / read), 1) if read > sent else 0,
        "restore_point": told.get("stamp", ""),
        "error_message": told.get("cause", ""),
    }
    shown = {key: detail[key] for key in ("name", "uuid", "type", "wk_uuid", "bk_uuid")}
    times = {key: detail[key] for key in ("start_time", "end_time", "result")}
    return {"id": str(one.id), **shown, **times, "detail": json.dumps(detail)}


def _written(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
