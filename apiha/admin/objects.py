"""What `apiha nodes` reads of the objects of the API: Nodes, Leases, Pods, DaemonSets and Events. Pure.

Each reader takes an object as the API gave it, and returns None for one that says nothing that is looked for. What a
kubelet, a container or a user may write there as they like becomes one line of printable characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from apiha.documents import mapping, mappings
from apiha.printable import one_line

_LONGEST = 300  # characters of what a container or an Event says


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
    """A Pod on a node; `version` is the tag of its first container's image, `arguments` are that container's.

    `trouble` is why a container of it does not run, empty if all do. `leaving`: it is being deleted.
    """

    node: str
    name: str
    ready: bool
    version: str | None
    namespace: str = "kube-system"
    restarts: int = 0
    trouble: str = ""
    leaving: bool = False
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class DaemonSet:
    """A DaemonSet: tag of the image and arguments of its first container; `wanted` nodes should have a Pod."""

    namespace: str
    name: str
    version: str | None
    arguments: tuple[str, ...]
    wanted: int


@dataclass(frozen=True)
class PodEvent:
    """What the cluster says of a Pod: `at` is RFC 3339, which sorts."""

    namespace: str
    pod: str
    at: str
    message: str


def read_node(item: Mapping[str, Any]) -> Node | None:
    """A v1 Node."""
    metadata, status, spec = (mapping(item.get(key)) for key in ("metadata", "status", "spec"))
    name = metadata.get("name")
    if not isinstance(name, str):
        return None
    ready = _condition(status, "Ready")
    return Node(
        name=name,
        ready=_text(ready.get("status")) or "Unknown",
        reason=_one_line(ready.get("reason")) if ready else "kubelet has not reported yet",
        kubelet=_text(mapping(status.get("nodeInfo")).get("kubeletVersion")),
        cordoned=spec.get("unschedulable") is True,
        control_plane="node-role.kubernetes.io/control-plane" in mapping(metadata.get("labels")),
    )


def read_lease(item: Mapping[str, Any]) -> Lease | None:
    """A coordination.k8s.io/v1 Lease of kube-node-lease that was renewed at least once."""
    name, renewed = mapping(item.get("metadata")).get("name"), mapping(item.get("spec")).get("renewTime")
    at = _micro_time(renewed) if isinstance(renewed, str) else None
    return Lease(name, at) if isinstance(name, str) and at is not None else None


def read_pod(item: Mapping[str, Any]) -> Pod | None:
    """A v1 Pod that has a node."""
    metadata, status, spec = (mapping(item.get(key)) for key in ("metadata", "status", "spec"))
    node, name, namespace = spec.get("nodeName"), metadata.get("name"), metadata.get("namespace")
    if not isinstance(node, str) or not isinstance(name, str):
        return None
    containers = [*mappings(status.get("initContainerStatuses")), *mappings(status.get("containerStatuses"))]
    return Pod(
        node,
        name,
        ready=_condition(status, "Ready").get("status") == "True",
        version=_version(spec),
        namespace=namespace if isinstance(namespace, str) else "",
        restarts=sum(_count(container.get("restartCount")) for container in containers),
        trouble=next(filter(None, map(_trouble, containers)), ""),
        leaving="deletionTimestamp" in metadata,
        arguments=_arguments(spec),
    )


def read_daemon_set(item: Mapping[str, Any]) -> DaemonSet | None:
    """An apps/v1 DaemonSet."""
    metadata, status, spec = (mapping(item.get(key)) for key in ("metadata", "status", "spec"))
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str):
        return None
    pod = mapping(mapping(spec.get("template")).get("spec"))
    return DaemonSet(
        namespace,
        name,
        _version(pod),
        _arguments(pod),
        _count(status.get("desiredNumberScheduled")),
    )


def read_event(item: Mapping[str, Any]) -> PodEvent | None:
    """A v1 Event about a Pod."""
    about, metadata = mapping(item.get("involvedObject")), mapping(item.get("metadata"))
    namespace, pod = about.get("namespace"), about.get("name")
    message = _one_line(item.get("message"))
    if (
        about.get("kind") != "Pod"
        or not isinstance(namespace, str)
        or not isinstance(pod, str)
        or not message
    ):
        return None
    times = (item.get("lastTimestamp"), item.get("eventTime"), metadata.get("creationTimestamp"))
    at = next((time for time in times if isinstance(time, str)), "")
    return PodEvent(namespace, pod, at, message)


def _trouble(container: Mapping[str, Any]) -> str:
    """Why a container does not run: what it waits for, how it ended, and what it said last. Empty if it runs, or ended
    well.
    """
    state, before = mapping(container.get("state")), mapping(container.get("lastState"))
    waiting = mapping(state.get("waiting"))
    ended = mapping(state.get("terminated")) or mapping(before.get("terminated"))
    if not waiting and ("running" in state or _count(ended.get("exitCode")) == 0):
        return ""
    said = [_text(waiting.get("reason")) or ""]
    if ended:
        code, reason = _count(ended.get("exitCode")), _text(ended.get("reason"))
        said.append(
            f"exit code {code}" + (f" ({reason})" if reason not in (None, "Error", "Completed") else "")
        )
    said.append(_last_line(ended.get("message")) or _one_line(waiting.get("message")))
    return ": ".join(filter(None, said))


def _last_line(message: object) -> str:
    """The last line of a termination message; of a log line in JSON, as apiha writes them, the message alone."""
    lines = [line for line in message.splitlines() if line.strip()] if isinstance(message, str) else []
    if not lines:
        return ""
    try:
        event = json.loads(lines[-1])
    except (ValueError, RecursionError):
        return _one_line(lines[-1])
    return _one_line(event.get("message") if isinstance(event, dict) else None) or _one_line(lines[-1])


def _version(pod_spec: Mapping[str, Any]) -> str | None:
    """The tag of the first container's image; None where it has none."""
    image = next(iter(mappings(pod_spec.get("containers"))), {}).get("image")
    if not isinstance(image, str):
        return None
    name, colon, tag = image.partition("@")[0].rpartition(":")
    return _text(tag) if colon and name and "/" not in tag else None


def _arguments(pod_spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the first container."""
    arguments = next(iter(mappings(pod_spec.get("containers"))), {}).get("args")
    return tuple(map(str, arguments)) if isinstance(arguments, list) else ()


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((each for each in mappings(status.get("conditions")) if each.get("type") == kind), {})


def _micro_time(text: str) -> datetime | None:
    """A MicroTime, `2026-11-24T17:39:11.000000Z`."""
    for form in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
    return None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: object) -> str | None:
    return _one_line(value) or None


def _one_line(value: object) -> str:
    return one_line(value, _LONGEST) if isinstance(value, str) else ""
