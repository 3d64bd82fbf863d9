"""A page for what collects metrics: HTTP, on the loopback address and never elsewhere.

`GET /metrics` is all it knows. Whoever is on this host may ask, so nothing secret is told, and a
page of the web that has had its name point here (DNS rebinding) is refused by its `Host`. A client
that hangs holds up neither the next one nor the end.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from i2node import log
from i2node.errors import SHORT, UsageError

_log = logging.getLogger("i2node.net")

HOST = "127.0.0.1"
PATH = "/metrics"
CLIENTS = 8
"""At the same time; the next ones find the door closed."""
SILENCE_S = 5.0
"""A client that neither asks nor reads for so long is dropped."""
_NAMES = ("localhost", HOST)
_PAUSE_S = 0.1

Answer = Callable[[str], tuple[str, bytes]]
"""Takes what the client accepts (the header), gives a content type and the page. Any thread."""


class Exposition:
    """Serves the page until `close`, from threads of its own. UsageError: the port cannot be had.
    key: what the configuration calls the port."""

    def __init__(self, port: int, answer: Answer, key: str = "metrics_port") -> None:
        try:
            self._door = _Door(port, answer)
        except OSError as error:
            cause = f"{key}: listening on {HOST}:{port}: {error.strerror or error}"
            remedy = f"choose another {key}, or 0 for none; who has it: ss -ltnp"
            raise UsageError(cause, remedy) from error
        # It need not look up now and then: `close` wakes it.
        never = {"poll_interval": 1e6}
        threading.Thread(
            target=self._door.serve_forever, kwargs=never, name="metrics", daemon=True
        ).start()

    def close(self) -> None:
        """The port is free again. An answer that is being made is left to its thread."""
        with suppress(OSError):
            self._door.socket.shutdown(socket.SHUT_RDWR)
        self._door.shutdown()
        self._door.server_close()


class _Door(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = CLIENTS

    def __init__(self, port: int, answer: Answer) -> None:
        self.answer = answer
        self._room = threading.Semaphore(CLIENTS)
        self._seldom = log.Seldom(_log)
        super().__init__((HOST, port), _Client)
        # Who has gone again by the time that it is accepted is not waited for.
        self.socket.setblocking(False)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in SHORT:
                time.sleep(_PAUSE_S)  # the client stays in the queue
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads to be had
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """In an `except`. A client that goes away is no fault."""
        if not isinstance(sys.exception(), OSError):
            self.fault()

    def fault(self) -> None:
        """In an `except`: says it now and then."""
        self._seldom.event(logging.ERROR, "fault", "metrics", most=5, at="metrics")


class _Client(BaseHTTPRequestHandler):
    server: _Door
    timeout = SILENCE_S
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    _TEXT: ClassVar = "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        host = self.headers.get("Host", HOST).partition(":")[0]
        if host.lower() not in _NAMES:
            told = f"{PATH} is served to {' and '.join(_NAMES)} alone\n"
            self._send(HTTPStatus.MISDIRECTED_REQUEST, self._TEXT, told.encode())
        elif self.path.partition("?")[0] != PATH:
            self._send(HTTPStatus.NOT_FOUND, self._TEXT, f"there is {PATH}\n".encode())
        else:
            try:
                kind, page = self.server.answer(self.headers.get("Accept", ""))
            except Exception:
                self.server.fault()
                told = "see the log of i2node\n"
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, self._TEXT, told.encode())
            else:
                self._send(HTTPStatus.OK, kind, page)

    def _send(self, status: HTTPStatus, kind: str, page: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def version_string(self) -> str:
        return "i2node"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the log is of transitions."""
