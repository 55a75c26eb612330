"""Anonymous access is off (`--anonymous-auth=false`): a worker's boots, and what the updater sees of readiness."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.support.kubeadm.cluster import Lab, failed_units
from tests.support.kubeadm.node import Node

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
ETCD = "/etc/kubernetes/manifests/etcd.yaml"
CONFIG = "/etc/apiha/config.yaml"
KUBELET_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
FLAG = "--anonymous-auth=false"
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")  # kubelet's, which are anonymous


def answers_anonymous(node: Node, status: int) -> bool:
    """Whether a stranger who asks this control plane for its readiness gets that status."""
    ask = f"curl -sk -m 2 -o /dev/null -w '%{{http_code}}' https://{node.address}:6443/readyz"
    return node.sh(ask, check=False) == str(status)


def restart_with(lab: Lab, node: Node, manifest: str, status: int) -> None:
    """Give kube-apiserver another manifest, and wait until it runs as that says and a stranger gets that status."""

    def restarted() -> bool:
        servers = node.sh("pgrep -fa '^kube-apiserver '", check=False).splitlines()
        return [FLAG in command for command in servers] == [FLAG in manifest] and answers_anonymous(
            node, status
        )

    node.write(MANIFEST, manifest)
    lab.wait(f"{node.name} answers {status}", restarted, 240.0)


@pytest.fixture(scope="module", autouse=True)
def _anonymous_off(lab: Lab) -> Iterator[None]:
    """Anonymous access is off on every control plane while this module runs."""
    before = {node: node.read(MANIFEST) for node in lab.control_planes}
    try:
        for node, manifest in before.items():
            pod = yaml.safe_load(manifest)
            container = pod["spec"]["containers"][0]
            container["command"].append(FLAG)
            for probe in PROBES:
                container.pop(probe, None)
            restart_with(lab, node, yaml.safe_dump(pod), 401)
        lab.wait_endpoints()
        yield
    finally:
        for node, manifest in before.items():
            restart_with(lab, node, manifest, 200)
        lab.wait_ready(*lab.nodes)
        lab.wait_endpoints()


def states(node: Node, *options: str) -> set[str]:
    """The states that `apiha probe` finds; its exit code is 3 where none is ready, but alive at best."""
    said = json.loads(node.sh(f"apiha {' '.join(options)} probe -o json", check=False))
    return {answer["state"] for answer in said}


@pytest.mark.parametrize(("certificate", "state"), [("", "alive"), (KUBELET_CERTIFICATE, "ready")])
def test_a_worker_boots(lab: Lab, certificate: str, state: str) -> None:
    """With and without `client_cert`: pinned to a control plane in that state, Ready, swapped."""
    node = lab.nodes["worker-1"]
    before = node.read(CONFIG)
    try:
        if certificate:
            node.write(CONFIG, f"{before}client_cert: {certificate}\n")
        assert states(node) == {state}
        lab.reboot(node)
        pinned = node.wait_for_journal("apiha-bootstrap.service", "pinned")
        assert f"({state}," in pinned.message
        assert failed_units(node) == []
    finally:
        node.write(CONFIG, before)


def test_the_updater_sees_readiness(lab: Lab) -> None:
    """A control plane that has lost its etcd is out of the VIP, though a stranger still gets 401 from it."""
    node = lab.control_planes[-1]
    others = sorted(plane.address for plane in lab.control_planes if plane is not node)
    manifest = node.read(ETCD)
    node.path(ETCD).unlink()
    try:
        lab.wait("the slice has the others", lambda: lab.api.endpoints("apiserver") == others, 180.0)
        assert answers_anonymous(node, 401)
    finally:
        node.write(ETCD, manifest)
        lab.wait_endpoints(240.0)
