"""What the tests of probing share: the types of their fixtures, and small helpers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from apiha.endpoint import Endpoint
from apiha.probe import Prober
from tests.support.control_plane import ControlPlane, TcpForwarder


class StartPlane(Protocol):
    """Starts a control plane that is closed when the test ends."""

    def __call__(
        self, behaviour: str = "ready", address: str = "127.0.0.11", port: int = 0, **options: Any
    ) -> ControlPlane:
        """The options are those of `ControlPlane`."""


class MakeProber(Protocol):
    """Makes a prober that trusts the test's CA, unless told otherwise."""

    def __call__(self, timeout: float = 10.0, **options: Any) -> Prober:
        """The options are those of `make_ssl_context`."""


class WriteConfig(Protocol):
    """Writes a configuration file with these control planes (`ADDR:PORT`) and other settings."""

    def __call__(self, *control_plane: str, **settings: object) -> Path:
        """The path of the file."""


def endpoint_of(server: ControlPlane | TcpForwarder) -> Endpoint:
    """Where a test server listens."""
    return Endpoint(server.address, server.port)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition comes true within the time; for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
