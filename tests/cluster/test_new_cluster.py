"""A new cluster by the documentation, worker by hand and by cloud-init; what Kubernetes' own tools do to it afterwards.

The tests run in the order of the file, on one cluster. Bounds are for a small machine that does other things, too.
"""

from __future__ import annotations

import re

import pytest

from tests.support.kubeadm.cluster import (
    FLAGS,
    VIP,
    Lab,
    block_of,
    cloud_init_worker,
    failed_units,
    updaters,
)
from tests.support.kubeadm.disk import seed_cloud_init, version
from tests.support.kubeadm.pages import block

pytestmark = pytest.mark.timeout(3600)


def test_every_node_is_ready_and_nothing_is_wrong(lab: Lab) -> None:
    """All nodes are Ready, `apiha status` finds nothing, and the units run on control planes as well."""
    lab.settle()
    wanted = f"{len(lab.nodes)} nodes, 0 to look at"
    lab.wait("`apiha nodes` finds nothing", lambda: wanted in lab.first.sh("apiha nodes", check=False), 120.0)
    for node in lab.nodes.values():
        assert "Nothing is wrong." in node.sh("apiha status", check=False), node.name
        assert "ok" in node.sh(block("name-check", {"/etc/apiha/ca.crt": "/etc/kubernetes/pki/ca.crt"}))
        assert failed_units(node) == []
        assert (
            node.sh("systemctl is-active apiha-reconcile.timer apiha-reconcile.path").split()
            == ["active"] * 2
        )


def test_the_blocks_say_who_comes_first(lab: Lab) -> None:
    """A worker's block starts with the VIP, a control plane's with itself; the others follow."""
    addresses = {node.address for node in lab.control_planes}
    for node in lab.nodes.values():
        first, *fallbacks = block_of(node)
        assert first == ("127.0.0.1" if node in lab.control_planes else VIP)
        assert set(fallbacks) == addresses


def test_the_pages_output_is_what_the_commands_print(lab: Lab) -> None:
    """The Service, its slice and the Lease are there, and a VIP that does not fit is refused with the page's words."""
    said = lab.first.sh(block("manifests-result"))
    assert VIP in said
    assert all(node.address in said for node in lab.control_planes)
    refused = lab.first.sh(f"set +e +o pipefail\n{block('manifests-look-wrong')}\ntrue")
    assert "FAILED   VIP 10.96.0.1 is taken by Service default/kubernetes" in refused
    assert "FAILED   VIP 10.97.0.100 is outside the Service CIDR 10.96.0.0/16" in refused


def test_the_updaters_share_no_node_and_one_leads(lab: Lab) -> None:
    """The scheduler puts the two Pods on two nodes; the Lease names one of them."""
    pods = updaters(lab)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    lease = lab.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/apiserver-updater")
    holder = lease["spec"]["holderIdentity"]
    assert sum(holder.startswith(pod["metadata"]["name"]) for pod in pods) == 1


def test_a_worker_joins_by_cloud_init(lab: Lab) -> None:
    """The page's user data, with `manage_etc_hosts: true`: Ready and swapped at its first boot and its second."""
    node = lab.add("worker-2", boot=False)
    cloud_init_worker(lab, node, extra="manage_etc_hosts: true\n")
    lab.wait_ready("worker-2", limit=300.0)
    ended = node.path("/var/lib/cloud/instances/worker-2-1/boot-finished")
    lab.wait("cloud-init has ended", ended.exists, 240.0)
    lab.wait_swapped(node)
    assert failed_units(node) == []
    node.power_cut()
    lab.wait("the node is missed", lambda: lab.api.ready("worker-2").status != "True", 180.0)
    node.boot()
    lab.wait_ready("worker-2")
    lab.wait_swapped(node)
    status = node.sh("apiha status")
    assert "manage_etc_hosts" in status  # the warning that the page announces
    assert failed_units(node) == []


@pytest.mark.full
def test_a_worker_joins_by_the_user_data_that_apiha_prints(lab: Lab) -> None:
    """`apiha user-data --join --embed` on a control plane, given to a machine: Ready, swapped, nothing wrong.

    The command that stderr names makes the token invalid.
    """
    command = "apiha user-data --join --token-ttl 10m --embed /opt/apiha.pyz > /root/user-data"
    said = lab.first.sh(command)
    text = lab.first.read("/root/user-data").replace("kubeadm join ", f"kubeadm join {FLAGS} ")
    node = lab.add("worker-3", boot=False)
    node.path("/opt/apiha.pyz").unlink()  # the user data brings it
    seed_cloud_init(node.root, text, node.name)
    node.boot()
    lab.wait_ready("worker-3", limit=300.0)
    lab.wait_swapped(node)
    assert "status: done" in node.sh("cloud-init status --wait", check=False)
    assert "Nothing is wrong." in node.sh("apiha status", check=False)
    assert failed_units(node) == []
    lab.nodes.pop("worker-3").power_cut()
    lab.first.sh("kubectl delete node worker-3")
    invalidate = re.search("`(kubectl [^`]+)`", said)
    assert invalidate, said
    assert "deleted" in lab.first.sh(invalidate[1])


@pytest.mark.full
def test_kubeadm_upgrades_and_renews(lab: Lab) -> None:
    """`kubeadm upgrade apply` and `kubeadm certs renew` keep the name in configuration, certificate and kubeconfigs."""
    node = lab.first
    flags = f"{FLAGS},CoreDNSUnsupportedPlugins,CoreDNSMigration --skip-phases=addon/coredns --yes --force"
    node.sh(f"kubeadm upgrade apply {version()} {flags}", timeout=900.0)
    node.sh("kubeadm certs renew all")
    assert "DNS:apiserver.cluster.local" in node.sh(block("san-look"))
    assert "https://apiserver.cluster.local:6443" in node.read("/etc/kubernetes/admin.conf")
    proxy = lab.api.get("/api/v1/namespaces/kube-system/configmaps/kube-proxy")
    assert "server: https://apiserver.cluster.local:6443" in proxy["data"]["kubeconfig.conf"]
    lab.wait_ready(*lab.nodes)
