"""Says what an administrator asked: tables for people, JSON for programs. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apiha.admin.learned import Learned
from apiha.admin.nodes import Fleet, NodeReport, span
from apiha.admin.objects import Pod
from apiha.admin.planes import Plane, Planes, warnings
from apiha.columns import columns


def planes_table(planes: Planes, learned: Learned, now: datetime) -> str:
    """The control planes, and below them what somebody should look at, and what was not seen."""
    rows = [["ADDRESS", "READY", "DRAINED", "CONNECTIONS", "LEARNED"]]
    for plane in planes.planes:
        cells = [str(plane.endpoint), _state(plane), _drained(plane), _connections(plane)]
        rows.append([*cells, _learned(plane, learned)])
    unknown = [
        f"connections of {plane.endpoint.address} cannot be seen from here: {plane.why_unknown}"
        for plane in planes.planes
        if plane.present and plane.why_unknown
    ]
    attention = [f"WARNING: {line}" for line in warnings(planes, now)]
    return "\n".join([columns(rows), *attention, *unknown, *learned.lines()])


def planes_json(planes: Planes, learned: Learned, now: datetime) -> dict[str, Any]:
    """The same for programs: times in RFC 3339 (UTC)."""
    return {
        "control_planes": [
            {
                "address": plane.endpoint.address,
                "port": plane.endpoint.port,
                "ready": plane.ready,
                "present": plane.present,
                "drained": plane.drain is not None,
                "drained_since": plane.drain.since.strftime("%Y-%m-%dT%H:%M:%SZ")
                if plane.drain and plane.drain.since
                else None,
                "watches": plane.connections.watches if plane.connections else None,
                "other_long_requests": plane.connections.other_long if plane.connections else None,
                "short_requests": plane.connections.short if plane.connections else None,
                "why_unknown": plane.why_unknown or None,
                "learned_by_nodes": count.knowing if count else None,
                "learned_as_drained_by_nodes": count.drained if count else None,
            }
            for plane, count in ((plane, learned.of(plane)) for plane in planes.planes)
        ],
        "learned": {
            "nodes_asked": learned.asked,
            "nodes_with_ready_installer": learned.ready,
            "nodes_with_unready_installer": learned.unready,
            "nodes_unread": dict(sorted(learned.unread.items())),
            "why_unknown": learned.why_unknown(),
        },
        "warnings": warnings(planes, now),
    }


def nodes_table(fleet: Fleet) -> str:
    """All nodes, those first that need a look, and why."""
    heads = ["NODE", "ROLE", "READY", "LEASE", "KUBELET", "KUBE-PROXY"]
    rows = [[*heads, *(["INSTALLER"] if fleet.installers.present else []), "LOOK AT"]]
    for report in fleet.reports:
        node, proxy = report.node, report.kube_proxy
        rows.append(
            [
                node.name,
                "control-plane" if node.control_plane else "worker",
                node.ready,
                "-" if report.lease_age is None else span(max(0.0, report.lease_age)),
                node.kubelet or "-",
                (proxy.version or "?") if proxy else "-",
                *([_installer(report, fleet)] if fleet.installers.present else []),
                "; ".join(report.problems),
            ]
        )
    bad = sum(bool(report.problems) for report in fleet.reports)
    count = len(fleet.reports)
    summary = f"{count} node{'' if count == 1 else 's'}, {bad} to look at"
    return "\n".join([columns(rows), summary, *(f"WARNING: {warning}" for warning in fleet.warnings)])


def nodes_json(fleet: Fleet) -> dict[str, Any]:
    """The same for programs; ages in seconds, negative for a Lease of the future."""
    return {
        "nodes": [
            {
                "name": report.node.name,
                "role": "control-plane" if report.node.control_plane else "worker",
                "ready": report.node.ready,
                "lease_age_seconds": None if report.lease_age is None else round(report.lease_age, 1),
                "kubelet_version": report.node.kubelet,
                "kube_proxy_version": report.kube_proxy.version if report.kube_proxy else None,
                "kube_proxy_ready": report.kube_proxy.ready if report.kube_proxy else None,
                "installer": _installer_json(report.installer, fleet) if report.installer else None,
                "cordoned": report.node.cordoned,
                "problems": list(report.problems),
            }
            for report in fleet.reports
        ],
        "warnings": list(fleet.warnings),
    }


def _installer(report: NodeReport, fleet: Fleet) -> str:
    """What the installer's Pod says of the node, in a word: the version that is there, if it is ready."""
    pod = report.installer
    if pod is None:
        return "-"
    if report.node.ready == "Unknown":
        return "?"
    if not pod.ready:
        return "not ready"
    return "removed" if fleet.installers.removes(pod) else pod.version or "ready"


def _installer_json(pod: Pod, fleet: Fleet) -> dict[str, Any]:
    return {
        "pod": f"{pod.namespace}/{pod.name}",
        "ready": pod.ready,
        "version": pod.version,
        "removes": fleet.installers.removes(pod),
        "restarts": pod.restarts,
        "reason": fleet.installers.reason(pod) or None,
    }


def _state(plane: Plane) -> str:
    return "yes" if plane.ready else "no" if plane.present else "gone"


def _drained(plane: Plane) -> str:
    if plane.drain is None:
        return "-"
    return f"since {plane.drain.since:%Y-%m-%d %H:%M}" if plane.drain.since else "yes"


def _connections(plane: Plane) -> str:
    return str(plane.connections) if plane.connections else "-"


def _learned(plane: Plane, learned: Learned) -> str:
    """How many nodes know of it what they should: that it is drained, else its address."""
    count = learned.of(plane)
    if count is None:
        return "-"
    if plane.drain is not None:
        return f"{count.drained} of {learned.asked} as drained"
    still = f", {count.drained} still as drained" if count.drained else ""
    return f"{count.knowing} of {learned.asked}{still}"
