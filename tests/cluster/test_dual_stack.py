"""Dual-stack clusters: nodes, Pods, Services and control planes with IPv4 and IPv6 addresses, either family first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.kubeadm.cluster import (
    ADDRESSES,
    PLANES,
    VIP,
    VIP6,
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

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

SUBNETS = ("10.96.0.0/16", "fd00:96::/112")
ADVERTISE = """\
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: "fd00::11"}
"""
SELECTOR = "app.kubernetes.io/name=apiserver-updater"


@dataclass(frozen=True)
class DualStack:
    """A cluster with one control plane and a worker; `order` puts what belongs to the primary family first."""

    lab: Lab
    ipv6: bool

    def order(self, ipv4: str, ipv6: str) -> tuple[str, str]:
        """Both, the primary family's first."""
        return (ipv6, ipv4) if self.ipv6 else (ipv4, ipv6)

    def add(self, name: str) -> Node:
        """A machine with an address of each family, which kubelet reports both."""
        addresses = self.order(ADDRESSES[name], f"fd00::{ADDRESSES[name].rpartition('.')[2]}")
        node = self.lab.add(name, *addresses)
        node.write("/etc/default/kubelet", f"KUBELET_EXTRA_ARGS=--node-ip={','.join(addresses)}\n")
        return node

    def make(self) -> None:
        """The control plane, the Service, and a worker that lists the control plane with both of its addresses."""
        first = self.add("cp-1")
        first.sh(block("new-control-plane", {PLANES: first.address}))
        config = block("new-cluster-config", {SUBNETS[0]: ",".join(self.order(*SUBNETS))})
        init(first, self.lab, config + (ADVERTISE if self.ipv6 else ""))
        vip = self.order(VIP, VIP6)[0]
        apply_manifests(self.lab, vip=vip)
        join_worker(self.lab, self.add("worker-1"), planes=",".join(first.host.addresses), vip=vip)

    @property
    def worker(self) -> Node:
        """The worker."""
        return self.lab.nodes["worker-1"]


@pytest.fixture(scope="module", params=["IPv4", "IPv6"])
def cluster(request: pytest.FixtureRequest, _requirements: None) -> Iterator[DualStack]:
    """A cluster whose control plane advertises an address of this family."""
    with Lab() as lab:
        cluster = DualStack(lab, ipv6=request.param == "IPv6")
        cluster.make()
        yield cluster


@pytest.fixture
def lab(cluster: DualStack) -> Lab:
    """Its machines, for the report of a test that fails."""
    return cluster.lab


def test_a_vip_of_the_other_family_is_refused(cluster: DualStack, lab: Lab) -> None:
    """kube-apiserver advertises one address, in one family: nothing would be behind a VIP of the other."""
    _, other = cluster.order(VIP, VIP6)
    said = lab.first.sh(block("manifests-look", {VIP: other}), check=False)
    assert f"FAILED   VIP {other}: no control plane has an " in said
    assert all(len(pod["status"]["podIPs"]) == 2 for pod in updaters(lab))


def test_a_worker_with_a_mixed_block_boots(cluster: DualStack, lab: Lab) -> None:
    """Ready and swapped. Go dials the IPv4 addresses first: fine with an IPv4 VIP, said of an IPv6 one."""
    node = cluster.worker
    for reboot in (False, True):
        if reboot:
            lab.reboot(node)
        lab.wait_swapped(node)
        assert set(block_of(node)[1:]) == {"10.0.0.11", "fd00::11"}
        said = node.sh("apiha status")
        if cluster.ipv6:
            assert f"WARNING: Go programs such as kubelet dial 10.0.0.11 before {VIP6}" in said
        else:
            assert "Nothing is wrong." in said
        assert failed_units(node) == []


def test_services_answer_in_both_families(cluster: DualStack, lab: Lab) -> None:
    """kube-proxy, which found its API server by the name, serves both."""
    lab.first.sh(
        "kubectl -n kube-system create service clusterip fresh --tcp=80:8080 -o yaml --dry-run=client"
        " | sed 's/^spec:/spec:\\n  ipFamilyPolicy: RequireDualStack/' | kubectl apply -f -\n"
        f"kubectl -n kube-system set selector service fresh {SELECTOR}"
    )
    addresses = lab.api.get("/api/v1/namespaces/kube-system/services/fresh")["spec"]["clusterIPs"]
    assert len(addresses) == 2
    for address in addresses:
        url = f"http://{f'[{address}]' if ':' in address else address}/healthz"
        ask = f"curl -gsS -m 1 -o /dev/null -w '%{{http_code}}' '{url}'"
        lab.wait(f"{address} answers", lambda ask=ask: cluster.worker.sh(ask, check=False) == "200", 120.0)  # type: ignore[misc]
