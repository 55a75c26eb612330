"""What apiha takes for granted of Kubernetes, checked on real control planes."""

from __future__ import annotations

import httpx
import pytest

from tests.support.kube import HOST, Cluster
from tests.support.netns import Host, requires_root

pytestmark = requires_root


def test_kubernetes_slice_lists_all_control_planes(kube_cluster: Cluster) -> None:
    """Every kube-apiserver keeps itself in the `kubernetes` EndpointSlice."""
    kube_cluster.wait_endpoints(kube_cluster.addresses)


def test_readiness_is_public_by_default(kube_cluster: Cluster) -> None:
    """A client without a certificate gets 200 from `/readyz`, and nothing else."""
    assert kube_cluster.api("GET", "/readyz", user=None) == (200, "ok")
    assert kube_cluster.api("GET", "/api/v1/nodes", user=None)[0] == 403


def test_certificates_carry_the_name_alone(kube_cluster: Cluster) -> None:
    """The API server proves itself for the name, and not for its address."""
    hub = kube_cluster.network.hub if kube_cluster.network is not None else None
    assert hub is not None
    url = f"https://{kube_cluster.endpoints[0]}/readyz"
    by_address = hub.run(["curl", "-sS", "--cacert", kube_cluster.ca_file, url])
    assert by_address.returncode == 60, by_address.stderr  # CURLE_PEER_FAILED_VERIFICATION
    connect = f"{HOST}:{kube_cluster.port}:{kube_cluster.addresses[0]}"
    by_name = hub.run(
        ["curl", "-sS", "--cacert", kube_cluster.ca_file, "--resolve", connect, f"{kube_cluster.url}/readyz"]
    )
    assert by_name.stdout == "ok", by_name.stderr


def test_lost_control_planes_leave_the_slice_and_return(kube_cluster: Cluster) -> None:
    """A killed kube-apiserver leaves the slice when its lease ends, and is back when it runs again."""
    kube_cluster.kill_apiserver(0)
    try:
        with pytest.raises(httpx.ConnectError):
            kube_cluster.api("GET", "/readyz", server=0)
        kube_cluster.wait_endpoints(kube_cluster.addresses[1:], server=1)
    finally:
        kube_cluster.start_apiserver(0)
    kube_cluster.wait_endpoints(kube_cluster.addresses)


def test_cut_control_plane_is_silent(kube_cluster: Cluster) -> None:
    """A control plane with its cable pulled does not even refuse."""
    kube_cluster.cut(2)
    try:
        with pytest.raises(httpx.TransportError) as caught:
            kube_cluster.api("GET", "/readyz", server=2, timeout=1.0)
    finally:
        kube_cluster.mend(2)
    assert "refused" not in str(caught.value)
    kube_cluster.wait_ready(2)


def test_kubelet_may_read_endpoints_and_not_slices(kube_cluster: Cluster) -> None:
    """A kubelet may `get` Endpoints, but EndpointSlices only where a binding gives it the right."""
    user = "system:node:worker-1"
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    assert kube_cluster.api("GET", slices, user=user)[0] == 403
    assert kube_cluster.api("GET", "/api/v1/namespaces/default/endpoints/kubernetes", user=user)[0] == 200


def worker_with_vip(cluster: Cluster) -> Host:
    """A worker whose kube-proxy knows a Service 10.96.0.100:6443 over all control planes."""
    worker = cluster.add_worker("worker-1")
    service = {
        "metadata": {"name": "apiserver"},
        "spec": {"clusterIP": "10.96.0.100", "ports": [{"name": "https", "port": 6443}]},
    }
    assert cluster.api("POST", "/api/v1/namespaces/default/services", service)[0] == 201
    endpoint_slice = {
        "metadata": {"name": "apiserver", "labels": {"kubernetes.io/service-name": "apiserver"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 6443}],
        "endpoints": [{"addresses": [address]} for address in cluster.addresses],
    }
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    assert cluster.api("POST", path, endpoint_slice)[0] == 201
    cluster.start_kube_proxy(worker, cluster.hosts())
    return worker


def test_a_service_balances_over_control_planes_outside_the_pod_network(kube_cluster: Cluster) -> None:
    """A Service without a selector is a VIP for the control planes on every node that runs kube-proxy."""
    worker = worker_with_vip(kube_cluster)
    etc = worker.private_etc()
    (etc / "hosts").write_text(kube_cluster.hosts("10.96.0.100"))
    answer = worker.run(
        ["curl", "-sS", "-m30", "--cacert", kube_cluster.ca_file, f"{kube_cluster.url}/readyz"]
    )
    assert answer.stdout == "ok", answer.stderr
