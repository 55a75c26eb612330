"""/metrics, /healthz and /readyz over plain HTTP, as Prometheus and kubelet ask for them.

Reads: the pages, each when it is asked for. Writes: nothing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from apiha.errors import ConfigError
from apiha.updater.settings import Listen

Answer = tuple[int, str, bytes]  # status, content type, body
TEXT = "text/plain; charset=utf-8"
_PATIENCE = 10.0  # s for a client to send its request


def page(problems: Collection[str]) -> Answer:
    """503 with a line for each problem, or 200 with `ok`."""
    return (503 if problems else 200), TEXT, ("\n".join(problems or ["ok"]) + "\n").encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address or (address == "" and socket.has_dualstack_ipv6()):
            self.address_family = socket.AF_INET6
        self._every = address == ""
        super().__init__((address, port), handler)

    def server_bind(self) -> None:
        if self._every and self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not logged."""


def serve(listen: Listen, pages: dict[str, Callable[[], Answer]]) -> tuple[int, Callable[[], None]]:
    """Serve the pages in a thread; returns the port and a function that ends it. Raises ConfigError if it
    cannot listen.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page is not None else (404, TEXT, b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    try:
        server = _Server(listen.address, listen.port, Handler)
    except OSError as error:
        raise ConfigError(
            f"--listen: cannot listen on {listen}: {(error.strerror or str(error)).lower()}"
        ) from None
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return server.server_address[1], close
