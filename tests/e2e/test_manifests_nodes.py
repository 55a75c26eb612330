"""Which nodes the updater's Pods run on: decided by the real scheduler, for nodes that exist in the API only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apiha.manifests.render import checked_values, one_stream, render
from tests.support.kube import HOST, Cluster, require_assets
from tests.support.updater import wait_for

NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/kube-system/pods"
CONTROL_PLANE = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """An API server, the controllers of Deployments, and a scheduler. Nobody judges the nodes' health."""
    require_assets("kubectl", "kube-controller-manager", "kube-scheduler")
    # No ServiceAccount controllers: they make the tokens that they use themselves.
    only = "--controllers=*,-node-lifecycle-controller,-node-ipam-controller"
    with Cluster(
        n=1,
        netns=False,
        controller_manager=True,
        controller_manager_args=[only, "--allocate-node-cidrs=false"],
    ) as running:
        running.start_scheduler()
        yield running


class Nodes:
    """Nodes, and a stand-in for their kubelets: a Pod that got a node runs and is ready."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def add(self, name: str, *taints: dict[str, str]) -> None:
        """A node with room for everything; a control plane has less left than a worker: its own Pods run there."""
        control_plane = CONTROL_PLANE in taints
        labels = {"kubernetes.io/hostname": name}
        if control_plane:
            labels["node-role.kubernetes.io/control-plane"] = ""
        room = {
            "cpu": "250m" if control_plane else "8",
            "memory": "1Gi" if control_plane else "16Gi",
            "pods": "110",
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "status": {
                "capacity": room,
                "allocatable": room,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        assert self.cluster.api("POST", NODES, node)[0] == 201
        self.taint(name, *taints)

    def taint(self, name: str, *taints: dict[str, str]) -> None:
        """These taints and no others; the API server gives a new node one that the node controller would take away."""
        status, answer = self.cluster.api("PATCH", f"{NODES}/{name}", {"spec": {"taints": list(taints)}})
        assert status == 200, answer

    def pods(self) -> dict[str, str | None]:
        """The updater's Pods that are not on their way out, with their nodes."""
        items = self.cluster.api("GET", f"{PODS}?labelSelector=app.kubernetes.io/name%3Dapiserver-updater")[
            1
        ]["items"]
        return {
            item["metadata"]["name"]: item["spec"].get("nodeName")
            for item in items
            if not item["metadata"].get("deletionTimestamp")
        }

    def run_pods(self) -> list[str]:
        """Run what has a node, end what is to end; the nodes of the Pods that are ready, sorted."""
        items = self.cluster.api("GET", f"{PODS}?labelSelector=app.kubernetes.io/name%3Dapiserver-updater")[
            1
        ]["items"]
        running = []
        for item in items:
            path, node = f"{PODS}/{item['metadata']['name']}", item["spec"].get("nodeName")
            if item["metadata"].get("deletionTimestamp"):
                self.cluster.api(
                    "DELETE", path, {"gracePeriodSeconds": 0, "kind": "DeleteOptions", "apiVersion": "v1"}
                )
            elif node is not None:
                status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                self.cluster.api("PATCH", f"{path}/status", {"status": status})
                running.append(node)
        return sorted(running)

    def rolled_out(self) -> bool:
        """Whether `kubectl rollout status` would say that the rollout is done."""
        self.run_pods()
        path = "/apis/apps/v1/namespaces/kube-system/deployments/apiserver-updater"
        deployment = self.cluster.api("GET", path)[1]
        status: dict[str, Any] = deployment["status"]
        return (
            status.get("observedGeneration") == deployment["metadata"]["generation"]
            and status.get("updatedReplicas")
            == status.get("replicas")
            == status.get("availableReplicas")
            == 2
        )

    def wait_rolled_out(self) -> list[str]:
        """The nodes of the two Pods, once the rollout is done."""
        wait_for("the rollout is done", self.rolled_out, limit=60.0, pause=0.2)
        return self.run_pods()


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    """No node, and no updater."""
    made = Nodes(cluster)
    yield made
    cluster.kubectl(
        "delete", "--ignore-not-found", "--cascade=foreground", "--wait=false", "-f", "-", stdin=manifests()
    )
    wait_for("no Pod is left", lambda: made.run_pods() == [] and not made.pods(), limit=60.0, pause=0.2)
    cluster.kubectl("delete", "nodes", "--all")


def manifests(image: str = "apiha:1") -> str:
    values = checked_values(image, ["10.96.0.100"], "kube-system", HOST, 6443)
    return one_stream(render(values).values())


def apply(cluster: Cluster, image: str = "apiha:1") -> None:
    answer = cluster.kubectl("apply", "-f", "-", stdin=manifests(image))
    assert answer.returncode == 0, answer.stderr


def test_one_node_gets_both_and_rolls_out_again(cluster: Cluster, nodes: Nodes) -> None:
    """The spread demands nothing that a single node cannot give: an update completes as well."""
    nodes.add("cp-1", CONTROL_PLANE)
    apply(cluster)
    assert nodes.wait_rolled_out() == ["cp-1", "cp-1"]
    apply(cluster, "apiha:2")
    assert nodes.wait_rolled_out() == ["cp-1", "cp-1"]


def test_a_worker_and_a_control_plane_get_one_each(cluster: Cluster, nodes: Nodes) -> None:
    """The wish to be away from control planes does not put both on the only worker."""
    for name in ("cp-1", "cp-2", "cp-3"):
        nodes.add(name, CONTROL_PLANE)
    nodes.add("worker-1")
    for number in range(1, 5):
        apply(cluster, f"apiha:{number}")
        first, second = nodes.wait_rolled_out()
        assert first.startswith("cp-")
        assert second == "worker-1"


def test_two_workers_get_one_each(cluster: Cluster, nodes: Nodes) -> None:
    """Where there are workers enough no control plane gets one."""
    nodes.add("cp-1", CONTROL_PLANE)
    nodes.add("cp-2", CONTROL_PLANE)
    nodes.add("worker-1")
    nodes.add("worker-2")
    apply(cluster)
    assert nodes.wait_rolled_out() == ["worker-1", "worker-2"]


def test_nodes_that_take_no_pods_do_not_count(cluster: Cluster, nodes: Nodes) -> None:
    """One that is cordoned, and one for others only, keep no replica from the node that is left."""
    nodes.add("cp-1", CONTROL_PLANE)
    nodes.add("worker-1", CORDONED)
    nodes.add("gpu-1", {"key": "example.com/gpu", "effect": "NoSchedule"})
    apply(cluster)
    assert nodes.wait_rolled_out() == ["cp-1", "cp-1"]


def test_a_node_that_joins_later_gets_the_next_pod(cluster: Cluster, nodes: Nodes) -> None:
    """No Pod moves by itself; the next one that is made, by the restart that the page tells or a drain, goes there."""
    nodes.add("cp-1", CONTROL_PLANE)
    apply(cluster)
    assert nodes.wait_rolled_out() == ["cp-1", "cp-1"]
    nodes.add("cp-2", CONTROL_PLANE)
    answer = cluster.kubectl("-n", "kube-system", "rollout", "restart", "deployment/apiserver-updater")
    assert answer.returncode == 0, answer.stderr
    assert nodes.wait_rolled_out() == ["cp-1", "cp-2"]
