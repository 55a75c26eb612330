"""Probing across a real network of namespaces: dropped packets, cut links, missing routes, IPv6."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.node.choice import Race
from apiha.node.trial import find_live
from apiha.probe import Health, ProbeResult
from tests.support.control_plane import DEFAULT_HOST, Authority, ControlPlane
from tests.support.netns import Host, Network, requires_root
from tests.support.probing import MakeProber, WriteConfig, eventually

pytestmark = requires_root

PORT = 6443
BOUND = 20.0  # seconds; generous
LONG = 60.0  # seconds; a time limit that no passing test reaches


class Cluster:
    """A worker and three control planes, each in a namespace of its own, with IPv4 and IPv6 addresses."""

    def __init__(self, network: Network, authority: Authority) -> None:
        self.worker = network.add_host("worker", "10.0.0.21", "fd00::21")
        self.hosts: list[Host] = []
        self.planes: list[ControlPlane] = []
        self.planes6: list[ControlPlane] = []
        for number in (11, 12, 13):
            host = network.add_host(f"cp{number}", f"10.0.0.{number}", f"fd00::{number}")
            self.hosts.append(host)
            for planes, address in zip((self.planes, self.planes6), host.addresses, strict=True):
                planes.append(ControlPlane(authority, address, PORT, netns=host.namespace))

    def reset(self) -> None:
        """Every cable in, nothing dropped, every control plane ready."""
        self.worker.undrop()
        for host in self.hosts:
            host.undrop()
            host.link_up()
        for plane in (*self.planes, *self.planes6):
            plane.behaviour = "ready"
            plane.start()
            plane.counters.requests.clear()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the control planes are, IPv4."""
        return tuple(Endpoint(plane.address, PORT) for plane in self.planes)

    def close(self) -> None:
        """Stop all servers."""
        for plane in (*self.planes, *self.planes6):
            plane.close()


@pytest.fixture(scope="module")
def shared_cluster(authority: Authority) -> Iterator[Cluster]:
    """One network for all tests of the module."""
    with Network() as network:
        cluster = Cluster(network, authority)
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The network, all well."""
    shared_cluster.reset()
    return shared_cluster


def _probe(
    cluster: Cluster, make_prober: MakeProber, endpoint: Endpoint, timeout: float = 20.0
) -> ProbeResult:
    return cluster.worker.call(make_prober(timeout=timeout).probe, endpoint)


def test_ready_over_ipv4_and_ipv6(cluster: Cluster, make_prober: MakeProber) -> None:
    """A worker reaches control planes over either family."""
    for plane in (*cluster.planes, *cluster.planes6):
        assert _probe(cluster, make_prober, Endpoint(plane.address, PORT)).health is Health.READY
        assert plane.counters.requests[-1].headers["host"] == f"{DEFAULT_HOST}:{PORT}"


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_dropped_packets_are_a_timeout(family: int, cluster: Cluster, make_prober: MakeProber) -> None:
    """A firewall that swallows packets makes a timeout, in the time given."""
    address = cluster.hosts[0].addresses[family]
    cluster.hosts[0].drop(cluster.worker.addresses[family])
    began = time.monotonic()
    assert _probe(cluster, make_prober, Endpoint(address, PORT), 0.5).health is Health.TIMEOUT
    assert time.monotonic() - began < BOUND
    cluster.hosts[0].undrop()
    assert _probe(cluster, make_prober, Endpoint(address, PORT)).health is Health.READY


def test_link_cut_during_the_probe_is_a_timeout(cluster: Cluster, make_prober: MakeProber) -> None:
    """A control plane whose power fails between handshake and answer is a timeout, in the time given."""
    plane = cluster.planes[0]
    plane.behaviour = "tls_silent"
    before = plane.counters.handshakes
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(_probe, cluster, make_prober, Endpoint(plane.address, PORT), 5.0)
        assert eventually(lambda: plane.counters.handshakes > before)
        cluster.hosts[0].link_down()
        assert pending.result(timeout=BOUND).health is Health.TIMEOUT


def test_no_route_is_unreachable(cluster: Cluster, make_prober: MakeProber) -> None:
    """Where the kernel knows no way, the answer is there at once, in words."""
    cluster.worker.run(["ip", "route", "add", "unreachable", "198.51.100.1/32"], check=True)
    cluster.worker.run(["ip", "route", "add", "prohibit", "198.51.100.2/32"], check=True)
    cluster.worker.run(["ip", "-6", "route", "add", "unreachable", "2001:db8::1/128"], check=True)
    try:
        for address in ("198.51.100.1", "198.51.100.2", "2001:db8::1"):
            result = _probe(cluster, make_prober, Endpoint(address, PORT), LONG)
            assert result.health is Health.UNREACHABLE, result
            assert "cannot connect" in result.detail
    finally:
        for address in ("198.51.100.1", "198.51.100.2", "2001:db8::1"):
            cluster.worker.run(["ip", "route", "del", address])


def test_refused_by_a_host_that_is_up(cluster: Cluster, make_prober: MakeProber) -> None:
    """The machine is there, its kube-apiserver is not."""
    cluster.planes[1].stop()
    assert _probe(cluster, make_prober, cluster.endpoints()[1]).health is Health.REFUSED


@pytest.mark.parametrize("how", ["drop", "link"])
def test_two_blackholed_control_planes_cost_hedge_delays_only(
    how: str, cluster: Cluster, make_prober: MakeProber
) -> None:
    """With the first two of three silent, the third wins long before the time limit of the others."""
    for host in cluster.hosts[:2]:
        if how == "drop":
            host.drop("10.0.0.0/24")
        else:
            host.link_down()
    prober = make_prober(timeout=LONG)
    race = Race(cluster.endpoints(), 0.1, LONG)
    began = time.monotonic()
    winner = cluster.worker.call(find_live, prober.probe, race, SystemClock())
    assert time.monotonic() - began < BOUND
    assert winner is not None
    assert winner.endpoint == cluster.endpoints()[2]


def _apiha(cluster: Cluster, config: Path, tmp_path: Path, *command: str) -> tuple[int, str, str]:
    hosts = tmp_path / "hosts"
    if not hosts.exists():
        hosts.write_text("127.0.0.1 localhost\n")
    options: list[str | Path] = ["--config", config, "--hosts-file", hosts, "--state-dir", tmp_path / "state"]
    done = cluster.worker.run([sys.executable, "-m", "apiha", *options, *command], timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_pin_host_on_a_worker_with_blackholed_control_planes(
    cluster: Cluster, write_config: WriteConfig, tmp_path: Path
) -> None:
    """The real process on the worker puts the one control plane that is not blackholed first."""
    cluster.hosts[0].drop("10.0.0.0/24")
    cluster.hosts[1].link_down()
    config = write_config(*(str(endpoint) for endpoint in cluster.endpoints()), probe_timeout="5m")
    code, _, errors = _apiha(cluster, config, tmp_path, "pin-host")
    assert code == 0, errors
    lines = [line.split() for line in (tmp_path / "hosts").read_text().splitlines()]
    assert next(fields[0] for fields in lines if DEFAULT_HOST in fields) == "10.0.0.13"


def test_pin_host_over_ipv6_only(cluster: Cluster, write_config: WriteConfig, tmp_path: Path) -> None:
    """A cluster of IPv6 addresses is pinned like any other."""
    config = write_config(*(plane.address for plane in cluster.planes6))
    code, _, errors = _apiha(cluster, config, tmp_path, "pin-host")
    assert code == 0, errors
    lines = [line.split() for line in (tmp_path / "hosts").read_text().splitlines()]
    pinned = [fields[0] for fields in lines if DEFAULT_HOST in fields]
    assert sorted(pinned) == sorted(plane.address for plane in cluster.planes6)


def test_impostor_at_a_control_planes_address_is_not_pinned(
    cluster: Cluster, write_config: WriteConfig, tmp_path: Path
) -> None:
    """A machine that took over a control plane's address is not pinned, the others being cut off."""
    cluster.planes[0].behaviour = "wrong_ca"
    for host in cluster.hosts[1:]:
        host.link_down()
    config = write_config(*(str(endpoint) for endpoint in cluster.endpoints()), probe_timeout="500ms")
    code, _, errors = _apiha(cluster, config, tmp_path, "pin-host")
    assert code == 3, errors
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\n"


def test_probe_command_names_every_trouble(
    cluster: Cluster, write_config: WriteConfig, tmp_path: Path
) -> None:
    """`apiha probe` tells a refusal, an impostor, a readiness failure and silence apart."""
    cluster.planes[0].stop()
    cluster.planes[1].behaviour = "wrong_name"
    cluster.planes[2].behaviour = "not_ready"
    cluster.hosts[0].drop("fd00::/64")
    endpoints = [*cluster.endpoints(), Endpoint(cluster.planes6[0].address, PORT)]
    config = write_config(*map(str, endpoints), probe_timeout="5s")
    code, output, errors = _apiha(cluster, config, tmp_path, "probe", "--output", "json")
    assert code == 3, errors
    for state in ("refused", "untrusted", "not-ready", "timeout"):
        assert state in output
    json.loads(output)
