"""Control planes behind a real kube-proxy's rules: the breaker sees through them, for the node and for its Pods."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from apiha.endpoint import Endpoint
from apiha.failfast import rules
from tests.support.failfast import nft, read_table
from tests.support.kube import POD_CIDR, Cluster
from tests.support.netns import Host, requires_root
from tests.support.tcp import Outcome, dial, timed, unacknowledged
from tests.support.updater import SLICES

pytestmark = requires_root

LOST = 1  # the control plane that loses power; kube-proxy and the controllers talk to another one
# How often a client's kernel may ask again. Not seconds: a busy machine needs some itself.
AT_ONCE = 0
A_SECOND = 1  # a SYN is sent again after 1 s, the next time after 2 s or 3 s
PATIENCE = 4  # data: after 0.2, 0.4, 0.8 and 1.7 s, the next time after 3.4 s (apiha.failfast.rules)
HANGS = 60.0  # seconds


@dataclass
class Node:
    """A worker with kube-proxy, a Pod on it, and the breakers for both."""

    cluster: Cluster
    host: Host
    pod: Host
    vip: str

    def addresses(self) -> list[Endpoint]:
        """The control planes."""
        return [Endpoint(address, self.cluster.port) for address in self.cluster.addresses]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three control planes that know the way back to Pods.

    All are in the Service for good: one that is lost would leave it 5 to 25 s later, and kube-proxy's rules with it.
    """
    directory = tmp_path_factory.mktemp("kube")
    none = ["--endpoint-reconciler-type=none"]
    with Cluster(n=3, kube_proxy=True, directory=directory, apiserver_args=none) as cluster:
        body = {
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in cluster.addresses],
            "ports": [{"name": "https", "port": cluster.port, "protocol": "TCP"}],
        }
        assert cluster.api("POST", f"{SLICES}/default/endpointslices", body)[0] == 201
        yield cluster


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def shared_node(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A worker whose kube-proxy runs in this mode, with the Service `kubernetes` in its rules."""
    mode = request.param
    if shutil.which(mode if mode == "iptables" else "nft") is None:
        pytest.skip(f"needs {mode}")
    host = cluster.add_worker(f"worker-{mode}")
    pod = _add_pod(cluster, host, mode)
    proxy = cluster.start_kube_proxy(host, server=0, mode=mode)
    service = cluster.api("GET", "/api/v1/namespaces/default/services/kubernetes")[1]
    yield Node(cluster, host, pod, service["spec"]["clusterIP"])
    proxy.kill()
    proxy.wait()


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """All control planes behind the VIP, and fresh breakers for the node and its Pods."""
    for client in (shared_node.host, shared_node.pod):
        _eventually(lambda client=client: _reaches_all(shared_node, client))  # type: ignore[misc]
    nft(shared_node.host, rules.load_script(shared_node.addresses(), "pods"))
    yield shared_node
    shared_node.cluster.mend(LOST)
    shared_node.cluster.wait_ready(LOST)


def _reaches_all(node: Node, client: Host) -> bool:
    """Whether kube-proxy sends this client to every control plane, the one that was away among them."""
    return all(dial(client, node.vip, 443, 2.0).error == "" for _ in range(10))


def _add_pod(cluster: Cluster, worker: Host, tag: str) -> Host:
    """A host behind the worker, which forwards for it."""
    assert cluster.network is not None
    pod = cluster.network.add_host(f"pod-{tag}", "10.0.0.200" if tag == "nftables" else "10.0.0.201")
    # Its cable leads to the worker, by a pair of its own; the bridge is not used.
    pod.link_down()
    address = POD_CIDR.replace(".0.0/16", ".9.9" if tag == "nftables" else ".8.8")
    gateway = address.rpartition(".")[0] + ".1"
    subprocess.run(
        ["ip", "-n", worker.namespace, "link", "add", "pod0", "type", "veth", "peer", "name", "node0",
         "netns", pod.namespace], check=True,
    )  # fmt: skip
    worker.run(["ip", "address", "add", f"{gateway}/24", "dev", "pod0"], check=True)
    worker.run(["ip", "link", "set", "pod0", "up"], check=True)
    worker.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)
    pod.run(["ip", "address", "flush", "dev", "eth0"], check=True)
    pod.run(["ip", "address", "add", f"{address}/24", "dev", "node0"], check=True)
    pod.run(["ip", "link", "set", "node0", "up"], check=True)
    pod.run(["ip", "route", "replace", "default", "via", gateway], check=True)
    for index in range(len(cluster.addresses)):
        way = ["ip", "route", "replace", f"{gateway}/24".replace(".1/24", ".0/24"), "via", worker.address]
        cluster.network.hosts[f"cp{index + 1}"].run(way, check=True)
    return pod


def _eventually(true: Callable[[], bool], seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _open(node: Node, client: Host, count: int) -> list[socket.socket]:
    """Connections through the VIP, each in the middle of a TLS handshake: the server waits for more."""
    connections = []
    for _ in range(count):
        connection = client.call(socket.create_connection, (node.vip, 443), 5.0)
        connection.sendall(b"\x16")
        connections.append(connection)
    _eventually(lambda: not any(map(unacknowledged, connections)))
    return connections


def _ports(connections: list[socket.socket]) -> list[int]:
    return [connection.getsockname()[1] for connection in connections]


def _on_the_lost(node: Node, ports: list[int]) -> list[bool]:
    """Which of the connections from these ports kube-proxy sent to the control plane that will be lost."""
    tracked = node.host.run(["cat", "/proc/net/nf_conntrack"], check=True).stdout.splitlines()
    lost = f"src={node.cluster.addresses[LOST]} "
    return [any(f"sport={port} " in line and lost in line for line in tracked) for port in ports]


def _say_something(connection: socket.socket, lost: bool) -> Outcome:
    """Send one more byte of the handshake: a reset if it goes to the lost one, otherwise nothing within 3 s."""
    connection.settimeout(HANGS if lost else 3.0)

    def exchange() -> None:
        connection.sendall(b"\x03")
        connection.recv(1)

    return timed(exchange, connection)


def _most_resent(outcomes: Iterable[Outcome]) -> int:
    return max(outcome.resent for outcome in outcomes if outcome.resent is not None)


def _whole_story(node: Node, client: Host, scope: rules.Scope, slowest: int) -> None:
    with contextlib.ExitStack() as stack:
        connections: list[socket.socket] = []
        lost: list[bool] = []
        ports: list[int] = []
        # kube-proxy draws lots: once in 400 times none of 15 is at the one that will be lost.
        while len(set(lost)) < 2:
            assert len(connections) < 90
            connections += [stack.enter_context(c) for c in _open(node, client, 15)]
            ports = _ports(connections)
            lost = _on_the_lost(node, ports)
        node.cluster.cut(LOST)
        with ThreadPoolExecutor(len(connections)) as pool:
            outcomes = list(pool.map(_say_something, connections, lost))
        # The reset comes from the VIP: from anybody else the client would not take it.
        assert [outcome.reset for outcome in outcomes] == lost
        assert _most_resent(o for o in outcomes if o.reset) <= PATIENCE
        # What is reset is forgotten: a new connection from such a port goes where the rules lead then.
        assert not any(_on_the_lost(node, ports))
        fresh = [dial(client, node.vip, 443) for _ in range(30)]
        assert {outcome.error for outcome in fresh} == {"", "ConnectionRefusedError"}
        assert _most_resent(fresh) <= slowest
        table = read_table(node.host)
        (breaker,) = table.silent
        assert (breaker.endpoint.address, breaker.scope) == (node.cluster.addresses[LOST], scope)
        assert breaker.cut == sum(lost)
        node.cluster.mend(LOST)
        # 5 s, and before a SYN of the node's may try in case that no knock gets through: 30 s after the silence began.
        _eventually(lambda: _used_again(node, client), 20.0)


def _used_again(node: Node, client: Host) -> bool:
    dial(client, node.vip, 443)
    return not read_table(node.host).silent


def test_the_nodes_own_programs(node: Node) -> None:
    """Established connections through the VIP end with a reset from the VIP, new ones are refused at once."""
    _whole_story(node, node.host, "node", AT_ONCE)


def test_pods(node: Node) -> None:
    """The same for a Pod's connections to the Service `kubernetes`, with breakers of their own."""
    _whole_story(node, node.pod, "pods", A_SECOND)


def test_stale_rules_cost_a_client_a_second_at_most(node: Node) -> None:
    """kube-proxy goes on sending every third connection to the lost one: only those of the first second wait."""
    node.cluster.cut(LOST)
    with ThreadPoolExecutor(20) as pool:
        first = list(pool.map(lambda _: dial(node.host, node.vip, 443), range(20)))
    assert _most_resent(first) <= A_SECOND
    again = [dial(node.host, node.vip, 443) for _ in range(20)]
    assert _most_resent(again) == AT_ONCE
