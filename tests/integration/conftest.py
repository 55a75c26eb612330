"""Fixtures of the integration tests: a CA, control planes on loopback, a prober that trusts it, fail fast's network."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.probe import Prober
from apiha.trust import make_ssl_context
from tests.support.cli import Cluster, Worker, worker_in
from tests.support.control_plane import DEFAULT_HOST, Authority, ControlPlane
from tests.support.failfast import Lab
from tests.support.netns import Network
from tests.support.probing import MakeProber, StartPlane, WriteConfig


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The cluster's CA."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory if possible: hundreds of writes one after the other take minutes on a disk with a slow
    fsync(2).
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="apiha-test-", dir=memory) as name:
        path = Path(name) / "folder"
        path.mkdir()
        yield path


@pytest.fixture
def start_plane(authority: Authority) -> Iterator[StartPlane]:
    """A factory of started control planes."""
    planes: list[ControlPlane] = []

    def start(
        behaviour: str = "ready", address: str = "127.0.0.11", port: int = 0, **options: Any
    ) -> ControlPlane:
        plane = ControlPlane(authority, address, port, behaviour, **options)
        planes.append(plane)
        plane.start()
        return plane

    yield start
    for plane in planes:
        plane.close()


@pytest.fixture
def make_prober(authority: Authority) -> MakeProber:
    """A factory of probers; `ca_pem` and the other options are those of `make_ssl_context`."""

    def make(timeout: float = 10.0, **options: Any) -> Prober:
        ca_pem = options.pop("ca_pem", authority.ca_pem)
        return Prober(DEFAULT_HOST, make_ssl_context(ca_pem, **options), timeout)

    return make


@pytest.fixture
def write_config(authority: Authority, tmp_path: Path) -> WriteConfig:
    """Writes a configuration file for these control planes (`ADDR:PORT`) and returns its path.

    The time limit is longer than the default: on a loaded machine a good answer may be slow.
    """

    def write(*control_plane: str, **settings: object) -> Path:
        lines = [f"control_plane: [{', '.join(repr(item) for item in control_plane)}]"]
        merged = {"ca_file": authority.ca_file, "probe_timeout": "10s", **settings}
        lines += [f"{key}: {value}" for key, value in merged.items()]
        path = tmp_path / "config.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def cluster(authority: Authority) -> Iterator[Cluster]:
    """Three ready control planes, and a VIP that is silent until it is started."""
    cluster = Cluster(authority)
    yield cluster
    cluster.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A machine to run `apiha` on, with an empty configuration."""
    with worker_in(tmp_path) as worker:
        yield worker


@pytest.fixture
def joined(worker: Worker, cluster: Cluster) -> Worker:
    """A worker whose configuration names the cluster's control planes and VIP."""
    worker.configure(cluster.settings)
    return worker


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """Fail fast: one network for all tests of the module."""
    with Network() as network, contextlib.closing(Lab(network)) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """The network, all well, with a fresh table."""
    shared_lab.reset()
    return shared_lab
