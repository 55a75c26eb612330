"""The updater's pages over HTTP."""

from __future__ import annotations

import httpx
import pytest

from apiha.errors import ConfigError
from apiha.updater import web
from apiha.updater.settings import Listen


def test_pages_are_served_and_others_are_not_found() -> None:
    """Each page with its status and type; a second server on the same port is a clear error."""
    pages = {
        "/metrics": lambda: (200, "text/plain", b"leader 1.0\n"),
        "/readyz": lambda: web.page(["no"]),
        "/healthz": lambda: web.page([]),
    }
    port, close = web.serve(Listen("127.0.0.1", 0), pages)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.get("/metrics").text == "leader 1.0\n"
            assert client.get("/readyz?verbose").status_code == 503
            assert client.get("/else").status_code == 404
            head = client.head("/metrics")
            assert (head.status_code, head.text) == (200, "")
            assert int(head.headers["content-length"]) > 0
            assert client.get("/readyz").text == "no\n"  # on the same connection
            assert client.get("/healthz").text == "ok\n"
        with pytest.raises(ConfigError, match=rf"--listen: cannot listen on 127.0.0.1:{port}"):
            web.serve(Listen("127.0.0.1", port), pages)
    finally:
        close()
