"""An existing cluster of three control planes gets apiha by the five steps of docs/cluster.md, and gives it back.

The tests run in the order of the file: each is a step. At the end the machines are as they were before.
"""

from __future__ import annotations

import re

import pytest

from tests.support.kubeadm.cluster import (
    VIP,
    Lab,
    apply_manifests,
    block_of,
    failed_units,
    init,
    join_worker,
    joining,
)
from tests.support.kubeadm.node import Node
from tests.support.kubeadm.pages import block

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

BEFORE = "10.0.0.11:6443"
NAME = "apiserver.cluster.local:6443"
CONFIG = """\
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: 10.0.0.11:6443
networking:
  serviceSubnet: 10.96.0.0/16
"""
WORKER = "worker-1"


def files(node: Node) -> dict[str, bytes | None]:
    """Everything of a machine that apiha could leave something in: path to contents, None for what is no file."""
    found: dict[str, bytes | None] = {}
    for folder in ("etc/apiha", "etc/systemd/system", "usr/local", "var/lib/apiha"):
        for path in sorted(node.path(folder).rglob("*")):
            regular = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(node.root))] = path.read_bytes() if regular else None
    for name in ("etc/hosts", "etc/kubernetes/kubelet.conf"):
        found[name] = node.path(name).read_bytes()
    return found


@pytest.fixture(scope="module")
def lab(empty_lab: Lab) -> Lab:
    """A cluster of this module's own."""
    return empty_lab


@pytest.fixture(scope="module", autouse=True)
def before(lab: Lab) -> dict[str, dict[str, bytes | None]]:
    """A cluster whose clients all name the first control plane; what its machines' disks hold."""
    first = lab.add("cp-1")
    init(first, lab, CONFIG)
    for name in ("cp-2", "cp-3"):
        lab.add(name).sh(joining(lab, "new-cluster-join", {NAME: BEFORE}), timeout=600.0)
    join = re.search(r"^kubeadm join .*$", joining(lab, "join-worker", {NAME: BEFORE}), re.MULTILINE)
    assert join
    lab.add(WORKER).sh(join[0], timeout=600.0)
    lab.wait_ready(*lab.nodes)
    return {name: files(node) for name, node in lab.nodes.items()}


def test_step_1_the_name_in_the_certificates(lab: Lab) -> None:
    """The editor gets the page's text in place of `apiServer: {}`; then each control plane renews its certificate."""
    assert f"controlPlaneEndpoint: {BEFORE}" in lab.first.sh(block("service-cidr"))
    text = "".join(f"    {line}\\n" for line in block("san-text").splitlines())
    lab.first.write(
        "/root/editor", f"#!/bin/sh\nsed -i 's/^    apiServer: {{}}\\n*$/{text}/' \"$1\"\n", mode=0o755
    )
    lab.first.sh(f"export KUBE_EDITOR=/root/editor\n{block('san-edit')}")
    for node in lab.control_planes:
        assert "DNS:apiserver.cluster.local" not in node.sh(block("san-look"))
        node.sh(block("san-renew"), timeout=300.0)
        assert "DNS:apiserver.cluster.local" in node.sh(block("san-look"))


def test_steps_2_and_3_the_service(lab: Lab) -> None:
    """Nothing is found wrong, and the Service gets all control planes."""
    apply_manifests(lab, program="python3 /opt/apiha.pyz")


def test_step_4_the_name_on_every_node(lab: Lab) -> None:
    """The worker is swapped, control planes name themselves first, and the name answers everywhere."""
    for node in lab.nodes.values():
        kind = "control-plane" if node in lab.control_planes else "worker"
        node.sh(block(f"name-on-{kind}"))
        assert "ok" in node.sh(block("name-check"))
        assert block_of(node)[0] == ("127.0.0.1" if kind == "control-plane" else VIP)


def test_step_5_clients_use_the_name(lab: Lab) -> None:
    """ConfigMaps, kube-proxy and kubelets take the name; the worker comes back from a reboot by it."""
    for name in ("endpoint-kubeadm", "endpoint-kube-proxy", "restart-kube-proxy", "endpoint-cluster-info"):
        lab.first.sh(block(name), timeout=300.0)
    worker = lab.nodes[WORKER]
    worker.sh(block("endpoint-kubelet"))
    for node in lab.control_planes:
        node.sh(block("endpoint-admin"), check=node is lab.first)
    assert "Nothing is wrong." in worker.sh("apiha status")
    lab.reboot(worker)
    lab.wait_ready(*lab.nodes)
    for node in lab.nodes.values():
        assert failed_units(node) == []
        assert "Nothing is wrong." in node.sh("apiha status"), node.name


def test_a_worker_joins_the_migrated_cluster(lab: Lab) -> None:
    """`kubeadm join` by the name works, since `cluster-info` has it."""
    join_worker(lab, lab.add("worker-2"))
    lab.wait_swapped(lab.nodes["worker-2"], 10.0)
    lab.nodes.pop("worker-2").power_cut()
    lab.first.sh("kubectl delete node worker-2")


def test_removing_leaves_the_machines_as_they_were(
    lab: Lab, before: dict[str, dict[str, bytes | None]]
) -> None:
    """Step 5 with the old address, `apiha uninstall` everywhere, the manifests deleted: the same files as before."""
    old = {NAME: BEFORE}
    for name in ("endpoint-kubeadm", "endpoint-kube-proxy", "endpoint-cluster-info"):
        lab.first.sh(block(name, old))
    lab.first.sh(block("restart-kube-proxy"), timeout=300.0)
    lab.nodes[WORKER].sh(block("endpoint-kubelet", old))
    lab.first.sh(block("endpoint-admin", old))
    lab.first.sh(block("manifests-delete"), timeout=300.0)
    for node in lab.nodes.values():
        node.sh("apiha uninstall")
    lab.wait_ready(*lab.nodes)
    for name, node in lab.nodes.items():
        after = files(node)
        left = {path for path in after if after[path] != before[name].get(path)} - {
            "etc/apiha",
            "etc/apiha/ca.crt",
        }
        assert left == set(), name
        assert set(before[name]) <= set(after), name
        assert failed_units(node) == []
    assert lab.api.get("/api/v1/namespaces/kube-system/services/apiserver") is None
