"""The real `apiha pin-host` process against real servers: only what proved itself is pinned."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.control_plane import DEFAULT_HOST, IMPOSTORS, Authority
from tests.support.probing import StartPlane, WriteConfig

NO_CONTROL_PLANE = 3
BEFORE = b"127.0.0.1\tlocalhost\n10.9.9.9 registry.example # keep\r\n"

PinHost = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hosts_file(tmp_path: Path) -> Path:
    """A scratch hosts file."""
    path = tmp_path / "hosts"
    path.write_bytes(BEFORE)
    return path


@pytest.fixture
def pin_host(hosts_file: Path, tmp_path: Path) -> PinHost:
    """Runs `apiha pin-host` as a process on the scratch hosts file."""

    def run(
        config: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        options = [
            "--config",
            str(config),
            "--hosts-file",
            str(hosts_file),
            "--state-dir",
            str(tmp_path / "state"),
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("APIHA_")}
        return subprocess.run(
            [sys.executable, "-m", "apiha", *options, "pin-host", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**clean, **(environment or {})},
        )

    return run


def _assert_untouched(hosts_file: Path, before: os.stat_result) -> None:
    assert hosts_file.read_bytes() == BEFORE
    after = hosts_file.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def _addresses(hosts_file: Path) -> list[str]:
    lines = [line.split() for line in hosts_file.read_text().splitlines()]
    return [fields[0] for fields in lines if DEFAULT_HOST in fields[1:]]


@pytest.mark.parametrize("behaviour", IMPOSTORS)
def test_lone_impostor_is_never_pinned(
    behaviour: str, start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """An impostor is not pinned though nobody else answers: exit code 3, hosts file untouched.

    None is asked anything, but for one whose certificate is the cluster's own and only out of date: a pin asks it the
    time, once, in case this machine's clock is what is wrong.
    """
    dead = start_plane(address="127.0.0.12")
    dead.stop()
    impostor = start_plane(behaviour)
    before = hosts_file.stat()
    done = pin_host(write_config(impostor.endpoint, dead.endpoint))
    assert done.returncode == NO_CONTROL_PLANE, done.stderr
    assert impostor.endpoint in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    _assert_untouched(hosts_file, before)
    asked = impostor.counters.requests
    assert len(asked) <= (behaviour in ("expired", "not_yet_valid"))
    assert all("authorization" not in request.headers for request in asked)


def test_impostor_asked_for_by_hand_is_not_pinned(
    start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """An ADDRESS given on the command line must prove itself too."""
    impostor, genuine = start_plane("wrong_ca"), start_plane(address="127.0.0.12")
    before = hosts_file.stat()
    done = pin_host(write_config(genuine.endpoint), impostor.endpoint)
    assert done.returncode == NO_CONTROL_PLANE, done.stderr
    _assert_untouched(hosts_file, before)


def test_impostor_never_comes_first_beside_a_genuine_one(
    start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """Among impostors the one genuine control plane is pinned first, whatever the node's order of trial."""
    impostors = [start_plane(kind, f"127.0.0.{n}") for n, kind in enumerate(IMPOSTORS, 21)]
    genuine = start_plane()
    config = write_config(*(plane.endpoint for plane in impostors), genuine.endpoint)
    done = pin_host(config)
    assert done.returncode == 0, done.stderr
    assert _addresses(hosts_file)[0] == genuine.address


def test_environment_cannot_make_an_impostor_genuine(
    start_plane: StartPlane,
    write_config: WriteConfig,
    pin_host: PinHost,
    hosts_file: Path,
    authority: Authority,
) -> None:
    """Proxy and OpenSSL variables of the environment neither redirect the probe nor add trust."""
    proxy = start_plane(address="127.0.0.12")
    impostor = start_plane("wrong_ca")
    environment = {
        "HTTPS_PROXY": f"http://127.0.0.12:{proxy.port}",
        "ALL_PROXY": f"http://127.0.0.12:{proxy.port}",
        "SSL_CERT_FILE": str(authority.stranger_ca_file),
        "SSL_CERT_DIR": str(authority.stranger_ca_file.parent),
    }
    before = hosts_file.stat()
    done = pin_host(write_config(impostor.endpoint), environment=environment)
    assert done.returncode == NO_CONTROL_PLANE, done.stderr
    assert proxy.counters.connections == 0
    _assert_untouched(hosts_file, before)
    impostor.behaviour = "ready"
    done = pin_host(write_config(impostor.endpoint), environment=environment)
    assert done.returncode == 0, done.stderr
    assert _addresses(hosts_file) == ["127.0.0.11"]
    assert proxy.counters.connections == 0


def test_healthy_cluster_sees_one_connection(
    start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """A worker's whole pin is one connection and one request; the fallbacks are not asked."""
    planes = [start_plane(address=f"127.0.0.{n}") for n in (11, 12, 13)]
    done = pin_host(
        write_config(*(plane.endpoint for plane in planes), hedge_delay="30s", probe_timeout="60s")
    )
    assert done.returncode == 0, done.stderr
    assert sorted(plane.counters.connections for plane in planes) == [0, 0, 1]
    assert sorted(len(plane.counters.requests) for plane in planes) == [0, 0, 1]
    addresses = _addresses(hosts_file)
    assert sorted(addresses) == [plane.address for plane in planes]
    asked = next(plane for plane in planes if plane.counters.connections)
    assert addresses[0] == asked.address


def test_dead_and_silent_control_planes_come_last(
    start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """With one blackholed and one refused the live one is pinned, before the time limit of the silent one."""
    silent, dead, live = (start_plane(address=f"127.0.0.{n}") for n in (11, 12, 13))
    silent.behaviour = "blackholed"
    dead.stop()
    config = write_config(
        silent.endpoint, dead.endpoint, live.endpoint, probe_timeout="5m", hedge_delay="100ms"
    )
    done = pin_host(config)  # its own time limit, 60 s, proves that nobody waited for the silent one
    assert done.returncode == 0, done.stderr
    assert _addresses(hosts_file)[0] == live.address


def test_wait_pins_a_control_plane_that_comes_back(
    start_plane: StartPlane, write_config: WriteConfig, pin_host: PinHost, hosts_file: Path
) -> None:
    """`--wait` keeps trying: a control plane that becomes genuine while it waits is pinned."""
    plane = start_plane("expired")
    timer = threading.Timer(1.0, setattr, (plane, "behaviour", "ready"))
    timer.start()
    try:
        done = pin_host(write_config(plane.endpoint), "--wait", "50s")
    finally:
        timer.cancel()
        timer.join()
    assert done.returncode == 0, done.stderr
    assert _addresses(hosts_file) == [plane.address]


def test_client_certificate_of_the_configuration_is_used(
    start_plane: StartPlane,
    write_config: WriteConfig,
    pin_host: PinHost,
    hosts_file: Path,
    authority: Authority,
) -> None:
    """Where anonymous access is off, `client_cert` and `client_key` show which control plane is ready."""
    client = authority.issue_client()
    plane = start_plane("client_certificate")
    done = pin_host(write_config(plane.endpoint, client_cert=client.cert, client_key=client.key))
    assert done.returncode == 0, done.stderr
    assert plane.counters.client_certificates == ["O=system:nodes,CN=system:node:worker-1"]
    assert "ready" in done.stderr
