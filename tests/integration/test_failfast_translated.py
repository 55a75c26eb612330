"""Connections by VIP: what the kernel remembers of those to a lost machine misleads no later one."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from apiha.endpoint import Endpoint
from tests.support.failfast import Lab, nft
from tests.support.netns import Host, requires_root
from tests.support.tcp import Outcome, ask, connect, timed

pytestmark = requires_root

VIPS = ("10.96.0.1", "fd96::1")
POD = "10.1.0.2"
families = pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])


def translate(host: Host, target: Endpoint) -> None:
    """Send new connections to the VIP to this control plane, as kube-proxy's rules do; for Pods, too."""
    ip = "ip6" if target.is_ipv6 else "ip"
    to = f"{ip} daddr {VIPS[target.is_ipv6]} tcp dport 443 dnat to {target}"
    nft(
        host,
        f"table {ip} service\ndelete table {ip} service\ntable {ip} service {{\n"
        f"chain output {{\ntype nat hook output priority -100;\n{to}\n}}\n"
        f"chain prerouting {{\ntype nat hook prerouting priority -100;\n{to}\n}}\n"
        'chain postrouting {\ntype nat hook postrouting priority 100;\niifname "pod0" masquerade\n}\n}\n',
    )


def from_port(client: Host, vip: str, port: int) -> Outcome:
    """A connection by VIP from this very port, one question and its answer."""

    def exchange() -> None:
        with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.settimeout(10.0)
            connection.bind(("", port))
            connection.connect((vip, 443))
            connection.sendall(b"question")
            assert connection.recv(16)

    return timed(lambda: client.call(exchange))


def free_port(client: Host, vip: str) -> int:
    """A port that the kernel gives to a connection by VIP now."""
    with connect(client, vip, 443) as connection:
        port: int = connection.getsockname()[1]
    return port + 2  # of the same parity: connect(2) gives such first


@pytest.fixture
def pod(lab: Lab) -> Iterator[Host]:
    """A Pod on the worker, which forwards for it."""
    name = "pod"
    host = lab.network.hosts.get(name) or lab.network.add_host(name, "10.0.0.200")
    host.link_down()
    lab.worker.run(
        ["ip", "link", "add", "pod0", "type", "veth", "peer", "name", "node0", "netns", host.namespace],
        check=True,
    )
    lab.worker.run(["ip", "address", "add", "10.1.0.1/24", "dev", "pod0"], check=True)
    lab.worker.run(["ip", "link", "set", "pod0", "up"], check=True)
    lab.worker.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)
    host.run(["ip", "address", "flush", "dev", "eth0"], check=True)
    host.run(["ip", "address", "add", f"{POD}/24", "dev", "node0"], check=True)
    host.run(["ip", "link", "set", "node0", "up"], check=True)
    host.run(["ip", "route", "replace", "default", "via", "10.1.0.1"], check=True)
    yield host
    lab.worker.run(["ip", "link", "delete", "pod0"], check=True)
    lab.worker.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"], check=True)


def _after_a_reset(lab: Lab, client: Host, lost: Endpoint, living: Endpoint) -> None:
    vip = VIPS[lost.is_ipv6]
    translate(lab.worker, lost)
    with connect(client, vip, 443) as connection:
        port = connection.getsockname()[1]
        lab.hosts[0].link_down()
        assert ask(connection).reset
    translate(lab.worker, living)
    assert from_port(client, vip, port).error == ""


def _after_a_refusal(lab: Lab, client: Host, lost: Endpoint, living: Endpoint) -> None:
    vip = VIPS[lost.is_ipv6]
    translate(lab.worker, lost)
    port = free_port(client, vip)
    lab.hosts[0].link_down()
    assert from_port(client, vip, port).refused
    translate(lab.worker, living)
    assert from_port(client, vip, port).error == ""


@families
def test_a_connection_that_was_reset_leaves_no_translation_behind(lab: Lab, index: int) -> None:
    """The next one from its port goes where the Service's rules lead now, not to the lost machine for ten seconds."""
    lost, living = ((lab.endpoints, lab.endpoints6)[index][i] for i in (0, 1))
    _after_a_reset(lab, lab.worker, lost, living)


@families
def test_a_connection_that_was_refused_leaves_no_translation_behind(lab: Lab, index: int) -> None:
    """Its first SYN was sent and translated."""
    lost, living = ((lab.endpoints, lab.endpoints6)[index][i] for i in (0, 1))
    _after_a_refusal(lab, lab.worker, lost, living)


def test_the_same_for_pods(lab: Lab, pod: Host) -> None:
    """Their connections are translated before they are forwarded."""
    lab.load(mode="pods")
    _after_a_reset(lab, pod, *lab.endpoints[:2])
    lab.reset()
    lab.load(mode="pods")
    _after_a_refusal(lab, pod, *lab.endpoints[:2])
