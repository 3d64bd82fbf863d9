"""The page that describes the API."""

from __future__ import annotations

import json
import re
import urllib.request

from console import Console


def fetched(console: Console, path: str) -> str:
    with urllib.request.urlopen(f"{console.url}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def test_each_call_is_described_and_nothing_is_fetched_from_elsewhere(console: Console) -> None:
    page = fetched(console, "/docs")
    described = json.loads(fetched(console, "/openapi.json"))
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            assert f"<dt>{method.upper()} {path}</dt>" in page
            assert call["description"].strip(), f"{method} {path} says nothing"
    assert not re.search(r"(src|href)=.?(https?:)?//", page) and "<script" not in page
