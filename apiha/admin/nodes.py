"""All nodes as the API alone tells of them, those first that need a look. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

# A kubelet renews its Lease every 10 s; after 40 s (50 s since Kubernetes 1.32) without, the node counts as lost
# (kube-controller-manager's --node-monitor-grace-period).
STALE = timedelta(seconds=40)


@dataclass(frozen=True)
class Node:
    """A Node object: `ready` is the status of its condition Ready (True, False or Unknown)."""

    name: str
    ready: str
    reason: str
    kubelet: str | None
    cordoned: bool
    control_plane: bool


@dataclass(frozen=True)
class Lease:
    """A kubelet's Lease: when it was last renewed (UTC), by the clock of its node."""

    node: str
    renewed: datetime


@dataclass(frozen=True)
class Pod:
    """A Pod on a node; `version` is the tag of its first container's image."""

    node: str
    name: str
    ready: bool
    version: str | None
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class NodeReport:
    """One node, and why it needs a look; `rank` 0 is the worst, and a node without `problems` comes last."""

    node: Node
    lease_age: float | None
    kube_proxy: Pod | None
    problems: tuple[str, ...]
    rank: int


def reports(
    nodes: Iterable[Node], leases: Iterable[Lease], proxies: Iterable[Pod], now: datetime
) -> tuple[NodeReport, ...]:
    """Every node with what is wrong with it, worst first, then by name.

    Versions are compared with those of most nodes. Where no node has a kube-proxy Pod, none is missed.
    """
    all_nodes = tuple(nodes)
    renewed = {lease.node: lease.renewed for lease in leases}
    proxy_of: dict[str, Pod] = {}
    for pod in proxies:
        held = proxy_of.get(pod.node)
        if held is None or (pod.ready and not held.ready):
            proxy_of[pod.node] = pod
    usual_kubelet = _most(node.kubelet for node in all_nodes)
    usual_proxy = _most(pod.version for pod in proxy_of.values())
    found = []
    for node in all_nodes:
        at = renewed.get(node.name)
        age = None if at is None else max(0.0, (now - at).total_seconds())
        proxy = proxy_of.get(node.name)
        problems = [
            *_of_node(node, age),
            *(_of_proxy(proxy, usual_proxy) if proxy_of else ()),
            *(
                [(4, f"kubelet is {node.kubelet or 'of unknown version'}, most are {usual_kubelet}")]
                if node.kubelet != usual_kubelet
                else ()
            ),
            *([(5, "cordoned")] if node.cordoned else ()),
        ]
        rank = min((rank for rank, _ in problems), default=9)
        found.append(NodeReport(node, age, proxy, tuple(text for _, text in problems), rank))
    return tuple(sorted(found, key=lambda report: (report.rank, report.node.name)))


def clock_doubt(reports: Collection[NodeReport]) -> str | None:
    """Why no Lease age can be believed, if this machine's clock seems to be off; else None."""
    ages = [
        report.lease_age for report in reports if report.lease_age is not None and report.node.ready == "True"
    ]
    if ages and min(ages) > STALE.total_seconds():
        return (
            "every Lease looks old although nodes are Ready: this machine's clock seems to be off, so the ages of the "
            "Leases say nothing"
        )
    return None


def _of_node(node: Node, age: float | None) -> Iterable[tuple[int, str]]:
    if node.ready != "True":
        yield (0, f"Ready is {node.ready}" + (f" ({node.reason})" if node.reason else ""))
    if age is None:
        yield (1, "no Lease: kubelet has never renewed one")
    elif age > STALE.total_seconds():
        yield (1, f"its Lease was last renewed {_span(age)} ago")


def _of_proxy(proxy: Pod | None, usual: str | None) -> Iterable[tuple[int, str]]:
    if proxy is None:
        yield (2, "no kube-proxy Pod")
    elif not proxy.ready:
        yield (2, f"kube-proxy is not Ready (Pod {proxy.name})")
    elif proxy.version != usual:
        yield (4, f"kube-proxy is {proxy.version or 'of unknown version'}, most are {usual}")


def _most(values: Iterable[str | None]) -> str | None:
    """The most frequent value; of equals the one that sorts last."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)


def _span(seconds: float) -> str:
    """Whole units, for ages of minutes to weeks."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


# ---------------------------------------------------------------------------------------- reading objects


def read_node(item: Mapping[str, Any]) -> Node | None:
    """A v1 Node; None for what is none."""
    metadata, status, spec = (_map(item.get(key)) for key in ("metadata", "status", "spec"))
    name = metadata.get("name")
    if not isinstance(name, str):
        return None
    conditions = status.get("conditions")
    ready = next(
        (
            c
            for c in map(_map, conditions if isinstance(conditions, list) else ())
            if c.get("type") == "Ready"
        ),
        {},
    )
    return Node(
        name=name,
        ready=str(ready.get("status") or "Unknown"),
        reason=str(ready.get("reason") or "") if ready else "kubelet has not reported yet",
        kubelet=_text(_map(status.get("nodeInfo")).get("kubeletVersion")),
        cordoned=spec.get("unschedulable") is True,
        control_plane="node-role.kubernetes.io/control-plane" in _map(metadata.get("labels")),
    )


def read_lease(item: Mapping[str, Any]) -> Lease | None:
    """A coordination.k8s.io/v1 Lease of kube-node-lease; None for one that was never renewed."""
    name, renewed = _map(item.get("metadata")).get("name"), _map(item.get("spec")).get("renewTime")
    at = _micro_time(renewed) if isinstance(renewed, str) else None
    return Lease(name, at) if isinstance(name, str) and at is not None else None


def read_pod(item: Mapping[str, Any]) -> Pod | None:
    """A v1 Pod that has a node; None for another."""
    metadata, status, spec = (_map(item.get(key)) for key in ("metadata", "status", "spec"))
    node, name = spec.get("nodeName"), metadata.get("name")
    if not isinstance(node, str) or not isinstance(name, str):
        return None
    conditions, containers = status.get("conditions"), spec.get("containers")
    ready = any(
        c.get("type") == "Ready" and c.get("status") == "True"
        for c in map(_map, conditions if isinstance(conditions, list) else ())
    )
    images = [_map(c).get("image") for c in containers] if isinstance(containers, list) else []
    annotations = {k: v for k, v in _map(metadata.get("annotations")).items() if isinstance(v, str)}
    return Pod(node, name, ready, _tag(images[0]) if images else None, annotations)


def _tag(image: object) -> str | None:
    """The tag of an image; None where it has none."""
    if not isinstance(image, str):
        return None
    name, colon, tag = image.partition("@")[0].rpartition(":")
    return tag if colon and name and "/" not in tag else None


def _micro_time(text: str) -> datetime | None:
    """A MicroTime, `2026-11-24T17:39:11.000000Z`."""
    for form in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
    return None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
