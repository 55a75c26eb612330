"""All nodes as the API tells of them: what is read, and in which order they are shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from apiha.admin.nodes import (
    Lease,
    Node,
    NodeReport,
    Pod,
    clock_doubt,
    read_lease,
    read_node,
    read_pod,
    reports,
)
from apiha.admin.show import nodes_json, nodes_table

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)


def node(name: str, *, ready: str = "True", kubelet: str | None = "v1.36.2", cordoned: bool = False) -> Node:
    """One that is well unless said otherwise."""
    reason = "" if ready == "True" else "NodeStatusUnknown"
    return Node(name, ready, reason, kubelet, cordoned, control_plane=False)


def lease(name: str, seconds: float = 3.0) -> Lease:
    """Renewed that long ago."""
    return Lease(name, NOW - timedelta(seconds=seconds))


def proxy(name: str, *, ready: bool = True, version: str | None = "v1.36.2") -> Pod:
    """The kube-proxy of a node."""
    return Pod(name, f"kube-proxy-{name}", ready, version, {})


def judged(*nodes: Node, leases: list[Lease], proxies: list[Pod]) -> list[tuple[str, tuple[str, ...]]]:
    """Names and problems, in the order in which they are shown."""
    return [(report.node.name, report.problems) for report in reports(nodes, leases, proxies, NOW)]


def test_those_that_need_a_look_come_first() -> None:
    """Not ready, then a Lease that is not renewed, then kube-proxy, then versions, then cordoned, then the rest."""
    names = [
        "a-fine",
        "b-cordoned",
        "c-kubelet",
        "d-proxy-old",
        "e-no-proxy",
        "f-stale",
        "g-lost",
        "h-fine",
        "i-fine",
    ]
    nodes = [
        node(
            name,
            ready="Unknown" if name == "g-lost" else "True",
            kubelet="v1.35.0" if name == "c-kubelet" else "v1.36.2",
            cordoned=name == "b-cordoned",
        )
        for name in names
    ]
    leases = [lease(name, 300.0 if name in ("f-stale", "g-lost") else 3.0) for name in names]
    proxies = [
        proxy(name, version="v1.34.1" if name == "d-proxy-old" else "v1.36.2")
        for name in names
        if name != "e-no-proxy"
    ]
    found = judged(*nodes, leases=leases, proxies=proxies)
    assert [name for name, _ in found] == [
        *("g-lost", "f-stale", "e-no-proxy", "c-kubelet", "d-proxy-old", "b-cordoned"),
        *("a-fine", "h-fine", "i-fine"),
    ]
    said = dict(found)
    assert said["g-lost"] == ("Ready is Unknown (NodeStatusUnknown)", "its Lease was last renewed 5m ago")
    assert said["e-no-proxy"] == ("no kube-proxy Pod",)
    assert said["c-kubelet"] == ("kubelet is v1.35.0, most are v1.36.2",)
    assert said["d-proxy-old"] == ("kube-proxy is v1.34.1, most are v1.36.2",)
    assert said["a-fine"] == ()


def test_where_no_kube_proxy_is_to_be_seen_none_is_missed() -> None:
    """It may be a service of the node, or another Service proxy altogether."""
    assert judged(node("a"), node("b"), leases=[lease("a"), lease("b")], proxies=[]) == [("a", ()), ("b", ())]


def test_a_ready_pod_counts_while_an_old_one_ends() -> None:
    """During a rollout a node may have two."""
    found = judged(node("a"), leases=[lease("a")], proxies=[proxy("a"), proxy("a", ready=False)])
    assert found == [("a", ())]


def test_a_wrong_clock_is_doubted() -> None:
    """Ready nodes whose Leases are all old: it is this machine. One fresh Lease, and it is not."""

    def doubt(*ages: float) -> str | None:
        nodes = [node(str(number)) for number in range(len(ages))]
        leases = [lease(str(number), age) for number, age in enumerate(ages)]
        return clock_doubt(reports(nodes, leases, [], NOW))

    assert "clock seems to be off" in (doubt(3600, 3605) or "")
    assert doubt(3600, 5) is None
    assert doubt() is None


def test_table_and_json_say_the_same() -> None:
    """A line for each node, and the number of those to look at."""
    found: tuple[NodeReport, ...] = reports(
        [node("b"), node("a", ready="False")], [lease("b")], [proxy("b")], NOW
    )
    lines = nodes_table(found).splitlines()
    assert lines[1].split()[:4] == ["a", "worker", "False", "-"]
    assert lines[-1] == "2 nodes, 1 to look at"
    document = nodes_json(found)
    assert [each["name"] for each in document["nodes"]] == ["a", "b"]
    assert document["nodes"][1]["lease_age_seconds"] == 3.0
    assert document["nodes"][1]["problems"] == []


@pytest.mark.parametrize(
    "item",
    [{}, {"metadata": None}, {"metadata": {"name": 7}}, {"metadata": {"name": "a"}, "status": [], "spec": 1}],
)
def test_no_shape_of_an_object_breaks_the_reader(item: dict[str, Any]) -> None:
    """What the API would never say is left out, or says nothing."""
    found = read_node(item)
    assert found is None or found.ready == "Unknown"
    assert read_lease(item) is None
    assert read_pod(item) is None


def test_objects_are_read_as_the_api_gives_them() -> None:
    """A Node, a Lease with microseconds, a Pod with a registry that has a port."""
    found = read_node(
        {
            "metadata": {"name": "cp1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                "nodeInfo": {"kubeletVersion": "v1.36.2"},
            },
        }
    )
    assert found == Node("cp1", "True", "KubeletReady", "v1.36.2", cordoned=True, control_plane=True)
    renewed = read_lease({"metadata": {"name": "cp1"}, "spec": {"renewTime": "2026-11-24T11:59:57.250000Z"}})
    assert renewed == Lease("cp1", NOW - timedelta(seconds=2.75))
    pod = {
        "metadata": {"name": "kube-proxy-x", "annotations": {"a": "b", "c": 1}},
        "spec": {
            "nodeName": "cp1",
            "containers": [{"image": "registry.example:5000/kube-proxy:v1.36.2@sha256:0"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert read_pod(pod) == Pod("cp1", "kube-proxy-x", ready=True, version="v1.36.2", annotations={"a": "b"})
    pod["spec"] = {"nodeName": "cp1", "containers": [{"image": "registry.example:5000/kube-proxy"}]}
    without_tag = read_pod(pod)
    assert without_tag is not None
    assert without_tag.version is None
