"""Answers of calls about several things: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.envelope import Payload, Refusal


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one. told: what names it. refusal: why it was not done, None: it was."""

    told: dict[str, Any]
    refusal: Refusal | None = None

    @property
    def shown(self) -> Payload:
        """Its row in a list of the answer."""
        return _outcome(self.refusal) | self.told


def answered(items: Sequence[Item], *, lists_success: bool = True) -> Payload:
    """The payload: success_list and fail_list, each where it holds anything, and on top the code of
    the first that failed."""
    payload: Payload = {}
    failed = [item for item in items if item.refusal is not None]
    done = [item.shown for item in items if item.refusal is None]
    if done and (lists_success or failed):
        payload["success_list"] = done
    if failed:
        payload |= _outcome(failed[0].refusal)
        payload["fail_list"] = [item.shown for item in failed]
    return payload


def _outcome(refusal: Refusal | None) -> Payload:
    number, text = (0, Code.SUCCESS.text) if refusal is None else (refusal.number, refusal.cause)
    return {"code": number, "message": f"[{number}] {text}"}
