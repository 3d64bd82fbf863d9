"""`/api/docs`: every call, as the application itself describes it, in one page that needs nothing
from elsewhere: a management network often has no way out."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

routes = APIRouter()

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
dt { font-family: ui-monospace, monospace; font-weight: 600; margin-top: 1rem }
dd { margin: 0 0 0 1.5rem } p { white-space: pre-line }
"""
_ENVELOPE = """Every answer is {"ret": 200, "msg": "", "data": {"code": 0, "message": "...", ...}}.
What is described below stands in data, beside code and message; a code other than 0 says why it was
not done. Arguments stand in the query of GET and in the JSON body of all others. After a login
(POST /api/auth/token) the token goes into the header Authorization."""


@routes.get("/docs", response_class=HTMLResponse, include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The page."""
    described = request.app.openapi()
    about = described["info"]
    title = escape(f"{about['title']} {about['version']}")
    calls = "".join(_calls(described))
    machine = '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{escape(_ENVELOPE)}</p>{machine}{calls}"
    )


def _calls(described: dict[str, Any]) -> Iterator[str]:
    """A list for each group of calls, in the order in which they were added."""
    groups: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            group = groups.setdefault(next(iter(call.get("tags", ())), "other"), [])
            text = call.get("description") or call.get("summary", "")
            group.append(
                f"<dt>{escape(method.upper())} {escape(path)}</dt><dd><p>{escape(text)}</p></dd>"
            )
    for name, calls in groups.items():
        yield f"<h2>{escape(name)}</h2><dl>{''.join(calls)}</dl>"
