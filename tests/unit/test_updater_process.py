"""The updater as a whole."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from apiha.endpoint import Endpoint
from apiha.log import Reporter
from apiha.probe import Health
from tests.support.control_plane import Authority, ControlPlane
from tests.support.updater import kubeconfig

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.process import Updater
from apiha.updater.settings import Settings


def test_probes_carry_the_updaters_own_credentials(tmp_path: Path) -> None:
    """A token goes as a header and a certificate with TLS: a control plane that hides from strangers is seen."""
    authority = Authority(tmp_path)
    mine = authority.issue_client()
    with_cert = {"client-certificate": str(mine.cert), "client-key": str(mine.key)}
    for user, behaviour in (({"token": "secret"}, "ready"), (with_cert, "client_certificate")):
        access = kubeconfig(tmp_path, authority, **user)
        settings = Settings(
            kubeconfig=access, identity="me", health_interval=20.0
        )  # a probe has a part of that
        updater = Updater(settings, Reporter(io.StringIO()))
        with ControlPlane(authority, "127.0.0.1", behaviour=behaviour) as plane:
            result = updater.probe(Endpoint("127.0.0.1", plane.port))
            assert result.health is Health.READY, result
            assert plane.counters.requests[0].headers.get("authorization", "Bearer secret") == "Bearer secret"
            assert ("authorization" in plane.counters.requests[0].headers) == ("token" in user)
