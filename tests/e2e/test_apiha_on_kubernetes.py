"""The node side on the real thing: kube-apiservers, etcd and kube-proxy, a worker in its own network namespace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import HOST, Cluster, assets_directory, require_assets
from tests.support.netns import Host, requires_root

pytestmark = requires_root

VIP = "10.96.0.100"


class Worker:
    """A worker with an `/etc` of its own, as kubeadm leaves it: with the kubelet's kubeconfig."""

    def __init__(self, cluster: Cluster, name: str, state: Path) -> None:
        self.cluster = cluster
        self.host: Host = cluster.add_worker(name)
        self.etc = self.host.private_etc()
        (self.etc / "hosts").write_text("127.0.0.1\tlocalhost\n")
        (self.etc / "kubernetes").mkdir(exist_ok=True)
        kubelet = cluster.kubeconfig(f"system:node:{name}", server=cluster.url)
        (self.etc / "kubernetes/kubelet.conf").write_bytes(Path(kubelet).read_bytes())
        (self.etc / "apiha").mkdir(exist_ok=True)
        (self.etc / "apiha/config.yaml").write_text(
            f"control_plane: [{', '.join(cluster.addresses)}]\nvip: {VIP}\nhost: {HOST}\n"
        )
        self.command = [sys.executable, "-m", "apiha", "--state-dir", str(state)]

    @property
    def addresses(self) -> list[str]:
        """The addresses of the name, in the hosts file's order."""
        return re.findall(rf"^(\S+)\t{re.escape(HOST)}$", (self.etc / "hosts").read_text(), re.MULTILINE)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run apiha on the worker."""
        return self.host.run([*self.command, *arguments])

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start apiha on the worker; its events can be read from stderr."""
        process: subprocess.Popen[str] = self.host.popen(
            [*self.command, *arguments], stderr=subprocess.PIPE, text=True
        )
        return process

    def wait_for_first(self, *wanted: str, seconds: float = 60.0) -> None:
        """Return once one of these addresses comes first in the block."""
        deadline = time.monotonic() + seconds
        while (self.addresses or ["nothing"])[0] not in wanted:
            assert time.monotonic() < deadline, f"expected one of {wanted} first, found {self.addresses}"
            time.sleep(0.1)

    def kubectl(self, *arguments: str) -> str:
        """What the real kubectl says on the worker, through the name, as the kubelet's user."""
        kubectl = str(assets_directory() / "kubectl")
        done = self.host.run([kubectl, "--kubeconfig", "/etc/kubernetes/kubelet.conf", *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def worker(kube_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """A worker of the real cluster; the Service `apiserver` exists, kube-proxy does not run yet."""
    require_assets("kube-apiserver", "etcd", "kube-proxy", "kubectl")
    service: dict[str, Any] = {
        "metadata": {"name": "apiserver"},
        "spec": {"clusterIP": VIP, "ports": [{"name": "https", "port": 6443}]},
    }
    assert kube_cluster.api("POST", "/api/v1/namespaces/kube-system/services", service)[0] == 201
    mirror = {
        "metadata": {"name": "apiserver", "labels": {"kubernetes.io/service-name": "apiserver"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 6443}],
        "endpoints": [{"addresses": [address]} for address in kube_cluster.addresses],
    }
    path = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
    assert kube_cluster.api("POST", path, mirror)[0] == 201
    kube_cluster.wait_endpoints(kube_cluster.addresses)
    return Worker(kube_cluster, "worker-1", tmp_path_factory.mktemp("state"))


@pytest.fixture
def revived(kube_cluster: Cluster) -> Iterator[None]:
    """Bring back what the test killed."""
    yield
    for i in range(len(kube_cluster.addresses)):
        kube_cluster.mend(i)
        try:
            kube_cluster.apiserver_pid(i)
        except Exception:
            kube_cluster.start_apiserver(i)
    kube_cluster.wait_endpoints(kube_cluster.addresses)


def test_probe_finds_every_real_apiserver_ready(worker: Worker) -> None:
    """kube-apiserver's own /readyz, verified by the name that its certificate carries, with the CA of kubelet.conf."""
    done = worker.run("probe", "--output", "json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    planes = [answer for answer in answers if answer["role"] == "control-plane"]
    assert [answer["state"] for answer in planes] == ["ready"] * 3
    assert all(answer["certificate_expires"] and answer["server_time"] for answer in planes)


def test_bootstrap_with_kube_proxy_starting_late(
    worker: Worker, kube_cluster: Cluster, revived: None
) -> None:
    """It pins, survives the pinned one's death, swaps once kube-proxy has written its rules, and learns the list."""
    process = worker.start("bootstrap", "--timeout", "120s")
    try:
        worker.wait_for_first(*kube_cluster.addresses)
        assert "readyz check passed" in worker.kubectl("get", "--raw", "/readyz?verbose")
        pinned = worker.addresses[0]
        kube_cluster.kill_apiserver(kube_cluster.addresses.index(pinned))
        worker.wait_for_first(*[address for address in kube_cluster.addresses if address != pinned])
        assert process.poll() is None, "it ended before the VIP was there"
        kube_cluster.start_apiserver(kube_cluster.addresses.index(pinned))
        kube_cluster.wait_endpoints(kube_cluster.addresses)
        # As in a host-network pod: a copy of the hosts file of this moment, which never changes.
        kube_cluster.start_kube_proxy(worker.host, (worker.etc / "hosts").read_text())
        _, events = process.communicate(timeout=60)
        assert process.returncode == 0, events
    finally:
        process.kill()
        process.wait()
    assert worker.addresses[0] == VIP
    assert sorted(worker.addresses[1:]) == sorted(kube_cluster.addresses)
    assert "readyz check passed" in worker.kubectl("get", "--raw", "/readyz?verbose")
    assert "learned the control planes" in events, events


def test_reconcile_keeps_a_swapped_node_as_it_is(worker: Worker) -> None:
    """With the VIP of a real kube-proxy answering, a pass writes nothing."""
    before = (worker.etc / "hosts").stat()
    done = worker.run("reconcile")
    assert done.returncode == 0, done.stderr
    after = (worker.etc / "hosts").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_learned_control_planes_outlive_the_configuration(worker: Worker, kube_cluster: Cluster) -> None:
    """A worker whose configuration names only machines that are gone finds the cluster by what it learned."""
    config = worker.etc / "apiha/config.yaml"
    text = config.read_text()
    config.write_text(f"control_plane: [10.0.0.99]\nvip: {VIP}\nhost: {HOST}\n")
    try:
        done = worker.run("pin-host")
        assert done.returncode == 0, done.stderr
        assert worker.addresses[0] in kube_cluster.addresses
        assert worker.addresses[-1] == VIP
        assert "10.0.0.99" in worker.addresses
    finally:
        config.write_text(text)


def test_an_apiserver_without_its_etcd_is_passed_over(
    worker: Worker, kube_cluster: Cluster, revived: None
) -> None:
    """A paused control plane (it accepts connections and says nothing) costs a hedge delay, not the node."""
    first = worker.run("pin-host")
    assert first.returncode == 0, first.stderr
    index = kube_cluster.addresses.index(worker.addresses[0])
    kube_cluster.pause_apiserver(index)
    try:
        done = worker.run("pin-host")
        assert done.returncode == 0, done.stderr
        assert worker.addresses[0] != kube_cluster.addresses[index]
    finally:
        kube_cluster.resume_apiserver(index)
