"""All nodes as the API alone tells of them, those first that need a look. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from apiha.admin.installer import Installers, by_node
from apiha.admin.objects import Lease, Node, Pod

# A kubelet renews its Lease every 10 s; after 40 s (50 s since Kubernetes 1.32) without, the node counts as lost
# (kube-controller-manager's --node-monitor-grace-period).
STALE = timedelta(seconds=40)


@dataclass(frozen=True)
class NodeReport:
    """One node, and why it needs a look; `rank` 0 is the worst, and a node without `problems` comes last.

    `lease_age` is in seconds, negative for a Lease of the future: two clocks disagree.
    """

    node: Node
    lease_age: float | None
    kube_proxy: Pod | None
    installer: Pod | None
    problems: tuple[str, ...]
    rank: int


@dataclass(frozen=True)
class Fleet:
    """All nodes, worst first, then by name; what is known of the installer; `warnings` are about no single node."""

    reports: tuple[NodeReport, ...]
    installers: Installers
    warnings: tuple[str, ...]


def fleet_of(
    nodes: Iterable[Node],
    leases: Iterable[Lease],
    proxies: Iterable[Pod],
    installers: Installers,
    now: datetime,
) -> Fleet:
    """Every node with what is wrong with it.

    Versions are compared with those of most nodes. Where no node has a kube-proxy Pod, none is missed. Of a node whose
    kubelet does not report, nothing is said but that: what the API has of its Pods is old.
    """
    all_nodes = tuple(nodes)
    renewed = {lease.node: lease.renewed for lease in leases}
    proxy_of = by_node(proxies)
    usual_kubelet = _most(node.kubelet for node in all_nodes)
    usual_proxy = _most(pod.version for pod in proxy_of.values())
    found = []
    for node in all_nodes:
        at = renewed.get(node.name)
        age = None if at is None else (now - at).total_seconds()
        proxy, installer = proxy_of.get(node.name), installers.of(node.name)
        problems = list(_of_node(node, age))
        if node.ready != "Unknown":
            problems += _of_proxy(proxy, usual_proxy) if proxy_of else ()
            problems += _of_installer(installer, installers)
        if node.kubelet != usual_kubelet and (node.kubelet or node.ready != "Unknown"):
            problems.append(
                (4, f"kubelet is {node.kubelet or 'of unknown version'}, most are {usual_kubelet}")
            )
        if node.cordoned:
            problems.append((5, "cordoned"))
        rank = min((rank for rank, _ in problems), default=9)
        found.append(NodeReport(node, age, proxy, installer, tuple(text for _, text in problems), rank))
    reports = tuple(sorted(found, key=lambda report: (report.rank, report.node.name)))
    doubt = clock_doubt(reports)
    return Fleet(reports, installers, (*([doubt] if doubt else []), *installers.warnings()))


def clock_doubt(reports: Collection[NodeReport]) -> str | None:
    """Why no Lease age can be believed, if this machine's clock seems to be off; else None."""
    ages = [
        report.lease_age for report in reports if report.lease_age is not None and report.node.ready == "True"
    ]
    if ages and min(ages) > STALE.total_seconds():
        return (
            "every Lease looks old although nodes are Ready: this machine's clock is ahead, so the ages of the Leases "
            "say nothing; or no kubelet reaches an API server, and kube-controller-manager does not run"
        )
    if ages and min(ages) < -STALE.total_seconds():
        return (
            f"the newest Lease is {span(-min(ages))} in the future: this machine's clock is behind, or that of a node "
            "is ahead, so the ages of the Leases say nothing"
        )
    return None


def _of_node(node: Node, age: float | None) -> Iterable[tuple[int, str]]:
    if node.ready != "True":
        yield (0, f"Ready is {node.ready}" + (f" ({node.reason})" if node.reason else ""))
    if age is None:
        yield (1, "no Lease: kubelet has never renewed one")
    elif age > STALE.total_seconds():
        yield (1, f"its Lease was last renewed {span(age)} ago")


def _of_proxy(proxy: Pod | None, usual: str | None) -> Iterable[tuple[int, str]]:
    if proxy is None:
        yield (2, "no kube-proxy Pod")
    elif not proxy.ready:
        why = f": {proxy.trouble}" if proxy.trouble else ""
        yield (2, f"kube-proxy is not Ready (Pod {proxy.name}){why}")
    elif proxy.version != usual:
        yield (4, f"kube-proxy is {proxy.version or 'of unknown version'}, most are {usual}")


def _of_installer(pod: Pod | None, installers: Installers) -> Iterable[tuple[int, str]]:
    if pod is not None and (problem := installers.problem(pod)) is not None:
        yield (3 if not pod.ready else 4, problem)


def _most(values: Iterable[str | None]) -> str | None:
    """The most frequent value; of equals the one that sorts last."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)


def span(seconds: float) -> str:
    """Whole units, for ages of seconds to weeks."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
