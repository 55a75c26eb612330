"""A worker for good: `apiha bootstrap`, kube-proxy and two updaters, while control planes go and come.

Everything is the real thing: three kube-apiservers, the manifests of `apiha manifests` applied with kubectl, the
updaters with the token of their ServiceAccount, kube-proxy in nftables mode with the hosts file of its start.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from typing import Any

import pytest

from tests.support.kube import HOST, PORT, Cluster, assets_directory, require_assets
from tests.support.netns import Host, requires_root
from tests.support.stalls import seconds_since, watch_for_stalls
from tests.support.updater import VIP, Updater, manifests, wait_for

pytestmark = requires_root
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

NAMESPACE, ACCOUNT = "kube-system", "apiserver-updater"
# s from a cut to the rules without the address. The project promises 5, as `make bench-failover` measures. This is less
# than the 15 s after which the address would leave by the API servers' own doing.
FOLLOW = 12.0
HTTP2 = {"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5", "HTTP2_PING_TIMEOUT_SECONDS": "3"}


class Site:
    """The cluster, its two updaters, and the worker with its kube-proxy."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack, state: Path) -> None:
        assert cluster.network is not None
        self.cluster = cluster
        self.stack = stack
        self.places = [cluster.network.add_host(f"node-{i}", f"10.0.0.{30 + i}") for i in (1, 2)]
        applied = cluster.kubectl("apply", "-f", "-", stdin=manifests())
        assert applied.returncode == 0, applied.stderr
        self.replicas = [self.start_replica(i) for i in range(2)]
        self.worker = self.add_worker("worker-1")
        self.apiha = [sys.executable, "-m", "apiha", "--state-dir", str(state)]
        self.proxy: subprocess.Popen[Any] | None = None

    def start_replica(self, i: int) -> Updater:
        """An updater on a machine of its own, which begins with control plane i."""
        kubeconfig = self.cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT, server=i)
        place = self.places[i]
        updater = Updater(
            self.cluster, NAMESPACE, "--vip", VIP, kubeconfig=kubeconfig, host=place, name=place.name
        )
        return self.stack.enter_context(updater)

    def add_worker(self, name: str) -> Host:
        """A worker as kubeadm leaves it, with apiha's configuration."""
        worker = self.cluster.add_worker(name)
        etc = worker.private_etc()
        (etc / "hosts").write_text("127.0.0.1\tlocalhost\n")
        (etc / "kubernetes").mkdir(exist_ok=True)
        kubelet = self.cluster.kubeconfig(f"system:node:{name}", server=self.cluster.url)
        (etc / "kubernetes/kubelet.conf").write_bytes(kubelet.read_bytes())
        (etc / "apiha").mkdir(exist_ok=True)
        addresses = ", ".join(self.cluster.addresses)
        (etc / "apiha/config.yaml").write_text(f"control_plane: [{addresses}]\nvip: {VIP}\nhost: {HOST}\n")
        return worker

    def boot(self) -> None:
        """`apiha bootstrap`, and kube-proxy only once it has pinned; returns when the name is at the VIP."""
        process = self.worker.popen(
            [*self.apiha, "bootstrap", "--timeout", "120s"], stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for("the name is pinned", lambda: set(self.block) & set(self.cluster.addresses))
            assert VIP not in self.block[:1]
            self.start_proxy()
            _, events = process.communicate(timeout=150)
            assert process.returncode == 0, events
        finally:
            process.kill()
            process.wait()

    def start_proxy(self, hosts: str | None = None) -> None:
        """Run kube-proxy as in a host-network Pod: with the hosts file of this moment (or this text), for ever."""
        self.proxy = self.cluster.start_kube_proxy(self.worker, self.hosts if hosts is None else hosts)

    @property
    def hosts(self) -> str:
        """The worker's hosts file."""
        assert self.worker.etc is not None
        return (self.worker.etc / "hosts").read_text()

    @property
    def block(self) -> list[str]:
        """The addresses of the name, in the hosts file's order."""
        return re.findall(rf"^(\S+)\t{re.escape(HOST)}$", self.hosts, re.MULTILINE)

    # ------------------------------------------------------------------------------------------ the VIP's rules

    def targets(self) -> list[str]:
        """Where the worker's nftables rules send a new connection to the VIP, sorted."""
        return targets_of(self.worker.run(["nft", "list", "ruleset"]).stdout)

    def wait_targets(self, addresses: list[str], limit: float = 60.0) -> None:
        """Until the rules lead to exactly these."""
        wait_for(f"the rules lead to {addresses}", lambda: self.targets() == addresses, limit)

    def all_but(self, i: int) -> list[str]:
        """The addresses of the other control planes."""
        return [address for address in self.cluster.addresses if address != self.cluster.addresses[i]]

    def cut(self, i: int, limit: float) -> float:
        """Pull control plane i's cable; returns the seconds until no rule of the VIP leads there.

        Fails after `limit`.
        """
        self.cluster.wait_renewed(i)
        watch_for_stalls()
        began = time.monotonic()
        self.cluster.cut(i)
        self.wait_targets(self.all_but(i), limit)
        return seconds_since(began)

    def watched(self) -> int:
        """The control plane that kube-proxy has its watches with."""
        return self.cluster.addresses.index(self.proxys_peer())

    def proxys_peer(self) -> str:
        """The address that kube-proxy's own connection is to, as kube-proxy sees it."""
        assert self.proxy is not None
        lines = self.worker.run(["ss", "-tnpH", "state", "established"]).stdout.splitlines()
        peers = {line.split()[3].rsplit(":", 1)[0] for line in lines if f"pid={self.proxy.pid}," in line}
        assert len(peers) == 1, lines
        return str(peers.pop())

    # ------------------------------------------------------------------------------------------------- clients

    def answers(self, number: int) -> list[str]:
        """`number` fresh TLS connections to the VIP, one after the other: each one's HTTP status or failure."""
        context = ssl.create_default_context(cafile=str(self.cluster.ca_file))

        def ask() -> str:
            try:
                with (
                    create_connection((VIP, PORT), 10.0) as raw,
                    context.wrap_socket(raw, server_hostname=HOST) as tls,
                ):
                    tls.sendall(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                    return tls.recv(4096).decode().split(" ")[1]
            except OSError as error:
                return str(error)

        return self.worker.call(lambda: [ask() for _ in range(number)])

    def start_kubectl(self, *arguments: str) -> subprocess.Popen[str]:
        """The real kubectl on the worker, through the name, as the kubelet's user."""
        kubectl = str(assets_directory() / "kubectl")
        command = [kubectl, "--kubeconfig", "/etc/kubernetes/kubelet.conf", *arguments]
        return self.worker.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def leader(self) -> Updater:
        """The updater that leads."""
        return wait_for("one leads", lambda: [replica for replica in self.alive() if replica.leads], 60.0)[0]

    def alive(self) -> list[Updater]:
        """The updaters that run."""
        return [replica for replica in self.replicas if replica.process.poll() is None]

    def restore(self) -> None:
        """Undo whatever a test did: every cable in, both updaters running, all rules there."""
        for i in range(len(self.cluster.addresses)):
            self.cluster.mend(i)
        for i, replica in enumerate(self.replicas):
            if replica.process.poll() is not None:
                self.replicas[i] = self.start_replica(i)
        self.wait_targets(self.cluster.addresses)


def targets_of(ruleset: str) -> list[str]:
    """The addresses in the chain that kube-proxy's map of Services has for the VIP and its port."""
    chain = re.search(rf"\b{re.escape(VIP)} \. tcp \. {PORT} : goto (\S+?),?\s", ruleset)
    if chain is None:
        return []
    body = re.search(rf"^\tchain {re.escape(chain[1])} {{\n(.*?)^\t}}", ruleset, re.MULTILINE | re.DOTALL)
    assert body is not None, ruleset
    return sorted(set(re.findall(r"\b\d+(?:\.\d+){3}\b", body[1])))


@pytest.fixture(scope="module")
def booted(kube_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site after the worker's boot; kube-proxy has the two HTTP/2 variables that the operations guide gives it."""
    require_assets("kubectl", "kube-proxy")
    kube_cluster.wait_endpoints(kube_cluster.addresses)
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        site = Site(kube_cluster, stack, tmp_path_factory.mktemp("state"))
        for name, value in HTTP2.items():
            patch.setenv(name, value)
        site.boot()
        yield site


@pytest.fixture
def site(booted: Site) -> Iterator[Site]:
    """The site with everything up; put right again after the test."""
    booted.restore()
    yield booted
    for i in range(len(booted.cluster.addresses)):
        booted.cluster.mend(i)


def test_the_worker_reaches_the_api_server_by_the_vip(site: Site) -> None:
    """Booted before kube-proxy ran, the worker's name is at the VIP, and its rules are what the updaters wrote."""
    assert site.block[0] == VIP
    assert sorted(site.block[1:]) == site.cluster.addresses
    assert site.targets() == site.cluster.addresses
    assert site.answers(30) == ["200"] * 30
    assert site.start_kubectl("get", "--raw", "/readyz").communicate(timeout=60)[0] == "ok"
    assert len([replica for replica in site.replicas if replica.leads]) == 1


def test_the_rules_follow_a_cut(site: Site) -> None:
    """A control plane's cable is pulled: soon no rule leads there, and every new connection gets an answer.

    Each of the two that kube-proxy does not watch at in turn. When the cable is back, so is the address.
    """
    for i in {0, 1, 2} - {site.watched()}:
        took = site.cut(i, 20.0)
        assert took <= FOLLOW, f"{site.cluster.addresses[i]} left the rules after {took:.2f} s"
        assert site.answers(30) == ["200"] * 30
        site.cluster.mend(i)
        site.wait_targets(site.cluster.addresses)
    assert site.answers(30) == ["200"] * 30


def test_kube_proxy_outlives_the_control_plane_that_it_watches(site: Site) -> None:
    """The cable pulled is kube-proxy's own: it hears of nothing until it notices; then the rules follow.

    HTTP/2 pings, 5 + 3 s, and a third of the dialer's 30 s for the dead first line of its hosts file: no 5 s here.
    Until then each new client by name gets through, by the VIP or by the addresses after it.
    """
    i = site.watched()
    clients: list[subprocess.Popen[str]] = []

    def followed() -> bool:
        clients.append(site.start_kubectl("get", "--raw", "/readyz"))
        return site.targets() == site.all_but(i)

    site.cluster.cut(i)
    wait_for("kube-proxy notices", followed, 60.0, pause=1.0)
    assert site.watched() != i
    assert site.answers(30) == ["200"] * 30
    assert [client.communicate(timeout=60)[0] for client in clients] == ["ok"] * len(clients)
    site.cluster.mend(i)
    site.wait_targets(site.cluster.addresses)


def test_killing_the_leader_while_a_control_plane_is_cut_tears_nothing_down(site: Site) -> None:
    """Without a leader the rules stay as they are; the other one takes over, and brings the control plane back."""
    i = min({0, 1, 2} - {site.watched()})
    site.cut(i, 20.0)
    leader = site.leader()
    (other,) = [replica for replica in site.alive() if replica is not leader]
    leader.kill()
    began = time.monotonic()
    while not other.leads:
        assert time.monotonic() - began < 60, "nobody took over"
        assert site.targets() == site.all_but(i)
        time.sleep(0.2)
    until = (
        time.monotonic() + 5
    )  # a new leader begins with no failures counted: it must not turn the dead one on
    while time.monotonic() < until:
        assert site.targets() == site.all_but(i)
        time.sleep(0.1)
    assert site.answers(30) == ["200"] * 30
    site.cluster.mend(i)
    site.wait_targets(site.cluster.addresses)


def test_kube_proxy_comes_back_by_the_vip_at_the_end_of_its_copy(site: Site) -> None:
    """All the control planes that a pinned block named were replaced: kube-proxy's copy names them, and the VIP last.
    By that it finds the API server through its own rules, and writes new ones.
    """
    gone = [f"10.0.0.{number}" for number in (201, 202, 203)]
    assert site.proxy is not None
    site.proxy.kill()
    site.proxy.wait()
    try:
        site.start_proxy("".join(f"{address}\t{HOST}\n" for address in [*gone, VIP]))
        assert site.proxys_peer() == VIP
        for i in range(len(site.cluster.addresses)):  # the rules follow, whichever of them the VIP led to
            site.cut(i, 60.0)
            site.cluster.mend(i)
            site.wait_targets(site.cluster.addresses)
    finally:
        site.proxy.kill()
        site.proxy.wait()
        site.start_proxy()


def test_the_vip_works_on_without_any_updater(site: Site) -> None:
    """Both updaters dead: rules and slice stay, and `apiha reconcile` finds nothing to do."""
    for replica in site.alive():
        replica.kill()
    before = site.hosts
    assert site.answers(30) == ["200"] * 30
    done = site.worker.run([*site.apiha, "reconcile"])
    assert done.returncode == 0, done.stderr
    assert site.hosts == before
    assert site.targets() == site.cluster.addresses
    assert site.cluster.ready_endpoints("apiserver", NAMESPACE) == site.cluster.addresses
