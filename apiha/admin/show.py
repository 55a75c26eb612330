"""Says what an administrator asked: tables for people, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from apiha.admin.nodes import NodeReport, clock_doubt
from apiha.admin.planes import Plane, Planes, warnings
from apiha.columns import columns
from apiha.durations import format_duration


def planes_table(planes: Planes, now: datetime) -> str:
    """The control planes, and below them what somebody should look at."""
    rows = [["ADDRESS", "READY", "DRAINED", "CONNECTIONS"]]
    for plane in planes.planes:
        rows.append([str(plane.endpoint), _state(plane), _drained(plane), _connections(plane)])
    return "\n".join([columns(rows), *(f"WARNING: {line}" for line in warnings(planes, now))])


def planes_json(planes: Planes, now: datetime) -> dict[str, Any]:
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
            }
            for plane in planes.planes
        ],
        "warnings": warnings(planes, now),
    }


def nodes_table(reports: Collection[NodeReport]) -> str:
    """All nodes, those first that need a look, and why."""
    rows = [["NODE", "ROLE", "READY", "LEASE", "KUBELET", "KUBE-PROXY", "LOOK AT"]]
    for report in reports:
        node = report.node
        rows.append(
            [
                node.name,
                "control-plane" if node.control_plane else "worker",
                node.ready,
                "-" if report.lease_age is None else format_duration(report.lease_age),
                node.kubelet or "-",
                (report.kube_proxy.version or "?") if report.kube_proxy else "-",
                "; ".join(report.problems),
            ]
        )
    bad = sum(bool(report.problems) for report in reports)
    lines = [columns(rows), f"{len(reports)} nodes, {bad} to look at"]
    return "\n".join(lines + ([f"WARNING: {doubt}"] if (doubt := clock_doubt(reports)) else []))


def nodes_json(reports: Collection[NodeReport]) -> dict[str, Any]:
    """The same for programs; ages in seconds."""
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
                "cordoned": report.node.cordoned,
                "problems": list(report.problems),
            }
            for report in reports
        ],
        "clock_doubt": clock_doubt(reports),
    }


def _state(plane: Plane) -> str:
    return "yes" if plane.ready else "no" if plane.present else "gone"


def _drained(plane: Plane) -> str:
    if plane.drain is None:
        return "-"
    return f"since {plane.drain.since:%Y-%m-%d %H:%M}" if plane.drain.since else "yes"


def _connections(plane: Plane) -> str:
    return str(plane.connections) if plane.connections else "-"
