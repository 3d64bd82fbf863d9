"""Arguments in a query string, as PHP reads them: `k=v`, `k[]=v`, `k[0]=v`, `k[sub]=v`, the
brackets raw or encoded."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")
MOST = 10_000
"""Arguments of one call."""
DEEPEST = 8


def arguments(query: str) -> dict[str, Any]:
    """The arguments by name: text, a list, or a dict of such. Keys that are all numbers, or empty,
    make a list, in their order. A name given twice has its last value. Refusal: too many."""
    tree: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST)
    except ValueError as error:
        raise Refusal(Code.INVALID, f"more than {MOST} arguments") from error
    for key, value in pairs:
        found = _KEY.fullmatch(key)
        if found is None:
            tree[key] = value
            continue
        parts = [found[1], *_PART.findall(found[2])]
        if len(parts) > DEEPEST:
            raise Refusal(Code.INVALID, f"an argument of more than {DEEPEST} levels: {found[1]}")
        _put(tree, parts, value)
    return {key: _listed(value) for key, value in tree.items()}


def _put(tree: dict[str, Any], parts: list[str], value: str) -> None:
    for part in parts[:-1]:
        inner = tree.setdefault(part or str(len(tree)), {})
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[parts[-1] or str(len(tree))] = value


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    values = {key: _listed(inner) for key, inner in value.items()}
    if all(key.isascii() and key.isdigit() for key in values):
        return [values[key] for key in sorted(values, key=int)]
    return values
