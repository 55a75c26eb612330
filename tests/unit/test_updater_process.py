"""The updater as a whole."""

from __future__ import annotations

import io
import subprocess
import sys
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
        settings = Settings(kubeconfig=kubeconfig(tmp_path, authority, **user), identity="me")
        updater = Updater(settings, Reporter(io.StringIO()))
        with ControlPlane(authority, "127.0.0.1", behaviour=behaviour) as plane:
            result = updater.probe(Endpoint("127.0.0.1", plane.port))
            assert result.health is Health.READY, result
            assert plane.counters.requests[0].headers.get("authorization", "Bearer secret") == "Bearer secret"
            assert ("authorization" in plane.counters.requests[0].headers) == ("token" in user)


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("prometheus_client", 5, "needs `pip install apiha[updater]`"),
        ("apiha.updater.mirror", 1, "apiha.updater.mirror"),
    ],
)
def test_a_missing_extra_is_named_and_a_broken_installation_is_not_taken_for_one(
    module: str, code: int, words: str
) -> None:
    """What is missing of the extra is pip's to know; a module of our own is another matter."""
    script = f"import sys; sys.modules[{module!r}] = None; from apiha.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "updater"], capture_output=True, text=True, check=False, timeout=60
    )
    assert words in done.stderr
    assert done.returncode == code
    assert ("pip install" in done.stderr) == (code == 5)
