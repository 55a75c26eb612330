"""A dual-stack cluster: nodes, Pods, Services and control planes with IPv4 and IPv6 addresses."""

from __future__ import annotations

import pytest

from tests.support.kubeadm.cluster import (
    ADDRESSES,
    PLANES,
    Lab,
    apply_manifests,
    block_of,
    failed_units,
    init,
    join_worker,
    updaters,
)
from tests.support.kubeadm.node import Node
from tests.support.kubeadm.pages import block

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

VIP6 = "fd00:96::100"
SUBNET = "serviceSubnet: 10.96.0.0/16"
SELECTOR = "app.kubernetes.io/name=apiserver-updater"


def add(lab: Lab, name: str) -> Node:
    """A machine with an address of each family, which kubelet reports both."""
    ipv6 = f"fd00::{ADDRESSES[name].rpartition('.')[2]}"
    node = lab.add(name, ipv6)
    node.write("/etc/default/kubelet", f"KUBELET_EXTRA_ARGS=--node-ip={node.address},{ipv6}\n")
    return node


@pytest.fixture(scope="module")
def lab(empty_lab: Lab) -> Lab:
    """A cluster of this module's own: a control plane and a worker that lists it with both of its addresses."""
    lab = empty_lab
    first = add(lab, "cp-1")
    first.sh(block("new-control-plane", {PLANES: "10.0.0.11"}))
    init(first, lab, block("new-cluster-config", {SUBNET: f"{SUBNET},fd00:96::/112"}))
    apply_manifests(lab)
    join_worker(lab, add(lab, "worker-1"), planes="10.0.0.11,fd00::11")
    return lab


def test_a_vip_of_the_other_family_is_refused(lab: Lab) -> None:
    """kube-apiserver advertises one address, in one family: nothing would be behind a VIP of the other."""
    look = block("manifests-look", {"--vip 10.96.0.100": f"--vip 10.96.0.100 --vip {VIP6}"})
    said = lab.first.sh(look, check=False)
    assert f"FAILED   VIP {VIP6}: no control plane has an IPv6 address" in said
    assert all(len(pod["status"]["podIPs"]) == 2 for pod in updaters(lab))


def test_a_worker_with_a_mixed_block_boots(lab: Lab) -> None:
    """Unique local addresses behind an IPv4 VIP do not change what Go programs dial first: nothing is wrong."""
    node = lab.nodes["worker-1"]
    for reboot in (False, True):
        if reboot:
            node.reboot()
            lab.wait_ready(node.name)
        lab.wait_swapped(node)
        assert set(block_of(node)[1:]) == {"10.0.0.11", "fd00::11"}
        assert "Nothing is wrong." in node.sh("apiha status")
        assert failed_units(node) == []


def test_services_answer_in_both_families(lab: Lab) -> None:
    """kube-proxy, which found its API server by the name, serves both."""
    node = lab.nodes["worker-1"]
    lab.first.sh(
        "kubectl -n kube-system create service clusterip fresh --tcp=80:8080 -o yaml --dry-run=client"
        " | sed 's/^spec:/spec:\\n  ipFamilyPolicy: RequireDualStack/' | kubectl apply -f -\n"
        f"kubectl -n kube-system set selector service fresh {SELECTOR}"
    )
    addresses = lab.api.get("/api/v1/namespaces/kube-system/services/fresh")["spec"]["clusterIPs"]
    assert len(addresses) == 2
    for address in addresses:
        url = f"http://[{address}]/healthz" if ":" in address else f"http://{address}/healthz"
        ask = f"curl -gsS -m 1 -o /dev/null -w '%{{http_code}}' '{url}'"
        lab.wait(f"{address} answers", lambda ask=ask: node.sh(ask, check=False) == "200", 30.0)  # type: ignore[misc]
