"""The updater's pages over HTTP."""

from __future__ import annotations

import httpx
import pytest

from apiha.errors import ConfigError
from apiha.updater import web


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", ("", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9", ("::1", 9)),
        ("0.0.0.0:1", ("", 1)),
        ("[::]:1", ("", 1)),
    ],
)
def test_listen_addresses(text: str, expected: tuple[str, int]) -> None:
    """An address and a port, or a port alone for every address."""
    assert web.parse_listen(text) == expected


@pytest.mark.parametrize("text", ["8080", "", "host:80", ":70000", "::1:x"])
def test_listen_addresses_that_are_none(text: str) -> None:
    """One line that names the flag."""
    with pytest.raises(ConfigError, match="--listen"):
        web.parse_listen(text)


def test_pages_are_served_and_others_are_not_found() -> None:
    """Each page with its status and type; a second server on the same port is a clear error."""
    pages = {
        "/metrics": lambda: (200, "text/plain", b"leader 1.0\n"),
        "/readyz": lambda: (503, web.TEXT, b"no\n"),
    }
    port, close = web.serve("127.0.0.1:0", pages)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.get("/metrics").text == "leader 1.0\n"
            assert client.get("/readyz?verbose").status_code == 503
            assert client.get("/else").status_code == 404
            head = client.head("/metrics")
            assert (head.status_code, head.text) == (200, "")
            assert int(head.headers["content-length"]) > 0
            assert client.get("/readyz").text == "no\n"  # on the same connection
        with pytest.raises(ConfigError, match="--listen"):
            web.serve(f"127.0.0.1:{port}", pages)
    finally:
        close()
