"""What the calls of the API need of the nodes behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal
from i2node.orders import Standing


class Fleet(Protocol):
    """The nodes, as the calls reach them; uuids are those of the API. Safe to use from several
    threads."""

    def ask(
        self, node: str, verb: str, arguments: Mapping[str, Any], timeout_s: float = 10.0
    ) -> Any:
        """What a node answers. Refusal: it cannot be reached, or what it said against it."""

    def ask_at(
        self,
        host: str,
        port: int,
        verb: str,
        arguments: Mapping[str, Any],
        timeout_s: float = 10.0,
    ) -> Any:
        """The same of a host that is paired, and not registered yet."""

    def pair(self, host: str, port: int, code: str) -> str:
        """Pairs with the node there by its code, and gives its node id. Refusal: it is not there,
        or the code is wrong."""

    def reachable(self, host: str, port: int) -> bool:
        """Whether a node answers there."""

    def online(self, node: str) -> bool:
        """Whether there is a link to it now."""

    def standing(self, rule: str) -> Standing | None:
        """The newest that was heard of a rule; None: nothing."""

    def changed(self, *nodes: str, wait_s: float = 0.0) -> None:
        """Another is wanted of these nodes than before, as the database has it: tells them. With
        wait_s it returns when they hold it. Refusal: one of them does not within that time."""


class Unlinked:
    """A fleet of which no node is linked."""

    def ask(
        self, node: str, verb: str, arguments: Mapping[str, Any], timeout_s: float = 10.0
    ) -> Any:
        raise Refusal(Code.UNREACHABLE)

    def ask_at(
        self,
        host: str,
        port: int,
        verb: str,
        arguments: Mapping[str, Any],
        timeout_s: float = 10.0,
    ) -> Any:
        raise Refusal(Code.UNREACHABLE)

    def pair(self, host: str, port: int, code: str) -> str:
        raise Refusal(Code.UNREACHABLE)

    def reachable(self, host: str, port: int) -> bool:
        return False

    def online(self, node: str) -> bool:
        return False

    def standing(self, rule: str) -> Standing | None:
        return None

    def changed(self, *nodes: str, wait_s: float = 0.0) -> None:
        if nodes and wait_s > 0:
            raise Refusal(Code.UNREACHABLE)
